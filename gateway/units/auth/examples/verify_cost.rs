//! What a check costs beside the bare signature: `cargo run --release -p sluice-auth --example verify_cost -- [ALGORITHM…]`
//! prints, for each algorithm, the crypto library's own verification with a parsed key, the whole unit on tokens never
//! seen (their number times their size is larger than the cache), and the whole unit on tokens seen twice just now: medians of
//! interleaved rounds, in microseconds. What the check of a new token takes beyond the bare signature is the median of the
//! rounds' own differences, since what disturbs a round mostly disturbs both.
//!
//! With `--only raw|new|seen` one of the three is repeated alone, for a profiler, and `--tokens NUMBER` makes it short.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a measuring tool")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom as LcRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self as lc, KeyPair as _, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use sluice_auth::{
    AddressBudget, Algorithm, Config, Deps, Handle, IssuerConfig, JwksConfig, Policy, RouteAuth, Scopes, Unit,
};
use sluice_vocabulary::clock::{Clock as _, SystemClock, SystemRandom};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::request::{Connection, RequestView, Scheme};
use sluice_vocabulary::unit::{State, Stop, Task as _};
use sluice_vocabulary::{IssuerName, Path, RouteName};

/// As in the gateway: a check allocates what it keeps of a token.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Distinct tokens of each algorithm, where the arguments do not say.
const TOKENS: usize = 8_192;

/// The cache has this for each of them, which is a fifth of what they need: none is found again a lap later.
const CACHE_PER_TOKEN: usize = 256;

/// Tokens of one round; a round times each of the three kinds once. It is short, so that most rounds are not disturbed.
const BATCH: usize = 16;

/// Laps through the tokens, the first of them to warm up.
const LAPS: usize = 4;

const MEASURED: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::ES512, Algorithm::EdDSA];
const ISSUER: &str = "https://id.example.com";

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.remove(at);
        Some(arguments.remove(at))
    };
    let only = option("--only");
    let tokens = option("--tokens").map_or(TOKENS, |number| number.parse().expect("a number of tokens"));
    let wanted = |algorithm: &Algorithm| arguments.is_empty() || arguments.iter().any(|name| name == algorithm.name());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    println!("             raw     new  new-raw    seen   (µs, medians of rounds of {BATCH} tokens)");
    for algorithm in MEASURED.into_iter().filter(wanted) {
        let bench = runtime.block_on(Bench::new(algorithm, tokens));
        match only.as_deref() {
            None => {
                let [raw, new, beyond, seen] = runtime.block_on(bench.rounds());
                println!("{:>6}   {raw:7.2} {new:7.2}  {beyond:7.2} {seen:7.2}", algorithm.name());
            }
            Some(kind) => runtime.block_on(bench.alone(kind)),
        }
    }
}

/// A token, and what the crypto library needs of it.
struct Token {
    field: HeaderValue,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

/// The unit with one issuer of one key, and the key.
struct Bench {
    handle: Handle,
    policy: Arc<Policy>,
    key: ParsedPublicKey,
    tokens: Vec<Token>,
    connection: Connection,
}

impl Bench {
    async fn new(algorithm: Algorithm, tokens: usize) -> Self {
        let signer = Signer::new(algorithm);
        let tokens: Vec<_> = (0..tokens.next_multiple_of(BATCH)).map(|number| signer.token(number)).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let keys = json!({ "keys": [signer.jwk()] }).to_string();
        std::fs::write(folder.path().join("jwks.json"), keys).expect("a file of keys");

        let config = Config {
            token_cache: ByteSize::bytes((tokens.len() * CACHE_PER_TOKEN) as u64),
            // As costly as in service, and never in the way.
            signature_checks_per_address: Some(AddressBudget {
                checks: 1_000_000,
                burst: 1_000_000,
                per: Span::millis(100),
                ..AddressBudget::default()
            }),
            ..Config::default()
        };
        let deps = Deps {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            base_dir: folder.path().to_owned(),
            background: tokio::runtime::Handle::current(),
        };
        let mut registry = prometheus_client::registry::Registry::default();
        let (handle, mut task) = Unit::new(&config, deps, &mut registry);
        let (stopper, stop) = Stop::new();
        let task = tokio::spawn(async move { task.run(stop).await });
        let corp = IssuerName::new("corp").expect("a name");
        let issuer = json!({
            "issuer": ISSUER,
            "audiences": ["edge"],
            "algorithms": [algorithm],
            "jwks": JwksConfig::from_file("jwks.json"),
        });
        let issuer: IssuerConfig = serde_json::from_value(issuer).expect("an issuer's configuration");
        let route = RouteAuth {
            issuer: Some(corp.clone()),
            scopes: Scopes { all: vec!["orders:read".into()], ..Scopes::default() },
            ..RouteAuth::default()
        };
        let prepared = handle.prepare(&config, &BTreeMap::from([(corp, issuer)])).expect("a configuration");
        let name = RouteName::new("all").expect("a name");
        let policy = prepared.policy(&name, &route, &Path::root()).expect("a route's policy");
        handle.commit(prepared);
        handle.health().watch().wait_for(|state| *state == State::Ready).await.expect("keys");
        // The keys are read: nothing in the background shall share the core from here on.
        stopper.stop();
        task.await.expect("the task ends");

        let peer = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1000));
        let connection = Connection { id: 1, peer, local: peer, client: peer, tls: None, cookie: None, listener: 0 };
        Self { handle, policy, key: signer.parsed(), tokens, connection }
    }

    /// The medians of raw, of new, of what new takes beyond raw, and of seen, in microseconds.
    async fn rounds(&self) -> [f64; 4] {
        let mut times = [const { Vec::new() }; 4];
        for round in 0..self.lap() * LAPS {
            let batch = self.batch(round);
            let headers = requests(batch);
            // Whichever is first finds colder memory, so raw and new take turns.
            let (raw, new) = if round % 2 == 0 {
                let raw = self.raw(batch);
                (raw, self.ask(&headers).await)
            } else {
                let new = self.ask(&headers).await;
                (self.raw(batch), new)
            };
            // A full cache keeps what comes a second time.
            self.ask(&headers).await;
            let seen = self.ask(&headers).await;
            if round >= self.lap() {
                let each = |time: Duration| time.as_secs_f64() * 1e6 / BATCH as f64;
                let (raw, new, seen) = (each(raw), each(new), each(seen));
                [raw, new, new - raw, seen].into_iter().zip(&mut times).for_each(|(time, times)| times.push(time));
            }
        }
        times.map(median)
    }

    /// Repeats one kind.
    async fn alone(&self, kind: &str) {
        for round in 0..self.lap() * LAPS {
            let batch = self.batch(round);
            match kind {
                "raw" => drop(self.raw(batch)),
                "new" => drop(self.ask(&requests(batch)).await),
                "seen" => drop(self.ask(&requests(self.batch(0))).await),
                other => panic!("{other} is none of raw, new and seen"),
            }
        }
    }

    /// Rounds of a lap.
    fn lap(&self) -> usize {
        self.tokens.len() / BATCH
    }

    fn batch(&self, round: usize) -> &[Token] {
        let at = round % self.lap() * BATCH;
        &self.tokens[at..at + BATCH]
    }

    fn raw(&self, batch: &[Token]) -> Duration {
        let begun = Instant::now();
        for token in batch {
            let verified = self.key.verify_sig(black_box(&token.signed), black_box(&token.signature));
            assert!(verified.is_ok(), "a good signature");
        }
        begun.elapsed()
    }

    async fn ask(&self, requests: &[HeaderMap]) -> Duration {
        let begun = Instant::now();
        for headers in requests {
            let request = RequestView {
                method: &Method::GET,
                scheme: Scheme::Https,
                host: "api.example.com",
                port: None,
                path: "/orders/7",
                query: None,
                headers,
                client: self.connection.client.ip(),
                connection: &self.connection,
            };
            let verified = self.handle.authenticate(&self.policy, &request).await;
            assert!(black_box(verified).is_ok(), "a good token");
        }
        begun.elapsed()
    }
}

