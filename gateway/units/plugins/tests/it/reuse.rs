//! Instances that serve more than one request: when they are, and when they are not.

use std::sync::Arc;

use serde_json::{Value, json};
use sluice_plugins::{Options, Outcome, PluginConfig, Reuse, Visit, Who};
use sluice_vocabulary::TenantId;
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::ports::Inspect as _;

use crate::world::{World, changes, hostile, plugin, request, response, visit};

fn reused(world: &World) -> f64 {
    world.metric("instances_reused_total{plugin=\"p\"}")
}

fn resting(world: &World) -> u64 {
    world.handle.inspect()["sandbox"]["instances"]["resting"].as_u64().unwrap()
}

fn again(file: &str, config: Value) -> PluginConfig {
    PluginConfig { reuse: Some(Reuse::default()), ..plugin(file, config) }
}

fn of_tenant(tenant: Option<&str>) -> Visit {
    Visit::new(Who::new("r".into(), tenant.map(|tenant| TenantId::new(tenant).unwrap())))
}

#[tokio::test]
async fn one_instance_serves_request_after_request_and_sees_each_as_it_is() {
    let world = World::new().await;
    for (file, kind) in [("add_region_rust.wasm", "native"), ("add_region_as.wasm", "script")] {
        let chain = world.chain(again(file, json!({ "region": "eu-1" }))).await;
        let before = reused(&world);
        for round in 0..50 {
            let blocked = round % 5 == 4;
            let fields: &[_] = if blocked { &[("x-blocked", "yes")] } else { &[] };
            let mut visit = visit();
            let (sent, outcome) = chain.on_request(request(fields), &mut visit).await;
            if blocked {
                assert!(matches!(outcome, Outcome::Refuse(_)), "{kind} {round}: {outcome:?}");
                continue;
            }
            assert_eq!(changes(outcome).len(), 1, "{kind} {round}");
            let (head, outcome) = chain.on_response(Arc::new(sent), response(&[]), &mut visit).await;
            assert_eq!((changes(outcome).len(), &head.headers["x-region"]), (1, &"eu-1".parse().unwrap()));
        }
        assert_eq!(reused(&world) - before, 49.0, "{kind}");
        assert_eq!(resting(&world), 1);
    }
}

#[tokio::test]
async fn no_instance_serves_two_tenants() {
    let world = World::new().await;
    let chain = world.chain(again("add_region_rust.wasm", json!({}))).await;
    for tenant in [Some("acme"), Some("globex"), None] {
        chain.on_request(request(&[]), &mut of_tenant(tenant)).await;
    }
    assert_eq!((reused(&world), resting(&world)), (0.0, 3));
    for tenant in [Some("acme"), Some("globex"), None] {
        chain.on_request(request(&[]), &mut of_tenant(tenant)).await;
    }
    assert_eq!((reused(&world), resting(&world)), (3.0, 3));
}

#[tokio::test]
async fn without_the_operators_word_every_request_has_an_instance_of_its_own() {
    let world = World::new().await;
    let chain = world.chain(plugin("add_region_rust.wasm", json!({}))).await;
    for _ in 0..3 {
        chain.on_request(request(&[]), &mut visit()).await;
    }
    assert_eq!((reused(&world), resting(&world)), (0.0, 0));
}

#[tokio::test]
async fn what_failed_is_never_used_again() {
    let world = World::new().await;
    for does in ["trap", "loop", "grow", "flood-headers"] {
        let config = hostile(json!({ "does": does, "when_header": "x-now" }));
        let chain = world.chain(PluginConfig { reuse: Some(Reuse::default()), ..config }).await;
        chain.on_request(request(&[]), &mut visit()).await;
        assert_eq!(resting(&world), 1, "{does}");
        let (_, outcome) = chain.on_request(request(&[("x-now", "1")]), &mut visit()).await;
        assert!(matches!(outcome, Outcome::Refuse(_)), "{does}: {outcome:?}");
        assert_eq!(resting(&world), 0, "{does}");
        let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
        changes(outcome);
    }
}

