//! `sluice run --watch-plugins`: whoever writes a plugin builds it, and the gateway that runs takes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;

use sluice_testkit::{
    Gateway, GatewayBuilder, LogLine, Origin, body_channel, client, eventually, gateway, origin, run_to_end,
};

/// Sets `x-region` on answers.
const REGION: &[u8] = include_bytes!("../../../plugins/prebuilt/add_region_as.wasm");
/// Sets `x-act-0` on answers.
const PROBE: &[u8] = include_bytes!("../../../plugins/prebuilt/probe.wasm");

const GRANTS: &str = "{ identity: true, connection: true, clock: true, random: true, metrics: true, tags: true, key_value: {}, upstreams: [origin] }";
const LOADED: &str = "plugins loaded anew";
const REFUSED: &str = "changed plugins refused; those before go on";

/// A configuration with the plugin `p` of `p.wasm`, under these keys too, and whatever else.
fn config(keys: &str, more: &str, chain: &str) -> String {
    format!(
        "
plugins:
  p: {{ component: p.wasm, grants: {GRANTS}, config: {{ region: eu-1, phase: response, act: [nothing] }} {keys} }}
{more}
upstreams: {{ origin: {{ endpoints: ['@origin@'] }} }}
routes: [ {{ name: all, match: {{ path: '/*' }}, plugins: {chain}, upstream: origin }} ]
"
    )
}

fn watching(origin: &Origin, config: &str) -> GatewayBuilder {
    gateway().config(config).file("p.wasm", REGION).set("origin", origin.address()).argument("--watch-plugins")
}

/// Which of the two answers a request now.
async fn serves(edge: &Gateway, component: &[u8]) {
    let answer = client().get(edge.url("/")).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-region").is_some(), component == REGION, "{answer:?}");
    assert_eq!(answer.header("x-act-0").is_some(), component == PROBE, "{answer:?}");
}

fn with_message(edge: &Gateway, message: &str) -> Vec<LogLine> {
    edge.logs().into_iter().filter(|line| line.message() == message).collect()
}

/// Waits until the log has so many lines of this message, and gives the last of them.
async fn told(edge: &Gateway, message: &str, times: usize) -> LogLine {
    eventually(format!("{times} × {message:?}"), async || {
        let mut lines = with_message(edge, message);
        if lines.len() >= times { lines.pop() } else { None }
    })
    .await
}

/// As linkers and careful copiers do it.
fn move_into_place(file: &Path, content: &[u8]) {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, content).unwrap();
    std::fs::rename(&draft, file).unwrap();
}

/// As `cp` does it.
fn write_in_place(file: &Path, content: &[u8]) {
    std::fs::write(file, content).unwrap();
}

#[tokio::test]
async fn a_component_is_taken_whether_it_was_moved_into_place_or_written_there_and_requests_in_flight_keep_theirs() {
    let origin = origin().run().await;
    let edge = watching(&origin, &config("", "", "[p]")).run().await;
    let file = edge.folder().join("p.wasm");
    let (sender, body) = body_channel();
    let in_flight = tokio::spawn(client().request("POST", edge.url("/")).streaming(body).send());
    assert!(sender.send("a body ").await);
    edge.metrics_when("a request in flight", |metrics| {
        metrics.value("sluice_plugin_invocations_total", &[("plugin", "p"), ("phase", "request-headers")]) >= 1.0
    })
    .await;

    move_into_place(&file, PROBE);
    let line = told(&edge, LOADED, 1).await;
    assert_eq!((line.level(), line.field("plugins")), ("INFO", Some("p")), "{}", line.text);
    assert!(line.value_of("took_ms").is_some_and(serde_json::Value::is_u64), "{}", line.text);
    serves(&edge, PROBE).await;
    assert!(sender.send("with an end").await);
    drop(sender);
    let answer = in_flight.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.header("x-region"), answer.header("x-act-0")),
        (200, Some("eu-1"), None),
        "what passed one component on its way there passes it on its way back"
    );

    write_in_place(&file, REGION);
    told(&edge, LOADED, 2).await;
    serves(&edge, REGION).await;
    edge.stop().await;
}

#[tokio::test]
async fn a_broken_component_is_refused_with_the_reason_and_what_runs_goes_on_until_a_good_one_comes() {
    let origin = origin().run().await;
    let edge = watching(&origin, &config("", "", "[p]")).run().await;
    let file = edge.folder().join("p.wasm");
    let broken: [(&[u8], &str); 3] = [
        (&PROBE[..PROBE.len() / 2], "not a component that can be run"),
        (b"error: could not compile", "not WebAssembly"),
        (b"", "found 0 bytes"),
    ];
    for (times, (content, reason)) in broken.into_iter().enumerate() {
        write_in_place(&file, content);
        let line = told(&edge, REFUSED, times + 1).await;
        let faults = line.field("faults").unwrap();
        assert!(line.level() == "ERROR" && faults.contains("plugins.p.component"), "{}", line.text);
        assert!(faults.contains(reason), "{faults} lacks {reason:?}");
        serves(&edge, REGION).await;
    }
    assert_eq!(edge.metrics().await.value("sluice_config_last_reload_ok", &[]), 0.0);
    write_in_place(&file, PROBE);
    told(&edge, LOADED, 1).await;
    serves(&edge, PROBE).await;
    assert_eq!(edge.metrics().await.value("sluice_config_last_reload_ok", &[]), 1.0);
    edge.stop().await;
}

