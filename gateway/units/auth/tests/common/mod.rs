//! A small world around the unit: signers of every kind, an issuer's endpoint that may misbehave, and the unit running.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(dead_code, unreachable_pub, reason = "shared by several tests, each of which uses a part")]

pub mod holder;
pub mod service;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom as LcRandom;
use aws_lc_rs::signature::{self as lc, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use sluice_auth::{
    Algorithm, AuthTask, Config, Deps, Handle, IssuerConfig, JwksConfig, MacAlgorithm, Policy, Proof, RouteAuth, Unit,
    Verified,
};
use sluice_vocabulary::clock::{Clock, ManualClock, SystemRandom};
use sluice_vocabulary::request::{Connection, RequestView, Scheme};
use sluice_vocabulary::unit::{State, Stop, Stopper, Task as _};
use sluice_vocabulary::{IssuerName, Path, Reason, Refusal, RouteName};

/// The time that stands still in most tests.
pub const NOW: u64 = 1_800_000_000;
pub const ISS: &str = "https://id.example.com";

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn b64_decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

enum Pair {
    Rsa(lc::RsaKeyPair),
    Ec(lc::EcdsaKeyPair),
    Ed(lc::Ed25519KeyPair),
}

/// A private key, its algorithm and its kid.
pub struct Signer {
    pub kid: String,
    pub algorithm: Algorithm,
    pair: Pair,
}

impl Signer {
    pub fn new(kid: &str, algorithm: Algorithm) -> Self {
        use Algorithm as A;
        let ec = |curve| Pair::Ec(lc::EcdsaKeyPair::generate(curve).unwrap());
        let pair = match algorithm {
            A::ES256 => ec(&lc::ECDSA_P256_SHA256_FIXED_SIGNING),
            A::ES384 => ec(&lc::ECDSA_P384_SHA384_FIXED_SIGNING),
            A::ES512 => ec(&lc::ECDSA_P521_SHA512_FIXED_SIGNING),
            A::EdDSA => Pair::Ed(lc::Ed25519KeyPair::generate().unwrap()),
            _ => Pair::Rsa(lc::RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap()),
        };
        Self { kid: kid.into(), algorithm, pair }
    }

    /// The public key as a JWK, without `alg`.
    pub fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Rsa(pair) => {
                let (n, e) = rsa_numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "kid": self.kid, "n": b64(n), "e": b64(e)})
            }
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(point.len() / 2);
                let crv = match self.algorithm {
                    Algorithm::ES256 => "P-256",
                    Algorithm::ES384 => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": crv, "kid": self.kid, "x": b64(x), "y": b64(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": b64(pair.public_key().as_ref())})
            }
        }
    }

    /// What an attacker would try as a secret: the public key in the forms in which it is found.
    pub fn public_forms(&self) -> Vec<(&'static str, Vec<u8>)> {
        let raw: &[u8] = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ec(pair) => pair.public_key().as_ref(),
            Pair::Ed(pair) => pair.public_key().as_ref(),
        };
        let der: Option<PublicKeyX509Der<'_>> = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der().ok(),
            Pair::Ec(pair) => pair.public_key().as_der().ok(),
            Pair::Ed(_) => None,
        };
        let mut forms = vec![
            ("raw", raw.to_vec()),
            ("JWK", self.jwk().to_string().into_bytes()),
            (
                "encoded number",
                self.jwk()[if self.jwk()["n"].is_string() { "n" } else { "x" }].as_str().unwrap().into(),
            ),
            ("kid", self.kid.clone().into_bytes()),
            ("empty", Vec::new()),
        ];
        if let Pair::Rsa(_) = &self.pair {
            forms.push(("modulus", rsa_numbers(raw).0));
        }
        if let Some(der) = der {
            let base64 = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
            let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
            forms.push(("DER", der.as_ref().to_vec()));
            forms.push(("PEM with its last line break", format!("{pem}\n").into_bytes()));
            forms.push(("PEM", pem.into_bytes()));
        }
        forms
    }

    pub fn signature(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        use Algorithm as A;
        match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &'static dyn lc::RsaEncoding = match algorithm {
                    A::RS384 => &lc::RSA_PKCS1_SHA384,
                    A::RS512 => &lc::RSA_PKCS1_SHA512,
                    A::PS256 => &lc::RSA_PSS_SHA256,
                    A::PS384 => &lc::RSA_PSS_SHA384,
                    A::PS512 => &lc::RSA_PSS_SHA512,
                    _ => &lc::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &LcRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&LcRandom::new(), message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token of raw parts: whatever header and payload are, the signature over them is good.
    pub fn sign_raw(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        self.sign_encoded(&b64(header), &b64(payload))
    }

    /// The same, of parts already encoded, or not.
    pub fn sign_encoded(&self, header: &str, payload: &str) -> String {
        let message = format!("{header}.{payload}");
        let signature = self.signature(self.algorithm, message.as_bytes());
        format!("{message}.{}", b64(signature))
    }

    pub fn header(&self) -> Value {
        json!({"alg": self.algorithm.name(), "typ": "JWT", "kid": self.kid})
    }

    /// A token with the usual header.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_raw(self.header().to_string(), claims.to_string())
    }
}

