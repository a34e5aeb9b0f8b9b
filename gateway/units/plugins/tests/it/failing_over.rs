//! Two implementations of one job: no request is lost to the first's failures, and the first comes back when it is well.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_plugins::{Compare, Fallback, OnFailure, Outcome, PluginConfig, QuarantineConfig};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::ports::Inspect as _;
use sluice_vocabulary::{Reason, Severity};

use crate::world::{World, changes, hostile, plugin, prebuilt, request, response, text, visit};

/// What fails by an implementation's own fault, and how it is counted.
const ITS_OWN: [(&str, &str); 9] = [
    ("trap", "trap"),
    ("error", "trap"),
    ("recurse", "trap"),
    ("loop", "deadline"),
    ("grow", "memory"),
    ("flood-headers", "output"),
    ("odd-status", "output"),
    ("split-answer", "output"),
    ("huge-answer", "output"),
];

fn second(file: &str) -> Fallback {
    Fallback::new(sluice_plugins::ComponentSource::File(prebuilt(file)))
}

/// Misbehaves for requests that carry `x-do`; its second adds `x-region: eu-1`.
fn pair(does: &str) -> PluginConfig {
    let mut pair = hostile(json!({ "does": does, "when_header": "x-do", "region": "eu-1" }));
    pair.fallback = Some(second("add_region_as.wasm"));
    pair
}

fn state(world: &World) -> Value {
    world.handle.inspect()["plugins"]["p"]["fallback"].clone()
}

