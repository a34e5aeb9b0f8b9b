//! What a plugin may be granted: that it has it then, and that nobody has it otherwise.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use serde_json::{Value, json};
use sluice_plugins::{Grants, Link, Outcome, PluginConfig, RequestHead, Visit, Who};
use sluice_vocabulary::ports::Inspect as _;
use sluice_vocabulary::request::{Connection, TlsInfo};
use sluice_vocabulary::{Identity, IssuerName, TenantId, UpstreamName};

use crate::world::{World, changes, plugin, request, response};

fn everything() -> Grants {
    serde_json::from_value(json!({
        "identity": true, "connection": true, "clock": true, "random": true, "metrics": true, "tags": true,
        "key_value": { "entries": 10, "bytes": "64KiB" }, "upstreams": ["blue", "green"],
    }))
    .unwrap()
}

fn probe(config: Value) -> PluginConfig {
    PluginConfig { grants: everything(), ..plugin("probe.wasm", config) }
}

/// A request of somebody known, over TLS.
fn known() -> Who {
    let Value::Object(claims) = json!({
        "sub": "u-7", "scope": "orders:read orders:write", "plan": "gold", "limits": { "rate": 9 }
    }) else {
        unreachable!("an object")
    };
    let peer = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 4000));
    let tls = TlsInfo {
        version: "TLSv1.3",
        cipher: "TLS13_AES_256_GCM_SHA384",
        server_name: Some("API.example.com".into()),
        client_certificate_sha256: Some([7; 32]),
    };
    let connection =
        Connection { id: 1, peer, local: peer, client: peer, tls: Some(Arc::new(tls)), cookie: None, listener: 0 };
    let mut who = Who::new("r-1".into(), Some(TenantId::new("acme").unwrap()));
    who.identity = Some(Arc::new(Identity::new(IssuerName::new("corp").unwrap(), claims.into(), 10)));
    who.link = Some(Link {
        connection: Arc::new(connection),
        client: Ipv4Addr::new(198, 51, 100, 9).into(),
        protocol: Version::HTTP_2,
        round_trip: Some(Duration::from_micros(1_234)),
    });
    who.upstream = Some(UpstreamName::new("grey").unwrap());
    who
}

/// What the probe says to a request of `who`.
async fn asked(world: &World, who: Who, questions: &[&str]) -> Vec<String> {
    let chain = world.chain(probe(json!({ "ask": questions }))).await;
    let (head, outcome) = chain.on_request(request(&[]), &mut Visit::new(who)).await;
    changes(outcome);
    let name = |question: &str| format!("x-{}", question.replace(['.', '/', ':'], "-"));
    questions.iter().map(|question| head.headers[name(question)].to_str().unwrap().to_owned()).collect()
}

