//! An explanation is the judgement itself: it says what a request would get, names the step that decided, and leaves
//! nothing behind that a request would find.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use common::holder::Client;
use common::service::{Reply, Service};
use common::*;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use sluice_auth::{Algorithm, Config, Explanation, IssuerConfig, JwksConfig, Policy, RouteAuth, StepOutcome};
use sluice_vocabulary::ports::Revoke as _;
use sluice_vocabulary::request::{Connection, RequestView, Scheme, TlsInfo};
use sluice_vocabulary::{IssuerName, Reason, Refusal};

const CERTIFICATE: [u8; 32] = [7; 32];

/// A request's credentials.
#[derive(Clone, Debug, Default)]
struct Asked {
    authorization: Option<String>,
    proof: Option<String>,
    certificate: Option<[u8; 32]>,
}

impl Asked {
    fn bearer(token: impl std::fmt::Display) -> Self {
        Self { authorization: Some(format!("Bearer {token}")), ..Self::default() }
    }
}

/// What came of it: who it is, or the refusal to the letter.
#[derive(Debug, PartialEq)]
enum Outcome {
    Passed(Option<String>),
    Refused { reason: Reason, headers: Vec<(String, String)>, internal: Option<String> },
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        Self::Refused {
            reason: refusal.reason,
            headers: refusal.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            internal: refusal.internal.map(Into::into),
        }
    }
}

impl Outcome {
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Passed(_) => None,
            Self::Refused { reason, .. } => Some(*reason),
        }
    }
}

struct Edge {
    world: World,
    signer: Signer,
    issuers: BTreeMap<IssuerName, IssuerConfig>,
    endpoint: Endpoint,
}

impl Edge {
    async fn run() -> Self {
        let signer = Signer::new("k", Algorithm::EdDSA);
        let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
        let issuers = issuers(issuer_config(JwksConfig::from_url(endpoint.url())));
        // A request that is over its budget is the one that an explanation does not tell of.
        let config = Config { signature_checks_per_address: None, ..Config::default() };
        let (world, _) = World::start(config, &issuers, &route());
        world.ready().await;
        Self { world, signer, issuers, endpoint }
    }

    fn route(&self, mut auth: Value) -> Arc<Policy> {
        auth["issuer"] = json!("corp");
        self.world.apply(&self.issuers, &serde_json::from_value(auth).unwrap())
    }

    async fn explain(&self, policy: &Policy, asked: &Asked) -> (Explanation, Outcome) {
        let (connection, headers) = parts(asked);
        let explanation = self.world.handle.explain(policy, &view_of(&connection, &headers)).await;
        let outcome = match explanation.verdict.clone() {
            Ok(identity) => Outcome::Passed(identity.map(|identity| identity.subject().unwrap_or_default().to_owned())),
            Err(refusal) => refusal.into(),
        };
        (explanation, outcome)
    }

    async fn serve(&self, policy: &Policy, asked: &Asked) -> Outcome {
        let (connection, headers) = parts(asked);
        match self.world.handle.authenticate(policy, &view_of(&connection, &headers)).await {
            Ok(proof) => {
                Outcome::Passed(proof.identity().map(|identity| identity.subject().unwrap_or_default().to_owned()))
            }
            Err(refusal) => refusal.into(),
        }
    }

    /// Everything that is counted, but for what is asked of issuers.
    fn counted(&self) -> String {
        let page = self.world.metrics();
        page.lines().filter(|line| !line.contains("jwks_fetches")).collect::<Vec<_>>().join("\n")
    }
}

fn parts(asked: &Asked) -> (Connection, HeaderMap) {
    let tls = asked.certificate.map(|sha256| {
        let client_certificate_sha256 = Some(sha256);
        Arc::new(TlsInfo { version: "TLSv1.3", cipher: "", server_name: None, client_certificate_sha256 })
    });
    let mut headers = HeaderMap::new();
    headers.extend(asked.authorization.as_ref().map(|value| (AUTHORIZATION, HeaderValue::try_from(value).unwrap())));
    let proof = asked.proof.as_ref().map(|proof| HeaderValue::try_from(proof).unwrap());
    headers.extend(proof.map(|proof| (HeaderName::from_static("dpop"), proof)));
    (Connection { tls, ..connection() }, headers)
}