/// A token with a MAC.
pub fn mac_token(algorithm: MacAlgorithm, secret: &[u8], header: &Value, claims: &Value) -> String {
    let hash = match algorithm {
        MacAlgorithm::HS256 => hmac::HMAC_SHA256,
        MacAlgorithm::HS384 => hmac::HMAC_SHA384,
        MacAlgorithm::HS512 => hmac::HMAC_SHA512,
    };
    let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let mac = hmac::sign(&hmac::Key::new(hash, secret), message.as_bytes());
    format!("{message}.{}", b64(mac))
}

/// An issuer that shares these secrets with the operator.
pub fn secret_issuer(secrets: Value) -> IssuerConfig {
    IssuerConfig { secrets: serde_json::from_value(secrets).unwrap(), ..issuer_config(JwksConfig::empty()) }
}

/// n and e of a DER `RSAPublicKey`.
fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn take(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, at) = match der[1] {
            short if short < 0x80 => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            _ => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
        };
        (&der[at..at + length], &der[at + length..])
    }
    let strip = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
    let (n, rest) = take(take(der).0);
    (strip(n), strip(take(rest).0))
}

pub fn jwks(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Claims that every rule of [`issuer_config`] accepts.
pub fn claims() -> Value {
    json!({"iss": ISS, "aud": "edge", "sub": "user-1", "exp": NOW + 600, "nbf": NOW - 60, "iat": NOW - 60,
           "scope": "orders:read orders:list", "tenant": "acme"})
}

pub fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

pub fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name);
    object
}

/// What an issuer's endpoint does.
#[derive(Clone)]
pub enum Behaviour {
    Serve(String),
    /// The same after a while.
    Late(Duration, String),
    Status(u16),
    Redirect(String),
    Hang,
    /// A body that drips a byte at a time and never ends.
    Drip,
    /// 100 MB.
    Flood,
}

/// An issuer's endpoint, on loopback.
pub struct Endpoint {
    pub address: SocketAddr,
    pub requests: Arc<AtomicU64>,
    /// Bytes of the flood that were taken.
    pub flooded: Arc<AtomicU64>,
    behaviour: Arc<Mutex<Behaviour>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Endpoint {
    pub async fn run(behaviour: Behaviour) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, flooded) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let behaviour = Arc::new(Mutex::new(behaviour));
        let server = tokio::spawn({
            let (requests, flooded, behaviour) = (Arc::clone(&requests), Arc::clone(&flooded), Arc::clone(&behaviour));
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (requests, flooded, behaviour) =
                        (Arc::clone(&requests), Arc::clone(&flooded), Arc::clone(&behaviour));
                    connections.spawn(async move {
                        let service = hyper::service::service_fn(move |_: Request<Incoming>| {
                            requests.fetch_add(1, Ordering::SeqCst);
                            let now = behaviour.lock().clone();
                            answer(now, Arc::clone(&flooded))
                        });
                        let io = hyper_util::rt::TokioIo::new(stream);
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                    });
                }
            }
        });
        Self { address, requests, flooded, behaviour, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    pub fn now(&self, behaviour: Behaviour) {
        *self.behaviour.lock() = behaviour;
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn answer(
    behaviour: Behaviour,
    flooded: Arc<AtomicU64>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let full = |text: String| Full::new(Bytes::from(text)).boxed();
    Ok(match behaviour {
        Behaviour::Serve(text) => Response::new(full(text)),
        Behaviour::Late(wait, text) => {
            tokio::time::sleep(wait).await;
            Response::new(full(text))
        }
        Behaviour::Status(status) => Response::builder().status(status).body(full(String::new())).unwrap(),
        Behaviour::Redirect(to) => {
            Response::builder().status(302).header("location", to).body(full(String::new())).unwrap()
        }
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Drip => {
            let drops = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Some((Ok(Frame::data(Bytes::from_static(b" "))), ()))
            });
            Response::new(StreamBody::new(drops).boxed())
        }
        Behaviour::Flood => {
            const CHUNK: u64 = 64 * 1024;
            let chunks = futures_util::stream::unfold(0_u64, move |sent| {
                let flooded = Arc::clone(&flooded);
                async move {
                    flooded.store(sent, Ordering::SeqCst);
                    (sent < 100_000_000)
                        .then(|| (Ok(Frame::data(Bytes::from(vec![b' '; CHUNK as usize]))), sent + CHUNK))
                }
            });
            Response::new(StreamBody::new(chunks).boxed())
        }
    })
}

