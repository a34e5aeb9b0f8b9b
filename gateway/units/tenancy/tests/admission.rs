//! What a tenant may use, and what it is told.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{field, tenant, world};
use serde_json::{Value, json};
use sluice_vocabulary::Reason;

fn rate(requests: u64, burst: u32) -> Value {
    json!({ "identify": [{ "claim": "t" }], "default": { "rate": { "requests": requests, "per": "1s", "burst": burst } } })
}

#[test]
fn each_tenant_has_a_rate_of_its_own() {
    let mut world = world(rate(10, 3));
    assert_eq!(world.admitted("acme", 10), 3);
    assert_eq!(world.admitted("globex", 10), 3);
    world.pass(100);
    assert_eq!(world.admitted("acme", 10), 1);
    assert_eq!(world.metric("admitted_total"), Some(7.0));
    assert_eq!(world.metric("refusals_total{reason=\"tenant-rate-limited\"}"), Some(23.0));
    assert_eq!(world.metric("tracked"), Some(2.0));
}

#[test]
fn the_answer_says_what_is_left_and_a_refusal_when_to_come_again() {
    let world = world(rate(1, 4));
    let fields = world.admit("acme").unwrap().rate_limit_headers();
    assert_eq!(field(&fields, "ratelimit-policy").as_deref(), Some("\"tenant\";q=4;w=4"));
    assert_eq!(field(&fields, "ratelimit").as_deref(), Some("\"tenant\";r=3;t=1"));
    assert_eq!(world.admitted("acme", 5), 3);
    let refusal = world.admit("acme").unwrap_err();
    assert_eq!(refusal.reason, Reason::TenantRateLimited);
    assert_eq!(field(&refusal.headers, "retry-after").as_deref(), Some("1"));
    assert_eq!(field(&refusal.headers, "ratelimit").as_deref(), Some("\"tenant\";r=0;t=1"));
    assert_eq!(field(&refusal.headers, "ratelimit-policy").as_deref(), Some("\"tenant\";q=4;w=4"));
}

#[test]
fn a_place_among_the_requests_at_once_is_free_again_when_the_guard_is_dropped() {
    let world = world(json!({ "identify": [{ "claim": "t" }], "default": { "concurrency": 2 } }));
    let (first, _second) = (world.admit("acme").unwrap(), world.admit("acme").unwrap());
    let refusal = world.admit("acme").unwrap_err();
    assert_eq!(refusal.reason, Reason::TenantConcurrency);
    assert!(field(&refusal.headers, "retry-after").is_some());
    assert!(world.admit("globex").is_ok());
    drop(first);
    assert!(world.admit("acme").is_ok());
}

#[test]
fn a_refusal_by_either_limit_costs_nothing_of_the_other() {
    let mut written = rate(1, 2);
    written["default"]["concurrency"] = json!(1);
    let mut world = world(written);
    let held = world.admit("acme").unwrap();
    for _ in 0..10 {
        assert_eq!(world.admit("acme").unwrap_err().reason, Reason::TenantConcurrency);
    }
    drop(held);
    assert!(world.admit("acme").is_ok());
    for _ in 0..10 {
        assert_eq!(world.admit("acme").unwrap_err().reason, Reason::TenantRateLimited);
    }
    world.pass(1_000);
    assert!(world.admit("acme").is_ok());
}

