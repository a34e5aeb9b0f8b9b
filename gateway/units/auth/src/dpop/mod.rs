//! Proof of possession (RFC 9449): a token bound to a key is good only beside a proof that its sender has that key.
//!
//! The proof is a JWS in the header field `DPoP`, made anew for every request. It brings its key along, which proves
//! nothing by itself: what counts is that the token's `cnf.jkt` is that key's thumbprint. So the thumbprint is compared
//! first, and only then is a signature checked: whoever has no bound token makes nobody do that work.
//!
//! In this order, cheap before dear: one proof; its form and its key (`proof`); the key is the token's; it is for this
//! method, this place (`target`), this token and this time; it has our `nonce`, where the operator wants one; the signature; and last, so that strangers cannot fill the memory, it was not seen before (`replay`).
//!
//! What is remembered and what is signed with is this process's own. After a restart a proof may be used once more while
//! it is young enough; nonces close that gap, since their keys die with the process. Several gateways behind one name
//! share neither: there a proof is good once at each.

pub(crate) mod config;
pub(crate) mod nonce;
pub(crate) mod proof;
pub(crate) mod replay;
pub(crate) mod target;

use std::sync::Arc;

use aws_lc_rs::digest;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Reason, Refusal};

use crate::algorithm::{Algorithm, AlgorithmSet};
use crate::base64url;
use crate::dpop::config::DpopConfig;
use crate::dpop::nonce::Nonces;
use crate::dpop::proof::{Proof, ProofFault};
use crate::dpop::replay::{Replays, Seen};
use crate::metrics::ProofMetrics;
use crate::thumbprint::Thumbprint;
use crate::witness::Witness;

/// The field that holds the proof.
pub(crate) const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The field that hands out a nonce (RFC 9449 section 8.1).
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// The checking of proofs, as configured.
#[derive(Debug)]
pub(crate) struct Dpop {
    algorithms: AlgorithmSet,
    /// By how many seconds `iat` may lie in the past, and in the future.
    max_age: u64,
    leeway: u64,
    replays: Arc<Replays>,
    /// The memory that `replays` may take once this is in force, in bytes.
    replay_cache: usize,
    nonces: Option<Arc<Nonces>>,
    realm: Box<str>,
    /// `algs="…"`, for every challenge.
    algs: Box<str>,
    metrics: ProofMetrics,
}

impl Dpop {
    /// The checking that a validated configuration asks for, with the memory of `old`: a change of configuration does
    /// not make a proof new.
    pub(crate) fn new(config: &DpopConfig, realm: &str, old: Option<&Self>, metrics: &ProofMetrics) -> Self {
        let replays =
            old.map_or_else(|| Arc::new(Replays::new(metrics.remembered.clone())), |old| Arc::clone(&old.replays));
        let nonces = config.nonce.as_ref().map(|nonce| {
            let step = nonce.lifetime.get().as_secs();
            let same = old.and_then(|old| old.nonces.as_ref()).filter(|nonces| nonces.step() == step);
            same.map_or_else(|| Arc::new(Nonces::new(step)), Arc::clone)
        });
        let names: Vec<_> = config.algorithms.iter().map(|algorithm| Algorithm::name(*algorithm)).collect();
        Self {
            algorithms: config.algorithms.iter().collect(),
            max_age: config.max_age.get().as_secs(),
            leeway: config.leeway.get().as_secs(),
            replays,
            replay_cache: config.replay_cache.as_usize(),
            nonces,
            realm: realm.into(),
            algs: format!("algs=\"{}\"", names.join(" ")).into(),
            metrics: metrics.clone(),
        }
    }

    /// Puts this in force. Until then the memory is bounded as it was: a configuration may be dropped again.
    pub(crate) fn adopt(&self) {
        self.replays.bound(self.replay_cache);
    }

    /// Whether `request` proves that its sender has the key that `token` is bound to. Gives the nonce that the client
    /// is to use from now on, where that is another one. A proof is used up by it where it serves a request.
    pub(crate) fn check<W: Witness>(
        &self,
        request: &RequestView<'_>,
        token: &[u8],
        bound_to: &Thumbprint,
        clock: &dyn Clock,
        now: u64,
    ) -> Result<Option<HeaderValue>, ProofFault> {
        let outcome = self.judge::<W>(request, token, bound_to, clock, now);
        if W::SERVES {
            self.metrics.count(outcome.as_ref().err());
        }
        outcome
    }

