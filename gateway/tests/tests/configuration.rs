//! A configuration is checked whole before anything runs, its faults are told with their place and their mend, and a
//! changed one is put in force without a lost request or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use sluice_testkit::{Gateway, Outcome, Reply, client, gateway, origin, run_to_end};

const CONFIG: &str = "
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, upstream: origin }
";

/// Wrong in more than forty ways; no value stands in two places of it, so that a fault's place can be looked up.
const FAULTY: &str = r#"listners: []
listeners:
  - address: 127.0.0.1:notaport
  - { address: "127.0.0.1:8080", htp2: true }
  - { address: "127.0.0.1:8080", tls: { certificates: [] } }
downstream:
  limits: { header_size: 3B, header_fields: 9000, connections: 0, body_rate: 12 }
  timeouts: { header: 0s, handshake: soon }
  trusted_proxies: [ 10.0.0.0/99 ]
admin: { address: "0.0.0.0:9901" }
auth: { max_token: 1B }
issuers:
  corp:
    issuer: ""
    audiences: []
    algorithms: [HS256, RS256]
    jwks: { url: "https://reader:hunter2-in-a-url@id.example.com/keys", password: hunter2-in-a-key }
tenants:
  identify: [ { claim: "" }, { header: "bad header" } ]
  required: yes
  default: { rate: { requests: 0, per: 0s }, concurrency: 0 }
plugins:
  add-region:
    component: ""
    sha256: 12zz
    limits: { memory: 1GiB, deadline: 2s }
    on_failure: shrug
    config: { api_key: hunter2-in-a-plugin }
upstreams:
  orders: { endpoints: [], balanse: random }
  parcels: { endpoints: [ "10.0.0.5" ], timeouts: { connect: 0ms } }
kernel: { refresh: 1ms, max_endpoints: 1 }
telemetry:
  logs: { level: loud }
  access_log: { sample: 1.5, format: xml }
routes:
  - { name: a, upstream: order }
  - { name: a, match: { path: no-slash } }
  - { name: b, upstream: parcels, answer: { status: 200 }, plugins: [add-regin] }
  - { name: c, upstream: parcels, compression: { level: 44 }, timeouts: { total: 0h } }
"#;

/// Path of the fault, the text in the document at which it must point, and a part of its mend where there is one to give.
const FAULTS: &[(&str, &str, &str)] = &[
    ("listners", "listners", "did you mean `listeners`?"),
    ("listeners[0].address", "127.0.0.1:notaport", ""),
    ("listeners[1].htp2", "htp2", "did you mean `http2`?"),
    ("listeners[2].tls.certificates", "[] } }\ndownstream", ""),
    ("downstream.limits.header_size", "3B", ""),
    ("downstream.limits.header_fields", "9000", ""),
    ("downstream.limits.connections", "0, body_rate", ""),
    ("downstream.limits.body_rate", "12 }\n  timeouts", "12KiB"),
    ("downstream.timeouts.header", "0s, handshake", "leave it out"),
    ("downstream.timeouts.handshake", "soon", ""),
    ("downstream.trusted_proxies[0]", "10.0.0.0/99", ""),
    ("admin.address", "\"0.0.0.0:9901\"", "127.0.0.1"),
    ("auth.max_token", "1B", ""),
    ("issuers.corp.issuer", "\"\"\n    audiences", ""),
    ("issuers.corp.audiences", "[]\n    algorithms", "aud"),
    ("issuers.corp.algorithms[0]", "HS256", "give the issuer `secrets`"),
    ("issuers.corp.jwks.url", "\"https://reader", ""),
    ("issuers.corp.jwks.password", "password", "known here"),
    ("tenants.identify[0]", "{ claim: \"\" }", ""),
    ("tenants.identify[1]", "{ header: \"bad header\" }", ""),
    ("tenants.required", "yes", "write true"),
    ("tenants.default.rate.requests", "0, per", ""),
    ("tenants.default.rate.per", "0s }, concurrency", ""),
    ("tenants.default.concurrency", "0 }\nplugins", ""),
    ("plugins.add-region.component", "\"\"\n    sha256", ""),
    ("plugins.add-region.sha256", "12zz", ""),
    ("plugins.add-region.limits.memory", "1GiB", ""),
    ("plugins.add-region.limits.deadline", "2s", ""),
    ("plugins.add-region.on_failure", "shrug", ""),
    ("upstreams.orders.endpoints", "[], balanse", ""),
    ("upstreams.orders.balanse", "balanse", "did you mean `balance`?"),
    ("upstreams.parcels.endpoints[0]", "\"10.0.0.5\"", "10.0.0.5:8080"),
    ("upstreams.parcels.timeouts.connect", "0ms", ""),
    ("kernel.refresh", "1ms", ""),
    ("kernel.max_endpoints", "1 }\ntelemetry", ""),
    ("telemetry.logs.level", "loud", "info"),
    ("telemetry.access_log.sample", "1.5", ""),
    ("telemetry.access_log.format", "xml", ""),
    ("routes[0].upstream", "order }", "did you mean \"orders\"?"),
    ("routes[1]", "{ name: a, match", "name the upstream"),
    ("routes[1].name", "a, match", ""),
    ("routes[1].match.path", "no-slash", "/no-slash"),
    ("routes[2]", "{ name: b", ""),
    ("routes[2].plugins[0]", "add-regin]", "did you mean \"add-region\"?"),
    ("routes[3].compression.level", "44", ""),
    ("routes[3].timeouts.total", "0h", ""),
];