#[test]
fn threads_that_race_never_exceed_the_places() {
    let world = world(json!({ "identify": [{ "claim": "t" }], "default": { "concurrency": 3 } }));
    let most = std::sync::atomic::AtomicUsize::new(0);
    let inside = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    if let Ok(_guard) = world.admit("acme") {
                        let now = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                        most.fetch_max(now, std::sync::atomic::Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert!((1..=3).contains(&most.into_inner()));
    let _all_free = [world.admit("acme").unwrap(), world.admit("acme").unwrap(), world.admit("acme").unwrap()];
}

#[test]
fn overrides_replace_what_they_name_and_alone_have_metrics_of_their_own() {
    let world = world(json!({
        "identify": [{ "claim": "t" }],
        "default": { "rate": { "requests": 1, "burst": 1 }, "concurrency": 1, "plugins": ["a"] },
        "overrides": { "acme": { "rate": { "requests": 5 } }, "globex": { "plugins": [] } }
    }));
    assert_eq!((world.admitted("acme", 10), world.admitted("globex", 10), world.admitted("other", 10)), (5, 1, 1));
    assert_eq!(world.handle.plugins_of(&tenant("acme")).len(), 1);
    assert!(world.handle.plugins_of(&tenant("globex")).is_empty());
    assert_eq!(world.metric("requests_total{tenant=\"acme\",outcome=\"admitted\"}"), Some(5.0));
    assert_eq!(world.metric("requests_total{tenant=\"acme\",outcome=\"tenant-rate-limited\"}"), Some(5.0));
    assert_eq!(world.metric("requests_total{tenant=\"other\",outcome=\"admitted\"}"), None);
    // Those that the configuration names are no part of the bounded memory.
    assert_eq!(world.metric("tracked"), Some(1.0));
}

#[test]
fn the_guard_keeps_the_plugins_it_was_admitted_with() {
    let world = world(json!({ "identify": [{ "claim": "t" }], "default": { "plugins": ["old"] } }));
    let admitted = world.admit("acme").unwrap();
    world.apply(json!({ "identify": [{ "claim": "t" }], "default": { "plugins": ["new"] } }));
    assert_eq!(admitted.plugins()[0].as_str(), "old");
    assert_eq!(world.admit("acme").unwrap().plugins()[0].as_str(), "new");
    assert!(world.handle.admit(None, world.now).unwrap().plugins().is_empty());
}

#[test]
fn a_reload_gives_nobody_a_fresh_burst_or_a_second_set_of_places() {
    let with = |overrides: Value| {
        json!({
            "identify": [{ "claim": "t" }],
            "default": { "rate": { "requests": 1, "burst": 2 }, "concurrency": 2 },
            "overrides": overrides
        })
    };
    let world = world(with(json!({})));
    let _held = (world.admit("acme").unwrap(), world.admit("acme").unwrap());
    for overrides in
        [json!({}), json!({ "acme": {} }), json!({ "acme": { "plugins": [] } }), json!({}), json!({ "acme": {} })]
    {
        world.apply(with(overrides.clone()));
        assert_eq!(world.admit("acme").unwrap_err().reason, Reason::TenantConcurrency, "{overrides}");
    }
    drop(_held);
    assert_eq!(world.admit("acme").unwrap_err().reason, Reason::TenantRateLimited);
    assert_eq!(world.metric("tracked"), Some(0.0));
    world.apply(with(json!({})));
    assert_eq!(world.metric("tracked"), Some(1.0));
    assert_eq!(world.metric("requests_total{tenant=\"acme\",outcome=\"admitted\"}"), None);
}

#[test]
fn a_limit_that_comes_with_a_reload_counts_the_requests_under_way() {
    let with = |default: Value| json!({ "identify": [{ "claim": "t" }], "default": default });
    let world = world(with(json!({})));
    let _held: Vec<_> = (0..3).map(|_| world.admit("acme").unwrap()).collect();
    world.apply(with(json!({ "concurrency": 3 })));
    assert_eq!(world.admit("acme").unwrap_err().reason, Reason::TenantConcurrency);
}

#[test]
fn memory_is_bounded_and_a_newcomer_is_refused_rather_than_let_through_unlimited() {
    let mut written = rate(1, 1);
    written["max_tracked"] = json!(64);
    let world = world(written);
    for number in 0..10_000 {
        assert!(world.admit(&format!("t{number}")).is_ok());
    }
    assert!(world.metric("tracked") <= Some(64.0));
    assert!(world.metric("forgotten_total") >= Some(9_900.0));
    let held: Vec<_> = (0..2_000).map(|number| world.admit(&format!("h{number}"))).collect();
    let refusal = held.iter().find_map(|it| it.as_ref().err()).unwrap();
    assert_eq!(refusal.reason, Reason::Overloaded);
    assert!(world.metric("refusals_total{reason=\"overloaded\"}") > Some(0.0));
}