    fn judge<W: Witness>(
        &self,
        request: &RequestView<'_>,
        token: &[u8],
        bound_to: &Thumbprint,
        clock: &dyn Clock,
        now: u64,
    ) -> Result<Option<HeaderValue>, ProofFault> {
        let mut fields = request.headers.get_all(DPOP).iter();
        let field = fields.next().ok_or(ProofFault::Missing)?;
        if fields.next().is_some() {
            return Err(ProofFault::Several);
        }
        let proof = Proof::read(field.as_bytes(), self.algorithms)?;
        if proof.thumbprint() != bound_to {
            return Err(ProofFault::WrongKey);
        }
        let claims = proof.claims()?;
        if claims.method != request.method.as_str() {
            return Err(ProofFault::Method);
        }
        if !target::is_for(&claims.target, request) {
            return Err(ProofFault::Target);
        }
        if claims.token_hash.as_bytes() != token_hash(token).as_bytes() {
            return Err(ProofFault::TokenHash);
        }
        if claims.issued_at.saturating_add(self.max_age) < now {
            return Err(ProofFault::Old { ago: now - claims.issued_at });
        }
        if claims.issued_at > now.saturating_add(self.leeway) {
            return Err(ProofFault::Early { wait: claims.issued_at - now });
        }
        let next_nonce = self.judge_nonce(claims.nonce.as_deref(), now)?;
        proof.verify()?;
        // One second more than it could be used, so that the last one is covered whole.
        let until = claims.issued_at.saturating_add(self.max_age).saturating_add(1);
        let id = claims.id.as_bytes();
        let now = self.replays.now(clock, now);
        let seen =
            if W::SERVES { self.replays.see(bound_to, id, until, now) } else { self.replays.look(bound_to, id, now) };
        match seen {
            Seen::New => Ok(next_nonce),
            Seen::Before => Err(ProofFault::Replayed),
            Seen::Full => Err(ProofFault::Unremembered),
        }
    }

    fn judge_nonce(&self, nonce: Option<&str>, now: u64) -> Result<Option<HeaderValue>, ProofFault> {
        let Some(nonces) = &self.nonces else { return Ok(None) };
        match nonces.judge(nonce.ok_or(ProofFault::NonceMissing)?, now) {
            nonce::Age::Current => Ok(None),
            // Still good; with the next one at hand the client never has to be refused (RFC 9449 section 8.2).
            nonce::Age::Previous => Ok(nonces.issue(now)),
            nonce::Age::Foreign => Err(ProofFault::NonceStale),
        }
    }

    /// The answer to a proof that is no good.
    pub(crate) fn refuse(&self, fault: &ProofFault, now: u64) -> Refusal {
        let reason = fault.reason();
        let refusal = Refusal::new(reason).internal(fault.to_string());
        let challenge = |code, description| self.challenge(code, description);
        match reason {
            Reason::ProofsUnavailable => refusal.header(RETRY_AFTER, HeaderValue::from(1)),
            Reason::SenderUnproven => refusal.header(
                WWW_AUTHENTICATE,
                challenge("invalid_token", "The token is bound to another key than the proof's"),
            ),
            Reason::ProofNonce => {
                let refusal = refusal
                    .header(WWW_AUTHENTICATE, challenge("use_dpop_nonce", "The DPoP proof needs this server's nonce"));
                match self.nonces.as_ref().and_then(|nonces| nonces.issue(now)) {
                    Some(nonce) => refusal.header(DPOP_NONCE, nonce),
                    None => refusal,
                }
            }
            _ => refusal.header(WWW_AUTHENTICATE, challenge("invalid_dpop_proof", "The DPoP proof is not valid")),
        }
    }

    /// A DPoP challenge with an error (RFC 9449 section 7.1).
    pub(crate) fn challenge(&self, code: &str, description: &str) -> HeaderValue {
        value(format!(
            "DPoP realm=\"{}\", error=\"{code}\", error_description=\"{description}\", {}",
            self.realm, self.algs
        ))
    }

    /// The challenge to a request without credentials: realm and algorithms alone.
    pub(crate) fn bare_challenge(&self) -> HeaderValue {
        value(format!("DPoP realm=\"{}\", {}", self.realm, self.algs))
    }

    /// The same refusal to a client that spoke DPoP: its Bearer challenge becomes one of its own scheme.
    pub(crate) fn in_own_scheme(&self, mut refusal: Refusal) -> Refusal {
        for (name, field) in &mut refusal.headers {
            if *name == WWW_AUTHENTICATE
                && let Some(parameters) = field.as_bytes().strip_prefix(b"Bearer ")
            {
                let text = [b"DPoP ", parameters, b", ", self.algs.as_bytes()].concat();
                *field = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("DPoP"));
            }
        }
        refusal
    }
}

/// `ath` of a token: base64url of its SHA-256.
pub(crate) fn token_hash(token: &[u8]) -> String {
    base64url::encode(digest::digest(&digest::SHA256, token).as_ref())
}

/// Realm and descriptions are printable ASCII, so that the bare scheme only stands in where they were not.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("DPoP"))
}
