//! What the gateway tells upstreams in its own name: short-lived tokens that say who sent a request.
//!
//! A header that carries a claim is worth what the network between gateway and upstream is worth. A token signed by the
//! gateway is worth its signature: the upstream verifies it by the keys on the admin listener, and need not care who else
//! can reach it. It is made for one audience, lives for a minute, and says less than the client's own token, which then
//! need not travel further.
//!
//! A route's demand is compiled (`Spec`), the keys follow each other (`keys`) and may be kept on disk (`state`), and a
//! token made once is used again during the first half of its life (`store`).

pub(crate) mod config;
pub(crate) mod keys;
pub(crate) mod page;
mod state;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use sluice_vocabulary::Identity;
use sluice_vocabulary::claims::Raw;
use sluice_vocabulary::clock::{Clock, Random};

use crate::base64url;
use crate::issue::config::{IdentityToken, IdentityTokens};
use crate::issue::keys::{Keys, Ring};
use crate::issue::store::Store;
use crate::metrics::MintMetrics;

/// The longest token sent; one that would be longer, by the claims copied into it, is left out.
const LONGEST: usize = 8 * 1024;

/// The shortest life of a token, for the last moments of the client's own: the request that was let in must arrive.
const LEAST_LIFE: u64 = 5;

/// What a route wants its upstream to be told.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) header: HeaderName,
    audience: Box<str>,
    lifetime: u64,
    claims: Box<[Box<str>]>,
}

impl Spec {
    /// Compiles a validated configuration. The error says what is wrong with the header's name.
    pub(crate) fn new(config: &IdentityToken) -> Result<Self, String> {
        Ok(Self {
            header: config.header_name()?,
            audience: config.audience.as_str().into(),
            lifetime: config.lifetime.get().as_secs(),
            claims: config.claims.iter().map(|claim| claim.as_str().into()).collect(),
        })
    }
}

/// What the mint asks of the unit.
#[derive(Debug, Clone)]
pub(crate) struct MintDeps {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) metrics: MintMetrics,
}

/// Makes identity tokens.
#[derive(Debug)]
pub(crate) struct Mint {
    config: IdentityTokens,
    keys: Keys,
    store: Store,
    deps: MintDeps,
    state_dir: Option<PathBuf>,
}

impl Mint {
    /// The mint of a validated configuration, following `old`, if there was one: the same one where nothing changed. Keys
    /// kept on disk come first, then those in memory, then new ones; what `old` signed with stays published. Reads a file
    /// and writes none. The error is fit for the operator.
    pub(crate) fn follow(
        old: Option<&Arc<Self>>,
        config: &IdentityTokens,
        base_dir: &Path,
        deps: MintDeps,
    ) -> Result<Arc<Self>, String> {
        if let Some(same) = old.filter(|old| old.config == *config) {
            return Ok(Arc::clone(same));
        }
        let now = deps.clock.unix_seconds();
        let rotate = config.rotate.get().as_secs();
        let turns_at = now.saturating_add(rotate);
        let state_dir = config.state_dir.as_ref().map(|folder| base_dir.join(folder));
        let in_memory = old.filter(|old| old.config.algorithm == config.algorithm);
        let kept = match &state_dir {
            // What is in memory is newer than what was kept of it.
            Some(folder) if in_memory.is_none_or(|old| old.state_dir != state_dir) => {
                state::load(folder, config.algorithm)?
            }
            _ => None,
        };
        let mut ring = match (kept, in_memory) {
            (Some(kept), _) => kept,
            (None, Some(old)) => Ring::clone(&old.keys.ring(now)),
            (None, None) => Ring::generate(config.algorithm, turns_at).map_err(|error| error.to_string())?,
        };
        // A shorter period does not wait for the end of a longer one.
        ring.turns_at = ring.turns_at.min(turns_at);
        if let Some(old) = old {
            ring.publish_too(&old.keys.ring(now), turns_at, now);
        }
        Ok(Arc::new(Self {
            config: config.clone(),
            keys: Keys::new(config.algorithm, rotate, ring, true),
            store: Store::default(),
            deps,
            state_dir,
        }))
    }

    /// The field that tells who `identity` is, as `spec` wants it. None where the token would be too long, or cannot be
    /// signed: the upstream then has none to believe.
    pub(crate) fn token(&self, spec: &Arc<Spec>, identity: &Arc<Identity>) -> Option<(HeaderName, HeaderValue)> {
        let now = self.deps.clock.unix_seconds();
        if let Some(value) = self.store.get(identity, spec, now) {
            self.deps.metrics.cached.inc();
            return Some((spec.header.clone(), value));
        }
        let Some((value, until)) = self.make(spec, identity, now) else {
            self.deps.metrics.left_out.inc();
            return None;
        };
        self.deps.metrics.signed.inc();
        self.store.put(identity, spec, value.clone(), until);
        Some((spec.header.clone(), value))
    }

    /// A new token, and the second from which it is not handed out again.
    fn make(&self, spec: &Spec, identity: &Identity, now: u64) -> Option<(HeaderValue, u64)> {
        let expires_at = now.saturating_add(spec.lifetime).min(identity.expires_at).max(now.saturating_add(LEAST_LIFE));
        let mut claims = Map::new();
        let mut say = |name: &str, value: Value| drop(claims.insert(name.to_owned(), value));
        say("iss", self.config.issuer.as_str().into());
        say("aud", (&*spec.audience).into());
        say("iat", now.into());
        say("exp", expires_at.into());
        say("jti", base64url::encode(&self.deps.random.bits128().to_be_bytes()).into());
        if let Some(subject) = identity.subject() {
            say("sub", subject.into());
            // A verified token has an `iss`, and it is a text; what an endpoint told may have none.
            let issuer = match identity.claims().raw("iss") {
                Some(Raw::Text(issuer)) => issuer,
                _ => identity.issuer.as_str(),
            };
            say("sub_id", json!({"format": "iss_sub", "iss": issuer, "sub": subject}));
        }
        for name in &spec.claims {
            if let Some(value) = identity.claim(name) {
                say(name, value);
            }
        }
        let token = self.keys.ring(now).current.sign(&claims).ok()?;
        let text = if spec.header == AUTHORIZATION { format!("Bearer {token}") } else { token };
        if text.len() > LONGEST {
            return None;
        }
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some((value, now + (expires_at - now) / 2))
    }

    /// The public keys, as a JWK Set.
    pub(crate) fn published(&self) -> Value {
        self.keys.published(self.deps.clock.unix_seconds())
    }

    /// Keeps the keys on disk, if they are to be kept and changed. Blocking; not for a service thread.
    pub(crate) fn keep(&self) {
        let Some(folder) = &self.state_dir else { return };
        let now = self.deps.clock.unix_seconds();
        // A change that is due comes first, so that it is kept with the rest.
        self.keys.ring(now);
        if !self.keys.take_changed() {
            return;
        }
        let ring = self.keys.ring(now);
        if let Err(why) = state::save(folder, self.config.algorithm, &ring) {
            self.keys.not_kept();
            tracing::warn!(error = why, "the keys of identity tokens are not kept");
        }
    }

    /// Whether [`Self::keep`] has anything to do but to look.
    pub(crate) fn keeps(&self) -> bool {
        self.state_dir.is_some()
    }
}
