//! The phase after everything else: who is called in it, what it is told, and what it cannot do to anybody.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sluice_plugins::{Ended, OnFailure, Outcome, PluginConfig};

use crate::world::{World, hostile, plugin, request, text, visit};

/// A component with the phase, whose body is `does`. It may call `$status`, `$request-bytes` and `$response-bytes`.
fn at_the_end(does: &str) -> PluginConfig {
    text(&format!(
        r#"(component
            (import "sluice:plugin/exchange@1.1.0" (instance $exchange
                (export "status" (func (result u16)))
                (export "request-bytes" (func (result u64)))
                (export "response-bytes" (func (result u64)))))
            (core func $status (canon lower (func $exchange "status")))
            (core func $request-bytes (canon lower (func $exchange "request-bytes")))
            (core func $response-bytes (canon lower (func $exchange "response-bytes")))
            (core module $m
                (import "x" "status" (func $status (result i32)))
                (import "x" "request-bytes" (func $request-bytes (result i64)))
                (import "x" "response-bytes" (func $response-bytes (result i64)))
                (memory 1)
                (func (export "run") {does}))
            (core instance $i (instantiate $m (with "x" (instance
                (export "status" (func $status))
                (export "request-bytes" (func $request-bytes))
                (export "response-bytes" (func $response-bytes))))))
            (func $run (canon lift (core func $i "run")))
            (instance $phase (export "on-exchange-end" (func $run)))
            (export "sluice:plugin/exchange-end@1.1.0" (instance $phase)))"#
    ))
}

fn ended() -> Ended {
    Ended {
        status: 503,
        duration: Duration::from_millis(3),
        request_bytes: 7,
        response_bytes: 11,
        upstream: None,
        refused: Some("overloaded"),
    }
}

/// Sends a request through a chain and lets it end.
async fn pass(world: &World, chain: &sluice_plugins::Chain) -> Outcome {
    let mut visit = visit();
    let (head, outcome) = chain.on_request(request(&[]), &mut visit).await;
    let who = sluice_plugins::Who::new("r-1".into(), None);
    world.handle.ended(visit.take_ends(), Arc::new(head), who, ended());
    outcome
}

fn calls(world: &World, plugin: &str) -> f64 {
    world.metric(&format!("invocations_total{{plugin=\"{plugin}\",phase=\"exchange-end\"}}"))
}

/// Waits until a count that another task makes has come; a count that never comes is the test's failure.
async fn comes(what: &str, reached: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "never came: {what}");
}

/// Traps unless it is told what went on.
const KNOWS: &str = "(if (i32.ne (call $status) (i32.const 503)) (then unreachable))
    (if (i64.ne (call $request-bytes) (i64.const 7)) (then unreachable))
    (if (i64.ne (call $response-bytes) (i64.const 11)) (then unreachable))";

#[tokio::test]
async fn a_plugin_is_told_how_the_exchange_went() {
    let world = World::new().await;
    let loaded = world
        .load(&[
            ("knows", at_the_end(KNOWS)),
            ("wrong", at_the_end("(if (i32.eq (call $status) (i32.const 503)) (then unreachable))")),
        ])
        .await
        .unwrap();
    assert!(matches!(pass(&world, &loaded.all).await, Outcome::Continue(_)));
    comes("the failure of the second", || world.failures("wrong", "trap") == 1.0).await;
    assert_eq!((calls(&world, "knows"), world.failures("knows", "trap")), (1.0, 0.0));
}

#[tokio::test]
async fn each_way_to_fail_at_the_end_is_counted_and_the_next_request_is_served() {
    let world = World::new().await;
    let cases = [
        ("trap", "unreachable", "trap"),
        ("loop", "(loop $on (br $on))", "deadline"),
        ("storm", "(loop $on (drop (call $status)) (br $on))", "deadline"),
        ("grow", "(loop $on (br_if $on (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable", "memory"),
    ];
    let mut cells = 0;
    for (name, does, reason) in cases {
        for on_failure in [OnFailure::Refuse, OnFailure::Skip] {
            let chain = world.chain(PluginConfig { on_failure, ..at_the_end(does) }).await;
            let before = world.failures("p", reason);
            for sent in 1..=2 {
                assert!(matches!(pass(&world, &chain).await, Outcome::Continue(_)), "{name}");
                comes(name, || world.failures("p", reason) >= before + f64::from(sent)).await;
            }
            cells += 1;
        }
    }
    println!("{cells} ways to fail at the end");
    assert_eq!(cells, 8);
}