async fn check(document: &str, more: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edge.yaml");
    std::fs::write(&file, document).unwrap();
    let file = file.display().to_string();
    run_to_end(["check", "-c", file.as_str()].iter().chain(more)).await
}

/// Line and column, both counted from 1, at which `text` first stands.
fn place_of(text: &str) -> (u64, u64) {
    let offset = FAULTY.find(text).unwrap_or_else(|| panic!("{text:?} is not in the document"));
    let before = &FAULTY[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() as u64 + 1, (offset - line_start) as u64 + 1)
}

#[tokio::test]
async fn forty_faults_are_told_in_one_go_each_with_its_place_and_its_mend_and_no_secret() {
    let outcome = check(FAULTY, &["--json"]).await;
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let told = report["faults"].as_array().unwrap();
    for (path, at, mend) in FAULTS {
        let fault = told.iter().find(|fault| fault["path"] == *path && fault["severity"] == "error");
        let fault = fault.unwrap_or_else(|| panic!("no fault at {path}, but {report:#}"));
        let place = (fault["line"].as_u64().unwrap(), fault["column"].as_u64().unwrap());
        assert_eq!(place, place_of(at), "{fault}");
        assert!(fault["help"].as_str().unwrap_or_default().contains(mend), "expected {mend:?} to be the mend: {fault}");
    }

    let text = check(FAULTY, &[]).await;
    assert_eq!(text.code, Some(2));
    for (path, at, mend) in FAULTS {
        let (line, column) = place_of(at);
        let place = format!("edge.yaml:{line}:{column} ({path})");
        assert!(text.stderr.contains(&place), "{place} is not in {}", text.stderr);
        assert!(text.stderr.contains(mend), "{mend:?} is not in {}", text.stderr);
    }
    let all = [outcome.stdout, outcome.stderr, text.stdout, text.stderr].concat();
    assert!(!all.contains("hunter2"), "a secret was printed");
    assert!(!all.contains("panicked"), "{all}");
}

#[tokio::test]
async fn what_is_no_yaml_is_refused_with_its_place() {
    for (document, line) in [("routes:\n  - { name: a\n", 3), ("a: 1\na: 2\n", 2), ("routes: [\u{0}]", 1)] {
        let outcome = check(document, &[]).await;
        assert_eq!(outcome.code, Some(2), "{document:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(&format!("edge.yaml:{line}:")), "{document:?}: {}", outcome.stderr);
    }
    let missing = run_to_end(["check", "-c", "/nowhere/edge.yaml"]).await;
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("/nowhere/edge.yaml"), "{}", missing.stderr);
}

#[tokio::test]
async fn a_sound_configuration_is_called_so_and_explains_which_route_wins_and_why() {
    const SOUND: &str = "
listeners: [ { address: 127.0.0.1:8080 } ]
upstreams: { orders: { endpoints: ['10.0.0.1:80'] }, rest: { endpoints: ['10.0.0.2:80'] } }
routes:
  - { name: rest, match: { path: '/*' }, upstream: rest }
  - { name: one-order, match: { host: api.example.com, path: '/orders/{id}', methods: [GET] }, upstream: orders }
";
    let outcome = check(SOUND, &[]).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("fine") && outcome.stdout.contains("2 routes"), "{}", outcome.stdout);

    for (question, route) in [
        ("GET https://api.example.com/orders/7", "one-order"),
        ("GET https://api.example.com/orders/../orders/7", "one-order"),
        ("POST https://api.example.com/orders/7", "rest"),
        ("GET https://www.example.com/orders/7", "rest"),
    ] {
        let outcome = check(SOUND, &["--explain", question]).await;
        assert_eq!(outcome.code, Some(0), "{question}: {}", outcome.stderr);
        assert!(outcome.stdout.contains(route), "{question}: {}", outcome.stdout);
        let outcome = check(SOUND, &["--json", "--explain", question]).await;
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(report["explanation"]["outcome"]["route"]["name"], route, "{report:#}");
    }
    let nonsense = check(SOUND, &["--explain", "GET"]).await;
    assert_eq!(nonsense.code, Some(2), "{}", nonsense.stdout);
}