#[tokio::test]
async fn an_instance_is_thrown_away_after_as_many_requests_as_it_may_serve() {
    let world = World::new().await;
    let mut config = again("add_region_rust.wasm", json!({}));
    config.reuse = Some(Reuse { requests: 3, ..Reuse::default() });
    let chain = world.chain(config).await;
    for expected in [1, 1, 0, 1, 1, 0] {
        chain.on_request(request(&[]), &mut visit()).await;
        assert_eq!(resting(&world), expected);
    }
    assert_eq!(reused(&world), 4.0);
}

#[tokio::test]
async fn instances_that_rest_make_room_for_other_plugins() {
    let world = World::with(Options { instances: 4, queue: std::time::Duration::from_millis(50) }).await;
    let loaded = world
        .load(&[("p", again("add_region_rust.wasm", json!({}))), ("other", plugin("add_region_rust.wasm", json!({})))])
        .await
        .unwrap();
    loaded.each["p"].on_request(request(&[]), &mut visit()).await;
    assert_eq!(resting(&world), 1, "a quarter of them may rest");
    // Three are in use, and a fourth is needed. (Two of them are kept for their responses, one is a body's.)
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut visit = visit();
        loaded.each["other"].on_request(request(&[]), &mut visit).await;
        waiting.push(visit);
    }
    let (one, two) =
        tokio::join!(async { loaded.each["other"].on_request(request(&[]), &mut visit()).await.1 }, async {
            loaded.each["other"].on_request(request(&[]), &mut visit()).await.1
        },);
    assert_eq!((changes(one).len(), changes(two).len()), (1, 1));
}

#[tokio::test]
async fn a_reload_takes_what_rests_with_it() {
    let world = World::new().await;
    let chain = world.chain(again("add_region_rust.wasm", json!({ "region": "one" }))).await;
    chain.on_request(request(&[]), &mut visit()).await;
    assert_eq!(resting(&world), 1);
    let chain_of_two = world.chain(again("add_region_rust.wasm", json!({ "region": "two" }))).await;
    drop(chain);
    assert_eq!((resting(&world), world.metric("instances{plugin=\"p\"}")), (0, 0.0));
    let (head, _) = chain_of_two.on_request(request(&[]), &mut visit()).await;
    assert_eq!(head.headers["x-region"], "two");
}

#[test]
fn what_is_out_of_range_is_a_fault() {
    let mut config = again("add_region_rust.wasm", json!({}));
    config.reuse = Some(Reuse { requests: 1, idle: Span::millis(10) });
    let mut faults = sluice_vocabulary::Faults::new();
    config.validate(&sluice_vocabulary::Path::root().key("p"), &mut faults);
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert!(
        faults.iter().any(|fault| fault == "p.reuse.requests: 1 is out of range: expected 2 to 1000000"),
        "{faults:?}"
    );
    assert!(faults.iter().any(|fault| fault == "p.reuse.idle: 10ms is out of range: expected 1s to 1h"), "{faults:?}");
}

/// A place is given back after the slot of the pool that it stands for, so that whoever gets the place finds the slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_one_instance_for_all_each_finds_it_free_in_turn() {
    let options = Options { instances: 1, queue: std::time::Duration::from_secs(10) };
    for reuse in [None, Some(Reuse::default()), Some(Reuse { requests: 2, ..Reuse::default() })] {
        let world = World::with(options).await;
        let chain = world.chain(PluginConfig { reuse, ..plugin("add_region_rust.wasm", json!({})) }).await;
        let askers: Vec<_> = (0..4)
            .map(|_| {
                let chain = Arc::clone(&chain);
                tokio::spawn(async move {
                    for _ in 0..250 {
                        // Refused, so that nothing is kept for a response.
                        let (_, outcome) = chain.on_request(request(&[("x-blocked", "yes")]), &mut visit()).await;
                        let Outcome::Refuse(refusal) = outcome else { panic!("{outcome:?}") };
                        assert_eq!(refusal.reason, sluice_vocabulary::Reason::PluginRefused, "{refusal:?}");
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.unwrap();
        }
    }
}
