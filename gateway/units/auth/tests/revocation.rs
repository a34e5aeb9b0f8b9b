//! What was revoked is refused: at once, by every kind, however it came, over restarts, and while its source is away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::*;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluice_auth::{Algorithm, Config, JwksConfig, Policy, RevocationConfig, RevocationUrl};
use sluice_vocabulary::Reason;
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::ports::{Revoke as _, RevokeFault};
use sluice_vocabulary::unit::State;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PATIENCE: Duration = Duration::from_secs(20);

struct Edge {
    world: World,
    policy: Arc<Policy>,
    signer: Signer,
    _folder: Option<tempfile::TempDir>,
}

impl Edge {
    /// An edge with files in `folder`, which has its key from a file there.
    fn start_in(folder: &Path, signer: Signer, revocation: RevocationConfig) -> Self {
        std::fs::write(folder.join("jwks.json"), jwks(&[&signer])).unwrap();
        let config = Config { revocation, ..Config::default() };
        let issuers = issuers(issuer_config(JwksConfig::from_file("jwks.json")));
        let (world, policy) = World::start_in(folder.to_owned(), config, &issuers, &route());
        Self { world, policy, signer, _folder: None }
    }

    async fn ready() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut edge = Self::start_in(folder.path(), signer(), RevocationConfig::default());
        edge.world.ready().await;
        edge._folder = Some(folder);
        edge
    }

    fn token(&self, jti: &str) -> String {
        self.signer.sign(&with(claims(), "jti", json!(jti)))
    }

    async fn reason(&self, token: &str) -> Option<Reason> {
        self.world.reason(&self.policy, token).await
    }

    async fn revoke(&self, record: Value) -> Result<Value, RevokeFault> {
        self.world.handle.revoke(Bytes::from(record.to_string())).await
    }

    /// Waits until the token gets this reason; gives the time that took.
    async fn until(&self, token: &str, wanted: Option<Reason>) -> Duration {
        let begin = Instant::now();
        while self.reason(token).await != wanted {
            assert!(begin.elapsed() < PATIENCE, "not {wanted:?}: {:?}", self.world.handle.health().get());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begin.elapsed()
    }

    async fn degraded(&self, why: &str) {
        self.world.state(|state| matches!(state, State::Degraded(told) if told.contains(why))).await;
    }
}

fn signer() -> Signer {
    Signer::new("k1", Algorithm::ES256)
}

fn token_record(jti: &str) -> Value {
    json!({"issuer": "corp", "jti": jti, "expires_at": NOW + 600})
}

