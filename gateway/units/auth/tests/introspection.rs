//! Opaque tokens, judged by their issuer's endpoint: what a request is told, how often the endpoint is asked, and what
//! becomes of requests when it cannot be heard.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::service::{Reply, Service, babbling};
use common::*;
use futures_util::future::join_all;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Value, json};
use sluice_auth::{
    Algorithm, Config, Deps, IntrospectionConfig, IssuerConfig, JwksConfig, Policy, RouteAuth, Scopes, Unit,
};
use sluice_vocabulary::clock::{ManualClock, SystemRandom};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::ports::Inspect as _;
use sluice_vocabulary::unit::State;
use sluice_vocabulary::{Faults, IssuerName, Path, Reason, RouteName};
use tempfile::TempDir;

const SECRET: &str = "s3:cret";

fn introspection(url: &str) -> IntrospectionConfig {
    let text = json!({"url": url, "client": {"id": "edge", "secret": {"file": "secret"}}, "timeout": "5s"});
    serde_json::from_value(text).unwrap()
}

fn opaque(introspection: IntrospectionConfig) -> IssuerConfig {
    IssuerConfig { audiences: Vec::new(), introspection: Some(introspection), ..issuer_config(JwksConfig::empty()) }
}

fn opaque_route() -> RouteAuth {
    RouteAuth { issuer: Some(name("opaque")), ..RouteAuth::default() }
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), format!("{SECRET}\n")).unwrap();
    folder
}

/// The unit with one introspected issuer.
struct Opaque {
    world: World,
    policy: Arc<Policy>,
    folder: TempDir,
}

impl Opaque {
    fn start(config: IntrospectionConfig) -> Self {
        Self::start_with(Config::default(), config, &opaque_route())
    }

    fn start_with(auth: Config, config: IntrospectionConfig, route: &RouteAuth) -> Self {
        let folder = folder();
        let all = BTreeMap::from([(name("opaque"), opaque(config))]);
        let (world, policy) = World::start_in(folder.path().into(), auth, &all, route);
        Self { world, policy, folder }
    }

    async fn reason(&self, token: &str) -> Option<Reason> {
        self.world.reason(&self.policy, token).await
    }

    fn page(&self) -> Value {
        self.world.handle.inspect()["introspection"]["opaque"].clone()
    }

    fn counts(&self, outcome: &str, calls: u64) -> bool {
        let line = format!("introspection_calls_total{{issuer=\"opaque\",outcome=\"{outcome}\"}} {calls}\n");
        self.world.metrics().contains(&line)
    }
}

fn active() -> Value {
    json!({"active": true, "sub": "user-1", "scope": "orders:read orders:list", "client_id": "app", "exp": NOW + 600,
           "iss": ISS, "token_type": "Bearer", "tenant": "acme"})
}

fn yes() -> Reply {
    Reply::ok(active().to_string())
}

