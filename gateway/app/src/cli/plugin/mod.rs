//! `sluice plugin`: what a plugin's author and its operator ask of a component before it is served.

mod bench;
mod check;
mod new;
mod sign;
mod test;

use super::Failure;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a project for a plugin, which builds and is tested
    New(new::Arguments),
    /// Say what a component is called for, what it needs, and whether it would be loaded
    Check(check::Arguments),
    /// Play fixtures through the sandbox that serves, and say what came out otherwise than expected
    Test(test::Arguments),
    /// Measure what a component costs: each phase in a fresh instance, memory, compiling, loading
    Bench(bench::Arguments),
    /// Make a key to sign components with
    Keygen(sign::Keygen),
    /// Sign components, so that gateways can ask for it by signed_by
    Sign(sign::Sign),
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::New(arguments) => new::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Test(arguments) => test::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Keygen(arguments) => sign::keygen(arguments),
        Command::Sign(arguments) => sign::sign(arguments),
    }
}