/// What came of the probe's acts: a fault by its name in the contract.
fn outcomes(head: &RequestHead, count: usize) -> Vec<&str> {
    let said = (0..count).map(|n| head.headers[format!("x-act-{n}")].to_str().unwrap());
    said.map(|said| said.split_once("name: \"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or(said)).collect()
}

#[tokio::test]
async fn the_verified_identity_is_told_and_a_stranger_has_none() {
    let world = World::new().await;
    let questions = [
        "identity.is-verified",
        "identity.tenant",
        "identity.subject",
        "identity.issuer",
        "identity.scopes",
        "claim:plan",
        "claim:/limits/rate",
        "claim:limits",
    ];
    assert_eq!(
        asked(&world, known(), &questions).await,
        ["true", "acme", "u-7", "corp", "orders:read,orders:write", "gold", "9", "none"]
    );
    let claims = asked(&world, known(), &["identity.claims"]).await;
    assert_eq!(serde_json::from_str::<Value>(&claims[0]).unwrap()["limits"], json!({ "rate": 9 }));
    let stranger = Who::new("r-2".into(), None);
    assert_eq!(
        asked(&world, stranger, &questions).await,
        ["false", "none", "none", "none", "", "none", "none", "none"]
    );
}

#[tokio::test]
async fn the_connection_is_told_as_it_is() {
    let world = World::new().await;
    let questions = [
        "connection.client",
        "connection.peer",
        "connection.protocol",
        "connection.tls-version",
        "connection.server-name",
        "connection.client-certificate",
        "connection.round-trip",
    ];
    assert_eq!(
        asked(&world, known(), &questions).await,
        [
            "198.51.100.9",
            "192.0.2.1",
            "HTTP/2.0",
            "TLSv1.3",
            "api.example.com",
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc",
            "1234"
        ]
    );
}

#[tokio::test]
async fn time_and_chance_come_from_the_gateway() {
    let world = World::of_brief_calls().await;
    assert_eq!(asked(&world, known(), &["clock.now"]).await, ["1700000000000000000"]);
    assert_eq!(asked(&world, known(), &["clock.monotonic"]).await, ["0"]);
    let mut numbers = BTreeSet::new();
    for _ in 0..20 {
        numbers.extend(asked(&world, known(), &["random.number"]).await);
    }
    assert_eq!(numbers.len(), 20);
    assert_eq!(asked(&world, known(), &["random.bytes:1024"]).await, ["1024"]);
    let chain = world.chain(probe(json!({ "ask": ["random.bytes:1025"] }))).await;
    let (_, outcome) = chain.on_request(request(&[]), &mut Visit::new(known())).await;
    assert!(matches!(outcome, Outcome::Refuse(_)), "{outcome:?}");
    assert_eq!(world.failures("p", "output"), 1.0);
}

#[tokio::test]
async fn a_choice_and_tags_take_hold_when_the_phase_succeeds_and_only_then() {
    let world = World::new().await;
    let acts = json!(["choose green", "choose red", "tag plan gold", "tag Plan gold"]);
    for (end, upstream, tags) in [("", Some("green"), 1), ("trap", None, 0), ("answer", None, 0)] {
        let chain = world.chain(probe(json!({ "act": acts, "end": end, "ask": ["routing.upstream"] }))).await;
        let mut visit = Visit::new(known());
        let (head, outcome) = chain.on_request(request(&[]), &mut visit).await;
        assert_eq!(matches!(outcome, Outcome::Continue(_)), end.is_empty(), "{outcome:?}");
        if end.is_empty() {
            assert_eq!(head.headers["x-routing-upstream"], "grey");
            assert_eq!(outcomes(&head, 4), ["Ok(())", "not-granted", "true", "false"]);
        }
        let effects = visit.take_effects();
        assert_eq!((effects.upstream().map(UpstreamName::as_str), effects.tags().len()), (upstream, tags), "{end:?}");
    }
}

#[tokio::test]
async fn an_upstream_cannot_be_chosen_when_it_has_answered() {
    let world = World::new().await;
    let chain = world.chain(probe(json!({ "phase": "response", "act": ["tag late yes"] }))).await;
    let mut visit = Visit::new(known());
    let (_, outcome) = chain.on_response(Arc::new(request(&[])), response(&[]), &mut visit).await;
    changes(outcome);
    assert_eq!(visit.take_effects().tags().len(), 1);
    for config in [
        json!({ "phase": "response", "act": ["choose green"] }),
        json!({ "phase": "response", "ask": ["routing.upstream"] }),
    ] {
        let chain = world.chain(probe(config)).await;
        let (_, outcome) = chain.on_response(Arc::new(request(&[])), response(&[]), &mut Visit::new(known())).await;
        assert!(matches!(outcome, Outcome::Refuse(_)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_request_has_eight_tags_at_most_whichever_plugins_put_them() {
    let world = World::new().await;
    let acts = |from: u32| (from..from + 6).map(|n| format!("tag t{n} v")).collect::<Vec<_>>();
    let plugins = [("a", probe(json!({ "act": acts(0) }))), ("b", probe(json!({ "act": acts(10) })))];
    let chain = world.load(&plugins).await.unwrap().all;
    let mut visit = Visit::new(known());
    let (head, outcome) = chain.on_request(request(&[]), &mut visit).await;
    changes(outcome);
    // The second plugin's answers are what the head has.
    assert_eq!(outcomes(&head, 6), ["true", "true", "false", "false", "false", "false"]);
    assert_eq!(visit.take_effects().tags().len(), 8);
}

#[tokio::test]
async fn a_plugins_own_counts_are_shown_and_go_with_it() {
    let world = World::new().await;
    let acts = json!(["count hits 2", "count hits outcome good", "level depth 1.5", "level hits 1", "count Bad 1"]);
    let chain = world.chain(probe(json!({ "act": acts }))).await;
    for _ in 0..3 {
        let (head, _) = chain.on_request(request(&[]), &mut Visit::new(known())).await;
        assert_eq!(outcomes(&head, 5), ["Ok(())", "Ok(())", "Ok(())", "other-kind", "invalid"]);
    }
    let hits = || world.metric("count_total{plugin=\"p\",name=\"hits\"}");
    assert_eq!(hits(), 6.0);
    assert_eq!(world.metric("count_total{plugin=\"p\",name=\"hits\",outcome=\"good\"}"), 3.0);
    assert_eq!(world.metric("gauge{plugin=\"p\",name=\"depth\"}"), 1.5);
    // A reload that changes the plugin keeps them, one that removes it does not.
    world.chain(probe(json!({ "act": [] }))).await;
    assert_eq!(hits(), 6.0);
    world.load(&[]).await.unwrap();
    assert_eq!(hits(), 0.0);
}

#[tokio::test]
async fn what_is_stored_stays_for_the_tenant_and_for_nobody_else() {
    let world = World::new().await;
    let acts = json!([
        "tally hits",
        "keep k v",
        "kept k",
        "swap k w",
        "kept k",
        "drop k",
        "kept k",
        "keep brief x 0",
        "kept brief"
    ]);
    let chain = world.chain(probe(json!({ "act": acts }))).await;
    let ask = async |chain: &sluice_plugins::Chain, tenant: Option<&str>| {
        let who = Who::new("r".into(), tenant.map(|tenant| TenantId::new(tenant).unwrap()));
        let (head, outcome) = chain.on_request(request(&[]), &mut Visit::new(who)).await;
        changes(outcome);
        head
    };
    for (tenant, hits) in [(Some("acme"), 1), (Some("acme"), 2), (Some("globex"), 1), (None, 1), (None, 2)] {
        let head = ask(&chain, tenant).await;
        let tally = format!("Ok({hits})");
        let expected = [&tally, "Ok(())", "v", "Ok(true)", "w", "Ok(true)", "Ok(None)", "Ok(())", "Ok(None)"];
        assert_eq!(outcomes(&head, 9), expected, "{tenant:?}");
    }
    // Another plugin has another store, and a reload that changes the plugin keeps its own.
    let acts = json!(["tally hits"]);
    let both = [("p", probe(json!({ "act": acts }))), ("q", probe(json!({ "act": acts })))];
    let loaded = world.load(&both).await.unwrap();
    assert_eq!(outcomes(&ask(&loaded.each["p"], Some("acme")).await, 1), ["Ok(3)"]);
    assert_eq!(outcomes(&ask(&loaded.each["q"], Some("acme")).await, 1), ["Ok(1)"]);
    let shown = world.handle.inspect();
    assert_eq!(shown["plugins"]["p"]["store"]["entries"], 6, "{shown}");
}

#[tokio::test]
async fn a_full_store_refuses_and_a_failed_phase_has_stored_what_it_stored() {
    let world = World::new().await;
    let acts: Vec<_> = (0..12).map(|n| format!("keep k{n} v")).collect();
    let chain = world.chain(probe(json!({ "act": acts }))).await;
    let (head, _) = chain.on_request(request(&[]), &mut Visit::new(known())).await;
    let said = outcomes(&head, 12);
    assert_eq!((said[9], said[10], said[11]), ("Ok(())", "full", "full"));
    let chain = world.chain(probe(json!({ "act": ["keep k0 kept"], "end": "trap" }))).await;
    chain.on_request(request(&[]), &mut Visit::new(known())).await;
    let chain = world.chain(probe(json!({ "act": ["kept k0"] }))).await;
    let (head, _) = chain.on_request(request(&[]), &mut Visit::new(known())).await;
    assert_eq!(outcomes(&head, 1), ["kept"]);
}

#[tokio::test]
async fn what_is_not_granted_is_refused_when_the_component_is_loaded() {
    let world = World::new().await;
    let without = |grants: Value| PluginConfig {
        grants: serde_json::from_value(grants).unwrap(),
        ..plugin("probe.wasm", Value::Null)
    };
    let faults = world.load(&[("p", without(json!({})))]).await.expect_err("nothing is granted");
    let said = faults[0].to_string();
    for grant in ["identity: true", "connection: true", "clock: true", "random: true", "metrics: true", "tags: true"] {
        assert!(said.contains(&format!("grants: {{ {grant} }}")), "{said}");
    }
    assert!(said.starts_with("plugins.p.grants: imports sluice:plugin/"), "{said}");
    let mut most = serde_json::to_value(everything()).unwrap();
    most.as_object_mut().unwrap().remove("clock");
    let faults = world.load(&[("p", without(most))]).await.expect_err("one is not granted");
    assert_eq!(
        faults[0].to_string(),
        "plugins.p.grants: imports sluice:plugin/clock@1.1.0 (grants: { clock: true }), not granted to it (grant it, if it \
         is meant to have that, or build it without)"
    );
    // The same component for two plugins, each with its own grants: what one has does not help the other.
    let both = [("a", probe(Value::Null)), ("b", without(json!({ "clock": true })))];
    let faults = world.load(&both).await.expect_err("the second lacks most");
    assert!(faults.len() == 1 && faults[0].to_string().starts_with("plugins.b.grants"), "{faults:?}");
}

#[tokio::test]
async fn a_component_that_needs_nothing_is_not_asked_for_grants() {
    let world = World::new().await;
    let granted = PluginConfig { grants: everything(), ..plugin("add_region_rust.wasm", json!({ "region": "eu-1" })) };
    let plain = plugin("add_region_rust.wasm", json!({ "region": "eu-1" }));
    world.load(&[("plain", plain.clone())]).await.unwrap();
    let loaded = world.load(&[("granted", granted), ("plain", plain)]).await.unwrap();
    for chain in loaded.each.values() {
        let (head, _): (RequestHead, _) = chain.on_request(request(&[]), &mut Visit::new(known())).await;
        assert_eq!(head.headers["x-region"], "eu-1");
    }
    // Linked anew, not compiled anew.
    assert_eq!(world.metric("compile_duration_seconds_count"), 1.0);
}
