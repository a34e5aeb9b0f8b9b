//! Runs the units' background tasks: each on its own, none able to take the process along.
//!
//! A task that panics, or returns before it was told to, is run again after a pause that doubles from 100 ms to 30 s and
//! falls back once the task has held for a minute. Meanwhile its unit is degraded, with the reason, and the restart is
//! counted under the unit's name.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::unit::{State, Stop, Stopper, Task};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const HELD_LONG_ENOUGH: Duration = Duration::from_secs(60);

/// Owns the running tasks. They are stopped one after the other, the last started first.
pub(crate) struct Supervisor {
    runtime: Handle,
    clock: Arc<dyn Clock>,
    restarts: Family<UnitLabel, Counter>,
    running: Vec<Running>,
}

struct Running {
    unit: &'static str,
    stopper: Stopper,
    joined: JoinSet<()>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnitLabel {
    unit: &'static str,
}

impl Supervisor {
    /// Tasks will run on `runtime`, the background one: never on a thread that serves requests.
    pub(crate) fn new(runtime: Handle, clock: Arc<dyn Clock>, registry: &mut Registry) -> Self {
        let restarts = Family::default();
        registry.register("unit_restarts", "Background tasks that were run again after a failure", restarts.clone());
        Self { runtime, clock, restarts, running: Vec::new() }
    }

    /// Starts a unit's task.
    pub(crate) fn start(&mut self, task: impl Task) {
        let unit = task.health().unit();
        let (stopper, stop) = Stop::new();
        let restarts = self.restarts.get_or_create(&UnitLabel { unit }).clone();
        let mut joined = JoinSet::new();
        joined.spawn_on(keep_running(task, stop, restarts, Arc::clone(&self.clock)), &self.runtime);
        self.running.push(Running { unit, stopper, joined });
    }

    /// Stops the tasks one after the other, the last started first. That one, the door, may take `drain`; all others
    /// together may take `rest`, so that the whole is bounded however many are stuck.
    pub(crate) async fn stop(self, drain: Duration, rest: Duration) {
        let mut running = self.running.into_iter().rev();
        if let Some(door) = running.next() {
            door.stop(drain).await;
        }
        let until = tokio::time::Instant::now() + rest;
        for task in running {
            task.stop(until.saturating_duration_since(tokio::time::Instant::now())).await;
        }
    }
}

impl Running {
    async fn stop(mut self, patience: Duration) {
        self.stopper.stop();
        let all_joined = async { while self.joined.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all_joined).await.is_err() {
            tracing::warn!(unit = self.unit, patience = ?patience, "task did not stop in time and is abandoned");
        }
    }
}

async fn keep_running(mut task: impl Task, mut stop: Stop, restarts: Counter, clock: Arc<dyn Clock>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let began = clock.now();
        let ended = AssertUnwindSafe(task.run(stop.clone())).catch_unwind().await;
        if stop.is_stopped() {
            task.health().set(State::Stopped);
            return;
        }
        if clock.now().duration_since(began) >= HELD_LONG_ENOUGH {
            pause = FIRST_PAUSE;
        }
        restarts.inc();
        let how = if ended.is_err() { "panicked" } else { "ended early" };
        task.health().set(State::Degraded(format!("background task {how}; running it again")));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.stopped() => {
                task.health().set(State::Stopped);
                return;
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_vocabulary::clock::SystemClock;
    use sluice_vocabulary::unit::{BoxFuture, Health};
    use tokio::sync::mpsc;

    struct Fragile {
        health: Health,
        runs: u32,
        ran: mpsc::UnboundedSender<u32>,
    }

    impl Task for Fragile {
        fn health(&self) -> &Health {
            &self.health
        }

        fn run(&mut self, mut stop: Stop) -> BoxFuture<'_, ()> {
            self.runs += 1;
            let run = self.runs;
            let _ = self.ran.send(run);
            Box::pin(async move {
                assert!(run > 1, "the first run breaks");
                self.health.set(State::Ready);
                stop.stopped().await;
            })
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_is_run_again_and_counted_and_harms_nobody() {
        let mut registry = Registry::default();
        let mut supervisor = Supervisor::new(Handle::current(), Arc::new(SystemClock), &mut registry);
        let (ran, mut runs) = mpsc::unbounded_channel();
        let health = Health::new("fragile");
        let mut state = health.watch();
        supervisor.start(Fragile { health, runs: 0, ran });
        assert_eq!(runs.recv().await, Some(1));
        assert_eq!(runs.recv().await, Some(2));
        assert!(state.wait_for(|s| *s == State::Ready).await.is_ok());
        assert_eq!(supervisor.restarts.get_or_create(&UnitLabel { unit: "fragile" }).get(), 1);
        supervisor.stop(Duration::from_secs(5), Duration::from_secs(5)).await;
        assert_eq!(*state.borrow(), State::Stopped);
    }
}
