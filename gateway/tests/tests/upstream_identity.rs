//! An upstream learns who sent a request from the gateway alone, and gets no token that it was not to have.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use sluice_testkit::{Gateway, Issuer, Origin, client, gateway, issuer, origin};

const CONFIG: &str = "
auth: { identity_tokens: { issuer: edge-1 } }
issuers:
  corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: passed, match: { path: '/passed' }, auth: { issuer: corp }, upstream: origin }
  - name: stripped
    match: { path: '/stripped' }
    auth: { issuer: corp, optional: true, credentials: strip, claims_to_headers: { x-user: sub } }
    upstream: origin
  - name: told
    match: { path: '/told' }
    auth: { issuer: corp, credentials: strip, identity_token: { audience: orders, claims: [tenant] } }
    upstream: origin
";

async fn world() -> (Gateway, Issuer, Origin) {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let edge = gateway()
        .config(CONFIG)
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await;
    (edge, corp, origin)
}

#[tokio::test]
async fn a_token_goes_no_further_where_the_route_strips_it() {
    let (edge, corp, origin) = world().await;
    let token = corp.token().sign();
    assert_eq!(client().get(edge.url("/passed")).bearer(&token).send().await.status, 200);
    assert_eq!(origin.last().header("authorization"), Some(&*format!("Bearer {token}")));

    let request = client().get(edge.url("/stripped")).bearer(&token).header("dpop", "a.b.c").header("x-user", "root");
    assert_eq!(request.send().await.status, 200);
    let seen = origin.last();
    assert_eq!((seen.header("authorization"), seen.header("dpop")), (None, None));
    assert_eq!(seen.header("x-user"), Some("user-1"));
    // Other credentials, which were not taken for a token, are the upstream's.
    let request = client().get(edge.url("/stripped")).header("authorization", "Basic dTpw");
    assert_eq!(request.send().await.status, 200);
    assert_eq!(origin.last().header("authorization"), Some("Basic dTpw"));
    edge.stop().await;
}

#[tokio::test]
async fn where_a_token_is_optional_nobody_passes_as_nobody_and_a_bad_token_does_not_pass() {
    let (edge, corp, origin) = world().await;
    let anonymous = client().get(edge.url("/stripped")).header("x-user", "root").send().await;
    assert_eq!(anonymous.status, 200, "{}", anonymous.text());
    assert_eq!(origin.last().header("x-user"), None, "who nobody vouches for has no name");
    let metrics = edge.metrics().await;
    let labels = [("route", "stripped"), ("outcome", "anonymous")];
    assert_eq!(metrics.value("sluice_auth_route_outcomes_total", &labels), 1.0);

    let count = origin.count();
    let good = corp.token();
    for (reason, status, token) in [
        ("token-rejected", 401, good.forged()),
        ("token-expired", 401, good.clone().expires_in(-100).sign()),
        ("token-not-accepted-here", 401, good.clone().audience("elsewhere").sign()),
        ("token-malformed", 401, "a.b".to_owned()),
    ] {
        let refused = client().get(edge.url("/stripped")).bearer(&token).send().await;
        assert_eq!(refused.status, status, "{reason}");
        assert_eq!(refused.json()["type"], format!("urn:sluice:problem:{reason}"));
    }
    assert_eq!(origin.count(), count, "a bad token reached the origin");
    edge.stop().await;
}

#[tokio::test]
async fn the_identity_token_verifies_by_the_keys_that_the_operators_door_shows() {
    let (edge, corp, origin) = world().await;
    let token = corp.token().tenant("acme").sign();
    let request = client().get(edge.url("/told")).bearer(&token).header("x-identity-token", "forged");
    assert_eq!(request.send().await.status, 200);
    let seen = origin.last();
    assert_eq!(seen.headers.get_all("x-identity-token").iter().count(), 1);
    let told = seen.header("x-identity-token").unwrap().to_owned();

    let page = client().get(edge.admin_url("/identity/jwks.json")).send().await.json();
    let header = decode_header(&told).unwrap();
    let keys = page["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["kid"] == json!(header.kid)).expect("the key that signed is published");
    let key = DecodingKey::from_jwk(&serde_json::from_value(key.clone()).unwrap()).unwrap();
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&["orders"]);
    validation.set_issuer(&["edge-1"]);
    let claims = decode::<Value>(&told, &key, &validation).expect("it verifies").claims;
    assert_eq!((&claims["sub"], &claims["tenant"]), (&json!("user-1"), &json!("acme")));
    assert_eq!(claims["sub_id"]["iss"], corp.name());
    assert!(claims["exp"].as_u64().unwrap() <= claims["iat"].as_u64().unwrap() + 60, "{claims}");
    // It is not the client's own token by another name.
    assert_ne!(told, token);
    edge.stop().await;
}
