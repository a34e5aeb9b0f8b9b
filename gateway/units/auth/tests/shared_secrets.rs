//! Tokens with MACs are taken from an issuer that shares a secret with the operator, and from no other; the secret is never
//! shown, and is read anew with every configuration.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use common::*;
use serde_json::{Value, json};
use sluice_auth::{Algorithm, Config, IssuerConfig, JwksConfig, MacAlgorithm, RouteAuth};
use sluice_vocabulary::{Faults, IssuerName, Path, Reason};

/// Long enough for every algorithm, and easy to find where it should not be.
const SECRET: &[u8] = b"hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-";
const OTHER: &[u8] = b"hunter3-hunter3-hunter3-hunter3-hunter3-hunter3-hunter3-hunter3-";

fn put(folder: &FilePath, name: &str, secret: &[u8]) {
    std::fs::write(folder.join(name), secret).unwrap();
}

fn entry(kid: Option<&str>, algorithm: &str, file: &str) -> Value {
    let mut entry = json!({"algorithm": algorithm, "secret": {"file": file}});
    if let Some(kid) = kid {
        entry["kid"] = json!(kid);
    }
    entry
}

fn header(algorithm: MacAlgorithm, kid: Option<&str>) -> Value {
    let mut header = json!({"alg": algorithm.name(), "typ": "JWT"});
    if let Some(kid) = kid {
        header["kid"] = json!(kid);
    }
    header
}

fn token(algorithm: MacAlgorithm, kid: Option<&str>, secret: &[u8]) -> String {
    mac_token(algorithm, secret, &header(algorithm, kid), &claims())
}

#[tokio::test]
async fn a_good_token_passes_by_every_mac_algorithm_and_by_no_other_than_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "s", SECRET);
    for own in MacAlgorithm::ALL {
        let all = issuers(secret_issuer(json!([entry(Some("k"), own.name(), "s")])));
        let (world, policy) = World::start_in(folder.path().into(), Config::default(), &all, &route());
        world.ready().await;
        for kid in [Some("k"), None] {
            let token = token(own, kid, SECRET);
            // The second time by the cache.
            for _ in 0..2 {
                let verified = world.bearer(&policy, &token).await.unwrap_or_else(|r| panic!("{own:?}: {r:?}"));
                assert_eq!(verified.identity().subject(), Some("user-1"));
            }
        }
        assert!(world.metrics().contains("token_cache_hits_total 2"), "{}", world.metrics());
        for other in MacAlgorithm::ALL.into_iter().filter(|other| *other != own) {
            let refused = world.reason(&policy, &token(other, Some("k"), SECRET)).await;
            assert_eq!(refused, Some(Reason::TokenRejected), "{other:?} with the secret for {own:?}");
        }
        assert_eq!(world.reason(&policy, &token(own, Some("k"), OTHER)).await, Some(Reason::TokenRejected));
        assert_eq!(world.reason(&policy, &token(own, Some("another"), SECRET)).await, Some(Reason::TokenRejected));
        world.stop().await;
    }
}

