//! `sluice plugin test` plays fixtures through the sandbox that serves, and tells what came out otherwise than expected.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_testkit::run_to_end;

fn prebuilt(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/prebuilt").join(name)
}

/// Fixtures in a folder of their own, in which `@NAME@` stands for the path of a prebuilt component.
struct Written {
    _folder: tempfile::TempDir,
    file: String,
}

fn written(yaml: &str) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let mut text = yaml.to_owned();
    for name in ["add_region_rust", "probe", "hostile", "bodies", "chunks"] {
        text = text.replace(&format!("@{name}@"), prebuilt(&format!("{name}.wasm")).to_str().unwrap());
    }
    let file = folder.path().join("fixtures.yaml");
    std::fs::write(&file, text).unwrap();
    Written { file: file.to_str().unwrap().to_owned(), _folder: folder }
}

/// The exit code, and the page of the only file's cases.
async fn played(yaml: &str) -> (Option<i32>, Value) {
    let fixtures = written(yaml);
    let outcome = run_to_end(["plugin", "test", "--json", &fixtures.file]).await;
    let page: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("no JSON: {outcome:?}"));
    (outcome.code, page)
}

/// Asserts that every case passes.
async fn passes(yaml: &str) {
    let (code, page) = played(yaml).await;
    assert_eq!((code, &page["ok"]), (Some(0), &true.into()), "{page:#}");
}

/// The fixtures of all examples.
fn examples() -> Vec<PathBuf> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/examples");
    let fixtures = std::fs::read_dir(examples).unwrap().map(|example| example.unwrap().path().join("fixtures.yaml"));
    let fixtures: Vec<_> = fixtures.collect();
    assert!(fixtures.len() >= 7, "{fixtures:?}");
    fixtures
}

#[tokio::test]
async fn the_fixtures_of_every_example_pass() {
    for file in examples() {
        let outcome = run_to_end(["plugin", "test", file.to_str().unwrap()]).await;
        assert_eq!(outcome.code, Some(0), "{}: {}{}", file.display(), outcome.stdout, outcome.stderr);
    }
}

#[tokio::test]
async fn the_fixtures_of_every_example_fail_for_a_plugin_that_does_nothing() {
    for file in examples() {
        let text = std::fs::read_to_string(&file).unwrap();
        let component = text.lines().find_map(|line| Some(line.split_once("../../prebuilt/")?.1)).unwrap();
        let component = component.split(".wasm").next().unwrap();
        let fixtures = written(&text.replace(&format!("../../prebuilt/{component}.wasm"), "@hostile@"));
        let outcome = run_to_end(["plugin", "test", &fixtures.file]).await;
        assert!(outcome.code == Some(1) && outcome.stdout.contains("FAILED"), "{}: {outcome:?}", file.display());
    }
}

