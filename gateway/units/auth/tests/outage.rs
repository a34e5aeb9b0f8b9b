//! Rotations and outages under steady load: no good request is lost, no bad one passes, and the issuer is asked seldom.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;
#[path = "common/site.rs"]
mod site;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use parking_lot::Mutex;
use serde_json::json;
use site::{Page, Site};
use sluice_auth::{Algorithm, Config, IssuerConfig, JwksConfig, Policy};
use sluice_vocabulary::Reason;
use sluice_vocabulary::measure::Span;
use tokio::sync::RwLock;
use tokio::task::JoinSet;

/// The regular refresh: the shortest that may be configured.
const REFRESH: Duration = Duration::from_secs(1);

fn signer(kid: &str) -> Arc<Signer> {
    Arc::new(Signer::new(kid, Algorithm::EdDSA))
}

fn config(site: &Site) -> IssuerConfig {
    let mut jwks = JwksConfig::from_url(site.url("/keys"));
    jwks.refresh = Span::secs(1);
    jwks.timeout = Span::secs(2);
    jwks.wait = Span::secs(20);
    issuer_config(jwks)
}

/// A gateway with its state in `folder`, whose clock goes with the machine's from `now` on.
fn gateway(folder: &std::path::Path, now: u64, site: &Site) -> Gateway {
    let unlimited =
        Config { signature_checks_per_address: None, state_dir: Some(folder.join("state")), ..Config::default() };
    let (world, policy) = World::start_at(now, folder.into(), unlimited, &issuers(config(site)), &route());
    let clock = world.clock.clone();
    let ticking = tokio::spawn(async move {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clock.advance(last.elapsed());
            last = Instant::now();
        }
    });
    Gateway { world: Arc::new(world), policy, ticking }
}

struct Gateway {
    world: Arc<World>,
    policy: Arc<Policy>,
    ticking: tokio::task::JoinHandle<()>,
}

