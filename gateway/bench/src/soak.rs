//! The soak: a gateway under load, reloads and rude clients for minutes; afterwards everything it held must be back where
//! it was. What leaks shows here as descriptors, threads, gauges or memory that did not return.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sluice_testkit::{Gateway, Issuer, Reply, client, gateway, issuer, origin};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::error::{Context, Failure, Result};
use crate::machine;
use crate::room::Room;

/// How many clients there are at once.
const CLIENTS: usize = 24;

/// How long the load runs before the first reckoning, so that pools, caches and allocators have their working size.
const WARM_UP: Duration = Duration::from_secs(30);

/// How long an idle gateway is given to let go of what it keeps for a while: pooled connections foremost.
const QUIET: Duration = Duration::from_secs(20);

/// How often the configuration changes under load.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// How much more memory than at the first reckoning is taken for noise of the allocator.
const MEMORY_FACTOR: f64 = 1.10;
const MEMORY_SLACK: f64 = 4e6;

/// Gauges of things that live no longer than the load, by a part of their names.
const TRANSIENT: &[&str] = &["connections", "in_flight", "instances", "tasks", "streams", "active", "waiting"];

/// What a gateway holds when nobody asks anything of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) resident_bytes: u64,
    pub(crate) gauges: BTreeMap<String, f64>,
}

/// What a soak found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Soak {
    pub(crate) began: String,
    pub(crate) commit: String,
    pub(crate) minutes: f64,
    pub(crate) requests: u64,
    pub(crate) disconnects: u64,
    pub(crate) reloads: u64,
    pub(crate) before: Held,
    pub(crate) after: Held,
    /// What did not come back; empty is good.
    pub(crate) leaks: Vec<String>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    disconnects: AtomicU64,
    reloads: AtomicU64,
}

/// Soaks `sluice` for `minutes`.
pub(crate) fn soak(room: &Room, sluice: &Path, minutes: f64) -> Result<Soak> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context(|| "cannot start a runtime".to_owned())?;
    runtime.block_on(run(room, sluice, minutes))
}

async fn run(room: &Room, sluice: &Path, minutes: f64) -> Result<Soak> {
    let corp = Arc::new(issuer().run().await);
    let origin = origin().on("/big", Reply::chunked_zeros(8 << 20)).on("/reset", Reply::reset()).run().await;
    let gateway = gateway()
        .binary(sluice)
        .config(CONFIG)
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .set("component", room.component().display())
        .run()
        .await;
    let gateway = Arc::new(gateway);
    let (began, commit) = (machine::now(), machine::commit(room));

    println!("warming up for {WARM_UP:?} …");
    let warm = load(&gateway, &corp, WARM_UP).await;
    tokio::time::sleep(QUIET).await;
    let before = held(&gateway).await;
    println!("{} requests; holding {}", warm.requests.load(Ordering::Relaxed), describe(&before));

    let length = Duration::from_secs_f64(minutes * 60.0);
    println!("soaking for {length:?} …");
    let counts = load(&gateway, &corp, length).await;
    tokio::time::sleep(QUIET).await;
    let after = held(&gateway).await;
    println!("holding {}", describe(&after));

    let leaks = leaks(&before, &after);
    let gateway = Arc::into_inner(gateway).ok_or_else(|| Failure::new("a client outlived the load"))?;
    gateway.stop().await;
    Ok(Soak {
        began,
        commit,
        minutes,
        requests: counts.requests.load(Ordering::Relaxed),
        disconnects: counts.disconnects.load(Ordering::Relaxed),
        reloads: counts.reloads.load(Ordering::Relaxed),
        before,
        after,
        leaks,
    })
}

const CONFIG: &str = r#"
listeners:
  - address: "127.0.0.1:0"
admin: { address: "127.0.0.1:0" }
issuers:
  corp: { issuer: "@corp@", audiences: [edge], algorithms: [RS256, ES256], jwks: { url: "@jwks@" } }
# A small cache, full after the warm-up: what it holds by design is no leak, and must not hide one.
auth: { signature_checks_per_address: null, token_cache: 1MiB }
plugins:
  add-region: { component: "@component@", config: { region: eu-1 } }
upstreams:
  origin: { endpoints: ["@origin@"], idle_timeout: 5s }
routes:
  - { name: locked, match: { path: "/locked/*" }, auth: { issuer: corp }, plugins: [add-region], upstream: origin }
  - { name: open, match: { path: "/*" }, upstream: origin }
"#;

/// Another configuration, which adds a route and changes the plugin's settings, and one that must be refused.
fn other_config() -> String {
    CONFIG.replace("region: eu-1", "region: eu-2")
        + "  - { name: extra, match: { path: \"/extra/*\" }, upstream: origin }\n"
}

fn bad_config() -> String {
    CONFIG.replace("upstream: origin }", "upstream: nowhere }")
}

