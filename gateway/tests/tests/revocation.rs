//! What an operator revokes at the door is refused at once, and what is lifted again passes at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_testkit::{client, gateway, issuer, origin};

const CONFIG: &str = "
issuers:
  corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, auth: { issuer: corp }, upstream: origin }
";

#[tokio::test]
async fn a_token_revoked_at_the_operators_door_is_refused_within_a_second_though_it_was_known_to_be_good() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let edge = gateway()
        .config(CONFIG)
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await;
    let token = |jti: &str| corp.token().claim("jti", jti).sign();
    let (gone, other) = (token("gone"), token("other"));
    for token in [&gone, &other, &gone] {
        assert_eq!(client().get(edge.url("/")).bearer(token).send().await.status, 200);
    }
    let line = json!({ "issuer": "corp", "jti": "gone", "expires_at": 4_000_000_000_u32 }).to_string();
    let ordered = client().post(edge.admin_url("/revocations"), line.clone()).send().await;
    assert_eq!((ordered.status.as_u16(), &ordered.json()["revoked"]), (200, &json!(1)));
    let answered = Instant::now();
    let refused = client().get(edge.url("/")).bearer(&gone).send().await;
    assert_eq!((refused.status.as_u16(), &refused.json()["type"]), (401, &json!("urn:sluice:problem:token-revoked")));
    assert!(refused.header("www-authenticate").unwrap().contains("The token was revoked"));
    assert!(answered.elapsed() < Duration::from_secs(1), "the very next request: {:?}", answered.elapsed());
    assert_eq!(client().get(edge.url("/")).bearer(&other).send().await.status, 200, "nobody else is meant");

    let lifted = client().request("DELETE", edge.admin_url("/revocations")).body(line).send().await;
    assert_eq!((lifted.status.as_u16(), &lifted.json()["lifted"]), (200, &json!(1)));
    assert_eq!(client().get(edge.url("/")).bearer(&gone).send().await.status, 200);
    edge.stop().await;
}
