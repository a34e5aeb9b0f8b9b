//! Our verifier beside jsonwebtoken's, on the same tokens: both accept or both refuse.
//!
//! Where ours is stricter on purpose (duplicate members, `crit`, foreign `typ`, hostile dates), the table in `tokens.rs`
//! holds it to that; here are the tokens on which nobody may differ.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::*;
use jsonwebtoken::{DecodingKey, Validation, decode};
use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};
use serde_json::{Value, json};
use sluice_auth::{Algorithm, Config, JwksConfig, MacAlgorithm};
use sluice_vocabulary::clock::{Clock as _, SystemClock};

/// The oracle has the machine's clock alone, so ours is set to it and dates stand far from now.
fn machine_now() -> u64 {
    SystemClock.unix_seconds()
}

fn oracle_accepts(token: &str, jwk: &Value, algorithm: jsonwebtoken::Algorithm) -> bool {
    let text = |name: &str| jwk[name].as_str().unwrap();
    let key = match text("kty") {
        "RSA" => DecodingKey::from_rsa_components(text("n"), text("e")).unwrap(),
        "EC" => DecodingKey::from_ec_components(text("x"), text("y")).unwrap(),
        _ => DecodingKey::from_ed_components(text("x")).unwrap(),
    };
    decode::<Value>(token, &key, &oracle_rules(algorithm)).is_ok()
}

fn oracle_rules(algorithm: jsonwebtoken::Algorithm) -> Validation {
    let mut rules = Validation::new(algorithm);
    rules.leeway = 30;
    rules.validate_nbf = true;
    rules.set_audience(&["edge"]);
    rules.set_issuer(&[ISS]);
    rules.set_required_spec_claims(&["exp", "aud", "iss"]);
    rules
}

/// A spoiled place: part of the token, place within it, and what is put there.
type Spoil = Option<(usize, proptest::sample::Index, u8)>;

fn token_claims() -> impl Strategy<Value = Value> {
    let date = || prop_oneof![3 => Just(None), 2 => Just(Some(-5000_i64)), 2 => Just(Some(5000_i64))];
    let exp = prop_oneof![8 => Just(Some(5000_i64)), 1 => Just(Some(-5000_i64)), 1 => Just(None)];
    let aud = prop_oneof![
        8 => Just(json!("edge")), 2 => Just(json!(["x", "edge"])), 1 => Just(json!("other")), 1 => Just(json!(["x"])),
        1 => Just(json!([])), 1 => Just(Value::Null),
    ];
    let iss = prop_oneof![8 => Just(json!(ISS)), 1 => Just(json!("https://other")), 1 => Just(Value::Null)];
    (exp, date(), aud, iss, "[a-zA-Z0-9 é\\n\"]{0,12}").prop_map(|(exp, nbf, aud, iss, extra)| {
        let now = i64::try_from(machine_now()).unwrap();
        let mut claims = json!({ "extra": extra });
        for (name, offset) in [("exp", exp), ("nbf", nbf)] {
            if let Some(offset) = offset {
                claims[name] = json!(now + offset);
            }
        }
        for (name, value) in [("aud", aud), ("iss", iss)] {
            if !value.is_null() {
                claims[name] = value;
            }
        }
        claims
    })
}

#[test]
fn the_two_verifiers_agree() {
    use jsonwebtoken::Algorithm as Oracle;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let algorithms = [
        (Algorithm::RS256, Oracle::RS256),
        (Algorithm::RS512, Oracle::RS512),
        (Algorithm::PS256, Oracle::PS256),
        (Algorithm::ES256, Oracle::ES256),
        (Algorithm::ES384, Oracle::ES384),
        (Algorithm::EdDSA, Oracle::EdDSA),
    ];
    let signers: Vec<_> = algorithms.iter().map(|(ours, _)| Signer::new(ours.name(), *ours)).collect();
    let (world, policy) = runtime.block_on(async {
        let endpoint = Endpoint::run(Behaviour::Serve(jwks(&signers.iter().collect::<Vec<_>>()))).await;
        let config = Config { signature_checks_per_address: None, ..Config::default() };
        let all = issuers(issuer_config(JwksConfig::from_url(endpoint.url())));
        let (world, policy) = World::start_at(machine_now(), ".".into(), config, &all, &route());
        world.ready().await;
        (world, policy)
    });
    let spoil = proptest::option::weighted(0.25, (0..3_usize, any::<proptest::sample::Index>(), any::<u8>()));
    let mut accepted = 0;
    let mut refused = 0;
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() });
    let counts = std::cell::RefCell::new((&mut accepted, &mut refused));
    runner
        .run(&(0..algorithms.len(), 0..algorithms.len(), token_claims(), spoil), |(by, said, claims, spoil)| {
            let signer = &signers[by];
            // Now and then the header says another algorithm than the key's.
            let said = if said % 3 == 0 { said } else { by };
            let mut header = signer.header();
            header["alg"] = json!(algorithms[said].0.name());
            let token = spoilt(&signer.sign_raw(header.to_string(), claims.to_string()), &spoil);
            let ours = runtime.block_on(world.bearer(&policy, &token)).is_ok();
            let oracle = oracle_accepts(&token, &signer.jwk(), algorithms[by].1);
            // One RSA key serves several algorithms with us; the oracle was told one.
            let comparable = said == by || !signer.kid.starts_with(['R', 'P']);
            if !comparable {
                return Ok(());
            }
            prop_assert_eq!(ours, oracle, "{} {}", token, claims);
            let mut counts = counts.borrow_mut();
            *(if ours { &mut *counts.0 } else { &mut *counts.1 }) += 1;
            Ok(())
        })
        .unwrap();
    println!("both accepted {accepted}, both refused {refused}");
    // Some 90 and 500 are to be expected.
    assert!(accepted > 25 && refused > 25, "the tokens are all alike: {accepted} accepted, {refused} refused");
    runtime.block_on(world.stop());
}

