//! What `sluice kernel doctor | top | events` shows: of this host, with or without a gateway on it.
//!
//! Each command has its own observer, attached to the root of the control groups unless told otherwise, and takes it away
//! when it ends. Output goes to standard output; a reader that goes away (a closed pipe) ends the command without an
//! error.

mod events;
mod text;
mod top;

use std::io;
use std::path::PathBuf;

use sluice_observer::{Cgroup, Observer, Options, ReadError, StartError};
use thiserror::Error;

pub use events::{EventsOptions, events, events_to};
pub use top::{Sort, TopOptions, top, top_to};

/// Which connections to look at. The default is all of this host's.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Directory of a version 2 control group; `None` for the whole host.
    pub cgroup: Option<PathBuf>,
    /// Only what these processes open; empty for all, and for clients' connections to this host too.
    pub processes: Vec<u32>,
    /// Only connections with one of these as local or remote port; empty for all.
    pub ports: Vec<u16>,
    /// Whether the same endpoint is counted apart for each process that connects to it.
    pub by_process: bool,
}

impl Selection {
    fn options(&self) -> Options {
        Options {
            cgroup: self.cgroup.clone().map_or(Cgroup::Host, Cgroup::Directory),
            incoming: self.processes.is_empty(),
            processes: self.processes.clone(),
            ports: self.ports.clone(),
            by_process: self.by_process,
            ..Options::default()
        }
    }

    fn observe(&self) -> Result<Observer, CliError> {
        Ok(Observer::start(&self.options())?)
    }
}

/// Why a command ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CliError {
    /// Observing did not begin.
    #[error("cannot observe connections; `sluice kernel doctor` says what is missing")]
    Start(#[from] StartError),
    /// A table could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Standard output could not be written.
    #[error("cannot write")]
    Write(#[from] io::Error),
}

/// Examines this host: what can be observed, what not and why, what would turn it on, what stands in for it. Loads and
/// attaches everything for a moment, so it tells what really works. As text for people, or as one JSON object.
pub fn doctor(json: bool) -> String {
    let report = sluice_observer::doctor(&Options::default());
    if json {
        // The report is made of strings, numbers and lists: writing it cannot fail.
        serde_json::to_string_pretty(&report).unwrap_or_default()
    } else {
        report.to_string()
    }
}

/// A reader that has gone away wants no more: that is an end, not an error.
fn until_closed(outcome: Result<(), CliError>) -> Result<(), CliError> {
    match outcome {
        Err(CliError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}
