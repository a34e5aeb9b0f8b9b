//! What `deploy/` and the demo show an operator works: every example passes `sluice check`, and the published schema is the
//! one that this binary prints.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sluice_testkit::{authority, client, gateway};
use tempfile::TempDir;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn sluice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().expect("the binary runs")
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("cannot read {}: {why}", path.display()))
}

/// A folder as an operator would have it: certificates under `tls/`, components under `plugins/` and beside the file.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (tls, plugins) = (folder.path().join("tls"), folder.path().join("plugins"));
    std::fs::create_dir(&tls).unwrap();
    std::fs::create_dir(&plugins).unwrap();
    let authority = authority();
    authority.leaf(&["api.example.com"]).write(&tls, "edge");
    authority.leaf(&["shop.example.com", "*.shop.example.com"]).write(&tls, "shop");
    for entry in std::fs::read_dir(repository().join("plugins/prebuilt")).unwrap() {
        let component = entry.unwrap().path();
        if component.extension().is_some_and(|extension| extension == "wasm") {
            std::fs::copy(&component, plugins.join(component.file_name().unwrap())).unwrap();
        }
    }
    folder
}

fn check(folder: &TempDir, name: &str, text: &str) -> Output {
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    sluice(&["check", "-c", file.to_str().unwrap()])
}

fn assert_passes(told: &Output, what: &str) {
    assert_eq!(told.status.code(), Some(0), "{what}:\n{}", String::from_utf8_lossy(&told.stderr));
    assert!(String::from_utf8_lossy(&told.stdout).contains(": fine"), "{what}: {told:?}");
}

#[test]
fn every_example_configuration_passes_check() {
    let examples = repository().join("deploy/examples");
    let folder = folder();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(examples).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "yaml") {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            assert_passes(&check(&folder, &name, &text_of(&file)), &name);
            names.push(name);
        }
    }
    names.sort();
    assert_eq!(names, ["edge.yaml", "minimal.yaml"], "the examples that deploy/README.md explains");
}

#[test]
fn the_whole_example_routes_as_its_comments_say() {
    let folder = folder();
    std::fs::write(folder.path().join("edge.yaml"), text_of(&repository().join("deploy/examples/edge.yaml"))).unwrap();
    let file = folder.path().join("edge.yaml");
    for (request, route) in [
        ("GET https://api.example.com/orders/7", "orders-read"),
        ("DELETE https://api.example.com/orders/7", "orders-write"),
        ("GET https://eu.shop.example.com/", "shop"),
        ("GET https://api.example.com/internal/jobs", "office-only"),
        // In cleartext nothing but the redirect may be had of what needs a token.
        ("GET http://api.example.com/orders/7", "to-https"),
        ("GET http://api.example.com/internal/jobs", "to-https"),
        ("GET http://shop.example.com/", "to-https"),
    ] {
        let told = sluice(&["check", "-c", file.to_str().unwrap(), "--explain", request]);
        let answer = String::from_utf8_lossy(&told.stdout);
        assert!(answer.contains(&format!("route {route} (")), "{request}: {answer}");
    }
}

#[test]
fn the_configuration_in_the_kubernetes_manifest_passes_check() {
    let manifest = text_of(&repository().join("deploy/kubernetes/sluice.yaml"));
    let (_, rest) = manifest.split_once("  sluice.yaml: |\n").expect("the manifest holds a configuration");
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let configuration: Vec<_> = lines.map(|line| line.strip_prefix("    ").unwrap_or_default()).collect();
    assert_passes(&check(&folder(), "sluice.yaml", &configuration.join("\n")), "deploy/kubernetes/sluice.yaml");
}

#[test]
fn the_demos_configuration_passes_check() {
    let mut text = text_of(&repository().join("gateway/app/src/cli/demo/demo.yaml"));
    for (place, value) in [
        ("@listen@", "127.0.0.1:0"),
        ("@issuer@", "https://issuer.example"),
        ("@audience@", "edge"),
        ("@jwks@", "http://127.0.0.1:1/jwks.json"),
        ("@echo@", "127.0.0.1:1"),
        ("@resets@", "127.0.0.1:2"),
        ("@closed@", "127.0.0.1:3"),
        // The demo writes its components beside the file.
        ("add-region.wasm", "plugins/add_region_rust.wasm"),
        ("add-region-as.wasm", "plugins/add_region_as.wasm"),
        ("hostile.wasm", "plugins/hostile.wasm"),
    ] {
        assert!(text.contains(place), "{place} is no longer in the demo's configuration");
        text = text.replace(place, value);
    }
    assert_passes(&check(&folder(), "demo.yaml", &text), "demo.yaml");
}

