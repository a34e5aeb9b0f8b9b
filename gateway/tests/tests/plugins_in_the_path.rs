//! Components do their work in the path of requests, whatever language they were written in, and whatever they do wrong
//! costs their own requests and nobody else's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use sluice_testkit::{
    Gateway, GatewayBuilder, Metrics, Origin, Reply, Seen, client, eventually, gateway, issuer, origin, run_to_end,
};

const RUST: &[u8] = include_bytes!("../../../plugins/prebuilt/add_region_rust.wasm");
const ASSEMBLYSCRIPT: &[u8] = include_bytes!("../../../plugins/prebuilt/add_region_as.wasm");
const PROBE: &[u8] = include_bytes!("../../../plugins/prebuilt/probe.wasm");
const ASKING: &[u8] = include_bytes!("../../../plugins/prebuilt/asking.wasm");
const HOSTILE: &[u8] = include_bytes!("../../../plugins/prebuilt/hostile.wasm");

fn world(config: &str, origin: &Origin) -> GatewayBuilder {
    gateway()
        .config(config)
        .file("rust.wasm", RUST)
        .file("as.wasm", ASSEMBLYSCRIPT)
        .file("hostile.wasm", HOSTILE)
        .file("probe.wasm", PROBE)
        .set("origin", origin.address())
}

#[tokio::test]
async fn components_of_two_languages_do_the_same_job_on_routes() {
    let origin = origin().run().await;
    let config = "
plugins:
  rust: { component: rust.wasm, config: { region: eu-1 } }
  as: { component: as.wasm, config: { region: eu-1 } }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes:
  - { name: rust, match: { path: '/rust/*' }, plugins: [rust], upstream: origin }
  - { name: as, match: { path: '/as/*' }, plugins: [as], upstream: origin }
  - { name: plain, match: { path: '/*' }, upstream: origin }
";
    let edge = world(config, &origin).run().await;
    for language in ["rust", "as"] {
        for client in [client(), client().http2()] {
            let answer = client.get(edge.url(&format!("/{language}/x"))).header("x-region", "spoofed").send().await;
            assert_eq!((answer.status.as_u16(), answer.header("x-region")), (200, Some("eu-1")), "{language}");
            assert_eq!(origin.last().header("x-region"), Some("eu-1"), "{language}");
        }
        let before = origin.count();
        for marks in [&["yes"][..], &["no", "yes"]] {
            let url = edge.url(&format!("/{language}/x"));
            let request = marks.iter().fold(client().get(url), |request, mark| request.header("x-blocked", mark));
            let refused = request.send().await;
            assert_eq!(refused.status, 403, "{language}");
            assert_eq!(refused.json()["type"], "urn:sluice:problem:plugin-refused", "{language}");
            assert_eq!(refused.json()["detail"], "this request is marked as blocked", "{language}");
        }
        assert_eq!(origin.count(), before, "{language}: a refused request reached the origin");
    }
    assert_eq!(client().get(edge.url("/other")).send().await.header("x-region"), None);
    let metrics = edge.metrics().await;
    for language in ["rust", "as"] {
        let invocations =
            |phase| metrics.value("sluice_plugin_invocations_total", &[("plugin", language), ("phase", phase)]);
        assert_eq!((invocations("request-headers"), invocations("response-headers")), (4.0, 2.0), "{language}");
        assert_eq!(metrics.value("sluice_plugin_instances", &[("plugin", language)]), 0.0);
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_tenants_plugins_run_for_the_tenant_on_every_route_and_before_the_routes_own() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let config = "
issuers: { corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } } }
tenants:
  identify: [ { claim: tenant } ]
  overrides:
    acme: { plugins: [tenants] }
    globex: { plugins: [tenants-as] }
plugins:
  tenants: { component: rust.wasm, config: { region: of-acme, block_header: x-acme-blocks } }
  tenants-as: { component: as.wasm, config: { region: of-globex, block_header: x-globex-blocks } }
  routes: { component: rust.wasm, config: { region: of-the-route } }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes:
  - { name: both, match: { path: '/both' }, auth: { issuer: corp }, plugins: [routes], upstream: origin }
  - { name: all, match: { path: '/*' }, auth: { issuer: corp }, upstream: origin }
