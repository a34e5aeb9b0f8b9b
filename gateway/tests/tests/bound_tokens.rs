//! A token bound to its sender is good in that sender's hands alone: a certificate (RFC 8705) or a key (RFC 9449).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use serde_json::json;
use sluice_testkit::{Authority, Gateway, Issuer, Origin, authority, client, gateway, holder, issuer, origin};

const CONFIG: &str = "
listeners:
  - address: '127.0.0.1:0'
  - address: '127.0.0.1:0'
    tls: { certificates: [ { cert: edge.crt, key: edge.key } ], client_ca: clients.crt, client_auth: optional }
issuers:
  corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: any, match: { path: '/any' }, auth: { issuer: corp }, upstream: origin }
  - { name: mtls, match: { path: '/mtls' }, auth: { issuer: corp, sender_constraint: mtls }, upstream: origin }
  - { name: dpop, match: { path: '/dpop' }, auth: { issuer: corp, sender_constraint: dpop }, upstream: origin }
";

struct World {
    edge: Gateway,
    corp: Issuer,
    origin: Origin,
    /// Vouches for the gateway and for clients.
    authority: Authority,
}

async fn world() -> World {
    let (origin, corp, authority) = (origin().run().await, issuer().run().await, authority());
    let leaf = authority.leaf(&["edge.example"]);
    let edge = gateway()
        .config(CONFIG)
        .file("edge.crt", leaf.chain_pem())
        .file("edge.key", leaf.key_pem())
        .file("clients.crt", authority.pem())
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await;
    World { edge, corp, origin, authority }
}

#[tokio::test]
async fn a_token_bound_to_a_certificate_is_good_on_connections_that_showed_it_alone() {
    let World { edge, corp, origin, authority } = world().await;
    let (alice, mallory) = (authority.leaf(&["alice"]), authority.leaf(&["mallory"]));
    let token = corp.token().claim("cnf", json!({ "x5t#S256": alice.sha256() })).sign();
    let by = |certificate| client().trusting_as(&authority, certificate).to(edge.listener(1));
    // Twice: by signature, and as a token already known.
    for _ in 0..2 {
        for path in ["/mtls", "/any"] {
            let url = format!("https://edge.example{path}");
            let own = by(&alice).get(&url).bearer(&token).send().await;
            assert_eq!(own.status, 200, "{path}: {}", own.text());
            let stolen = by(&mallory).get(&url).bearer(&token).send().await;
            assert_eq!(stolen.status, 401, "{path}");
            assert_eq!(stolen.json()["type"], "urn:sluice:problem:sender-unproven");
            let bare = client().trusting(&authority).to(edge.listener(1)).get(&url).bearer(&token).send().await;
            assert_eq!(
                (bare.status.as_u16(), &bare.json()["type"]),
                (401, &json!("urn:sluice:problem:sender-unproven"))
            );
            let clear = client().get(edge.url(path)).bearer(&token).send().await;
            assert_eq!(clear.status, 401, "{path}: a certificate is shown in TLS alone");
        }
    }
    let unbound = corp.token().sign();
    let refused = by(&alice).get("https://edge.example/mtls").bearer(&unbound).send().await;
    assert_eq!(refused.json()["type"], "urn:sluice:problem:sender-unbound");
    assert_eq!(by(&alice).get("https://edge.example/any").bearer(&unbound).send().await.status, 200);
    assert_eq!(origin.count(), 5);
    edge.stop().await;
}

#[tokio::test]
async fn a_token_bound_to_a_key_is_good_with_a_fresh_proof_for_this_very_request() {
    let World { edge, corp, origin, .. } = world().await;
    let (alice, mallory) = (holder(), holder());
    let token = corp.token().claim("cnf", alice.confirmation()).sign();
    let url = edge.url("/dpop");
    let ask = async |proof: &str| {
        let request = client().get(&url).header("authorization", format!("DPoP {token}"));
        let request = if proof.is_empty() { request } else { request.header("dpop", proof) };
        let answer = request.send().await;
        let problem =
            if answer.status == 200 { String::new() } else { answer.json()["type"].as_str().unwrap().to_owned() };
        let challenge = answer.header("www-authenticate").unwrap_or_default().to_owned();
        (problem.rsplit(':').next().unwrap().to_owned(), challenge)
    };
    let proof = alice.proof("GET", &url, &token);
    assert_eq!(ask(&proof).await.0, "");
    let (again, challenge) = ask(&proof).await;
    assert_eq!(again, "proof-rejected", "a proof is good once");
    assert!(challenge.starts_with("DPoP ") && challenge.contains("error=\"invalid_dpop_proof\""), "{challenge}");
    assert_eq!(ask(&alice.proof("GET", &url, &token)).await.0, "", "the next one is good again");
    assert_eq!(ask("").await.0, "proof-rejected");
    assert_eq!(ask(&mallory.proof("GET", &url, &token)).await.0, "sender-unproven");
    assert_eq!(ask(&alice.proof("POST", &url, &token)).await.0, "proof-rejected");
    assert_eq!(ask(&alice.proof("GET", &edge.url("/any"), &token)).await.0, "proof-rejected");
    assert_eq!(ask(&alice.proof("GET", &url, "another token")).await.0, "proof-rejected");
    let old = alice.proof_with("GET", &url, &token, &json!({ "iat": 1_000_000_000 }));
    assert_eq!(ask(&old).await.0, "proof-rejected");
    let as_bearer = client().get(edge.url("/any")).bearer(&token).send().await;
    assert_eq!(as_bearer.json()["type"], "urn:sluice:problem:sender-unproven");
    let unbound = client().get(&url).bearer(&corp.token().sign()).send().await;
    assert_eq!(unbound.json()["type"], "urn:sluice:problem:sender-unbound");
    assert_eq!(origin.count(), 2);
    edge.stop().await;
}