/// An issuer's configuration with keys from `jwks` and attempts quick enough for a test.
pub fn issuer_config(jwks: JwksConfig) -> IssuerConfig {
    IssuerConfig {
        issuer: ISS.into(),
        audiences: vec!["edge".into()],
        dangerously_accept_any_audience: false,
        algorithms: Algorithm::ALL.to_vec(),
        jwks,
        introspection: None,
        secrets: Vec::new(),
        token_type: None,
        leeway: sluice_vocabulary::measure::Span::secs(30),
        scope_claim: None,
    }
}

pub fn name(text: &str) -> IssuerName {
    IssuerName::new(text).unwrap()
}

pub fn route_name(text: &str) -> RouteName {
    RouteName::new(text).unwrap()
}

pub fn issuers(config: IssuerConfig) -> BTreeMap<IssuerName, IssuerConfig> {
    BTreeMap::from([(name("corp"), config)])
}

/// A route that takes tokens of `corp`.
pub fn route() -> RouteAuth {
    RouteAuth { issuer: Some(name("corp")), ..RouteAuth::default() }
}

/// The unit, running.
pub struct World {
    pub handle: Handle,
    pub clock: ManualClock,
    pub registry: Registry,
    pub config: Config,
    connection: Connection,
    stopper: Option<Stopper>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    /// Starts the unit with `issuers` and gives the policy of `route`. Does not wait for keys.
    pub fn start(
        config: Config,
        issuers: &BTreeMap<IssuerName, IssuerConfig>,
        route: &RouteAuth,
    ) -> (Self, Arc<Policy>) {
        Self::start_in(PathBuf::from("."), config, issuers, route)
    }

    /// With files in `base_dir`.
    pub fn start_in(
        base_dir: PathBuf,
        config: Config,
        issuers: &BTreeMap<IssuerName, IssuerConfig>,
        route: &RouteAuth,
    ) -> (Self, Arc<Policy>) {
        Self::start_at(NOW, base_dir, config, issuers, route)
    }

    /// With a clock that stands at `now`.
    pub fn start_at(
        now: u64,
        base_dir: PathBuf,
        config: Config,
        issuers: &BTreeMap<IssuerName, IssuerConfig>,
        route: &RouteAuth,
    ) -> (Self, Arc<Policy>) {
        let world = Self::bare_at(now, base_dir, config);
        let policy = world.apply(issuers, route);
        (world, policy)
    }

    /// With nothing configured yet.
    pub fn bare(base_dir: PathBuf, config: Config) -> Self {
        Self::bare_at(NOW, base_dir, config)
    }

    fn bare_at(now: u64, base_dir: PathBuf, config: Config) -> Self {
        let clock = ManualClock::at(now);
        let mut registry = Registry::default();
        let (handle, task) = Self::unit(base_dir, &config, Arc::new(clock.clone()), &mut registry);
        let (stopper, stop) = Stop::new();
        let task = tokio::spawn(async move {
            let mut task: AuthTask = task;
            task.run(stop).await;
        });
        Self { handle, clock, registry, config, connection: connection(), stopper: Some(stopper), task }
    }

    fn unit(base_dir: PathBuf, config: &Config, clock: Arc<dyn Clock>, registry: &mut Registry) -> (Handle, AuthTask) {
        let background = tokio::runtime::Handle::current();
        Unit::new(config, Deps { clock, random: Arc::new(SystemRandom), base_dir, background }, registry)
    }

    /// Puts a configuration in force.
    pub fn apply(&self, issuers: &BTreeMap<IssuerName, IssuerConfig>, route: &RouteAuth) -> Arc<Policy> {
        let prepared = self.handle.prepare(&self.config, issuers).expect("a valid configuration");
        let at = Path::root().key("routes").index(0).key("auth");
        let policy = prepared.policy(&route_name("orders"), route, &at).expect("a valid route");
        self.handle.commit(prepared);
        policy
    }