#[tokio::test]
async fn secrets_without_a_kid_are_tried_in_turn_and_a_kid_singles_one_out() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..4_u8 {
        put(folder.path(), &number.to_string(), &[b'a' + number; 32]);
    }
    let list = json!([
        entry(Some("a"), "HS256", "0"),
        entry(Some("b"), "HS256", "1"),
        entry(None, "HS256", "2"),
        entry(None, "HS256", "3")
    ]);
    let all = issuers(secret_issuer(list));
    let (world, policy) = World::start_in(folder.path().into(), Config::default(), &all, &route());
    world.ready().await;
    let by = |number: u8, kid| token(MacAlgorithm::HS256, kid, &[b'a' + number; 32]);
    for (number, kid, passes) in [
        (0, Some("a"), true),
        (1, Some("b"), true),
        (0, Some("b"), false),
        (2, Some("c"), true),
        (3, Some("c"), true),
        (0, Some("c"), false),
        (2, Some("a"), false),
        (0, None, true),
        (3, None, true),
        (4, None, false),
    ] {
        let reason = world.reason(&policy, &by(number, kid)).await;
        assert_eq!(reason, (!passes).then_some(Reason::TokenRejected), "secret {number}, kid {kid:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_secret_is_read_anew_with_a_reload_and_tokens_of_the_old_one_are_void() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "s", SECRET);
    let all = issuers(secret_issuer(json!([entry(None, "HS256", "s")])));
    let (world, policy) = World::start_in(folder.path().into(), Config::default(), &all, &route());
    world.ready().await;
    let (old, new) = (token(MacAlgorithm::HS256, None, SECRET), token(MacAlgorithm::HS256, None, OTHER));
    assert_eq!(world.reason(&policy, &old).await, None);

    // Nothing changed: what is known stays known.
    let policy = world.apply(&all, &route());
    assert_eq!(world.reason(&policy, &old).await, None);
    assert!(world.metrics().contains("token_cache_hits_total 1"), "{}", world.metrics());

    put(folder.path(), "s", OTHER);
    let policy = world.apply(&all, &route());
    assert_eq!(world.reason(&policy, &old).await, Some(Reason::TokenRejected), "though it was in the cache");
    assert_eq!(world.reason(&policy, &new).await, None);

    // A secret that cannot be used leaves the one before in force.
    for bad in [&b"short"[..], b"", b"-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"] {
        put(folder.path(), "s", bad);
        let faults = world.handle.prepare(&world.config, &all).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].path.to_string(), "issuers.corp.secrets[0].secret");
        assert_eq!(world.reason(&policy, &new).await, None);
    }
    world.stop().await;
}

#[tokio::test]
async fn an_issuer_that_turns_from_secrets_to_keys_or_back_believes_the_new_alone() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "s", SECRET);
    let signer = Signer::new("k", Algorithm::ES256);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let by_secret = issuers(secret_issuer(json!([entry(Some("k"), "HS256", "s")])));
    let by_keys = issuers(issuer_config(JwksConfig::from_url(endpoint.url())));
    let (macced, signed) = (token(MacAlgorithm::HS256, Some("k"), SECRET), signer.sign(&claims()));
    let (world, mut policy) = World::start_in(folder.path().into(), Config::default(), &by_secret, &route());
    for _ in 0..2 {
        assert_eq!(world.reason(&policy, &macced).await, None);
        assert_eq!(world.reason(&policy, &signed).await, Some(Reason::TokenRejected));
        policy = world.apply(&by_keys, &route());
        assert_eq!(world.reason(&policy, &signed).await, None);
        assert_eq!(world.reason(&policy, &macced).await, Some(Reason::TokenRejected));
        policy = world.apply(&by_secret, &route());
    }
    world.stop().await;
}

#[tokio::test]
async fn a_secret_is_shown_nowhere() {
    use sluice_vocabulary::ports::Inspect as _;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "s", SECRET);
    let encoded = b64(SECRET);
    put(folder.path(), "e", encoded.as_bytes());
    let mut second = entry(Some("e"), "HS512", "e");
    second["encoding"] = json!("base64url");
    let all = issuers(secret_issuer(json!([entry(Some("k"), "HS256", "s"), second])));
    let (world, policy) = World::start_in(folder.path().into(), Config::default(), &all, &route());
    world.ready().await;
    assert_eq!(world.reason(&policy, &token(MacAlgorithm::HS512, Some("e"), SECRET)).await, None);
    let refusal = world.bearer(&policy, &token(MacAlgorithm::HS256, Some("k"), OTHER)).await.unwrap_err();
    let told = format!("{refusal:?} {:?} {policy:?} {:?} {}", world.handle, all, world.handle.inspect());
    for hidden in ["hunter", &encoded[..20], "104, 117, 110, 116"] {
        assert!(!told.contains(hidden), "{hidden}: {told}");
    }
    let keys = &world.issuer()["keys"];
    let expected = json!([
        {"kid": "k", "algorithms": ["HS256"], "thumbprint": null},
        {"kid": "e", "algorithms": ["HS512"], "thumbprint": null}
    ]);
    assert_eq!(*keys, expected);
    assert_eq!((&world.issuer()["health"], &world.issuer()["fetches"]), (&json!("ready"), &json!(0)));
    world.stop().await;
}

