//! What upstreams are told in the gateway's name: identity tokens, held against jsonwebtoken and the published keys.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use http::{HeaderName, HeaderValue};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use sluice_auth::{
    Algorithm, Config, IdentityAlgorithm, IdentityToken, JwksConfig, Policy, Proof, RouteAuth, Verified,
};
use sluice_vocabulary::clock::{Clock as _, SystemClock};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::ports::Inspect as _;

const HOUR: u64 = 3600;

fn wanted(claims: &[&str]) -> IdentityToken {
    serde_json::from_value(json!({"audience": "orders", "claims": claims})).unwrap()
}

fn with_token(token: IdentityToken) -> RouteAuth {
    RouteAuth { identity_token: Some(token), ..route() }
}

struct Edge {
    world: World,
    policy: Arc<Policy>,
    issuer: Signer,
    endpoint: Endpoint,
    now: u64,
}

impl Edge {
    /// The oracle has the machine's clock alone, so ours begins there.
    async fn new(config: Config, folder: PathBuf, route: &RouteAuth) -> Self {
        let issuer = Signer::new("k", Algorithm::EdDSA);
        let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&issuer]))).await;
        let now = SystemClock.unix_seconds();
        let issuers = issuers(issuer_config(JwksConfig::from_url(endpoint.url())));
        let (world, policy) = World::start_at(now, folder, config, &issuers, route);
        world.ready().await;
        Self { world, policy, issuer, endpoint, now }
    }

    async fn plain(route: &RouteAuth) -> Self {
        Self::new(Config::default(), PathBuf::from("."), route).await
    }

    fn again(&mut self, config: Config, route: &RouteAuth) {
        self.world.config = config;
        self.policy = self.world.apply(&issuers(issuer_config(JwksConfig::from_url(self.endpoint.url()))), route);
    }

    fn claims(&self) -> Value {
        json!({"iss": ISS, "aud": "edge", "sub": "user-1", "exp": self.now + 1000 * HOUR, "tenant": "acme",
               "realm": {"roles": ["a", "b"]}})
    }

    async fn verified(&self, claims: &Value) -> Verified {
        self.world.bearer(&self.policy, &self.issuer.sign(claims)).await.unwrap()
    }

    fn fields(&self, verified: &Verified) -> Vec<(HeaderName, HeaderValue)> {
        let proof = Proof::Verified(verified.clone());
        self.policy.identity_headers(&proof).collect()
    }

    fn token(&self, verified: &Verified) -> String {
        let fields = self.fields(verified);
        assert_eq!(fields.len(), 1, "{fields:?}");
        assert!(fields[0].1.is_sensitive());
        fields[0].1.to_str().unwrap().to_owned()
    }

    fn published(&self) -> JwkSet {
        serde_json::from_value(self.world.handle.identity_keys().inspect()).unwrap()
    }

    /// Verifies as an upstream would, with the keys it read.
    fn decode(&self, token: &str, keys: &JwkSet) -> Result<Value, jsonwebtoken::errors::Error> {
        let header = decode_header(token)?;
        let jwk = keys.find(header.kid.as_deref().unwrap()).expect("the key is published");
        let mut rules = Validation::new(header.alg);
        rules.set_audience(&["orders"]);
        rules.set_issuer(&["sluice"]);
        rules.set_required_spec_claims(&["exp", "aud", "iss"]);
        // The manual clock runs ahead of the oracle's.
        rules.validate_nbf = false;
        decode::<Value>(token, &DecodingKey::from_jwk(jwk)?, &rules).map(|data| data.claims)
    }

    fn metric(&self, outcome: &str) -> u64 {
        let page = self.world.metrics();
        let start = format!(r#"identity_tokens_total{{outcome="{outcome}"}} "#);
        page.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn an_upstream_verifies_the_token_by_the_published_keys_and_reads_who_sent_the_request() {
    for algorithm in [IdentityAlgorithm::ES256, IdentityAlgorithm::EdDSA] {
        let mut config = Config::default();
        config.identity_tokens.algorithm = algorithm;
        let wanted = wanted(&["tenant", "realm.roles", "absent"]);
        let edge = Edge::new(config, PathBuf::from("."), &with_token(wanted)).await;
        let verified = edge.verified(&edge.claims()).await;
        let fields = edge.fields(&verified);
        assert_eq!(fields[0].0, "x-identity-token");
        let token = edge.token(&verified);
        let claims = edge.decode(&token, &edge.published()).unwrap();
        let jti = claims["jti"].as_str().unwrap().to_owned();
        assert_eq!(jti.len(), 22);
        let expected = json!({
            "iss": "sluice", "aud": "orders", "iat": edge.now, "exp": edge.now + 60, "jti": jti, "sub": "user-1",
            "sub_id": {"format": "iss_sub", "iss": ISS, "sub": "user-1"},
            "tenant": "acme", "realm.roles": ["a", "b"],
        });
        assert_eq!(claims, expected);
        // Spoiled, it is nothing.
        let (message, signature) = token.rsplit_once('.').unwrap();
        let other = edge.verified(&with(edge.claims(), "sub", json!("user-2"))).await;
        let other = edge.token(&other);
        let mixed = format!("{}.{signature}", other.rsplit_once('.').unwrap().0);
        assert_ne!(message, other.rsplit_once('.').unwrap().0);
        assert!(edge.decode(&mixed, &edge.published()).is_err());
        edge.world.stop().await;
    }
}

#[tokio::test]
async fn a_token_is_made_once_for_an_identity_and_used_for_half_of_its_life() {
    let edge = Edge::plain(&with_token(wanted(&[]))).await;
    let claims = edge.claims();
    let first = edge.token(&edge.verified(&claims).await);
    for _ in 0..29 {
        edge.world.clock.advance(Duration::from_secs(1));
        assert_eq!(edge.token(&edge.verified(&claims).await), first);
    }
    edge.world.clock.advance(Duration::from_secs(1));
    let second = edge.token(&edge.verified(&claims).await);
    assert_ne!(second, first);
    let other = edge.token(&edge.verified(&with(claims, "sub", json!("user-2"))).await);
    assert_ne!(other, second);
    assert_eq!((edge.metric("signed"), edge.metric("cached")), (3, 29));
    edge.world.stop().await;
}

#[tokio::test]
async fn it_never_outlives_the_clients_token_but_by_what_the_request_needs_to_arrive() {
    let edge = Edge::plain(&with_token(wanted(&[]))).await;
    for (left, expected) in [(40_i64, 40), (7, 7), (3, 5), (-20, 5)] {
        let exp = i64::try_from(edge.now).unwrap() + left;
        let verified = edge.verified(&with(edge.claims(), "exp", json!(exp))).await;
        let claims = edge.decode(&edge.token(&verified), &edge.published()).unwrap();
        assert_eq!(claims["exp"], json!(edge.now + expected), "{left}");
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn a_token_without_a_subject_names_none_and_one_too_long_is_left_out() {
    let edge = Edge::plain(&with_token(wanted(&["large"]))).await;
    let verified = edge.verified(&without(edge.claims(), "sub")).await;
    let claims = edge.decode(&edge.token(&verified), &edge.published()).unwrap();
    assert!(claims.get("sub").is_none() && claims.get("sub_id").is_none(), "{claims}");
    let verified = edge.verified(&with(edge.claims(), "large", json!("x".repeat(7000)))).await;
    assert_eq!(edge.fields(&verified), []);
    assert_eq!(edge.metric("left-out"), 1);
    // A client's own field is stripped all the same, so that there is none to believe.
    assert!(edge.world.handle.stripped_headers().covers(&HeaderName::from_static("x_identity-token")));
    edge.world.stop().await;
}

#[tokio::test]
async fn it_may_stand_in_place_of_the_clients_credentials() {
    let token = IdentityToken { header: "Authorization".into(), ..wanted(&[]) };
    let edge = Edge::plain(&with_token(token)).await;
    let verified = edge.verified(&edge.claims()).await;
    let (name, _) = edge.fields(&verified).remove(0);
    assert_eq!(name, "authorization");
    let value = edge.token(&verified);
    assert!(edge.decode(value.strip_prefix("Bearer ").unwrap(), &edge.published()).is_ok());
    // Clients need theirs to get here.
    assert!(!edge.world.handle.stripped_headers().covers(&name));
    edge.world.stop().await;
}

#[tokio::test]
async fn over_a_change_of_keys_old_tokens_verify_and_an_upstream_reads_keys_once_a_period() {
    let mut config = Config::default();
    config.identity_tokens.rotate = Span::secs(HOUR);
    let edge = Edge::new(config, PathBuf::from("."), &with_token(wanted(&[]))).await;
    let mut kids = Vec::new();
    let mut read = edge.published();
    for period in 0..4 {
        // Each for somebody else, so that each is signed now.
        let for_whom = |when: &str| with(edge.claims(), "sub", json!(format!("{when} {period}")));
        let first = edge.token(&edge.verified(&for_whom("first")).await);
        kids.push(decode_header(&first).unwrap().kid.unwrap());
        assert!(edge.decode(&first, &read).is_ok(), "period {period}: by keys read a period ago");
        edge.world.clock.advance(Duration::from_secs(HOUR - 1));
        let last = edge.token(&edge.verified(&for_whom("last")).await);
        read = edge.published();
        edge.world.clock.advance(Duration::from_secs(1));
        // Signed a second before the change, it is good for its whole life.
        assert!(edge.decode(&last, &edge.published()).is_ok(), "period {period}");
        assert_eq!(decode_header(&last).unwrap().kid.unwrap(), kids[period], "one key for the whole period");
    }
    kids.dedup();
    assert_eq!(kids.len(), 4);
    assert!(edge.published().find(&kids[0]).is_none(), "a key goes a period after its last use");
    edge.world.stop().await;
}

#[tokio::test]
async fn other_settings_leave_tokens_under_way_good() {
    let mut edge = Edge::plain(&with_token(wanted(&[]))).await;
    let before = edge.token(&edge.verified(&edge.claims()).await);
    let mut config = Config::default();
    config.identity_tokens.algorithm = IdentityAlgorithm::EdDSA;
    edge.again(config.clone(), &with_token(wanted(&[])));
    assert!(edge.decode(&before, &edge.published()).is_ok());
    let after = edge.token(&edge.verified(&edge.claims()).await);
    assert_eq!(decode_header(&after).unwrap().alg, jsonwebtoken::Algorithm::EdDSA);
    assert!(edge.decode(&after, &edge.published()).is_ok());
    config.identity_tokens.issuer = "another".into();
    edge.again(config, &with_token(wanted(&[])));
    let renamed = edge.token(&edge.verified(&edge.claims()).await);
    assert_eq!(decode_header(&renamed).unwrap().kid, decode_header(&after).unwrap().kid, "the keys are the same");
    edge.world.stop().await;
}

#[tokio::test]
async fn keys_kept_on_disk_are_there_after_a_restart_and_others_cannot_read_them() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.identity_tokens.state_dir = Some("state".into());
    let start = async || Edge::new(config.clone(), folder.path().to_owned(), &with_token(wanted(&[]))).await;
    let edge = start().await;
    let token = edge.token(&edge.verified(&edge.claims()).await);
    let file = folder.path().join("state/identity-keys.json");
    let kept = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), kept).await.expect("the keys are kept");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    edge.world.stop().await;

    let edge = start().await;
    assert!(edge.decode(&token, &edge.published()).is_ok());
    let again = edge.token(&edge.verified(&edge.claims()).await);
    assert_eq!(decode_header(&again).unwrap().kid, decode_header(&token).unwrap().kid);
    edge.world.stop().await;

    // Spoiled, it is a fault of the configuration, at its place.
    std::fs::write(&file, "{}").unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    let deps = sluice_auth::Deps {
        clock: Arc::new(SystemClock),
        random: Arc::new(sluice_vocabulary::clock::SystemRandom),
        base_dir: folder.path().to_owned(),
        background: tokio::runtime::Handle::current(),
    };
    let (handle, _task) = sluice_auth::Unit::new(&config, deps, &mut registry);
    let faults = handle.prepare(&config, &std::collections::BTreeMap::new()).unwrap_err();
    assert!(faults[0].to_string().starts_with("auth.identity_tokens.state_dir: "), "{faults:?}");
}

#[tokio::test]
async fn without_a_demand_nothing_is_signed_and_the_keys_are_public_alone() {
    let edge = Edge::plain(&route()).await;
    let verified = edge.verified(&edge.claims()).await;
    assert_eq!(edge.fields(&verified), []);
    let page = edge.world.handle.identity_keys().inspect();
    for key in page["keys"].as_array().unwrap() {
        let names: Vec<_> = key.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(names.iter().all(|name| ["kty", "crv", "x", "y", "use", "alg", "kid"].contains(name)), "{names:?}");
    }
    edge.world.stop().await;
}
