//! What plugins do for those who use them.

use std::sync::Arc;

use serde_json::json;
use sluice_plugins::{HeaderOp, OnFailure, Options, Outcome};
use sluice_vocabulary::Reason;
use sluice_vocabulary::ports::Inspect as _;

use crate::world::{World, changes, hostile, plugin, request, response, visit};

/// One job in two languages, as they are built now and as they were built for the first version of the contract, of which
/// the files are kept: what ran once goes on running.
const IMPLEMENTATIONS: [&str; 4] = [
    "add_region_rust.wasm",
    "add_region_as.wasm",
    "../frozen/1.0.0/add_region_rust.wasm",
    "../frozen/1.0.0/add_region_as.wasm",
];

#[tokio::test]
async fn a_plugin_sets_a_request_header_from_its_configuration() {
    let world = World::new().await;
    for file in IMPLEMENTATIONS {
        let chain = world.chain(plugin(file, json!({ "region": "eu-1" }))).await;
        let (head, outcome) =
            chain.on_request(request(&[("x-region", "forged"), ("x-region", "twice")]), &mut visit()).await;
        assert_eq!(head.headers.get_all("x-region").into_iter().collect::<Vec<_>>(), ["eu-1"], "{file}");
        let [HeaderOp::Set(name, value)] = &changes(outcome)[..] else { panic!("{file}: one change expected") };
        assert_eq!((name.as_str(), value.as_bytes()), ("x-region", &b"eu-1"[..]));
    }
}

#[tokio::test]
async fn a_plugin_sets_a_response_header() {
    let world = World::new().await;
    for file in IMPLEMENTATIONS {
        let chain = world.chain(plugin(file, json!({ "region": "eu-1" }))).await;
        let (head, outcome) =
            chain.on_response(Arc::new(request(&[])), response(&[("server", "x")]), &mut visit()).await;
        assert_eq!(head.headers["x-region"], "eu-1", "{file}");
        assert_eq!(head.headers["server"], "x", "{file}");
        assert_eq!(changes(outcome).len(), 1);
    }
}

#[tokio::test]
async fn a_plugin_refuses_with_a_sentence_for_the_client_and_changes_nothing() {
    let world = World::new().await;
    for file in IMPLEMENTATIONS {
        let chain = world.chain(plugin(file, json!({ "region": "eu-1" }))).await;
        for fields in [&[("x-blocked", "yes")][..], &[("x-blocked", "no"), ("X-Blocked", "yes")]] {
            let sent = request(fields);
            let (head, outcome) = chain.on_request(sent.clone(), &mut visit()).await;
            let Outcome::Refuse(refusal) = outcome else { panic!("{file}: {outcome:?}") };
            assert_eq!(refusal.reason, Reason::PluginRefused);
            assert_eq!(refusal.detail.as_deref(), Some("this request is marked as blocked"));
            assert_eq!(head, sent);
        }
        let (_, outcome) = chain.on_request(request(&[("x-blocked", "no")]), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1);
    }
}

#[tokio::test]
async fn two_implementations_of_one_job_give_the_same_result() {
    let world = World::new().await;
    let told = json!({ "region": "süd-1", "block_header": "x-stop" });
    let mut seen = Vec::new();
    for file in IMPLEMENTATIONS {
        let chain = world.chain(plugin(file, told.clone())).await;
        let mut of_this = Vec::new();
        for fields in
            [&[][..], &[("x-stop", "yes")], &[("x-stop", "YES")], &[("x-blocked", "yes")], &[("x-region", "a")]]
        {
            of_this.push(format!("{:?}", chain.on_request(request(fields), &mut visit()).await));
            let sent = Arc::new(request(fields));
            of_this.push(format!("{:?}", chain.on_response(sent, response(&[("x-region", "a")]), &mut visit()).await));
        }
        seen.push(of_this);
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0][0].contains("s\\xc3\\xbcd-1"), "{}", seen[0][0]);
}

#[tokio::test]
async fn a_phase_that_nobody_exports_is_not_called() {
    let world = World::new().await;
    let empty = world.load(&[]).await.unwrap().all;
    assert!(empty.is_empty() && !empty.has_request_phase() && !empty.has_response_phase());
    let both = world.chain(plugin("add_region_rust.wasm", json!({}))).await;
    assert!(!both.is_empty() && both.has_request_phase() && both.has_response_phase());
}

#[tokio::test]
async fn a_chain_calls_in_order_on_the_way_in_and_in_reverse_on_the_way_out() {
    let world = World::new().await;
    let of = |region| plugin("add_region_rust.wasm", json!({ "region": region }));
    let chain = world.load(&[("a", of("first")), ("b", of("second"))]).await.unwrap().all;
    let (head, outcome) = chain.on_request(request(&[]), &mut visit()).await;
    assert_eq!(head.headers["x-region"], "second");
    assert_eq!(changes(outcome).len(), 2);
    let (head, _) = chain.on_response(Arc::new(request(&[])), response(&[]), &mut visit()).await;
    assert_eq!(head.headers["x-region"], "first");
}