#[tokio::test]
async fn the_second_gets_the_untouched_message_whatever_the_first_failed_by() {
    let world = World::new().await;
    for (does, reason) in ITS_OWN {
        let mut pair = pair(does);
        if reason != "deadline" {
            pair.limits.deadline = Span::secs(1);
        }
        let chain = world.load(&[(does, pair)]).await.unwrap().all;
        let (head, outcome) = chain.on_request(request(&[("x-do", "1")]), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1, "{does}");
        assert_eq!(head.headers["x-region"], "eu-1", "{does}");
        assert!(!head.headers.contains_key("x-hostile"), "{does}: nothing of the first's has stayed");
        let sent = Arc::new(request(&[("x-do", "1")]));
        let (head, outcome) = chain.on_response(sent, response(&[("server", "x")]), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1, "{does}");
        assert_eq!(
            (&head.headers["x-region"], &head.headers["server"]),
            (&"eu-1".parse().unwrap(), &"x".parse().unwrap())
        );
        assert_eq!(world.failures(does, reason), 2.0, "{does} is counted as {reason}");
        assert_eq!(world.metric(&format!("failovers_total{{plugin=\"{does}\"}}")), 2.0);
        assert_eq!(world.metric(&format!("instances{{plugin=\"{does}\"}}")), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_that_traps_on_a_share_of_requests_under_load_loses_none() {
    let world = World::new().await;
    let chain = world.chain(pair("trap")).await;
    let mut load = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let chain = Arc::clone(&chain);
        load.spawn(async move {
            let mut lost = 0;
            for number in 0..200 {
                let fields: &[(&str, &str)] = if (number + worker) % 3 == 0 { &[("x-do", "1")] } else { &[] };
                let mut visit = visit();
                let (head, outcome) = chain.on_request(request(fields), &mut visit).await;
                let went_on = matches!(outcome, Outcome::Continue(_));
                let (_, outcome) = chain.on_response(Arc::new(head), response(&[]), &mut visit).await;
                lost += usize::from(!went_on || !matches!(outcome, Outcome::Continue(_)));
            }
            lost
        });
    }
    while let Some(lost) = load.join_next().await {
        assert_eq!(lost.unwrap(), 0);
    }
    assert!(world.metric("failovers_total{plugin=\"p\"}") > 0.0);
}

#[tokio::test]
async fn whoever_saw_the_request_sees_its_response() {
    let world = World::new().await;
    let chain = world.chain(pair("trap")).await;
    let mut visit = visit();
    let (sent, _) = chain.on_request(request(&[("x-do", "1")]), &mut visit).await;
    let (head, _) = chain.on_response(Arc::new(sent), response(&[]), &mut visit).await;
    assert_eq!(head.headers["x-region"], "eu-1");
    assert_eq!(world.failures("p", "trap"), 1.0, "the first was not tried again");
}

#[tokio::test]
async fn where_both_fail_the_request_is_refused_or_goes_on_untouched_as_the_operator_says() {
    let world = World::new().await;
    for on_failure in [OnFailure::Refuse, OnFailure::Skip] {
        let mut both = hostile(json!({ "does": "trap" }));
        both.fallback = Some(second("hostile.wasm"));
        both.on_failure = on_failure;
        let chain = world.chain(both).await;
        let sent = request(&[]);
        let (head, outcome) = chain.on_request(sent.clone(), &mut visit()).await;
        assert_eq!(head, sent);
        match (on_failure, outcome) {
            (OnFailure::Refuse, Outcome::Refuse(refusal)) => assert_eq!(refusal.reason, Reason::PluginFailed),
            (OnFailure::Skip, Outcome::Continue(operations)) => assert!(operations.is_empty()),
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refusal_or_answer_of_the_first_is_a_decision_and_no_failure() {
    let world = World::new().await;
    let mut pair = plugin("add_region_rust.wasm", json!({}));
    pair.fallback = Some(second("add_region_as.wasm"));
    let chain = world.chain(pair).await;
    let (_, outcome) = chain.on_request(request(&[("x-blocked", "yes")]), &mut visit()).await;
    assert!(matches!(outcome, Outcome::Refuse(refusal) if refusal.reason == Reason::PluginRefused));
    assert_eq!(world.metric("failovers_total{plugin=\"p\"}"), 0.0);
}

#[tokio::test]
async fn a_first_that_fails_again_and_again_is_quarantined_probed_and_taken_back() {
    let world = World::new().await;
    let mut pair = pair("trap");
    let quarantine =
        QuarantineConfig { after: 5, probe_after: Span::millis(1), probe_at_most: Span::millis(1), back_after: 3 };
    pair.fallback.as_mut().unwrap().quarantine = quarantine;
    let chain = world.chain(pair).await;
    let bad = [("x-do", "1")];
    for _ in 0..5 {
        assert_eq!(state(&world)["quarantined"], false);
        let (_, outcome) = chain.on_request(request(&bad), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1);
    }
    assert_eq!(state(&world)["quarantined"], true);
    assert_eq!(world.metric("quarantined{plugin=\"p\"}"), 1.0);
    // While the first is ill: probes fail, requests do not.
    let tried_until_now = world.failures("p", "trap");
    while world.failures("p", "trap") < tried_until_now + 3.0 {
        let (head, outcome) = chain.on_request(request(&bad), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1);
        assert_eq!(head.headers["x-region"], "eu-1");
    }
    assert_eq!(state(&world)["quarantined"], true);
    // It gets well: the first changes nothing, so who decided can be told.
    let mut seconds = 0;
    while state(&world)["quarantined"] == true {
        let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
        seconds += changes(outcome).len();
    }
    assert_eq!(world.metric("quarantined{plugin=\"p\"}"), 0.0);
    let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
    assert!(changes(outcome).is_empty(), "the first decides again ({seconds} were the second's meanwhile)");
}

#[tokio::test]
async fn a_quarantined_first_is_not_called() {
    let world = World::new().await;
    let chain = world.chain(pair("trap")).await;
    for _ in 0..20 {
        let (_, outcome) = chain.on_request(request(&[("x-do", "1")]), &mut visit()).await;
        assert_eq!(changes(outcome).len(), 1);
    }
    // The next probe is a second away.
    assert!(world.failures("p", "trap") <= 6.0);
}

#[tokio::test]
async fn a_plugin_without_a_second_is_called_however_often_it_failed() {
    let world = World::new().await;
    let chain = world.chain(hostile(json!({ "does": "trap" }))).await;
    for _ in 0..20 {
        chain.on_request(request(&[]), &mut visit()).await;
    }
    assert_eq!(world.failures("p", "trap"), 20.0);
    assert_eq!(state(&world), Value::Null);
}

#[tokio::test]
async fn comparing_counts_what_differs_and_lets_the_first_decide() {
    let world = World::new().await;
    let compared = |outcome: &str| format!("comparisons_total{{plugin=\"p\",outcome=\"{outcome}\"}}");
    for (first, then, fields, outcome, made) in [
        ("../frozen/1.0.0/add_region_rust.wasm", "add_region_as.wasm", &[][..], "same", 1),
        ("hostile.wasm", "add_region_as.wasm", &[], "changes", 0),
        ("hostile.wasm", "add_region_as.wasm", &[("x-blocked", "yes")], "action", 0),
        ("add_region_as.wasm", "hostile.wasm", &[("x-do", "1")], "failure", 1),
    ] {
        let mut both = plugin(first, json!({ "region": "eu-1", "does": "trap", "when_header": "x-do" }));
        both.fallback = Some(Fallback { compare: Compare::Always(true), ..second(then) });
        let chain = world.chain(both).await;
        let before = world.metric(&compared(outcome));
        let (head, decided) = chain.on_request(request(fields), &mut visit()).await;
        assert_eq!(changes(decided).len(), made, "{outcome}");
        assert_eq!(head.headers.contains_key("x-region"), made == 1, "{outcome}");
        assert_eq!(world.metric(&compared(outcome)), before + 1.0, "{outcome}");
        assert_eq!(world.failures("p", "trap"), 0.0, "what the second does in a comparison is no failure");
        assert_eq!(world.metric("failovers_total{plugin=\"p\"}"), 0.0);
    }
}

#[tokio::test]
async fn a_tenth_is_every_tenth_call() {
    let world = World::new().await;
    let mut both = plugin("add_region_rust.wasm", json!({}));
    both.fallback = Some(Fallback { compare: Compare::Share(0.1), ..second("add_region_as.wasm") });
    let chain = world.chain(both).await;
    for _ in 0..100 {
        chain.on_request(request(&[]), &mut visit()).await;
    }
    assert_eq!(world.metric("comparisons_total{plugin=\"p\",outcome=\"same\"}"), 10.0);
}

#[tokio::test]
async fn the_second_has_a_deadline_of_its_own() {
    let world = World::new().await;
    let mut both = hostile(json!({ "does": "loop" }));
    both.limits.deadline = Span::millis(3);
    both.fallback = Some(Fallback { deadline: Some(Span::millis(40)), ..second("hostile.wasm") });
    let chain = world.chain(both).await;
    let begun = std::time::Instant::now();
    let (_, outcome) = chain.on_request(request(&[]), &mut visit()).await;
    let Outcome::Refuse(refusal) = outcome else { panic!("{outcome:?}") };
    assert!(refusal.internal.unwrap().contains("its deadline of 40 ms"));
    assert!(begun.elapsed() >= Duration::from_millis(40));
    assert_eq!(state(&world)["deadline"], "40ms");
}

#[tokio::test]
async fn a_second_of_other_phases_is_refused_by_name() {
    let world = World::new().await;
    let only_request = r#"(component
        (core module $m (func (export "f") (result i32) unreachable))
        (core instance $i (instantiate $m))
        (import "sluice:plugin/actions@1.0.0" (instance $actions
            (type $answer' (record (field "status" u16) (field "headers" (list (tuple string string))) (field "body" (list u8))))
            (export "answer" (type $answer (eq $answer')))
            (type $refusal' (record (field "detail" (option string)) (field "reason" (option string))))
            (export "refusal" (type $refusal (eq $refusal')))
            (type $action' (variant (case "continue") (case "answer" $answer) (case "refuse" $refusal)))
            (export "action" (type (eq $action')))))
        (alias export $actions "action" (type $action))
        (core module $mem (memory (export "m") 1) (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
        (core instance $mi (instantiate $mem))
        (func $f (result $action) (canon lift (core func $i "f") (memory (core memory $mi "m")) (realloc (core func $mi "realloc"))))
        (alias export $actions "answer" (type $answer))
        (alias export $actions "refusal" (type $refusal))
        (component $c
            (import "answer" (type $an (eq $answer)))
            (import "refusal" (type $re (eq $refusal)))
            (type $ac (variant (case "continue") (case "answer" $an) (case "refuse" $re)))
            (import "action" (type $a (eq $ac)))
            (import "f" (func $g (result $a)))
            (export "on-request-headers" (func $g)))
        (instance $out (instantiate $c (with "answer" (type $answer)) (with "refusal" (type $refusal))
            (with "action" (type $action)) (with "f" (func $f))))
        (export "sluice:plugin/request-headers@1.0.0" (instance $out)))"#;
    let mut both = plugin("add_region_rust.wasm", json!({}));
    both.fallback = Some(Fallback::new(text(only_request).component));
    let faults = world.load(&[("p", both)]).await.unwrap_err();
    assert_eq!(faults.len(), 1);
    let said = faults[0].to_string();
    assert!(said.starts_with("plugins.p.fallback.component: exports request-headers: its fallback"), "{said}");
    assert!(said.contains("exports request-headers,response-headers"), "{said}");
}

#[tokio::test]
async fn faults_of_both_are_told_at_once_each_in_its_place() {
    let world = World::new().await;
    let mut both = plugin("no-such.wasm", json!({}));
    both.fallback = Some(Fallback { sha256: Some("0".repeat(64)), ..second("add_region_as.wasm") });
    let faults: Vec<_> = world.load(&[("p", both)]).await.unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("plugins.p.component: cannot read"), "{faults:?}");
    assert!(faults[1].starts_with("plugins.p.fallback.sha256: the component's sha256 is"), "{faults:?}");
}

#[tokio::test]
async fn what_cannot_be_is_told_without_opening_anything() {
    let mut both = plugin("add_region_rust.wasm", json!({}));
    both.sha256 = Some("0".repeat(64));
    both.fallback = Some(Fallback {
        deadline: Some(Span::secs(2)),
        compare: Compare::Share(1.5),
        quarantine: QuarantineConfig {
            after: 0,
            probe_after: Span::secs(10),
            probe_at_most: Span::secs(1),
            back_after: 3,
        },
        ..second("")
    });
    let mut faults = sluice_vocabulary::Faults::new();
    both.validate(&sluice_vocabulary::Path::root(), &mut faults);
    let errors: Vec<_> =
        faults.iter().filter(|fault| fault.severity == Severity::Error).map(ToString::to_string).collect();
    for part in ["fallback.deadline: 2s", "fallback.compare: 1.5", "fallback.quarantine.after: 0", "probe_at_most: 1s"]
    {
        assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:?}");
    }
}

#[tokio::test]
async fn a_reload_that_changes_the_second_makes_the_plugin_anew_and_one_that_does_not_keeps_its_state() {
    let world = World::new().await;
    let chain = world.chain(pair("trap")).await;
    for _ in 0..5 {
        chain.on_request(request(&[("x-do", "1")]), &mut visit()).await;
    }
    assert_eq!(state(&world)["quarantined"], true);
    world.chain(pair("trap")).await;
    assert_eq!(state(&world)["quarantined"], true);
    let mut other = pair("trap");
    other.fallback = Some(second("../frozen/1.0.0/add_region_rust.wasm"));
    world.chain(other).await;
    assert_eq!(state(&world)["quarantined"], false);
    assert_eq!(world.metric("quarantined{plugin=\"p\"}"), 0.0);
    world.chain(hostile(json!({}))).await;
    assert_eq!(state(&world), Value::Null);
}
