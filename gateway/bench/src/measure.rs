//! Measuring: rounds, checks, warm-up, figures.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sluice_testkit::{Client, client};
use tokio::runtime::Runtime;

use crate::RunArguments;
use crate::duty::{Duty, Load};
use crate::error::{Context, Failure, Result};
use crate::load::load;
use crate::material::Material;
use crate::peer::{Peer, Stage, start_origin};
use crate::process::free_port;
use crate::results::{Figures, Made, Report, Run};
use crate::room::Room;
use crate::scenario::Scenario;
use crate::{tools, verify_cost};

/// Load before figures count, in seconds: pools fill, branch predictors and JIT compilers learn.
const WARM_UP: u32 = 2;

/// How long a proxy that listens may take until it answers as it should.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait between two such tries.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Does everything that `arguments` ask for.
pub(crate) fn measure(room: &Room, arguments: &RunArguments) -> Result<Report> {
    let scenarios = if arguments.scenarios.is_empty() { Scenario::ALL } else { &arguments.scenarios };
    let peers = if arguments.peers.is_empty() { Peer::ALL } else { &arguments.peers };
    // Not needed where only peers are measured.
    let sluice = if peers.contains(&Peer::Sluice) { room.sluice_or(arguments.sluice.clone())? } else { PathBuf::new() };
    tools::prepare(room, peers)?;
    let material = Material::prepare(room)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context(|| "cannot start a runtime".to_owned())?;

    let mut report = Report {
        made: Made::now(room, command(arguments)),
        versions: peers.iter().map(|peer| (*peer, peer.version(room, &sluice))).collect(),
        verify_cost: verify_cost::measure_pinned(material.folder())?,
        runs: Vec::new(),
    };
    let origin = free_port()?;
    let _origin = start_origin(room, &material, origin, &[])?;
    for scenario in scenarios {
        let able: Vec<Peer> = peers.iter().copied().filter(|peer| peer.does(*scenario)).collect();
        for round in 0..arguments.rounds {
            // The order turns with the rounds, so that nobody always follows the same one.
            let turn = able.iter().cycle().skip(round as usize).take(able.len());
            for peer in turn {
                let stage = Stage { room, material: &material, sluice: &sluice, port: free_port()?, origin };
                let job = Job {
                    name: scenario.name(),
                    peer: *peer,
                    duty: Duty::Scenario(*scenario),
                    load: scenario.load(),
                    warm_up: WARM_UP,
                    seconds: arguments.seconds,
                };
                let figures = one(&job, &stage, &runtime)?;
                println!(
                    "{:<18} {:<13} round {}: {:>8.0} requests/s, {:>6.1} µs CPU each{}",
                    scenario.name(),
                    peer.name(),
                    round + 1,
                    figures.requests_per_second,
                    figures.cpu_us,
                    figures.failures()
                );
                report.runs.push(Run { scenario: *scenario, peer: *peer, round, figures });
            }
        }
    }
    Ok(report)
}

/// One measurement of one proxy.
pub(crate) struct Job<'a> {
    /// What messages call it.
    pub(crate) name: &'a str,
    pub(crate) peer: Peer,
    pub(crate) duty: Duty,
    pub(crate) load: Load,
    /// Load before figures count, and while they do, in seconds.
    pub(crate) warm_up: u32,
    pub(crate) seconds: u32,
}

/// Starts the proxy, shows that it does its job, warms it up, measures it and stops it.
pub(crate) fn one(job: &Job<'_>, stage: &Stage<'_>, runtime: &Runtime) -> Result<Figures> {
    let folder = stage.room.scratch();
    let process = job.peer.start(job.duty, stage)?;
    let checked = runtime.block_on(check(job, stage));
    checked.map_err(|fault| {
        Failure::new(format_args!("{} does not do {}: {fault}\n{}", job.peer.name(), job.name, process.said()))
    })?;
    let idle_bytes = process.resident()?;
    let drive = |seconds: u32| load(job.load, stage.port, seconds, stage.material, &folder);
    drive(job.warm_up)?;
    let before = process.cpu_time()?;
    let seen = drive(job.seconds)?;
    let used = process.cpu_time()?.saturating_sub(before);
    Ok(Figures {
        requests: seen.requests,
        seconds: seen.seconds,
        requests_per_second: seen.requests as f64 / seen.seconds,
        p50_us: seen.p50_us,
        p99_us: seen.p99_us,
        cpu_us: used.as_secs_f64() * 1e6 / (seen.requests.max(1)) as f64,
        idle_bytes,
        loaded_bytes: process.resident()?,
        failed: seen.failed,
    })
}

