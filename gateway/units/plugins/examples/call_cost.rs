//! What one phase costs: `cargo run -p sluice-plugins --example call_cost -- FILE…` calls each component's phases in fresh
//! instances, one after the other, and prints the median, the 99th percentile and the best of the times in microseconds.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a measuring tool")]

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sluice_plugins::{Chain, ComponentSource, Deps, Options, PluginConfig, RequestHead, ResponseHead, Unit, Who};
use sluice_vocabulary::clock::SystemClock;
use sluice_vocabulary::request::Scheme;
use sluice_vocabulary::unit::{State, Stop, Task as _};
use sluice_vocabulary::{Path, PluginName};

const WARM_UP: usize = 2_000;
const CALLS: usize = 20_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(std::env::args().skip(1).collect()));
}

async fn measure(files: Vec<String>) {
    let mut registry = prometheus_client::registry::Registry::default();
    let deps = Deps { clock: Arc::new(SystemClock) };
    let (handle, mut task) = Unit::new(deps, Options::default(), &mut registry).expect("an engine");
    let (stopper, stop) = Stop::new();
    let task = tokio::spawn(async move { task.run(stop).await });
    handle.health().watch().wait_for(State::serves).await.expect("the task runs");
    for file in files {
        let name = PluginName::new("measured").expect("a name");
        let mut config = PluginConfig::new(ComponentSource::File(file.clone().into()));
        config.config = serde_json::json!({ "region": "eu-1" });
        let plugins = BTreeMap::from([(name.clone(), config)]);
        let folder = std::env::current_dir().expect("a folder");
        let prepared = handle.prepare(&plugins, &Path::root(), FilePath::new(&folder)).await.expect("a component");
        let chain = prepared.chain(&[name], &Path::root()).expect("a chain");
        handle.commit(prepared);
        println!("{file}");
        if chain.has_request_phase() {
            report("request headers", requests(&chain).await);
        }
        if chain.has_response_phase() {
            report("response headers", responses(&chain).await);
        }
    }
    stopper.stop();
    task.await.expect("the task ends");
}

async fn requests(chain: &Chain) -> Vec<Duration> {
    let who = Who { request_id: "0".into(), tenant: None };
    let mut head = Some(request());
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..WARM_UP + CALLS {
        let sent = head.take().expect("it came back");
        let begun = Instant::now();
        let (back, outcome) = chain.on_request(sent, &who).await;
        let time = begun.elapsed();
        assert!(matches!(outcome, sluice_plugins::Outcome::Continue(_)), "{outcome:?}");
        if call >= WARM_UP {
            times.push(time);
        }
        head = Some(back);
    }
    times
}

async fn responses(chain: &Chain) -> Vec<Duration> {
    let who = Who { request_id: "0".into(), tenant: None };
    let request = Arc::new(request());
    let mut head = Some(ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() });
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..WARM_UP + CALLS {
        let sent = head.take().expect("it came back");
        let begun = Instant::now();
        let (back, _) = chain.on_response(Arc::clone(&request), sent, &who).await;
        let time = begun.elapsed();
        if call >= WARM_UP {
            times.push(time);
        }
        head = Some(back);
    }
    times
}

fn request() -> RequestHead {
    let headers = (0..12)
        .map(|n| {
            let name = HeaderName::from_bytes(format!("x-field-{n}").as_bytes()).expect("a name");
            (name, HeaderValue::from_static("a value of usual length"))
        })
        .collect();
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Https,
        host: "api.example.com".into(),
        path: "/orders/7".into(),
        query: None,
        headers,
    }
}

fn report(phase: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let micros = |quantile: f64| times[((times.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e6;
    println!("  {phase:<17} median {:6.2}  p99 {:6.2}  best {:6.2}", micros(0.5), micros(0.99), micros(0.0));
}
