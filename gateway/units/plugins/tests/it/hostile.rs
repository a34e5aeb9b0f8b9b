//! Plugins that misbehave: each is ended and counted, changes nothing, and harms nobody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_plugins::{Chain, OnFailure, Outcome, RequestHead, ResponseHead};
use sluice_vocabulary::measure::ByteSize;
use sluice_vocabulary::{Reason, Refusal};

use crate::world::{World, changes, hostile, plugin, request, response, visit};

/// Every misbehaviour that must end the phase, and the reason under which it is counted.
const ENDED: [(&str, &str); 12] = [
    ("trap", "trap"),
    ("error", "trap"),
    ("loop", "deadline"),
    ("call-storm", "deadline"),
    ("grow", "memory"),
    ("recurse", "trap"),
    ("flood-headers", "output"),
    ("long-header", "output"),
    ("huge-answer", "output"),
    ("odd-status", "output"),
    ("split-answer", "output"),
    ("unheard-of", "trap"),
];
/// Misbehaviour that is turned back to the plugin as an error, which it then fails by.
const TURNED_BACK: [&str; 2] = ["split-header", "framing-header"];
/// Every value of the `reason` label.
const REASONS: [&str; 7] = ["trap", "deadline", "memory", "output", "overloaded", "share", "host"];
const PHASES: [&str; 2] = ["request", "response"];

/// Sends a message through the phase; gives what came back beside what was sent, and the outcome.
async fn call(chain: &Chain, phase: &str) -> (bool, Outcome) {
    if phase == "request" {
        let sent: RequestHead = request(&[]);
        let (head, outcome) = chain.on_request(sent.clone(), &mut visit()).await;
        (head == sent, outcome)
    } else {
        let sent: ResponseHead = response(&[("server", "x")]);
        let (head, outcome) = chain.on_response(Arc::new(request(&[])), sent.clone(), &mut visit()).await;
        (head == sent, outcome)
    }
}

