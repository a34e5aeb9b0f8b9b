//! What routes ask and what clients are told: RFC 6750 to the parameter, scopes, identity headers, limits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::*;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use sluice_auth::{AddressBudget, Algorithm, Config, IssuerConfig, JwksConfig, Proof, RouteAuth, Scopes};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::{Faults, Path, Reason, Refusal, Severity};

fn challenge(refusal: &Refusal) -> Option<&str> {
    let mut values = refusal.headers.iter().filter(|(name, _)| name == WWW_AUTHENTICATE);
    let value = values.next().map(|(_, value)| value.to_str().unwrap());
    assert!(values.next().is_none(), "two challenges");
    value
}

fn scopes(all: &[&str], any: &[&str]) -> Scopes {
    let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    Scopes { all: owned(all), any: owned(any), ..Scopes::default() }
}

async fn world(route: &RouteAuth) -> (World, std::sync::Arc<sluice_auth::Policy>, Signer, Endpoint) {
    let signer = Signer::new("k", Algorithm::EdDSA);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let (world, policy) = World::with_keys(&endpoint, route).await;
    (world, policy, signer, endpoint)
}

#[tokio::test]
async fn challenges_are_those_of_rfc_6750() {
    let wanted = RouteAuth { scopes: scopes(&["orders:write", "a"], &["a", "b"]), ..route() };
    let (world, policy, signer, _endpoint) = world(&wanted).await;
    let client = IpAddr::from([192, 0, 2, 9]);
    let ask = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let (world, policy) = (&world, &policy);
        async move { world.ask(policy, &headers, client).await.unwrap_err() }
    };
    let bearer = |claims: Value| format!("Bearer {}", signer.sign(&claims));

    for nothing in [&[][..], &["Basic dTpw"]] {
        let refusal = ask(nothing).await;
        assert_eq!((refusal.status().as_u16(), challenge(&refusal)), (401, Some(r#"Bearer realm="sluice""#)));
    }
    for broken in [&["Bearer"][..], &["Bearer a b"], &["Bearer a", "Bearer b"]] {
        let refusal = ask(broken).await;
        assert_eq!(refusal.status().as_u16(), 400);
        assert_eq!(
            challenge(&refusal),
            Some(
                r#"Bearer realm="sluice", error="invalid_request", error_description="The request must carry one bearer token""#
            )
        );
    }
    for (token, description) in [
        ("Bearer abc".to_owned(), "The token cannot be read"),
        (bearer(with(claims(), "exp", json!("soon"))), "The token is not valid"),
        (bearer(with(claims(), "exp", json!(5))), "The token has expired"),
        (bearer(with(claims(), "nbf", json!(NOW + 500))), "The token is not valid yet"),
        (bearer(with(claims(), "aud", json!("x"))), "The token is not accepted here"),
        (bearer(with(claims(), "iss", json!("x"))), "The token is not accepted here"),
    ] {
        let refusal = ask(&[&token]).await;
        assert_eq!(refusal.status().as_u16(), 401);
        let expected = format!(r#"Bearer realm="sluice", error="invalid_token", error_description="{description}""#);
        assert_eq!(challenge(&refusal), Some(&*expected));
    }
    let refusal = ask(&[&bearer(claims())]).await;
    assert_eq!(refusal.status().as_u16(), 403);
    assert_eq!(
        challenge(&refusal),
        Some(concat!(
            r#"Bearer realm="sluice", error="insufficient_scope", error_description="The token lacks a required scope", "#,
            r#"scope="orders:write a b""#
        ))
    );
    world.stop().await;
}

#[tokio::test]
async fn scopes_are_compared_whole_and_both_lists_must_be_met() {
    let wanted = |all: &[&str], any: &[&str]| RouteAuth { scopes: scopes(all, any), ..route() };
    let (world, _, signer, endpoint) = world(&route()).await;
    let token = signer.sign(&with(claims(), "scope", json!("orders:read orders:list")));
    let cases = [
        (wanted(&[], &[]), true),
        (wanted(&["orders:read"], &[]), true),
        (wanted(&["orders:read", "orders:list"], &[]), true),
        (wanted(&["orders:read", "orders:write"], &[]), false),
        (wanted(&["orders"], &[]), false),
        (wanted(&["orders:rea"], &[]), false),
        (wanted(&["Orders:read"], &[]), false),
        (wanted(&[], &["x", "orders:list"]), true),
        (wanted(&[], &["x", "y"]), false),
        (wanted(&["orders:read"], &["x"]), false),
        (wanted(&["orders:read"], &["x", "orders:list"]), true),
    ];
    for (route, enough) in cases {
        let policy = world.apply(&issuers(issuer_config(JwksConfig::from_url(endpoint.url()))), &route);
        let expected = (!enough).then_some(Reason::ScopeMissing);
        // Twice: by signature and by cache.
        assert_eq!(world.reason(&policy, &token).await, expected, "{:?}", route.scopes);
        assert_eq!(world.reason(&policy, &token).await, expected, "{:?}", route.scopes);
    }
    world.stop().await;
}

#[tokio::test]
async fn claims_become_headers_and_the_same_headers_are_stripped_everywhere() {
    let headers = BTreeMap::from([
        ("X-User".to_owned(), "sub".to_owned()),
        ("x-tenant".into(), "org.tenant".into()),
        ("x-groups".into(), "groups".into()),
        ("x-evil".into(), "evil".into()),
        ("x-absent".into(), "absent".into()),
    ]);
    let wanted = RouteAuth { claims_to_headers: headers, ..route() };
    let (world, policy, signer, _endpoint) = world(&wanted).await;
    let token = signer.sign(&json!({"iss": ISS, "aud": "edge", "exp": NOW + 60, "sub": "u", "groups": ["a", "b"],
        "org": {"tenant": "acme"}, "evil": "x\r\nx-admin: 1"}));
    let proof = Proof::Verified(world.bearer(&policy, &token).await.unwrap());
    let mut written: Vec<_> = policy
        .identity_headers(&proof)
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    written.sort();
    let expected = [("x-groups", "a,b"), ("x-tenant", "acme"), ("x-user", "u")];
    assert_eq!(written, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let stripped = world.handle.stripped_headers();
    assert_eq!(stripped.names().len(), 5);
    for name in ["x-user", "X-TENANT", "x_groups", "x-evil", "x-absent"] {
        assert!(stripped.covers(&HeaderName::from_bytes(name.as_bytes()).unwrap()), "{name}");
    }
    world.stop().await;
}

#[tokio::test]
async fn an_address_is_limited_before_it_costs_a_signature_check() {
    let (mut world, _, signer, endpoint) = world(&route()).await;
    world.config.signature_checks_per_address =
        Some(AddressBudget { checks: 10, per: Span::secs(1), burst: 5, max_addresses: 100 });
    let policy = world.apply(&issuers(issuer_config(JwksConfig::from_url(endpoint.url()))), &route());
    let ask = |client: &str, token: String| {
        let client: IpAddr = client.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap());
        let (world, policy) = (&world, &policy);
        async move { world.ask(policy, &headers, client).await.err() }
    };
    let fresh = |number: u32| signer.sign(&with(claims(), "jti", json!(number)));
    let known = fresh(0);
    assert!(ask("192.0.2.1", known.clone()).await.is_none());
    for number in 1..5 {
        assert!(ask("192.0.2.1", fresh(number)).await.is_none());
    }
    let refusal = ask("192.0.2.1", fresh(5)).await.unwrap();
    assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::AddressRateLimited, 429));
    assert_eq!(refusal.headers, [(RETRY_AFTER, HeaderValue::from(1))]);
    // What is in the cache costs nothing, what cannot be read costs nothing, and others are not touched.
    assert!(ask("192.0.2.1", known).await.is_none());
    assert_eq!(ask("192.0.2.1", "a.b".into()).await.unwrap().reason, Reason::TokenMalformed);
    assert!(ask("192.0.2.2", fresh(6)).await.is_none());
    // Time gives it back.
    world.clock.advance(std::time::Duration::from_millis(100));
    assert!(ask("192.0.2.1", fresh(7)).await.is_none());
    assert!(ask("192.0.2.1", fresh(8)).await.is_some());
    // The many addresses of one IPv6 network are one.
    for number in 0..5 {
        assert!(ask(&format!("2001:db8::{number}"), fresh(10 + number)).await.is_none());
    }
    assert!(ask("2001:db8::ffff", fresh(20)).await.is_some());
    assert!(ask("2001:db8:0:1::1", fresh(21)).await.is_none());
    world.stop().await;
}

#[tokio::test]
async fn every_series_has_its_name_and_the_age_of_keys_grows() {
    let (world, policy, signer, _endpoint) = world(&route()).await;
    assert_eq!(world.reason(&policy, &signer.sign(&claims())).await, None);
    assert_eq!(world.reason(&policy, "nonsense").await, Some(Reason::TokenMalformed));
    world.clock.advance(std::time::Duration::from_secs(7));
    let page = world.metrics();
    for line in [
        r#"verifications_total{issuer="corp",outcome="ok"} 1"#,
        r#"verifications_total{issuer="(none)",outcome="token-malformed"} 1"#,
        r#"jwks_fetches_total{issuer="corp",outcome="ok"} 1"#,
        r#"keys{issuer="corp"} 1"#,
        r#"key_age_seconds{issuer="corp"} 7.0"#,
        "token_cache_misses_total 2",
        "token_cache_hits_total 0",
        "token_cache_evictions_total 0",
        "# UNIT token_cache_bytes bytes",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    // An issuer that is gone takes its series along.
    world.apply(
        &BTreeMap::from([(name("other"), issuer_config(JwksConfig::from_file("absent")))]),
        &RouteAuth { issuer: Some(name("other")), ..RouteAuth::default() },
    );
    assert!(!world.metrics().contains("corp"), "{}", world.metrics());
    // One that was only prepared leaves none.
    drop(world.handle.prepare(&Config::default(), &issuers(issuer_config(JwksConfig::from_file("absent")))));
    assert!(!world.metrics().contains("corp"), "{}", world.metrics());
    world.stop().await;
}

#[tokio::test]
async fn a_verification_may_move_between_threads_and_be_dropped_half_way() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let endpoint = Endpoint::run(Behaviour::Hang).await;
    let (world, policy) =
        World::start(Config::default(), &issuers(issuer_config(JwksConfig::from_url(endpoint.url()))), &route());
    let token = Signer::new("k", Algorithm::EdDSA).sign(&claims());
    let asked = is_send(world.bearer(&policy, &token));
    let unfinished = tokio::time::timeout(std::time::Duration::from_millis(20), asked).await;
    assert!(unfinished.is_err(), "it waits for keys");
    world.stop().await;
}

#[test]
fn the_shape_of_the_design_is_read_and_unknown_keys_are_not() {
    let text = json!({
        "issuer": "https://id.example.com", "audiences": ["edge"], "algorithms": ["RS256", "ES256"],
        "jwks": { "url": "https://id.example.com/.well-known/jwks.json", "refresh": "5m" }
    });
    let issuer: IssuerConfig = serde_json::from_value(text.clone()).unwrap();
    let mut faults = Faults::new();
    issuer.validate(&Path::root(), &mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    assert!(serde_json::from_value::<IssuerConfig>(with(text.clone(), "algoritms", json!([]))).is_err());
    assert!(serde_json::from_value::<IssuerConfig>(with(text, "algorithms", json!(["none"]))).is_err());
    let route: RouteAuth =
        serde_json::from_value(json!({"issuer": "corp", "scopes": {"all": ["orders:read"]}})).unwrap();
    assert_eq!(route.scopes.all, ["orders:read"]);
    let off: Config = serde_json::from_value(json!({"signature_checks_per_address": null})).unwrap();
    assert!(off.signature_checks_per_address.is_none());
    assert_eq!(serde_json::from_value::<Config>(json!({})).unwrap(), Config::default());
}

#[test]
fn a_configuration_tells_all_its_faults_at_once() {
    let auth: Config = serde_json::from_value(json!({
        "realm": "a\"b", "max_token": "1B", "signature_checks_per_address": {"checks": 0, "burst": 0, "per": "1ms"}
    }))
    .unwrap();
    let issuer: IssuerConfig = serde_json::from_value(json!({
        "issuer": "", "algorithms": [], "leeway": "6m",
        "jwks": {"url": "ftp://user:secret@x", "file": "f", "refresh": "0s", "timeout": "0s", "stale": "1ms", "demand_burst": 0,
                 "wait": "1h", "max_size": "1B", "demand_every": "0s"}
    }))
    .unwrap();
    let route: RouteAuth = serde_json::from_value(json!({
        "issuer": "corp", "issuers": ["a", "a"], "scopes": {"all": ["a b", ""], "any": ["\""]},
        "claims_to_headers": {"host": "sub", "not a header": "sub", "x-ok": ""}
    }))
    .unwrap();
    let mut faults = Faults::new();
    auth.validate(&Path::root().key("auth"), &mut faults);
    issuer.validate(&Path::root().key("issuers").key("corp"), &mut faults);
    route.validate(&Path::root().key("routes").index(0).key("auth"), &mut faults);
    let faults = faults.into_vec();
    let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
    for path in [
        "auth.realm",
        "auth.max_token",
        "auth.signature_checks_per_address.checks",
        "auth.signature_checks_per_address.burst",
        "auth.signature_checks_per_address.per",
        "issuers.corp.issuer",
        "issuers.corp.audiences",
        "issuers.corp.algorithms",
        "issuers.corp.leeway",
        "issuers.corp.jwks: both url and file",
        "issuers.corp.jwks.refresh",
        "issuers.corp.jwks.timeout",
        "issuers.corp.jwks.demand_burst",
        "issuers.corp.jwks.wait",
        "issuers.corp.jwks.max_size",
        "issuers.corp.jwks.demand_every",
        "routes[0].auth: both",
        "routes[0].auth.issuers[1]",
        "routes[0].auth.scopes.all[0]",
        "routes[0].auth.scopes.all[1]",
        "routes[0].auth.scopes.any[0]",
        "routes[0].auth.claims_to_headers.host",
        "routes[0].auth.claims_to_headers.not a header",
        "routes[0].auth.claims_to_headers.x-ok",
    ] {
        assert!(told.iter().any(|fault| fault.starts_with(path)), "{path} in\n{}", told.join("\n"));
    }
    assert!(!told.join("\n").contains("secret"));
}

#[tokio::test]
async fn a_route_that_names_what_is_not_there_is_told_what_is() {
    let (world, _, _, endpoint) = world(&route()).await;
    let mut all = issuers(issuer_config(JwksConfig::from_url(endpoint.url())));
    all.insert(name("twin"), issuer_config(JwksConfig::from_url(endpoint.url())));
    let prepared = world.handle.prepare(&Config::default(), &all).unwrap();
    let at = Path::root().key("auth");
    let orders = route_name("orders");
    let unknown = RouteAuth { issuer: Some(name("crop")), ..RouteAuth::default() };
    let unknown = prepared.policy(&orders, &unknown, &at).unwrap_err();
    assert_eq!(unknown[0].to_string(), "auth.issuer: there is no issuer crop (known: corp, twin)");
    let twins = RouteAuth { issuers: vec![name("corp"), name("twin")], ..RouteAuth::default() };
    let faults = prepared.policy(&orders, &twins, &at).unwrap_err();
    assert_eq!(faults[0].to_string(), "auth.issuers[1]: issuers corp and twin of one route have the same iss");
    // A CA that cannot be read is found when the configuration is, not when keys are fetched.
    let mut config = issuer_config(JwksConfig::from_url("https://localhost/"));
    config.jwks.ca = Some("absent.pem".into());
    let faults = world.handle.prepare(&Config::default(), &issuers(config)).unwrap_err();
    assert!(faults[0].severity == Severity::Error && faults[0].to_string().contains("absent.pem"), "{faults:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_token_that_names_no_key_is_charged_for_each_key_tried() {
    let (mut world, _, _, _) = world(&route()).await;
    world.config.signature_checks_per_address =
        Some(AddressBudget { checks: 1, per: Span::secs(60), burst: 6, max_addresses: 100 });
    let signers: Vec<_> = (0..4).map(|number| Signer::new(&number.to_string(), Algorithm::EdDSA)).collect();
    let keys: Vec<_> = signers.iter().map(|signer| without(signer.jwk(), "kid")).collect();
    let keys = json!({ "keys": keys }).as_object().cloned().unwrap();
    let policy = world.apply(&issuers(issuer_config(JwksConfig::from_keys(keys))), &route());
    world.ready().await;
    let token = |signer: &Signer, number: u32| {
        let claims = with(claims(), "jti", json!(number));
        signer.sign_raw(json!({"alg": "EdDSA"}).to_string(), claims.to_string())
    };
    // One for the first key, four for the fourth.
    assert_eq!(world.reason(&policy, &token(&signers[0], 1)).await, None);
    assert_eq!(world.reason(&policy, &token(&signers[3], 2)).await, None);
    // One is left, which the second key's token has used up when its own key's turn comes.
    assert_eq!(world.reason(&policy, &token(&signers[1], 3)).await, Some(Reason::AddressRateLimited));
    world.stop().await;
}