#[tokio::test]
async fn two_issuers_with_secrets_and_keys_serve_one_route_by_their_iss() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "s", SECRET);
    let signer = Signer::new("k", Algorithm::RS256);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let mut own = secret_issuer(json!([entry(Some("k"), "HS256", "s")]));
    own.issuer = "https://own".into();
    let mut all: BTreeMap<IssuerName, IssuerConfig> = issuers(issuer_config(JwksConfig::from_url(endpoint.url())));
    all.insert(name("own"), own);
    let both = RouteAuth { issuers: vec![name("corp"), name("own")], ..RouteAuth::default() };
    let (world, policy) = World::start_in(folder.path().into(), Config::default(), &all, &both);
    world.ready().await;
    let of_own = with(claims(), "iss", json!("https://own"));
    let macced = |claims: &Value, secret: &[u8]| {
        mac_token(MacAlgorithm::HS256, secret, &header(MacAlgorithm::HS256, Some("k")), claims)
    };
    assert_eq!(world.reason(&policy, &macced(&of_own, SECRET)).await, None);
    assert_eq!(world.reason(&policy, &signer.sign(&claims())).await, None);
    // Each by the other's means, with whatever of the other is known.
    assert_eq!(world.reason(&policy, &macced(&claims(), SECRET)).await, Some(Reason::TokenRejected));
    assert_eq!(world.reason(&policy, &signer.sign(&of_own)).await, Some(Reason::TokenRejected));
    for (form, public) in signer.public_forms() {
        let forged = macced(&claims(), &public);
        assert_eq!(world.reason(&policy, &forged).await, Some(Reason::TokenRejected), "{form}");
    }
    world.stop().await;
}

#[test]
fn an_issuer_has_one_source_and_its_secrets_say_their_own_algorithm() {
    let of = |value: Value| -> Vec<String> {
        let config: IssuerConfig = serde_json::from_value(value).unwrap();
        let mut faults = Faults::new();
        config.validate(&Path::root().key("issuers").key("i"), &mut faults);
        faults.iter().map(ToString::to_string).collect()
    };
    let base = || json!({"issuer": "https://i", "audiences": ["a"]});
    let secrets = json!([entry(None, "HS256", "s")]);
    assert!(of(with(base(), "secrets", secrets.clone())).is_empty());
    let with_keys = with(with(base(), "secrets", secrets.clone()), "jwks", json!({"url": "https://i/keys"}));
    assert_eq!(of(with_keys), ["issuers.i.secrets: contradicts jwks: take one of them away"]);
    let endpoint = json!({"url": "https://i/introspect", "client": {"id": "c", "secret": {"env": "E"}}});
    let with_endpoint = with(with(base(), "secrets", secrets.clone()), "introspection", endpoint);
    assert_eq!(of(with_endpoint), ["issuers.i.secrets: contradicts introspection: take one of them away"]);
    let with_list = with(with(base(), "secrets", secrets), "algorithms", json!(["RS256"]));
    assert!(of(with_list)[0].contains("issuers.i.algorithms: has no meaning beside secrets"));
    // A MAC is no word that a list of signature algorithms knows.
    let listed = with(base(), "algorithms", json!(["HS256"]));
    assert!(serde_json::from_value::<IssuerConfig>(listed).unwrap_err().to_string().contains("HS256"));
}
