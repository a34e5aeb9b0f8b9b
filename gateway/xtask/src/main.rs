//! Build chores that cargo has no word for: `cargo xtask --help`.
//!
//! The eBPF object and the sample components need compilers that a Rust installation does not bring. They are built
//! here, and their results are committed beside a manifest that says of which sources they are, so that nobody else
//! needs those compilers. `prebuilt --check` needs none either.

mod bpf;
mod error;
mod guests;
mod prebuilt;
mod templates;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;

/// Build chores of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Prepares the compilers for the eBPF object and the guests in .build/, from the distribution's packages. Nothing
    /// is installed on the system. About three minutes the first time, nothing after.
    Toolchain,
    /// Builds the eBPF object into ebpf/prebuilt/.
    Bpf,
    /// Builds the sample and hostile plugins into plugins/prebuilt/. Needs node and npm for the one in AssemblyScript.
    Guests,
    /// Makes a project of each kind that `sluice plugin new` knows, builds it and plays its fixtures. Needs target/debug/sluice,
    /// node, npm and python3 with venv.
    Templates,
    /// Compares the committed build results with the sources they were built of.
    Prebuilt(prebuilt::Arguments),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.chore {
        Chore::Toolchain => toolchain::prepare(),
        Chore::Bpf => bpf::build(),
        Chore::Guests => guests::build(),
        Chore::Templates => templates::run(),
        Chore::Prebuilt(arguments) => prebuilt::run(arguments),
    }
}
