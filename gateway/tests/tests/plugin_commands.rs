//! `sluice plugin` says of a component what the gateway would do with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_testkit::{client, gateway, origin, run_to_end};

fn prebuilt(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/prebuilt").join(name)
}

/// A configuration with the probe, which needs grants, under the keys given.
fn configured(folder: &Path, keys: &str) -> PathBuf {
    let file = folder.join("sluice.yaml");
    let probe = prebuilt("probe.wasm");
    let text = format!(
        "listeners: [ {{ address: '127.0.0.1:0' }} ]\nplugins:\n  p:\n    component: {}\n{keys}routes:\n  - {{ name: all, match: {{ path: '/*' }}, plugins: [p], answer: {{ status: 204 }} }}\n",
        probe.display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

async fn checked(arguments: &[&str]) -> (Option<i32>, Value) {
    let all = ["plugin", "check", "--json"].iter().chain(arguments);
    let outcome = run_to_end(all).await;
    let page = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("no JSON: {outcome:?}"));
    (outcome.code, page)
}

#[tokio::test]
async fn a_component_alone_is_told_with_what_it_needs_and_a_digest_to_pin() {
    let file = prebuilt("add_region_rust.wasm");
    let (code, page) = checked(&[file.to_str().unwrap()]).await;
    let found = &page["plugins"][0];
    assert_eq!(code, Some(0), "{page:#}");
    assert_eq!((&found["ok"], found["bytes"].as_u64()), (&true.into(), Some(std::fs::metadata(&file).unwrap().len())));
    assert!(found["phases"].as_array().unwrap().contains(&"request-headers".into()), "{page:#}");
    assert_eq!(found["needs"], serde_json::json!([]), "{page:#}");
    assert!(found["initial_memory_bytes"].as_u64().unwrap() >= 64 * 1024);

    let outcome = run_to_end(["plugin", "check", file.to_str().unwrap()]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains(&format!("sha256:   {}", found["sha256"].as_str().unwrap())), "{outcome:?}");
}

#[tokio::test]
async fn a_digest_that_is_not_the_components_and_grants_that_lack_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, alone) = checked(&[prebuilt("probe.wasm").to_str().unwrap()]).await;
    let needs: Vec<&str> = alone["plugins"][0]["needs"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(!needs.is_empty(), "the probe needs grants: {alone:#}");

    let bare = configured(folder.path(), "");
    let (code, page) = checked(&["-c", bare.to_str().unwrap()]).await;
    assert_eq!((code, &page["plugins"][0]["refused"]["key"]), (Some(1), &"grants".into()), "{page:#}");

    let wrong = configured(folder.path(), &format!("    sha256: '{}'\n", "0".repeat(64)));
    let (code, page) = checked(&["-c", wrong.to_str().unwrap(), "--plugin", "p"]).await;
    assert_eq!((code, &page["plugins"][0]["refused"]["key"]), (Some(1), &"sha256".into()), "{page:#}");
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_bad_usage_and_what_is_no_component_is_refused() {
    for (arguments, code, said) in [
        (vec!["plugin", "check"], 2, "--config"),
        (vec!["plugin", "check", "/nonexistent.wasm"], 2, "cannot read /nonexistent.wasm"),
        (vec!["plugin", "check", "/nonexistent.wasm", "-c", "x.yaml"], 2, "cannot be used with"),
        (vec!["plugin", "check", "Cargo.toml"], 1, "not WebAssembly: expected a component"),
    ] {
        let outcome = run_to_end(&arguments).await;
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.code, Some(code), "{arguments:?}: {all}");
        assert!(all.contains(said), "{arguments:?}: {all:?} lacks {said:?}");
    }
}

