//! Noticing that the configuration may have changed: the file has other content, or the process got SIGHUP.
//!
//! The file is looked at once a second rather than watched by the kernel's notification: that sees through symbolic links
//! that are swapped (as Kubernetes does with config maps), network file systems and editors that replace files, and costs
//! one system call. Only when the file's identity differs is its content read and compared, so that a touched file is no
//! change. A change is reported once the file was left alone for one look, so that nobody reads half of a file.

use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::source::LARGEST;

/// Why the configuration should be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The file's content is another.
    Changed,
    /// Somebody asked for it by SIGHUP.
    Asked,
}

/// The task that notices. It is ready while the file is there and degraded while it is not; what runs goes on.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    every: Duration,
    health: Health,
    events: mpsc::Sender<Event>,
    changes: Counter,
    vanished: Counter,
    /// What was last reported, or found at the start.
    reported: Seen,
}

/// What a file looks like from outside; the same for as long as nobody wrote to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    identity: Option<Identity>,
    content: Option<u64>,
}

impl Watch {
    /// How often the file is looked at.
    pub const EVERY: Duration = Duration::from_secs(1);

    /// A watch over `path`, and where it reports. Its content now is what later content is compared with, so make it before
    /// the configuration is read.
    pub fn new(path: &Path, every: Duration, registry: &mut Registry) -> (Self, mpsc::Receiver<Event>) {
        let changes = Counter::default();
        let vanished = Counter::default();
        registry.register("file_changes", "Changes of the configuration file that were noticed", changes.clone());
        registry.register("file_vanished", "Times that the configuration file could not be read", vanished.clone());
        // One waiting event is enough: whoever takes it reads the file as it is then.
        let (events, receiver) = mpsc::channel(1);
        let identity = std::fs::metadata(path).ok().map(|metadata| Identity::of(&metadata));
        let content = std::fs::read(path).ok().map(|bytes| fingerprint(&bytes));
        let watch = Self {
            path: path.to_owned(),
            every,
            health: Health::new("config"),
            events,
            changes,
            vanished,
            reported: Seen { identity, content },
        };
        (watch, receiver)
    }

    async fn watch(&mut self, mut stop: Stop) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => Some(hangup),
            Err(error) => {
                tracing::warn!(error = %error, "SIGHUP cannot be heard; the configuration file is still watched");
                None
            }
        };
        let mut looks = interval(self.every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What the look before found, while it differs from what was reported.
        let mut unsettled: Option<Option<Identity>> = None;
        self.health.set(State::Ready);
        loop {
            tokio::select! {
                () = stop.stopped() => break,
                () = heard(&mut hangup) => {
                    tracing::info!("reload asked for by SIGHUP");
                    self.report(Event::Asked);
                }
                _ = looks.tick() => self.look(&mut unsettled).await,
            }
        }
        self.health.set(State::Stopped);
    }

    async fn look(&mut self, unsettled: &mut Option<Option<Identity>>) {
        let metadata = tokio::fs::metadata(&self.path).await;
        let identity = metadata.as_ref().ok().map(Identity::of);
        if let Err(error) = &metadata {
            if !matches!(self.health.get(), State::Degraded(_)) {
                self.vanished.inc();
            }
            let path = self.path.display();
            self.health.set(State::Degraded(format!(
                "{path} cannot be read ({}); the old configuration runs on",
                error.kind()
            )));
        }
        if identity == self.reported.identity {
            *unsettled = None;
        } else if *unsettled != Some(identity) {
            *unsettled = Some(identity);
        } else {
            *unsettled = None;
            self.settled(identity).await;
        }
        if metadata.is_ok() && matches!(self.health.get(), State::Degraded(_)) {
            self.health.set(State::Ready);
        }
    }

    /// The file differs from outside and was left alone since the look before.
    async fn settled(&mut self, identity: Option<Identity>) {
        self.reported.identity = identity;
        let fits = identity.is_some_and(|identity| identity.length <= LARGEST);
        if identity.is_none() {
            // Kept to compare with: a file that comes back as it was is no change.
            return;
        }
        // A file too large to be a configuration is reported without reading it; reading will say why it is refused.
        let content = if fits { tokio::fs::read(&self.path).await.ok().map(|bytes| fingerprint(&bytes)) } else { None };
        if content.is_none() || content != self.reported.content {
            self.reported.content = content;
            self.changes.inc();
            self.report(Event::Changed);
        }
    }

    fn report(&self, event: Event) {
        // A full channel means that a reading is still to come, which will see this change too.
        if let Err(mpsc::error::TrySendError::Closed(_)) = self.events.try_send(event) {
            tracing::debug!("nobody listens for configuration changes any more");
        }
    }
}

impl Task for Watch {
    fn health(&self) -> &Health {
        &self.health
    }

    fn run(&mut self, stop: Stop) -> BoxFuture<'_, ()> {
        Box::pin(self.watch(stop))
    }
}

impl Identity {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Tells contents apart; not a defence against somebody who makes two contents alike, since they could write either.
fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Returns at the next signal; never where signals cannot be heard.
async fn heard(signal: &mut Option<tokio::signal::unix::Signal>) {
    let came = match signal {
        Some(signal) => signal.recv().await.is_some(),
        None => false,
    };
    if !came {
        std::future::pending::<()>().await;
    }
}