#[tokio::test]
async fn a_case_that_comes_out_otherwise_is_named_with_what_was_expected_and_what_came() {
    let fixtures = written(
        "plugin: { component: '@add_region_rust@', limits: { deadline: 500ms }, config: { region: eu-1 } }
cases:
  - name: good
  - name: wrong region
    expect: { request: { headers: { x-region: eu-2 } } }
  - name: refused unexpectedly
    request: { headers: { x-blocked: 'yes' } }
",
    );
    let outcome = run_to_end(["plugin", "test", &fixtures.file]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for said in [
        "ok      good\n",
        "FAILED  wrong region (line 4)\n      request header x-region\n        expected  \"eu-2\"\n        got       \"eu-1\"\n",
        "FAILED  refused unexpectedly (line 6)\n      outcome\n        expected  continue\n        got       refuse",
        "1 passed, 2 failed\n",
    ] {
        assert!(outcome.stdout.contains(said), "{said:?} in {}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains('\x1b'), "no colours where nobody looks");
    assert!(outcome.stderr.contains("2 cases did not come out as expected"), "{outcome:?}");

    let outcome = run_to_end(["plugin", "test", &fixtures.file, "--filter", "good"]).await;
    assert_eq!((outcome.code, outcome.stdout.contains("1 passed, 0 failed")), (Some(0), true), "{outcome:?}");
    let outcome = run_to_end(["plugin", "test", &fixtures.file, "--filter", "nowhere"]).await;
    assert!(outcome.code == Some(2) && outcome.stderr.contains("no case's name contains \"nowhere\""), "{outcome:?}");
}

#[tokio::test]
async fn a_faulty_fixture_is_told_with_line_and_column_and_nothing_is_played() {
    for (yaml, line, column, said) in [
        ("plugin: { component: '@probe@' }\ncases:\n  - name: a\n    expects: {}\n", 4, 5, "unknown key `expects`"),
        (
            "plugin: { component: '@probe@' }\ncases:\n  - { name: a, request: { url: nowhere } }\n",
            3,
            32,
            "is no address",
        ),
        (
            "plugin: { component: '@probe@' }\ncases:\n  - { name: a }\n  - { name: a }\n",
            4,
            13,
            "name of an earlier case",
        ),
        (
            "plugin: { component: '@probe@' }\ncases:\n  - name: a\n    expect: { detail: { matches: '(' } }\n",
            4,
            34,
            "not a regular expression",
        ),
        (
            "plugin: { component: '@probe@' }\ncases:\n  - { name: a, repeat: 2, expect_each: [ {} ] }\n",
            3,
            40,
            "expected one for each",
        ),
        ("plugin: { component: '@probe@' }\ncases:\n  - { name: a, end: { refused: no-rout } }\n", 3, 32, "no reason"),
        ("cases:\n  - { name: a }\n", 1, 1, "there is no plugin to test"),
        ("plugin: { component: none.wasm }\ncases: [ { name: a } ]\n", 1, 22, "cannot read"),
        ("plugin: { component: '@probe@' }\ncases: [ { name: a } ]\n", 1, 9, "not granted"),
        ("plugin: [\n", 2, 1, ""),
    ] {
        let fixtures = written(yaml);
        let outcome = run_to_end(["plugin", "test", &fixtures.file, "--json"]).await;
        assert_eq!(outcome.code, Some(2), "{yaml}: {outcome:?}");
        let page: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("no JSON: {outcome:?}"));
        let fault = &page["faults"][0];
        assert!(fault["message"].as_str().unwrap().contains(said), "{yaml}: {fault:#}");
        assert_eq!((&fault["line"], &fault["column"]), (&line.into(), &column.into()), "{yaml}: {fault:#}");
        let outcome = run_to_end(["plugin", "test", &fixtures.file]).await;
        let place = format!("fixtures.yaml:{line}:");
        assert!(outcome.code == Some(2) && outcome.stderr.contains(&place), "{yaml}: {outcome:?}");
    }
    let outcome = run_to_end(["plugin", "test", "/nonexistent.yaml"]).await;
    assert!(outcome.code == Some(2) && outcome.stderr.contains("cannot read /nonexistent.yaml"), "{outcome:?}");
}

#[tokio::test]
async fn each_outcome_is_told_from_the_others() {
    passes(
        "plugin: { component: '@bodies@', limits: { deadline: 100ms } }
cases:
  - name: a body is changed before it is sent
    config: { phase: request-body, does: upper }
    request: { method: POST, body: abc }
    expect: { request: { body: ABC, headers: { content-length: '3', x-body-size: '3' } } }
  - name: the plugin answers
    config: { phase: request-body, does: answer }
    request: { method: POST, body: { json: { a: 1 } } }
    expect: { outcome: answer, response: { status: 200, body: { json: { a: 1 } } } }
  - name: the plugin refuses
    config: { phase: request-body, does: refuse }
    request: { method: POST, body: abc }
    expect: { outcome: refuse, detail: not with this body, reason: { matches: refused }, response: { status: 403, body: { matches: 'plugin-refused' } } }
  - name: a body that is too large is refused before the plugin sees it
    config: { phase: request-body, does: upper }
    request: { method: POST, chunks: ['@large@'] }
    expect: { outcome: refuse, response: { status: 413 } }
  - name: a panic fails with its words in the log
    config: { phase: request-body, does: trap }
    request: { method: POST, body: abc }
    expect:
      outcome: { request: fail }
      failure: trap
      reason: { matches: 'unreachable' }
      response: { status: 500 }
      log: [ { level: error, text: { matches: told to trap } } ]
  - name: an endless loop fails at its deadline
    config: { phase: request-body, does: loop }
    request: { method: POST, body: abc }
    expect: { outcome: fail, failure: deadline, reason: ran past its deadline of 100 ms }
  - name: a response's body is changed under way
    config: { phase: response-body, does: upper }
    response: { headers: { etag: '\"1\"' }, chunks: [ab, c] }
    expect: { response: { body: ABC, chunks: [ABC], headers: { etag: 'W/\"1\"', content-length: { absent: true } } } }
  - name: a response is ended under way
    config: { phase: response-body, does: abort }
    response: { body: abc }
    expect: { outcome: { response: abort }, response: { status: 200, body: { absent: true } } }
  - name: the end is told what came of it
    config: { phase: exchange-end }
    request: { url: 'https://api.example.com/orders', method: POST, body: abc }
    end: { duration: 3ms }
    expect: { log: [ '/orders ended: status Some(200), 3 bytes in, 0 out, upstream Some(\"origin\"), refused None' ] }
  - name: the end fails
    config: { phase: exchange-end, does: trap }
    expect: { outcome: { end: fail } }
"
        .replace("@large@", &"x".repeat((64 << 10) + 1))
        .as_str(),
    )
    .await;
}

#[tokio::test]
async fn pieces_and_trailers_go_by_in_the_gateways_order() {
    passes(
        "plugin: { component: '@chunks@', limits: { deadline: 500ms } }
cases:
  - name: a request piece by piece, in one instance, and its end by itself
    config: { phase: request-chunk, does: number }
    request: { method: POST, chunks: [a, b] }
    expect: { request: { chunks: ['[1:a]', '[2:b]', '[3:$]'], headers: { content-length: { absent: true } } } }
  - name: a request that is whole is one piece, which is the last
    config: { phase: request-chunk, does: number }
    request: { method: POST, body: ab }
    expect: { request: { body: '[1:ab$]' } }
  - name: a request under way is ended
    config: { phase: request-chunk, does: abort-on, what: b }
    request: { method: POST, chunks: [a, b] }
    expect: { outcome: { request: abort } }
  - name: a response piece by piece
    config: { phase: response-chunk, does: number }
    response: { chunks: [a, b] }
    expect: { response: { body: '[1:a][2:b][3:$]' } }
  - name: trailers
    config: { phase: response-trailers, does: mark }
    response: { body: abc, trailers: { grpc-status: '0', x-secret: s } }
    expect: { response: { body: abc, trailers: { grpc-status: '0', x-seen: '0', x-secret: { absent: true } } } }
",
    )
    .await;
}

#[tokio::test]
async fn a_plugin_that_fails_and_is_skipped_has_failed_all_the_same() {
    let fixtures = |outcome: &str| {
        format!(
            "plugin: {{ component: '@hostile@', on_failure: skip, decides: false, limits: {{ deadline: 500ms }}, config: {{ does: trap, phase: request }} }}
cases:
  - name: skipped
    expect: {{ outcome: {outcome}, request: {{ headers: {{ x-hostile: {{ absent: true }} }} }}, response: {{ status: 200 }} }}
"
        )
    };
    passes(&fixtures("fail")).await;
    let (code, page) = played(&fixtures("continue")).await;
    let case = &page["files"][0]["cases"][0];
    assert_eq!((code, &case["differences"][0]["what"]), (Some(1), &"outcome".into()), "{page:#}");
    assert_eq!((&case["failures"][0]["reason"], &case["failures"][0]["then"]), (&"trap".into(), &"skip".into()));
    assert!(case["log"][0]["text"].as_str().unwrap().contains("told to trap"), "{page:#}");
}

#[tokio::test]
async fn what_a_plugin_is_granted_is_played_and_what_it_leaves_is_looked_at() {
    passes(
        "plugin:
  component: '@probe@'
  limits: { deadline: 500ms }
  grants: { identity: true, connection: true, clock: true, random: true, metrics: true, tags: true, key_value: {}, upstreams: [fast] }
cases:
  - name: who asks, and how
    config: { ask: [identity.subject, identity.issuer, identity.tenant, identity.scopes, 'claim:plan', connection.client, connection.peer, connection.protocol, connection.tls-version, connection.server-name, connection.round-trip, clock.now, routing.upstream] }
    at: 1000
    upstream: slow
    identity: { subject: ada, issuer: corp, tenant: acme, scopes: [a, b], claims: { plan: gold } }
    connection: { client: 192.0.2.7, peer: 198.51.100.2, protocol: HTTP/2.0, tls: { version: TLSv1.2, server_name: Edge.Example }, round_trip: 12ms }
    expect:
      request:
        headers:
          x-identity-subject: ada
          x-identity-issuer: corp
          x-identity-tenant: acme
          x-identity-scopes: 'a,b'
          x-claim-plan: gold
          x-connection-client: 192.0.2.7
          x-connection-peer: 198.51.100.2
          x-connection-protocol: HTTP/2.0
          x-connection-tls-version: TLSv1.2
          x-connection-server-name: edge.example
          x-connection-round-trip: '12000'
          x-clock-now: { matches: '^1000000000000$' }
          x-routing-upstream: slow
  - name: with a tenant alone nobody was verified
    config: { ask: [identity.is-verified, identity.tenant] }
    identity: { tenant: acme }
    expect: { request: { headers: { x-identity-is-verified: 'false', x-identity-tenant: acme } } }
  - name: the store and the counts last through repetitions, and are this case's own
    config: { act: [tally seen, 'count hits plan gold', level depth 2.5, drop gone] }
    identity: { tenant: acme }
    store: { seen: '5', gone: x }
    repeat: 3
    expect:
      store: { seen: '8', gone: { absent: true } }
      metrics: [ { name: hits, labels: { plan: gold }, value: 3 }, { name: depth, value: 2.5 }, { name: never, value: 0 } ]
  - name: nothing of the case before is here
    config: { act: [kept seen] }
    identity: { tenant: acme }
    expect: { request: { headers: { x-act-0: Ok(None) } }, metrics: [ { name: hits, labels: { plan: gold }, value: 0 } ] }
  - name: entries expire as time passes
    config: { act: [kept k, keep k v 100] }
    every: 60ms
    expect_each:
      - { request: { headers: { x-act-0: Ok(None) } } }
      - { request: { headers: { x-act-0: v } } }
  - name: and are gone after that
    config: { act: [kept k, keep k v 100] }
    every: 100ms
    expect_each:
      - { request: { headers: { x-act-0: Ok(None) } } }
      - { request: { headers: { x-act-0: Ok(None) } } }
  - name: what passed in the cases before does not show
    config: { ask: [clock.now] }
    at: 1000
    expect: { request: { headers: { x-clock-now: '1000000000000' } } }
  - name: another upstream and a tag
    config: { act: [choose fast, tag plan gold] }
    expect: { upstream: fast, tags: { plan: gold, other: { absent: true } } }
",
    )
    .await;
}

#[tokio::test]
async fn the_plugin_of_a_gateways_configuration_is_played_with_what_that_grants_and_tells_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::copy(prebuilt("add_region_rust.wasm"), path("p.wasm")).unwrap();
    let config = "listeners: [ { address: '127.0.0.1:0' } ]\nplugins:\n  p: { component: p.wasm, config: { region: us-9 }, limits: { deadline: 500ms } }\n\
                  routes:\n  - { name: all, match: { path: '/*' }, plugins: [p], answer: { status: 204 } }\n";
    std::fs::write(path("sluice.yaml"), config).unwrap();
    let other = tempfile::tempdir().unwrap();
    let fixtures = other.path().join("fixtures.yaml");
    std::fs::write(&fixtures, "cases: [ { name: a, expect: { request: { headers: { x-region: us-9 } } } } ]\n")
        .unwrap();
    let fixtures = fixtures.to_str().unwrap();

    let outcome = run_to_end(["plugin", "test", "-c", &path("sluice.yaml"), "--plugin", "p", fixtures]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = run_to_end(["plugin", "test", "-c", &path("sluice.yaml"), "--plugin", "q", fixtures]).await;
    assert!(outcome.code == Some(2) && outcome.stderr.contains("configured: p"), "{outcome:?}");
    let outcome = run_to_end(["plugin", "test", "-c", &path("sluice.yaml"), fixtures]).await;
    assert_eq!(outcome.code, Some(2), "{outcome:?}");

    let twice = written("plugin: { component: '@probe@' }\ncases: [ { name: a } ]\n");
    let outcome = run_to_end(["plugin", "test", "-c", &path("sluice.yaml"), "--plugin", "p", &twice.file]).await;
    assert!(outcome.code == Some(2) && outcome.stderr.contains("given twice"), "{outcome:?}");
    std::fs::remove_file(path("p.wasm")).unwrap();
    let outcome = run_to_end(["plugin", "test", "-c", &path("sluice.yaml"), "--plugin", "p", fixtures]).await;
    assert!(outcome.code == Some(2) && outcome.stderr.contains("sluice.yaml:3:"), "{outcome:?}");
}

#[tokio::test]
async fn the_schema_of_fixtures_knows_every_key_of_a_case() {
    let outcome = run_to_end(["plugin", "test", "--schema"]).await;
    let schema: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(schema["$id"], "urn:sluice:plugin-fixtures:1");
    let case = schema["$defs"]["Case"]["properties"].as_object().unwrap();
    for key in
        ["name", "request", "identity", "connection", "response", "end", "repeat", "at", "store", "config", "expect"]
    {
        assert!(case.contains_key(key), "{key}");
    }
}
