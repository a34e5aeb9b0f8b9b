//! What one instance serves: both phases of one request, and nothing of another; and how a call is made when it is expected
//! to be brief.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sluice_plugins::{Options, Outcome};
use sluice_vocabulary::Reason;
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::ports::Inspect as _;

use crate::world::{World, changes, hostile, plugin, request, response, visit};

fn instances(world: &World) -> (u64, u64) {
    let seen = world.handle.inspect();
    let instances = &seen["sandbox"]["instances"];
    (instances["in_use"].as_u64().unwrap(), instances["kept"].as_u64().unwrap())
}

#[tokio::test]
async fn the_instance_of_a_request_serves_its_response_and_then_ends() {
    let world = World::new().await;
    for file in ["add_region_rust.wasm", "add_region_as.wasm"] {
        let chain = world.chain(plugin(file, json!({ "region": "eu-1" }))).await;
        for _ in 0..3 {
            let mut visit = visit();
            let (sent, _) = chain.on_request(request(&[]), &mut visit).await;
            assert_eq!(instances(&world), (1, 1), "{file}");
            let (head, outcome) = chain.on_response(Arc::new(sent), response(&[("server", "x")]), &mut visit).await;
            assert_eq!(changes(outcome).len(), 1, "{file}");
            assert_eq!(
                (&head.headers["x-region"], &head.headers["server"]),
                (&"eu-1".parse().unwrap(), &"x".parse().unwrap())
            );
            assert_eq!(instances(&world), (0, 0), "{file}");
        }
    }
}

#[tokio::test]
async fn a_request_that_ends_without_a_response_gives_back_what_was_kept_for_it() {
    let world = World::new().await;
    let chain = world.chain(plugin("add_region_rust.wasm", json!({}))).await;
    let mut visit = visit();
    chain.on_request(request(&[]), &mut visit).await;
    assert_eq!(instances(&world), (1, 1));
    drop(visit);
    assert_eq!(instances(&world), (0, 0));
    assert_eq!(world.metric("instances{plugin=\"p\"}"), 0.0);
}

#[tokio::test]
async fn what_refuses_or_fails_is_not_kept() {
    let world = World::new().await;
    let refusing = world.chain(plugin("add_region_rust.wasm", json!({}))).await;
    let mut visit = visit();
    refusing.on_request(request(&[("x-blocked", "yes")]), &mut visit).await;
    assert_eq!(instances(&world), (0, 0));
    let failing = world.chain(hostile(json!({ "does": "trap" }))).await;
    failing.on_request(request(&[]), &mut visit).await;
    assert_eq!(instances(&world), (0, 0));
}

#[tokio::test]
async fn requests_that_wait_for_their_upstreams_leave_half_of_the_instances_to_others() {
    let world = World::with(Options { instances: 4, queue: Duration::from_millis(5) }).await;
    let chain = world.chain(plugin("add_region_rust.wasm", json!({ "region": "eu-1" }))).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut visit = visit();
        let (_, outcome) = chain.on_request(request(&[]), &mut visit).await;
        assert_eq!(changes(outcome).len(), 1);
        waiting.push(visit);
    }
    assert_eq!(instances(&world), (2, 2));
    for mut visit in waiting {
        let (head, outcome) = chain.on_response(Arc::new(request(&[])), response(&[]), &mut visit).await;
        assert_eq!(changes(outcome).len(), 1);
        assert_eq!(head.headers["x-region"], "eu-1");
    }
    assert_eq!(instances(&world), (0, 0));
}

#[tokio::test]
async fn each_of_two_plugins_finds_its_own_instance_again() {
    let world = World::new().await;
    let of = |region| plugin("add_region_rust.wasm", json!({ "region": region }));
    let chain = world.load(&[("a", of("first")), ("b", of("second"))]).await.unwrap().all;
    let mut visit = visit();
    let (sent, _) = chain.on_request(request(&[]), &mut visit).await;
    assert_eq!(instances(&world), (2, 2));
    let (head, outcome) = chain.on_response(Arc::new(sent), response(&[]), &mut visit).await;
    assert_eq!(changes(outcome).len(), 2);
    assert_eq!(head.headers["x-region"], "first");
    assert_eq!(instances(&world), (0, 0));
}

#[tokio::test]
async fn a_plugin_that_was_brief_and_then_loops_ends_at_its_deadline_and_gives_its_thread_back_meanwhile() {
    let world = World::of_brief_calls().await;
    let mut looping = hostile(json!({ "does": "loop", "when_header": "x-loop" }));
    looping.limits.deadline = Span::millis(50);
    let loaded = world.load(&[("loop", looping), ("region", plugin("add_region_rust.wasm", json!({})))]).await.unwrap();
    let chain = loaded.each["loop"].clone();
    for _ in 0..2 {
        let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
        assert!(changes(outcome).is_empty());
    }
    // One thread: this test's.
    let looping = tokio::spawn(async move { chain.on_request(request(&[("x-loop", "1")]), &mut visit()).await });
    let mut served_meanwhile = 0;
    while !looping.is_finished() {
        let (_, outcome) = loaded.each["region"].on_request(request(&[]), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1);
        served_meanwhile += 1;
        tokio::task::yield_now().await;
    }
    let (head, outcome) = looping.await.unwrap();
    let Outcome::Refuse(refusal) = outcome else { panic!("{outcome:?}") };
    assert_eq!(refusal.reason, Reason::PluginFailed);
    assert_eq!(head, request(&[("x-loop", "1")]), "nothing of what it did before the tick has stayed");
    assert_eq!(world.failures("loop", "deadline"), 1.0);
    assert_eq!(world.metric("invocations_total{plugin=\"loop\",phase=\"request-headers\"}"), 3.0);
    assert!(served_meanwhile >= 10, "served {served_meanwhile} requests beside the loop");
    assert_eq!(instances(&world), (0, 0));
}

#[tokio::test]
async fn every_misbehaviour_is_ended_at_once_as_it_is_in_slices() {
    let world = World::of_brief_calls().await;
    for (does, reason) in [("trap", "trap"), ("grow", "memory"), ("recurse", "trap"), ("flood-headers", "output")] {
        let mut misbehaving = hostile(json!({ "does": does, "when_header": "x-do" }));
        misbehaving.limits.deadline = Span::secs(1);
        let chain = world.load(&[(does, misbehaving)]).await.unwrap().all;
        for _ in 0..2 {
            let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
            assert!(changes(outcome).is_empty());
        }
        let sent = request(&[("x-do", "1")]);
        let (head, outcome) = chain.on_request(sent.clone(), &mut visit()).await;
        assert!(matches!(outcome, Outcome::Refuse(_)), "{does}: {outcome:?}");
        assert_eq!(head, sent, "{does}");
        assert_eq!(world.failures(does, reason), 1.0, "{does} is counted as {reason}");
    }
}
