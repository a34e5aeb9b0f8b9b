//! Noticing that files beside the configuration's own have changed: those that it names.
//!
//! They are looked at as the configuration's file is, only more often, since somebody waits for the outcome. Which files
//! those are may change while it goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::looked::{Finding, Looked};
use crate::watch::Event;

/// The files that are looked at; may be shared. They are looked at once [`WatchFiles`] runs.
#[derive(Debug, Clone)]
pub struct Files {
    files: Arc<Mutex<BTreeMap<PathBuf, Watched>>>,
    largest: u64,
}

#[derive(Debug)]
struct Watched {
    looked: Looked,
    is_missing: bool,
}

impl Files {
    /// None yet. Of a file larger than `largest` the content is never read: it counts as changed whenever it was written to.
    pub fn new(largest: u64) -> Self {
        Self { files: Arc::default(), largest }
    }

    /// Looks at these from now on, and at no others. The content of a file that is new among them is from now on what later
    /// content is compared with, so say it before they are read. Waits for the disk.
    pub fn set(&self, wanted: impl IntoIterator<Item = PathBuf>) {
        let mut files = self.lock();
        let mut before = std::mem::take(&mut *files);
        for path in wanted {
            let watched = before
                .remove(&path)
                .unwrap_or_else(|| Watched { looked: Looked::new(&path, self.largest), is_missing: false });
            files.insert(path, watched);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Watched>> {
        // Nothing in it can be half done.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at each once.
    fn look(&self) -> Looks {
        let mut looks = Looks::default();
        for (path, watched) in self.lock().iter_mut() {
            let look = watched.looked.look();
            looks.any_unsettled |= look.finding == Finding::Unsettled;
            if look.finding == Finding::Changed {
                looks.changed.push(path.clone());
            }
            // One that is replaced may be away for one look.
            let is_missing = look.missing.is_some() && look.finding != Finding::Unsettled;
            if is_missing {
                looks.missing.push(path.clone());
            }
            if is_missing != std::mem::replace(&mut watched.is_missing, is_missing) {
                let file = path.display();
                match look.missing {
                    Some(why) => {
                        tracing::warn!(%file, %why, "a watched file cannot be read; what was loaded of it runs on")
                    }
                    None => tracing::info!(%file, "a watched file can be read again"),
                }
            }
        }
        looks
    }
}

/// What one look at all files found.
#[derive(Debug, Default)]
struct Looks {
    changed: Vec<PathBuf>,
    missing: Vec<PathBuf>,
    any_unsettled: bool,
}

/// The task that looks. It is degraded while a file is missing; what runs goes on.
#[derive(Debug)]
pub struct WatchFiles {
    files: Files,
    every: Duration,
    health: Health,
    events: mpsc::Sender<Event>,
    /// Whether something has changed that was not yet reported.
    is_due: bool,
}

impl WatchFiles {
    /// How often the files are looked at.
    pub const EVERY: Duration = Duration::from_millis(250);

    /// Looks at `files` and reports to `events`, where [`Event::FilesChanged`] joins those of the configuration's own file. A
    /// change is reported once none of the files is being written any more, so that a component and its signature are one
    /// change.
    pub fn new(files: Files, every: Duration, events: mpsc::Sender<Event>) -> Self {
        Self { files, every, health: Health::new("files"), events, is_due: false }
    }

    async fn watch(&mut self, mut stop: Stop) {
        let mut looks = interval(self.every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.health.set(State::Ready);
        loop {
            tokio::select! {
                () = stop.stopped() => break,
                _ = looks.tick() => self.look().await,
            }
        }
        self.health.set(State::Stopped);
    }

    async fn look(&mut self) {
        let files = self.files.clone();
        // It fails only where the process ends.
        let Ok(looks) = tokio::task::spawn_blocking(move || files.look()).await else { return };
        for file in &looks.changed {
            tracing::info!(file = %file.display(), "a watched file has changed");
        }
        self.is_due |= !looks.changed.is_empty();
        if self.is_due && !looks.any_unsettled {
            self.is_due = false;
            Event::FilesChanged.report(&self.events);
        }
        self.health.set(if looks.missing.is_empty() {
            State::Ready
        } else {
            let missing: Vec<_> = looks.missing.iter().map(|file| file.display().to_string()).collect();
            State::Degraded(format!("{} cannot be read; what was loaded before runs on", missing.join(", ")))
        });
    }
}

impl Task for WatchFiles {
    fn health(&self) -> &Health {
        &self.health
    }

    fn run(&mut self, stop: Stop) -> BoxFuture<'_, ()> {
        Box::pin(self.watch(stop))
    }
}
