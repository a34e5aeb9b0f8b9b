//! From a request to a proof of who sent it. This is the one place that makes a [`Verified`].
//!
//! A token already verified costs a look-up. Any other goes the whole way, in this order, each step cheaper or more
//! trusted than what follows it: shape and header; the address's budget, since the rest costs real work; the claims, of
//! which only `iss` is believed, to know whose key to take; the key, which decides the algorithm; the signature; and only
//! then what the claims say. Then, for old and new alike, whether its holder presents it, and the route's scopes.
//!
//! Only where the key is not at hand does a request wait, and then [`crate::keyring`] says for how long.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::Value;
use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::limiter::address_key;
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Identity, Reason, Refusal};
use smallvec::SmallVec;

use crate::base64url;
use crate::bearer::{self, Found};
use crate::binding::{self, Held, Presented, Scheme};
use crate::challenge;
use crate::claims;
use crate::dpop::DPOP_NONCE;
use crate::error::{Part, TokenFault};
use crate::issuer::Issuer;
use crate::jwk::{Key, Lookup};
use crate::jws::{Compact, Header, MAX_SIGNATURE};
use crate::keyring::Asked;
use crate::metrics::{Metrics, Verifications};
use crate::policy::Policy;
use crate::strict_json;

/// The proof that a request carries a token that its route accepts. Only this module can make one.
#[derive(Debug, Clone)]
pub struct Verified {
    identity: Arc<Identity>,
    held: Held,
}

impl Verified {
    /// Who it is, as other units may see it.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Fields that belong to the answer, whatever it will be: `DPoP-Nonce`, where the client's nonce will soon be too old.
    pub fn answer_fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.held.next_nonce.iter().map(|nonce| (DPOP_NONCE, nonce.clone()))
    }
}

/// Why a token was not accepted at once.
enum Halt {
    /// It is no good.
    Bad(TokenFault),
    /// The address has had its share of checks.
    Limited(Duration),
    /// The key is not at hand: the one of this `kid`, or any at all.
    NeedsKeys(Option<Box<str>>),
}

impl From<TokenFault> for Halt {
    fn from(fault: TokenFault) -> Self {
        Self::Bad(fault)
    }
}

/// Verifies the request's token for `policy`.
pub(crate) async fn authenticate(
    policy: &Policy,
    request: &RequestView<'_>,
    clock: &dyn Clock,
    metrics: &Metrics,
) -> Result<Verified, Refusal> {
    let challenges = &policy.shared.challenges;
    let (token, scheme) = match bearer::find(request.headers) {
        Found::Token(token, scheme) => (token, scheme),
        Found::Nothing => return refuse(policy.missing(), &metrics.anonymous),
        Found::Malformed(why) => return refuse(challenges.malformed_credentials(why), &metrics.anonymous),
    };
    let presented = Presented { scheme, token, request, now: clock.unix_seconds() };
    let outcome = judge(policy, &presented, clock, metrics).await;
    match scheme {
        Scheme::Bearer => outcome,
        Scheme::Dpop => outcome.map_err(|refusal| policy.shared.dpop.in_own_scheme(refusal)),
    }
}

/// Judges a token that was found.
async fn judge(
    policy: &Policy,
    presented: &Presented<'_>,
    clock: &dyn Clock,
    metrics: &Metrics,
) -> Result<Verified, Refusal> {
    let challenges = &policy.shared.challenges;
    let &Presented { token, request, now, .. } = presented;
    let cached = policy.shared.cache.get(token, now, |id| policy.issuers.iter().any(|issuer| issuer.id == id));
    if let Some((identity, id)) = cached {
        let issuer = policy.issuers.iter().find(|issuer| issuer.id == id);
        return admit(
            policy,
            presented,
            identity,
            issuer.map_or(&metrics.anonymous, |issuer| &issuer.metrics.verifications),
        );
    }

    let attempt = Attempt { policy, token, clock, now };
    let mut issuer = None;
    let mut outcome = attempt.check(Some(request.client), &mut issuer);
    if let (Err(Halt::NeedsKeys(kid)), Some(issuer)) = (&outcome, issuer) {
        outcome = match issuer.keyring.ask(kid.as_deref(), clock.now(), issuer.config.jwks.wait.get()).await {
            // The budget was charged the first time.
            Asked::Look => attempt.check(None, &mut Some(issuer)),
            Asked::Unknown => Err(TokenFault::KeyUnknown.into()),
            Asked::Unavailable { why, retry_after } => {
                let refusal = challenge::keys_unavailable(issuer.name.as_str(), &why, seconds(retry_after));
                return refuse(refusal, &issuer.metrics.verifications);
            }
        };
    }
    let counters = issuer.map_or(&metrics.anonymous, |issuer| &issuer.metrics.verifications);
    match outcome {
        Ok(identity) => admit(policy, presented, identity, counters),
        // Only what cannot be read can be something else than a token, so only then is its alphabet looked at.
        Err(Halt::Bad(fault)) if fault.reason() == Reason::TokenMalformed && !bearer::is_token(token) => {
            refuse(challenges.malformed_credentials("what follows Bearer is not one token"), counters)
        }
        Err(Halt::Bad(fault)) => refuse(challenges.bad_token(&fault), counters),
        Err(Halt::Limited(after)) => refuse(challenge::address_limited(seconds(after)), counters),
        // The keys changed between the answer and the second look. Whatever they are, a named one is not among them.
        Err(Halt::NeedsKeys(Some(_))) => refuse(challenges.bad_token(&TokenFault::KeyUnknown), counters),
        Err(Halt::NeedsKeys(None)) => {
            let name = issuer.map_or("", |issuer| issuer.name.as_str());
            refuse(challenge::keys_unavailable(name, "its keys were withdrawn just now", 1), counters)
        }
    }
}

