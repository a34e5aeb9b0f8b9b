//! A route that asks for a token serves those who have one that is good for it, and nobody else; each refusal says why as
//! RFC 6750 has it, and is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use sluice_testkit::{Algorithm, Gateway, Issuer, Jwks, Origin, Reply, client, gateway, issuer, origin};

const CONFIG: &str = "
issuers:
  corp:
    issuer: '@corp@'
    audiences: [edge]
    algorithms: [RS256, PS256, ES256, ES384, EdDSA]
    leeway: 0s
    jwks: { url: '@jwks@' }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - name: orders
    match: { path: '/orders/*' }
    auth: { issuer: corp, scopes: { all: ['orders:read'] } }
    upstream: origin
  - { name: open, match: { path: '/*' }, upstream: origin }
";

async fn before(origin: &Origin, corp: &Issuer) -> Gateway {
    gateway()
        .config(CONFIG)
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await
}

#[tokio::test]
async fn a_good_token_of_every_allowed_algorithm_passes() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let edge = before(&origin, &corp).await;
    for algorithm in [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA] {
        let token = corp.token().algorithm(algorithm).scopes(&["orders:write", "orders:read"]).sign();
        // Twice: verified the first time, known the second.
        for _ in 0..2 {
            let answer = client().get(edge.url("/orders/7")).bearer(&token).send().await;
            assert_eq!(answer.status, 200, "{algorithm:?}: {}", answer.text());
        }
    }
    assert_eq!(origin.count(), 10);
    let metrics = edge.metrics().await;
    assert_eq!(metrics.value("sluice_auth_verifications_total", &[("issuer", "corp"), ("outcome", "ok")]), 10.0);
}

#[tokio::test]
async fn every_kind_of_bad_token_is_refused_by_its_name_and_counted() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let edge = before(&origin, &corp).await;
    let good = || corp.token().scopes(&["orders:read"]);
    let table = [
        ("token-rejected", 401, good().forged()),
        ("token-rejected", 401, good().tampered()),
        ("token-rejected", 401, good().signed_by_stranger()),
        ("token-rejected", 401, good().unsigned()),
        ("token-rejected", 401, good().confused()),
        ("token-rejected", 401, good().algorithm(Algorithm::RS512).sign()),
        ("token-expired", 401, good().expires_in(-1).sign()),
        ("token-not-yet-valid", 401, good().not_before_in(3600).sign()),
        ("token-not-accepted-here", 401, good().audience("elsewhere").sign()),
        ("token-not-accepted-here", 401, good().audience("edge2").sign()),
        ("token-not-accepted-here", 401, good().issued_by("https://other.example").sign()),
        ("token-malformed", 401, "not.a.token".to_owned()),
        ("token-malformed", 401, good().sign_payload(b"{\"sub\":")),
        ("scope-missing", 403, corp.token().scopes(&["orders:readonly"]).sign()),
        ("scope-missing", 403, corp.token().sign()),
    ];
    for (reason, status, token) in &table {
        let answer = client().get(edge.url("/orders/7")).bearer(token).send().await;
        let problem = answer.json();
        assert_eq!(problem["type"], format!("urn:sluice:problem:{reason}"), "{token}: {problem}");
        assert_eq!(answer.status, *status, "{problem}");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        let error = if *status == 403 { "insufficient_scope" } else { "invalid_token" };
        assert!(challenge.starts_with("Bearer ") && challenge.contains(&format!("error=\"{error}\"")), "{challenge}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    let missing = client().get(edge.url("/orders/7")).send().await;
    assert_eq!((missing.status.as_u16(), &missing.json()["type"]), (401, &"urn:sluice:problem:token-missing".into()));
    // RFC 6750 3.1: who sent no credentials is not told of an error.
    assert!(!missing.header("www-authenticate").unwrap().contains("error"));

    assert_eq!(origin.count(), 0, "a bad token reached the origin");
    let metrics = edge.metrics().await;
    for (reason, _, _) in &table {
        let expected = table.iter().filter(|(other, _, _)| other == reason).count() as f64;
        assert_eq!(metrics.value("sluice_refusals_total", &[("reason", reason)]), expected, "{reason}");
    }
}

#[tokio::test]
async fn a_token_on_a_websocket_handshake_is_checked_as_well() {
    let (origin, corp) = (origin().on("/orders/ws", Reply::websocket()).run().await, issuer().run().await);
    let edge = before(&origin, &corp).await;
    let mut connection = sluice_testkit::raw(edge.address()).await;
    connection.send(sluice_testkit::websocket::handshake("edge.example", "/orders/ws", &[])).await;
    assert_eq!(connection.read_response().await.status, 401);
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn keys_that_rotate_are_learned_without_a_restart() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let edge = before(&origin, &corp).await;
    corp.rotate();
    let token = corp.token().scopes(&["orders:read"]).sign();
    let accepted = async || {
        let answer = client().get(edge.url("/orders/7")).bearer(&token).send().await;
        (answer.status == 200).then_some(())
    };
    sluice_testkit::eventually("a token of the new key to be accepted", accepted).await;
}

#[tokio::test]
async fn an_issuer_that_hangs_does_not_hold_what_needs_no_token() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    corp.serve(&Jwks::Hang);
    let edge = before(&origin, &corp).await;
    assert_eq!(client().get(edge.url("/free")).send().await.status, 200);
    let locked = client().get(edge.url("/orders/7")).bearer(&corp.token().sign()).send().await;
    assert_eq!(locked.status, 503);
    assert_eq!(locked.json()["type"], "urn:sluice:problem:keys-unavailable");
}
