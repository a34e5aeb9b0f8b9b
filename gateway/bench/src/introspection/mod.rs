//! The inline check against introspection: a matrix of how long the service takes, how many connections there are, and
//! whether tokens repeat, with every way of coming to know that a token is good.
//!
//! The same tokens, the same origin and the same cores as in the scenarios. The service costs as little as one can, so that
//! a delay of nothing is the best that introspection can ever be.

mod budget;
mod report;
mod table;
mod way;

use clap::Args;

use crate::duty::Load;
use crate::error::{Context, Result};
use crate::material::Material;
use crate::measure::{Job, named_binary, one};
use crate::peer::{Peer, Stage, start_origin};
use crate::process::{allow_many_files, free_port};
use crate::results::Made;
use crate::room::Room;
use crate::scenario::{TokenKind, Tokens};
use crate::tools;
pub(crate) use report::Report;
use report::Run;
pub(crate) use table::tables;
use way::Way;

/// Load before figures count, in seconds. Shorter than in the scenarios: there are many more measurements.
const WARM_UP: u32 = 1;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct IntrospectionArguments {
    /// How long the introspection service takes, in milliseconds (may be repeated).
    #[arg(long = "delay", default_values_t = [0, 2, 10], value_parser = clap::value_parser!(u32).range(..=1000))]
    delays: Vec<u32>,
    /// How many connections there are (may be repeated).
    #[arg(long, default_values_t = [1, 64, 512], value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: Vec<u32>,
    /// Which tokens requests carry (may be repeated).
    #[arg(long, value_enum, default_values_t = [Tokens::NeverSeen, Tokens::Repeated])]
    tokens: Vec<Tokens>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each measurement takes, in seconds, after one of warm-up.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// The gateway's binary, instead of target/release/sluice.
    #[arg(long)]
    sluice: Option<std::path::PathBuf>,
    /// Where the raw figures go, instead of a new file in gateway/bench/results.
    #[arg(long)]
    pub(crate) out: Option<std::path::PathBuf>,
}

/// Measures all that `arguments` ask for.
pub(crate) fn measure(room: &Room, arguments: &IntrospectionArguments) -> Result<Report> {
    let sluice = room.sluice_or(arguments.sluice.clone())?;
    let peers = [Peer::Sluice, Peer::Envoy, Peer::EnvoyCached, Peer::Nginx];
    tools::prepare(room, &peers)?;
    allow_many_files()?;
    let material = Material::prepare(room)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context(|| "cannot start a runtime".to_owned())?;
    let mut report = Report {
        made: Made::now(room, command(arguments)),
        versions: peers.iter().map(|peer| (*peer, peer.version(room, &sluice))).collect(),
        runs: Vec::new(),
    };
    let origin = free_port()?;
    let _origin = start_origin(room, &material, origin, &arguments.delays)?;
    let plan = plan(arguments);
    let about = plan.len() * (arguments.seconds + WARM_UP + 1) as usize / 60 + 1;
    println!("{} measurements, about {about} minutes", plan.len());
    for Step { way, tokens, connections, delay_ms, round } in plan {
        let load = Load { tls: false, http2: false, connections, tokens: Some((TokenKind::Rs256, tokens)) };
        let duty = way.duty(delay_ms.unwrap_or_default());
        let peer = way.peer(tokens);
        let job = Job { name: way.name(), peer, duty, load, warm_up: WARM_UP, seconds: arguments.seconds };
        let stage = Stage { room, material: &material, sluice: &sluice, port: free_port()?, origin };
        let figures = one(&job, &stage, &runtime)?;
        println!(
            "{:<11}{connections:>4} connections {:>6} {:<25} round {}: {:>8.0} requests/s, P99 {:>7.0} µs{}",
            tokens.name(),
            delay_ms.map_or("–".to_owned(), |delay| format!("{delay} ms")),
            way.name(),
            round + 1,
            figures.requests_per_second,
            figures.p99_us,
            figures.failures()
        );
        report.runs.push(Run { way, tokens, connections, delay_ms, round, figures });
    }
    Ok(report)
}

/// One measurement to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    way: Way,
    tokens: Tokens,
    connections: u32,
    delay_ms: Option<u32>,
    round: u32,
}

/// Everything, in order. What is compared is measured in one go; the order turns with the rounds, so that nobody always
/// follows the same one.
fn plan(arguments: &IntrospectionArguments) -> Vec<Step> {
    let mut plan = Vec::new();
    for round in 0..arguments.rounds {
        for tokens in arguments.tokens.iter().copied() {
            for connections in arguments.connections.iter().copied() {
                let ways = |asking: bool| {
                    Way::ALL.iter().copied().filter(move |way| way.asks() == asking && way.suits(tokens))
                };
                let step = |way: Way, delay_ms| Step { way, tokens, connections, delay_ms, round };
                let mut group: Vec<Step> = ways(false).map(|way| step(way, None)).collect();
                for delay in arguments.delays.iter().copied() {
                    group.extend(ways(true).map(|way| step(way, Some(delay))));
                }
                if round % 2 == 1 {
                    group.reverse();
                }
                plan.extend(group);
            }
        }
    }
    plan
}

/// The command line that asks for the same again.
fn command(arguments: &IntrospectionArguments) -> String {
    let mut words = vec!["cargo run -p sluice-bench -- introspection".to_owned()];
    words.extend(arguments.delays.iter().map(|delay| format!("--delay {delay}")));
    words.extend(arguments.connections.iter().map(|connections| format!("--connections {connections}")));
    words.extend(arguments.tokens.iter().map(|tokens| format!("--tokens {}", tokens.name())));
    words.push(format!("--rounds {} --seconds {}", arguments.rounds, arguments.seconds));
    words.extend(named_binary(arguments.sluice.as_deref()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(rounds: u32) -> IntrospectionArguments {
        IntrospectionArguments {
            delays: vec![0, 2, 10],
            connections: vec![1, 64, 512],
            tokens: vec![Tokens::NeverSeen, Tokens::Repeated],
            rounds,
            seconds: 2,
            sluice: None,
            out: None,
        }
    }

    #[test]
    fn the_inline_checks_are_measured_once_for_all_delays_and_caches_only_where_they_can_help() {
        let plan = plan(&arguments(1));
        let count = |way: Way| plan.iter().filter(|step| step.way == way).count();
        assert_eq!((count(Way::SluiceInline), count(Way::EnvoyInline)), (6, 6));
        assert_eq!((count(Way::SluiceIntrospect), count(Way::NginxIntrospect)), (18, 18));
        assert_eq!((count(Way::SluiceIntrospectCached), plan.len()), (9, 75));
    }

    #[test]
    fn rounds_measure_the_same_in_turned_order() {
        let plan = plan(&arguments(2));
        let (first, second) = plan.split_at(plan.len() / 2);
        let group = 2 + 3 * 3;
        let mut turned: Vec<Step> = second[..group].iter().map(|step| Step { round: 0, ..*step }).collect();
        turned.reverse();
        assert_eq!(turned, &first[..group]);
    }

    #[test]
    fn the_command_line_says_what_was_asked_for() {
        let mut asked = arguments(1);
        asked.delays = vec![10];
        asked.connections = vec![64];
        asked.sluice = Some("/somewhere/sluice".into());
        assert_eq!(
            command(&asked),
            "cargo run -p sluice-bench -- introspection --delay 10 --connections 64 --tokens never-seen --tokens repeated \
             --rounds 1 --seconds 2 --sluice …/sluice"
        );
    }
}