/// The last steps, for tokens old and new: whether its holder presents it, and the route's scopes.
fn admit(
    policy: &Policy,
    presented: &Presented<'_>,
    identity: Arc<Identity>,
    counters: &Verifications,
) -> Result<Verified, Refusal> {
    let held = binding::check(policy, presented, &identity);
    match held.and_then(|held| policy.judge_scopes(&identity).map(|()| held)) {
        Ok(held) => {
            counters.ok();
            Ok(Verified { identity, held })
        }
        Err(refusal) => refuse(refusal, counters),
    }
}

fn refuse(refusal: Refusal, counters: &Verifications) -> Result<Verified, Refusal> {
    counters.refused(refusal.reason);
    Err(refusal)
}

/// Whole seconds, rounded up, as `Retry-After` has them.
fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// One token that was not in the cache.
struct Attempt<'r> {
    policy: &'r Policy,
    token: &'r [u8],
    clock: &'r dyn Clock,
    now: u64,
}

impl<'r> Attempt<'r> {
    /// Goes the whole way without waiting. Charges `charge`, if given, with a signature check. Sets `whose` as soon as an
    /// issuer of the policy is known, whatever comes of it.
    fn check(&self, charge: Option<IpAddr>, whose: &mut Option<&'r Issuer>) -> Result<Arc<Identity>, Halt> {
        let shared = &self.policy.shared;
        let compact = Compact::split(self.token, shared.longest)?;
        let mut room: SmallVec<[u8; 512]> = SmallVec::from_elem(0, compact.header.len());
        let header =
            base64url::decode_slice(compact.header, &mut room).map_err(|_| TokenFault::Encoding(Part::Header))?;
        let header = Header::parse(header)?;

        if let (Some(client), Some(limiter)) = (charge, &shared.limiter) {
            limiter
                .check(&address_key(client), self.clock.now())
                .map_err(|limited| Halt::Limited(limited.retry_after))?;
        }

        let mut payload = Vec::new();
        base64url::decode_into(compact.payload, &mut payload).map_err(|_| TokenFault::Encoding(Part::Payload))?;
        let claims = strict_json::object(&payload).map_err(|bad| TokenFault::Json(Part::Payload, bad))?;
        let issuer = match claims.get("iss") {
            Some(Value::String(iss)) => {
                self.policy.issuers.iter().find(|issuer| issuer.config.issuer == *iss).ok_or(TokenFault::Issuer)?
            }
            Some(_) => return Err(TokenFault::ClaimForm("iss").into()),
            None => return Err(TokenFault::ClaimMissing("iss").into()),
        };
        *whose = Some(issuer);

        let key = self.verify_signature(issuer, &compact, &header)?;
        let expires_at = issuer.rules.judge(&claims, self.now)?;
        let identity = Arc::new(claims::identity(&issuer.name, claims, expires_at)?);
        if !key.is_withdrawn() {
            shared.cache.insert(self.token, issuer.id, &key, &identity, self.now);
        }
        Ok(identity)
    }

    /// Finds the key that made the signature.
    fn verify_signature(&self, issuer: &Issuer, compact: &Compact<'_>, header: &Header<'_>) -> Result<Arc<Key>, Halt> {
        if !issuer.algorithms.contains(header.algorithm) {
            return Err(TokenFault::AlgorithmNotAllowed(header.algorithm).into());
        }
        let mut room = [0; MAX_SIGNATURE];
        let signature = compact.decode_signature(&mut room)?;
        let keys = issuer.keyring.keys();
        let Some(keys) = keys.as_ref() else { return Err(Halt::NeedsKeys(None)) };
        let kid = header.kid.as_deref();
        let candidates = match keys.lookup(kid, header.algorithm) {
            Lookup::Candidates(candidates) => candidates,
            Lookup::NotForAlgorithm => return Err(TokenFault::KeyNotForAlgorithm(header.algorithm).into()),
            Lookup::Unknown => SmallVec::new(),
        };
        for key in candidates {
            if key.verifies(header.algorithm, compact.signed, signature) {
                return Ok(Arc::clone(key));
            }
        }
        match kid {
            // A key of that name may have been published since.
            Some(kid) if !keys.has_kid(kid) => Err(Halt::NeedsKeys(Some(kid.into()))),
            Some(_) => Err(TokenFault::Signature.into()),
            None if keys.keys().is_empty() => Err(TokenFault::KeyUnknown.into()),
            None => Err(TokenFault::Signature.into()),
        }
    }
}