impl Gateway {
    fn kids(&self) -> Vec<String> {
        let seen = self.world.issuer();
        seen["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until exactly these keys are in use.
    async fn has(&self, kids: &[&str]) {
        let there = async {
            while self.kids() != kids {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), there).await.expect("the keys come in time");
    }

    async fn stop(self) {
        self.ticking.abort();
        Arc::try_unwrap(self.world).ok().expect("nobody asks any more").stop().await;
    }
}

/// What became of the requests.
#[derive(Default)]
struct Tally {
    good: AtomicU64,
    lost: Mutex<Vec<String>>,
    bad: AtomicU64,
    passed: AtomicU64,
}

impl Tally {
    /// Waits until so many more good requests were answered.
    async fn more(&self, good: u64) {
        let wanted = self.good.load(Ordering::SeqCst) + good;
        let reached = async {
            while self.good.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("the load goes on");
    }
}

/// Steady load until it is ended: good tokens of whichever key signs now, each once new and once repeated.
struct Load {
    over: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    fn begin(gateway: &Gateway, signs: &Arc<RwLock<Arc<Signer>>>, tally: &Arc<Tally>, flood: bool) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut load = Self { over: Arc::default(), tasks: JoinSet::new() };
        for _ in 0..4 {
            let (over, signs, tally) = (Arc::clone(&load.over), Arc::clone(signs), Arc::clone(tally));
            let (world, policy) = (Arc::clone(&gateway.world), Arc::clone(&gateway.policy));
            load.tasks.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    // Held while the token is on its way, so that a key is not given up with tokens of it under way.
                    let key = signs.read().await;
                    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
                    let token = key.sign(&with(claims(), "jti", json!(number)));
                    for _ in 0..2 {
                        if let Err(refusal) = world.bearer(&policy, &token).await {
                            tally.lost.lock().push(format!("{} of {}", refusal.reason.slug(), key.kid));
                        }
                        tally.good.fetch_add(1, Ordering::SeqCst);
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        // Many at once, since one of them waits for every refresh that is under way.
        for _ in 0..if flood { 32 } else { 0 } {
            let (over, tally, key) = (Arc::clone(&load.over), Arc::clone(tally), signer("nobody"));
            let (world, policy) = (Arc::clone(&gateway.world), Arc::clone(&gateway.policy));
            load.tasks.spawn(async move {
                let rest = key.sign(&claims()).split_once('.').unwrap().1.to_owned();
                while !over.load(Ordering::SeqCst) {
                    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
                    let header = b64(with(key.header(), "kid", json!(format!("random-{number}"))).to_string());
                    if world.bearer(&policy, &format!("{header}.{rest}")).await.is_ok() {
                        tally.passed.fetch_add(1, Ordering::SeqCst);
                    }
                    tally.bad.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            });
        }
        load
    }

    async fn end(mut self) {
        self.over.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// The most fetches that the configuration allows in `elapsed`, for each of `processes`: regular ones at most a tenth
/// sooner than the refresh, and those on request.
fn allowance(elapsed: Duration, processes: u64) -> u64 {
    let regular = (elapsed.as_secs_f64() / (REFRESH.as_secs_f64() * 0.9)).ceil() as u64;
    let on_request = elapsed.as_secs() / 10 + 2;
    regular + processes * (1 + on_request)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_and_a_flood_loses_nothing_and_lets_nothing_old_pass() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (signer("old"), signer("new"));
    let site = Site::run().await;
    site.put("/keys", Page::of(jwks(&[&old])));
    let gateway = gateway(folder.path(), NOW, &site);
    gateway.world.ready().await;
    let (signs, tally, began) = (Arc::new(RwLock::new(Arc::clone(&old))), Arc::<Tally>::default(), Instant::now());
    let load = Load::begin(&gateway, &signs, &tally, true);
    tally.more(500).await;

    // Published, and first used one regular refresh later.
    site.put("/keys", Page::of(jwks(&[&old, &new])));
    site.asked_again("/keys", 1).await;
    gateway.has(&["old", "new"]).await;
    *signs.write().await = Arc::clone(&new);
    tally.more(1000).await;

    // Withdrawn after the overlap; the bound of the cache is that same refresh.
    let kept = old.sign(&claims());
    assert_eq!(gateway.world.reason(&gateway.policy, &kept).await, None, "good and cached during the overlap");
    site.put("/keys", Page::of(jwks(&[&new])));
    site.asked_again("/keys", 1).await;
    gateway.has(&["new"]).await;
    let mut old_ones = 0;
    for number in 0..500 {
        let token = old.sign(&with(claims(), "jti", json!(number)));
        for token in [&token, &kept] {
            assert_eq!(gateway.world.reason(&gateway.policy, token).await, Some(Reason::TokenRejected));
            old_ones += 1;
        }
    }
    load.end().await;

    let (good, bad) = (tally.good.load(Ordering::SeqCst), tally.bad.load(Ordering::SeqCst));
    let (fetches, most) = (site.asked("/keys"), allowance(began.elapsed(), 1));
    let lost = tally.lost.lock().clone();
    println!(
        "rotation: {good} good requests, {} lost; {bad} random kids and {old_ones} old tokens, {} passed; {fetches} fetches in \
         {:?}, at most {most} allowed",
        lost.len(),
        tally.passed.load(Ordering::SeqCst),
        began.elapsed()
    );
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(tally.passed.load(Ordering::SeqCst), 0);
    assert!(fetches <= most && bad > 100);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_loses_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (signer("old"), signer("new"));
    let site = Site::run().await;
    site.put("/keys", Page::of(jwks(&[&old])));
    let first = gateway(folder.path(), NOW, &site);
    first.world.ready().await;
    let (signs, tally, began) = (Arc::new(RwLock::new(Arc::clone(&old))), Arc::<Tally>::default(), Instant::now());
    let told = |act: &str| {
        let (good, lost) = (tally.good.load(Ordering::SeqCst), tally.lost.lock().len());
        println!("{act}: {good} requests so far, {lost} lost, {} fetches", site.asked("/keys"));
    };
    let load = Load::begin(&first, &signs, &tally, false);
    tally.more(200).await;
    told("up");

    site.put("/keys", Page::of(jwks(&[&old])).after(Duration::from_millis(500)));
    site.asked_again("/keys", 2).await;
    tally.more(200).await;
    told("slow");

    site.put("/keys", Page::status(503));
    site.asked_again("/keys", 2).await;
    tally.more(200).await;
    assert_eq!(first.world.issuer()["health"], "on last good keys");
    told("down");

    // The gateway is restarted meanwhile, beside an issuer that now hangs.
    load.end().await;
    first.stop().await;
    site.put("/keys", Page::status(503).after(Duration::from_secs(60)));
    let second = gateway(folder.path(), NOW + 60, &site);
    let load = Load::begin(&second, &signs, &tally, false);
    tally.more(200).await;
    assert_eq!(second.world.issuer()["health"], "on kept keys");
    told("down and restarted");

    // Back with a new key, which signs from that moment on.
    site.put("/keys", Page::of(jwks(&[&old, &new])));
    *signs.write().await = Arc::clone(&new);
    tally.more(500).await;
    assert_eq!(second.world.issuer()["health"], "ready");
    told("back with a new key");

    site.put("/keys", Page::of(jwks(&[&new])));
    second.has(&["new"]).await;
    tally.more(200).await;
    assert_eq!(second.world.reason(&second.policy, &old.sign(&claims())).await, Some(Reason::TokenRejected));
    load.end().await;
    told("the old key withdrawn");

    let (fetches, most) = (site.asked("/keys"), allowance(began.elapsed(), 2));
    println!("outage: {fetches} fetches in {:?}, at most {most} allowed", began.elapsed());
    let lost = tally.lost.lock().clone();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(fetches <= most);
    second.stop().await;
}
