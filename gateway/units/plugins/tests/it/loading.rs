//! What is refused before it can be called, and with what words.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use sluice_plugins::{ComponentSource, Outcome, PluginConfig};
use sluice_vocabulary::Path;
use sluice_vocabulary::measure::ByteSize;
use sluice_vocabulary::ports::Inspect as _;

use crate::world::{World, changes, name, plugin, prebuilt, request, text, visit};

async fn fault(world: &World, config: PluginConfig) -> String {
    let faults = world.load(&[("p", config)]).await.expect_err("it must be refused");
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].to_string()
}

#[tokio::test]
async fn what_is_no_component_is_refused_with_the_reason() {
    let world = World::new().await;
    let cases = [
        (
            PluginConfig::new(ComponentSource::bytes("hello, world")),
            "plugins.p.component: not WebAssembly: expected a component, found 12 bytes that begin with \"hello, w\"",
        ),
        (PluginConfig::new(ComponentSource::bytes("")), "not WebAssembly: expected a component, found 0 bytes"),
        (text("(module)"), "plugins.p.component: a core module, not a component (make a component of it"),
        (text("(component)"), "exports no phase of sluice:plugin@1: found no exports (export one of its phases"),
        (text("(component (core module $m) (core instance (instantiate $m)))"), "exports no phase"),
    ];
    for (config, expected) in cases {
        let found = fault(&world, config).await;
        assert!(found.contains(expected), "{found:?} lacks {expected:?}");
    }
}

#[tokio::test]
async fn a_truncated_or_damaged_component_is_refused() {
    let world = World::new().await;
    let whole = std::fs::read(prebuilt("add_region_rust.wasm")).unwrap();
    for end in [9, 100, whole.len() / 2, whole.len() - 1] {
        let found = fault(&world, PluginConfig::new(ComponentSource::bytes(&whole[..end]))).await;
        assert!(found.contains("plugins.p.component"), "{found}");
    }
    let mut damaged = whole.clone();
    for byte in &mut damaged[2000..2100] {
        *byte = 0xff;
    }
    let found = fault(&world, PluginConfig::new(ComponentSource::bytes(damaged))).await;
    assert!(found.contains("not a component that can be run"), "{found}");
}

#[tokio::test]
async fn no_damage_to_a_component_harms_more_than_its_own_calls() {
    let world = World::new().await;
    let whole = std::fs::read(prebuilt("add_region_as.wasm")).unwrap();
    let (mut refused, mut ran) = (0, 0);
    let mut seed = 11_u64;
    for _ in 0..150 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut damaged = whole.clone();
        // Behind the first eight bytes, which say that it is a component.
        let place = 8 + (seed >> 24) as usize % (damaged.len() - 8);
        damaged[place] ^= 1 << (seed >> 56 & 7);
        match world.load(&[("p", PluginConfig::new(ComponentSource::bytes(damaged)))]).await {
            Err(faults) => {
                assert!(faults[0].to_string().starts_with("plugins.p."), "{faults:?}");
                refused += 1;
            }
            Ok(loaded) => {
                let sent = request(&[]);
                let (back, outcome) = loaded.all.on_request(sent.clone(), &mut visit()).await;
                // Whatever it did, it is within the contract: told changes, or none.
                match outcome {
                    Outcome::Continue(_) => assert_eq!(back.path, sent.path),
                    Outcome::Answer(_) | Outcome::Refuse(_) => assert_eq!(back, sent),
                }
                ran += 1;
            }
        }
    }
    assert!(refused > 0 && ran > 0, "refused {refused}, ran {ran}: the test shows too little");
    world.load(&[("good", plugin("add_region_rust.wasm", json!({})))]).await.unwrap();
}

#[tokio::test]
async fn an_import_that_is_not_offered_is_named() {
    let world = World::new().await;
    let wasi = text(
        r#"(component
            (import "wasi:cli/environment@0.2.0" (instance (export "x" (func))))
            (import "sluice:plugin/files@1.0.0" (instance (export "x" (func))))
            (import "sluice:plugin/request@2.0.0" (instance (export "x" (func)))))"#,
    );
    let found = fault(&world, wasi).await;
    for import in ["wasi:cli/environment@0.2.0", "sluice:plugin/files@1.0.0", "sluice:plugin/request@2.0.0"] {
        assert!(found.contains(&format!("{import}, which is not offered to plugins")), "{found}");
    }
    assert!(found.contains("plugins have no WASI"), "{found}");
}

#[tokio::test]
async fn an_import_of_another_shape_is_named() {
    let world = World::new().await;
    let odd = text(r#"(component (import "sluice:plugin/log@1.0.0" (instance (export "shout" (func)))))"#);
    let found = fault(&world, odd).await;
    assert!(found.contains("sluice:plugin/log@1.0.0") && found.contains("shout"), "{found}");
}

#[tokio::test]
async fn a_phase_that_is_not_known_is_refused_and_not_ignored() {
    let world = World::new().await;
    let later = text(
        r#"(component
            (component $phase)
            (instance $i (instantiate $phase))
            (export "sluice:plugin/request-cache@1.4.0" (instance $i)))"#,
    );
    let found = fault(&world, later).await;
    assert!(
        found.contains("exports sluice:plugin/request-cache@1.4.0, a phase that this gateway does not know"),
        "{found}"
    );
}

#[tokio::test]
async fn a_phase_of_another_shape_is_refused() {
    let world = World::new().await;
    let odd = text(
        r#"(component
            (component $phase)
            (instance $i (instantiate $phase))
            (export "sluice:plugin/request-headers@1.0.0" (instance $i)))"#,
    );
    let found = fault(&world, odd).await;
    assert!(found.contains("on-request-headers"), "{found}");
}

