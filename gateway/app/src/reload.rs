//! Reading the configuration again: on a change of the file, on SIGHUP, on the admin's word.
//!
//! A file with faults leaves everything as it was and is told of in the log and in metrics. What cannot change while the
//! gateway runs (addresses, threads) is refused by name, and all else applies.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_config::Event;
use sluice_vocabulary::ports::Reload;
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use tokio::sync::{Mutex, mpsc};

use crate::cli::load;
use crate::compose::Units;
use crate::memory;
use crate::snapshot;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// What is counted of reloads.
#[derive(Debug)]
pub(crate) struct Metrics {
    applied: Counter,
    partly: Counter,
    refused: Counter,
    last_ok: Gauge,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let reloads = Family::<OutcomeLabel, Counter>::default();
        registry.register(
            "reloads",
            "Times that the configuration was read again: applied, partly (what needs a restart was left), refused",
            reloads.clone(),
        );
        let last_ok = Gauge::default();
        last_ok.set(1);
        registry.register("last_reload_ok", "1 if the configuration read last is in force as a whole", last_ok.clone());
        let of = |outcome| reloads.get_or_create_owned(&OutcomeLabel { outcome });
        Self { applied: of("applied"), partly: of("partly"), refused: of("refused"), last_ok }
    }
}

/// Reads and applies the configuration's file.
pub(crate) struct Reloader {
    units: Arc<Units>,
    file: Option<PathBuf>,
    metrics: Metrics,
    health: Health,
    /// One at a time.
    turn: Mutex<()>,
}

impl Reloader {
    pub(crate) fn new(units: Arc<Units>, file: Option<&Path>, metrics: Metrics) -> Self {
        let health = Health::new("reload");
        health.set(State::Ready);
        Self { units, file: file.map(Path::to_owned), metrics, health, turn: Mutex::new(()) }
    }

    /// Degraded while what is in force is not what the file says.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    async fn read_and_apply(&self) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let Some(file) = self.file.clone() else {
            return Err("this gateway was not started from a file".to_owned());
        };
        let read = tokio::task::spawn_blocking(move || load::read(&file).map_err(|faults| faults.plain())).await;
        let outcome = match read.map_err(|e| e.to_string()).and_then(|loaded| loaded) {
            Ok(loaded) => match snapshot::prepare(&self.units, loaded.config.clone()).await {
                Ok(ready) => Ok(ready.commit(&self.units)),
                Err(faults) => Err(loaded.explain(&faults)),
            },
            Err(faults) => Err(faults),
        };
        memory::give_back_soon();
        match outcome {
            Ok(left) if left.is_empty() => {
                self.metrics.applied.inc();
                self.metrics.last_ok.set(1);
                self.health.set(State::Ready);
                tracing::info!("configuration applied");
                Ok(())
            }
            Ok(left) => {
                self.metrics.partly.inc();
                self.metrics.last_ok.set(0);
                let left: Vec<_> = left.iter().map(ToString::to_string).collect();
                let left = left.join("; ");
                self.health.set(State::Degraded(format!("the configuration is in force but for: {left}")));
                tracing::warn!(left, "configuration applied, but for what needs a restart");
                Err(format!("applied, but for: {left}"))
            }
            Err(faults) => {
                self.metrics.refused.inc();
                self.metrics.last_ok.set(0);
                self.health
                    .set(State::Degraded("the configuration file has faults; the one before is in force".to_owned()));
                tracing::error!(faults, "configuration refused; the one before stays in force");
                Err(faults)
            }
        }
    }
}

impl Reload for Reloader {
    fn reload(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.read_and_apply())
    }
}

/// Reloads at each event of the watch.
pub(crate) struct Follow {
    events: mpsc::Receiver<Event>,
    reloader: Arc<Reloader>,
}

impl Follow {
    pub(crate) fn new(events: mpsc::Receiver<Event>, reloader: Arc<Reloader>) -> Self {
        Self { events, reloader }
    }
}

impl Task for Follow {
    fn health(&self) -> &Health {
        self.reloader.health()
    }

    fn run(&mut self, mut stop: Stop) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                tokio::select! {
                    () = stop.stopped() => return,
                    // A watch that has ended is no longer heard, which is its supervisor's concern.
                    Some(_) = self.events.recv() => {
                        // What became of it was logged and counted.
                        let _ = self.reloader.read_and_apply().await;
                    }
                    else => return stop.stopped().await,
                }
            }
        })
    }
}
