//! Keys kept on disk: what a process that starts during an outage may use, and for how long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use serde_json::json;
use sluice_auth::{Algorithm, Config, IssuerConfig, JwksConfig, Policy};
use sluice_vocabulary::Reason;
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::unit::State;

const STALE: u64 = 7200;

fn signer(kid: &str) -> Signer {
    Signer::new(kid, Algorithm::EdDSA)
}

/// A token that is good for days, and differs from every other.
fn lasting(key: &Signer, number: u64) -> String {
    key.sign(&with(with(claims(), "exp", json!(NOW + 1_000_000)), "jti", json!(number)))
}

fn config(endpoint: &Endpoint) -> IssuerConfig {
    let mut jwks = JwksConfig::from_url(endpoint.url());
    jwks.stale = Span::secs(STALE);
    issuer_config(jwks)
}

/// A process that starts at `now` and keeps its state in `folder`.
fn process(folder: &Path, now: u64, issuer: IssuerConfig) -> (World, Arc<Policy>) {
    let config = Config { state_dir: Some("state".into()), ..Config::default() };
    World::start_at(now, folder.into(), config, &issuers(issuer), &route())
}

/// One process that has had `key` from the endpoint and ended.
async fn earlier_process(folder: &Path, key: &Signer) -> Endpoint {
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[key]))).await;
    let (world, _) = process(folder, NOW, config(&endpoint));
    let file = folder.join("state/keys-corp.json");
    appears(&file).await;
    assert_eq!(world.issuer()["kept"]["file"], json!(file));
    world.stop().await;
    endpoint
}

async fn appears(file: &Path) {
    let there = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), there).await.expect("the keys are kept");
}

async fn on_kept_keys(world: &World) {
    world.state(|state| matches!(state, State::Degraded(why) if why.contains("kept by an earlier process"))).await;
}

#[tokio::test]
async fn a_restart_during_an_outage_finds_the_last_good_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (key, new) = (signer("k"), signer("new"));
    let endpoint = earlier_process(folder.path(), &key).await;
    endpoint.now(Behaviour::Status(503));
    let (world, policy) = process(folder.path(), NOW + 3600, config(&endpoint));
    // Nothing is awaited: the request waits for what is decided.
    assert_eq!(world.reason(&policy, &lasting(&key, 1)).await, None);
    on_kept_keys(&world).await;
    let seen = world.issuer();
    assert_eq!((&seen["health"], &seen["heard_seconds_ago"]), (&json!("on kept keys"), &json!(3600)));
    assert_eq!(seen["stale_in_seconds"], json!(3600));
    assert!(world.metrics().contains("key_age_seconds{issuer=\"corp\"} 3600.0"), "{}", world.metrics());
    assert!(world.metrics().contains("keys{issuer=\"corp\"} 1"), "{}", world.metrics());
    // What the issuer has now nobody knows, so a key not seen yet is no reason to call a token bad.
    assert_eq!(world.reason(&policy, &lasting(&new, 2)).await, Some(Reason::KeysUnavailable));
    // Heard again, its word is all that counts.
    endpoint.now(Behaviour::Serve(jwks(&[&new])));
    world.refresh().await;
    assert_eq!(world.handle.health().get(), State::Ready);
    assert_eq!(world.reason(&policy, &lasting(&new, 3)).await, None);
    assert_eq!(world.reason(&policy, &lasting(&key, 1)).await, Some(Reason::TokenRejected));
    world.stop().await;
}

#[tokio::test]
async fn kept_keys_end_with_the_window_that_began_when_the_issuer_was_last_heard() {
    let folder = tempfile::tempdir().unwrap();
    let key = signer("k");
    let endpoint = earlier_process(folder.path(), &key).await;
    endpoint.now(Behaviour::Status(503));
    let (world, policy) = process(folder.path(), NOW + STALE - 10, config(&endpoint));
    assert_eq!(world.reason(&policy, &lasting(&key, 1)).await, None);
    world.clock.advance(Duration::from_secs(10));
    world.refresh().await;
    assert_eq!(world.reason(&policy, &lasting(&key, 1)).await, Some(Reason::KeysUnavailable), "the cached one too");
    world.stop().await;
    // Another restart does not begin the window anew, nor does a clock that was put back.
    for now in [NOW + STALE, NOW - 1] {
        let (world, policy) = process(folder.path(), now, config(&endpoint));
        assert_eq!(world.reason(&policy, &lasting(&key, 2)).await, Some(Reason::KeysUnavailable));
        world.stop().await;
    }
}

