//! `sluice plugin`: what a plugin's author and its operator ask of a component before it is served.

mod check;

use super::Failure;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say what a component is called for, what it needs, and whether it would be loaded
    Check(check::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Check(arguments) => check::run(arguments),
    }
}