";
    let edge = world(config, &origin).set("corp", corp.name()).set("jwks", corp.jwks_url()).run().await;
    let ask = async |path: &str, tenant: &str, header: &str| {
        let token = corp.token().tenant(tenant).sign();
        client().get(edge.url(path)).bearer(&token).header(header, "yes").send().await
    };
    for (tenant, region) in [("acme", "of-acme"), ("globex", "of-globex")] {
        assert_eq!(ask("/any", tenant, "x-none").await.header("x-region"), Some(region));
        assert_eq!(origin.last().header("x-region"), Some(region));
        assert_eq!(ask("/any", tenant, &format!("x-{tenant}-blocks")).await.status, 403);
        // On the way in the tenant's comes first and the route's has the last word; on the way out it is the other way round.
        assert_eq!(ask("/both", tenant, "x-none").await.header("x-region"), Some(region));
        assert_eq!(origin.last().header("x-region"), Some("of-the-route"));
    }
    let other = ask("/any", "initech", "x-acme-blocks").await;
    assert_eq!((other.status.as_u16(), other.header("x-region")), (200, None), "nobody's plugins but their own");
    edge.stop().await;
}

#[tokio::test]
async fn a_plugin_chooses_the_upstream_by_what_the_token_says_and_leaves_a_tag() {
    let (grey, green, corp) = (origin().run().await, origin().run().await, issuer().run().await);
    let all = "{ identity: true, connection: true, clock: true, random: true, metrics: true, tags: true, key_value: {}, upstreams: [green] }";
    let config = format!(
        "
telemetry: {{ access_log: {{ format: json, output: '@dir@/access.log' }} }}
issuers: {{ corp: {{ issuer: '@corp@', audiences: [edge], jwks: {{ url: '@jwks@' }} }} }}
plugins:
  teller:
    component: probe.wasm
    grants: {all}
    config: {{ ask: [identity.subject, identity.issuer, 'claim:plan', connection.client, connection.round-trip, routing.upstream] }}
  chooser:
    component: probe.wasm
    grants: {all}
    config: {{ act: [choose green, tag plan gold, count chosen 1] }}
upstreams:
  grey: {{ endpoints: ['@origin@'] }}
  green: {{ endpoints: ['@green@'] }}
routes:
  - {{ name: told, match: {{ path: '/told' }}, auth: {{ issuer: corp }}, plugins: [teller], upstream: grey }}
  - {{ name: chosen, match: {{ path: '/chosen' }}, auth: {{ issuer: corp }}, plugins: [chooser], upstream: grey }}
"
    );
    let edge = world(&config, &grey).set("corp", corp.name()).set("jwks", corp.jwks_url());
    let edge = edge.set("green", green.address()).run().await;
    let token = corp.token().subject("u-7").claim("plan", "gold").sign();
    for client in [client(), client().http2()] {
        assert_eq!(client.get(edge.url("/told")).bearer(&token).send().await.status, 200);
        let told = grey.last();
        let said = |question: &str| told.header(question).map(str::to_owned);
        assert_eq!(said("x-identity-subject").as_deref(), Some("u-7"));
        assert_eq!(said("x-identity-issuer").as_deref(), Some("corp"));
        assert_eq!(said("x-claim-plan").as_deref(), Some("gold"));
        assert_eq!(said("x-connection-client").as_deref(), Some("127.0.0.1"));
        assert_eq!(said("x-routing-upstream").as_deref(), Some("grey"));
        let round_trip: u32 = said("x-connection-round-trip").unwrap().parse().expect("microseconds");
        assert!((1..1_000_000).contains(&round_trip), "{round_trip}");
    }
    let before = grey.count();
    assert_eq!(client().get(edge.url("/chosen")).bearer(&token).send().await.status, 200);
    assert_eq!((grey.count(), green.count()), (before, 1), "it went where the plugin sent it");
    let metrics = edge.metrics().await;
    assert_eq!(metrics.value("sluice_plugin_count_total", &[("plugin", "chooser"), ("name", "chosen")]), 1.0);
    let log = edge.folder().join("access.log");
    let record = eventually("the record of /chosen", async || {
        let text = std::fs::read_to_string(&log).ok()?;
        serde_json::from_str::<serde_json::Value>(text.lines().find(|line| line.contains("/chosen"))?).ok()
    });
    let record = record.await;
    edge.stop().await;
    assert_eq!((&record["upstream.name"], &record["tags"]["plan"]), (&"green".into(), &"gold".into()));
}

