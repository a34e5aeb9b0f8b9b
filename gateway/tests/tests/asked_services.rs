//! Where somebody else decides, the gateway asks, does as it is told, and without an answer says neither yes nor no.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use serde_json::json;
use sluice_testkit::{Gateway, Origin, Reply, Seen, client, gateway, origin};

const OPAQUE: &str = "
issuers:
  opaque:
    issuer: https://id.example.com
    introspection:
      url: '@endpoint@'
      client: { id: edge, secret: { file: secret } }
      cache: { positive: 1m, negative: 0s }
      breaker: { failures: 3, rest: 1s }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - name: orders
    match: { path: '/*' }
    auth: { issuer: opaque, scopes: { all: ['orders:read'] }, claims_to_headers: { x-user: sub } }
    upstream: origin
";

/// Knows one token, and one that lacks the scope.
fn endpoint(seen: &Seen) -> Reply {
    // base64 of `edge:s3cret`.
    if seen.header("authorization") != Some("Basic ZWRnZTpzM2NyZXQ=") || seen.method != "POST" {
        return Reply::status(401);
    }
    let body = String::from_utf8_lossy(&seen.body).into_owned();
    let is_about = |token: &str| body.split('&').any(|pair| pair == format!("token={token}"));
    Reply::json(&match () {
        () if is_about("opaque-1") => json!({ "active": true, "sub": "alice", "scope": "orders:read" }),
        () if is_about("opaque-2") => json!({ "active": true, "sub": "bob", "scope": "orders:list" }),
        () => json!({ "active": false }),
    })
}

async fn opaque(origin: &Origin, asked: &Origin) -> Gateway {
    gateway()
        .config(OPAQUE)
        .file("secret", "s3cret\n")
        .set("endpoint", asked.url("/introspect"))
        .set("origin", origin.address())
        .run()
        .await
}

#[tokio::test]
async fn an_opaque_token_is_what_its_issuer_says_it_is() {
    let origin = origin().run().await;
    let asked = sluice_testkit::origin().compute("/introspect", endpoint).run().await;
    let edge = opaque(&origin, &asked).await;
    for _ in 0..3 {
        let answer = client().get(edge.url("/7")).bearer("opaque-1").send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(origin.last().header("x-user"), Some("alice"));
    }
    assert_eq!(asked.count(), 1, "an answer is believed for a while");

    let lacking = client().get(edge.url("/7")).bearer("opaque-2").send().await;
    assert_eq!((lacking.status.as_u16(), &lacking.json()["type"]), (403, &json!("urn:sluice:problem:scope-missing")));
    for _ in 0..2 {
        let unknown = client().get(edge.url("/7")).bearer("opaque-3").send().await;
        assert_eq!(unknown.status, 401);
        assert_eq!(unknown.json()["type"], "urn:sluice:problem:token-rejected");
        assert!(unknown.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
    }
    assert_eq!((origin.count(), asked.count()), (3, 4));
    edge.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_down_makes_no_token_bad_and_is_asked_again_once_it_is_back() {
    let origin = origin().run().await;
    let asked = sluice_testkit::origin().compute("/introspect", endpoint).run().await;
    let edge = opaque(&origin, &asked).await;
    assert_eq!(client().get(edge.url("/7")).bearer("opaque-1").send().await.status, 200);
    asked.script("/introspect", Reply::status(500));
    let down = client().get(edge.url("/7")).bearer("opaque-2").send().await;
    assert_eq!(down.status, 503);
    assert_eq!(down.json()["type"], "urn:sluice:problem:introspection-unavailable");
    assert!(down.header("retry-after").is_some() && down.header("www-authenticate").is_none());
    // What is believed still is.
    assert_eq!(client().get(edge.url("/7")).bearer("opaque-1").send().await.status, 200);
    asked.script("/introspect", Reply::json(&json!({ "active": true, "sub": "bob", "scope": "orders:read" })));
    sluice_testkit::eventually("the endpoint to be asked again", async || {
        let answer = client().get(edge.url("/7")).bearer("opaque-2").send().await;
        (answer.status == 200).then_some(())
    })
    .await;
    edge.stop().await;
}

const GUARDED: &str = "
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - name: guarded
    match: { path: '/*' }
    forward_auth:
      url: '@service@'
      timeout: 2s
      request_headers: [authorization, x-key]
      response_headers: [x-user]
      redirects: ['https://login.example.com']
      breaker: { failures: 100 }
    upstream: origin
";

fn service(seen: &Seen) -> Reply {
    match seen.header("x-key") {
        Some("good") => Reply::status(204).header("x-user", "carol").header("x-other", "1"),
        Some("login") => Reply::status(302).header("location", "https://login.example.com/?back=1"),
        Some("broken") => Reply::status(500),
        _ => Reply::text("no key, no entry").with_status(401).header("www-authenticate", "Key realm=\"x\""),
    }
}

#[tokio::test]
async fn an_authorising_service_lets_pass_refuses_in_its_own_words_and_failing_lets_nobody_pass() {
    let origin = origin().run().await;
    let asked = sluice_testkit::origin().compute("/check", service).run().await;
    let edge =
        gateway().config(GUARDED).set("service", asked.url("/check")).set("origin", origin.address()).run().await;
    let ask = |key: &str| client().get(edge.url("/orders/7?a=1")).header("x-key", key).header("x-user", "root").send();

    assert_eq!(ask("good").await.status, 200);
    let seen = origin.last();
    assert_eq!((seen.header("x-user"), seen.header("x-other")), (Some("carol"), None));
    let question = asked.last();
    assert_eq!(question.header("x-forwarded-method"), Some("GET"));
    assert_eq!(question.header("x-forwarded-uri"), Some("/orders/7?a=1"));
    assert_eq!(question.header("x-user"), None, "what the client says of itself is not asked about");

    let refused = ask("bad").await;
    assert_eq!((refused.status.as_u16(), refused.text()), (401, "no key, no entry"));
    assert_eq!(refused.header("www-authenticate"), Some("Key realm=\"x\""));
    let sent = ask("login").await;
    assert_eq!((sent.status.as_u16(), sent.header("location")), (302, Some("https://login.example.com/?back=1")));
    let down = ask("broken").await;
    assert_eq!(down.status, 503);
    assert_eq!(down.json()["type"], "urn:sluice:problem:authorization-unavailable");
    assert_eq!(origin.count(), 1);

    // Gone altogether: no answer is not a yes.
    asked.stop().await;
    assert_eq!(ask("good").await.status, 503);
    assert_eq!(origin.count(), 1);
    edge.stop().await;
}
