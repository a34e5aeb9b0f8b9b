//! What one tenant may use: it waits, and is then turned away, and its neighbours do not feel it.

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use serde_json::json;
use sluice_plugins::{Options, Outcome};
use sluice_vocabulary::Reason;
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::ports::Inspect as _;
use sluice_vocabulary::share::{Claim, Share, Told};

use crate::world::{World, changes, hostile, plugin, request, visit, visit_on};

/// What costs its neighbours the most: time, memory, traps, floods.
const HOSTILE: [&str; 9] =
    ["loop", "call-storm", "grow", "recurse", "trap", "flood-headers", "flood-log", "huge-answer", "odd-status"];

fn claim(instances: u32, cpu: Duration) -> (Claim, Arc<Told>) {
    let told = Arc::new(Told::default());
    (Claim::new(Arc::default(), Share { instances, cpu }, Some(Arc::clone(&told))), told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_runs_every_hostile_plugin_at_full_load_takes_no_request_of_its_neighbour() {
    // Its instances would fill the sandbox, were they not bounded.
    let world = World::with(Options { instances: 16, queue: Duration::from_millis(50) }).await;
    let region = [("region", plugin("add_region_rust.wasm", json!({ "region": "eu-1" })))];
    let all: Vec<_> = HOSTILE.iter().map(|does| (*does, hostile(json!({ "does": does })))).chain(region).collect();
    let loaded = world.load(&all).await.unwrap();
    let (attacker, told) = claim(8, Duration::from_millis(100));
    let mut attackers = tokio::task::JoinSet::new();
    for worker in 0..48 {
        let (chain, claim) = (Arc::clone(&loaded.each[HOSTILE[worker % HOSTILE.len()]]), attacker.clone());
        attackers.spawn(async move {
            loop {
                let (_, outcome) = chain.on_request(request(&[]), &mut visit_on(claim.clone())).await;
                assert!(!matches!(outcome, Outcome::Continue(operations) if !operations.is_empty()));
                tokio::task::yield_now().await;
            }
        });
    }
    // Until the attacker has been turned away for what it used, and some more.
    let neighbour = Claim::alone();
    let mut served = 0;
    while told.refused.get() < 20 || served < 300 {
        let (head, outcome) = loaded.each["region"].on_request(request(&[]), &mut visit_on(neighbour.clone())).await;
        assert_eq!(changes(outcome).len(), 1, "after {served} requests");
        assert_eq!(head.headers["x-region"], "eu-1");
        served += 1;
        tokio::task::yield_now().await;
    }
    let share: f64 = HOSTILE.iter().map(|does| world.failures(does, "share")).sum();
    assert!(share >= 20.0, "what is turned away is counted: {share}");
    for reason in ["trap", "deadline", "memory", "output", "overloaded", "share", "host"] {
        assert_eq!(world.failures("region", reason), 0.0, "{reason}");
    }
    attackers.shutdown().await;
    assert_eq!(world.handle.inspect()["sandbox"]["instances"]["in_use"], 0, "nothing is held afterwards");
}

#[tokio::test]
async fn a_tenant_whose_time_is_used_up_is_turned_away_with_the_time_to_come_back_and_others_are_not() {
    let world = World::new().await;
    let chain = world.chain(plugin("add_region_rust.wasm", json!({}))).await;
    let (over, told) = claim(8, Duration::from_millis(10));
    over.charge(Duration::from_millis(100), std::time::Instant::now());
    let (_, outcome) = chain.on_request(request(&[]), &mut visit_on(over.clone())).await;
    let Outcome::Refuse(refusal) = outcome else { panic!("{outcome:?}") };
    assert_eq!(refusal.reason, Reason::PluginOverloaded);
    let after: u64 =
        refusal.headers.iter().find(|(name, _)| name == RETRY_AFTER).unwrap().1.to_str().unwrap().parse().unwrap();
    assert!((8..=9).contains(&after), "{after}");
    assert_eq!(told.refused.get(), 1);
    assert_eq!(world.failures("p", "share"), 1.0);
    assert_eq!(world.metric("invocations_total{plugin=\"p\",phase=\"request-headers\"}"), 0.0);
    let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
    assert_eq!(changes(outcome).len(), 1);
}

#[tokio::test]
async fn who_waits_on_account_of_its_tenant_holds_no_place_of_the_sandbox() {
    let world = World::with(Options { instances: 4, queue: Duration::from_millis(400) }).await;
    let mut looping = hostile(json!({ "does": "loop" }));
    looping.limits.deadline = Span::millis(200);
    let loaded = world.load(&[("loop", looping), ("ok", plugin("add_region_rust.wasm", json!({})))]).await.unwrap();
    let (one, _) = claim(1, Duration::from_millis(500));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (chain, claim) = (Arc::clone(&loaded.each["loop"]), one.clone());
        waiting.spawn(async move { chain.on_request(request(&[]), &mut visit_on(claim)).await });
    }
    while world.metric("instances{plugin=\"loop\"}") == 0.0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        assert_eq!(world.handle.inspect()["sandbox"]["instances"]["in_use"], 1);
        let (_, outcome) = loaded.each["ok"].on_request(request(&[]), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_kept_instance_is_let_go_while_its_tenant_waits() {
    let world = World::new().await;
    let chain = world.chain(plugin("add_region_rust.wasm", json!({}))).await;
    let (tenant, _) = claim(8, Duration::from_millis(10));
    let mut visit = visit_on(tenant.clone());
    let (sent, outcome) = chain.on_request(request(&[]), &mut visit).await;
    assert_eq!(changes(outcome).len(), 1);
    assert_eq!(world.handle.inspect()["sandbox"]["instances"]["kept"], 1);
    tenant.charge(Duration::from_millis(100), std::time::Instant::now());
    let (_, outcome) = chain.on_response(Arc::new(sent), crate::world::response(&[]), &mut visit).await;
    assert!(matches!(outcome, Outcome::Refuse(refusal) if refusal.reason == Reason::PluginOverloaded));
    assert_eq!(world.handle.inspect()["sandbox"]["instances"]["in_use"], 0);
}

#[tokio::test]
async fn the_time_that_plugins_take_is_told_of_their_tenant() {
    let world = World::new().await;
    let chain = world.chain(plugin("add_region_rust.wasm", json!({}))).await;
    let (tenant, told) = claim(8, Duration::from_millis(500));
    chain.on_request(request(&[]), &mut visit_on(tenant)).await;
    let of_plugin = world.metric("cpu_seconds_total{plugin=\"p\"}");
    assert!(of_plugin > 0.0 && (told.cpu.get() - of_plugin).abs() < 1e-9, "{} and {of_plugin}", told.cpu.get());
}

#[tokio::test]
async fn a_crowded_sandbox_turns_away_after_its_deadline_with_503_whoever_it_is_also_where_instances_are_kept() {
    let world = World::with(Options { instances: 2, queue: Duration::from_millis(5) }).await;
    let mut looping = hostile(json!({ "does": "loop" }));
    looping.limits.deadline = Span::secs(1);
    let loaded = world.load(&[("loop", looping), ("ok", plugin("add_region_rust.wasm", json!({})))]).await.unwrap();
    let mut keeps = visit();
    let (sent, _) = loaded.each["ok"].on_request(request(&[]), &mut keeps).await;
    let chain = Arc::clone(&loaded.each["loop"]);
    let holds = tokio::spawn(async move { chain.on_request(request(&[]), &mut visit()).await });
    while world.metric("instances{plugin=\"loop\"}") == 0.0 {
        tokio::task::yield_now().await;
    }
    let (_, outcome) = loaded.each["ok"].on_request(request(&[]), &mut visit()).await;
    let Outcome::Refuse(refusal) = outcome else { panic!("{outcome:?}") };
    assert_eq!(refusal.reason, Reason::PluginOverloaded);
    assert!(refusal.headers.iter().any(|(name, value)| name == RETRY_AFTER && value == "1"));
    // Whoever has kept its instance needs no other.
    let (_, outcome) = loaded.each["ok"].on_response(Arc::new(sent), crate::world::response(&[]), &mut keeps).await;
    assert_eq!(changes(outcome).len(), 1);
    let (_, outcome) = loaded.each["ok"].on_request(request(&[]), &mut visit()).await;
    assert_eq!(changes(outcome).len(), 1, "its place is free again");
    holds.abort();
}