#[tokio::test]
async fn an_upstream_that_is_not_there_cannot_be_granted() {
    let origin = origin().run().await;
    let config = "
plugins: { p: { component: rust.wasm, grants: { upstreams: [blu] } } }
upstreams: { blue: { endpoints: ['@origin@'] } }
routes: [ { name: all, match: { path: '/*' }, plugins: [p], upstream: blue } ]
";
    let refused = world(config, &origin).run_to_refusal().await;
    assert!(refused.stderr.contains("plugins.p.grants.upstreams[0]"), "{}", refused.stderr);
    assert!(refused.stderr.contains("did you mean \"blue\"?"), "{}", refused.stderr);
}

/// What each misbehaviour is counted as.
const MISDEEDS: &[(&str, &str)] = &[
    ("trap", "trap"),
    ("error", "trap"),
    ("recurse", "trap"),
    ("loop", "deadline"),
    ("call-storm", "deadline"),
    ("grow", "memory"),
    ("flood-headers", "output"),
    ("huge-answer", "output"),
    ("odd-status", "output"),
    ("split-answer", "output"),
];

fn misdeeds(phase: &str, on_failure: &str) -> String {
    let mut config = String::from("plugins:\n");
    for (does, _) in MISDEEDS {
        config.push_str(&format!(
            "  {does}: {{ component: hostile.wasm, on_failure: {on_failure}, limits: {{ memory: 24MiB, deadline: 100ms }}, \
             config: {{ does: {does}, phase: {phase} }} }}\n"
        ));
    }
    config.push_str("upstreams: { origin: { endpoints: ['@origin@'] } }\nroutes:\n");
    for (does, _) in MISDEEDS {
        config.push_str(&format!(
            "  - {{ name: {does}, match: {{ path: '/{does}' }}, plugins: [{does}], upstream: origin }}\n"
        ));
    }
    config.push_str("  - { name: neighbour, match: { path: /neighbour }, upstream: origin }\n");
    config
}

fn failures(metrics: &Metrics, plugin: &str) -> Vec<(String, f64)> {
    let of = |reason: &String| metrics.value("sluice_plugin_failures_total", &[("plugin", plugin), ("reason", reason)]);
    let reasons = metrics.label_values("sluice_plugin_failures_total", "reason");
    reasons.into_iter().map(|reason| (of(&reason), reason)).filter(|(n, _)| *n > 0.0).map(|(n, r)| (r, n)).collect()
}

#[tokio::test]
async fn whatever_a_plugin_does_wrong_is_answered_500_and_counted_by_its_kind() {
    for phase in ["request", "response"] {
        let origin = origin().run().await;
        let edge = world(&misdeeds(phase, "refuse"), &origin).run().await;
        for (does, kind) in MISDEEDS {
            let answer = client().get(edge.url(&format!("/{does}"))).send().await;
            assert_eq!(answer.status, 500, "{phase} {does}: {}", answer.text());
            assert_eq!(answer.json()["type"], "urn:sluice:problem:plugin-failed", "{phase} {does}");
            assert_eq!(answer.header("x-hostile"), None, "{phase} {does}: a failed phase changed the answer");
            assert_eq!(answer.header("x-injected"), None, "{phase} {does}");
            assert!(!answer.text().contains("hostile"), "{phase} {does}: {}", answer.text());
            let metrics = edge.metrics().await;
            assert_eq!(failures(&metrics, does), [((*kind).to_owned(), 1.0)], "{phase} {does}");
        }
        assert_eq!(origin.count(), if phase == "request" { 0 } else { MISDEEDS.len() });
        let metrics = edge.metrics().await;
        assert_eq!(metrics.value("sluice_refusals_total", &[("reason", "plugin-failed")]), MISDEEDS.len() as f64);
        assert_eq!(metrics.value("sluice_plugin_instances", &[]), 0.0, "an instance outlived its phase");
        assert_eq!(client().get(edge.url("/neighbour")).send().await.status, 200);
        edge.stop().await;
    }
}