fn refused(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refuse(refusal) => refusal,
        other => panic!("expected a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn every_misbehaviour_in_every_phase_is_answered_with_500_counted_and_leaves_the_message_as_it_was() {
    let world = World::new().await;
    let mut cells = 0;
    let turned_back = TURNED_BACK.map(|does| (does, "trap"));
    for (does, reason) in ENDED.into_iter().chain(turned_back) {
        for phase in PHASES {
            let mut plugin = hostile(json!({ "does": does, "phase": phase }));
            if reason != "deadline" {
                // Some touch megabytes, which on a slow machine takes longer than the usual deadline.
                plugin.limits.deadline = sluice_vocabulary::measure::Span::secs(1);
            }
            let loaded = world.load(&[(does, plugin)]).await.unwrap();
            let before = world.failures(does, reason);
            let (unchanged, outcome) = call(&loaded.all, phase).await;
            let refusal = refused(outcome);
            assert_eq!(refusal.reason, Reason::PluginFailed, "{does} in {phase}");
            assert!(refusal.detail.is_none(), "{does} in {phase}: the client learns nothing of what happened");
            assert!(refusal.internal.unwrap().contains(does), "{does} in {phase}: the operator learns which plugin");
            assert!(unchanged, "{does} in {phase}");
            assert_eq!(world.failures(does, reason), before + 1.0, "{does} in {phase} is counted as {reason}");
            assert_eq!(world.metric(&format!("instances{{plugin=\"{does}\"}}")), 0.0);
            cells += 1;
        }
    }
    assert_eq!(cells, (ENDED.len() + TURNED_BACK.len()) * PHASES.len());
}

#[tokio::test]
async fn a_failing_plugin_is_skipped_where_the_operator_says_so() {
    let world = World::new().await;
    for phase in PHASES {
        let mut failing = hostile(json!({ "does": "trap", "phase": phase }));
        failing.on_failure = OnFailure::Skip;
        let region = plugin("add_region_rust.wasm", json!({ "region": "eu-1" }));
        let chain = world.load(&[("a-failing", failing), ("b-region", region)]).await.unwrap().all;
        if phase == "request" {
            let (head, outcome) = chain.on_request(request(&[]), &mut visit()).await;
            assert_eq!(head.headers["x-region"], "eu-1");
            assert!(!head.headers.contains_key("x-hostile"));
            assert_eq!(changes(outcome).len(), 1);
        } else {
            let (head, outcome) = chain.on_response(Arc::new(request(&[])), response(&[]), &mut visit()).await;
            assert_eq!(head.headers["x-region"], "eu-1");
            assert!(!head.headers.contains_key("x-hostile"));
            assert_eq!(changes(outcome).len(), 1);
        }
    }
    assert_eq!(world.failures("a-failing", "trap"), 2.0);
}

#[tokio::test]
async fn a_plugin_traps_only_for_the_request_that_makes_it() {
    let world = World::new().await;
    let chain = world.chain(hostile(json!({ "does": "trap", "when_header": "x-trap" }))).await;
    for round in 0..50 {
        let (_, outcome) = chain.on_request(request(&[("x-trap", "1")]), &mut visit()).await;
        assert_eq!(refused(outcome).reason, Reason::PluginFailed, "round {round}");
        let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
        assert!(changes(outcome).is_empty());
    }
    assert_eq!(world.failures("p", "trap"), 50.0);
}

#[tokio::test]
async fn a_panic_tells_the_operator_what_it_said() {
    let world = World::new().await;
    let chain = world.chain(hostile(json!({ "does": "trap" }))).await;
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    chain.on_request(request(&[]), &mut visit()).await;
    drop(guard);
    let said = lines.text();
    assert!(said.contains("told to trap"), "{said}");
    assert!(said.contains("request.id=r-1") && said.contains("tenant=acme") && said.contains("plugin=p"), "{said}");
}

#[tokio::test]
async fn a_log_flood_is_cut_and_counted() {
    let world = World::new().await;
    let mut flooding = hostile(json!({ "does": "flood-log" }));
    flooding.limits.deadline = sluice_vocabulary::measure::Span::secs(1);
    let chain = world.chain(flooding).await;
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    chain.on_request(request(&[]), &mut visit()).await;
    drop(guard);
    let flood: Vec<_> = lines.text().lines().filter(|line| line.contains("flood flood")).map(str::len).collect();
    assert_eq!(flood.len(), 16);
    assert!(flood.iter().all(|length| *length < 1400), "{flood:?}");
    assert!(world.metric("log_lines_dropped_total{plugin=\"p\"}") > 1000.0);
}

#[tokio::test]
async fn an_overlong_refusal_stands_and_is_cut() {
    let world = World::new().await;
    let chain = world.chain(hostile(json!({ "does": "long-refusal" }))).await;
    let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
    let refusal = refused(outcome);
    assert_eq!(refusal.reason, Reason::PluginRefused);
    let detail = refusal.detail.unwrap();
    assert!(detail.len() <= 256 && !detail.contains('\n'), "{detail:?}");
    assert!(refusal.internal.unwrap().len() < 1100);
    assert_eq!(world.failures("p", "output"), 0.0);
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_deadline_and_gives_its_thread_back_meanwhile() {
    let world = World::new().await;
    let mut looping = hostile(json!({ "does": "loop" }));
    looping.limits.deadline = sluice_vocabulary::measure::Span::millis(50);
    let region = plugin("add_region_rust.wasm", json!({ "region": "eu-1" }));
    let loaded = world.load(&[("loop", looping), ("region", region)]).await.unwrap();
    let chain = loaded.each["loop"].clone();
    // One thread: this test's. The loop runs on it, and so does everything else.
    let begun = Instant::now();
    let looping = tokio::spawn(async move { chain.on_request(request(&[]), &mut visit()).await });
    let mut served_meanwhile = 0;
    while !looping.is_finished() {
        let (_, outcome) = loaded.each["region"].on_request(request(&[]), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1);
        served_meanwhile += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!(refused(looping.await.unwrap().1).reason, Reason::PluginFailed);
    assert!(begun.elapsed() >= Duration::from_millis(50));
    assert!(served_meanwhile >= 10, "served {served_meanwhile} requests beside the loop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_of_every_misbehaviour_at_once_lose_no_request() {
    let world = World::new().await;
    let misbehaving: Vec<_> = ENDED.iter().map(|(does, _)| (*does, hostile(json!({ "does": does })))).collect();
    let region = [("region", plugin("add_region_rust.wasm", json!({ "region": "eu-1" })))];
    let all: Vec<_> = misbehaving.into_iter().chain(region).collect();
    let loaded = world.load(&all).await.unwrap();
    let mut attackers = tokio::task::JoinSet::new();
    for (does, _) in ENDED {
        let chain = Arc::clone(&loaded.each[does]);
        attackers.spawn(async move {
            for _ in 0..5 {
                let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
                assert_eq!(refused(outcome).reason, Reason::PluginFailed, "{does}");
            }
        });
    }
    let mut served = 0;
    while !attackers.is_empty() {
        let (head, outcome) = loaded.each["region"].on_request(request(&[]), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1);
        assert_eq!(head.headers["x-region"], "eu-1");
        served += 1;
        while let Some(ended) = attackers.try_join_next() {
            ended.unwrap();
        }
        tokio::task::yield_now().await;
    }
    assert!(served > 0);
    let failed: f64 = REASONS.iter().map(|kind| world.failures("region", kind)).sum();
    assert_eq!(failed, 0.0);
}

#[tokio::test]
async fn memory_stops_at_its_bound() {
    let world = World::new().await;
    // Many small answers fit in 64 MiB; the bound is what stops it, not the machine.
    for memory in [ByteSize::mib(2), ByteSize::mib(64)] {
        let mut growing = hostile(json!({ "does": "grow" }));
        growing.limits.memory = memory;
        growing.limits.deadline = sluice_vocabulary::measure::Span::secs(1);
        let chain = world.chain(growing).await;
        let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
        let internal = refused(outcome).internal.unwrap();
        assert!(internal.contains(&format!("more than its {} bytes", memory.get())), "{internal}");
    }
}

/// A writer for log lines that can be read.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
