//! `sluice kernel`: what the kernel saw of this host's TCP connections. Works with or without a gateway.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use sluice_kernel::cli::{CliError, EventsOptions, Selection, Sort, TopOptions};
use sluice_vocabulary::measure::Span;

use super::Failure;

/// What to look at.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sluice kernel doctor          what this host allows, what is missing, what stands in\n  \
    sluice kernel top             live endpoints, once a second\n  sluice kernel top --json --rounds 1\n  \
    sluice kernel events --json   connections that ended abnormally, as they end\n\n\
    Needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or root; `doctor` needs nothing."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    look: Look,
}

#[derive(Debug, Subcommand)]
enum Look {
    /// Which probes can run here, why others cannot, and what would turn them on
    Doctor {
        /// JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Live endpoints, IPv4 and IPv6
    Top(Top),
    /// Connections that ended abnormally, as they end
    Events(Events),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Only this control group (a directory of the cgroup2 file system)
    #[arg(long, value_name = "DIRECTORY")]
    cgroup: Option<PathBuf>,
    /// Only what this process opens, such as a gateway; may be given more than once
    #[arg(long = "pid", value_name = "PID")]
    processes: Vec<u32>,
    /// Only connections with this local or remote port; may be given more than once
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
}

#[derive(Debug, clap::Args)]
struct Top {
    #[command(flatten)]
    which: Which,
    /// Count the same endpoint apart for each process
    #[arg(long)]
    by_process: bool,
    /// Time between two tables
    #[arg(long, default_value = "1s", value_parser = Span::parse)]
    interval: Span,
    /// End after so many tables
    #[arg(long)]
    rounds: Option<u32>,
    /// The order of rows
    #[arg(long, value_enum, default_value = "activity")]
    sort: Order,
    /// Most rows to show
    #[arg(long, default_value_t = 40)]
    rows: usize,
    /// One JSON object for each round and line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    Activity,
    RoundTrip,
    Resets,
    Retransmits,
    Failures,
    Address,
}

#[derive(Debug, clap::Args)]
struct Events {
    #[command(flatten)]
    which: Which,
    /// End after this time
    #[arg(long, value_parser = Span::parse)]
    duration: Option<Span>,
    /// One JSON object for each event and line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let told = |error: CliError| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(why) = cause {
            text.push_str(&format!(": {why}"));
            cause = why.source();
        }
        Failure::Run(text)
    };
    match &arguments.look {
        Look::Doctor { json } => super::say(sluice_kernel::cli::doctor(*json)),
        Look::Top(top) => sluice_kernel::cli::top(&top.options()).map_err(told),
        Look::Events(events) => {
            let defaults = EventsOptions::default();
            let duration = events.duration.map(Duration::from);
            let options =
                EventsOptions { selection: events.which.selection(false), json: events.json, duration, ..defaults };
            sluice_kernel::cli::events(&options).map_err(told)
        }
    }
}

impl Which {
    fn selection(&self, by_process: bool) -> Selection {
        Selection {
            cgroup: self.cgroup.clone(),
            processes: self.processes.clone(),
            ports: self.ports.clone(),
            by_process,
        }
    }
}

impl Top {
    fn options(&self) -> TopOptions {
        TopOptions {
            selection: self.which.selection(self.by_process),
            interval: self.interval.get(),
            rounds: self.rounds,
            sort: match self.sort {
                Order::Activity => Sort::Activity,
                Order::RoundTrip => Sort::RoundTrip,
                Order::Resets => Sort::Resets,
                Order::Retransmits => Sort::Retransmits,
                Order::Failures => Sort::Failures,
                Order::Address => Sort::Address,
            },
            rows: self.rows,
            json: self.json,
        }
    }
}