#[tokio::test]
async fn a_token_is_refused_from_the_moment_of_its_revocation_on_be_it_cached_or_never_seen() {
    let edge = Edge::ready().await;
    let (seen, unseen, other) = (edge.token("a"), edge.token("a"), edge.token("b"));
    let unseen = edge.signer.sign(&with(with(claims(), "jti", json!("a")), "n", json!(unseen.len())));
    assert_eq!(edge.reason(&seen).await, None);
    assert_eq!(edge.reason(&seen).await, None, "from the cache");
    assert_eq!(edge.revoke(token_record("a")).await.unwrap(), json!({"revoked": 1, "known": 0, "expired": 0}));
    assert_eq!(edge.revoke(token_record("a")).await.unwrap(), json!({"revoked": 0, "known": 1, "expired": 0}));
    for token in [&seen, &unseen, &unseen] {
        let refusal = edge.world.bearer(&edge.policy, token).await.unwrap_err();
        assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::TokenRevoked, 401));
        let challenge = refusal.headers[0].1.to_str().unwrap();
        assert_eq!(
            challenge,
            r#"Bearer realm="sluice", error="invalid_token", error_description="The token was revoked""#
        );
        assert!(!format!("{refusal:?}").contains("\"a\""));
    }
    assert_eq!(edge.reason(&other).await, None);
    let metrics = edge.world.metrics();
    assert!(metrics.contains(r#"revocation_hits_total{kind="token"} 3"#), "{metrics}");
    assert!(metrics.contains(r#"verifications_total{issuer="corp",outcome="token-revoked"} 3"#), "{metrics}");
    assert!(metrics.contains(r#"revocations{kind="token"} 1"#), "{metrics}");

    let lifted = edge.world.handle.lift(Bytes::from(r#"{"issuer":"corp","jti":"a"}"#)).await.unwrap();
    assert_eq!(lifted, json!({"lifted": 1, "unknown": 0}));
    assert_eq!(edge.reason(&seen).await, None);
    edge.world.stop().await;
}

#[tokio::test]
async fn a_token_without_a_jti_is_reached_by_subject_key_and_issuer() {
    let iat = NOW - 60;
    for (record, revokes) in [
        (json!({"sub": "user-1", "issued_before": iat + 1}), true),
        (json!({"sub": "user-1", "issued_before": iat}), false),
        (json!({"sub": "user-2", "issued_before": NOW}), false),
        (json!({"kid": "k1"}), true),
        (json!({"kid": "k2"}), false),
        (json!({"issued_before": iat + 1}), true),
        (json!({"issued_before": iat}), false),
        (json!({"jti": "k1"}), false),
    ] {
        let edge = Edge::ready().await;
        // Without a kid in the token, it is the key's own that counts.
        let nameless = json!({"alg": "ES256"}).to_string();
        let tokens = [edge.signer.sign(&claims()), edge.signer.sign_raw(nameless, claims().to_string())];
        assert_eq!(edge.reason(&tokens[0]).await, None);
        edge.revoke(with(with(record.clone(), "issuer", json!("corp")), "expires_at", json!(NOW + 600))).await.unwrap();
        for token in &tokens {
            assert_eq!(edge.reason(token).await, revokes.then_some(Reason::TokenRevoked), "{record}");
        }
        edge.world.stop().await;
    }
}

#[tokio::test]
async fn a_token_that_does_not_say_when_it_was_issued_counts_as_issued_before() {
    let edge = Edge::ready().await;
    let token = edge.signer.sign(&without(claims(), "iat"));
    edge.revoke(json!({"issuer": "corp", "sub": "user-1", "issued_before": 1, "expires_at": NOW + 600})).await.unwrap();
    assert_eq!(edge.reason(&token).await, Some(Reason::TokenRevoked));
    assert_eq!(edge.reason(&edge.token("a")).await, None);
    edge.world.stop().await;
}

#[tokio::test]
async fn a_revocation_is_forgotten_when_the_last_token_it_means_has_expired() {
    let edge = Edge::ready().await;
    let token = edge.token("a");
    edge.revoke(json!({"issuer": "corp", "jti": "a", "expires_at": NOW + 100})).await.unwrap();
    // Not before any leeway that an issuer may be given.
    edge.world.clock.advance(Duration::from_secs(399));
    assert_eq!(edge.reason(&token).await, Some(Reason::TokenRevoked));
    edge.world.clock.advance(Duration::from_secs(1));
    assert_eq!(edge.reason(&token).await, None);
    let late = edge.revoke(json!({"issuer": "corp", "jti": "a", "expires_at": NOW + 100})).await.unwrap();
    assert_eq!(late["expired"], 1);
    edge.world.stop().await;
}

#[tokio::test]
async fn at_the_door_it_is_all_lines_or_none() {
    let edge = Edge::ready().await;
    let lines = format!("{}\n\n{{}}\n{}\n", token_record("a"), with(token_record("b"), "issuer", json!("korp")));
    let Err(RevokeFault::BadLines(told, 2)) = edge.world.handle.revoke(Bytes::from(lines)).await else { panic!() };
    assert_eq!((told[0].line, told[1].line), (3, 4));
    assert!(told[1].fault.contains("no issuer korp"), "{}", told[1].fault);
    assert_eq!(edge.reason(&edge.token("a")).await, None);
    let page = edge.world.handle.revocations(10).await;
    assert_eq!((&page["entries"]["token"], &page["records"]), (&json!(0), &json!([])));
    edge.revoke(token_record("a")).await.unwrap();
    let page = edge.world.handle.revocations(10).await;
    assert_eq!(page["records"], json!([token_record("a")]));
    assert_eq!(edge.world.handle.revocations(0).await["records"], json!([]));
    edge.world.stop().await;
}

#[tokio::test]
async fn a_file_is_followed_its_bad_lines_are_named_and_what_it_leaves_out_stays_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("revoked.jsonl");
    std::fs::write(&path, format!("{}\n", token_record("a"))).unwrap();
    let config = RevocationConfig { file: Some("revoked.jsonl".into()), ..RevocationConfig::default() };
    let edge = Edge::start_in(folder.path(), signer(), config);
    edge.world.ready().await;
    assert_eq!(edge.reason(&edge.token("a")).await, Some(Reason::TokenRevoked));
    let b = edge.token("b");
    assert_eq!(edge.reason(&b).await, None);

    let long = "x".repeat(10_000);
    std::fs::write(&path, format!("{{\"issuer\":\"corp\"}}\n{long}\n{}\n", token_record("b"))).unwrap();
    println!("a file's change was in force after {:?}", edge.until(&b, Some(Reason::TokenRevoked)).await);
    edge.degraded("file: line 1: expires_at is missing (2 bad lines in all)").await;
    assert_eq!(edge.reason(&edge.token("a")).await, Some(Reason::TokenRevoked));
    let page = edge.world.handle.revocations(0).await;
    assert_eq!(page["feeds"]["file"]["first_bad_lines"][1]["line"], 2, "{page}");

    std::fs::remove_file(&path).unwrap();
    edge.degraded("what was heard before stays in force").await;
    assert_eq!(edge.reason(&b).await, Some(Reason::TokenRevoked));
    std::fs::write(&path, "").unwrap();
    edge.world.ready().await;
    assert_eq!(edge.reason(&b).await, Some(Reason::TokenRevoked));
    let metrics = edge.world.metrics();
    for line in [
        r#"revocation_bad_lines_total{feed="file"} 2"#,
        r#"revocation_reads_total{feed="file",outcome="bad-lines"} 1"#,
        r#"revocation_feed_age_seconds{feed="file"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    edge.world.stop().await;
}

/// What a URL answers: a document with its entity tag, or a failure.
type Page = Arc<Mutex<Option<(&'static str, String)>>>;

/// A server of one page that knows entity tags, and counts answers without news.
async fn page(page: Page) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let unchanged = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&unchanged);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let now = page.lock().clone();
            let answer = match now {
                None => "HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n".to_owned(),
                Some((tag, _)) if head.contains(&format!("if-none-match: \"{tag}\"")) => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    "HTTP/1.1 304 x\r\n\r\n".to_owned()
                }
                Some((tag, body)) => {
                    format!("HTTP/1.1 200 x\r\netag: \"{tag}\"\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                }
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, unchanged)
}

#[tokio::test]
async fn a_url_is_followed_and_what_it_said_last_stays_in_force_while_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let served: Page = Arc::new(Mutex::new(Some(("v1", token_record("a").to_string()))));
    let (address, unchanged) = page(Arc::clone(&served)).await;
    let url = RevocationUrl { interval: Span::millis(250), ..RevocationUrl::new(format!("http://{address}/")) };
    let config = RevocationConfig { url: Some(url), ..RevocationConfig::default() };
    let edge = Edge::start_in(folder.path(), signer(), config);
    edge.world.ready().await;
    let (a, b) = (edge.token("a"), edge.token("b"));
    assert_eq!(edge.reason(&a).await, Some(Reason::TokenRevoked));
    let begin = Instant::now();
    while unchanged.load(Ordering::SeqCst) == 0 {
        assert!(begin.elapsed() < PATIENCE, "its entity tag is not used");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    *served.lock() = Some(("v2", token_record("b").to_string()));
    println!("a URL's news were in force after {:?}", edge.until(&b, Some(Reason::TokenRevoked)).await);
    *served.lock() = None;
    edge.degraded("url: status 500").await;
    for token in [&a, &b] {
        assert_eq!(edge.reason(token).await, Some(Reason::TokenRevoked));
    }
    assert!(edge.world.metrics().contains(r#"revocation_reads_total{feed="url",outcome="status"}"#));
    *served.lock() = Some(("v3", String::new()));
    edge.world.ready().await;
    edge.world.stop().await;
}

#[tokio::test]
async fn a_required_feed_that_was_never_heard_holds_tokens_up_and_one_that_is_not_required_does_not() {
    for required in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let config = RevocationConfig { file: Some("revoked.jsonl".into()), required, ..RevocationConfig::default() };
        let edge = Edge::start_in(folder.path(), signer(), config);
        edge.degraded("file").await;
        let token = edge.token("a");
        let first = edge.world.bearer(&edge.policy, &token).await;
        if !required {
            assert!(first.is_ok());
            edge.world.stop().await;
            continue;
        }
        let refusal = first.unwrap_err();
        assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::KeysUnavailable, 503));
        assert_eq!(refusal.headers[0].0, "retry-after");
        // A document with a bad line is not one that was heard.
        std::fs::write(folder.path().join("revoked.jsonl"), "<html>").unwrap();
        edge.degraded("line 1").await;
        assert_eq!(edge.reason(&token).await, Some(Reason::KeysUnavailable));
        std::fs::write(folder.path().join("revoked.jsonl"), "").unwrap();
        edge.world.ready().await;
        assert_eq!(edge.reason(&token).await, None);
        // Heard once, it may fail.
        std::fs::remove_file(folder.path().join("revoked.jsonl")).unwrap();
        edge.degraded("stays in force").await;
        assert_eq!(edge.reason(&token).await, None);
        edge.world.stop().await;
    }
}

fn kept() -> RevocationConfig {
    RevocationConfig { store: Some("state".into()), ..RevocationConfig::default() }
}

#[tokio::test]
async fn revocations_and_their_lifting_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let edge = Edge::start_in(folder.path(), signer(), kept());
    edge.world.ready().await;
    edge.revoke(token_record("a")).await.unwrap();
    edge.revoke(token_record("b")).await.unwrap();
    edge.world.handle.lift(Bytes::from(token_record("b").to_string())).await.unwrap();
    edge.revoke(json!({"issuer": "corp", "sub": "user-9", "issued_before": NOW, "expires_at": NOW + 600}))
        .await
        .unwrap();
    // The policy goes too, since it holds the unit's parts, the open store among them.
    let Edge { world, signer, .. } = edge;
    world.stop().await;

    let edge = Edge::start_in(folder.path(), signer, kept());
    edge.world.ready().await;
    assert_eq!(edge.reason(&edge.token("a")).await, Some(Reason::TokenRevoked));
    assert_eq!(edge.reason(&edge.token("b")).await, None);
    let other = edge.signer.sign(&with(claims(), "sub", json!("user-9")));
    assert_eq!(edge.reason(&other).await, Some(Reason::TokenRevoked));
    assert_eq!(edge.world.handle.revocations(0).await["store"]["state"], "ready");
    edge.world.stop().await;
}

#[tokio::test]
async fn a_store_that_cannot_be_read_holds_tokens_up_until_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("revocations.log"), "something else").unwrap();
    let edge = Edge::start_in(folder.path(), signer(), kept());
    edge.degraded("does not begin as a store of revocations does; tokens are answered 503").await;
    let token = edge.token("a");
    assert_eq!(edge.reason(&token).await, Some(Reason::KeysUnavailable));
    let Err(RevokeFault::NotStored(why)) = edge.revoke(token_record("a")).await else { panic!() };
    assert!(why.contains("nothing was done"), "{why}");
    assert!(edge.world.metrics().contains("revocation_store_errors_total 1"));
    // It is tried again by itself.
    std::fs::remove_file(state.join("revocations.log")).unwrap();
    edge.until(&token, None).await;
    edge.world.ready().await;
    edge.revoke(token_record("a")).await.unwrap();
    assert_eq!(edge.reason(&token).await, Some(Reason::TokenRevoked));
    edge.world.stop().await;
}