fn requests(batch: &[Token]) -> Vec<HeaderMap> {
    batch.iter().map(|token| HeaderMap::from_iter([(AUTHORIZATION, token.field.clone())])).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A private key.
enum Pair {
    Rsa(lc::RsaKeyPair),
    Ec(lc::EcdsaKeyPair),
    Ed(lc::Ed25519KeyPair),
}

struct Signer {
    algorithm: Algorithm,
    pair: Pair,
}

impl Signer {
    fn new(algorithm: Algorithm) -> Self {
        let ec = |curve| Pair::Ec(lc::EcdsaKeyPair::generate(curve).expect("a key"));
        let pair = match algorithm {
            Algorithm::ES256 => ec(&lc::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => ec(&lc::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::ES512 => ec(&lc::ECDSA_P521_SHA512_FIXED_SIGNING),
            Algorithm::EdDSA => Pair::Ed(lc::Ed25519KeyPair::generate().expect("a key")),
            _ => Pair::Rsa(lc::RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")),
        };
        Self { algorithm, pair }
    }

    fn parsed(&self) -> ParsedPublicKey {
        let parameters: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::ES256 => &lc::ECDSA_P256_SHA256_FIXED,
            Algorithm::ES384 => &lc::ECDSA_P384_SHA384_FIXED,
            Algorithm::ES512 => &lc::ECDSA_P521_SHA512_FIXED,
            Algorithm::EdDSA => &lc::ED25519,
            Algorithm::PS256 => &lc::RSA_PSS_2048_8192_SHA256,
            _ => &lc::RSA_PKCS1_2048_8192_SHA256,
        };
        let public = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ec(pair) => pair.public_key().as_ref(),
            Pair::Ed(pair) => pair.public_key().as_ref(),
        };
        ParsedPublicKey::new(parameters, public).expect("a public key")
    }

    fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({"kty": "RSA", "n": b64(n.big_endian_without_leading_zero()),
                       "e": b64(e.big_endian_without_leading_zero())})
            }
            Pair::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = match self.algorithm {
                    Algorithm::ES256 => "P-256",
                    Algorithm::ES384 => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)})
            }
            Pair::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref())}),
        };
        jwk["kid"] = "2026-11-primary".into();
        jwk
    }

    fn token(&self, number: usize) -> Token {
        let now = SystemClock.unix_seconds();
        let header = json!({"alg": self.algorithm.name(), "typ": "JWT", "kid": "2026-11-primary"});
        let claims = json!({
            "iss": ISSUER, "aud": "edge", "sub": format!("user-{number:06}"), "iat": now, "nbf": now,
            "exp": now + 86_400, "scope": "orders:read orders:write", "tenant": "acme",
            "client_id": "mobile-app", "jti": format!("{number:024x}"),
        });
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let message = signed.as_bytes();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &'static dyn lc::RsaEncoding =
                    if self.algorithm == Algorithm::PS256 { &lc::RSA_PSS_SHA256 } else { &lc::RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &LcRandom::new(), message, &mut signature).expect("a signature");
                signature
            }
            Pair::Ec(pair) => pair.sign(&LcRandom::new(), message).expect("a signature").as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        };
        let field = HeaderValue::try_from(format!("Bearer {signed}.{}", b64(&signature))).expect("a field");
        Token { field, signed: signed.into_bytes(), signature }
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