/// Shows that the proxy does the job, so that nobody is measured who answers without doing it.
async fn check(job: &Job<'_>, stage: &Stage<'_>) -> Result<()> {
    let scheme = if job.load.tls { "https" } else { "http" };
    let url = format!("{scheme}://bench.example/");
    let address = ([127, 0, 0, 1], stage.port).into();
    let mut client = client().trusting(stage.material.authority()).to(address);
    if job.load.http2 {
        client = client.http2();
    }
    let bearer = |token: String| ("authorization", format!("Bearer {token}"));
    let kind = job.load.tokens.map(|(kind, _)| kind);
    let good = kind.map(|kind| stage.material.token(kind)).transpose()?.map(bearer);
    let begun = Instant::now();
    loop {
        match ask(&client, &url, good.as_ref()).await {
            Ok((200, 1024)) => break,
            Ok((status, length)) if begun.elapsed() > PATIENCE => {
                return Err(Failure::new(format_args!("200 and 1024 bytes were expected, {status} and {length} came")));
            }
            Err(failure) if begun.elapsed() > PATIENCE => return Err(failure),
            Ok(_) | Err(_) => tokio::time::sleep(TRY_AGAIN).await,
        }
    }
    let mut refusals = Vec::new();
    if let Some(kind) = kind {
        refusals.push(Refusal { what: "no token", header: None, status: 401 });
        let header = Some(bearer(stage.material.forged(kind)?));
        refusals.push(Refusal { what: "a forged token", header, status: 401 });
    }
    if job.duty == Duty::Scenario(Scenario::Plugin) {
        let header = Some(("x-blocked", "yes".to_owned()));
        refusals.push(Refusal { what: "a blocked request", header, status: 403 });
    }
    for Refusal { what, header, status: expected } in refusals {
        let (status, _) = ask(&client, &url, header.as_ref()).await?;
        if status != expected {
            return Err(Failure::new(format_args!("{what} was answered by {status}, not by {expected}")));
        }
    }
    Ok(())
}

/// What a proxy that does its job answers in the negative.
struct Refusal {
    what: &'static str,
    header: Option<(&'static str, String)>,
    status: u16,
}

async fn ask(client: &Client, url: &str, header: Option<&(&str, String)>) -> Result<(u16, usize)> {
    let mut request = client.get(url);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let answer = tokio::time::timeout(PATIENCE, request.try_send()).await.context(|| "no answer".to_owned())?;
    let answer = answer.context(|| "a broken answer".to_owned())?;
    Ok((answer.status.as_u16(), answer.body.len()))
}

/// The command line that asks for the same again.
fn command(arguments: &RunArguments) -> String {
    let mut words = vec!["cargo run -p sluice-bench -- run".to_owned()];
    words.extend(arguments.scenarios.iter().map(|scenario| format!("--scenario {}", scenario.name())));
    words.extend(arguments.peers.iter().map(|peer| format!("--peer {}", peer.name())));
    words.push(format!("--rounds {} --seconds {}", arguments.rounds, arguments.seconds));
    words.extend(named_binary(arguments.sluice.as_deref()));
    words.join(" ")
}

/// How a command line names another binary than the release build; whose folder is of no interest elsewhere.
pub(crate) fn named_binary(sluice: Option<&Path>) -> Option<String> {
    Some(format!("--sluice …/{}", sluice?.file_name()?.to_string_lossy()))
}
