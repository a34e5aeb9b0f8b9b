//! What it costs when the second of two implementations takes over.
//!
//! `cargo run -p sluice-plugins --example failover_cost -- FOLDER` (the folder of `hostile.wasm` and `add_region_as.wasm`)
//! calls the request phase of one plugin in turn with messages on which its first implementation does its work, and with such
//! on which it traps and its second does it; prints the median and the 99th percentile of both in microseconds, and the
//! difference, which is what a failover adds. `--calls N` makes N of each.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a measuring tool")]

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sluice_plugins::{
    Chain, ComponentSource, Deps, Fallback, Options, Outcome, PluginConfig, RequestHead, SystemResolver, Unit, Visit,
    Who,
};
use sluice_vocabulary::clock::{SystemClock, SystemEntropy};
use sluice_vocabulary::request::Scheme;
use sluice_vocabulary::unit::{State, Stop, Task as _};
use sluice_vocabulary::{Path, PluginName};

/// The gateway's allocator: stores and instances are made and freed for each call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WARM_UP: usize = 2_000;

fn main() {
    let mut calls = 20_000;
    let mut folder = PathBuf::from("plugins/prebuilt");
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--calls" => calls = given.next().expect("a value").parse().expect("a number"),
            _ => folder = argument.into(),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&folder, calls));
}

async fn measure(folder: &FilePath, calls: usize) {
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

    let file = |name: &str| ComponentSource::File(name.into());
    let name = |text| PluginName::new(text).expect("a name");
    let traps = serde_json::json!({ "does": "trap", "when_header": "x-trap", "region": "eu-1" });
    let mut failing = PluginConfig { config: traps.clone(), ..PluginConfig::new(file("hostile.wasm")) };
    let mut fallback = Fallback::new(file("add_region_as.wasm"));
    // It is not to be quarantined: every call must be a failover.
    fallback.quarantine.after = 1_000_000;
    failing.fallback = Some(fallback);
    let alone = PluginConfig { config: traps, ..PluginConfig::new(file("add_region_as.wasm")) };
    let plugins = BTreeMap::from([(name("pair"), failing), (name("second"), alone)]);
    let folder = std::path::absolute(folder).expect("a folder");
    let prepared = handle.prepare(&plugins, &Path::root(), &folder).await.expect("components");
    let chain = |of| prepared.chain(&[name(of)], &Path::root()).expect("a chain");
    let (pair, second) = (chain("pair"), chain("second"));
    handle.commit(prepared);

    let mut well = Vec::with_capacity(calls);
    let mut over = Vec::with_capacity(calls);
    let mut by_itself = Vec::with_capacity(calls);
    for round in 0..WARM_UP + calls {
        let times = [call(&pair, false).await, call(&pair, true).await, call(&second, true).await];
        if round >= WARM_UP {
            for (all, time) in [&mut well, &mut over, &mut by_itself].into_iter().zip(times) {
                all.push(time);
            }
        }
    }
    let (well, over, by_itself) = (report("first", well), report("failover", over), report("second", by_itself));
    println!(
        "a failover adds {:.2} to the first, {:.2} to the second alone (medians, µs)",
        over - well,
        over - by_itself
    );
    stopper.stop();
    task.await.expect("the task ends");
}

async fn call(chain: &Chain, traps: bool) -> Duration {
    let mut headers: HeaderMap = (0..12)
        .map(|n| {
            let name = HeaderName::from_bytes(format!("x-field-{n}").as_bytes()).expect("a name");
            (name, HeaderValue::from_static("a value of usual length"))
        })
        .collect();
    if traps {
        headers.insert("x-trap", HeaderValue::from_static("1"));
    }
    let head = RequestHead {
        method: Method::GET,
        scheme: Scheme::Https,
        host: "api.example.com".into(),
        path: "/orders/7".into(),
        query: None,
        headers,
    };
    let who = Who::new("0".into(), None);
    let begun = Instant::now();
    let mut visit = Visit::new(who);
    let (_, outcome) = chain.on_request(head, &mut visit).await;
    drop(visit);
    let took = begun.elapsed();
    assert!(matches!(outcome, Outcome::Continue(_)), "{outcome:?}");
    took
}

/// Prints and gives the median.
fn report(what: &str, mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let micros = |quantile: f64| times[((times.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e6;
    println!("{what:<9} median {:7.2}  p99 {:7.2}  best {:7.2}", micros(0.5), micros(0.99), micros(0.0));
    micros(0.5)
}