async fn load(gateway: &Arc<Gateway>, corp: &Arc<Issuer>, length: Duration) -> Arc<Counts> {
    let counts = Arc::new(Counts::default());
    let end = Instant::now() + length;
    let mut work = JoinSet::new();
    for number in 0..CLIENTS {
        let (gateway, corp, counts) = (Arc::clone(gateway), Arc::clone(corp), Arc::clone(&counts));
        work.spawn(async move {
            let mut turn = number;
            while Instant::now() < end {
                // What fails here may fail: several of these clients are rude, and one route's upstream resets. What is
                // asked of the gateway is to hold nothing of it.
                let _ = tokio::time::timeout(sluice_testkit::DEADLINE, visit(turn, &gateway, &corp, &counts)).await;
                turn += 1;
            }
        });
    }
    let (reloaded, counted) = (Arc::clone(gateway), Arc::clone(&counts));
    work.spawn(async move {
        let configs = [other_config(), CONFIG.to_owned(), bad_config(), CONFIG.to_owned()];
        for config in configs.iter().cycle() {
            // Ends with the configuration that it began with.
            if Instant::now() > end && config == CONFIG {
                reloaded.reload(config);
                return;
            }
            reloaded.reload(config);
            counted.reloads.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RELOAD_EVERY).await;
        }
    });
    while work.join_next().await.is_some() {}
    counts
}

/// One client's visit; there are six kinds of it.
async fn visit(
    turn: usize,
    gateway: &Gateway,
    corp: &Issuer,
    counts: &Counts,
) -> std::result::Result<(), sluice_testkit::BodyError> {
    let address = gateway.address();
    let rude = || counts.disconnects.fetch_add(1, Ordering::Relaxed);
    match turn % 6 {
        // Polite, many requests on one connection.
        0 | 1 => {
            let client = if turn.is_multiple_of(2) { client() } else { client().http2() };
            let connection = client.connect(gateway.url("/")).await?;
            let token = corp.token().subject(&format!("user-{turn}")).sign();
            for _ in 0..25 {
                connection.try_send(client.get(gateway.url("/open"))).await?;
                connection.try_send(client.get(gateway.url("/locked/a")).bearer(&token)).await?;
                counts.requests.fetch_add(2, Ordering::Relaxed);
            }
        }
        // Gone in the middle of an answer.
        2 => {
            let _answer = client().get(gateway.url("/big")).try_stream().await?;
            counts.requests.fetch_add(1, Ordering::Relaxed);
            rude();
        }
        // Gone in the middle of a request's head, or of its body.
        3 => {
            TcpStream::connect(address).await?.write_all(b"GET / HTTP/1.1\r\nhost: half").await?;
            let upload = b"POST /open HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nthe beginning";
            TcpStream::connect(address).await?.write_all(upload).await?;
            rude();
            rude();
        }
        // Gone at once.
        4 => {
            drop(TcpStream::connect(address).await?);
            rude();
        }
        // Refused, and failed by the upstream.
        _ => {
            client().get(gateway.url("/locked/a")).bearer(&corp.token().forged()).try_send().await?;
            client().get(gateway.url("/reset")).try_send().await?;
            counts.requests.fetch_add(2, Ordering::Relaxed);
        }
    }
    Ok(())
}

async fn held(gateway: &Gateway) -> Held {
    let gauges = gateway.metrics().await.gauges().collect();
    Held {
        descriptors: gateway.open_descriptors(),
        threads: gateway.threads(),
        resident_bytes: gateway.resident_bytes(),
        gauges,
    }
}

fn describe(held: &Held) -> String {
    let megabytes = held.resident_bytes as f64 / 1e6;
    format!("{} descriptors, {} threads, {megabytes:.1} MB", held.descriptors, held.threads)
}

/// What is more after than before.
fn leaks(before: &Held, after: &Held) -> Vec<String> {
    let mut leaks = Vec::new();
    if after.descriptors > before.descriptors {
        leaks.push(format!("descriptors: {} before, {} after", before.descriptors, after.descriptors));
    }
    if after.threads > before.threads {
        leaks.push(format!("threads: {} before, {} after", before.threads, after.threads));
    }
    let bound = before.resident_bytes as f64 * MEMORY_FACTOR + MEMORY_SLACK;
    if after.resident_bytes as f64 > bound {
        leaks.push(format!("resident bytes: {} before, {} after", before.resident_bytes, after.resident_bytes));
    }
    for (name, value) in &after.gauges {
        let had = before.gauges.get(name).copied().unwrap_or_default();
        let metric = name.split('{').next().unwrap_or_default();
        if *value > had && TRANSIENT.iter().any(|part| metric.contains(part)) {
            leaks.push(format!("{name}: {had} before, {value} after"));
        }
    }
    leaks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(descriptors: usize, resident_bytes: u64, gauge: f64) -> Held {
        let gauges = BTreeMap::from([
            ("sluice_downstream_connections{listener=\"a\"}".to_owned(), gauge),
            ("sluice_config_generation{}".to_owned(), gauge),
        ]);
        Held { descriptors, threads: 4, resident_bytes, gauges }
    }

    #[test]
    fn what_came_back_is_no_leak() {
        assert_eq!(leaks(&held(10, 50_000_000, 1.0), &held(9, 52_000_000, 1.0)), Vec::<String>::new());
    }

    #[test]
    fn what_stayed_is_named() {
        let found = leaks(&held(10, 50_000_000, 0.0), &held(11, 80_000_000, 3.0));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[2].contains("sluice_downstream_connections") && found[2].contains("3 after"));
    }
}
