//! Keys that come, rotate and fail to come: what a request is told meanwhile, and how often the issuer is asked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use futures_util::future::join_all;
use serde_json::json;
use sluice_auth::{Algorithm, Config, JwksConfig};
use sluice_vocabulary::Reason;
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::unit::State;

fn signer(kid: &str) -> Signer {
    Signer::new(kid, Algorithm::EdDSA)
}

/// A token that differs from every other, so that no cache answers for it.
fn fresh(signer: &Signer, number: u64) -> String {
    signer.sign(&with(claims(), "jti", json!(number)))
}

#[tokio::test]
async fn keys_are_had_before_the_first_request() {
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let (world, policy) = World::with_keys(&endpoint, &route()).await;
    assert_eq!(endpoint.requests(), 1);
    for number in 0..50 {
        assert_eq!(world.reason(&policy, &fresh(&key, number)).await, None);
    }
    assert_eq!(endpoint.requests(), 1, "no request caused a fetch");
    world.stop().await;
}

#[tokio::test]
async fn a_rotation_refuses_no_good_token_and_lets_no_old_one_pass() {
    let (old, new) = (signer("old"), signer("new"));
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&old]))).await;
    let (world, policy) = World::with_keys(&endpoint, &route()).await;
    let old_token = old.sign(&claims());
    assert_eq!(world.reason(&policy, &old_token).await, None);

    // Published; its first use asks for a refresh and waits for it.
    endpoint.now(Behaviour::Serve(jwks(&[&old, &new])));
    let first_uses = join_all((0..20).map(|number| {
        let (world, policy, token) = (&world, &policy, fresh(&new, number));
        async move { world.reason(policy, &token).await }
    }));
    assert!(first_uses.await.iter().all(Option::is_none));
    assert_eq!(endpoint.requests(), 2, "all of them shared one");
    assert_eq!(world.reason(&policy, &old_token).await, None, "both are good during the overlap");

    // Withdrawn: the cached token goes with its key, at once.
    endpoint.now(Behaviour::Serve(jwks(&[&new])));
    world.refresh().await;
    assert_eq!(world.reason(&policy, &old_token).await, Some(Reason::TokenRejected));
    assert_eq!(world.reason(&policy, &fresh(&old, 1)).await, Some(Reason::TokenRejected));
    assert_eq!(world.reason(&policy, &fresh(&new, 99)).await, None);
    world.stop().await;
}

#[tokio::test]
async fn a_token_that_expires_while_its_key_is_waited_for_is_refused() {
    let (old, new) = (signer("old"), signer("new"));
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&old]))).await;
    let (world, policy) = World::with_keys(&endpoint, &route()).await;
    endpoint.now(Behaviour::Late(Duration::from_millis(200), jwks(&[&old, &new])));
    let token = new.sign(&with(claims(), "exp", json!(NOW + 5)));
    let (reason, ()) = tokio::join!(world.reason(&policy, &token), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.clock.advance(Duration::from_secs(60));
    });
    assert_eq!(reason, Some(Reason::TokenExpired));
    world.stop().await;
}

#[tokio::test]
async fn a_flood_of_random_kids_makes_a_handful_of_fetches_and_hurts_nobody() {
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let (mut world, _) = World::with_keys(&endpoint, &route()).await;
    world.config.signature_checks_per_address = None;
    let policy = world.apply(&issuers(issuer_config(JwksConfig::from_url(endpoint.url()))), &route());
    let good = fresh(&key, 0);
    // No key is found for it, so its signature is never looked at: any will do.
    let rest = good.split_once('.').unwrap().1;
    for number in 0..100_000 {
        let header = b64(with(key.header(), "kid", json!(format!("random-{number}"))).to_string());
        assert_eq!(world.reason(&policy, &format!("{header}.{rest}")).await, Some(Reason::TokenRejected));
        if number % 1000 == 0 {
            assert_eq!(world.reason(&policy, &good).await, None);
            assert_eq!(world.reason(&policy, &fresh(&key, number)).await, None);
        }
    }
    println!("100000 random kids made {} fetches", endpoint.requests());
    assert!(endpoint.requests() <= 3, "{} fetches", endpoint.requests());
    world.stop().await;
}

