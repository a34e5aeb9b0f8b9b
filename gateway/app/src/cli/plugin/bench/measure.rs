//! What a plugin costs, measured in the very unit that serves: its calls, its instances' memory, compiling and loading it.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use sluice_plugins::{
    CacheBounds, Chain, Deps, Ended, Handle, Options, Passage, PluginConfig, RequestHead, ResponseHead, Reuse,
    SystemResolver, Unit, Visit,
};
use sluice_vocabulary::clock::{SystemClock, SystemEntropy};
use sluice_vocabulary::ports::Inspect as _;
use sluice_vocabulary::unit::{State, Stop, Stopper, Task as _};
use sluice_vocabulary::{Path, PluginName};

use super::super::test::{Ready, who};
use crate::cli::Failure;

/// Calls before those that are measured.
const WARM_UP: usize = 200;
/// Instances that are weighed together.
const WEIGHED: usize = 64;
/// How often loading from the cache is measured.
const LOADS: usize = 9;

/// What was measured.
pub(super) struct Measured {
    pub(super) phases: Vec<Phase>,
    /// Calls that failed, by reason.
    pub(super) failures: BTreeMap<String, u64>,
    /// Bytes that one more instance takes; none where no phase of the plugin's goes on, so that none is kept.
    pub(super) resident: Option<u64>,
    pub(super) compile: Duration,
    /// None where nothing was kept.
    pub(super) load: Option<Duration>,
}

/// One phase's calls.
pub(super) struct Phase {
    pub(super) name: &'static str,
    /// Each in an instance of its own; empty where the message does not lead there.
    pub(super) fresh: Vec<Duration>,
    /// All in one instance; empty where that cannot be, since a body has an instance of its own.
    pub(super) reused: Vec<Duration>,
}

/// A unit at work.
struct Sandbox {
    handle: Handle,
    stopper: Stopper,
    task: tokio::task::JoinHandle<()>,
}

impl Sandbox {
    async fn open() -> Result<Self, Failure> {
        let deps = Deps {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            background: tokio::runtime::Handle::current(),
            resolver: Arc::new(SystemResolver),
        };
        let (handle, mut task) = Unit::new(deps, Options::default(), &mut Registry::default()).map_err(Failure::run)?;
        let (stopper, stop) = Stop::new();
        let task = tokio::spawn(async move { task.run(stop).await });
        let mut state = handle.health().watch();
        let state = state.wait_for(|state| *state != State::Starting).await.map_err(Failure::run)?.clone();
        if state.serves() {
            Ok(Self { handle, stopper, task })
        } else {
            Err(Failure::Run(format!("the plugin sandbox cannot be used: {state:?}")))
        }
    }

    /// Loads the plugin as a gateway does, and puts it in force; gives how long loading took.
    async fn load(
        &self,
        name: &PluginName,
        plugin: &PluginConfig,
        base: &FilePath,
    ) -> Result<(Arc<Chain>, Duration), Failure> {
        let plugins = BTreeMap::from([(name.clone(), plugin.clone())]);
        let begun = Instant::now();
        let prepared = self.handle.prepare(&plugins, &Path::root(), base).await;
        let took = begun.elapsed();
        let said = |faults: Vec<sluice_vocabulary::Fault>| {
            let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
            Failure::Usage(said.join("; "))
        };
        let prepared = prepared.map_err(said)?;
        let chain = prepared.chain(std::slice::from_ref(name), &Path::root()).map_err(said)?;
        self.handle.commit(prepared);
        Ok((chain, took))
    }

    async fn close(self) {
        self.stopper.stop();
        // It has nothing to say that would matter now.
        let _ = self.task.await;
    }
}

