//! Tokens bound to their senders: DPoP (RFC 9449) and certificates (RFC 8705), held against whoever presents them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::holder::{Client, sha256, thumbprint};
use common::*;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use sluice_auth::{Algorithm, Config, JwksConfig, NonceConfig, Policy, RouteAuth, SenderConstraint, Verified};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::request::{Connection, RequestView, Scheme, TlsInfo};
use sluice_vocabulary::{Reason, Refusal};

/// An issuer, the unit, and one route.
struct Edge {
    world: World,
    policy: Arc<Policy>,
    issuer: Signer,
    endpoint: Endpoint,
}

impl Edge {
    async fn new(route: &RouteAuth) -> Self {
        Self::with(Config::default(), route).await
    }

    async fn with(config: Config, route: &RouteAuth) -> Self {
        let issuer = Signer::new("k", Algorithm::EdDSA);
        let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&issuer]))).await;
        let (world, policy) =
            World::start(config, &issuers(issuer_config(JwksConfig::from_url(endpoint.url()))), route);
        world.ready().await;
        Self { world, policy, issuer, endpoint }
    }

    fn again(&self, route: &RouteAuth) -> Arc<Policy> {
        self.world.apply(&issuers(issuer_config(JwksConfig::from_url(self.endpoint.url()))), route)
    }

    /// A token bound as `cnf` says.
    fn token(&self, cnf: Value) -> String {
        self.issuer.sign(&with(claims(), "cnf", cnf))
    }

    fn bound_to(&self, client: &Client) -> String {
        self.token(json!({ "jkt": client.thumbprint() }))
    }

    async fn ask(&self, asked: &Asked<'_>) -> Result<Verified, Refusal> {
        self.ask_by(&self.policy, asked).await
    }

    async fn ask_by(&self, policy: &Policy, asked: &Asked<'_>) -> Result<Verified, Refusal> {
        let peer = SocketAddr::from(([192, 0, 2, 1], 1000));
        let tls = asked.certificate.map(|certificate| {
            Arc::new(TlsInfo {
                version: "TLSv1.3",
                cipher: "",
                server_name: None,
                client_certificate_sha256: certificate,
            })
        });
        let connection = Connection { id: 1, peer, local: peer, client: peer, tls, cookie: None, listener: 0 };
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("{} {}", asked.scheme, asked.token)).unwrap());
        for proof in asked.proofs {
            headers.append(HeaderName::from_static("dpop"), HeaderValue::from_bytes(proof.as_ref()).unwrap());
        }
        let request = RequestView {
            method: &Method::GET,
            scheme: Scheme::Https,
            host: "api.example.com",
            port: Some(8443),
            path: "/orders/7",
            query: Some("a=b"),
            headers: &headers,
            client: IpAddr::from([192, 0, 2, 1]),
            connection: &connection,
        };
        self.world.handle.authenticate(policy, &request).await.map(verified)
    }
}

/// What a request shows.
struct Asked<'a> {
    scheme: &'a str,
    token: &'a str,
    proofs: &'a [&'a str],
    /// TLS, and the certificate shown in it.
    certificate: Option<Option<[u8; 32]>>,
}

fn dpop<'a>(token: &'a str, proofs: &'a [&'a str]) -> Asked<'a> {
    Asked { scheme: "DPoP", token, proofs, certificate: None }
}

fn bearer(token: &str) -> Asked<'_> {
    Asked { scheme: "Bearer", token, proofs: &[], certificate: None }
}

fn header_of(refusal: &Refusal, name: &HeaderName) -> Vec<String> {
    let fields = refusal.headers.iter().filter(|(found, _)| found == name);
    fields.map(|(_, value)| value.to_str().unwrap().to_owned()).collect()
}

fn challenge(refusal: &Refusal) -> String {
    header_of(refusal, &WWW_AUTHENTICATE).join(", ")
}

const ALGS: &str = r#"algs="ES256 ES384 ES512 EdDSA PS256 RS256""#;