#[tokio::test]
async fn an_issuer_never_heard_is_our_trouble_and_not_the_tokens() {
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Status(500)).await;
    let mut config = issuer_config(JwksConfig::from_url(endpoint.url()));
    config.jwks.wait = Span::millis(50);
    let (world, policy) = World::start(Config::default(), &issuers(config), &route());
    world
        .state(|state| matches!(state, State::Degraded(why) if why.contains("corp") && why.contains("status 500")))
        .await;
    for number in 0..20 {
        let refusal = world.bearer(&policy, &fresh(&key, number)).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::KeysUnavailable, 503));
        assert!(refusal.headers.iter().any(|(name, _)| name == "retry-after"));
        assert!(!refusal.headers.iter().any(|(name, _)| name == "www-authenticate"));
    }
    // A forged token cannot be told from a good one now, so it is told the same.
    assert_eq!(world.reason(&policy, &signer("k").sign(&claims())).await, Some(Reason::KeysUnavailable));
    assert!(endpoint.requests() <= 4, "{} fetches", endpoint.requests());
    // As soon as it is heard, it works.
    endpoint.now(Behaviour::Serve(jwks(&[&key])));
    world.refresh().await;
    assert_eq!(world.reason(&policy, &fresh(&key, 1)).await, None);
    assert_eq!(world.handle.health().get(), State::Ready);
    world.stop().await;
}

#[tokio::test]
async fn a_request_waits_no_longer_than_it_may_for_an_issuer_that_hangs() {
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Hang).await;
    let mut config = issuer_config(JwksConfig::from_url(endpoint.url()));
    config.jwks.timeout = Span::secs(60);
    config.jwks.wait = Span::millis(100);
    let (world, policy) = World::start(Config::default(), &issuers(config), &route());
    let began = Instant::now();
    let all = join_all((0..100).map(|number| {
        let (world, policy, token) = (&world, &policy, fresh(&key, number));
        async move { world.reason(policy, &token).await }
    }));
    assert!(all.await.iter().all(|reason| *reason == Some(Reason::KeysUnavailable)));
    // The fetch itself would have taken a minute.
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(endpoint.requests(), 1, "they all waited for one fetch");
    assert_eq!(world.handle.health().get(), State::Starting);
    world.stop().await;
}

#[tokio::test]
async fn a_request_before_any_key_waits_for_the_one_fetch() {
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let (world, policy) =
        World::start(Config::default(), &issuers(issuer_config(JwksConfig::from_url(endpoint.url()))), &route());
    // Not a word about being ready was awaited.
    let all = join_all((0..30).map(|number| {
        let (world, policy, token) = (&world, &policy, fresh(&key, number));
        async move { world.reason(policy, &token).await }
    }));
    assert!(all.await.iter().all(Option::is_none));
    assert!(endpoint.requests() <= 2, "{} fetches", endpoint.requests());
    world.stop().await;
}