fn no() -> Reply {
    Reply::ok(r#"{"active":false}"#)
}

#[tokio::test]
async fn an_active_token_passes_with_what_its_issuer_told_of_it() {
    let endpoint = Service::replying(yes()).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    let verified = opaque.world.bearer(&opaque.policy, "2YotnFZ+/EjCs~A=").await.unwrap();
    let identity = verified.identity();
    assert_eq!((identity.issuer.as_str(), identity.subject()), ("opaque", Some("user-1")));
    assert_eq!((identity.scopes().count(), identity.expires_at), (2, NOW + 600));
    assert_eq!((identity.claim_text("tenant").as_deref(), identity.claim("active")), (Some("acme"), None));

    let asked = endpoint.last();
    assert_eq!((asked.method.as_str(), &*asked.target), ("POST", "/ask"));
    assert_eq!(asked.form("token"), Some("2YotnFZ%2B%2FEjCs%7EA%3D"));
    assert_eq!(asked.form("token_type_hint"), Some("access_token"));
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(asked.header("accept"), Some("application/json"));
    assert_eq!(asked.header("host"), Some(&*endpoint.address.to_string()));
    let credentials = asked.header("authorization").unwrap().strip_prefix("Basic ").unwrap().to_owned();
    assert_eq!(STANDARD.decode(credentials).unwrap(), b"edge:s3%3Acret");
    let metrics = opaque.world.metrics();
    assert!(metrics.contains(r#"verifications_total{issuer="opaque",outcome="ok"} 1"#), "{metrics}");
    assert!(opaque.counts("ok", 1), "{metrics}");
    opaque.world.stop().await;
}

#[tokio::test]
async fn a_client_may_show_its_credentials_in_the_body() {
    let endpoint = Service::replying(yes()).await;
    let mut config = introspection(&endpoint.url());
    config.client.method = sluice_auth::ClientMethod::Post;
    let opaque = Opaque::start(config);
    assert_eq!(opaque.reason("t").await, None);
    let asked = endpoint.last();
    assert_eq!((asked.form("client_id"), asked.form("client_secret")), (Some("edge"), Some("s3%3Acret")));
    assert_eq!(asked.header("authorization"), None);
    opaque.world.stop().await;
}

#[tokio::test]
async fn what_the_endpoint_says_no_to_is_a_bad_token_and_a_scope_too_few_is_told_apart() {
    let endpoint = Service::replying(no()).await;
    let route =
        RouteAuth { scopes: Scopes { all: vec!["orders:write".into()], ..Scopes::default() }, ..opaque_route() };
    let opaque = Opaque::start_with(Config::default(), introspection(&endpoint.url()), &route);
    let refusal = opaque.world.bearer(&opaque.policy, "t").await.unwrap_err();
    assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::TokenRejected, 401));
    let (_, challenge) = refusal.headers.iter().find(|(name, _)| name == WWW_AUTHENTICATE).unwrap();
    assert!(challenge.to_str().unwrap().contains("error=\"invalid_token\""));
    endpoint.now(yes());
    assert_eq!(opaque.reason("u").await, Some(Reason::ScopeMissing));
    opaque.world.stop().await;
}

#[tokio::test]
async fn what_is_told_of_an_active_token_is_judged_like_claims() {
    let endpoint = Service::replying(yes()).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    for (index, (told, reason)) in [
        (with(active(), "exp", json!(NOW - 31)), Some(Reason::TokenExpired)),
        (with(active(), "exp", json!("tomorrow")), Some(Reason::TokenRejected)),
        (with(active(), "nbf", json!(NOW + 60)), Some(Reason::TokenNotYetValid)),
        (with(active(), "iss", json!("https://other")), Some(Reason::TokenNotForUs)),
        (with(active(), "token_use", json!("refresh_token")), Some(Reason::TokenRejected)),
        (with(active(), "token_type", json!("DPoP")), Some(Reason::TokenRejected)),
        (without(without(active(), "exp"), "iss"), None),
        (json!({"active": true}), None),
    ]
    .into_iter()
    .enumerate()
    {
        endpoint.now(Reply::ok(told.to_string()));
        assert_eq!(opaque.reason(&format!("t{index}")).await, reason, "{told}");
    }
    // Where audiences are listed a token must name one, as a JWT must.
    let mut config = opaque_issuer_with_audience(&endpoint);
    let all = BTreeMap::from([(name("opaque"), config.clone())]);
    let policy = opaque.world.apply(&all, &opaque_route());
    for (told, reason) in [
        (with(active(), "aud", json!(["x", "edge"])), None),
        (with(active(), "aud", json!("x")), Some(Reason::TokenNotForUs)),
        (active(), Some(Reason::TokenRejected)),
    ] {
        // Another configuration is another issuer: nothing is known to it.
        config.leeway = Span::secs(config.leeway.get().as_secs() + 1);
        endpoint.now(Reply::ok(told.to_string()));
        let policy = match config.leeway.get().as_secs() {
            31 => Arc::clone(&policy),
            _ => opaque.world.apply(&BTreeMap::from([(name("opaque"), config.clone())]), &opaque_route()),
        };
        assert_eq!(opaque.world.reason(&policy, "t").await, reason, "{told}");
    }
    opaque.world.stop().await;
}

fn opaque_issuer_with_audience(endpoint: &Service) -> IssuerConfig {
    IssuerConfig { audiences: vec!["edge".into()], ..opaque(introspection(&endpoint.url())) }
}

#[tokio::test]
async fn answers_are_believed_for_their_time_and_a_revocation_ends_it() {
    let endpoint = Service::replying(yes()).await;
    let mut config = introspection(&endpoint.url());
    (config.cache.positive, config.cache.negative) = (Span::secs(10), Span::secs(4));
    let opaque = Opaque::start(config);
    for _ in 0..5 {
        assert_eq!(opaque.reason("t").await, None);
    }
    assert_eq!(endpoint.asked(), 1);

    // Revoked at its issuer: known here when the belief in the yes ends.
    endpoint.now(no());
    opaque.world.clock.advance(Duration::from_millis(9_999));
    assert_eq!((opaque.reason("t").await, endpoint.asked()), (None, 1));
    opaque.world.clock.advance(Duration::from_millis(1));
    assert_eq!((opaque.reason("t").await, endpoint.asked()), (Some(Reason::TokenRejected), 2));

    // And good again when the belief in the no ends.
    endpoint.now(yes());
    opaque.world.clock.advance(Duration::from_millis(3_999));
    assert_eq!((opaque.reason("t").await, endpoint.asked()), (Some(Reason::TokenRejected), 2));
    opaque.world.clock.advance(Duration::from_millis(1));
    assert_eq!((opaque.reason("t").await, endpoint.asked()), (None, 3));
    let metrics = opaque.world.metrics();
    assert!(metrics.contains("introspection_cache_hits_total{issuer=\"opaque\"} 6\n"), "{metrics}");
    assert!(metrics.contains("introspection_cache_misses_total{issuer=\"opaque\"} 3\n"), "{metrics}");
    opaque.world.stop().await;
}

#[tokio::test]
async fn a_token_is_never_believed_in_past_its_exp() {
    let endpoint = Service::replying(Reply::ok(with(active(), "exp", json!(NOW + 3)).to_string())).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    assert_eq!(opaque.reason("t").await, None);
    opaque.world.clock.advance(Duration::from_secs(2));
    assert_eq!((opaque.reason("t").await, endpoint.asked()), (None, 1));
    opaque.world.clock.advance(Duration::from_secs(1));
    endpoint.now(no());
    assert_eq!((opaque.reason("t").await, endpoint.asked()), (Some(Reason::TokenRejected), 2));
    opaque.world.stop().await;
}

#[tokio::test]
async fn a_cache_that_is_off_believes_nothing() {
    let endpoint = Service::replying(yes()).await;
    let mut config = introspection(&endpoint.url());
    (config.cache.positive, config.cache.negative) = (Span::secs(0), Span::secs(0));
    let opaque = Opaque::start(config);
    for times in 1..4 {
        assert_eq!((opaque.reason("t").await, endpoint.asked()), (None, times));
    }
    opaque.world.stop().await;
}

#[tokio::test]
async fn who_cannot_be_heard_has_not_said_no() {
    let endpoint = Service::replying(yes()).await;
    let elsewhere = Service::replying(yes()).await;
    let mut config = introspection(&endpoint.url());
    config.timeout = Span::millis(300);
    config.breaker.failures = 1000;
    let opaque = Opaque::start(config);
    let misdeeds = [
        ("hangs", Reply::Hang, "timeout"),
        ("drips", Reply::Drip, "timeout"),
        ("floods", Reply::Flood, "too-large"),
        ("hangs up", Reply::Cut, "transfer"),
        ("fails", Reply::status(500), "status"),
        ("is too busy", Reply::status(503), "status"),
        ("does not know our credentials", Reply::status(401), "status"),
        ("denies us", Reply::Say(403, vec![], active().to_string()), "status"),
        ("says created", Reply::Say(201, vec![], active().to_string()), "status"),
        ("redirects", Reply::status(307).with("location", elsewhere.url()), "status"),
        ("sends a page", Reply::ok("<html>welcome</html>"), "malformed"),
        ("sends nothing", Reply::ok(""), "malformed"),
        ("sends a list", Reply::ok(json!([active()]).to_string()), "malformed"),
        ("says nothing of it", Reply::ok("{}"), "malformed"),
        ("says so as a text", Reply::ok(with(active(), "active", json!("true")).to_string()), "malformed"),
        ("says so as a number", Reply::ok(with(active(), "active", json!(1)).to_string()), "malformed"),
        ("says no as a text", Reply::ok(r#"{"active":"false"}"#), "malformed"),
        ("says both", Reply::ok(r#"{"active":false,"active":true}"#), "malformed"),
        ("names two senders", Reply::ok(r#"{"active":true,"sub":"a","sub":"b"}"#), "malformed"),
        ("goes on after it", Reply::ok(r#"{"active":true}{"active":true}"#), "malformed"),
        ("nests", Reply::ok(format!("{{\"active\":true,\"a\":{}{}}}", "[".repeat(20), "]".repeat(20))), "malformed"),
    ];
    let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
    for (index, (what, reply, outcome)) in misdeeds.into_iter().enumerate() {
        endpoint.now(reply);
        let began = Instant::now();
        let refusal = opaque.world.bearer(&opaque.policy, &format!("t{index}")).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "an endpoint that {what} held the request");
        let told = (refusal.reason, refusal.status().as_u16());
        assert_eq!(told, (Reason::IntrospectionUnavailable, 503), "an endpoint that {what}");
        assert!(refusal.headers.iter().any(|(name, value)| name == RETRY_AFTER && value == "1"), "{what}");
        assert!(refusal.headers.iter().all(|(name, _)| name != WWW_AUTHENTICATE), "{what}");
        let calls = counted.entry(outcome).or_default();
        *calls += 1;
        assert!(opaque.counts(outcome, *calls), "an endpoint that {what}: {}", opaque.world.metrics());
        // Nothing of it is believed.
        endpoint.now(yes());
        assert_eq!(opaque.reason(&format!("t{index}")).await, None, "after it {what}");
    }
    assert_eq!(elsewhere.asked(), 0, "a redirect was followed");
    assert!(endpoint.flooded() < 20_000_000, "{} bytes of the flood were taken", endpoint.flooded());
    opaque.world.stop().await;
}

#[tokio::test]
async fn what_is_not_http_or_not_there_is_no_answer() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let long =
        [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'a'; 1_000_000], b"\r\ncontent-length: 15\r\n\r\n{\"active\":true}"];
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 15\r\n\r\n{{\"active\":true}}", "x: 1\r\n".repeat(100));
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"active\":true}";
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\ncontent-length: 2\r\n\r\n{\"active\":true}";
    for (what, address) in [
        ("is not there", nobody),
        ("speaks another protocol", babbling(b"220 smtp ready\r\n".to_vec()).await),
        ("has a long header", babbling(long.concat()).await),
        ("has many fields", babbling(many.into_bytes()).await),
        ("stops in the middle", babbling(short.into()).await),
        ("has two lengths", babbling(twice.into()).await),
    ] {
        let opaque = Opaque::start(introspection(&format!("http://{address}/")));
        assert_eq!(opaque.reason("t").await, Some(Reason::IntrospectionUnavailable), "an endpoint that {what}");
        opaque.world.stop().await;
    }
}

#[tokio::test]
async fn requests_with_the_same_token_share_one_question() {
    let endpoint = Service::replying(Reply::Held(active().to_string())).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    let asks = join_all((0..100).map(|number| opaque.reason(if number < 60 { "a" } else { "b" })));
    let (answers, ()) = tokio::join!(asks, async {
        endpoint.was_asked(2).await;
        endpoint.release(2);
    });
    assert!(answers.iter().all(Option::is_none));
    assert_eq!(endpoint.asked(), 2, "one for each token");
    let metrics = opaque.world.metrics();
    assert!(metrics.contains("introspection_shared_total{issuer=\"opaque\"} 98\n"), "{metrics}");
    opaque.world.stop().await;
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_any_more_is_given_up() {
    let endpoint = Service::replying(Reply::Hang).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    {
        let ask = opaque.reason("t");
        tokio::pin!(ask);
        tokio::select! {
            _ = &mut ask => panic!("nobody answers"),
            () = endpoint.was_asked(1) => {}
        }
        assert_eq!(opaque.page()["in_flight"], 1);
    }
    let given_up = async {
        while opaque.page()["in_flight"] != 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(4), given_up).await.expect("before the question's own time is over");
    opaque.world.stop().await;
}

#[tokio::test]
async fn so_many_questions_are_under_way_at_once_and_so_many_requests_wait() {
    let endpoint = Service::replying(Reply::Held(active().to_string())).await;
    let mut config = introspection(&endpoint.url());
    (config.max_in_flight, config.max_waiting) = (3, 8);
    let opaque = Opaque::start(config);
    let tokens: Vec<String> = (0..12).map(|number| format!("t{number}")).collect();
    let asks = join_all(tokens.iter().map(|token| opaque.reason(token)));
    let (answers, ()) = tokio::join!(asks, async {
        endpoint.was_asked(3).await;
        endpoint.release(8);
    });
    assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 8);
    let crowded = answers.iter().filter(|answer| **answer == Some(Reason::IntrospectionUnavailable)).count();
    assert!(crowded == 4 && opaque.counts("crowded", 4), "{}", opaque.world.metrics());
    assert_eq!((endpoint.asked(), endpoint.busiest()), (8, 3));
    assert!(endpoint.connections() <= 4, "{} connections", endpoint.connections());
    opaque.world.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_fails_in_a_row_is_left_alone_and_tried_by_one() {
    let endpoint = Service::replying(Reply::status(500)).await;
    let mut config = introspection(&endpoint.url());
    (config.breaker.failures, config.breaker.rest) = (3, Span::secs(20));
    let opaque = Opaque::start(config);
    opaque.world.ready().await;
    for number in 0..50 {
        assert_eq!(opaque.reason(&format!("t{number}")).await, Some(Reason::IntrospectionUnavailable));
    }
    assert_eq!(endpoint.asked(), 3, "the rest was refused without asking");
    let refusal = opaque.world.bearer(&opaque.policy, "t").await.unwrap_err();
    assert!(refusal.headers.iter().any(|(name, value)| name == RETRY_AFTER && value == "20"), "{refusal:?}");
    assert!(opaque.world.metrics().contains("introspection_breaker_open{issuer=\"opaque\"} 1\n"));
    assert_eq!(opaque.page()["breaker"], "open");
    opaque.world.state(|state| matches!(state, State::Degraded(why) if why.contains("issuer opaque"))).await;

    // Tried by one, in vain: another rest.
    opaque.world.clock.advance(Duration::from_secs(20));
    assert_eq!(opaque.page()["breaker"], "half-open");
    let tokens: Vec<String> = (0..10).map(|number| format!("u{number}")).collect();
    join_all(tokens.iter().map(|token| opaque.reason(token))).await;
    assert_eq!((endpoint.asked(), &opaque.page()["breaker"]), (4, &json!("open")));

    // Tried by one, with success: open for all.
    endpoint.now(no());
    opaque.world.clock.advance(Duration::from_secs(20));
    assert_eq!(opaque.reason("v").await, Some(Reason::TokenRejected), "a no is an answer");
    assert_eq!((endpoint.asked(), &opaque.page()["breaker"]), (5, &json!("closed")));
    opaque.world.ready().await;
    assert!(opaque.world.metrics().contains("introspection_breaker_open{issuer=\"opaque\"} 0\n"));
    opaque.world.stop().await;
}

#[tokio::test]
async fn inventing_tokens_takes_no_more_memory_than_allowed_and_pushes_no_good_one_out() {
    let endpoint = Service::run(|asked| if asked.form("token") == Some("good") { yes() } else { no() }).await;
    let mut config = introspection(&endpoint.url());
    config.cache.size = ByteSize::kib(16);
    let auth = Config { signature_checks_per_address: None, ..Config::default() };
    let opaque = Opaque::start_with(auth, config, &opaque_route());
    assert_eq!(opaque.reason("good").await, None);
    let good = endpoint.asked();
    for number in 0..500 {
        assert_eq!(opaque.reason(&format!("bad{number}")).await, Some(Reason::TokenRejected));
    }
    assert_eq!(endpoint.asked(), good + 500);
    let page = opaque.page();
    let (bytes, refused) = (page["cache"]["bytes"].as_u64().unwrap(), page["cache"]["refused"].as_u64().unwrap());
    assert!(bytes <= 16 * 1024 && (3..100).contains(&refused), "{page}");
    assert!(opaque.world.metrics().contains(&format!("introspection_cache_bytes{{issuer=\"opaque\"}} {bytes}\n")));
    assert_eq!((opaque.reason("good").await, endpoint.asked()), (None, good + 500));
    opaque.world.stop().await;
}

#[tokio::test]
async fn one_address_can_have_so_many_unknown_tokens_asked_about_and_no_more() {
    let endpoint = Service::replying(no()).await;
    let auth: Config =
        serde_json::from_value(json!({"signature_checks_per_address": {"checks": 1, "per": "1h", "burst": 5}}))
            .unwrap();
    let opaque = Opaque::start_with(auth, introspection(&endpoint.url()), &opaque_route());
    for number in 0..20 {
        let expected = if number < 5 { Reason::TokenRejected } else { Reason::AddressRateLimited };
        assert_eq!(opaque.reason(&format!("t{number}")).await, Some(expected));
    }
    assert_eq!(opaque.reason("t0").await, Some(Reason::TokenRejected), "what is known costs nothing");
    assert_eq!(endpoint.asked(), 5);
    opaque.world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_a_token_is_not_asked_about() {
    let endpoint = Service::replying(yes()).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    assert_eq!(opaque.reason("a b").await, Some(Reason::CredentialsMalformed));
    assert_eq!(opaque.reason("a\"b").await, Some(Reason::CredentialsMalformed));
    assert_eq!(opaque.reason(&"x".repeat(16 * 1024 + 1)).await, Some(Reason::TokenMalformed));
    assert_eq!(endpoint.asked(), 0);
    opaque.world.stop().await;
}

#[tokio::test]
async fn a_route_with_both_kinds_of_issuer_asks_about_tokens_of_neither_key_alone() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    let keys = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let endpoint = Service::replying(Reply::ok(r#"{"active":true,"sub":"opaque"}"#)).await;
    let folder = folder();
    let mut all = issuers(issuer_config(JwksConfig::from_url(keys.url())));
    all.insert(name("opaque"), opaque(introspection(&endpoint.url())));
    let route = RouteAuth { issuers: vec![name("corp"), name("opaque")], ..RouteAuth::default() };
    let (world, policy) = World::start_in(folder.path().into(), Config::default(), &all, &route);
    world.ready().await;
    let issuer_of = |token: String| {
        let (world, policy) = (&world, &policy);
        async move { world.bearer(policy, &token).await.map(|verified| verified.identity().issuer.to_string()) }
    };
    let corp = signer.sign(&claims());
    assert_eq!(issuer_of(corp.clone()).await.unwrap(), "corp");
    let forged = format!("{}AAAA", &corp[..corp.len() - 4]);
    let expired = signer.sign(&with(claims(), "exp", json!(NOW - 60)));
    for (token, reason) in [(forged, Reason::TokenRejected), (expired, Reason::TokenExpired)] {
        assert_eq!(issuer_of(token).await.unwrap_err().reason, reason);
    }
    let unsecured = format!("{}.{}.", b64(r#"{"alg":"none"}"#), b64(claims().to_string()));
    assert_eq!(issuer_of(unsecured).await.unwrap_err().reason, Reason::TokenRejected);
    assert_eq!(endpoint.asked(), 0, "a token that names an issuer with keys is that issuer's");

    let foreign = signer.sign(&with(claims(), "iss", json!("https://elsewhere")));
    let symmetric = format!("{}.{}.AAAA", b64(r#"{"alg":"HS256"}"#), b64(claims().to_string()));
    for (times, token) in ["opaque".to_owned(), "a.b.c".into(), foreign, symmetric].into_iter().enumerate() {
        for _ in 0..2 {
            assert_eq!(issuer_of(token.clone()).await.unwrap(), "opaque", "{token}");
            assert_eq!(endpoint.asked(), times + 1, "{token}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn what_one_route_learned_of_a_token_decides_nothing_where_another_issuer_is_to_judge_it() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    let keys = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let endpoint = Service::replying(Reply::ok(r#"{"active":true}"#)).await;
    let folder = folder();
    let mut all = issuers(issuer_config(JwksConfig::from_url(keys.url())));
    all.insert(name("opaque"), opaque(introspection(&endpoint.url())));
    let auth = serde_json::from_value(json!({"signature_checks_per_address": {"checks": 1, "per": "1h", "burst": 5}}));
    let both = RouteAuth { issuers: vec![name("corp"), name("opaque")], ..RouteAuth::default() };
    let (world, mixed) = World::start_in(folder.path().into(), auth.unwrap(), &all, &both);
    world.ready().await;
    let alone = world.apply(&all, &opaque_route());
    let for_another = signer.sign(&with(claims(), "aud", json!("another service")));
    assert_eq!(world.reason(&alone, &for_another).await, None, "the endpoint is asked of whatever comes there");
    assert_eq!(world.reason(&mixed, &for_another).await, Some(Reason::TokenNotForUs));
    endpoint.now(no());
    let good = signer.sign(&claims());
    assert_eq!(world.reason(&alone, &good).await, Some(Reason::TokenRejected));
    assert_eq!(world.reason(&mixed, &good).await, None);
    // A foreign JWT in use costs its address nothing more.
    endpoint.now(yes());
    let foreign = signer.sign(&with(claims(), "iss", json!("https://elsewhere")));
    for _ in 0..20 {
        assert_eq!(world.reason(&mixed, &foreign).await, None);
    }
    world.stop().await;
}

#[tokio::test]
async fn connections_are_kept_and_one_that_ends_unused_costs_no_request() {
    let endpoint = Service::replying(yes()).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    for number in 0..20 {
        assert_eq!(opaque.reason(&format!("t{number}")).await, None);
    }
    assert_eq!(endpoint.connections(), 1);
    for number in 20..30 {
        endpoint.cut().await;
        assert_eq!(opaque.reason(&format!("t{number}")).await, None);
    }
    opaque.world.stop().await;
}

#[tokio::test]
async fn the_endpoint_is_believed_over_tls_by_the_configured_authority_alone() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], private)
        .unwrap();
    let endpoint = Service::over(|_| yes(), Some(tokio_rustls::TlsAcceptor::from(Arc::new(tls)))).await;
    let folder = folder();
    std::fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("stranger.pem"), stranger.cert.pem()).unwrap();
    for (ca, reason) in [("ca.pem", None), ("stranger.pem", Some(Reason::IntrospectionUnavailable))] {
        let mut config = introspection(&format!("https://{}/", endpoint.address));
        config.ca = Some(ca.into());
        let all = BTreeMap::from([(name("opaque"), opaque(config))]);
        let (world, policy) = World::start_in(folder.path().into(), Config::default(), &all, &opaque_route());
        assert_eq!(world.reason(&policy, "t").await, reason, "{ca}");
        world.stop().await;
    }
    assert_eq!(endpoint.asked(), 1, "a stranger was not shown the token");
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_unless_something_changed_even_the_secret_alone() {
    let endpoint = Service::replying(yes()).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    let all = BTreeMap::from([(name("opaque"), self::opaque(introspection(&endpoint.url())))]);
    assert_eq!(opaque.reason("t").await, None);
    let same = opaque.world.apply(&all, &opaque_route());
    assert_eq!((opaque.world.reason(&same, "t").await, endpoint.asked()), (None, 1));

    std::fs::write(opaque.folder.path().join("secret"), "another").unwrap();
    let changed = opaque.world.apply(&all, &opaque_route());
    assert_eq!((opaque.world.reason(&changed, "t").await, endpoint.asked()), (None, 2));
    assert!(endpoint.last().header("authorization").unwrap().ends_with(&STANDARD.encode("edge:another")));

    // An issuer that went takes its series along.
    opaque.world.apply(&BTreeMap::from([(name("corp"), issuer_config(JwksConfig::from_file("keys")))]), &route());
    assert!(!opaque.world.metrics().contains("opaque"), "{}", opaque.world.metrics());
    opaque.world.stop().await;
}

#[tokio::test]
async fn neither_token_nor_secret_is_told_to_anybody_but_the_endpoint() {
    let endpoint = Service::replying(Reply::status(500)).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    let refusal = opaque.world.bearer(&opaque.policy, "top-secret-token").await.unwrap_err();
    endpoint.now(yes());
    assert_eq!(opaque.reason("top-secret-token").await, None);
    let told = format!(
        "{refusal:?} {:?} {:?} {} {}",
        opaque.world.handle,
        opaque.policy,
        opaque.world.handle.inspect(),
        opaque.world.metrics()
    );
    for secret in ["top-secret-token", SECRET, "s3%3Acret", &STANDARD.encode("edge:s3%3Acret")] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    opaque.world.stop().await;
}

#[test]
fn the_threads_that_serve_requests_do_none_of_the_work() {
    let background = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let endpoint = background.block_on(Service::replying(yes()));
    let folder = folder();
    let deps = Deps {
        clock: Arc::new(ManualClock::at(NOW)),
        random: Arc::new(SystemRandom),
        base_dir: PathBuf::from(folder.path()),
        background: background.handle().clone(),
    };
    let (handle, _task) = Unit::new(&Config::default(), deps, &mut prometheus_client::registry::Registry::default());
    let all: BTreeMap<IssuerName, _> = BTreeMap::from([(name("opaque"), opaque(introspection(&endpoint.url())))]);
    let prepared = handle.prepare(&Config::default(), &all).unwrap();
    let policy = prepared.policy(&RouteName::new("all").unwrap(), &opaque_route(), &Path::root()).unwrap();
    handle.commit(prepared);
    // Without sockets and timers: whoever used either here would panic.
    let serving = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let verified = serving.block_on(ask_with(&handle, &policy, "t"));
    assert_eq!(verified.unwrap().identity().subject(), Some("user-1"));
}

#[test]
fn the_section_tells_all_its_faults_at_once() {
    let issuer: IssuerConfig = serde_json::from_value(json!({
        "issuer": ISS, "jwks": {"url": "https://id.example.com/keys"},
        "introspection": {
            "url": "ftp://x", "client": {"id": "", "secret": {"env": ""}}, "timeout": "1ms", "max_in_flight": 0,
            "max_waiting": 0, "cache": {"positive": "2h", "negative": "1h", "size": "2GiB"},
            "breaker": {"failures": 0, "rest": "0s"}
        }
    }))
    .unwrap();
    let mut faults = Faults::new();
    issuer.validate(&Path::root().key("issuers").key("o"), &mut faults);
    let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
    for place in [
        "issuers.o.introspection: contradicts jwks",
        "issuers.o.introspection.url",
        "issuers.o.introspection.client.id",
        "issuers.o.introspection.client.secret.env",
        "issuers.o.introspection.timeout",
        "issuers.o.introspection.max_in_flight",
        "issuers.o.introspection.max_waiting",
        "issuers.o.introspection.cache.positive",
        "issuers.o.introspection.cache.negative",
        "issuers.o.introspection.cache.size",
        "issuers.o.introspection.breaker.failures",
        "issuers.o.introspection.breaker.rest",
    ] {
        assert!(told.iter().any(|fault| fault.starts_with(place)), "{place} in\n{}", told.join("\n"));
    }
    let good = serde_json::to_value(opaque(introspection("https://id.example.com/introspect"))).unwrap();
    assert!(good.get("jwks").is_none());
    let mut faults = Faults::new();
    serde_json::from_value::<IssuerConfig>(good.clone()).unwrap().validate(&Path::root(), &mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    let inline = with(good, "introspection", json!({"url": "https://x", "client": {"id": "a", "secret": "hunter2"}}));
    assert!(serde_json::from_value::<IssuerConfig>(inline).is_err(), "a secret stands in no configuration");
    assert!(serde_json::from_value::<IssuerConfig>(json!({"issuer": ISS, "audiences": ["edge"]})).is_ok_and(
        |neither| {
            let mut faults = Faults::new();
            neither.validate(&Path::root(), &mut faults);
            faults.has_errors()
        }
    ));
}

#[tokio::test]
async fn what_only_files_and_the_whole_can_tell_is_told_when_the_configuration_is_read() {
    let endpoint = Service::replying(yes()).await;
    let opaque = Opaque::start(introspection(&endpoint.url()));
    let mut config = introspection("https://localhost/");
    config.ca = Some("absent.pem".into());
    let all = BTreeMap::from([(name("opaque"), self::opaque(config))]);
    let faults = opaque.world.handle.prepare(&Config::default(), &all).unwrap_err();
    assert!(faults[0].to_string().starts_with("issuers.opaque.introspection: cannot read"), "{faults:?}");
    std::fs::remove_file(opaque.folder.path().join("secret")).unwrap();
    let all = BTreeMap::from([(name("opaque"), self::opaque(introspection(&endpoint.url())))]);
    let faults = opaque.world.handle.prepare(&Config::default(), &all).unwrap_err();
    assert!(faults[0].to_string().starts_with("issuers.opaque.introspection.client.secret: cannot read"), "{faults:?}");

    std::fs::write(opaque.folder.path().join("secret"), SECRET).unwrap();
    let mut all = all;
    all.insert(name("twin"), self::opaque(introspection(&endpoint.url())));
    let prepared = opaque.world.handle.prepare(&Config::default(), &all).unwrap();
    let both = RouteAuth { issuers: vec![name("opaque"), name("twin")], ..RouteAuth::default() };
    let faults = prepared.policy(&RouteName::new("all").unwrap(), &both, &Path::root().key("auth")).unwrap_err();
    assert_eq!(
        faults[0].to_string(),
        "auth.issuers[1]: tokens of issuers opaque and twin are both introspected: a route can ask one"
    );
    opaque.world.stop().await;
}
