//! What a process settles when it starts and keeps to its end, beside what the listeners say of themselves: the operator's
//! door, and the form and place of the log. A changed file is told so by name; everything else in it applies.

use sluice_telemetry::LogsConfig;
use sluice_vocabulary::{Fault, Path};

use crate::config::Config;

/// The parts as they were at the start.
#[derive(Debug)]
pub(crate) struct Fixed {
    admin: sluice_admin::Config,
    logs: LogsConfig,
}

impl Fixed {
    /// What `config`, with which the process starts, settles.
    pub(crate) fn of(config: &Config) -> Self {
        Self { admin: config.admin.clone(), logs: config.telemetry.logs.clone() }
    }

    /// Puts back what `config` would change, so that it says what is in force, and names each such change. The level of
    /// the log is not among them.
    pub(crate) fn keep(&self, config: &mut Config) -> Vec<Fault> {
        let mut left = Vec::new();
        let mut refuse = |at: Path| {
            left.push(Fault::error(&at, "cannot change while the gateway runs").help("restart it to make this change"));
        };
        if config.admin != self.admin {
            refuse(Path::root().key("admin"));
            config.admin = self.admin.clone();
        }
        let at = Path::root().key("telemetry").key("logs");
        let logs = &mut config.telemetry.logs;
        if logs.format != self.logs.format {
            refuse(at.key("format"));
            logs.format = self.logs.format;
        }
        if logs.output != self.logs.output {
            refuse(at.key("output"));
            logs.output = self.logs.output.clone();
        }
        left
    }
}
