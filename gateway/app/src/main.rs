//! `sluice`: an edge gateway in one process.
//!
//! Arguments → configuration → composition → run → exit code. Exit codes: 0 fine, 1 failed at run time, 2 bad usage or
//! bad configuration.

mod cli;
mod config;
mod compose;
mod supervisor;
mod signals;
mod fixed;
mod snapshot;
mod request_path;
mod request;
mod headers;
mod outgoing;
mod returning;
mod access;
mod answer_body;
mod answers;
mod bodies;
mod compression;
mod memory;
mod reload;
mod inspection;
mod rehearsal;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Two libraries below us can each bring a default of their own; the first installed wins, so ours is, before anything
    // else can ask for one.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("sluice: another TLS provider was installed before ours; this is a defect of the build");
        return ExitCode::FAILURE;
    }
    cli::run()
}
