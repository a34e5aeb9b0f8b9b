//! Where keys come from, besides a URL and a file: the issuer's own metadata, and the configuration; and how soon what an
//! issuer gave is asked for again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;
#[path = "common/site.rs"]
mod site;

use std::time::Duration;

use common::*;
use serde_json::{Value, json};
use site::{Page, Site};
use sluice_auth::{Algorithm, Config, DiscoveryConfig, InlineKeys, IssuerConfig, JwksConfig};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::unit::State;
use sluice_vocabulary::{Faults, Path, Reason};

const METADATA: &str = "/.well-known/openid-configuration";

fn signer(kid: &str) -> Signer {
    Signer::new(kid, Algorithm::EdDSA)
}

/// A site that is an issuer with `key`, its metadata at the known place.
async fn issuer_site(key: &Signer) -> Site {
    let site = Site::run().await;
    site.put(METADATA, metadata(&site.url(""), &site.url("/keys")));
    site.put("/keys", Page::of(jwks(&[key])));
    site
}

fn metadata(issuer: &str, keys: &str) -> Page {
    Page::of(json!({"issuer": issuer, "jwks_uri": keys, "token_endpoint": format!("{issuer}/token")}).to_string())
}

/// The configuration of the issuer that the site is.
fn config_of(site: &Site, jwks: JwksConfig) -> IssuerConfig {
    IssuerConfig { issuer: site.url(""), ..issuer_config(jwks) }
}

/// A token of the issuer that the site is, good for years.
fn token(site: &Site, key: &Signer) -> String {
    key.sign(&with(with(claims(), "iss", json!(site.url(""))), "exp", json!(NOW + 100_000_000)))
}

#[tokio::test]
async fn an_issuer_says_itself_where_its_keys_are() {
    let key = signer("k");
    let site = issuer_site(&key).await;
    let config = config_of(&site, JwksConfig::from_discovery());
    let (world, policy) = World::start(Config::default(), &issuers(config), &route());
    world.ready().await;
    assert_eq!(world.reason(&policy, &token(&site, &key)).await, None);
    let seen = world.issuer();
    assert_eq!((&seen["source"], &seen["discovered"]), (&json!(site.url(METADATA)), &json!(site.url("/keys"))));
    world.stop().await;
}