/// Holds a schema and everything in it against the rules of JSON Schema 2020-12 for the keywords it uses.
fn hold_against_the_rules(schema: &Value, whole: &Value, at: &str) {
    const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];
    let Some(members) = schema.as_object() else {
        assert!(schema.is_boolean(), "{at}: a schema is an object or a boolean, not {schema}");
        return;
    };
    for (keyword, value) in members {
        let at = format!("{at}/{keyword}");
        match keyword.as_str() {
            "$schema" | "$id" | "title" | "description" | "format" | "$comment" => assert!(value.is_string(), "{at}"),
            "pattern" => assert!(value.as_str().is_some_and(|pattern| !pattern.is_empty()), "{at}"),
            "type" => {
                let one = [value.clone()];
                let named = value.as_array().map_or(&one[..], Vec::as_slice);
                assert!(
                    named.iter().all(|name| name.as_str().is_some_and(|name| TYPES.contains(&name))),
                    "{at}: {value}"
                );
            }
            "$ref" => {
                let pointer =
                    value.as_str().and_then(|target| target.strip_prefix('#')).unwrap_or_else(|| panic!("{at}"));
                assert!(whole.pointer(pointer).is_some(), "{at}: {value} leads nowhere");
            }
            "properties" | "$defs" | "patternProperties" => {
                for (name, inner) in value.as_object().unwrap_or_else(|| panic!("{at}")) {
                    hold_against_the_rules(inner, whole, &format!("{at}/{name}"));
                }
            }
            "items" | "additionalProperties" | "propertyNames" | "not" => hold_against_the_rules(value, whole, &at),
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                let inner = value.as_array().filter(|inner| !inner.is_empty()).unwrap_or_else(|| panic!("{at}"));
                inner
                    .iter()
                    .enumerate()
                    .for_each(|(n, inner)| hold_against_the_rules(inner, whole, &format!("{at}/{n}")));
            }
            "required" => {
                let names: BTreeSet<_> = value.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
                assert_eq!(names.len(), value.as_array().unwrap().len(), "{at}: a name is given twice");
                let known = members.get("properties").and_then(Value::as_object);
                assert!(names.iter().all(|name| known.is_some_and(|known| known.contains_key(*name))), "{at}: {value}");
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
                assert!(value.is_number(), "{at}");
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                assert!(value.is_u64(), "{at}");
            }
            "enum" | "examples" => assert!(value.as_array().is_some_and(|values| !values.is_empty()), "{at}"),
            "uniqueItems" | "deprecated" | "writeOnly" | "readOnly" => assert!(value.is_boolean(), "{at}"),
            // An annotation of our own: what it marks is never shown.
            "x-secret" => assert!(value.is_boolean(), "{at}"),
            "x-help-for" => assert!(value.as_object().unwrap().values().all(Value::is_string), "{at}"),
            "const" | "default" => {}
            unknown => panic!("{at}: {unknown} is no keyword of JSON Schema that this test knows"),
        }
    }
}

#[tokio::test]
async fn the_published_schema_is_a_schema_that_describes_every_key_and_allows_no_other() {
    let outcome = run_to_end(["schema"]).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let schema: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    hold_against_the_rules(&schema, &schema, "#");

    let described = |object: &Value, at: &str| {
        let Some(properties) = object["properties"].as_object() else { return };
        assert_eq!(object["additionalProperties"], false, "{at} takes unknown keys");
        for (key, property) in properties {
            let told = property["description"].as_str().or(property["$ref"].as_str());
            assert!(told.is_some_and(|told| told.len() > 4), "{at}.{key} is not described");
        }
    };
    described(&schema, "#");
    let sections: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    for section in ["listeners", "admin", "issuers", "tenants", "plugins", "upstreams", "routes", "telemetry", "kernel"]
    {
        assert!(sections.contains(&section), "{section} is not in {sections:?}");
    }
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        described(definition, name);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = std::process::Command::new(sluice_testkit::binary())
        .arg("schema")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Gone before the first byte: the pipe is broken whenever it is written to.
    drop(child.stdout.take());
    let outcome = child.wait_with_output().unwrap();
    assert!(outcome.status.success(), "{}: {}", outcome.status, String::from_utf8_lossy(&outcome.stderr));
}

