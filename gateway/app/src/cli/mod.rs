//! The command line: one file per subcommand.

mod check;
mod completions;
mod demo;
mod door;
mod inspect;
mod kernel;
pub(crate) mod load;
mod plugin;
mod run;
mod schema;
mod token;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// How a command ended, as the shell will know it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not do its work: exit code 1.
    Run(String),
    /// It was asked wrongly, or its configuration is at fault: exit code 2.
    Usage(String),
}

impl Failure {
    pub(crate) fn run(why: impl std::fmt::Display) -> Self {
        Self::Run(why.to_string())
    }

    pub(crate) fn usage(why: impl std::fmt::Display) -> Self {
        Self::Usage(why.to_string())
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) wants no more, which is no failure.
pub(crate) fn say(text: impl std::fmt::Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.to_string().as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Run(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about = "An edge gateway: checks tokens inline, runs sandboxed plugins, and acts on what the kernel saw",
    after_help = "Start with:\n  sluice demo                 a whole gateway on embedded defaults, to play with\n  \
                  sluice run -c sluice.yaml   serve\n  sluice check -c sluice.yaml every fault, with its place and its mend\n\n\
                  Exit codes: 0 fine, 1 failed at run time, 2 bad usage or bad configuration."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a configuration until told to stop (SIGTERM, SIGINT); SIGHUP reads it again
    Run(run::Arguments),
    /// Check a configuration: every fault with file, line, column and mend; then what is risky
    Check(check::Arguments),
    /// A whole gateway on embedded defaults: origin, token issuer, plugins, and requests to try
    Demo(demo::Arguments),
    /// Look at what the kernel saw of this host's TCP connections
    Kernel(kernel::Arguments),
    /// Make and read tokens while developing, and ask a gateway what a token is worth and why
    Token(token::Arguments),
    /// Look at plugins before they are served
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

/// Reads the arguments, runs the command, and says how it ended.
pub(crate) fn run() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Kernel(arguments) => kernel::run(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Plugin(command) => plugin::run(&command),
        Command::Schema => schema::run(),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Run(why)) => {
            eprintln!("sluice: {why}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(why)) => {
            eprintln!("sluice: {why}");
            ExitCode::from(2)
        }
    }
}