#[tokio::test]
async fn metadata_are_believed_about_their_own_issuer_alone() {
    let key = signer("k");
    let site = issuer_site(&key).await;
    let at = |path: &str| {
        let discovery = Some(DiscoveryConfig::At(site.url(path)));
        config_of(&site, JwksConfig { discovery, ..JwksConfig::from_discovery() })
    };
    site.put("/slash", metadata(&site.url("/"), &site.url("/keys")));
    site.put("/moved", Page::status(302).header("location", site.url(METADATA)));
    site.put("/large", Page::of(" ".repeat(300_000)));
    site.put("/page", Page::of("<html>"));
    site.put("/nowhere", Page::of(json!({"issuer": site.url("")}).to_string()));
    site.put("/ftp", metadata(&site.url(""), "ftp://127.0.0.1/keys"));
    for (path, why) in [
        ("/slash", "byte by byte"),
        ("/moved", "of the metadata: status 302"),
        ("/large", "of the metadata: the document is larger than 262144 bytes"),
        ("/page", "the issuer's metadata are not strict json"),
        ("/nowhere", "no string jwks_uri"),
        ("/ftp", "neither https nor http"),
        ("/absent", "of the metadata: status 404"),
    ] {
        let (world, policy) = World::start(Config::default(), &issuers(at(path)), &route());
        world.state(|state| matches!(state, State::Degraded(reason) if reason.contains(why))).await;
        assert!(world.metrics().contains(r#"jwks_fetches_total{issuer="corp",outcome="metadata"} 1"#));
        assert!(world.metrics().contains(r#"issuer_up{issuer="corp"} 0"#));
        assert_eq!(world.reason(&policy, &token(&site, &key)).await, Some(Reason::KeysUnavailable), "{path}");
        world.stop().await;
    }
    assert_eq!(site.asked("/keys"), 0, "nobody was sent there by such metadata");
    assert_eq!(site.asked(METADATA), 0, "the redirect was not followed");
}

#[tokio::test]
async fn keys_that_have_moved_are_found_again_at_once() {
    let (old, new) = (signer("old"), signer("new"));
    let site = issuer_site(&old).await;
    let config = config_of(&site, JwksConfig::from_discovery());
    let (world, policy) = World::start(Config::default(), &issuers(config), &route());
    world.ready().await;
    site.put("/keys", Page::status(410));
    site.put("/keys2", Page::of(jwks(&[&new])));
    site.put(METADATA, metadata(&site.url(""), &site.url("/keys2")));
    // The request's own wait is enough for the failure, the metadata and the keys.
    assert_eq!(world.reason(&policy, &token(&site, &new)).await, None);
    assert_eq!(world.issuer()["discovered"], site.url("/keys2"));
    world.stop().await;
}

#[tokio::test]
async fn metadata_are_read_every_hour_and_their_absence_is_borne() {
    let key = signer("k");
    let site = issuer_site(&key).await;
    let config = config_of(&site, JwksConfig::from_discovery());
    let (world, policy) = World::start(Config::default(), &issuers(config), &route());
    world.ready().await;
    for _ in 0..3 {
        world.refresh().await;
    }
    assert_eq!((site.asked(METADATA), site.asked("/keys")), (1, 4), "not for every refresh");
    world.clock.advance(Duration::from_secs(3600));
    world.refresh().await;
    assert_eq!(site.asked(METADATA), 2);
    // They cannot be read: where the keys were, they still are.
    site.put(METADATA, Page::status(503));
    world.clock.advance(Duration::from_secs(3600));
    world.refresh().await;
    assert_eq!((site.asked(METADATA), world.handle.health().get()), (3, State::Ready));
    // They can be read and are another's: the keys named last serve, and the operator hears why.
    site.put(METADATA, metadata("https://other.example.com", &site.url("/keys")));
    world.refresh().await;
    assert_eq!(world.issuer()["health"], "on last good keys");
    assert!(world.issuer()["last_error"].as_str().unwrap().contains("byte by byte"));
    assert_eq!(world.reason(&policy, &token(&site, &key)).await, None);
    world.stop().await;
}

#[tokio::test]
async fn cache_control_is_honoured_within_the_configured_bounds() {
    let key = signer("k");
    let site = issuer_site(&key).await;
    let mut jwks_config = JwksConfig::from_url(site.url("/keys"));
    jwks_config.refresh = Span::secs(300);
    let (world, _) = World::start(Config::default(), &issuers(config_of(&site, jwks_config)), &route());
    world.ready().await;
    for (cache_control, least, most) in [
        (None, 270, 300),
        (Some("max-age=100"), 90, 100),
        (Some("max-age=1"), 27, 30),
        (Some("no-store"), 27, 30),
        (Some("max-age=31536000, immutable"), 270, 300),
    ] {
        let page = Page::of(jwks(&[&key]));
        let page = match cache_control {
            Some(value) => page.header("cache-control", value),
            None => page,
        };
        site.put("/keys", page);
        // Chance has its say in each.
        for _ in 0..5 {
            world.refresh().await;
            let next = world.issuer()["next_fetch_in_seconds"].as_u64().unwrap();
            assert!((least..=most).contains(&next), "{cache_control:?}: {next} s");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn keys_of_the_configuration_need_no_issuer_to_be_up() {
    let (key, stranger) = (signer("k"), signer("stranger"));
    let set: Value = serde_json::from_str(&jwks(&[&key])).unwrap();
    for keys in [set.clone(), set["keys"].clone()] {
        let jwks_config: JwksConfig = serde_json::from_value(json!({ "keys": keys })).unwrap();
        let (world, policy) = World::start(Config::default(), &issuers(issuer_config(jwks_config)), &route());
        // Nothing was awaited.
        assert_eq!(world.reason(&policy, &key.sign(&claims())).await, None);
        assert_eq!(world.reason(&policy, &stranger.sign(&claims())).await, Some(Reason::TokenRejected));
        world.ready().await;
        assert!(world.handle.refresh_keys(&name("corp")), "there is such an issuer, and nothing to do");
        let seen = world.issuer();
        assert_eq!((&seen["health"], &seen["source"]), (&json!("ready"), &json!("the configuration")));
        assert_eq!((&seen["fetches"], &seen["stale_in_seconds"]), (&json!(0), &json!(null)));
        let counted = async {
            while !world.metrics().contains(r#"issuer_up{issuer="corp"} 1"#) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), counted).await.expect("the metrics follow");

        // They change with the configuration, and the old one's tokens with them.
        let other = serde_json::from_str(&jwks(&[&stranger])).unwrap();
        let policy = world.apply(&issuers(issuer_config(JwksConfig::from_keys(other))), &route());
        assert_eq!(world.reason(&policy, &key.sign(&claims())).await, Some(Reason::TokenRejected));
        assert_eq!(world.reason(&policy, &stranger.sign(&claims())).await, None);
        world.stop().await;
    }
}

#[test]
fn what_is_wrong_with_a_source_of_keys_is_told_with_its_place() {
    let faults = |issuer: &str, jwks: Value| {
        let text = json!({ "issuer": issuer, "audiences": ["edge"], "algorithms": ["RS256", "EdDSA"], "jwks": jwks });
        let config: IssuerConfig = serde_json::from_value(text).unwrap();
        let mut faults = Faults::new();
        config.validate(&Path::root(), &mut faults);
        let faults: Vec<_> = faults.into_vec().iter().map(ToString::to_string).collect();
        faults.join("\n")
    };
    let ed = signer("k").jwk();
    let secret = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    for (jwks, expected) in [
        (json!({}), "jwks: nothing says where the keys are: expected one of discovery, url, file and keys"),
        (json!({"discovery": true, "url": "https://a/"}), "jwks: both discovery and url say where the keys are"),
        (json!({"discovery": true, "url": "https://a/", "file": "f"}), "jwks: discovery, url, file say where"),
        (json!({"discovery": false}), "jwks.discovery: false says nothing"),
        (json!({"discovery": "ftp://a/"}), "jwks.discovery: \"ftp://a/\" is not an absolute http or https URL"),
        (json!({"discovery": "https://u:p@a/"}), "jwks.discovery: a URL of keys holds no user name"),
        (json!({"discovery": "http://id.example.com/"}), "fetched in cleartext"),
        (json!({"url": format!("https://a/{}", "x".repeat(2048))}), "jwks.url: a URL of keys has at most 2048"),
        (json!({"file": ""}), "jwks.file: a file name cannot be empty"),
        (json!({"keys": []}), "jwks.keys: the key set is empty"),
        (json!({"keys": {"kays": []}}), "jwks.keys: the key set has no array keys"),
        (json!({"keys": [with(ed.clone(), "d", json!(secret))]}), "the key \"k\" cannot be used: private"),
        (json!({"keys": [with(ed.clone(), "use", json!("enc"))]}), "the key \"k\" cannot be used: use is not sig"),
        (
            json!({"keys": [{"kty": "RSA", "n": b64([0xff; 128]), "e": "AQAB"}]}),
            "without kid cannot be used: RSA under",
        ),
        (json!({"keys": [ed.clone()], "ca": "ca.pem"}), "jwks.ca: has no meaning for keys that are not fetched"),
        (
            json!({"url": "https://a/", "refresh_min": "10m"}),
            "jwks.refresh_min: 10m is out of bounds: expected 1s to 5m",
        ),
        (json!({"url": "https://a/", "refresh_min": "0s"}), "jwks.refresh_min: 0s is out of bounds"),
    ] {
        let told = faults(ISS, jwks.clone());
        assert!(told.contains(expected) && !told.contains(secret), "{jwks}: {told}");
    }
    assert!(faults("corp", json!({"discovery": true})).contains("jwks.discovery: the issuer \"corp\" is not an https"));
    for good in [
        json!({"discovery": true}),
        json!({"discovery": "https://id.example.com/.well-known/oauth-authorization-server/a", "ca": "ca.pem"}),
        json!({"url": "https://a/", "refresh": "5s"}),
        json!({"url": "https://a/", "refresh_min": "5m"}),
        json!({"keys": [ed]}),
    ] {
        assert_eq!(faults(ISS, good.clone()), "", "{good}");
    }
    let keys = InlineKeys::List(vec![json!({"d": secret}).as_object().unwrap().clone()]);
    assert!(!format!("{:?}", JwksConfig { keys: Some(keys), ..JwksConfig::from_discovery() }).contains(secret));
    let empty = Config { state_dir: Some("".into()), token_cache: ByteSize::mib(1), ..Config::default() };
    let mut told = Faults::new();
    empty.validate(&Path::root(), &mut told);
    assert_eq!(told.into_vec()[0].to_string(), "state_dir: a folder's name cannot be empty");
}
