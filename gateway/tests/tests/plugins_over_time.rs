//! What plugins leave behind when a gateway is restarted, and when its configuration changes again and again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_testkit::{Gateway, GatewayBuilder, Origin, client, eventually, gateway, origin};

const PLUGIN: &[u8] = include_bytes!("../../../plugins/prebuilt/add_region_as.wasm");

const CONFIG: &str = "
state_dir: '@state@'
plugins: { region: { component: region.wasm, decides: false, config: { region: eu-1 } } }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes: [ { name: all, match: { path: '/*' }, plugins: [region], upstream: origin } ]
";

fn kept_in(state: &Path, origin: &Origin) -> GatewayBuilder {
    gateway().config(CONFIG).file("region.wasm", PLUGIN).set("origin", origin.address()).set("state", state.display())
}

/// Whether its plugin came from the cache; it works in either case.
async fn came_from_the_cache(edge: &Gateway) -> bool {
    assert_eq!(client().get(edge.url("/")).send().await.header("x-region"), Some("eu-1"));
    let plugins = client().get(edge.admin_url("/plugins")).send().await.json();
    plugins["plugins"]["region"]["from_cache"].as_bool().unwrap()
}

#[tokio::test]
async fn a_restarted_gateway_compiles_nothing() {
    let (origin, folder) = (origin().run().await, tempfile::tempdir().unwrap());
    for is_second in [false, true] {
        let edge = kept_in(&folder.path().join("state"), &origin).run().await;
        assert_eq!(came_from_the_cache(&edge).await, is_second);
        edge.stop().await;
    }
}

#[tokio::test]
async fn two_gateways_may_start_at_once_on_one_state_folder() {
    let (origin, folder) = (origin().run().await, tempfile::tempdir().unwrap());
    let state = folder.path().join("state");
    let (one, other) = tokio::join!(kept_in(&state, &origin).run(), kept_in(&state, &origin).run());
    for edge in [one, other] {
        came_from_the_cache(&edge).await;
        let metrics = edge.metrics().await;
        for reason in ["foreign", "damaged", "incompatible", "unreadable"] {
            assert_eq!(metrics.value("sluice_plugin_cache_discarded_total", &[("reason", reason)]), 0.0, "{reason}");
        }
        assert_eq!(metrics.value("sluice_plugin_cache_write_failures_total", &[]), 0.0);
        edge.stop().await;
    }
    let edge = kept_in(&state, &origin).run().await;
    assert!(came_from_the_cache(&edge).await);
    edge.stop().await;
}

const PROBE: &[u8] = include_bytes!("../../../plugins/prebuilt/probe.wasm");

/// Counts requests in its store, and says so in the response.
const COUNTING: &str = "
state_dir: '@state@'
plugins:
  count:
    component: probe.wasm
    decides: false
    grants: { GRANTS key_value: { persist: PERSIST } }
    config: { phase: response, act: ['tally requests'] }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes: [ { name: all, match: { path: '/*' }, plugins: [count], upstream: origin } ]
";

fn counting(persist: bool) -> String {
    // The probe imports all that there is.
    let grants =
        "identity: true, connection: true, clock: true, random: true, metrics: true, tags: true, upstreams: [origin],";
    COUNTING.replace("GRANTS", grants).replace("PERSIST", if persist { "true" } else { "false" })
}

async fn counted(edge: &Gateway) -> String {
    client().get(edge.url("/")).send().await.header("x-act-0").unwrap().to_owned()
}

