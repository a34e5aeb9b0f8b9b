//! `sluice completions SHELL`.

use clap::CommandFactory;

use super::Failure;

/// Which shell to write for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sluice completions bash > /etc/bash_completion.d/sluice")]
pub(crate) struct Arguments {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "sluice", &mut script);
    super::say(String::from_utf8_lossy(&script))
}