/// Measures a plugin on the message of `case`.
pub(super) async fn measure(
    case: &Ready,
    base: &FilePath,
    phases: &[&'static str],
    calls: usize,
) -> Result<Measured, Failure> {
    let name = PluginName::new("measured").map_err(Failure::run)?;
    let sandbox = Sandbox::open().await?;
    let fresh = PluginConfig { reuse: None, ..case.plugin.clone() };
    let reused = PluginConfig { reuse: Some(Reuse { requests: 1_000_000, ..Reuse::default() }), ..case.plugin.clone() };
    let (again, compile) = sandbox.load(&name, &reused, base).await?;
    let mut measured: Vec<Phase> =
        phases.iter().map(|name| Phase { name, fresh: Vec::new(), reused: Vec::new() }).collect();
    for phase in &mut measured {
        if ["request-headers", "request-body", "response-headers", "exchange-end"].contains(&phase.name) {
            phase.reused = times(phase.name, case, &again, calls).await;
        }
    }
    drop(again);
    let (chain, _) = sandbox.load(&name, &fresh, base).await?;
    for phase in &mut measured {
        phase.fresh = times(phase.name, case, &chain, calls).await;
    }
    let resident = weighed(case, &chain).await;
    let failures = failures(&sandbox.handle, &name);
    drop(chain);
    sandbox.close().await;
    let load = loaded(&name, &case.plugin, base).await?;
    Ok(Measured { phases: measured, failures, resident, compile, load })
}

/// How long calls of a phase took, once they are warm; none where the message does not lead there.
async fn times(phase: &str, case: &Ready, chain: &Chain, calls: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(calls);
    for call in 0..WARM_UP + calls {
        match called(phase, case, chain).await {
            Some(took) if call >= WARM_UP => times.push(took),
            Some(_) => {}
            None => break,
        }
    }
    times
}

/// How long one call took, with what comes of its instance; none where the message does not lead to the phase.
async fn called(phase: &str, case: &Ready, chain: &Chain) -> Option<Duration> {
    let who = who(case, "measured");
    let mut visit = Visit::new(who.clone());
    let request = || Arc::new(case.head.clone());
    match phase {
        "request-headers" => {
            let head = case.head.clone();
            let begun = Instant::now();
            let done = chain.on_request(head, &mut visit).await;
            drop(visit);
            took(begun, done)
        }
        "request-body" => {
            let (head, body) = (case.head.clone(), case.body.whole());
            let begun = Instant::now();
            let done = chain.on_request_body(head, body, &mut visit).await;
            drop(visit);
            took(begun, done)
        }
        "request-chunk" => {
            let (request, piece) = (request(), case.body.whole());
            if piece.is_empty() {
                return None;
            }
            let begun = Instant::now();
            let mut passage = Passage::of_request(&[chain], request, &mut visit).await.ok()?;
            let done = passage.piece(piece, true).await;
            drop(passage);
            took(begun, done)
        }
        "response-headers" => {
            let (request, head) = (request(), case.response.clone());
            let begun = Instant::now();
            let done = chain.on_response(request, head, &mut visit).await;
            drop(visit);
            took(begun, done)
        }
        "response-body" | "response-chunk" | "response-trailers" => {
            let (request, head) = (request(), Arc::new(case.response.clone()));
            let trailers = case.trailers.clone();
            let begun = Instant::now();
            let mut passage = Passage::of_response(&[chain], request, head, &mut visit).await.ok()?;
            if phase == "response-trailers" {
                let done = passage.trailers_now(trailers?);
                drop(passage);
                return took(begun, done);
            }
            let done = passage.piece_now(case.response_body.whole(), true);
            drop(passage);
            took(begun, done)
        }
        "exchange-end" => {
            // Whom to tell is noted by the phases before.
            let _ = chain.on_request(case.head.clone(), &mut visit).await;
            let ends = visit.take_ends();
            drop(visit);
            let (request, ended) = (request(), ended(case));
            let begun = Instant::now();
            ends.tell(request, who, ended).await;
            Some(begun.elapsed())
        }
        _ => None,
    }
}

/// The time since a call began, taken before what it gave is given up.
fn took<T>(begun: Instant, done: T) -> Option<Duration> {
    let took = begun.elapsed();
    drop(done);
    Some(took)
}

fn ended(case: &Ready) -> Ended {
    Ended {
        status: case.response.status.as_u16(),
        duration: case.end.duration,
        request_bytes: case.body.whole().len() as u64,
        response_bytes: case.response_body.whole().len() as u64,
        upstream: Some(case.upstream.clone()),
        refused: None,
    }
}

/// What one more instance takes of the machine's memory: many are made, each after one call, and held together.
async fn weighed(case: &Ready, chain: &Chain) -> Option<u64> {
    let (mut held, mut first) = (Vec::with_capacity(WEIGHED + 1), None);
    for _ in 0..=WEIGHED {
        held.push(instance(case, chain).await?);
        first = first.or_else(resident);
    }
    let grown = resident()?.saturating_sub(first?);
    drop(held);
    Some(grown / WEIGHED as u64)
}

/// What holds an instance.
enum Holder {
    Visit { _visit: Visit },
    Passage { _passage: Passage },
}

/// An instance after one call of the first phase that it goes on after; none where there is no such phase.
async fn instance(case: &Ready, chain: &Chain) -> Option<Holder> {
    let mut visit = Visit::new(who(case, "measured")).keeping_all();
    let request: Arc<RequestHead> = Arc::new(case.head.clone());
    if chain.has_request_phase() {
        drop(chain.on_request(case.head.clone(), &mut visit).await);
    }
    if visit.kept() == 0 && chain.has_request_body_phase() {
        drop(chain.on_request_body(case.head.clone(), case.body.whole(), &mut visit).await);
    }
    if visit.kept() == 0 && chain.has_response_phase() {
        drop(chain.on_response(Arc::clone(&request), case.response.clone(), &mut visit).await);
    }
    if visit.kept() > 0 {
        return Some(Holder::Visit { _visit: visit });
    }
    // What sees a body under way is its body's until the end.
    let (mut passage, piece) = if chain.follows_response() {
        let response: Arc<ResponseHead> = Arc::new(case.response.clone());
        (Passage::of_response(&[chain], request, response, &mut visit).await.ok()?, case.response_body.whole())
    } else if chain.has_request_chunk_phase() {
        (Passage::of_request(&[chain], request, &mut visit).await.ok()?, case.body.whole())
    } else {
        return None;
    };
    passage.piece(piece, true).await.ok()?;
    Some(Holder::Passage { _passage: passage })
}

/// Bytes of this process that are in the machine's memory.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn failures(handle: &Handle, name: &PluginName) -> BTreeMap<String, u64> {
    let page = handle.inspect();
    let counted = page["plugins"][name.as_str()]["failures"].as_object().cloned().unwrap_or_default();
    counted
        .into_iter()
        .filter_map(|(reason, count)| Some((reason, count.as_u64().filter(|count| *count > 0)?)))
        .collect()
}

/// How long a start takes to load it from a cache of compiled components: the median of several.
async fn loaded(name: &PluginName, plugin: &PluginConfig, base: &FilePath) -> Result<Option<Duration>, Failure> {
    let folder = tempfile::tempdir().map_err(Failure::run)?;
    let mut times = Vec::with_capacity(LOADS);
    // The first compiles, and keeps what it compiled.
    for round in 0..=LOADS {
        let sandbox = Sandbox::open().await?;
        sandbox.handle.keep_in(Some(folder.path()), CacheBounds::default());
        let (chain, took) = sandbox.load(name, plugin, base).await?;
        drop(chain);
        if round > 0 && sandbox.handle.inspect()["plugins"][name.as_str()]["from_cache"] == true {
            times.push(took);
        }
        sandbox.close().await;
    }
    times.sort();
    Ok(times.get(times.len() / 2).copied())
}