#[tokio::test]
async fn a_restart_beside_an_issuer_that_hangs_loses_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let key = signer("k");
    let endpoint = earlier_process(folder.path(), &key).await;
    endpoint.now(Behaviour::Hang);
    let mut config = config(&endpoint);
    (config.jwks.timeout, config.jwks.wait) = (Span::secs(60), Span::secs(30));
    let (world, policy) = process(folder.path(), NOW + 60, config);
    let asks = (0..50).map(|number| {
        let (world, policy, token) = (&world, &policy, lasting(&key, number));
        async move { world.reason(policy, &token).await }
    });
    assert!(futures_util::future::join_all(asks).await.iter().all(Option::is_none));
    assert_eq!(endpoint.requests(), 2, "one for each process");
    world.stop().await;
}

#[tokio::test]
async fn a_key_withdrawn_between_two_processes_is_not_good_for_a_moment() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (signer("old"), signer("new"));
    let endpoint = earlier_process(folder.path(), &old).await;
    endpoint.now(Behaviour::Serve(jwks(&[&new])));
    let (world, policy) = process(folder.path(), NOW + 1, config(&endpoint));
    // The very first request, before the issuer has answered.
    assert_eq!(world.reason(&policy, &lasting(&old, 1)).await, Some(Reason::TokenRejected));
    world.stop().await;
}

#[tokio::test]
async fn keys_kept_for_another_configuration_or_by_others_are_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let key = signer("k");
    let endpoint = earlier_process(folder.path(), &key).await;
    endpoint.now(Behaviour::Status(503));
    let moved = IssuerConfig { jwks: JwksConfig::from_url(format!("{}?x", endpoint.url())), ..config(&endpoint) };
    let renamed = IssuerConfig { issuer: "https://id.example.com/".into(), ..config(&endpoint) };
    for (what, config) in [("moved", moved), ("renamed", renamed.clone())] {
        let iss = json!(config.issuer);
        let (world, policy) = process(folder.path(), NOW + 1, config);
        let token = key.sign(&with(claims(), "iss", iss));
        assert_eq!(world.reason(&policy, &token).await, Some(Reason::KeysUnavailable), "{what}");
        world.stop().await;
    }
    // Other rules for the same keys from the same place are no other configuration in this.
    let rules = IssuerConfig { audiences: vec!["edge".into(), "other".into()], ..config(&endpoint) };
    let (world, policy) = process(folder.path(), NOW + 1, rules);
    assert_eq!(world.reason(&policy, &lasting(&key, 1)).await, None);
    world.stop().await;
    // Whoever else may write the file could name keys of his own.
    let file = folder.path().join("state/keys-corp.json");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o602)).unwrap();
    let (world, policy) = process(folder.path(), NOW + 1, config(&endpoint));
    assert_eq!(world.reason(&policy, &lasting(&key, 2)).await, Some(Reason::KeysUnavailable));
    world.stop().await;
}

#[tokio::test]
async fn keys_that_cannot_be_kept_are_used_and_the_operator_hears_of_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state"), "a file where the folder should be").unwrap();
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let (world, policy) = process(folder.path(), NOW, config(&endpoint));
    world.state(|state| matches!(state, State::Degraded(why) if why.contains("not kept for a restart"))).await;
    assert_eq!(world.reason(&policy, &lasting(&key, 1)).await, None);
    assert!(world.metrics().contains("keys_not_kept_total{issuer=\"corp\"} 1"), "{}", world.metrics());
    assert!(world.issuer()["kept"]["error"].as_str().unwrap().contains("keys-corp.json"));
    std::fs::remove_file(folder.path().join("state")).unwrap();
    world.refresh().await;
    world.ready().await;
    world.stop().await;
}

#[tokio::test]
async fn a_state_folder_may_be_given_and_taken_while_running() {
    let folder = tempfile::tempdir().unwrap();
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let config = issuers(config(&endpoint));
    let (mut world, _) = World::start_in(folder.path().into(), Config::default(), &config, &route());
    world.ready().await;
    assert_eq!(world.issuer()["kept"], json!(null));
    world.config.state_dir = Some("state".into());
    let policy = world.apply(&config, &route());
    appears(&folder.path().join("state/keys-corp.json")).await;
    assert_eq!(world.reason(&policy, &lasting(&key, 1)).await, None);
    world.stop().await;
}
