//! Where an issuer's tokens must be access tokens by RFC 9068, no other JWT of it passes, be it in the cache or not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::*;
use serde_json::{Value, json};
use sluice_auth::{Algorithm, Config, IssuerConfig, JwksConfig, TokenType};
use sluice_vocabulary::{Faults, Path, Reason};

/// The claims that RFC 9068 section 2.2 requires.
fn required() -> Value {
    with(with(claims(), "client_id", json!("s6BhdRkqt3")), "jti", json!("dbe39bf3a3ba4238a513f51d6e1691c4"))
}

fn typed(signer: &Signer, typ: Value, claims: &Value) -> String {
    signer.sign_raw(with(signer.header(), "typ", typ).to_string(), claims.to_string())
}

fn strict(endpoint: &Endpoint) -> IssuerConfig {
    IssuerConfig { token_type: Some(TokenType::AtJwt), ..issuer_config(JwksConfig::from_url(endpoint.url())) }
}

#[tokio::test]
async fn an_access_token_says_that_it_is_one() {
    let signer = Signer::new("k", Algorithm::ES256);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let (world, policy) = World::start(Config::default(), &issuers(strict(&endpoint)), &route());
    world.ready().await;
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+JWT"] {
        // The second time by the cache.
        for _ in 0..2 {
            assert_eq!(world.reason(&policy, &typed(&signer, json!(typ), &required())).await, None, "{typ}");
        }
    }
    for typ in ["JWT", "jwt", "application/jwt", "id+jwt", "dpop+jwt", "logout+jwt", "", "at+jwtx", "text/at+jwt"] {
        let refusal = world.bearer(&policy, &typed(&signer, json!(typ), &required())).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::TokenRejected, "{typ}");
        assert!(refusal.internal.unwrap().contains("typ"), "{typ}");
    }
    let untyped = signer.sign_raw(without(signer.header(), "typ").to_string(), required().to_string());
    assert_eq!(world.reason(&policy, &untyped).await, Some(Reason::TokenRejected));
    world.stop().await;
}

#[tokio::test]
async fn an_access_token_has_every_claim_that_rfc_9068_requires() {
    let signer = Signer::new("k", Algorithm::ES256);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let mut config = strict(&endpoint);
    // Though any audience will do, one must be named.
    config.audiences.clear();
    config.dangerously_accept_any_audience = true;
    let (world, policy) = World::start(Config::default(), &issuers(config), &route());
    world.ready().await;
    let reason = async |claims: &Value| world.reason(&policy, &typed(&signer, json!("at+jwt"), claims)).await;
    assert_eq!(reason(&required()).await, None);
    for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        assert_eq!(reason(&without(required(), name)).await, Some(Reason::TokenRejected), "without {name}");
    }
    for name in ["sub", "client_id", "jti"] {
        for bad in [json!(1), json!(null), json!(["x"]), json!({})] {
            let told = format!("{name} {bad}");
            assert_eq!(reason(&with(required(), name, bad)).await, Some(Reason::TokenRejected), "{told}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn the_cache_is_no_way_around_the_type() {
    let signer = Signer::new("k", Algorithm::ES256);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let lax = issuer_config(JwksConfig::from_url(endpoint.url()));
    let (world, policy) = World::start(Config::default(), &issuers(lax.clone()), &route());
    world.ready().await;
    let token = signer.sign(&required());
    for _ in 0..2 {
        assert_eq!(world.reason(&policy, &token).await, None);
    }
    assert!(world.metrics().contains("token_cache_hits_total 1"), "{}", world.metrics());
    let policy = world.apply(&issuers(strict(&endpoint)), &route());
    assert_eq!(world.reason(&policy, &token).await, Some(Reason::TokenRejected), "after a reload");

    // Two names for one issuer, each with its own rule, on routes of their own.
    let mut both = issuers(strict(&endpoint));
    both.insert(name("lax"), lax);
    let prepared = world.handle.prepare(&world.config, &both).unwrap();
    let of = |issuer: &str| {
        let route = sluice_auth::RouteAuth { issuer: Some(name(issuer)), ..Default::default() };
        prepared.policy(&route_name(issuer), &route, &Path::root()).unwrap()
    };
    let (strict, lax) = (of("corp"), of("lax"));
    world.handle.commit(prepared);
    for _ in 0..2 {
        assert_eq!(world.reason(&lax, &token).await, None);
        assert_eq!(world.reason(&strict, &token).await, Some(Reason::TokenRejected));
    }
    world.stop().await;
}

#[test]
fn a_type_is_one_that_is_known_and_not_for_what_is_introspected() {
    let of = |value: Value| serde_json::from_value::<IssuerConfig>(value);
    let base = json!({"issuer": "https://i", "audiences": ["a"], "token_type": "at+jwt"});
    assert!(of(with(base.clone(), "token_type", json!("jwt"))).is_err());
    let endpoint = json!({"url": "https://i/introspect", "client": {"id": "c", "secret": {"env": "E"}}});
    let mut faults = Faults::new();
    of(with(base, "introspection", endpoint)).unwrap().validate(&Path::root(), &mut faults);
    let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["token_type: has no meaning with introspection, which tells what a token is: take it away"]);
}
