//! What it takes to make many plugins ready, compiled anew and from the cache, and the memory that they take.
//!
//! `cargo run --release -p sluice-plugins --example start_cost -- [--plugins N] FILE` makes N (100) components out of one,
//! which differ in their digests alone, and loads them in a process of its own each time: without a cache, with an empty one,
//! and three times with a full one.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a measuring tool")]

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use sluice_plugins::{CacheBounds, ComponentSource, Deps, Options, PluginConfig, SystemResolver, Unit};
use sluice_vocabulary::clock::{SystemClock, SystemEntropy};
use sluice_vocabulary::{Path, PluginName};

/// The gateway's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut given: Vec<String> = std::env::args().skip(1).collect();
    if given.first().is_some_and(|word| word == "load") {
        let state_dir = given.get(2).map(PathBuf::from);
        return load(FilePath::new(&given[1]), state_dir.as_deref());
    }
    let plugins = match given.iter().position(|word| word == "--plugins") {
        Some(at) => given.drain(at..at + 2).nth(1).expect("a number").parse().expect("a number"),
        None => 100_u32,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (components, state) = (folder.path().join("plugins"), folder.path().join("state"));
    std::fs::create_dir(&components).expect("a folder");
    let whole = std::fs::read(given.first().expect("a component's file")).expect("a component's file");
    for number in 0..plugins {
        let mut bytes = whole.clone();
        // A custom section: its id, its length, its name with the name's length before it, the number.
        bytes.extend([0, 6, 1, b'n']);
        bytes.extend(number.to_le_bytes());
        std::fs::write(components.join(format!("p{number}.wasm")), bytes).expect("a file");
    }
    println!("{plugins} plugins of {} bytes", whole.len());
    for (what, state) in
        [("no cache", None), ("empty cache", Some(&state))].into_iter().chain([("full cache", Some(&state)); 3])
    {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.arg("load").arg(&components).args(state);
        let output = command.output().expect("this program runs");
        assert!(output.status.success(), "{output:?}");
        println!("  {what:<12} {}", String::from_utf8_lossy(&output.stdout).trim_end());
    }
}

/// Loads all components of a folder, and tells how long that took.
fn load(folder: &FilePath, state_dir: Option<&FilePath>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let begun = Instant::now();
    let mut registry = prometheus_client::registry::Registry::default();
    let deps = Deps {
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        background: runtime.handle().clone(),
        resolver: Arc::new(SystemResolver),
    };
    let (handle, _task) = Unit::new(deps, Options::default(), &mut registry).expect("an engine");
    let alone = resident();
    let engine = begun.elapsed();
    handle.keep_in(state_dir, CacheBounds::default());
    let plugins: BTreeMap<_, _> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|file| {
            let file = file.expect("a file").path();
            let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
            (PluginName::new(&name).expect("a name"), PluginConfig::new(ComponentSource::File(file)))
        })
        .collect();
    let names: Vec<_> = plugins.keys().cloned().collect();
    let root = Path::root();
    let loading = handle.prepare(&plugins, &root, folder);
    let prepared = runtime.block_on(loading).expect("components that can be loaded");
    let chain = prepared.chain(&names, &Path::root()).expect("a chain");
    handle.commit(prepared);
    let ready = begun.elapsed();
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).expect("a page");
    let value =
        |name: &str| page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    println!(
        "ready after {:7.1} ms (engine {:4.1} ms), {} compiled, {} from the cache, {:5.1} MB resident, of which plugins {:5.1} MB",
        ready.as_secs_f64() * 1e3,
        engine.as_secs_f64() * 1e3,
        value("compile_duration_seconds_count"),
        value("cache_hits_total"),
        resident() as f64 / 1e6,
        resident().saturating_sub(alone) as f64 / 1e6,
    );
    drop(chain);
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