#[tokio::test]
async fn a_plugin_whose_failures_are_skipped_leaves_no_trace_in_the_request_but_in_the_figures() {
    for phase in ["request", "response"] {
        let origin = origin().run().await;
        let edge = world(&misdeeds(phase, "skip"), &origin).run().await;
        for (does, kind) in MISDEEDS {
            let answer = client().get(edge.url(&format!("/{does}"))).send().await;
            assert_eq!((answer.status.as_u16(), answer.header("x-hostile")), (200, None), "{phase} {does}");
            let seen = origin.last();
            assert_eq!((seen.header("x-hostile"), seen.header("x-flood")), (None, None), "{phase} {does}");
            assert_eq!(failures(&edge.metrics().await, does), [((*kind).to_owned(), 1.0)], "{phase} {does}");
        }
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_are_served_while_plugins_loop_and_grow() {
    let origin = origin().run().await;
    let edge = world(&misdeeds("request", "refuse"), &origin).run().await;
    let memory = edge.resident_bytes();
    let hostile: Vec<_> = (0..24)
        .map(|n| {
            let url = edge.url(["/loop", "/grow", "/call-storm"][n % 3]);
            tokio::spawn(async move { client().get(url).send().await.status.as_u16() })
        })
        .collect();
    let client = client();
    let connection = client.connect(edge.url("/neighbour")).await.unwrap();
    for _ in 0..200 {
        assert_eq!(connection.send(client.get(edge.url("/neighbour"))).await.status, 200);
    }
    let mut failed = 0;
    for request in hostile {
        let status = request.await.unwrap();
        // Those of one route run one after the other, and who would wait too long is turned away.
        assert!(matches!(status, 500 | 503), "{status}");
        failed += u32::from(status == 500);
    }
    assert!(failed >= 3, "{failed} were run");
    let grown = edge.resident_bytes().saturating_sub(memory);
    assert!(grown < 900 << 20, "{grown} bytes were taken by plugins that may have 24 MiB each");
    edge.stop().await;
}

#[tokio::test]
async fn a_plugin_may_answer_or_refuse_when_it_sees_the_upstreams_answer() {
    let origin = origin().run().await;
    // With time enough the hostile plugin gets past its flood of log lines, which are dropped and counted, and answers 299.
    let config = "
plugins:
  answers: { component: hostile.wasm, limits: { deadline: 1s }, config: { does: flood-log, phase: response } }
  refuses: { component: hostile.wasm, limits: { deadline: 1s }, config: { does: long-refusal, phase: response } }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes:
  - { name: answers, match: { path: /answers }, plugins: [answers], upstream: origin }
  - { name: refuses, match: { path: /refuses }, plugins: [refuses], upstream: origin }
";
    let edge = world(config, &origin).run().await;
    for client in [client(), client().http2()] {
        let refused = client.get(edge.url("/refuses")).send().await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["type"]),
            (403, &"urn:sluice:problem:plugin-refused".into())
        );
        assert!(refused.json()["detail"].as_str().unwrap().len() <= 256, "{}", refused.text());
        assert!(!refused.text().contains("\"headers\""), "the upstream's body came along: {}", refused.text());
    }
    let answered = client().get(edge.url("/answers")).send().await;
    assert_eq!((answered.status.as_u16(), answered.text()), (299, ""), "{answered:?}");
    assert!(answered.header("x-request-id").is_some(), "{answered:?}");
    assert_eq!(origin.count(), 3);
    let metrics = edge.metrics().await;
    assert!(metrics.value("sluice_plugin_log_lines_dropped_total", &[("plugin", "answers")]) > 1000.0);
    assert!(failures(&metrics, "answers").is_empty());
    edge.stop().await;
}

#[tokio::test]
async fn a_plugin_cannot_say_who_sent_a_request() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let config = "
issuers: { corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } } }
plugins: { region: { component: rust.wasm, config: { region: forged-by-a-plugin } } }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes:
  - name: closed
    match: { path: '/closed' }
    auth: { issuer: corp, claims_to_headers: { x-region: sub } }
    plugins: [region]
    upstream: origin
  - { name: open, match: { path: '/*' }, plugins: [region], upstream: origin }
";
    let edge = world(config, &origin).set("corp", corp.name()).set("jwks", corp.jwks_url()).run().await;
    let token = corp.token().subject("ada").sign();
    client().get(edge.url("/closed")).bearer(&token).header("x-region", "forged-by-a-client").send().await;
    assert_eq!(origin.last().header("x-region"), Some("ada"));
    client().get(edge.url("/open")).header("x-region", "forged-by-a-client").send().await;
    assert_eq!(origin.last().header("x-region"), None, "where nobody was identified, nobody is named");
    edge.stop().await;
}

