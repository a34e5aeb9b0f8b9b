//! What a tenant's plugins cost its neighbour, on the threads that both are served by.
//!
//! `cargo run -p sluice-plugins --example neighbour_cost -- FOLDER` (the folder of `hostile.wasm` and `add_region_rust.wasm`)
//! sends a neighbour's requests at a steady pace through a plugin, first alone, then while another tenant runs each hostile
//! plugin at full load; prints the median, the 99th percentile and the worst of the neighbour's times in microseconds, and how
//! many of its requests were lost. `--calls N` makes N of them each time, `--threads N` serves by N threads.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a measuring tool")]

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use sluice_plugins::{
    Chain, ComponentSource, Deps, Options, Outcome, PluginConfig, RequestHead, SystemResolver, Unit, Visit, Who,
};
use sluice_vocabulary::clock::{SystemClock, SystemEntropy};
use sluice_vocabulary::request::Scheme;
use sluice_vocabulary::share::{Claim, Share};
use sluice_vocabulary::unit::{State, Stop, Task as _};
use sluice_vocabulary::{Path, PluginName};

/// The gateway's allocator: stores and instances are made and freed for each call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HOSTILE: [&str; 7] = ["loop", "call-storm", "grow", "recurse", "trap", "flood-headers", "huge-answer"];
/// Requests under way that the hostile tenant keeps up.
const ATTACKERS: usize = 64;
/// Between two requests of the neighbour.
const PACE: Duration = Duration::from_millis(1);

fn main() {
    let (mut calls, mut threads) = (4_000, 2);
    let mut folder = PathBuf::from("plugins/prebuilt");
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || given.next().expect("a value").parse().expect("a number");
        match argument.as_str() {
            "--calls" => calls = number(),
            "--threads" => threads = number(),
            _ => folder = argument.into(),
        }
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(threads).enable_all().build().expect("a runtime");
    runtime.block_on(async move { tokio::spawn(measure(folder, calls)).await.expect("it ends") });
}

async fn measure(folder: PathBuf, calls: usize) {
    let mut registry = prometheus_client::registry::Registry::default();
    let deps = Deps {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        background: tokio::runtime::Handle::current(),
        resolver: Arc::new(SystemResolver),
    };
    let (handle, mut task) = Unit::new(deps, Options::default(), &mut registry).expect("an engine");
    let (stopper, stop) = Stop::new();
    let task = tokio::spawn(async move { task.run(stop).await });
    handle.health().watch().wait_for(State::serves).await.expect("the task runs");

    let name = |text: &str| PluginName::new(text).expect("a name");
    let plugin = |file: &str, config| PluginConfig { config, ..PluginConfig::new(ComponentSource::File(file.into())) };
    let hostile = HOSTILE.map(|does| (name(does), plugin("hostile.wasm", serde_json::json!({ "does": does }))));
    let mut plugins = BTreeMap::from(hostile);
    plugins.insert(name("region"), plugin("add_region_rust.wasm", serde_json::json!({ "region": "eu-1" })));
    let folder: &FilePath = &std::path::absolute(folder).expect("a folder");
    let prepared = handle.prepare(&plugins, &Path::root(), folder).await.expect("components");
    let chain = |of| prepared.chain(&[name(of)], &Path::root()).expect("a chain");
    let (region, hostile) = (chain("region"), HOSTILE.map(chain));
    handle.commit(prepared);

    let neighbour = Claim::alone();
    measure_neighbour("alone", &region, &neighbour, calls).await;
    for share in [Share::DEFAULT, Share { instances: 32, cpu: Duration::from_millis(100) }] {
        let attacker = Claim::new(Arc::default(), share, None);
        for (does, chain) in HOSTILE.iter().zip(&hostile) {
            let mut attackers = tokio::task::JoinSet::new();
            for _ in 0..ATTACKERS {
                let (chain, claim) = (Arc::clone(chain), attacker.clone());
                attackers.spawn(async move {
                    loop {
                        call(&chain, &claim).await;
                        tokio::task::yield_now().await;
                    }
                });
            }
            let beside = format!("{does}, {} ms/s", share.cpu.as_millis());
            measure_neighbour(&beside, &region, &neighbour, calls).await;
            attackers.shutdown().await;
        }
    }
    stopper.stop();
    task.await.expect("the task ends");
}

async fn measure_neighbour(beside: &str, chain: &Chain, claim: &Claim, calls: usize) {
    let mut times = Vec::with_capacity(calls);
    let mut lost = 0;
    let mut pace = tokio::time::interval(PACE);
    for _ in 0..calls {
        // From when it was due: a request that had to wait for a thread waited for its answer.
        let due = pace.tick().await;
        lost += usize::from(!call(chain, claim).await);
        times.push(Instant::now().saturating_duration_since(due.into_std()));
    }
    times.sort_unstable();
    let micros = |quantile: f64| times[((times.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e6;
    let (median, p99, worst) = (micros(0.5), micros(0.99), micros(1.0));
    println!("{beside:<24} median {median:9.1}  p99 {p99:9.1}  worst {worst:9.1}  lost {lost}");
}

/// Whether the request went on.
async fn call(chain: &Chain, claim: &Claim) -> bool {
    let head = RequestHead {
        method: Method::GET,
        scheme: Scheme::Https,
        host: "api.example.com".into(),
        path: "/orders/7".into(),
        query: None,
        headers: HeaderMap::new(),
    };
    let mut who = Who::new("0".into(), None);
    who.claim = claim.clone();
    let (_, outcome) = chain.on_request(head, &mut Visit::new(who)).await;
    matches!(outcome, Outcome::Continue(_))
}