#[tokio::test]
async fn a_later_plugin_sees_what_an_earlier_one_changed() {
    let world = World::new().await;
    let first = plugin("add_region_rust.wasm", json!({ "region": "yes" }));
    let second = plugin("add_region_rust.wasm", json!({ "block_header": "x-region" }));
    let chain = world.load(&[("a", first), ("b", second)]).await.unwrap().all;
    let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
    assert!(matches!(outcome, Outcome::Refuse(_)), "{outcome:?}");
}

#[tokio::test]
async fn no_request_sees_anything_of_another() {
    let world = World::new().await;
    let chain = world.chain(plugin("add_region_rust.wasm", json!({ "region": "eu-1" }))).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..400 {
        let chain = Arc::clone(&chain);
        calls.spawn(async move {
            let id = number.to_string();
            let blocked = number % 3 == 0;
            let fields = [("x-id", id.as_str()), ("x-blocked", if blocked { "yes" } else { "no" })];
            let (head, outcome) = chain.on_request(request(&fields), &mut visit()).await;
            assert_eq!(head.headers["x-id"], id.as_str());
            assert_eq!(matches!(outcome, Outcome::Refuse(_)), blocked);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(world.metric("invocations_total{plugin=\"p\",phase=\"request-headers\"}"), 400.0);
    assert_eq!(world.metric("instances{plugin=\"p\"}"), 0.0);
}

#[tokio::test]
async fn a_call_that_finds_no_instance_in_time_is_shed_with_503() {
    let world = World::with(Options { instances: 1, queue: std::time::Duration::from_millis(5) }).await;
    let mut looping = hostile(json!({ "does": "loop" }));
    looping.limits.deadline = sluice_vocabulary::measure::Span::millis(400);
    let loaded = world.load(&[("loop", looping), ("ok", plugin("add_region_rust.wasm", json!({})))]).await.unwrap();
    let holds_the_instance = loaded.each["loop"].clone();
    let held = tokio::spawn(async move { holds_the_instance.on_request(request(&[]), &mut visit()).await });
    while world.metric("instances{plugin=\"loop\"}") == 0.0 {
        tokio::task::yield_now().await;
    }
    let (_, outcome) = loaded.each["ok"].on_request(request(&[]), &mut visit()).await;
    let Outcome::Refuse(refusal) = outcome else { panic!("{outcome:?}") };
    assert_eq!(refusal.reason, Reason::PluginOverloaded);
    assert_eq!(world.failures("ok", "overloaded"), 1.0);
    held.abort();
    assert!(held.await.is_err());
    let (_, outcome) = loaded.each["ok"].on_request(request(&[]), &mut visit()).await;
    assert_eq!(changes(outcome).len(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_guest() {
    let world = World::new().await;
    let mut looping = hostile(json!({ "does": "loop" }));
    looping.limits.deadline = sluice_vocabulary::measure::Span::secs(1);
    let chain = world.chain(looping).await;
    let call = tokio::spawn(async move { chain.on_request(request(&[]), &mut visit()).await });
    while world.metric("instances{plugin=\"p\"}") == 0.0 {
        tokio::task::yield_now().await;
    }
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(world.metric("instances{plugin=\"p\"}"), 0.0);
    assert_eq!(world.handle.inspect()["sandbox"]["instances"]["in_use"], 0);
}

#[tokio::test]
async fn without_the_ticker_nothing_is_called() {
    let world = World::new().await;
    let chain = world.chain(plugin("add_region_rust.wasm", json!({}))).await;
    let _handle = world.stop().await;
    let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
    let Outcome::Refuse(refusal) = outcome else { panic!("{outcome:?}") };
    assert_eq!(refusal.reason, Reason::PluginFailed);
}

#[tokio::test]
async fn inspection_shows_what_is_loaded_and_what_it_did() {
    let world = World::new().await;
    let mut skipping = plugin("add_region_rust.wasm", json!({}));
    skipping.on_failure = OnFailure::Skip;
    let chain = world.chain(skipping).await;
    chain.on_request(request(&[]), &mut visit()).await;
    let seen = world.handle.inspect();
    assert_eq!(seen["sandbox"]["allocator"], "pooling");
    let plugin = &seen["plugins"]["p"];
    assert_eq!(plugin["phases"]["request-headers"]["invocations"], 1);
    assert_eq!(plugin["phases"]["response-headers"]["invocations"], 0);
    assert_eq!(plugin["on_failure"], "skip");
    assert_eq!(plugin["limits"]["memory"], "16MiB");
    assert_eq!(plugin["failures"]["trap"], 0);
    assert_eq!(plugin["sha256"].as_str().unwrap().len(), 64);
    assert!(world.metric("cpu_seconds_total{plugin=\"p\"}") > 0.0);
}
