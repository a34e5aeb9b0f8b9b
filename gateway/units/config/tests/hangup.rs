//! SIGHUP: a test program of its own, since a signal is the process's.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use prometheus_client::registry::Registry;
use sluice_config::{Event, Watch};
use sluice_vocabulary::unit::{State, Stop, Task as _};
use tokio::time::timeout;

#[tokio::test]
async fn sighup_asks_for_the_file_to_be_read_though_it_did_not_change() {
    let patience = Duration::from_secs(10);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.yaml");
    std::fs::write(&path, "a: 1").unwrap();
    let (mut watch, mut events) = Watch::new(&path, Watch::EVERY, &mut Registry::default());
    let mut state = watch.health().watch();
    let (stopper, stop) = Stop::new();
    let task = tokio::spawn(async move { watch.run(stop).await });
    // Ready is said after the handler is there; without one the signal would end this process.
    timeout(patience, state.wait_for(|state| *state == State::Ready)).await.unwrap().unwrap();
    let kill = std::process::Command::new("kill").args(["-HUP", &std::process::id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(timeout(patience, events.recv()).await.expect("an event"), Some(Event::Asked));
    stopper.stop();
    timeout(patience, task).await.unwrap().unwrap();
}