#[test]
fn the_two_verifiers_agree_on_macs() {
    use jsonwebtoken::Algorithm as Oracle;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let algorithms = [
        (MacAlgorithm::HS256, Oracle::HS256),
        (MacAlgorithm::HS384, Oracle::HS384),
        (MacAlgorithm::HS512, Oracle::HS512),
    ];
    let secret = |algorithm: MacAlgorithm| algorithm.name().repeat(16).into_bytes();
    let folder = tempfile::tempdir().unwrap();
    let list: Vec<_> = algorithms
        .iter()
        .map(|(ours, _)| {
            std::fs::write(folder.path().join(ours.name()), secret(*ours)).unwrap();
            json!({"kid": ours.name(), "algorithm": ours.name(), "secret": {"file": ours.name()}})
        })
        .collect();
    let (world, policy) = runtime.block_on(async {
        let config = Config { signature_checks_per_address: None, ..Config::default() };
        let all = issuers(secret_issuer(json!(list)));
        let (world, policy) = World::start_at(machine_now(), folder.path().into(), config, &all, &route());
        world.ready().await;
        (world, policy)
    });
    let spoil = proptest::option::weighted(0.25, (0..3_usize, any::<proptest::sample::Index>(), any::<u8>()));
    let counts = std::cell::RefCell::new((0, 0));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&(0..3_usize, 0..3_usize, token_claims(), spoil), |(by, said, claims, spoil)| {
            // Now and then the header says another algorithm than the secret's.
            let (own, oracle) = algorithms[by];
            let said = if said == 0 { algorithms[(by + 1) % 3].0 } else { own };
            let header = json!({"alg": said.name(), "kid": own.name()});
            let token = spoilt(&mac_token(own, &secret(own), &header, &claims), &spoil);
            let ours = runtime.block_on(world.bearer(&policy, &token)).is_ok();
            let key = DecodingKey::from_secret(&secret(own));
            prop_assert_eq!(ours, decode::<Value>(&token, &key, &oracle_rules(oracle)).is_ok(), "{} {}", token, claims);
            let mut counts = counts.borrow_mut();
            *(if ours { &mut counts.0 } else { &mut counts.1 }) += 1;
            Ok(())
        })
        .unwrap();
    let (accepted, refused) = *counts.borrow();
    println!("MACs: both accepted {accepted}, both refused {refused}");
    assert!(accepted > 25 && refused > 25, "the tokens are all alike: {accepted} accepted, {refused} refused");
    runtime.block_on(world.stop());
}

#[test]
fn the_two_verifiers_agree_on_rfc_7515s_example() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let k = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let token = concat!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.",
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let mut rules = Validation::new(jsonwebtoken::Algorithm::HS256);
    rules.validate_exp = false;
    rules.validate_aud = false;
    let key = DecodingKey::from_secret(&b64_decode(k));
    let told = decode::<Value>(token, &key, &rules).unwrap().claims;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("k"), k).unwrap();
    let mut config = secret_issuer(json!([{"algorithm": "HS256", "encoding": "base64url", "secret": {"file": "k"}}]));
    config.issuer = "joe".into();
    config.audiences.clear();
    config.dangerously_accept_any_audience = true;
    runtime.block_on(async {
        let folder = folder.path().into();
        let (world, policy) = World::start_at(1_300_819_379, folder, Config::default(), &issuers(config), &route());
        world.ready().await;
        let verified = world.bearer(&policy, token).await.unwrap();
        assert_eq!(
            verified.identity().claim("http://example.com/is_root"),
            Some(told["http://example.com/is_root"].clone())
        );
        assert_eq!(verified.identity().expires_at, told["exp"].as_u64().unwrap());
        world.stop().await;
    });
}

fn spoilt(token: &str, spoil: &Spoil) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let Some((part, place, with)) = spoil else { return token.into() };
    let mut parts: Vec<Vec<u8>> = token.split('.').map(|part| part.as_bytes().to_vec()).collect();
    let at = place.index(parts[*part].len());
    parts[*part][at] = ALPHABET[usize::from(*with) % ALPHABET.len()];
    String::from_utf8(parts.join(&b'.')).unwrap()
}