fn view_of<'a>(connection: &'a Connection, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView {
        scheme: Scheme::Https,
        port: Some(8443),
        path: "/orders/7",
        ..view(connection, headers, IpAddr::from([192, 0, 2, 1]))
    }
}

fn failed(explanation: &Explanation) -> Vec<(&'static str, &str)> {
    let failed = explanation.steps.iter().filter(|step| step.outcome == StepOutcome::Failed);
    failed.map(|step| (step.step, &*step.detail)).collect()
}

fn told<'e>(explanation: &'e Explanation, step: &str) -> (StepOutcome, &'e str) {
    let step = explanation.steps.iter().find(|told| told.step == step).expect("every step is told of");
    (step.outcome, &step.detail)
}

/// A number that looks like any other, always the same: SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % most as u64) as usize
    }

    /// One of these; the first, which is good, more often than not.
    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        let index = if self.below(10) < 7 { 0 } else { self.below(of.len()) };
        of[index].clone()
    }
}

/// A request with a token that is good in most respects, and with luck in all.
fn generated(chance: &mut Chance, edge: &Edge, client: &Client, stranger: &Signer) -> Asked {
    let none = Value::Null;
    let mut claims = claims();
    let mut set = |name: &str, value: Value| match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    };
    let key = json!({"jkt": client.thumbprint()});
    let certificate = json!({"x5t#S256": b64(CERTIFICATE)});
    set("iss", chance.one(&[json!(ISS), json!("https://other.example"), json!(7), none.clone()]));
    set("aud", chance.one(&[json!("edge"), json!(["a", "edge"]), json!("other"), json!([1]), none.clone()]));
    set("exp", chance.one(&[json!(NOW + 600), json!(NOW - 10), json!(NOW - 31), json!("soon"), none.clone()]));
    set("nbf", chance.one(&[json!(NOW - 60), json!(NOW + 30), json!(NOW + 31), json!([]), none.clone()]));
    set("iat", chance.one(&[json!(NOW - 60), json!(-1), none.clone()]));
    set("sub", chance.one(&[json!("user-1"), json!("revoked"), json!(5), none.clone()]));
    set("scope", chance.one(&[json!("orders:read orders:write"), json!("orders:read"), json!("admin"), none.clone()]));
    set("tenant", chance.one(&[json!("acme"), json!("globex"), none.clone()]));
    set("acr", chance.one(&[json!("gold"), json!("bronze"), none.clone()]));
    set("auth_time", chance.one(&[json!(NOW - 10), json!(NOW - 1000), json!("now"), none.clone()]));
    let cnf = [none.clone(), key.clone(), certificate.clone(), json!({"jwk": {}}), json!("x")];
    let cnf = if chance.below(2) == 0 { none } else { cnf[chance.below(5)].clone() };
    set("cnf", cnf);

    let header = chance.one(&[
        edge.signer.header(),
        without(edge.signer.header(), "kid"),
        with(edge.signer.header(), "kid", json!("unknown")),
        with(edge.signer.header(), "alg", json!("none")),
        with(edge.signer.header(), "alg", json!("HS256")),
        with(edge.signer.header(), "alg", json!("ES256")),
        with(edge.signer.header(), "typ", json!("logout+jwt")),
        with(edge.signer.header(), "crit", json!(["exp"])),
        json!({}),
        json!([]),
    ]);
    let signer = chance.one(&[&edge.signer, stranger]);
    let whole = signer.sign_raw(header.to_string(), claims.to_string());
    let token = match chance.below(30) {
        0 => whole.replacen('.', "", 1),
        1 => format!("{whole}="),
        2 => whole.replacen('.', ".!", 1),
        3 => format!("{}.{}", &whole[..whole.rfind('.').unwrap()], b64("short")),
        4 => "x".repeat(20_000),
        5 => "two words".to_owned(),
        _ => whole,
    };
    let scheme = chance.one(&["Bearer", "DPoP", "bearer"]);
    let (scheme, proof) = match chance.below(2) {
        0 => ("DPoP", Some(client.proof(&token))),
        _ => (scheme, None),
    };
    let scheme = if claims["cnf"] == key { scheme } else { chance.one(&["Bearer", scheme]) };
    let authorization = match chance.below(40) {
        0 => None,
        1 => Some("Basic dTpw".to_owned()),
        2 => Some("Bearer ".to_owned()),
        _ => Some(format!("{scheme} {token}")),
    };
    Asked { authorization, proof, certificate: (chance.below(2) == 0).then_some(CERTIFICATE) }
}