#[tokio::test]
async fn the_last_good_keys_serve_while_the_issuer_misbehaves_in_every_way() {
    let (key, evil) = (signer("k"), signer("evil"));
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let elsewhere = Endpoint::run(Behaviour::Serve(jwks(&[&evil]))).await;
    let mut config = issuer_config(JwksConfig::from_url(endpoint.url()));
    config.jwks.timeout = Span::millis(300);
    config.jwks.max_size = ByteSize::kib(64);
    let (world, policy) = World::start(Config::default(), &issuers(config), &route());
    world.ready().await;
    let many = json!({ "keys": (0..65).map(|i| with(evil.jwk(), "kid", json!(i.to_string()))).collect::<Vec<_>>() });
    let misdeeds = [
        ("hangs", Behaviour::Hang, "no answer within"),
        ("drips", Behaviour::Drip, "no answer within"),
        ("floods", Behaviour::Flood, "larger than 65536 bytes"),
        ("fails", Behaviour::Status(500), "status 500"),
        ("says created", Behaviour::Status(201), "status 201"),
        ("redirects", Behaviour::Redirect(elsewhere.url()), "status 302"),
        ("sends a page", Behaviour::Serve("<html>welcome</html>".into()), "not strict json"),
        ("sends nothing", Behaviour::Serve(String::new()), "not strict json"),
        ("sends a list", Behaviour::Serve("[]".into()), "expected an object"),
        ("sends two lists", Behaviour::Serve(r#"{"keys":[],"keys":[]}"#.into()), "duplicate member"),
        ("sends too many", Behaviour::Serve(many.to_string()), "65 keys"),
        ("nests", Behaviour::Serve(format!("{}{}", "{\"a\":".repeat(9000), "}".repeat(9000))), "not strict json"),
    ];
    for (index, (what, misdeed, error)) in misdeeds.into_iter().enumerate() {
        endpoint.now(misdeed);
        let began = Instant::now();
        world.refresh().await;
        assert!(began.elapsed() < Duration::from_secs(5), "an endpoint that {what} held the refresh");
        let seen = world.issuer();
        assert!(seen["last_error"].as_str().is_some_and(|e| e.contains(error)), "an endpoint that {what}: {seen}");
        assert_eq!(seen["health"], "on last good keys");
        assert!(matches!(world.handle.health().get(), State::Degraded(why) if why.contains("corp")));
        assert_eq!(world.reason(&policy, &fresh(&key, index as u64)).await, None, "while it {what}");
    }
    assert_eq!(elsewhere.requests(), 0, "a redirect was followed");
    let flooded = endpoint.flooded.load(std::sync::atomic::Ordering::SeqCst);
    assert!(flooded < 20_000_000, "{flooded} bytes of the flood were taken");
    let metrics = world.metrics();
    for outcome in ["timeout", "too-large", "status", "malformed", "ok"] {
        assert!(
            metrics.contains(&format!("jwks_fetches_total{{issuer=\"corp\",outcome=\"{outcome}\"}} ")),
            "{metrics}"
        );
    }
    endpoint.now(Behaviour::Serve(jwks(&[&key])));
    world.refresh().await;
    assert_eq!(world.handle.health().get(), State::Ready);
    world.stop().await;
}

#[tokio::test]
async fn a_refused_connection_is_told_from_a_bad_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = issuer_config(JwksConfig::from_url(format!("http://{address}/")));
    let (world, _) = World::start(Config::default(), &issuers(config), &route());
    world.state(|state| matches!(state, State::Degraded(why) if why.contains("cannot connect"))).await;
    assert!(
        world.metrics().contains(r#"jwks_fetches_total{issuer="corp",outcome="connect"} 1"#),
        "{}",
        world.metrics()
    );
    world.stop().await;
}

#[tokio::test]
async fn keys_too_old_are_no_longer_used() {
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let mut config = issuer_config(JwksConfig::from_url(endpoint.url()));
    config.jwks.stale = Span::secs(600);
    config.jwks.wait = Span::millis(50);
    let (world, policy) = World::start(Config::default(), &issuers(config), &route());
    world.ready().await;
    let token = with(claims(), "exp", json!(NOW + 7200));
    assert_eq!(world.reason(&policy, &key.sign(&token)).await, None);
    endpoint.now(Behaviour::Status(503));
    world.clock.advance(Duration::from_secs(599));
    world.refresh().await;
    assert_eq!(world.reason(&policy, &key.sign(&token)).await, None, "within the window");
    world.clock.advance(Duration::from_secs(1));
    world.refresh().await;
    // 503 and not 401; and the cache does not keep it alive.
    assert_eq!(world.reason(&policy, &key.sign(&token)).await, Some(Reason::KeysUnavailable));
    endpoint.now(Behaviour::Serve(jwks(&[&key])));
    world.refresh().await;
    assert_eq!(world.reason(&policy, &key.sign(&token)).await, None);
    world.stop().await;
}

#[tokio::test]
async fn keys_become_too_old_even_while_an_attempt_hangs() {
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let mut config = issuer_config(JwksConfig::from_url(endpoint.url()));
    (config.jwks.refresh, config.jwks.stale) = (Span::secs(1), Span::secs(1));
    (config.jwks.timeout, config.jwks.wait) = (Span::secs(60), Span::millis(50));
    let (world, policy) = World::start(Config::default(), &issuers(config), &route());
    world.ready().await;
    let token = key.sign(&claims());
    assert_eq!(world.reason(&policy, &token).await, None);
    endpoint.now(Behaviour::Hang);
    world.clock.advance(Duration::from_secs(1));
    world.state(|state| matches!(state, State::Degraded(why) if why.contains("not heard for too long"))).await;
    assert_eq!(world.reason(&policy, &token).await, Some(Reason::KeysUnavailable));
    world.stop().await;
}

#[tokio::test]
async fn an_honest_empty_set_withdraws_everything() {
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let (world, policy) = World::with_keys(&endpoint, &route()).await;
    let token = key.sign(&claims());
    assert_eq!(world.reason(&policy, &token).await, None);
    endpoint.now(Behaviour::Serve(r#"{"keys":[]}"#.into()));
    world.refresh().await;
    assert_eq!(world.reason(&policy, &token).await, Some(Reason::TokenRejected));
    assert!(matches!(world.handle.health().get(), State::Degraded(why) if why.contains("no usable key")));
    world.stop().await;
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (signer("old"), signer("new"));
    std::fs::write(folder.path().join("keys.json"), jwks(&[&old])).unwrap();
    let mut config = issuer_config(JwksConfig::from_file("keys.json"));
    // Only the file's change can bring the new key: no request names it before it is there, and the next regular reading
    // is an hour away.
    config.jwks.refresh = Span::secs(3600);
    let (world, policy) = World::start_in(folder.path().into(), Config::default(), &issuers(config), &route());
    world.ready().await;
    assert_eq!(world.reason(&policy, &old.sign(&claims())).await, None);
    // Replaced, as careful writers do.
    std::fs::write(folder.path().join("keys.tmp"), jwks(&[&new])).unwrap();
    std::fs::rename(folder.path().join("keys.tmp"), folder.path().join("keys.json")).unwrap();
    let changed = async {
        while world.issuer()["keys"][0]["kid"] != "new" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), changed).await.expect("the change was seen");
    assert_eq!(world.reason(&policy, &new.sign(&claims())).await, None);
    assert_eq!(world.reason(&policy, &old.sign(&claims())).await, Some(Reason::TokenRejected));
    world.stop().await;
}

#[tokio::test]
async fn a_missing_file_degrades_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let config = issuer_config(JwksConfig::from_file("absent.json"));
    let (world, _) = World::start_in(folder.path().into(), Config::default(), &issuers(config), &route());
    world.state(|state| matches!(state, State::Degraded(why) if why.contains("absent.json"))).await;
    world.stop().await;
}

#[tokio::test]
async fn a_reload_keeps_keys_and_voids_what_other_rules_had_judged() {
    let key = signer("k");
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&key]))).await;
    let (world, policy) = World::with_keys(&endpoint, &route()).await;
    let token = key.sign(&claims());
    assert_eq!(world.reason(&policy, &token).await, None);
    let config = issuer_config(JwksConfig::from_url(endpoint.url()));
    let policy = world.apply(&issuers(config.clone()), &route());
    assert_eq!(world.reason(&policy, &token).await, None);
    assert_eq!(endpoint.requests(), 1);
    // With other audiences the cached token must be judged anew, by the keys at hand.
    endpoint.now(Behaviour::Hang);
    let mut other = config;
    other.audiences = vec!["elsewhere".into()];
    let policy = world.apply(&issuers(other), &route());
    assert_eq!(world.reason(&policy, &token).await, Some(Reason::TokenNotForUs));
    let elsewhere = key.sign(&with(claims(), "aud", json!("elsewhere")));
    assert_eq!(world.reason(&policy, &elsewhere).await, None);
    world.stop().await;
}

#[tokio::test]
async fn keys_come_over_tls_by_the_configured_authority_alone() {
    let key = signer("k");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(folder.path().join("stranger.pem"), stranger.cert.pem()).unwrap();
    let address = tls_endpoint(&made, jwks(&[&key])).await;

    for (ca, trusted) in [("ca.pem", true), ("stranger.pem", false)] {
        let mut config = issuer_config(JwksConfig::from_url(format!("https://localhost:{}/keys", address.port())));
        config.jwks.ca = Some(ca.into());
        let (world, policy) = World::start_in(folder.path().into(), Config::default(), &issuers(config), &route());
        if trusted {
            world.ready().await;
            assert_eq!(world.reason(&policy, &key.sign(&claims())).await, None);
        } else {
            world.state(|state| matches!(state, State::Degraded(why) if why.contains("certificate"))).await;
        }
        world.stop().await;
    }
}

async fn tls_endpoint(made: &rcgen::CertifiedKey<rcgen::KeyPair>, document: String) -> std::net::SocketAddr {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("localhost:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let document = document.clone();
            let service = hyper::service::service_fn(move |_| {
                let body = http_body_util::Full::new(bytes::Bytes::from(document.clone()));
                async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    });
    address
}