#[tokio::test]
async fn a_component_that_vanishes_is_warned_of_and_found_when_it_returns() {
    let origin = origin().run().await;
    let edge = watching(&origin, &config("", "", "[p]")).run().await;
    let file = edge.folder().join("p.wasm");
    std::fs::remove_file(&file).unwrap();
    let line = told(&edge, "a watched file cannot be read; what was loaded of it runs on", 1).await;
    assert!(line.level() == "WARN" && line.field("file").unwrap().ends_with("p.wasm"), "{}", line.text);
    serves(&edge, REGION).await;
    write_in_place(&file, PROBE);
    told(&edge, "a watched file can be read again", 1).await;
    told(&edge, LOADED, 1).await;
    serves(&edge, PROBE).await;
    assert!(with_message(&edge, REFUSED).is_empty(), "nothing is loaded while there is nothing to load");
    edge.stop().await;
}

#[tokio::test]
async fn a_pinned_component_is_refused_for_its_digest_and_the_log_says_to_drop_the_pin() {
    let origin = origin().run().await;
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("p.wasm");
    write_in_place(&alone, REGION);
    let page = run_to_end(["plugin", "check", "--json", alone.to_str().unwrap()]).await.stdout;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let digest = page["plugins"][0]["sha256"].as_str().unwrap();
    let edge = watching(&origin, &config(&format!(", sha256: '{digest}'"), "", "[p]")).run().await;
    move_into_place(&edge.folder().join("p.wasm"), PROBE);
    let line = told(&edge, REFUSED, 1).await;
    let faults = line.field("faults").unwrap();
    assert!(faults.contains("plugins.p.sha256") && faults.contains(&format!("expected {digest}")), "{faults}");
    assert!(faults.contains("leave sha256 out while developing"), "{faults}");
    serves(&edge, REGION).await;
    edge.stop().await;
}

#[tokio::test]
async fn fallbacks_and_plugins_that_came_with_a_reload_are_watched_and_those_that_went_are_not() {
    let origin = origin().run().await;
    let edge = watching(&origin, &config("", "", "[p]")).file("q.wasm", REGION).file("f.wasm", REGION).run().await;
    let more = "  q: { component: q.wasm, fallback: { component: f.wasm }, config: { region: eu-2 } }";
    edge.reload(&config("", more, "[p, q]"));
    told(&edge, "configuration applied", 1).await;
    // A custom section, so that it is another component.
    let other = [REGION, &[0, 2, 1, b'n']].concat();
    for (times, name) in ["q.wasm", "f.wasm"].into_iter().enumerate() {
        write_in_place(&edge.folder().join(name), &other);
        assert_eq!(told(&edge, LOADED, times + 1).await.field("plugins"), Some("q"), "{name}");
    }
    edge.reload(&config("", "", "[p]"));
    told(&edge, "configuration applied", 2).await;
    // Were both seen, one reading would tell of both, or one before the other.
    write_in_place(&edge.folder().join("q.wasm"), b"of no interest any more");
    write_in_place(&edge.folder().join("p.wasm"), PROBE);
    assert_eq!(told(&edge, LOADED, 3).await.field("plugins"), Some("p"));
    let changed = with_message(&edge, "a watched file has changed");
    let of_q = changed.iter().filter(|line| line.field("file").unwrap().ends_with("q.wasm"));
    assert_eq!(of_q.count(), 1);
    edge.stop().await;
}

#[tokio::test]
async fn a_plugin_that_was_refused_on_a_reload_is_tried_again_when_its_file_comes() {
    let origin = origin().run().await;
    let edge = watching(&origin, &config("", "", "[p]")).run().await;
    edge.reload(&config("", "  q: { component: q.wasm, config: { region: eu-2 } }", "[p, q]"));
    told(&edge, "configuration refused; the one before stays in force", 1).await;
    write_in_place(&edge.folder().join("q.wasm"), REGION);
    assert_eq!(told(&edge, LOADED, 1).await.field("plugins"), Some("q"));
    assert_eq!(client().get(edge.url("/")).send().await.status, 200);
    assert_eq!(origin.last().header("x-region"), Some("eu-2"), "of q, which a request passes last");
    edge.stop().await;
}

#[tokio::test]
async fn a_signature_that_comes_after_its_component_has_it_loaded() {
    let origin = origin().run().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let key = path("key.pem");
    assert_eq!(run_to_end(["plugin", "keygen", "--key", &key]).await.code, Some(0));
    let mut signatures = Vec::new();
    for (name, component) in [("region.wasm", REGION), ("probe.wasm", PROBE)] {
        write_in_place(Path::new(&path(name)), component);
        assert_eq!(run_to_end(["plugin", "sign", "--key", &key, &path(name)]).await.code, Some(0));
        signatures.push(std::fs::read(path(&format!("{name}.sig"))).unwrap());
    }
    let edge = watching(&origin, &config(", signed_by: [key.pub]", "", "[p]"))
        .file("key.pub", std::fs::read(path("key.pem.pub")).unwrap())
        .file("p.wasm.sig", signatures[0].clone())
        .run()
        .await;
    write_in_place(&edge.folder().join("p.wasm"), PROBE);
    let refused = told(&edge, REFUSED, 1).await;
    assert!(refused.field("faults").unwrap().contains("is no signature over this component"), "{}", refused.text);
    serves(&edge, REGION).await;
    write_in_place(&edge.folder().join("p.wasm.sig"), &signatures[1]);
    told(&edge, LOADED, 1).await;
    serves(&edge, PROBE).await;
    edge.stop().await;
}