#[tokio::test]
async fn a_token_and_a_fresh_proof_of_its_key_pass_by_every_algorithm() {
    let edge = Edge::new(&route()).await;
    use Algorithm::{ES256, ES384, ES512, EdDSA, PS256, RS256};
    for algorithm in [ES256, ES384, ES512, EdDSA, PS256, RS256] {
        let client = Client::new(algorithm);
        let token = edge.bound_to(&client);
        // The second time the token is known, and the proof is as new as the first.
        for _ in 0..2 {
            let verified = edge.ask(&dpop(&token, &[&client.proof(&token)])).await.unwrap_or_else(|r| panic!("{r:?}"));
            assert_eq!(verified.identity().subject(), Some("user-1"));
            assert_eq!(verified.answer_fields().count(), 0);
        }
    }
    assert!(edge.world.metrics().contains(r#"dpop_proofs_total{outcome="ok"} 12"#));
    assert!(edge.world.metrics().contains("token_cache_hits_total 6"));
    assert!(edge.world.metrics().contains("dpop_proofs_remembered 12"));
    edge.world.stop().await;
}

#[tokio::test]
async fn a_bound_token_is_nothing_to_whoever_holds_it_alone() {
    let edge = Edge::new(&route()).await;
    let (owner, thief) = (Client::new(Algorithm::ES256), Client::new(Algorithm::ES256));
    let token = edge.bound_to(&owner);
    // Known to the cache or not: the first round and the second.
    for _ in 0..2 {
        let refusal = edge.ask(&bearer(&token)).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::SenderUnproven);
        assert_eq!(
            challenge(&refusal),
            format!(
                r#"DPoP realm="sluice", error="invalid_token", error_description="The token is bound to a key and must come with a DPoP proof", {ALGS}"#
            )
        );
        let refusal = edge.ask(&Asked { proofs: &[&owner.proof(&token)], ..bearer(&token) }).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::SenderUnproven, "a proof beside Bearer is no DPoP");
        let refusal = edge.ask(&dpop(&token, &[&thief.proof(&token)])).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::SenderUnproven);
        assert_eq!(
            challenge(&refusal),
            format!(
                r#"DPoP realm="sluice", error="invalid_token", error_description="The token is bound to another key than the proof's", {ALGS}"#
            )
        );
    }
    // What is not bound gains nothing by DPoP, and goes on as Bearer.
    let unbound = edge.issuer.sign(&claims());
    let refusal = edge.ask(&dpop(&unbound, &[&thief.proof(&unbound)])).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::SenderUnbound);
    assert_eq!(
        challenge(&refusal),
        format!(
            r#"DPoP realm="sluice", error="invalid_token", error_description="The token is not bound to a key", {ALGS}"#
        )
    );
    assert!(edge.ask(&bearer(&unbound)).await.is_ok());
    // A binding that is not understood is not taken for none.
    for cnf in [json!({"jwk": owner.jwk()}), json!("x"), json!({"jkt": "short"}), json!({})] {
        let token = edge.token(cnf.clone());
        for asked in [bearer(&token), dpop(&token, &[&owner.proof(&token)])] {
            assert_eq!(edge.ask(&asked).await.unwrap_err().reason, Reason::SenderUnproven, "{cnf}");
        }
    }
    edge.world.stop().await;
}

/// One way of spoiling a proof, and the reason that follows.
type Cell = (String, String, Vec<String>, Reason);