#[tokio::test]
async fn only_those_that_a_request_passed_are_told_of_its_end() {
    let world = World::new().await;
    let answers = hostile(json!({ "does": "trap", "phase": "request" }));
    let loaded = world.load(&[("a", at_the_end("")), ("b", answers), ("c", at_the_end(""))]).await.unwrap();
    assert!(matches!(pass(&world, &loaded.all).await, Outcome::Refuse(_)));
    comes("the call of the first", || calls(&world, "a") == 1.0).await;
    assert_eq!(calls(&world, "c"), 0.0);
}

#[tokio::test]
async fn a_chain_without_the_phase_leaves_nothing_to_tell() {
    let world = World::new().await;
    let chain = world.chain(plugin("add_region_rust.wasm", json!({}))).await;
    let mut visit = visit();
    chain.on_request(request(&[]), &mut visit).await;
    assert!(visit.take_ends().is_empty());
}

#[tokio::test]
async fn how_it_went_cannot_be_asked_before_it_is_over() {
    let world = World::new().await;
    let early = text(
        r#"(component
            (import "sluice:plugin/exchange@1.1.0" (instance $exchange (export "status" (func (result u16)))))
            (core func $status (canon lower (func $exchange "status")))
            (core module $m
                (import "x" "status" (func $status (result i32)))
                (func (export "start") (drop (call $status)))
                (func $run (drop (call $status)))
                (start $run))
            (core instance (instantiate $m (with "x" (instance (export "status" (func $status))))))
            (component $none
                (core module $m (func (export "run")))
                (core instance $i (instantiate $m))
                (func (export "on-request-headers") (canon lift (core func $i "run"))))
            (instance $phase (instantiate $none))
            (export "sluice:plugin/request-headers@1.1.0" (instance $phase)))"#,
    );
    let chain = world.chain(early).await;
    assert!(matches!(pass(&world, &chain).await, Outcome::Refuse(_)));
    assert_eq!(world.failures("p", "output"), 1.0);
}

#[tokio::test]
async fn what_nobody_can_be_told_of_is_counted() {
    let world = World::new().await;
    let chain = world.chain(at_the_end("")).await;
    let who = sluice_plugins::Who::new("r-1".into(), None);
    let head = Arc::new(request(&[]));
    let mut passed = Vec::new();
    for _ in 0..1100 {
        let mut visit = visit();
        chain.on_request(request(&[]), &mut visit).await;
        passed.push(visit.take_ends());
    }
    // Nothing is awaited meanwhile, so that the unit's task, on the same thread, cannot make room.
    for ends in passed {
        world.handle.ended(ends, Arc::clone(&head), who.clone(), ended());
    }
    assert_eq!(world.metric("ends_dropped_total{plugin=\"p\"}"), 76.0);
    comes("the calls of those that found room", || calls(&world, "p") == 1024.0).await;
}

#[tokio::test]
async fn an_upstream_can_be_chosen_only_by_who_has_a_phase_for_it() {
    let world = World::new().await;
    let mut config = text(
        r#"(component
            (import "sluice:plugin/routing@1.1.0" (instance $routing))
            (component $c
                (core module $m (func (export "run")))
                (core instance $i (instantiate $m))
                (func (export "on-exchange-end") (canon lift (core func $i "run"))))
            (instance $phase (instantiate $c))
            (export "sluice:plugin/exchange-end@1.1.0" (instance $phase)))"#,
    );
    config.grants.upstreams = vec![sluice_vocabulary::UpstreamName::new("blue").unwrap()];
    let faults = world.load(&[("p", config)]).await.expect_err("it must be refused");
    assert!(faults[0].to_string().contains("imports sluice:plugin/routing, but exports no phase"), "{faults:?}");
}