/// A configuration with one plugin, its component in line 2.
const ONE: &str = "plugins:
  p: { component: p.wasm }
upstreams: { origin: { endpoints: ['127.0.0.1:1'] } }
routes:
  - { name: all, match: { path: '/*' }, plugins: [p], upstream: origin }
";

/// Files that are no component of the contract.
fn impostors() -> Vec<(&'static str, Vec<u8>)> {
    let mut torn = RUST.to_vec();
    torn.truncate(RUST.len() / 2);
    let mut flipped = RUST.to_vec();
    for byte in &mut flipped[200..400] {
        *byte ^= 0x5a;
    }
    vec![
        ("empty", Vec::new()),
        ("a text", b"#!/bin/sh\necho pwned\n".to_vec()),
        ("a core module", b"\0asm\x01\0\0\0".to_vec()),
        ("a component of nothing", b"\0asm\x0d\0\x01\0".to_vec()),
        ("a torn component", torn),
        ("a garbled component", flipped),
    ]
}

#[tokio::test]
async fn what_is_no_component_is_refused_by_check_with_file_and_line() {
    for (what, bytes) in impostors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edge.yaml");
        std::fs::write(folder.path().join("p.wasm"), bytes).unwrap();
        std::fs::write(&file, format!("{ONE}listeners: [ {{ address: '127.0.0.1:0' }} ]\n")).unwrap();
        let outcome = run_to_end(["check".as_ref(), "-c".as_ref(), file.as_os_str()]).await;
        assert_eq!(outcome.code, Some(2), "{what}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains("edge.yaml:2:"), "{what}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("p.wasm"), "{what}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
    }
}

#[tokio::test]
async fn what_is_no_component_is_refused_at_the_start_with_file_and_line() {
    for (what, bytes) in impostors() {
        let outcome = gateway().config(ONE).file("p.wasm", bytes).run_to_refusal().await;
        assert_eq!(outcome.code, Some(2), "{what}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("sluice.yaml:2:"), "{what}: {}", outcome.stderr);
    }
    let missing = gateway().config(ONE).run_to_refusal().await;
    assert!(missing.code == Some(2) && missing.stderr.contains("sluice.yaml:2:"), "{}", missing.stderr);
    let pinned = ONE.replace("p.wasm", &format!("p.wasm, sha256: {}", "0".repeat(64)));
    let other = gateway().config(&pinned).file("p.wasm", RUST).run_to_refusal().await;
    assert!(other.code == Some(2) && other.stderr.contains("sluice.yaml:2:"), "{}", other.stderr);
}

#[tokio::test]
async fn a_reload_to_what_is_no_component_leaves_the_plugin_as_it_was() {
    let origin = origin().run().await;
    let config = "
plugins: { p: { component: rust.wasm, config: { region: eu-1 } } }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes: [ { name: all, match: { path: '/*' }, plugins: [p], upstream: origin } ]
";
    let edge = world(config, &origin).file("bad.wasm", b"no component".to_vec()).run().await;
    let region = async |edge: &Gateway| client().get(edge.url("/")).send().await.header("x-region").map(str::to_owned);
    assert_eq!(region(&edge).await.as_deref(), Some("eu-1"));
    edge.reload(&config.replace("rust.wasm", "bad.wasm"));
    let line = edge.log_line("the refusal", |line| line.message().starts_with("configuration refused")).await;
    assert!(line.field("faults").unwrap().contains("bad.wasm"), "{}", line.text);
    assert_eq!(region(&edge).await.as_deref(), Some("eu-1"));
    edge.reload(&config.replace("eu-1", "eu-2").replace("rust.wasm", "as.wasm"));
    edge.log_line("the reload", |line| line.message() == "configuration applied").await;
    assert_eq!(region(&edge).await.as_deref(), Some("eu-2"));
    edge.stop().await;
}

#[tokio::test]
async fn what_an_outside_service_decided_is_asked_for_once_in_a_while() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let decides = |seen: &Seen| {
        let question: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let is_hers = question["subject"] == "ada" && question["tenant"] == "acme" && question["path"] == "/orders/7";
        Reply::status(if is_hers { 204 } else { 403 })
    };
    let service = sluice_testkit::origin().compute("/decide", decides).run().await;
    let config = "
issuers:
  corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } }
