//! What can go wrong in a chore, for the person at the terminal.

use std::{fmt::Write as _, io, path::PathBuf};

use thiserror::Error;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Error)]
pub(crate) enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {what} {}", .path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}{hint}")]
    Start {
        program: String,
        hint: &'static str,
        #[source]
        source: io::Error,
    },
    /// A program ran and failed; what it said stands above.
    #[error("{program} failed with {status}")]
    Failed { program: String, status: std::process::ExitStatus },
    /// A manifest could not be understood.
    #[error("{} is not a manifest", .path.display())]
    Manifest {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// Committed results are not of the sources beside them.
    #[error("{0}")]
    Stale(String),
    /// The machine lacks something.
    #[error("{0}")]
    Missing(String),
}

impl Error {
    /// For `map_err` after a call on the file `path`.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

/// The error and all its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