    /// With keys had from an endpoint that serves them; waits for them.
    pub async fn with_keys(endpoint: &Endpoint, route: &RouteAuth) -> (Self, Arc<Policy>) {
        let (world, policy) =
            Self::start(Config::default(), &issuers(issuer_config(JwksConfig::from_url(endpoint.url()))), route);
        world.ready().await;
        (world, policy)
    }

    /// Waits until every issuer has keys.
    pub async fn ready(&self) {
        self.state(|state| *state == State::Ready).await;
    }

    pub async fn state(&self, wanted: impl FnMut(&State) -> bool) {
        let mut watch = self.handle.health().watch();
        let reached = tokio::time::timeout(Duration::from_secs(20), watch.wait_for(wanted)).await.is_ok();
        assert!(reached, "still {:?}", self.handle.health().get());
    }

    /// Has the keys read anew and waits until `attempts` attempts were made in all.
    pub async fn refresh(&self) {
        let before = self.fetches();
        assert!(self.handle.refresh_keys(&name("corp")));
        let done = async {
            while self.fetches() == before || self.issuer()["next_fetch_in_seconds"].is_null() || self.in_flight() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), done).await.expect("a refresh");
    }

    fn in_flight(&self) -> bool {
        self.issuer()["in_flight"].as_bool().unwrap()
    }

    pub fn issuer(&self) -> Value {
        use sluice_vocabulary::ports::Inspect as _;
        self.handle.inspect()["issuers"]["corp"].clone()
    }

    pub fn fetches(&self) -> u64 {
        self.issuer()["fetches"].as_u64().unwrap()
    }

    pub fn metrics(&self) -> String {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        page
    }

    /// Asks with any header fields, from any address, on a route that wants a token.
    pub async fn ask(&self, policy: &Policy, headers: &HeaderMap, client: IpAddr) -> Result<Verified, Refusal> {
        self.prove(policy, headers, client).await.map(verified)
    }

    /// Asks with any header fields, from any address.
    pub async fn prove(&self, policy: &Policy, headers: &HeaderMap, client: IpAddr) -> Result<Proof, Refusal> {
        self.handle.authenticate(policy, &view(&self.connection, headers, client)).await
    }

    /// Asks with any header fields and a query.
    pub async fn prove_with_query(
        &self,
        policy: &Policy,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Proof, Refusal> {
        let client = self.connection.client.ip();
        let request = RequestView { query, ..view(&self.connection, headers, client) };
        self.handle.authenticate(policy, &request).await
    }

    /// Asks with a bearer token.
    pub async fn bearer(&self, policy: &Policy, token: &str) -> Result<Verified, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap());
        self.ask(policy, &headers, self.connection.client.ip()).await
    }

    /// The reason of the refusal, or none.
    pub async fn reason(&self, policy: &Policy, token: &str) -> Option<Reason> {
        self.bearer(policy, token).await.err().map(|refusal| refusal.reason)
    }

    pub async fn stop(mut self) {
        self.stopper.take();
        tokio::time::timeout(Duration::from_secs(5), &mut self.task).await.expect("the task ends when told").unwrap();
        assert_eq!(self.handle.health().get(), State::Stopped);
    }
}

/// A request as the unit sees it.
pub fn view<'a>(connection: &'a Connection, headers: &'a HeaderMap, client: IpAddr) -> RequestView<'a> {
    RequestView {
        method: &Method::GET,
        scheme: Scheme::Http,
        host: "api.example.com",
        port: None,
        path: "/",
        query: None,
        headers,
        client,
        connection,
    }
}

/// A connection from a documentation address.
pub fn connection() -> Connection {
    let peer = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1000));
    Connection { id: 1, peer, local: peer, client: peer, tls: None, cookie: None, listener: 0 }
}

/// Asks a unit with a bearer token.
pub async fn ask_with(handle: &Handle, policy: &Policy, token: &str) -> Result<Verified, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap());
    let connection = connection();
    handle.authenticate(policy, &view(&connection, &headers, connection.client.ip())).await.map(verified)
}

/// Who it is, where somebody must be.
pub fn verified(proof: Proof) -> Verified {
    match proof {
        Proof::Verified(verified) => verified,
        Proof::Anonymous(_) => panic!("nobody was verified"),
    }
}