#[tokio::test]
async fn only_the_pinned_component_is_loaded() {
    let world = World::new().await;
    let mut pinned = plugin("add_region_rust.wasm", json!({}));
    pinned.sha256 = Some("0".repeat(64));
    let found = fault(&world, pinned.clone()).await;
    assert!(found.starts_with("plugins.p.sha256: the component's sha256 is "), "{found}");
    assert!(found.ends_with(&format!("expected {}", "0".repeat(64))), "{found}");
    let digest = found.split_whitespace().nth(5).unwrap().trim_end_matches(':');
    pinned.sha256 = Some(digest.to_uppercase());
    world.load(&[("p", pinned)]).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_not_there_or_is_none_is_refused() {
    let world = World::new().await;
    let found = fault(&world, plugin("absent.wasm", json!({}))).await;
    assert!(found.contains("absent.wasm: No such file or directory"), "{found}");
    let found = fault(&world, plugin(".", json!({}))).await;
    assert!(found.contains("cannot read"), "{found}");
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.wasm");
    std::fs::File::create(&large).unwrap().set_len(65 << 20).unwrap();
    let found = fault(&world, PluginConfig::new(ComponentSource::File(large))).await;
    assert!(found.contains("the component has 68157440 bytes: expected at most 67108864"), "{found}");
}

#[tokio::test]
async fn a_component_that_cannot_start_within_its_memory_is_refused() {
    let world = World::new().await;
    let mut greedy = text(
        r#"(component
            (core module $m (memory 1024))
            (core instance (instantiate $m))
            (component $phase)
            (instance $i (instantiate $phase))
            (export "x" (instance $i)))"#,
    );
    greedy.limits.memory = ByteSize::mib(1);
    // It exports no phase either; the first reason found is told.
    let found = fault(&world, greedy).await;
    assert!(found.contains("exports no phase"), "{found}");
    let mut small = plugin("add_region_rust.wasm", json!({}));
    small.limits.memory = ByteSize::bytes(1);
    let found = fault(&world, small).await;
    assert!(found.starts_with("plugins.p.limits: needs ") && found.contains("its limit is 1 (raise"), "{found}");
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once_and_what_runs_goes_on() {
    let world = World::new().await;
    let good = plugin("add_region_rust.wasm", json!({ "region": "eu-1" }));
    let running = world.load(&[("good", good.clone())]).await.unwrap().all;
    let faults = world
        .load(&[
            ("good", good),
            ("absent", plugin("absent.wasm", json!({}))),
            ("text", PluginConfig::new(ComponentSource::bytes("x"))),
        ])
        .await
        .err()
        .unwrap();
    assert_eq!(faults.len(), 2, "{faults:?}");
    let (head, _) = running.on_request(request(&[]), &mut visit()).await;
    assert_eq!(head.headers["x-region"], "eu-1");
    assert!(world.handle.inspect()["plugins"]["good"].is_object());
    assert_eq!(world.metric("loaded"), 1.0);
}

#[tokio::test]
async fn a_reload_compiles_only_what_changed_and_running_chains_go_on() {
    let world = World::new().await;
    let of = |region: &str| plugin("add_region_rust.wasm", json!({ "region": region }));
    let before = world.load(&[("p", of("old"))]).await.unwrap().all;
    let after = world.load(&[("p", of("new")), ("q", of("other"))]).await.unwrap();
    assert_eq!(world.metric("compile_duration_seconds_count"), 1.0);
    assert_eq!(before.on_request(request(&[]), &mut visit()).await.0.headers["x-region"], "old");
    assert_eq!(after.each["p"].on_request(request(&[]), &mut visit()).await.0.headers["x-region"], "new");
    assert_eq!(world.metric("invocations_total{plugin=\"p\",phase=\"request-headers\"}"), 2.0);
    world.load(&[]).await.unwrap();
    assert_eq!(world.metric("loaded"), 0.0);
    assert_eq!(world.metric("invocations_total{plugin=\"p\",phase=\"request-headers\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_no_request() {
    let world = World::new().await;
    let of = |region: &str| plugin("add_region_rust.wasm", json!({ "region": region }));
    let chain = Arc::new(Mutex::new(world.load(&[("p", of("r0"))]).await.unwrap().all));
    let (calls, stop) = (Arc::clone(&chain), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let load = tokio::spawn(async move {
        let mut served = 0;
        while !stopped.load(Ordering::SeqCst) {
            let now = Arc::clone(&calls.lock().unwrap());
            let (head, outcome) = now.on_request(request(&[]), &mut visit()).await;
            assert_eq!(changes(outcome).len(), 1);
            assert!(head.headers["x-region"].to_str().unwrap().starts_with('r'));
            served += 1;
            tokio::task::yield_now().await;
        }
        served
    });
    for round in 1..=100 {
        let next = world.load(&[("p", of(&format!("r{round}")))]).await.unwrap().all;
        *chain.lock().unwrap() = next;
    }
    stop.store(true, Ordering::SeqCst);
    assert!(load.await.unwrap() > 0);
    assert_eq!(world.metric("compile_duration_seconds_count"), 1.0);
    assert_eq!(world.metric("instances{plugin=\"p\"}"), 0.0);
}

#[tokio::test]
async fn a_name_that_is_no_plugin_is_a_fault_at_its_place() {
    let world = World::new().await;
    let plugins = [(name("here"), plugin("add_region_rust.wasm", json!({})))].into();
    let prepared = world.handle.prepare(&plugins, &Path::root(), std::path::Path::new("/")).await.unwrap();
    let at = Path::root().key("routes").index(3).key("plugins");
    let faults = prepared.chain(&[name("here"), name("her")], &at).err().unwrap();
    assert_eq!(faults[0].to_string(), "routes[3].plugins[1]: \"her\" is not a plugin (configured: here)");
}
