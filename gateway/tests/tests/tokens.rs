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

const PLACES: &str = "
issuers:
  corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } }
telemetry: { logs: { level: debug }, access_log: { format: json, output: access.log, query: true } }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - name: live
    match: { path: '/live/*' }
    auth: { issuer: corp, token_from: [ { cookie: token }, { query: access_token } ], credentials: strip }
    upstream: origin
  - { name: open, match: { path: '/*' }, upstream: origin }
";

#[tokio::test]
async fn a_websocket_opens_by_a_cookie_or_the_query_and_the_token_goes_no_further() {
    let cached = Reply::text("x").header("cache-control", "public, max-age=60");
    let origin = origin().on("/live/ws", Reply::websocket()).on("/live/page", cached).run().await;
    let corp = issuer().run().await;
    let edge = gateway()
        .config(PLACES)
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await;
    let token = corp.token().algorithm(Algorithm::ES256).sign();
    let open = async |target: &str, headers: &[&str]| {
        let stream = sluice_testkit::raw(edge.address()).await;
        let mut socket = sluice_testkit::websocket::WebSocket::open(stream, "edge.example", target, headers).await;
        socket.send("hello").await;
        assert_eq!(socket.receive_text().await, "hello");
        origin.last()
    };
    let seen = open("/live/ws?a=%2F", &[&format!("cookie: theme=dark; token={token};lang=en")]).await;
    assert_eq!((seen.header("cookie"), &*seen.target), (Some("theme=dark;lang=en"), "/live/ws?a=%2F"));
    let seen = open("/live/ws", &[&format!("cookie: token={token}")]).await;
    assert_eq!(seen.header("cookie"), None);
    let seen = open(&format!("/live/ws?a=%2F&access_token={token}&b=+"), &["cookie: theme=dark"]).await;
    assert_eq!((seen.header("cookie"), &*seen.target), (Some("theme=dark"), "/live/ws?a=%2F&b=+"));

    // An answer to a URL with a token is for nobody else.
    for (target, headers, expected) in [
        (format!("/live/page?access_token={token}"), None, "max-age=60, private"),
        ("/live/page".to_owned(), Some(format!("token={token}")), "public, max-age=60"),
    ] {
        let request = client().get(edge.url(&target));
        let answer = match &headers {
            Some(cookie) => request.header("cookie", cookie).send().await,
            None => request.send().await,
        };
        assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, Some(expected)));
        assert_eq!(origin.last().target, "/live/page");
    }
    let target = format!("/live/page?x=%2f&access_token={token}");
    assert_eq!(client().http2().get(edge.url(&target)).send().await.status, 200);
    let seen = origin.last();
    assert_eq!((&*seen.target, seen.authority), ("/live/page?x=%2f", Some(edge.address().to_string())));

    // Nor is it written down, whatever became of the request and whichever route it took.
    let count = origin.count();
    let forged = format!("{}AAAA", &token[..token.len() - 4]);
    for (target, status) in [
        (format!("/live/ws?access_token={forged}"), 401),
        (format!("/live/ws?access_token={token}&access_token={token}"), 400),
        (format!("/live/ws?access%5Ftoken={token}"), 400),
        ("/live/ws?other=x".to_owned(), 401),
    ] {
        assert_eq!(client().get(edge.url(&target)).send().await.status, status, "{target}");
    }
    assert_eq!(origin.count(), count, "a bad token reached the origin");
    assert_eq!(client().get(edge.url(&format!("/open?access_token={token}"))).send().await.status, 200);
    let access = edge.folder().join("access.log");
    let lines = sluice_testkit::eventually("the record of the last request", async || {
        let text = std::fs::read_to_string(&access).unwrap_or_default();
        text.contains("\"path\":\"/open\"").then_some(text)
    })
    .await;
    assert!(lines.contains("access_token=[redacted]"), "{lines}");
    let part = &token[token.len() - 60..token.len() - 10];
    assert!(!lines.contains(part), "{lines}");
    let shown = client().get(edge.admin_url("/config")).send().await;
    assert!(shown.text().contains("access_token") && !shown.text().contains("[redacted]"), "{}", shown.text());
    let logs: Vec<_> = edge.logs().into_iter().map(|line| line.text).filter(|text| text.contains(part)).collect();
    assert!(logs.is_empty(), "{logs:?}");
    edge.stop().await;
}