#[tokio::test]
async fn what_is_explained_is_what_a_request_gets_for_whatever_token_on_whatever_route() {
    let edge = Edge::run().await;
    let (client, stranger) = (Client::new(Algorithm::ES256), Signer::new("k", Algorithm::EdDSA));
    let revoked = json!({"issuer": "corp", "sub": "revoked", "issued_before": NOW, "expires_at": NOW + 900});
    edge.world.handle.revoke(Bytes::from(revoked.to_string())).await.unwrap();
    let routes: Vec<_> = [
        json!({}),
        json!({"optional": true}),
        json!({"scopes": {"all": ["orders:write"], "none": ["admin"]}}),
        json!({"scopes": {"any": ["orders:write", "admin"]}}),
        json!({"claims": [{"pointer": "/tenant", "equals": "acme"}]}),
        json!({"step_up": {"acr": ["gold"], "max_age": "5m"}}),
        json!({"sender_constraint": "dpop"}),
        json!({"sender_constraint": "mtls"}),
        json!({"sender_constraint": "any", "optional": true}),
    ]
    .map(|auth| edge.route(auth))
    .into();

    let mut chance = Chance(1);
    let mut seen = BTreeMap::<Option<Reason>, u32>::new();
    for case in 0..2500 {
        let policy = &routes[chance.below(routes.len())];
        let asked = generated(&mut chance, &edge, &client, &stranger);
        // New, and seen before: a token that is known by then, a proof that was used.
        for round in 0..2 {
            let before = edge.counted();
            let (explanation, explained) = edge.explain(policy, &asked).await;
            assert_eq!(edge.counted(), before, "case {case}, round {round}: an explanation leaves no trace");
            let served = edge.serve(policy, &asked).await;
            assert_eq!(explained, served, "case {case}, round {round}: {asked:?}\n{explanation:#?}");
            let failed = failed(&explanation);
            assert_eq!(failed.len(), usize::from(served.reason().is_some()), "case {case}: {explanation:#?}");
            assert_eq!(explanation.steps.len(), 21, "every step is told of");
            assert_holds_no_token(&explanation, &asked);
            *seen.entry(served.reason()).or_default() += 1;
        }
    }
    // The table is worth something only if it has all of it.
    use Reason as R;
    for reason in [
        R::TokenMissing,
        R::CredentialsMalformed,
        R::TokenMalformed,
        R::TokenRejected,
        R::TokenExpired,
        R::TokenRevoked,
        R::TokenNotYetValid,
        R::TokenNotForUs,
        R::SenderUnproven,
        R::SenderUnbound,
        R::ProofRejected,
        R::ScopeMissing,
        R::TokenNotAllowed,
        R::AuthenticationInsufficient,
    ] {
        assert!(seen.get(&Some(reason)).is_some_and(|count| *count > 3), "{reason:?} in {seen:?}");
    }
    assert!(seen[&None] > 100, "{seen:?}");
    edge.world.stop().await;
}

