//! `sluice run`: serve a configuration until told to stop.

use std::path::PathBuf;

use super::{Failure, load};
use crate::compose::{Gateway, Log, Start, StartError};

/// What to serve.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice run -c /etc/sluice/sluice.yaml\n  SLUICE_CONFIG=edge.yaml sluice run\n  \
    sluice run -c sluice.yaml --watch-plugins   while writing a plugin: each build is loaded as it is done\n\n\
    SIGTERM or SIGINT drains and stops, a second one cuts the drain short; SIGHUP, or a change of the file, reads the configuration again.")]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(short, long, env = "SLUICE_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Load plugins anew when the file of a component, of its signature or of a key changes: for those who write plugins
    #[arg(long)]
    watch_plugins: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = load::read(&arguments.config).map_err(|faults| Failure::Usage(faults.for_terminal()))?;
    let log = Log::install(&loaded.config.telemetry.logs).map_err(Failure::run)?;
    for warning in &loaded.warnings {
        let fault = warning.fault();
        tracing::warn!(path = %fault.path, line = warning.location().line, "{}", fault.message);
    }
    let start = Start {
        config: loaded.config.clone(),
        folder: load::folder_of(&arguments.config),
        file: Some(&arguments.config),
        watch_plugins: arguments.watch_plugins,
        log,
    };
    let mut gateway = Gateway::start(start).map_err(|error| match error {
        StartError::Config(faults) => {
            Failure::Usage(sluice_config::render::text(&loaded.diagnose(&faults), load::colours()))
        }
        StartError::Machine(why) => Failure::Run(why),
    })?;
    let cause = gateway.background.block_on(gateway.stop_signals.next());
    tracing::info!(signal = cause, "stopping: draining what is in flight");
    gateway.stop();
    Ok(())
}