#[tokio::test]
async fn what_a_plugin_stores_outlives_the_process_where_that_is_granted() {
    let (origin, folder) = (origin().run().await, tempfile::tempdir().unwrap());
    let state = folder.path().join("state");
    let start = |persist| {
        let config = counting(persist);
        let edge = gateway().config(&config).file("probe.wasm", PROBE).set("origin", origin.address());
        edge.set("state", state.display()).run()
    };
    let edge = start(true).await;
    assert_eq!((counted(&edge).await, counted(&edge).await), ("Ok(1)".to_owned(), "Ok(2)".to_owned()));
    // A reload leaves it as it is.
    edge.reload(&counting(true).replace("decides: false", "decides: true"));
    edge.metrics_when("the reload to apply", |metrics| {
        metrics.value("sluice_config_reloads_total", &[("outcome", "applied")]) >= 1.0
    })
    .await;
    assert_eq!(counted(&edge).await, "Ok(3)");
    edge.stop().await;

    // One that is killed loses what it had not written, which is at most the last second's.
    let edge = start(true).await;
    assert_eq!(counted(&edge).await, "Ok(4)");
    eventually("the change to be on disk", || async {
        let plugins = client().get(edge.admin_url("/plugins")).send().await.json();
        (plugins["sandbox"]["stores"]["waiting"] == 0).then_some(())
    })
    .await;
    edge.kill().await;
    let edge = start(true).await;
    assert_eq!(counted(&edge).await, "Ok(5)");

    // Another gateway on the same folder is refused, by the file's name; what is not granted is not kept.
    let config = counting(true);
    let second = gateway().config(&config).file("probe.wasm", PROBE).set("origin", origin.address());
    let refused = second.set("state", state.display()).run_to_refusal().await;
    assert!(refused.stderr.contains("key-value.redb is in use: another gateway"), "{refused:?}");
    edge.stop().await;
    let edge = start(false).await;
    assert_eq!(counted(&edge).await, "Ok(1)");
    edge.stop().await;
}

#[tokio::test]
async fn a_store_to_be_kept_without_a_folder_is_a_fault_of_the_configuration() {
    let config = counting(true).replace("state_dir: '@state@'\n", "").replace("@origin@", "127.0.0.1:1");
    let refused = gateway().config(&config).file("probe.wasm", PROBE).run_to_refusal().await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for said in ["there is no folder to keep its store in", "(plugins.count.grants.key_value.persist)", "set state_dir"]
    {
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
}

/// How often it is reloaded: `SLUICE_TEST_RELOADS`, 50 where that is not set.
fn reloads() -> u32 {
    std::env::var("SLUICE_TEST_RELOADS").ok().map_or(50, |count| count.parse().expect("a number"))
}

/// Reloads after which memory has found its level.
const WARM_UP: u32 = 20;
/// What it may grow by afterwards. A plugin that is not given back takes a few hundred KiB each time.
const MOST_GROWTH: u64 = 8 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_of_ever_new_components_lose_no_request_and_leave_memory_as_it_was() {
    let origin = origin().run().await;
    let config = CONFIG.replace("state_dir: '@state@'\n", "");
    let edge = gateway().config(&config).file("region.wasm", PLUGIN).set("origin", origin.address()).run().await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let askers: Vec<_> = (0..4)
        .map(|asker| {
            let (stop, served, url) = (Arc::clone(&stop), Arc::clone(&served), edge.url("/"));
            tokio::spawn(async move {
                let client = if asker % 2 == 0 { client() } else { client().http2() };
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(&url).send().await;
                    let region = answer.header("x-region").map(str::to_owned);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert!(region.is_some_and(|region| region.starts_with("r-") || region == "eu-1"));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut level = None;
    for round in 1..=WARM_UP + reloads() {
        // A custom section, so that it is another component: its id, its length, its name, the number.
        let component = [PLUGIN, &[0, 6, 1, b'n'], &round.to_le_bytes()].concat();
        let draft = edge.folder().join("region.new");
        std::fs::write(&draft, component).unwrap();
        std::fs::rename(&draft, edge.folder().join("region.wasm")).unwrap();
        edge.reload(&config.replace("eu-1", &format!("r-{round}")));
        edge.metrics_when("the reload to apply", |metrics| {
            metrics.value("sluice_config_reloads_total", &[("outcome", "applied")]) >= f64::from(round)
        })
        .await;
        if round == WARM_UP {
            level = Some((edge.resident_bytes(), edge.open_descriptors()));
        }
    }
    stop.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.await.unwrap();
    }
    let (before, descriptors) = level.unwrap();
    let (after, descriptors_after) = (edge.resident_bytes(), edge.open_descriptors());
    let served = served.load(Ordering::Relaxed);
    eprintln!(
        "{} reloads, {served} requests: {before} bytes resident before, {after} after; {descriptors} descriptors, then {descriptors_after}",
        reloads(),
    );
    assert!(served > 0);
    assert!(after <= before + MOST_GROWTH, "{before} bytes resident before, {after} after");
    assert!(descriptors_after <= descriptors + 8, "{descriptors} descriptors before, {descriptors_after} after");
    let metrics = edge.metrics().await;
    assert_eq!(metrics.value("sluice_plugin_instances", &[("plugin", "region")]), 0.0);
    assert_eq!(metrics.value("sluice_plugin_failures_total", &[("plugin", "region"), ("reason", "trap")]), 0.0);
    edge.stop().await;
}