/// The state that `/readyz` shows of a unit, with the reason.
async fn unit(edge: &Gateway, name: &str) -> (String, String) {
    let page = client().get(edge.admin_url("/readyz")).send().await.json();
    let units = page["units"].as_array().unwrap();
    let unit = units.iter().find(|unit| unit["unit"] == name).unwrap_or_else(|| panic!("no unit {name}: {page:#}"));
    let text = |key: &str| unit[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

async fn answer(edge: &Gateway) -> String {
    client().get(edge.url("/")).send().await.text().to_owned()
}

#[tokio::test]
async fn a_changed_file_is_noticed_and_applied_without_anybody_asking() {
    let (old, new) =
        (origin().on("/*", Reply::text("old")).run().await, origin().on("/*", Reply::text("new")).run().await);
    let edge = gateway().config(CONFIG).set("origin", old.address()).set("new", new.address()).run().await;
    assert_eq!(answer(&edge).await, "old");
    edge.rewrite(&CONFIG.replace("@origin@", "@new@"));
    edge.log_line("a reload", |line| line.message() == "configuration applied").await;
    assert_eq!(answer(&edge).await, "new");
    let metrics = edge.metrics().await;
    assert_eq!(metrics.value("sluice_config_file_changes_total", &[]), 1.0);
    assert_eq!(metrics.value("sluice_config_reloads_total", &[("outcome", "applied")]), 1.0);
    edge.stop().await;
}

#[tokio::test]
async fn a_bad_file_leaves_the_old_one_running_and_is_told_in_log_metrics_and_readiness_until_it_is_mended() {
    let origin = origin().on("/*", Reply::text("old")).run().await;
    let edge = gateway().config(CONFIG).set("origin", origin.address()).run().await;
    let before = client().get(edge.admin_url("/config")).send().await.json();
    for bad in [CONFIG.replace("upstream: origin", "upstrem: origin"), "routes: {{".to_owned(), String::new()] {
        let refused = edge.metrics().await.value("sluice_config_reloads_total", &[("outcome", "refused")]);
        edge.reload(&bad);
        let counted = edge.metrics_when("the refusal to be counted", |metrics| {
            metrics.value("sluice_config_reloads_total", &[("outcome", "refused")]) > refused
        });
        assert_eq!(counted.await.value("sluice_config_last_reload_ok", &[]), 0.0);
        assert_eq!(answer(&edge).await, "old");
        assert_eq!(client().get(edge.admin_url("/config")).send().await.json(), before);
        let (state, reason) = unit(&edge, "reload").await;
        assert!(state == "degraded" && reason.contains("faults"), "{state}: {reason}");
        assert_eq!(client().get(edge.admin_url("/readyz")).send().await.status, 200, "it still serves");
    }
    let misspelt = edge
        .log_line("the refusal", |line| line.level() == "ERROR" && line.message().starts_with("configuration refused"))
        .await;
    let faults = misspelt.field("faults").unwrap();
    assert!(faults.contains("upstrem") && faults.contains("sluice.yaml:5:"), "{faults}");

    edge.reload(CONFIG);
    edge.metrics_when("the mended file to apply", |metrics| metrics.value("sluice_config_last_reload_ok", &[]) == 1.0)
        .await;
    assert_eq!(unit(&edge, "reload").await, ("ready".to_owned(), String::new()));
    edge.stop().await;
}

#[tokio::test]
async fn a_file_that_vanishes_changes_nothing_and_is_told() {
    let origin = origin().on("/*", Reply::text("old")).run().await;
    let edge = gateway().config(CONFIG).set("origin", origin.address()).run().await;
    std::fs::remove_file(edge.folder().join("sluice.yaml")).unwrap();
    edge.metrics_when("the loss to be noticed", |metrics| {
        metrics.value("sluice_config_file_vanished_total", &[]) == 1.0
    })
    .await;
    assert_eq!(answer(&edge).await, "old");
    let (state, reason) = unit(&edge, "config").await;
    assert!(state == "degraded" && reason.contains("sluice.yaml"), "{state}: {reason}");
    edge.rewrite(CONFIG);
    sluice_testkit::eventually("the unit to be ready", async || {
        (unit(&edge, "config").await.0 == "ready").then_some(())
    })
    .await;
    edge.stop().await;
}

#[tokio::test]
async fn what_cannot_change_live_is_refused_by_name_while_everything_else_applies() {
    let (old, new) =
        (origin().on("/*", Reply::text("old")).run().await, origin().on("/*", Reply::text("new")).run().await);
    let full = format!(
        "listeners: [ {{ address: '127.0.0.1:0' }} ]
admin: {{ address: '127.0.0.1:0' }}
telemetry: {{ logs: {{ level: info }} }}
{CONFIG}"
    );
    let edge = gateway().config(&full).set("origin", old.address()).set("new", new.address()).run().await;
    let in_force = client().get(edge.admin_url("/config")).send().await.json();
    let changed = full
        .replacen("127.0.0.1:0", "127.0.0.2:0", 1)
        .replace("admin: { address: '127.0.0.1:0' }", "admin: { address: '127.0.0.3:0' }")
        .replace("level: info", "level: 'info,sluice_auth=debug', output: elsewhere.log, format: human")
        .replace("@origin@", "@new@");
    edge.reload(&changed);
    let line = edge.log_line("the reload", |line| line.message().starts_with("configuration applied, but for")).await;
    let left = line.field("left").unwrap();
    for name in ["listeners[0].address", "admin", "telemetry.logs.output", "telemetry.logs.format"] {
        assert!(left.contains(&format!("{name}: cannot change")), "{name} is not named: {left}");
    }
    assert!(!left.contains("level"), "{left}");
    assert_eq!(answer(&edge).await, "new", "everything else applies");
    let log = client().get(edge.admin_url("/log")).send().await.json();
    assert_eq!(log["level"], "info,sluice_auth=debug");

    let metrics = edge.metrics().await;
    assert_eq!(metrics.value("sluice_config_reloads_total", &[("outcome", "partly")]), 1.0);
    assert_eq!(metrics.value("sluice_config_last_reload_ok", &[]), 0.0);
    let (state, reason) = unit(&edge, "reload").await;
    assert!(state == "degraded" && reason.contains("listeners[0].address"), "{state}: {reason}");
    // What `/config` shows is what is in force, not what the file wishes for.
    let shown = client().get(edge.admin_url("/config")).send().await.json();
    for pointer in ["/listeners/0/address", "/admin", "/telemetry/logs/output", "/telemetry/logs/format"] {
        assert_eq!(shown.pointer(pointer), in_force.pointer(pointer), "{pointer}");
    }
    assert_ne!(shown["upstreams"], in_force["upstreams"]);

    edge.reload(&full);
    edge.log_line("the file as it was", |line| line.message() == "configuration applied").await;
    assert_eq!(unit(&edge, "reload").await.0, "ready");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_no_request() {
    let (old, new) = (
        origin().on("/*", Reply::text("old").after(Duration::from_millis(5))).run().await,
        origin().on("/*", Reply::text("new").after(Duration::from_millis(5))).run().await,
    );
    let edge = gateway().config(CONFIG).set("origin", old.address()).set("new", new.address()).run().await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let url = edge.url("/");
    let askers: Vec<_> = (0..8)
        .map(|asker| {
            let (stop, served, url) = (Arc::clone(&stop), Arc::clone(&served), url.clone());
            tokio::spawn(async move {
                let client = if asker % 2 == 0 { client() } else { client().http2() };
                let mut answers = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    // Some on connections that live through a reload, some on new ones.
                    let connection = client.connect(&url).await.unwrap();
                    for _ in 0..16 {
                        let answer = connection.send(client.get(&url)).await;
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        answers.insert(answer.text().to_owned());
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
                answers
            })
        })
        .collect();
    for round in 1..=10 {
        let reached = served.load(Ordering::Relaxed) + 50;
        let more = async || (served.load(Ordering::Relaxed) >= reached).then_some(());
        sluice_testkit::eventually("50 more requests", more).await;
        let target = if round % 2 == 0 { "@origin@" } else { "@new@" };
        edge.reload(&CONFIG.replace("@origin@", target));
        edge.metrics_when("the reload", |metrics| {
            metrics.value("sluice_config_reloads_total", &[("outcome", "applied")]) >= f64::from(round)
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for asker in askers {
        let answers = asker.await.expect("an asker whose every request was answered 200");
        assert!(answers.contains("old") && answers.contains("new"), "{answers:?}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_reload_asked_for_at_the_admins_door_tells_its_outcome() {
    let origin = origin().run().await;
    let edge = gateway().config(CONFIG).set("origin", origin.address()).run().await;
    let reload = || client().post(edge.admin_url("/reload"), "").send();
    assert_eq!(reload().await.json()["reloaded"], true);
    // Read at once, before the file's watcher can.
    std::fs::write(edge.folder().join("sluice.yaml"), "routs: []\n").unwrap();
    let refused = reload().await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("did you mean `routes`?"), "{}", refused.text());
    edge.stop().await;
}
