//! Token issuers: real keys, a JWKS over HTTP that can be told to misbehave, tokens of every kind.

pub(crate) mod keys;
pub(crate) mod token;

use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{Algorithm, Origin, Reply, SigningKey, TokenBuilder, origin};

const JWKS_PATH: &str = "/.well-known/jwks.json";

/// An issuer in preparation.
pub struct IssuerBuilder {
    name: Option<String>,
    algorithms: Vec<Algorithm>,
}

/// A running issuer; its JWKS endpoint ends when this is dropped.
pub struct Issuer {
    name: String,
    algorithms: Vec<Algorithm>,
    state: Mutex<State>,
    server: Origin,
}

struct State {
    keys: Vec<SigningKey>,
    generation: usize,
}

/// How an issuer answers who asks for its keys.
#[derive(Debug, Clone)]
pub enum Jwks {
    /// With its keys.
    Honest,
    /// With its keys, after this long.
    Slow(Duration),
    /// Never.
    Hang,
    /// With this status and an empty body.
    Status(u16),
    /// With this text.
    Lie(String),
    /// With this many zero bytes.
    Huge(u64),
    /// By resetting the connection.
    Reset,
}

/// Prepares an issuer.
#[must_use]
pub fn issuer() -> IssuerBuilder {
    IssuerBuilder {
        name: None,
        algorithms: vec![Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA],
    }
}

impl IssuerBuilder {
    /// The value of `iss`; the URL of its server unless given.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// One key for each of these; RSA, P-256, P-384 and Ed25519 unless given.
    #[must_use]
    pub fn algorithms(mut self, algorithms: &[Algorithm]) -> Self {
        self.algorithms = algorithms.to_vec();
        self
    }

    /// Makes the keys and serves their public halves.
    pub async fn run(self) -> Issuer {
        let keys = make_keys(&self.algorithms, 0);
        let server = origin().on(JWKS_PATH, Reply::json(&key_set(&keys))).otherwise(Reply::status(404)).run().await;
        Issuer {
            name: self.name.unwrap_or_else(|| server.url("")),
            algorithms: self.algorithms,
            state: Mutex::new(State { keys, generation: 0 }),
            server,
        }
    }
}

impl Issuer {
    /// The value of `iss` in its tokens.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its keys are served.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        self.server.url(JWKS_PATH)
    }

    /// Where its server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How often its keys were asked for.
    #[must_use]
    pub fn jwks_requests(&self) -> usize {
        self.server.count()
    }

    /// Waits until its keys have been asked for `count` times in all.
    pub async fn wait_for_jwks_requests(&self, count: usize) {
        self.server.wait_for_requests(count).await;
    }

    /// Its present keys.
    #[must_use]
    pub fn keys(&self) -> Vec<SigningKey> {
        self.state.lock().keys.clone()
    }

    /// Its key set as it is served when [honest](Jwks::Honest), for a JWKS file.
    #[must_use]
    pub fn jwks(&self) -> Value {
        key_set(&self.state.lock().keys)
    }

    /// A token of this issuer, to be adjusted and signed.
    #[must_use]
    pub fn token(&self) -> TokenBuilder {
        TokenBuilder::new(&self.name, self.keys())
    }

    /// Rotates as an issuer with manners does: new keys are served beside the present ones, and sign from then on. Those
    /// before the present ones are withdrawn.
    pub fn rotate_with_overlap(&self) {
        let mut state = self.state.lock();
        let next = make_keys(&self.algorithms, state.generation + 1);
        let both: Vec<SigningKey> = next.iter().chain(&state.keys).cloned().collect();
        // Served before any token can be signed with them.
        self.server.script(JWKS_PATH, Reply::json(&key_set(&both)));
        state.generation += 1;
        state.keys = next;
    }

    /// Replaces every key, under new identifiers, and serves the new set. Tokens prepared before keep the old keys.
    pub fn rotate(&self) {
        {
            let mut state = self.state.lock();
            state.generation += 1;
            state.keys = make_keys(&self.algorithms, state.generation);
        }
        self.serve(&Jwks::Honest);
    }

    /// Changes how the key set is served from now on.
    pub fn serve(&self, jwks: &Jwks) {
        let reply = match jwks {
            Jwks::Honest => Reply::json(&self.jwks()),
            Jwks::Slow(delay) => Reply::json(&self.jwks()).after(*delay),
            Jwks::Hang => Reply::silence(),
            Jwks::Status(status) => Reply::status(*status),
            Jwks::Lie(text) => Reply::text(text.clone()).header("content-type", "application/json"),
            Jwks::Huge(length) => Reply::zeros(*length),
            Jwks::Reset => Reply::reset(),
        };
        self.server.script(JWKS_PATH, reply);
    }
}

fn make_keys(algorithms: &[Algorithm], generation: usize) -> Vec<SigningKey> {
    algorithms
        .iter()
        .map(|algorithm| {
            let kid = format!("{}-{generation}", algorithm.name().to_lowercase());
            SigningKey::generate(*algorithm, &kid, generation)
        })
        .collect()
}

fn key_set(keys: &[SigningKey]) -> Value {
    json!({ "keys": keys.iter().map(SigningKey::public_jwk).collect::<Vec<_>>() })
}
