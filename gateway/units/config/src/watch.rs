//! Noticing that the configuration may have changed: the file has other content, or the process got SIGHUP.
//!
//! How it is told that somebody has written to the file, and is done with it, is `looked`'s concern. Files that the
//! configuration names may be watched beside it ([`files`](crate::files)); all report to one place.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::looked::{Finding, Looked};
use crate::source::LARGEST;

/// Why the configuration should be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The file's content is another.
    Changed,
    /// That of a file which the configuration names is another.
    FilesChanged,
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
    looked: Arc<Mutex<Looked>>,
}

impl Event {
    pub(crate) fn report(self, events: &mpsc::Sender<Self>) {
        // A full channel means that a reading is still to come, which will see this change too.
        if let Err(mpsc::error::TrySendError::Closed(_)) = events.try_send(self) {
            tracing::debug!("nobody listens for configuration changes any more");
        }
    }
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
        let looked = Arc::new(Mutex::new(Looked::new(path, LARGEST)));
        let health = Health::new("config");
        (Self { path: path.to_owned(), every, health, events, changes, vanished, looked }, receiver)
    }

    /// Where others may report what asks for the configuration to be read as well.
    pub fn events(&self) -> mpsc::Sender<Event> {
        self.events.clone()
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
        self.health.set(State::Ready);
        loop {
            tokio::select! {
                () = stop.stopped() => break,
                () = heard(&mut hangup) => {
                    tracing::info!("reload asked for by SIGHUP");
                    Event::Asked.report(&self.events);
                }
                _ = looks.tick() => self.look().await,
            }
        }
        self.health.set(State::Stopped);
    }

    async fn look(&self) {
        let looked = Arc::clone(&self.looked);
        // Nothing in it can be half done.
        let look = move || looked.lock().unwrap_or_else(PoisonError::into_inner).look();
        // It fails only where the process ends.
        let Ok(look) = tokio::task::spawn_blocking(look).await else { return };
        if let Some(why) = look.missing {
            if !matches!(self.health.get(), State::Degraded(_)) {
                self.vanished.inc();
            }
            let path = self.path.display();
            self.health.set(State::Degraded(format!("{path} cannot be read ({why}); the old configuration runs on")));
        }
        if look.finding == Finding::Changed {
            self.changes.inc();
            Event::Changed.report(&self.events);
        }
        if look.missing.is_none() && matches!(self.health.get(), State::Degraded(_)) {
            self.health.set(State::Ready);
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
