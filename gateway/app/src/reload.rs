//! Reading the configuration again: on a change of the file, on SIGHUP, on the admin's word; and, where the files of plugins
//! are watched, when one of those has changed.
//!
//! A file with faults leaves everything as it was and is told of in the log and in metrics. What cannot change while the
//! gateway runs (addresses, threads) is refused by name, and all else applies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_config::{Event, Files};
use sluice_vocabulary::fault::Step;
use sluice_vocabulary::ports::Reload;
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use sluice_vocabulary::{Fault, PluginName};
use tokio::sync::{Mutex, mpsc};

use crate::cli::load;
use crate::compose::Units;
use crate::config::Config;
use crate::memory;
use crate::snapshot;

/// Why reloading is degraded after a refusal.
const REFUSED: &str = "what was read last has faults; the configuration and the plugins before are in force";

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

/// The files of plugins, where they are watched.
#[derive(Debug, Clone)]
pub(crate) struct PluginFiles(pub(crate) Files);

impl PluginFiles {
    /// Those of a configuration whose plugins are about to be loaded. Waits for the disk.
    pub(crate) fn of(config: &Config, folder: &Path) -> Self {
        let files = Self(Files::new(sluice_plugins::LARGEST_COMPONENT));
        files.watch(&[config], folder);
        files
    }

    /// Those of all these configurations from now on, and no others. Waits for the disk.
    fn watch(&self, configs: &[&Config], folder: &Path) {
        let plugins = configs.iter().flat_map(|config| config.plugins.values());
        self.0.set(plugins.flat_map(|plugin| plugin.files(folder)));
    }
}

/// Reads and applies the configuration's file.
pub(crate) struct Reloader {
    units: Arc<Units>,
    file: Option<PathBuf>,
    plugin_files: Option<PluginFiles>,
    metrics: Metrics,
    health: Health,
    /// One at a time.
    turn: Mutex<()>,
}

impl Reloader {
    pub(crate) fn new(
        units: Arc<Units>,
        file: Option<&Path>,
        plugin_files: Option<PluginFiles>,
        metrics: Metrics,
    ) -> Self {
        let health = Health::new("reload");
        health.set(State::Ready);
        Self { units, file: file.map(Path::to_owned), plugin_files, metrics, health, turn: Mutex::new(()) }
    }

    /// Degraded while what is in force is not what the file says.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    async fn read_and_apply(&self, cause: Event) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let Some(file) = self.file.clone() else {
            return Err("this gateway was not started from a file".to_owned());
        };
        let begun = self.units.clock.now();
        let read = tokio::task::spawn_blocking(move || load::read(&file).map_err(|faults| faults.plain())).await;
        let outcome = match read.map_err(|e| e.to_string()).and_then(|loaded| loaded) {
            Ok(loaded) => {
                self.watch_plugins_of(Some(&loaded.config)).await;
                match snapshot::prepare(&self.units, loaded.config.clone()).await {
                    Ok(ready) => {
                        let anew = ready.new_plugins().to_vec();
                        let left = ready.commit(&self.units);
                        self.watch_plugins_of(None).await;
                        Ok((left, anew))
                    }
                    Err(faults) => Err(loaded.explain(&self.with_hints(faults))),
                }
            }
            Err(faults) => Err(faults),
        };
        memory::give_back_soon();
        if cause == Event::FilesChanged {
            tell_of_plugins(&outcome, self.units.clock.now().saturating_duration_since(begun));
        }
        self.tell(cause, outcome.map(|(left, _)| left))
    }

    /// Watches the files of the plugins in force, and of a configuration that is about to be loaded: what is refused for one
    /// of its files is tried again when that has changed.
    async fn watch_plugins_of(&self, coming: Option<&Config>) {
        let Some(files) = self.plugin_files.clone() else { return };
        let (folder, in_force, coming) =
            (self.units.folder.clone(), self.units.config.load_full(), coming.cloned().map(Arc::new));
        let watch = move || {
            let configs: Vec<&Config> = in_force.iter().chain(&coming).map(|config| &**config).collect();
            files.watch(&configs, &folder);
        };
        // It fails only where the process ends.
        let _ = tokio::task::spawn_blocking(watch).await;
    }

    /// What somebody who is at work on a plugin needs to know beside the fault.
    fn with_hints(&self, faults: Vec<Fault>) -> Vec<Fault> {
        // The pin of a component, or of its fallback.
        let is_pin = |fault: &Fault| {
            let keys: Vec<&str> =
                fault.path.steps().iter().map(|step| if let Step::Key(key) = step { key } else { "" }).collect();
            matches!(keys[..], ["plugins", _, "sha256"] | ["plugins", _, "fallback", "sha256"])
        };
        let hinted = |fault: Fault| match self.plugin_files {
            Some(_) if is_pin(&fault) => {
                fault.help("each build has another digest: leave sha256 out while developing, and pin what is released")
            }
            _ => fault,
        };
        faults.into_iter().map(hinted).collect()
    }

    /// Counts and logs what became of a reading.
    fn tell(&self, cause: Event, outcome: Result<Vec<Fault>, String>) -> Result<(), String> {
        match outcome {
            Ok(left) if left.is_empty() => {
                self.metrics.applied.inc();
                self.metrics.last_ok.set(1);
                self.health.set(State::Ready);
                if cause != Event::FilesChanged {
                    tracing::info!("configuration applied");
                }
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
                self.health.set(State::Degraded(REFUSED.to_owned()));
                if cause != Event::FilesChanged {
                    tracing::error!(faults, "configuration refused; the one before stays in force");
                }
                Err(faults)
            }
        }
    }
}

/// Says what became of plugins whose files have changed.
fn tell_of_plugins(outcome: &Result<(Vec<Fault>, Vec<PluginName>), String>, took: Duration) {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok((_, anew)) if anew.is_empty() => {
            tracing::info!(took_ms, "files of plugins have changed, and none of the plugins has");
        }
        Ok((_, anew)) => {
            let plugins: Vec<_> = anew.iter().map(PluginName::as_str).collect();
            tracing::info!(plugins = plugins.join(", "), took_ms, "plugins loaded anew");
        }
        Err(faults) => tracing::error!(faults, took_ms, "changed plugins refused; those before go on"),
    }
}

impl Reload for Reloader {
    fn reload(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.read_and_apply(Event::Asked))
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
                    Some(cause) = self.events.recv() => {
                        // What became of it was logged and counted.
                        let _ = self.reloader.read_and_apply(cause).await;
                    }
                    else => return stop.stopped().await,
                }
            }
        })
    }
}
