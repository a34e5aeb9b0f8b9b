//! Load against peers and against ourselves.
//!
//! `sluice-bench run` gives the gateway and each of its peers the same job on the same machine and writes what came out as
//! raw JSON; `sluice-bench introspection` holds the gateway's own check of tokens against asking a service about them;
//! `sluice-bench checks` takes that check alone, beside the crypto library's. `sluice-bench show` turns the files into tables
//! with the ratios to the peers and to the budgets. `sluice-bench soak` and `sluice-bench memory` look at the gateway alone.
//!
//! The method, which is what makes the figures comparable:
//! - A proxy has one worker and one core to itself. The load generator and the origin share another.
//! - The figure that counts is the proxy's CPU time per request, user and system, of its whole process tree, from the
//!   kernel's own accounting. It survives a noisy machine and a load generator at its limit; requests per second do not.
//! - Each round starts each proxy afresh, shows that it does the job (and refuses what it must), warms it up, measures it,
//!   and stops it. Rounds are interleaved and their order turns, so that a slow minute hits all alike. Medians are shown.

mod budgets;
mod checks;
mod duty;
mod error;
mod introspection;
mod load;
mod machine;
mod material;
mod measure;
mod memory;
mod peer;
mod process;
mod reports;
mod results;
mod room;
mod scenario;
mod show;
mod soak;
mod tools;
mod verify_cost;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::error::{Failure, Result};
use crate::introspection::IntrospectionArguments;
use crate::peer::Peer;
use crate::results::Made;
use crate::room::Room;
use crate::scenario::Scenario;

/// Measures the gateway beside its peers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, write the raw figures, and show them.
    Run(RunArguments),
    /// Hold the gateway's check of tokens against introspection per request: by delay, connections and kind of tokens.
    Introspection(IntrospectionArguments),
    /// Measure what a check of a token costs beside the crypto library's, for each algorithm.
    Checks {
        /// How often each is measured.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Tokens of each algorithm; fewer take less time.
        #[arg(long, value_parser = clap::value_parser!(u32).range(256..))]
        tokens: Option<u32>,
        /// Where the raw figures go, instead of a new file in gateway/bench/results.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Show a file of raw figures; the newest of each kind unless one is named.
    Show {
        /// The file.
        file: Option<PathBuf>,
    },
    /// Load the gateway for minutes with requests, reloads and rude clients, and see that it holds nothing afterwards.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// The gateway's binary, instead of target/release/sluice.
        #[arg(long)]
        sluice: Option<PathBuf>,
    },
    /// Weigh an idle gateway: small, with a thousand routes and tenants, with a hundred plugins.
    Memory {
        /// The gateway's binary, instead of target/release/sluice.
        #[arg(long)]
        sluice: Option<PathBuf>,
    },
    /// Install and build what measuring needs, and nothing else.
    Prepare,
    /// Print what one signature check costs on the core this runs on, as JSON. `run` calls it, pinned.
    #[command(hide = true)]
    VerifyCost {
        /// The folder with keys and tokens.
        folder: PathBuf,
    },
}

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
struct RunArguments {
    /// Only these scenarios (may be repeated).
    #[arg(long = "scenario", value_enum)]
    scenarios: Vec<Scenario>,
    /// Only these proxies (may be repeated).
    #[arg(long = "peer", value_enum)]
    peers: Vec<Peer>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each measurement takes, in seconds, after two of warm-up.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// The gateway's binary, instead of target/release/sluice.
    #[arg(long)]
    sluice: Option<PathBuf>,
    /// Where the raw figures go, instead of a new file in gateway/bench/results.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match act(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sluice-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<()> {
    match command {
        Command::Run(arguments) => {
            let room = Room::find()?;
            let _lock = room.lock()?;
            let report = measure::measure(&room, &arguments)?;
            keep(&room, "load", &report.made, &report, arguments.out.as_deref())
        }
        Command::Introspection(arguments) => {
            let room = Room::find()?;
            let _lock = room.lock()?;
            let report = introspection::measure(&room, &arguments)?;
            keep(&room, "introspection", &report.made, &report, arguments.out.as_deref())
        }
        Command::Checks { rounds, tokens, out } => {
            let room = Room::find()?;
            let _lock = room.lock()?;
            let checks = checks::measure(&room, rounds, tokens)?;
            keep(&room, "checks", &checks.made, &checks, out.as_deref())
        }
        Command::Show { file } => {
            let tables = match file {
                Some(file) => reports::tables(&file)?,
                None => reports::newest(&Room::find()?)?,
            };
            print(&tables);
            Ok(())
        }
        Command::Soak { minutes, sluice } => {
            let room = Room::find()?;
            let _lock = room.lock()?;
            let soak = soak::soak(&room, &room.sluice_or(sluice)?, minutes)?;
            let file = room.new_results("soak", &soak.began, &soak.commit);
            results::write_json(&file, &soak)?;
            println!("{} requests, {} disconnects, {} reloads", soak.requests, soak.disconnects, soak.reloads);
            println!("raw figures: {}", file.display());
            if soak.leaks.is_empty() {
                println!("nothing was held afterwards");
                return Ok(());
            }
            Err(Failure::new(format_args!("held afterwards:\n{}", soak.leaks.join("\n"))))
        }
        Command::Memory { sluice } => {
            let room = Room::find()?;
            let _lock = room.lock()?;
            let memory = memory::memory(&room, &room.sluice_or(sluice)?)?;
            let file = room.new_results("memory", &memory.began, &memory.commit);
            results::write_json(&file, &memory)?;
            print!("{}", memory.table());
            println!("raw figures: {}", file.display());
            Ok(())
        }
        Command::Prepare => {
            let room = Room::find()?;
            let _lock = room.lock()?;
            tools::prepare(&room, Peer::ALL)?;
            material::Material::prepare(&room).map(|_| ())
        }
        Command::VerifyCost { folder } => {
            let costs = verify_cost::measure(&folder)?;
            println!("{}", serde_json::to_string(&costs).map_err(|error| Failure::because("costs as JSON", error))?);
            Ok(())
        }
    }
}

/// Writes figures of a kind, to `out` or among the results, and shows them.
fn keep(room: &Room, kind: &str, made: &Made, figures: &impl Serialize, out: Option<&Path>) -> Result<()> {
    let file = out.map_or_else(|| room.new_results(kind, &made.began, &made.commit), Path::to_owned);
    results::write_json(&file, figures)?;
    print(&reports::tables(&file)?);
    Ok(())
}

/// Prints to whoever still reads: a pager that was closed is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