#[tokio::test]
async fn a_component_is_signed_with_a_key_of_ones_own_and_held_against_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::copy(prebuilt("add_region_rust.wasm"), path("p.wasm")).unwrap();
    let config = "listeners: [ { address: '127.0.0.1:0' } ]\nplugins:\n  p: { component: p.wasm, signed_by: [key.pem.pub] }\n\
                  routes:\n  - { name: all, match: { path: '/*' }, plugins: [p], answer: { status: 204 } }\n";
    std::fs::write(path("sluice.yaml"), config).unwrap();

    let made = run_to_end(["plugin", "keygen", "--key", &path("key.pem")]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(std::fs::metadata(path("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = std::fs::read_to_string(path("key.pem")).unwrap();
    let again = run_to_end(["plugin", "keygen", "--key", &path("key.pem")]).await;
    assert_eq!(
        (again.code, std::fs::read_to_string(path("key.pem")).unwrap()),
        (Some(1), secret),
        "no key is overwritten"
    );

    let (code, page) = checked(&["-c", &path("sluice.yaml")]).await;
    assert_eq!((code, &page["plugins"][0]["refused"]["key"]), (Some(1), &"signed_by".into()), "{page:#}");

    let signed = run_to_end(["plugin", "sign", "--key", &path("key.pem"), &path("p.wasm")]).await;
    assert_eq!((signed.code, signed.stdout.trim()), (Some(0), path("p.wasm.sig").as_str()), "{signed:?}");
    let (code, page) = checked(&["-c", &path("sluice.yaml")]).await;
    assert_eq!(code, Some(0), "{page:#}");

    std::fs::copy(prebuilt("add_region_as.wasm"), path("p.wasm")).unwrap();
    let (code, page) = checked(&["-c", &path("sluice.yaml")]).await;
    assert_eq!((code, &page["plugins"][0]["refused"]["key"]), (Some(1), &"signed_by".into()), "{page:#}");
    let run = run_to_end(["run", "-c", &path("sluice.yaml")]).await;
    assert!(run.code == Some(2) && run.stderr.contains("is no signature over this component"), "{run:?}");

    for (key, component, said) in [
        (path("key.pem.pub"), path("p.wasm"), "is no Ed25519 private key"),
        (path("none.pem"), path("p.wasm"), "cannot read"),
        (path("key.pem"), path("sluice.yaml"), "is not a WebAssembly component"),
    ] {
        let outcome = run_to_end(["plugin", "sign", "--key", &key, &component]).await;
        assert!(outcome.code == Some(2) && outcome.stderr.contains(said), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_schema_that_a_component_carries_is_shown_and_a_configuration_is_held_against_it_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let component = prebuilt("add_region_rust.wasm");
    let component = component.to_str().unwrap();
    let (_, page) = checked(&[component]).await;
    let schema = &page["plugins"][0]["config_schema"];
    assert_eq!(schema["properties"]["region"]["type"], "string", "{page:#}");
    let printed = run_to_end(["plugin", "check", component, "--schema"]).await;
    assert_eq!((printed.code, serde_json::from_str::<Value>(&printed.stdout).ok().as_ref()), (Some(0), Some(schema)));
    let bare = prebuilt("hostile.wasm");
    let none = run_to_end(["plugin", "check", bare.to_str().unwrap(), "--schema"]).await;
    assert!(none.code == Some(1) && none.stderr.contains("carries no schema"), "{none:?}");

    let file = folder.path().join("sluice.yaml");
    let file = file.to_str().unwrap();
    let write = |config: &str| {
        let text = format!(
            "listeners: [ {{ address: '127.0.0.1:0' }} ]\nplugins:\n  p:\n    component: {component}\n    config:\n      {config}\n\
             routes:\n  - {{ name: all, match: {{ path: '/*' }}, plugins: [p], answer: {{ status: 204 }} }}\n"
        );
        std::fs::write(file, text).unwrap();
    };
    write("region: eu-1");
    assert_eq!(run_to_end(["check", "-c", file]).await.code, Some(0));
    write("regoin: eu-1");
    for arguments in [["check", "-c", file], ["run", "-c", file]] {
        let told = run_to_end(arguments).await;
        let place = told.stderr.contains("sluice.yaml:6:15") && told.stderr.contains("plugins.p.config.regoin");
        assert!(told.code == Some(2) && place, "{told:?}");
        assert!(told.stderr.contains("the plugin knows no such key: expected region, block_header"), "{told:?}");
    }
    let (code, page) = checked(&["-c", file]).await;
    assert_eq!((code, &page["plugins"][0]["refused"]["key"]), (Some(1), &"config".into()), "{page:#}");
}

#[tokio::test]
async fn a_reload_with_a_configuration_that_a_plugin_does_not_accept_is_refused_and_the_one_before_goes_on() {
    let config = |config: &str| {
        format!(
            "plugins: {{ p: {{ component: p.wasm, config: {{ {config} }} }} }}\n\
             upstreams: {{ origin: {{ endpoints: ['@origin@'] }} }}\n\
             routes: [ {{ name: all, match: {{ path: '/*' }}, plugins: [p], upstream: origin }} ]\n"
        )
    };
    let origin = origin().run().await;
    let component = std::fs::read(prebuilt("add_region_rust.wasm")).unwrap();
    let edge =
        gateway().config(&config("region: eu-1")).file("p.wasm", component).set("origin", origin.address()).run().await;
    edge.reload(&config("region: 7"));
    let line = edge.log_line("the refusal", |line| line.message().starts_with("configuration refused")).await;
    let faults = line.field("faults").unwrap();
    assert!(faults.contains("found 7: expected string") && faults.contains("(plugins.p.config.region)"), "{faults}");
    assert_eq!(client().get(edge.url("/")).send().await.header("x-region"), Some("eu-1"));
    edge.reload(&config("region: eu-2"));
    edge.log_line("the good one", |line| line.message() == "configuration applied").await;
    assert_eq!(client().get(edge.url("/")).send().await.header("x-region"), Some("eu-2"));
    edge.stop().await;
}

/// What `sluice plugin bench` tells, of a few calls.
async fn measured(arguments: &[&str]) -> (Option<i32>, Value) {
    let all = ["plugin", "bench", "--json", "--calls", "20"].iter().chain(arguments);
    let outcome = run_to_end(all).await;
    let page = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("no JSON: {outcome:?}"));
    (outcome.code, page)
}

#[tokio::test]
async fn what_a_component_costs_is_measured_phase_by_phase() {
    let file = prebuilt("add_region_rust.wasm");
    let (code, page) = measured(&[file.to_str().unwrap()]).await;
    assert_eq!(
        (code, page["calls"].as_u64(), &page["failures"]),
        (Some(0), Some(20), &serde_json::json!({})),
        "{page:#}"
    );
    let phases = page["phases"].as_object().unwrap();
    assert_eq!(phases.keys().collect::<Vec<_>>(), ["request-headers", "response-headers"], "{page:#}");
    for phase in phases.values() {
        let (median, p99) = (phase["fresh"]["median_us"].as_f64().unwrap(), phase["fresh"]["p99_us"].as_f64().unwrap());
        assert!(0.0 < median && median <= p99, "{page:#}");
        assert!(phase["reused"]["median_us"].as_f64().is_some_and(|median| median > 0.0), "{page:#}");
    }
    for key in ["bytes", "resident_bytes_per_instance", "compile_us", "load_from_cache_us"] {
        assert!(page[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {page:#}");
    }

    let outcome = run_to_end(["plugin", "bench", "--calls", "20", file.to_str().unwrap()]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for said in ["request-headers", "fresh: P50", "P99", "used again", "load from the cache"] {
        assert!(outcome.stdout.contains(said), "{said:?} in {}", outcome.stdout);
    }
}

#[tokio::test]
async fn a_fixture_chooses_the_message_that_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = folder.path().join("fixtures.yaml");
    let text = format!(
        "plugin: {{ component: '{}', limits: {{ deadline: 500ms }} }}\ncases:\n  - name: bare\n  - {{ name: a body, config: {{ phase: request-body, does: upper }}, request: {{ method: POST, body: abc }} }}\n  - {{ name: fails, config: {{ phase: request-body, does: trap }} }}\n",
        prebuilt("bodies.wasm").display()
    );
    std::fs::write(&fixtures, text).unwrap();
    let fixtures = fixtures.to_str().unwrap();
    let (code, page) = measured(&["--fixture", fixtures, "--case", "a body"]).await;
    assert_eq!((code, &page["message"]), (Some(0), &"a body".into()), "{page:#}");
    assert!(page["phases"]["request-body"]["fresh"]["median_us"].is_number(), "{page:#}");
    assert!(page["phases"]["exchange-end"]["fresh"]["median_us"].is_number(), "{page:#}");
    let (code, page) = measured(&["--fixture", fixtures, "--case", "fails"]).await;
    assert!(code == Some(1) && page["failures"]["trap"].as_u64().is_some_and(|count| count >= 20), "{page:#}");

    for (arguments, said) in [
        (vec!["--fixture", fixtures, "--case", "none"], "there is: bare, a body, fails"),
        (vec!["/nonexistent.wasm"], "cannot read /nonexistent.wasm"),
        (vec![], "required"),
    ] {
        let outcome = run_to_end(["plugin", "bench"].into_iter().chain(arguments.iter().copied())).await;
        assert!(outcome.code == Some(2) && outcome.stderr.contains(said), "{arguments:?}: {outcome:?}");
    }
    let probe = prebuilt("probe.wasm");
    let (code, page) = measured(&[probe.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "what it imports it is granted: {page:#}");
}