tenants: { identify: [ { claim: tenant } ] }
plugins:
  decision:
    component: decision.wasm
    decides: true
    limits: { host_calls: 10s }
    grants: { identity: true, key_value: {}, http: ['@service@'] }
    config: { url: '@service@/decide', timeout_ms: 10000 }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes:
  - { name: orders, match: { path: '/orders/*' }, auth: { issuer: corp }, plugins: [decision], upstream: origin }
";
    let component = include_bytes!("../../../plugins/prebuilt/outside_decision.wasm");
    let edge = world(config, &origin).file("decision.wasm", component);
    let edge = edge.set("service", format!("http://{}", service.address()));
    let edge = edge.set("corp", corp.name()).set("jwks", corp.jwks_url()).run().await;
    let ask = async |subject: &str, path: &str| {
        let token = corp.token().subject(subject).tenant("acme").sign();
        client().get(edge.url(path)).bearer(&token).send().await.status.as_u16()
    };
    for _ in 0..3 {
        assert_eq!((ask("ada", "/orders/7").await, ask("eve", "/orders/7").await), (200, 403));
    }
    assert_eq!((origin.count(), service.count()), (3, 2), "each was asked for once");
    assert_eq!(ask("ada", "/orders/8").await, 403);
    service.stop().await;
    // What is remembered holds; what is not is decided by nobody.
    assert_eq!((ask("ada", "/orders/7").await, ask("ada", "/orders/9").await), (200, 503));
    edge.stop().await;
}

#[tokio::test]
async fn a_plugin_asks_a_decision_service_who_may_pass_and_nobody_passes_without_an_answer() {
    let origin = origin().run().await;
    let decides = |seen: &Seen| match (seen.header("x-path"), seen.header("x-subject")) {
        (Some("/orders/7"), Some("alice")) => Reply::status(204),
        _ => Reply::status(403),
    };
    let service = sluice_testkit::origin().compute("/decide", decides).run().await;
    let config = "
plugins:
  policy:
    component: asking.wasm
    decides: true
    limits: { host_calls: 10s }
    grants: { http: ['@service@'] }
    config: { decide: '@service@/decide' }
  inside:
    component: asking.wasm
    grants: { http: { origins: ['http://localhost:@port@'] } }
    config: { ask: ['GET http://localhost:@port@/decide'] }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes:
  - { name: orders, match: { path: '/orders/*' }, plugins: [policy], upstream: origin }
  - { name: inside, match: { path: '/inside' }, plugins: [inside], upstream: origin }
";
    let edge =
        world(config, &origin).file("asking.wasm", ASKING).set("service", format!("http://{}", service.address()));
    let edge = edge.set("port", service.address().port()).run().await;
    for client in [client(), client().http2()] {
        let ask =
            async |path: &str, subject: &str| client.get(edge.url(path)).header("x-subject", subject).send().await;
        assert_eq!(ask("/orders/7", "alice").await.status, 200);
        for (path, subject) in [("/orders/7", "mallory"), ("/orders/8", "alice")] {
            let refused = ask(path, subject).await;
            assert_eq!(refused.status, 403);
            assert_eq!(refused.json()["detail"], "the decision service said no");
        }
    }
    assert_eq!((origin.count(), service.count()), (2, 6), "who was refused reached nobody");

    // A name that leads to the gateway's own machine is not asked, whatever listens there.
    assert_eq!(client().get(edge.url("/inside")).send().await.status, 200);
    assert_eq!(origin.last().header("x-asked-0"), Some("private-address"));
    assert_eq!(service.count(), 6);

    service.stop().await;
    let unheard = client().get(edge.url("/orders/7")).header("x-subject", "alice").send().await;
    assert_eq!((unheard.status.as_u16(), origin.count()), (500, 3));
    let metrics = edge.metrics().await;
    let result = |plugin, result| {
        metrics.value("sluice_plugin_outbound_requests_total", &[("plugin", plugin), ("result", result)])
    };
    assert_eq!((result("policy", "2xx"), result("policy", "4xx"), result("policy", "unreachable")), (2.0, 4.0, 1.0));
    assert_eq!(result("inside", "private_address"), 1.0);
    edge.stop().await;
}