#[tokio::test]
async fn what_the_alerts_watch_is_there_to_be_watched() {
    let rules = text_of(&repository().join("deploy/prometheus/sluice.rules.yaml"));
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let watched: BTreeSet<_> = words.filter(|word| word.starts_with("sluice_")).collect();
    assert!(watched.len() > 5, "{watched:?}");

    // Nobody listens at port 1, so that there is a failed request to be counted.
    let config = text_of(&repository().join("deploy/examples/minimal.yaml")).replace("127.0.0.1:3000", "127.0.0.1:1");
    let config = config.replace("127.0.0.1:8080", "127.0.0.1:0");
    // Nor is there an issuer, whose figures begin with the first one that is configured.
    let jwks = "jwks: { url: 'http://127.0.0.1:1/jwks.json' }";
    let config = format!("{config}issuers:\n  corp: {{ issuer: 'https://id.example', audiences: [edge], {jwks} }}\n");
    let edge = gateway().binary(env!("CARGO_BIN_EXE_sluice")).config(&config).run().await;
    assert_eq!(client().get(edge.url("/")).send().await.status, 502);
    let labels = [("route", "everything"), ("status_class", "5xx")];
    let metrics = edge.metrics_when("the request is counted", |m| m.has("sluice_requests_total", &labels)).await;
    for name in watched {
        assert!(metrics.names().any(|exposed| exposed == name), "an alert watches {name}, which is not exposed");
    }
    assert!(
        metrics.has("sluice_auth_issuer_up", &[("issuer", "corp")]),
        "an issuer that was never heard is watched too"
    );
    assert_eq!(metrics.value("sluice_auth_issuer_up", &[("issuer", "corp")]), 0.0);
}

#[test]
fn a_configuration_with_a_fault_does_not_pass_check() {
    let minimal = text_of(&repository().join("deploy/examples/minimal.yaml"));
    let told = check(&folder(), "minimal.yaml", &minimal.replace("upstream: app", "upstream: ap"));
    assert_eq!(told.status.code(), Some(2), "{told:?}");
}

#[test]
fn a_route_cannot_promise_to_read_a_larger_body_than_the_door_lets_in() {
    let minimal = text_of(&repository().join("deploy/examples/minimal.yaml"));
    for (own, code) in [("1MiB", 0), ("2GiB", 2), ("0B", 2)] {
        let told = check(&folder(), "minimal.yaml", &format!("{minimal}    max_body: {own}\n"));
        assert_eq!(told.status.code(), Some(code), "{own}: {told:?}");
    }
}

#[test]
fn one_field_cannot_be_set_by_the_identity_and_by_the_authorising_service_of_a_route() {
    let edge = text_of(&repository().join("deploy/examples/edge.yaml"));
    let route = "    auth: { issuer: corp, scopes: { all: [\"orders:read\"] }, claims_to_headers: { x-user: sub } }\n";
    assert!(edge.contains(route), "the example's route has changed");
    for (headers, code) in [("[x-role]", 0), ("[x-role, X-User]", 2)] {
        let service = format!("forward_auth: {{ url: 'https://auth.example', response_headers: {headers} }}");
        let told = check(&folder(), "edge.yaml", &edge.replace(route, &format!("{route}    {service}\n")));
        let why = String::from_utf8_lossy(&told.stderr);
        assert_eq!(told.status.code(), Some(code), "{headers}: {why}");
        assert_eq!(why.contains("X-User is set by this route's auth.claims_to_headers already"), code == 2, "{why}");
    }
}

#[test]
fn the_published_schema_is_the_one_this_binary_prints() {
    let published = repository().join("deploy/schema/sluice.schema.json");
    let told = sluice(&["schema"]);
    assert!(told.status.success());
    let same = std::fs::read(&published).is_ok_and(|published| published == told.stdout);
    assert!(
        same,
        "the configuration has changed: run `sluice schema > deploy/schema/sluice.schema.json` and commit it"
    );
}