#[tokio::test]
async fn a_service_that_authorises_is_not_told_a_token_that_is_withheld_from_the_query() {
    let (origin, service, corp) = (origin().run().await, origin().run().await, issuer().run().await);
    let config = "
issuers:
  corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - name: strip
    match: { path: '/strip/*' }
    auth: { issuer: corp, token_from: [ { query: t } ], credentials: strip }
    forward_auth: { url: '@service@' }
    upstream: origin
  - name: pass
    match: { path: '/pass/*' }
    auth: { issuer: corp, token_from: [ { query: t } ] }
    forward_auth: { url: '@service@' }
    upstream: origin
";
    let edge = gateway()
        .config(config)
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .set("service", service.url("/check"))
        .run()
        .await;
    let token = corp.token().sign();
    for (path, told) in [("/strip/x", "/strip/x?a=1".to_owned()), ("/pass/x", format!("/pass/x?a=1&t={token}"))] {
        let answer = client().get(edge.url(&format!("{path}?a=1&t={token}"))).send().await;
        assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, Some("private")), "{path}");
        assert_eq!(service.last().header("x-forwarded-uri"), Some(&*told));
        assert_eq!(origin.last().target, told);
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_page_of_another_origin_can_read_why_it_was_refused() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let config = "
issuers:
  corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } }
auth: { dpop: { nonce: {} } }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - name: api
    match: { path: '/api/*' }
    cors: { origins: ['https://app.example'], headers: [authorization], expose: [x-total] }
    auth: { issuer: corp }
    upstream: origin
  - { name: open, match: { path: '/open' }, cors: { origins: ['https://app.example'] }, upstream: origin }
";
    let edge = gateway()
        .config(config)
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await;
    let ask = async |path: &str, token: Option<&str>| {
        let request = client().get(edge.url(path)).header("origin", "https://app.example");
        match token {
            Some(token) => request.bearer(token).send().await,
            None => request.send().await,
        }
    };
    let good = corp.token().sign();
    for (token, status) in [(None, 401), (Some(corp.token().forged()), 401), (Some(good), 200)] {
        let answer = ask("/api/x", token.as_deref()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"), "{status}");
        assert_eq!(
            answer.header("access-control-expose-headers"),
            Some("x-total, www-authenticate, dpop-nonce"),
            "{status}"
        );
    }
    assert_eq!(ask("/open", None).await.header("access-control-expose-headers"), None);
    edge.stop().await;
}

#[tokio::test]
async fn a_token_minted_with_a_secret_passes_until_the_secret_is_another() {
    let origin = origin().run().await;
    let config = "
issuers:
  own:
    issuer: https://issuer.test
    audiences: [edge]
    token_type: at+jwt
    secrets: [ { kid: dev, algorithm: HS512, secret: { file: own.secret } } ]
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, auth: { issuer: own }, upstream: origin }
";
    let secret = "hunter2-".repeat(8);
    let edge =
        gateway().config(config).file("own.secret", format!("{secret}\n")).set("origin", origin.address()).run().await;
    let file = edge.folder().join("own.secret").display().to_string();
    let mint = async |more: &[&str]| {
        let arguments = ["token", "mint", "--secret-file", &file, "--alg", "HS512"];
        let claims = ["--claim", "client_id=c", "--claim", "jti=j"];
        sluice_testkit::run_to_end(arguments.iter().chain(&claims).chain(more)).await
    };
    let minted = mint(&["--typ", "at+jwt"]).await;
    assert_eq!(minted.code, Some(0), "{}", minted.stderr);
    let status = async |token: &str| client().get(edge.url("/")).bearer(token.trim()).send().await.status.as_u16();
    assert_eq!(status(&minted.stdout).await, 200);
    assert_eq!(status(&mint(&[]).await.stdout).await, 401, "a JWT that does not say that it is an access token");

    std::fs::write(&file, "hunter3-".repeat(8)).unwrap();
    let reload = async || client().post(edge.admin_url("/reload"), "").send().await;
    assert_eq!(reload().await.status, 200);
    assert_eq!(status(&minted.stdout).await, 401);
    assert_eq!(status(&mint(&["--typ", "at+jwt"]).await.stdout).await, 200);

    // A secret that is too short changes nothing, and is told and not shown.
    std::fs::write(&file, "hunter2-hunter2").unwrap();
    let refused = reload().await;
    assert_eq!(refused.status, 422);
    let told = format!("{} {}", refused.text(), mint(&[]).await.stderr);
    assert!(told.matches("has 15 bytes, HS512 takes at least 64").count() == 2 && !told.contains("hunter2"), "{told}");
    assert_eq!(client().get(edge.admin_url("/config")).send().await.text().matches("hunter").count(), 0);
    edge.stop().await;
}
