//! What one phase costs, beside what the engine alone takes for it.
//!
//! `cargo run -p sluice-plugins --example call_cost -- FILE…` calls each component's phases again and again, every way of
//! calling in turn so that a busy machine is equally unfair to all of them, and prints the median, the 99th percentile and the
//! best of the times in microseconds. `--only WAY` with `--calls N` makes N calls of one way and no other: run it with
//! two values of N under a tool that counts instructions, and the difference is what the calls took. `--instances N` makes
//! the pool smaller, for such tools that cannot reserve its address space. The engine alone knows the contract as it was in 1.0:
//! take components from `plugins/frozen/1.0.0`.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a measuring tool")]

mod bare;
mod sample;

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_plugins::{
    Chain, ComponentSource, Deps, Handle, Options, Outcome, PluginConfig, RequestHead, ResponseHead, SystemResolver,
    Unit, Visit, Who,
};
use sluice_vocabulary::clock::{SystemClock, SystemEntropy};
use sluice_vocabulary::unit::{State, Stop, Task as _};
use sluice_vocabulary::{Path, PluginName};

use crate::bare::{Bare, Manner};

/// The gateway's allocator: stores and instances are made and freed for each call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WARM_UP_ROUNDS: usize = 4;
const CALLS_PER_ROUND: usize = 500;
const REQUEST: usize = 0;
const RESPONSE: usize = 1;
/// One request and its response, whose phases may share an instance.
const BOTH: usize = 2;

/// A way of calling: what is measured, as it is printed and named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Engine(Manner),
    Chain,
}

const WAYS: [(&str, Way); 4] = [
    ("engine", Way::Engine(Manner::Direct)),
    ("engine-own-stack", Way::Engine(Manner::OwnStack)),
    ("engine-again", Way::Engine(Manner::Again)),
    ("chain", Way::Chain),
];

/// What the command line says.
struct Arguments {
    only: Option<Way>,
    calls: usize,
    instances: u32,
    files: Vec<String>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(arguments()));
}

fn arguments() -> Arguments {
    let mut arguments =
        Arguments { only: None, calls: 20_000, instances: Options::default().instances, files: Vec::new() };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().expect("a value");
        match argument.as_str() {
            "--only" => {
                let name = value();
                let way = WAYS.into_iter().find(|(known, _)| *known == name);
                arguments.only = Some(way.expect("engine, engine-own-stack, engine-again or chain").1);
            }
            "--calls" => arguments.calls = value().parse().expect("a number"),
            "--instances" => arguments.instances = value().parse().expect("a number"),
            _ => arguments.files.push(argument),
        }
    }
    arguments
}

async fn measure(arguments: Arguments) {
    let mut registry = prometheus_client::registry::Registry::default();
    let deps = Deps {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        background: tokio::runtime::Handle::current(),
        resolver: Arc::new(SystemResolver),
    };
    let options = Options { instances: arguments.instances, ..Options::default() };
    let (handle, mut task) = Unit::new(deps, options, &mut registry).expect("an engine");
    let (stopper, stop) = Stop::new();
    let task = tokio::spawn(async move { task.run(stop).await });
    handle.health().watch().wait_for(State::serves).await.expect("the task runs");
    for file in &arguments.files {
        let bytes = std::fs::read(file).expect("a component's file");
        let mut measured = Measured {
            bare: Bare::new(&bytes, arguments.instances),
            chain: chain(&handle, file).await,
            who: Who::new("0".into(), None),
            request: Some(sample::request()),
            sent: Arc::new(sample::request()),
            response: Some(sample::response()),
        };
        println!("{file}");
        for (phase, name) in [(REQUEST, "request headers"), (RESPONSE, "response headers"), (BOTH, "both, one request")]
        {
            if measured.has(phase) {
                println!("  {name}");
                measured.compare(phase, &arguments).await;
            }
        }
    }
    stopper.stop();
    task.await.expect("the task ends");
}

async fn chain(handle: &Handle, file: &str) -> Arc<Chain> {
    let name = PluginName::new("measured").expect("a name");
    let mut config = PluginConfig::new(ComponentSource::File(file.into()));
    config.config = serde_json::json!({ "region": "eu-1" });
    let plugins = BTreeMap::from([(name.clone(), config)]);
    let folder = std::env::current_dir().expect("a folder");
    let prepared = handle.prepare(&plugins, &Path::root(), FilePath::new(&folder)).await.expect("a component");
    let chain = prepared.chain(&[name], &Path::root()).expect("a chain");
    handle.commit(prepared);
    chain
}

/// One component, and what is sent through it.
struct Measured {
    bare: Bare,
    chain: Arc<Chain>,
    who: Who,
    request: Option<RequestHead>,
    sent: Arc<RequestHead>,
    response: Option<ResponseHead>,
}

impl Measured {
    fn has(&self, phase: usize) -> bool {
        if phase == BOTH { self.has(REQUEST) && self.has(RESPONSE) } else { self.bare.has(phase) }
    }

    async fn compare(&mut self, phase: usize, arguments: &Arguments) {
        if let Some(only) = arguments.only {
            for _ in 0..arguments.calls {
                self.call(only, phase).await;
            }
            return;
        }
        let mut times: [Vec<Duration>; WAYS.len()] = Default::default();
        for round in 0..WARM_UP_ROUNDS + arguments.calls.div_ceil(CALLS_PER_ROUND) {
            for ((_, way), times) in WAYS.into_iter().zip(&mut times) {
                for _ in 0..CALLS_PER_ROUND {
                    let time = self.call(way, phase).await;
                    if round >= WARM_UP_ROUNDS {
                        times.push(time);
                    }
                }
            }
        }
        for ((name, _), times) in WAYS.into_iter().zip(times) {
            report(name, times);
        }
    }

    async fn call(&mut self, way: Way, phase: usize) -> Duration {
        let who = self.who.clone();
        let begun = Instant::now();
        let phases = if phase == BOTH { REQUEST..=RESPONSE } else { phase..=phase };
        // Its end is a part of what a request costs.
        let mut visit = (way == Way::Chain).then(|| Visit::new(who));
        for phase in phases {
            match (&mut visit, way) {
                (Some(visit), _) => self.pass(phase, visit).await,
                (None, Way::Engine(manner)) => self.bare.call(phase, manner).await,
                (None, Way::Chain) => {}
            }
        }
        drop(visit);
        begun.elapsed()
    }

    async fn pass(&mut self, phase: usize, visit: &mut Visit) {
        let outcome = if phase == REQUEST {
            let head = self.request.take().expect("it came back");
            let (head, outcome) = self.chain.on_request(head, visit).await;
            self.request = Some(head);
            outcome
        } else {
            let head = self.response.take().expect("it came back");
            let (head, outcome) = self.chain.on_response(Arc::clone(&self.sent), head, visit).await;
            self.response = Some(head);
            outcome
        };
        assert!(matches!(outcome, Outcome::Continue(_)), "{outcome:?}");
    }
}

fn report(way: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let micros = |quantile: f64| times[((times.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e6;
    println!("    {way:<17} median {:6.2}  p99 {:6.2}  best {:6.2}", micros(0.5), micros(0.99), micros(0.0));
}
