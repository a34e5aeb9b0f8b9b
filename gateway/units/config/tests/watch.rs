//! A watched file, as editors, orchestrators and operators change it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use prometheus_client::registry::Registry;
use sluice_config::{Event, Watch};
use sluice_vocabulary::unit::{State, Stop, Stopper, Task as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);

struct Watched {
    events: mpsc::Receiver<Event>,
    state: watch::Receiver<State>,
    stopper: Stopper,
    task: JoinHandle<()>,
}

async fn watched(path: &Path) -> Watched {
    let (mut watch, events) = Watch::new(path, EVERY, &mut Registry::default());
    let mut state = watch.health().watch();
    let (stopper, stop) = Stop::new();
    let task = tokio::spawn(async move { watch.run(stop).await });
    timeout(PATIENCE, state.wait_for(|state| *state != State::Starting)).await.unwrap().unwrap();
    Watched { events, state, stopper, task }
}

impl Watched {
    async fn next(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("an event").unwrap()
    }

    async fn quiet(&mut self) {
        let came = timeout(EVERY * 20, self.events.recv()).await;
        assert!(came.is_err(), "{came:?}");
    }

    async fn end(mut self) {
        self.stopper.stop();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
        assert_eq!(*self.state.borrow_and_update(), State::Stopped);
    }
}

#[tokio::test]
async fn another_content_is_a_change_and_a_touched_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    fs::write(&path, "a: 1").unwrap();
    let mut watched = watched(&path).await;
    fs::write(&path, "a: 1").unwrap();
    watched.quiet().await;
    fs::write(&path, "a: 2").unwrap();
    assert_eq!(watched.next().await, Event::Changed);
    watched.end().await;
}

#[tokio::test]
async fn a_swapped_link_is_a_change_as_config_maps_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    for version in ["v1", "v2"] {
        fs::create_dir(folder.path().join(version)).unwrap();
        fs::write(folder.path().join(version).join("c.yaml"), version).unwrap();
    }
    std::os::unix::fs::symlink("v1", folder.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/c.yaml", &path).unwrap();
    let mut watched = watched(&path).await;
    std::os::unix::fs::symlink("v2", folder.path().join("..tmp")).unwrap();
    fs::rename(folder.path().join("..tmp"), folder.path().join("..data")).unwrap();
    assert_eq!(watched.next().await, Event::Changed);
    watched.end().await;
}

#[tokio::test]
async fn a_vanished_file_degrades_and_its_return_as_it_was_is_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    fs::write(&path, "a: 1").unwrap();
    let mut watched = watched(&path).await;
    fs::remove_file(&path).unwrap();
    let gone = |state: &State| matches!(state, State::Degraded(reason) if reason.contains("old configuration runs on"));
    timeout(PATIENCE, watched.state.wait_for(gone)).await.unwrap().unwrap();
    fs::write(&path, "a: 1").unwrap();
    timeout(PATIENCE, watched.state.wait_for(|state| *state == State::Ready)).await.unwrap().unwrap();
    watched.quiet().await;
    watched.end().await;
}