fn cells(client: &Client, token: &str) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    let mut cell = |place: &str, name: &str, proofs: Vec<String>| {
        cells.push((place.to_owned(), name.to_owned(), proofs, Reason::ProofRejected));
    };
    let (header, claims) = (client.header(), client.claims(token));
    let fresh = || client.claims(token);
    let good = || client.proof(token);
    let whole = good();
    let parts: Vec<&str> = whole.split('.').collect();

    cell("field", "missing", vec![]);
    cell("field", "twice", vec![good(), good()]);
    cell("field", "two in one", vec![format!("{}, {}", good(), good())]);
    for (name, proof) in [
        ("empty", String::new()),
        ("one part", parts[0].to_owned()),
        ("two parts", parts[..2].join(".")),
        ("four parts", format!("{whole}.AAAA")),
        ("no header", format!(".{}.{}", parts[1], parts[2])),
        ("no claims", format!("{}..{}", parts[0], parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("padding", format!("{}==.{}.{}", parts[0], parts[1], parts[2])),
        ("padding of the signature", format!("{whole}==")),
        ("the other alphabet", format!("{}.{}.{}+/", parts[0], parts[1], parts[2])),
        ("too long", client.sign(&header, &with(fresh(), "x", json!("x".repeat(5000))))),
        ("not ASCII", "\u{e4}.\u{e4}.\u{e4}".into()),
    ] {
        cell("form", name, vec![proof]);
    }
    for (name, text) in [
        ("null", "null"),
        ("array", "[]"),
        ("duplicate member", r#"{"typ":"dpop+jwt","typ":"dpop+jwt"}"#),
        ("trailing", "{}{}"),
    ] {
        cell("json", &format!("header {name}"), vec![client.signer.sign_raw(text, fresh().to_string())]);
        cell("json", &format!("claims {name}"), vec![client.signer.sign_raw(header.to_string(), text)]);
    }
    let twice = fresh().to_string().replacen('{', r#"{"htm":"POST","#, 1);
    cell("json", "claims htm twice", vec![client.signer.sign_raw(header.to_string(), twice)]);

    for typ in [
        json!("JWT"),
        json!("at+jwt"),
        json!("DPOP+JWT"),
        json!("application/dpop+jwt"),
        json!(null),
        json!(["dpop+jwt"]),
    ] {
        cell("typ", &typ.to_string(), vec![client.sign(&with(header.clone(), "typ", typ.clone()), &fresh())]);
    }
    cell("typ", "absent", vec![client.sign(&without(header.clone(), "typ"), &fresh())]);
    for alg in ["none", "None", "HS256", "RS1", "es256", "ES256K", "ES384", "RS256", "EdDSA", "RS384", ""] {
        cell("alg", alg, vec![client.sign(&with(header.clone(), "alg", json!(alg)), &fresh())]);
    }
    cell("alg", "absent", vec![client.sign(&without(header.clone(), "alg"), &fresh())]);
    cell("alg", "number", vec![client.sign(&with(header.clone(), "alg", json!(5)), &fresh())]);
    for (name, value) in [("crit", json!([])), ("crit", json!(["exp"])), ("b64", json!(true)), ("b64", json!(false))] {
        cell("critical", &format!("{name} {value}"), vec![client.sign(&with(header.clone(), name, value), &fresh())]);
    }
    // The key: absent, not public, of no use.
    cell("jwk", "absent", vec![client.sign(&without(header.clone(), "jwk"), &fresh())]);
    for jwk in [json!(null), json!("x"), json!([]), json!({}), json!({"kty": "oct", "k": "AAAA"})] {
        cell("jwk", &jwk.to_string(), vec![client.sign(&with(header.clone(), "jwk", jwk.clone()), &fresh())]);
    }
    for (name, value) in [
        ("d", json!("AAAA")),
        ("p", json!("AAAA")),
        ("q", json!("AAAA")),
        ("dp", json!("AAAA")),
        ("dq", json!("AAAA")),
        ("qi", json!("AAAA")),
        ("oth", json!([])),
        ("k", json!("AAAA")),
        ("use", json!("enc")),
        ("use", json!(5)),
        ("key_ops", json!(["sign"])),
        ("alg", json!("ES384")),
        ("alg", json!("none")),
        ("kty", json!("RSA")),
        ("x", json!(5)),
        ("x", json!("AA==")),
    ] {
        let jwk = with(client.jwk(), name, value.clone());
        cell("jwk", &format!("{name} {value}"), vec![client.sign(&with(header.clone(), "jwk", jwk), &fresh())]);
    }
    for (name, kid) in [("kid", "k"), ("jku", "https://evil"), ("x5u", "https://evil")] {
        let bare = with(without(header.clone(), "jwk"), name, json!(kid));
        cell("jwk", &format!("{name} in its place"), vec![client.sign(&bare, &fresh())]);
    }

    // The claims: absent, of another form, of another request.
    for name in ["jti", "htm", "htu", "iat", "ath"] {
        cell("claims", &format!("{name} absent"), vec![client.sign(&header, &without(fresh(), name))]);
        for value in [json!(null), json!([]), json!({}), json!(true)] {
            let spoiled = with(fresh(), name, value.clone());
            cell("claims", &format!("{name} {value}"), vec![client.sign(&header, &spoiled)]);
        }
    }
    let other_token = b64(sha256("another"));
    let hex: String = sha256(token).iter().map(|byte| format!("{byte:02x}")).collect();
    for (name, value) in [
        ("jti", json!("")),
        ("jti", json!("x".repeat(257))),
        ("jti", json!(5)),
        ("htm", json!("POST")),
        ("htm", json!("get")),
        ("htm", json!("")),
        ("htm", json!("GET ")),
        ("htu", json!("")),
        ("htu", json!("/orders/7")),
        ("htu", json!("http://api.example.com:8443/orders/7")),
        ("htu", json!("https://api.example.com/orders/7")),
        ("htu", json!("https://api.example.com:8443/orders")),
        ("htu", json!("https://api.example.com:8443/orders/7/")),
        ("htu", json!("https://evil:8443/orders/7")),
        ("htu", json!("https://x@api.example.com:8443/orders/7")),
        ("iat", json!(NOW.to_string())),
        ("iat", json!(-1)),
        ("iat", json!(1e300)),
        ("iat", json!(NOW * 1000)),
        ("iat", json!(NOW - 61)),
        ("iat", json!(NOW + 6)),
        ("iat", json!(0)),
        ("ath", json!(other_token)),
        ("ath", json!("")),
        ("ath", json!(hex)),
        ("ath", json!(format!("{}=", b64(sha256(token))))),
        ("nonce", json!(5)),
        ("nonce", json!(null)),
    ] {
        let shown = value.to_string().chars().take(48).collect::<String>();
        cell("claims", &format!("{name} {shown}"), vec![client.sign(&header, &with(fresh(), name, value))]);
    }

    // The signature: of another message, of another key, bent.
    cell("signature", "of another proof", vec![format!("{}.{}.{}", parts[0], b64(fresh().to_string()), parts[2])]);
    cell("signature", "zero", vec![format!("{}.{}.{}", parts[0], parts[1], b64([0; 64]))]);
    cell("signature", "too short", vec![format!("{}.{}.{}", parts[0], parts[1], b64([1; 63]))]);
    cell("signature", "too long", vec![format!("{}.{}.{}", parts[0], parts[1], b64([1; 65]))]);
    cell("signature", "longer than any", vec![format!("{}.{}.{}", parts[0], parts[1], b64([1; 1025]))]);
    let other = Client::new(client.signer.algorithm);
    cell("signature", "by another key", vec![other.sign(&header, &fresh())]);
    let own = client.signer.header();
    cell("signature", "an access token as proof", vec![client.sign(&own, &claims)]);

    // The key is sound, and not the token's.
    cells.push(("key".into(), "another".into(), vec![other.proof(token)], Reason::SenderUnproven));
    let other = Client::new(Algorithm::RS256);
    cells.push(("key".into(), "of another type".into(), vec![other.proof(token)], Reason::SenderUnproven));
    cells
}

#[tokio::test]
async fn every_cell_of_the_table_of_bad_proofs_is_refused() {
    let edge = Edge::new(&route()).await;
    let client = Client::new(Algorithm::ES256);
    let token = edge.bound_to(&client);
    assert!(edge.ask(&dpop(&token, &[&client.proof(&token)])).await.is_ok());
    let cells = cells(&client, &token);
    let mut wrong = Vec::new();
    let mut places = std::collections::BTreeMap::<&str, usize>::new();
    for (place, name, proofs, expected) in &cells {
        *places.entry(place).or_default() += 1;
        let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
        match edge.ask(&dpop(&token, &proofs)).await {
            Err(refusal) if refusal.reason == *expected => {
                assert_eq!(refusal.status().as_u16(), 401);
                let code = if *expected == Reason::ProofRejected { "invalid_dpop_proof" } else { "invalid_token" };
                let found = challenge(&refusal);
                assert!(found.starts_with(&format!(r#"DPoP realm="sluice", error="{code}", "#)), "{found}");
                assert!(found.ends_with(ALGS), "{found}");
                let told = refusal.internal.unwrap_or_default();
                assert!(proofs.iter().all(|proof| proof.len() < 9 || !told.contains(proof)), "{told}");
            }
            other => wrong
                .push(format!("{place}: {name}: {:?}", other.map(|_| "accepted").map_err(|r| (r.reason, r.internal)))),
        }
    }
    println!("bad proofs: {} cells: {places:?}", cells.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
    assert!(cells.len() > 120, "{}", cells.len());
    // None of them was remembered: whoever cannot sign fills no memory.
    assert!(edge.world.metrics().contains("dpop_proofs_remembered 1"), "{}", edge.world.metrics());
    edge.world.stop().await;
}

#[tokio::test]
async fn short_and_long_rsa_keys_are_refused() {
    let edge = Edge::new(&route()).await;
    for (bytes, why) in [(128_usize, "RSA under 2048 bits"), (513, "RSA over 4096 bits"), (1024, "RSA over 4096 bits")]
    {
        let mut modulus = vec![0xff; bytes];
        modulus[0] = 0x80;
        let jwk = json!({"kty": "RSA", "n": b64(modulus), "e": "AQAB"});
        let token = edge.token(json!({ "jkt": thumbprint(&jwk) }));
        let client = Client::new(Algorithm::ES256);
        let header = json!({"typ": "dpop+jwt", "alg": "RS256", "jwk": jwk});
        let proof = client.sign(&header, &client.claims(&token));
        let refusal = edge.ask(&dpop(&token, &[&proof])).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::ProofRejected);
        assert!(refusal.internal.as_deref().unwrap_or_default().contains(why), "{:?}", refusal.internal);
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn a_proof_is_good_within_its_window_and_once() {
    let edge = Edge::new(&route()).await;
    let client = Client::new(Algorithm::ES256);
    let token = edge.bound_to(&client);
    for iat in [json!(NOW - 60), json!(NOW + 5), json!(NOW as f64 + 5.9)] {
        let proof = client.sign(&client.header(), &with(client.claims(&token), "iat", iat.clone()));
        assert!(edge.ask(&dpop(&token, &[&proof])).await.is_ok(), "{iat}");
        assert_eq!(edge.ask(&dpop(&token, &[&proof])).await.unwrap_err().reason, Reason::ProofRejected, "{iat}");
    }
    // The same jti over other claims is the same proof.
    let first = client.claims(&token);
    assert!(edge.ask(&dpop(&token, &[&client.sign(&client.header(), &first)])).await.is_ok());
    let second = client.sign(&client.header(), &with(first.clone(), "iat", json!(NOW - 1)));
    assert_eq!(edge.ask(&dpop(&token, &[&second])).await.unwrap_err().reason, Reason::ProofRejected);
    // Another configuration does not make it new.
    let policy = edge.again(&RouteAuth {
        scopes: sluice_auth::Scopes { all: vec!["orders:read".into()], ..sluice_auth::Scopes::default() },
        ..route()
    });
    let proof = client.sign(&client.header(), &first);
    assert_eq!(edge.ask_by(&policy, &dpop(&token, &[&proof])).await.unwrap_err().reason, Reason::ProofRejected);
    // Until its last second, and then it is too old anyway.
    let young = client.sign(&client.header(), &with(client.claims(&token), "iat", json!(NOW + 5)));
    assert!(edge.ask(&dpop(&token, &[&young])).await.is_ok());
    for _ in 0..67 {
        edge.world.clock.advance(Duration::from_secs(1));
        assert_eq!(edge.ask(&dpop(&token, &[&young])).await.unwrap_err().reason, Reason::ProofRejected);
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn a_clock_that_is_set_forward_and_back_makes_no_proof_new() {
    let edge = Edge::new(&route()).await;
    let client = Client::new(Algorithm::ES256);
    let token = edge.bound_to(&client);
    let used = client.proof(&token);
    assert!(edge.ask(&dpop(&token, &[&used])).await.is_ok());
    // Long after its window by the clock on the wall. Others come, so that the memory is swept of what is over.
    edge.world.clock.set(NOW + 200);
    edge.world.clock.advance(Duration::from_secs(20));
    for _ in 0..600 {
        let other = client.sign(&client.header(), &with(client.claims(&token), "iat", json!(NOW + 220)));
        assert!(edge.ask(&dpop(&token, &[&other])).await.is_ok());
    }
    edge.world.clock.set(NOW + 20);
    assert_eq!(edge.ask(&dpop(&token, &[&used])).await.unwrap_err().reason, Reason::ProofRejected);
    // Nor is one new that was used while the clock was ahead.
    edge.world.clock.set(NOW + 60);
    let early = client.sign(&client.header(), &with(client.claims(&token), "iat", json!(NOW + 60)));
    assert!(edge.ask(&dpop(&token, &[&early])).await.is_ok());
    edge.world.clock.set(NOW + 50);
    assert_eq!(edge.ask(&dpop(&token, &[&early])).await.unwrap_err().reason, Reason::ProofRejected);
    edge.world.clock.advance(Duration::from_secs(10));
    assert_eq!(edge.ask(&dpop(&token, &[&early])).await.unwrap_err().reason, Reason::ProofRejected);
    edge.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_one_proof_sent_many_times_at_once_one_passes() {
    let edge = Arc::new(Edge::new(&route()).await);
    let client = Client::new(Algorithm::ES256);
    let token = edge.bound_to(&client);
    for _ in 0..20 {
        let proof = client.proof(&token);
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (edge, token, proof) = (Arc::clone(&edge), token.clone(), proof.clone());
            asked.spawn(async move { edge.ask(&dpop(&token, &[&proof])).await.is_ok() });
        }
        let passed = asked.join_all().await.into_iter().filter(|passed| *passed).count();
        assert_eq!(passed, 1);
    }
}

#[tokio::test]
async fn a_full_memory_refuses_with_503_rather_than_forget() {
    let mut config = Config::default();
    config.dpop.replay_cache = ByteSize::kib(64);
    let edge = Edge::with(config, &route()).await;
    let client = Client::new(Algorithm::EdDSA);
    let token = edge.bound_to(&client);
    let mut passed = Vec::new();
    let refusal = loop {
        let proof = client.proof(&token);
        match edge.ask(&dpop(&token, &[&proof])).await {
            Ok(_) => passed.push(proof),
            Err(refusal) => break refusal,
        }
        assert!(passed.len() < 5000, "it never is full");
    };
    assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::ProofsUnavailable, 503));
    assert_eq!((header_of(&refusal, &RETRY_AFTER), challenge(&refusal)), (vec!["1".to_owned()], String::new()));
    for proof in &passed {
        assert_eq!(edge.ask(&dpop(&token, &[proof])).await.unwrap_err().reason, Reason::ProofRejected);
    }
    // A configuration that is dropped again gives it no more room, and takes none away.
    let mut other = edge.world.config.clone();
    other.dpop.replay_cache = ByteSize::mib(16);
    drop(edge.world.handle.prepare(&other, &BTreeMap::new()).unwrap());
    for more in 0.. {
        assert!(more < 1000, "there is room all at once");
        if edge.ask(&dpop(&token, &[&client.proof(&token)])).await.is_err() {
            break;
        }
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn a_nonce_is_demanded_handed_out_and_renewed_before_it_ends() {
    let mut config = Config::default();
    config.dpop.nonce = Some(NonceConfig { lifetime: Span::secs(100) });
    let edge = Edge::with(config, &route()).await;
    let client = Client::new(Algorithm::ES256);
    let token = edge.bound_to(&client);
    let nonce_field = HeaderName::from_static("dpop-nonce");
    let ask = async |nonce: Option<&str>, now: u64| {
        let claims = with(client.claims(&token), "iat", json!(now));
        let claims = nonce.map_or(claims.clone(), |nonce| with(claims, "nonce", json!(nonce)));
        edge.ask(&dpop(&token, &[&client.sign(&client.header(), &claims)])).await
    };
    let demanded = |refusal: &Refusal| {
        assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::ProofNonce, 401));
        let expected = format!(
            r#"DPoP realm="sluice", error="use_dpop_nonce", error_description="The DPoP proof needs this server's nonce", {ALGS}"#
        );
        assert_eq!(challenge(refusal), expected);
        header_of(refusal, &nonce_field).remove(0)
    };
    let first = demanded(&ask(None, NOW).await.unwrap_err());
    assert_eq!(demanded(&ask(Some("made up"), NOW).await.unwrap_err()), first);
    assert_eq!(ask(Some(&first), NOW).await.unwrap().answer_fields().count(), 0);
    // In the next step it is still good, and its successor comes with the answer.
    edge.world.clock.advance(Duration::from_secs(100));
    let verified = ask(Some(&first), NOW + 100).await.unwrap();
    let (name, second) = verified.answer_fields().next().unwrap();
    assert_eq!(name, nonce_field);
    let second = second.to_str().unwrap().to_owned();
    assert_ne!(second, first);
    assert_eq!(ask(Some(&second), NOW + 100).await.unwrap().answer_fields().count(), 0);
    edge.world.clock.advance(Duration::from_secs(100));
    assert_ne!(demanded(&ask(Some(&first), NOW + 200).await.unwrap_err()), second);
    assert!(ask(Some(&second), NOW + 200).await.is_ok());
    // A change of something else leaves nonces good.
    edge.again(&route());
    assert!(ask(Some(&second), NOW + 200).await.is_ok());
    edge.world.stop().await;
}

#[tokio::test]
async fn a_certificate_bound_token_is_good_on_a_connection_that_showed_it_alone() {
    let edge = Edge::new(&route()).await;
    let certificate = <[u8; 32]>::try_from(sha256("certificate")).unwrap();
    let token = edge.token(json!({ "x5t#S256": b64(certificate) }));
    for _ in 0..2 {
        assert!(edge.ask(&Asked { certificate: Some(Some(certificate)), ..bearer(&token) }).await.is_ok());
        for shown in [None, Some(None), Some(Some([7; 32]))] {
            let refusal = edge.ask(&Asked { certificate: shown, ..bearer(&token) }).await.unwrap_err();
            assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::SenderUnproven, 401));
            assert_eq!(
                challenge(&refusal),
                r#"Bearer realm="sluice", error="invalid_token", error_description="The token is bound to another certificate than the connection's""#
            );
        }
    }
    // Bound twice, it needs both.
    let client = Client::new(Algorithm::ES256);
    let token = edge.token(json!({ "x5t#S256": b64(certificate), "jkt": client.thumbprint() }));
    let both = async |certificate, proof: &str| edge.ask(&Asked { certificate, ..dpop(&token, &[proof]) }).await;
    assert!(both(Some(Some(certificate)), &client.proof(&token)).await.is_ok());
    assert_eq!(both(Some(None), &client.proof(&token)).await.unwrap_err().reason, Reason::SenderUnproven);
    assert_eq!(both(Some(Some(certificate)), "").await.unwrap_err().reason, Reason::ProofRejected);
    edge.world.stop().await;
}

#[tokio::test]
async fn a_route_takes_the_bindings_that_it_demands_and_says_which() {
    let edge = Edge::new(&route()).await;
    let client = Client::new(Algorithm::ES256);
    let certificate = [9; 32];
    let unbound = edge.issuer.sign(&claims());
    let by_key = edge.bound_to(&client);
    let by_certificate = edge.token(json!({ "x5t#S256": b64(certificate) }));
    use SenderConstraint as S;
    for (constraint, expected) in [
        (S::None, [true, true, true]),
        (S::Dpop, [false, true, false]),
        (S::Mtls, [false, false, true]),
        (S::Any, [false, true, true]),
    ] {
        let policy = edge.again(&RouteAuth { sender_constraint: constraint, ..route() });
        let proof = client.proof(&by_key);
        let proofs = [&*proof];
        let asked = [
            bearer(&unbound),
            dpop(&by_key, &proofs),
            Asked { certificate: Some(Some(certificate)), ..bearer(&by_certificate) },
        ];
        for (asked, expected) in asked.iter().zip(expected) {
            match edge.ask_by(&policy, asked).await {
                Ok(_) => assert!(expected, "{constraint:?}"),
                Err(refusal) => {
                    assert!(!expected && refusal.reason == Reason::SenderUnbound, "{constraint:?} {refusal:?}")
                }
            }
        }
        let nothing = Asked { scheme: "Basic", token: "dTpw", proofs: &[], certificate: None };
        let refusal = edge.ask_by(&policy, &nothing).await.unwrap_err();
        let bearer = r#"Bearer realm="sluice""#.to_owned();
        let dpop = format!(r#"DPoP realm="sluice", {ALGS}"#);
        let challenges = match constraint {
            S::None | S::Mtls => vec![bearer],
            S::Dpop => vec![dpop],
            S::Any => vec![bearer, dpop],
        };
        assert_eq!(header_of(&refusal, &WWW_AUTHENTICATE), challenges, "{constraint:?}");
    }
    edge.world.stop().await;
}

#[tokio::test]
async fn a_client_that_speaks_dpop_is_answered_in_its_own_scheme() {
    let edge = Edge::new(&RouteAuth {
        scopes: sluice_auth::Scopes { all: vec!["a".into()], ..sluice_auth::Scopes::default() },
        ..route()
    })
    .await;
    let client = Client::new(Algorithm::ES256);
    let token = edge.bound_to(&client);
    let refusal = edge.ask(&dpop(&token, &[&client.proof(&token)])).await.unwrap_err();
    assert_eq!(
        challenge(&refusal),
        format!(
            r#"DPoP realm="sluice", error="insufficient_scope", error_description="The token lacks a required scope", scope="a", {ALGS}"#
        )
    );
    let expired = edge.issuer.sign(&with(claims(), "exp", json!(5)));
    let refusal = edge.ask(&dpop(&expired, &[])).await.unwrap_err();
    assert_eq!(
        challenge(&refusal),
        format!(r#"DPoP realm="sluice", error="invalid_token", error_description="The token has expired", {ALGS}"#)
    );
    edge.world.stop().await;
}

#[test]
fn the_configuration_has_the_documented_shape_and_its_faults_have_their_places() {
    use sluice_vocabulary::{Faults, Path};
    let config: Config = serde_json::from_value(json!({
        "dpop": {"algorithms": [], "max_age": "1s", "leeway": "2m", "replay_cache": "1B", "nonce": {"lifetime": "1s"}},
        "identity_tokens": {"issuer": "", "rotate": "1s", "state_dir": "", "algorithm": "EdDSA"},
    }))
    .unwrap();
    let route: RouteAuth = serde_json::from_value(json!({
        "issuer": "corp", "sender_constraint": "dpop", "claims_to_headers": {"X-Id": "sub"},
        "identity_token": {"header": "x-id", "audience": "", "lifetime": "1s", "claims": ["", "aud", "a", "a"]},
    }))
    .unwrap();
    let mut faults = Faults::new();
    config.validate(&Path::root().key("auth"), &mut faults);
    route.validate(&Path::root().key("route"), &mut faults);
    let told: Vec<_> = faults.into_vec().iter().map(ToString::to_string).collect();
    for path in [
        "auth.dpop.algorithms: ",
        "auth.dpop.max_age: ",
        "auth.dpop.leeway: ",
        "auth.dpop.replay_cache: ",
        "auth.dpop.nonce.lifetime: ",
        "auth.identity_tokens.issuer: ",
        "auth.identity_tokens.rotate: ",
        "auth.identity_tokens.state_dir: ",
        "route.identity_token.header: ",
        "route.identity_token.audience: ",
        "route.identity_token.lifetime: ",
        "route.identity_token.claims[0]: ",
        "route.identity_token.claims[1]: ",
        "route.identity_token.claims[3]: ",
    ] {
        assert!(told.iter().any(|fault| fault.starts_with(path)), "{path} in\n{}", told.join("\n"));
    }
    assert_eq!(told.len(), 14, "{told:#?}");
    assert!(serde_json::from_value::<RouteAuth>(json!({"issuer": "corp", "sender_constraint": "required"})).is_err());
}
