//! What a sender-constrained request and an identity token cost, beside the crypto library's own figures.
//!
//! ```text
//! cargo run --release -p sluice-auth --example bound_cost [round]
//! ```
//!
//! One thread, medians of rounds that are played in turn, so that a busy machine moves all of them alike. For every
//! algorithm: a bare verification of the proof's signature with a parsed key, and a whole request whose token is in the
//! cache and whose proof is new. Then an identity token signed for somebody new, and one used again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a measurement")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self as lc, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::*;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use sluice_auth::{Algorithm, Config, JwksConfig, RouteAuth};
use sluice_vocabulary::request::{Connection, RequestView, Scheme};

const ROUNDS: usize = 15;

fn main() {
    let round: usize = std::env::args().nth(1).map_or(400, |count| count.parse().expect("a number"));
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(measure(round));
}

async fn measure(round: usize) {
    let issuer = Signer::new("k", Algorithm::ES256);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&issuer]))).await;
    let issuers = issuers(issuer_config(JwksConfig::from_url(endpoint.url())));
    let identity_token = serde_json::from_value(json!({"audience": "orders", "claims": ["tenant"]})).unwrap();
    let route = RouteAuth { identity_token: Some(identity_token), ..route() };
    let config = Config { signature_checks_per_address: None, ..Config::default() };
    let (world, policy) = World::start(config, &issuers, &route);
    world.ready().await;
    println!("{:<44} {:>10}", "microseconds, median", "µs");

    for algorithm in [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::RS256] {
        let client = Signer::new("", algorithm);
        let jwk = without(client.jwk(), "kid");
        let token = issuer.sign(&with(claims(), "cnf", json!({ "jkt": thumbprint(&jwk) })));
        let ath = b64(digest::digest(&digest::SHA256, token.as_bytes()));
        let header = json!({"typ": "dpop+jwt", "alg": algorithm.name(), "jwk": jwk}).to_string();
        let proof = |number: usize| {
            let claims = json!({"jti": format!("{number:032}"), "htm": "GET", "htu": "https://api.example.com/orders/7",
                                "iat": NOW, "ath": ath});
            client.sign_raw(&header, claims.to_string())
        };
        let key = parsed(&jwk, algorithm);
        let (mut bare, mut whole) = (Vec::new(), Vec::new());
        for played in 0..ROUNDS {
            let proofs: Vec<String> = (0..round).map(|number| proof(played * round + number)).collect();
            let began = Instant::now();
            for proof in &proofs {
                let (message, signature) = proof.rsplit_once('.').unwrap();
                let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
                black_box(key.verify_sig(message.as_bytes(), &signature)).unwrap();
            }
            bare.push(began.elapsed());
            let requests: Vec<HeaderMap> = proofs.iter().map(|proof| fields(&token, Some(proof))).collect();
            let began = Instant::now();
            for headers in &requests {
                black_box(ask(&world, &policy, headers).await);
            }
            whole.push(began.elapsed());
        }
        println!("{:<44} {:>10.2}", format!("{} verify alone", algorithm.name()), median(&mut bare, round));
        println!(
            "{:<44} {:>10.2}",
            format!("{} request, token known, proof new", algorithm.name()),
            median(&mut whole, round)
        );
    }

    let (mut new, mut again, mut known) = (Vec::new(), Vec::new(), Vec::new());
    let bearer = fields(&issuer.sign(&claims()), None);
    for played in 0..ROUNDS {
        let mut verified = Vec::with_capacity(round);
        for number in 0..round {
            let token = issuer.sign(&with(claims(), "sub", json!(format!("user {played} {number}"))));
            verified.push(ask(&world, &policy, &fields(&token, None)).await);
        }
        for times in [&mut new, &mut again] {
            let began = Instant::now();
            for one in &verified {
                black_box(policy.identity_headers(one).count());
            }
            times.push(began.elapsed());
        }
        let began = Instant::now();
        for _ in 0..round {
            black_box(ask(&world, &policy, &bearer).await);
        }
        known.push(began.elapsed());
    }
    println!("{:<44} {:>10.2}", "identity token signed (ES256)", median(&mut new, round));
    println!("{:<44} {:>10.3}", "identity token used again", median(&mut again, round));
    println!("{:<44} {:>10.3}", "bearer request, token known", median(&mut known, round));
    world.stop().await;
}

fn median(times: &mut [Duration], round: usize) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6 / round as f64
}

fn fields(token: &str, proof: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let scheme = if proof.is_some() { "DPoP" } else { "Bearer" };
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("{scheme} {token}")).unwrap());
    if let Some(proof) = proof {
        headers.insert(HeaderName::from_static("dpop"), HeaderValue::try_from(proof).unwrap());
    }
    headers
}

async fn ask(world: &World, policy: &Arc<sluice_auth::Policy>, headers: &HeaderMap) -> sluice_auth::Proof {
    let peer = SocketAddr::from(([192, 0, 2, 1], 1000));
    let connection = Connection { id: 1, peer, local: peer, client: peer, tls: None, cookie: None, listener: 0 };
    let request = RequestView {
        method: &Method::GET,
        scheme: Scheme::Https,
        host: "api.example.com",
        port: None,
        path: "/orders/7",
        query: None,
        headers,
        client: peer.ip(),
        connection: &connection,
    };
    world.handle.authenticate(policy, &request).await.unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

fn thumbprint(jwk: &Value) -> String {
    let text = |name: &str| jwk[name].as_str().unwrap();
    let json = match text("kty") {
        "RSA" => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text("e"), text("n")),
        "EC" => format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, text("crv"), text("x"), text("y")),
        _ => format!(r#"{{"crv":"{}","kty":"OKP","x":"{}"}}"#, text("crv"), text("x")),
    };
    b64(digest::digest(&digest::SHA256, json.as_bytes()))
}

fn parsed(jwk: &Value, algorithm: Algorithm) -> ParsedPublicKey {
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    let point = || [vec![4], bytes("x"), bytes("y")].concat();
    match algorithm {
        Algorithm::ES256 => ParsedPublicKey::new(&lc::ECDSA_P256_SHA256_FIXED, point()).unwrap(),
        Algorithm::ES384 => ParsedPublicKey::new(&lc::ECDSA_P384_SHA384_FIXED, point()).unwrap(),
        Algorithm::EdDSA => ParsedPublicKey::new(&lc::ED25519, bytes("x")).unwrap(),
        _ => lc::RsaPublicKeyComponents { n: bytes("n"), e: bytes("e") }
            .to_parsed_public_key(&lc::RSA_PKCS1_2048_8192_SHA256)
            .unwrap(),
    }
}