fn assert_holds_no_token(explanation: &Explanation, asked: &Asked) {
    let told = serde_json::to_string(&explanation.steps).unwrap();
    let secrets = asked.authorization.iter().chain(&asked.proof).flat_map(|text| text.split([' ', '.']));
    for secret in secrets.filter(|part| part.len() > 12) {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[tokio::test]
async fn each_reason_names_the_step_that_decided_and_says_why() {
    let edge = Edge::run().await;
    let client = Client::new(Algorithm::ES256);
    let sign = |claims: Value| edge.signer.sign(&claims);
    let token_with = |name: &str, value: Value| sign(with(claims(), name, value));
    let header_with = |name: &str, value: Value| {
        edge.signer.sign_raw(with(edge.signer.header(), name, value).to_string(), claims().to_string())
    };
    let forged = Signer::new("k", Algorithm::EdDSA).sign(&claims());
    let bound = token_with("cnf", json!({"jkt": client.thumbprint()}));
    let by_certificate = token_with("cnf", json!({"x5t#S256": b64(CERTIFICATE)}));
    let proven = |token: &str, proof: Option<String>| Asked {
        authorization: Some(format!("DPoP {token}")),
        proof,
        ..Asked::default()
    };
    let stale = with(client.claims(&bound), "iat", json!(NOW - 1000));
    let stale = client.sign(&client.header(), &stale);
    let scopes = json!({"scopes": {"all": ["orders:write", "orders:read"], "any": ["a", "b"]}});
    let any = json!({"scopes": {"any": ["a", "b"]}});
    let forbidden = json!({"scopes": {"none": ["orders:list"]}});
    let rule = json!({"claims": [{"pointer": "/tenant", "equals": "acme"}, {"pointer": "/x", "equals": 1}]});
    let plain = json!({});
    let bearer = |token: &str| Asked::bearer(token);
    use Reason as R;
    let table: Vec<(&Value, Asked, R, &str, &str)> = vec![
        (&plain, Asked::default(), R::TokenMissing, "token", "A bearer token is required"),
        (&plain, bearer(""), R::CredentialsMalformed, "token", "no token after Bearer"),
        (&plain, bearer("a.b"), R::TokenMalformed, "shape", "the token is not three parts joined by dots"),
        (&plain, bearer("!.b.c"), R::CredentialsMalformed, "header", "what follows Bearer is not one token"),
        (
            &plain,
            Asked::bearer(header_with("alg", json!("none"))),
            R::TokenRejected,
            "header",
            "the header's alg is none",
        ),
        (
            &plain,
            Asked::bearer(edge.signer.sign_raw(edge.signer.header().to_string(), "[")),
            R::TokenMalformed,
            "payload",
            "",
        ),
        (
            &plain,
            Asked::bearer(token_with("iss", json!("https://other.example"))),
            R::TokenNotForUs,
            "issuer",
            r#"iss "https://other.example" is none of the route's: "https://id.example.com" of corp"#,
        ),
        (
            &plain,
            Asked::bearer(header_with("kid", json!("k9"))),
            R::TokenRejected,
            "key",
            "no key of the issuer has the token's kid (its issuer was asked)",
        ),
        (
            &plain,
            Asked::bearer(header_with("alg", json!("ES256"))),
            R::TokenRejected,
            "key",
            "the key that the token names is not for ES256",
        ),
        (&plain, Asked::bearer(forged), R::TokenRejected, "signature", "the signature does not verify"),
        (
            &plain,
            Asked::bearer(token_with("aud", json!(["a", "b"]))),
            R::TokenNotForUs,
            "audience",
            r#"aud "[\"a\",\"b\"]" has none of "edge""#,
        ),
        (
            &plain,
            Asked::bearer(token_with("exp", json!(NOW - 180))),
            R::TokenExpired,
            "expiry",
            "expired 3m ago, leeway 30s",
        ),
        (&plain, Asked::bearer(sign(without(claims(), "exp"))), R::TokenRejected, "expiry", "the claim exp is missing"),
        (
            &plain,
            Asked::bearer(token_with("nbf", json!(NOW + 90))),
            R::TokenNotYetValid,
            "not-before",
            "good in 1m 30s, leeway 30s",
        ),
        (
            &plain,
            Asked::bearer(token_with("iat", json!("x"))),
            R::TokenRejected,
            "form",
            "the claim iat has not the form it must have",
        ),
        (&plain, Asked::bearer(token_with("jti", json!("gone"))), R::TokenRevoked, "revocation", "revoked by token"),
        (&plain, Asked::bearer(&bound), R::SenderUnproven, "proof", "a token with cnf.jkt was presented as Bearer"),
        (&plain, Asked::bearer(&by_certificate), R::SenderUnproven, "binding", "the connection showed no certificate"),
        (
            &plain,
            proven(&bound, None),
            R::ProofRejected,
            "proof",
            "the token is bound to a key and there is no DPoP field",
        ),
        (&plain, proven(&bound, Some(stale)), R::ProofRejected, "proof", "the proof was made 1000 s ago"),
        (&scopes, Asked::bearer(sign(claims())), R::ScopeMissing, "scopes", "missing: orders:write"),
        (&any, Asked::bearer(sign(claims())), R::ScopeMissing, "scopes", "missing: one of a b"),
        (
            &forbidden,
            Asked::bearer(sign(claims())),
            R::TokenNotAllowed,
            "scopes",
            "has what the route forbids: orders:list",
        ),
        (
            &rule,
            Asked::bearer(sign(claims())),
            R::TokenNotAllowed,
            "claims",
            "the token's claims do not meet claims[1] of the route",
        ),
    ];
    let (bound_only, both) =
        (json!({"sender_constraint": "mtls"}), json!({"step_up": {"acr": ["gold"], "max_age": "5m"}}));
    let old = with(with(claims(), "acr", json!("gold")), "auth_time", json!(NOW - 1000));
    let more = [
        (&bound_only, Asked::bearer(&bound), R::SenderUnbound, "binding", "the route demands cnf.x5t#S256"),
        (
            &both,
            Asked::bearer(sign(claims())),
            R::AuthenticationInsufficient,
            "step-up",
            "the token's acr is none that the route accepts",
        ),
        (
            &both,
            Asked::bearer(sign(old)),
            R::AuthenticationInsufficient,
            "step-up",
            "the token's auth_time is longer ago than the route accepts",
        ),
    ];
    let table = table.into_iter().chain(more);
    let revoked = json!({"issuer": "corp", "jti": "gone", "expires_at": NOW + 900});
    edge.world.handle.revoke(Bytes::from(revoked.to_string())).await.unwrap();
    for (auth, asked, reason, step, detail) in table {
        let policy = edge.route(auth.clone());
        let (explanation, outcome) = edge.explain(&policy, &asked).await;
        assert_eq!(outcome.reason(), Some(reason), "{asked:?}: {explanation:#?}");
        let [(failed, why)] = failed(&explanation)[..] else { panic!("{explanation:#?}") };
        assert_eq!(failed, step, "{asked:?}: {explanation:#?}");
        assert!(
            if detail.is_empty() { !why.is_empty() } else { why == detail },
            "{step}: {why:?}, expected {detail:?}"
        );
        let after = explanation.steps.iter().skip_while(|told| told.step != step).skip(1);
        assert!(after.clone().all(|told| told.outcome == StepOutcome::Skipped), "{explanation:#?}");
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn a_token_that_passes_is_told_of_step_by_step_and_once_it_is_known_by_that() {
    let edge = Edge::run().await;
    let policy =
        edge.route(json!({"scopes": {"all": ["orders:read"]}, "claims": [{"pointer": "/tenant", "equals": "acme"}]}));
    let asked = Asked::bearer(edge.signer.sign(&claims()));
    let (explanation, outcome) = edge.explain(&policy, &asked).await;
    assert_eq!(outcome, Outcome::Passed(Some("user-1".to_owned())));
    use StepOutcome::{Passed, Skipped};
    for (step, outcome, detail) in [
        ("token", Passed, "in Authorization, by the scheme Bearer"),
        ("cache", Skipped, "it was not verified before, or is no longer remembered"),
        ("header", Passed, r#"alg EdDSA, kid "k""#),
        ("issuer", Passed, r#"iss "https://id.example.com" is issuer corp"#),
        ("type", Passed, r#"typ "JWT""#),
        ("key", Passed, r#"kid "k""#),
        ("signature", Passed, ""),
        ("audience", Passed, r#"aud "edge" has one of "edge""#),
        ("expiry", Passed, "expires in 10m"),
        ("not-before", Passed, "good since 1m ago"),
        ("introspection", Skipped, "the token is for keys to judge"),
        ("revocation", Passed, ""),
        ("binding", Passed, "bound to nothing, and the route does not ask for it"),
        ("proof", Skipped, "the token is bound to no key"),
        ("scopes", Passed, "all that the route asks for"),
        ("claims", Passed, "as all 1 rules of the route say"),
        ("step-up", Skipped, "the route does not ask how the user was authenticated"),
    ] {
        assert_eq!(told(&explanation, step), (outcome, detail), "{step}");
    }
    // Not known by having been explained.
    let (again, _) = edge.explain(&policy, &asked).await;
    assert_eq!(told(&again, "cache").0, Skipped);
    assert_eq!(edge.serve(&policy, &asked).await.reason(), None);
    let (known, outcome) = edge.explain(&policy, &asked).await;
    assert_eq!(outcome.reason(), None);
    assert_eq!(told(&known, "cache"), (Passed, "verified before, as one of issuer corp; expires in 10m"));
    assert_eq!(told(&known, "signature"), (Skipped, "it was verified before"));
    assert_eq!(told(&known, "scopes").0, Passed);
    edge.world.stop().await;
}

#[tokio::test]
async fn a_proof_is_as_good_after_an_explanation_as_it_was_before() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({"sender_constraint": "dpop"}));
    let client = Client::new(Algorithm::ES256);
    let token = edge.signer.sign(&with(claims(), "cnf", json!({"jkt": client.thumbprint()})));
    let proof = Some(client.proof(&token));
    let asked = Asked { authorization: Some(format!("DPoP {token}")), proof, certificate: None };
    for _ in 0..3 {
        assert_eq!(edge.explain(&policy, &asked).await.1.reason(), None);
    }
    assert_eq!(edge.serve(&policy, &asked).await.reason(), None);
    let (explanation, outcome) = edge.explain(&policy, &asked).await;
    assert_eq!(outcome.reason(), Some(Reason::ProofRejected));
    assert_eq!(failed(&explanation), [("proof", "the proof was used before")]);
    edge.world.stop().await;
}

#[tokio::test]
async fn explanations_cost_an_address_none_of_its_budget() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let budget = serde_json::from_value(json!({"checks": 1, "per": "1h", "burst": 1})).unwrap();
    let config = Config { signature_checks_per_address: Some(budget), ..Config::default() };
    let issuers = issuers(issuer_config(JwksConfig::from_url(endpoint.url())));
    let (world, policy) = World::start(config, &issuers, &route());
    world.ready().await;
    let edge = Edge { world, signer, issuers, endpoint };
    let token = |number: u32| Asked::bearer(edge.signer.sign(&with(claims(), "jti", json!(number))));
    for number in 0..5 {
        assert_eq!(edge.explain(&policy, &token(number)).await.1.reason(), None);
    }
    assert_eq!(edge.serve(&policy, &token(5)).await.reason(), None);
    assert_eq!(edge.serve(&policy, &token(6)).await.reason(), Some(Reason::AddressRateLimited));
    assert_eq!(edge.explain(&policy, &token(7)).await.1.reason(), None, "it says what a client within its budget gets");
    edge.world.stop().await;
}

#[tokio::test]
async fn keys_that_are_not_at_hand_are_asked_for_as_for_a_request_and_waited_for() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({}));
    let next = Signer::new("k2", Algorithm::EdDSA);
    edge.endpoint.now(Behaviour::Serve(jwks(&[&edge.signer, &next])));
    let asked = Asked::bearer(next.sign(&claims()));
    let (explanation, outcome) = edge.explain(&policy, &asked).await;
    assert_eq!(outcome.reason(), None, "{explanation:#?}");
    assert_eq!(told(&explanation, "key").1, r#"kid "k2" (its issuer was asked)"#);
    // One that cannot be heard is no fault of the token.
    edge.endpoint.now(Behaviour::Status(500));
    let unknown = Asked::bearer(Signer::new("k3", Algorithm::EdDSA).sign(&claims()));
    let (explanation, outcome) = edge.explain(&policy, &unknown).await;
    assert_eq!(outcome.reason(), Some(Reason::KeysUnavailable));
    assert_eq!(failed(&explanation)[0].0, "key");
    edge.world.stop().await;
}

#[tokio::test]
async fn what_only_its_issuer_can_judge_is_told_of_by_what_the_issuer_says() {
    let endpoint = Service::replying(Reply::ok(r#"{"active":true,"sub":"user-1"}"#)).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "s3cret").unwrap();
    let introspection =
        serde_json::from_value(json!({"url": endpoint.url(), "client": {"id": "edge", "secret": {"file": "secret"}}}));
    let opaque = IssuerConfig {
        audiences: Vec::new(),
        introspection: Some(introspection.unwrap()),
        ..issuer_config(JwksConfig::empty())
    };
    let signer = Signer::new("k", Algorithm::EdDSA);
    std::fs::write(folder.path().join("jwks.json"), jwks(&[&signer])).unwrap();
    let corp = issuer_config(JwksConfig::from_file("jwks.json"));
    let issuers = BTreeMap::from([(name("opaque"), opaque), (name("corp"), corp)]);
    let both = RouteAuth { issuers: vec![name("corp"), name("opaque")], ..RouteAuth::default() };
    let (world, policy) = World::start_in(folder.path().into(), Config::default(), &issuers, &both);
    world.ready().await;
    let edge = Edge { world, signer, issuers, endpoint: Endpoint::run(Behaviour::Hang).await };

    let asked = Asked::bearer("2YotnFZFEjr1zCsicMWpAA");
    let (explanation, outcome) = edge.explain(&policy, &asked).await;
    assert_eq!(outcome, Outcome::Passed(Some("user-1".to_owned())));
    let (result, detail) = told(&explanation, "introspection");
    assert_eq!(result, StepOutcome::Passed);
    assert!(detail.starts_with("issuer opaque, asked just now: active, believed for at most "), "{detail}");
    assert_eq!(told(&explanation, "signature"), (StepOutcome::Skipped, "only its issuer can judge this token"));
    assert_holds_no_token(&explanation, &asked);
    // A JWT of somebody else is the endpoint's to judge too, and that is what is told of.
    let foreign = Asked::bearer(edge.signer.sign(&with(claims(), "iss", json!("https://other.example"))));
    endpoint.now(Reply::ok(r#"{"active":false}"#));
    let (explanation, outcome) = edge.explain(&policy, &foreign).await;
    assert_eq!(outcome.reason(), Some(Reason::TokenRejected));
    assert_eq!(
        failed(&explanation),
        [("introspection", "issuer opaque, asked just now: its issuer says that the token is not active")]
    );
    assert_eq!(told(&explanation, "issuer").0, StepOutcome::Skipped);
    let known = edge.explain(&policy, &foreign).await.0;
    assert!(failed(&known)[0].1.contains("answered a while ago"), "{known:#?}");
    // Down: nobody said no.
    endpoint.now(Reply::status(500));
    let (explanation, outcome) = edge.explain(&policy, &Asked::bearer("another")).await;
    assert_eq!(outcome.reason(), Some(Reason::IntrospectionUnavailable));
    assert_eq!(failed(&explanation)[0].0, "introspection");
    edge.world.stop().await;
}

#[tokio::test]
async fn a_route_that_takes_requests_without_a_token_says_so() {
    let edge = Edge::run().await;
    let policy = edge.route(json!({"optional": true}));
    let (explanation, outcome) = edge.explain(&policy, &Asked::default()).await;
    assert_eq!(outcome, Outcome::Passed(None));
    assert!(explanation.steps.iter().all(|step| step.outcome != StepOutcome::Failed));
    assert_eq!(told(&explanation, "signature").1, "there is no token, and the route needs none");
    let policy = edge.route(json!({"scopes": {"all": ["a"]}, "sender_constraint": "mtls"}));
    let page = policy.inspect();
    assert_eq!((&page["issuers"], &page["scopes"]["all"]), (&json!(["corp"]), &json!(["a"])));
    assert_eq!((&page["sender_constraint"], &page["optional"]), (&json!("mtls"), &json!(false)));
    edge.world.stop().await;
}
