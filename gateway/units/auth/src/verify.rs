//! From a request to a proof of who sent it. This is the one place that makes a [`Verified`].
//!
//! A token already verified costs a look-up. Any other goes the whole way, in this order, each step cheaper or more
//! trusted than what follows it: shape and header; the address's budget, since the rest costs real work; the claims, of
//! which only `iss` is believed, to know whose key to take; the key, which decides the algorithm; the signature; and only
//! then what the claims say. Then, for old and new alike: what was revoked, whether its holder presents it, and what the
//! route asks: scopes, claims, the user's authentication.
//!
//! Only where the key is not at hand does a request wait, and then [`crate::keyring`] says for how long; or where the token
//! can be judged by its issuer's endpoint alone, and then [`crate::introspection`] does.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use sluice_vocabulary::claims::Raw;
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
use crate::introspection::{self, Introspector};
use crate::issuer::Issuer;
use crate::jwk::{Key, Lookup};
use crate::jws::{Compact, Header, MAX_SIGNATURE};
use crate::keyring::Asked;
use crate::metrics::{Metrics, Verifications};
use crate::policy::Policy;
use crate::proof::Proof;
use crate::revocation::Judgement;

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
) -> Result<Proof, Refusal> {
    let now = clock.unix_seconds();
    let refuse = |refusal| Err(policy.refuse(refusal, &metrics.anonymous, now));
    let (token, scheme) = match bearer::find(request.headers) {
        Found::Token(token, scheme) => (token, scheme),
        Found::Nothing => return policy.judge_nothing().or_else(refuse),
        Found::Malformed(why) => return refuse(policy.shared.challenges.malformed_credentials(why)),
    };
    let presented = Presented { scheme, token, request, now };
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
) -> Result<Proof, Refusal> {
    let challenges = &policy.shared.challenges;
    let &Presented { token, request, now, .. } = presented;
    let refuse = |refusal, counters: &Verifications| Err(policy.refuse(refusal, counters, now));
    // A token that no issuer with keys can have made is its own issuer's to judge.
    if let Some(introspector) = &policy.introspection
        && (policy.issuers.is_empty() || introspection::is_opaque(token))
    {
        return introspect(policy, introspector, presented, clock, Some(request.client)).await;
    }
    let hash = policy.shared.cache.hash(token);
    let cached = policy.shared.cache.get(hash, token, now, |id| policy.issuers.iter().any(|issuer| issuer.id == id));
    if let Some((identity, id, key)) = cached {
        let issuer = policy.issuers.iter().find(|issuer| issuer.id == id);
        let counters = issuer.map_or(&metrics.anonymous, |issuer| &issuer.metrics.verifications);
        return admit(policy, presented, identity, key.kid(), counters);
    }

    let mut attempt = Attempt { policy, token, hash, clock, now };
    let mut issuer = None;
    // One that is known to be another issuer's will be found so again: that costs no signature check.
    let is_known = policy.introspection.as_ref().is_some_and(|introspector| introspector.knows(token));
    let mut outcome = attempt.check((!is_known).then_some(request.client), &mut issuer);
    if let (Err(Halt::NeedsKeys(kid)), Some(issuer)) = (&outcome, issuer) {
        outcome = match issuer.keyring.ask(kid.as_deref(), clock.now(), issuer.config.jwks.wait.get()).await {
            Asked::Look => {
                attempt.now = clock.unix_seconds();
                // The budget was charged the first time.
                attempt.check(None, &mut Some(issuer))
            }
            Asked::Unknown => Err(TokenFault::KeyUnknown.into()),
            Asked::Unavailable { why, retry_after } => {
                let refusal = challenge::keys_unavailable(issuer.name.as_str(), &why, seconds(retry_after));
                return refuse(refusal, &issuer.metrics.verifications);
            }
        };
    }
    if let (Err(Halt::Bad(fault)), None, Some(introspector)) = (&outcome, issuer, &policy.introspection)
        && introspection::is_foreign(fault)
    {
        let charge = (!introspection::was_charged(fault)).then_some(request.client);
        return introspect(policy, introspector, presented, clock, charge).await;
    }
    let counters = issuer.map_or(&metrics.anonymous, |issuer| &issuer.metrics.verifications);
    match outcome {
        // Where it waited for keys, what follows is judged by the time now: a proof may be forgotten by then.
        Ok((identity, key)) => {
            admit(policy, &Presented { now: attempt.now, ..*presented }, identity, key.kid(), counters)
        }
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

/// Has the token's own issuer judge it.
async fn introspect(
    policy: &Policy,
    introspector: &Introspector,
    presented: &Presented<'_>,
    clock: &dyn Clock,
    charge: Option<IpAddr>,
) -> Result<Proof, Refusal> {
    let identified = introspector.identify(presented.token, &policy.shared, charge).await;
    // It may have waited for as long as it takes to forget a proof.
    let presented = &Presented { now: clock.unix_seconds(), ..*presented };
    match identified {
        // No key of ours verified it.
        Ok(identity) => admit(policy, presented, identity, None, &introspector.verifications),
        Err(refusal) => Err(policy.refuse(refusal, &introspector.verifications, presented.now)),
    }
}

/// The last steps, for tokens old and new: what was revoked, whether its holder presents it, and what the route asks beyond
/// a good token. `kid` is that of the key which verified the token, whatever the token's header says.
fn admit(
    policy: &Policy,
    presented: &Presented<'_>,
    identity: Arc<Identity>,
    kid: Option<&str>,
    counters: &Verifications,
) -> Result<Proof, Refusal> {
    let now = presented.now;
    let judged = match policy.shared.revocations.judge(&identity, kid, now) {
        Judgement::Good => binding::check(policy, presented, &identity),
        Judgement::Revoked(kind) => Err(policy.shared.challenges.bad_token(&TokenFault::Revoked(kind))),
        Judgement::Unknown(why) => Err(challenge::revocations_unknown(why)),
    };
    match judged.and_then(|held| policy.judge(&identity, now).map(|()| held)) {
        Ok(held) => {
            counters.ok();
            Ok(Proof::Verified(Verified { identity, held }))
        }
        Err(refusal) => Err(policy.refuse(refusal, counters, now)),
    }
}

/// Whole seconds, rounded up, as `Retry-After` has them.
fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// Who a token stands for, and the key that says so.
type Checked = (Arc<Identity>, Arc<Key>);

/// One token that was not in the cache.
struct Attempt<'r> {
    policy: &'r Policy,
    token: &'r [u8],
    /// The cache's hash of it.
    hash: u64,
    clock: &'r dyn Clock,
    now: u64,
}

impl<'r> Attempt<'r> {
    /// Goes the whole way without waiting. Charges `charge`, if given, with a signature check. Sets `whose` as soon as an
    /// issuer of the policy is known, whatever comes of it.
    fn check(&self, charge: Option<IpAddr>, whose: &mut Option<&'r Issuer>) -> Result<Checked, Halt> {
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

        let payload = base64url::decode(compact.payload).map_err(|_| TokenFault::Encoding(Part::Payload))?;
        let claims = claims::read(payload)?;
        let issuer = match claims.raw("iss") {
            Some(Raw::Text(iss)) => {
                self.policy.issuers.iter().find(|issuer| issuer.config.issuer == iss).ok_or(TokenFault::Issuer)?
            }
            Some(Raw::Json(_)) => return Err(TokenFault::ClaimForm("iss").into()),
            None => return Err(TokenFault::ClaimMissing("iss").into()),
        };
        *whose = Some(issuer);

        let key = self.verify_signature(issuer, &compact, &header)?;
        let expires_at = issuer.rules.judge(&claims, self.now)?;
        let identity = Arc::new(claims::identity(&issuer.name, issuer.scope_claim.as_ref(), claims, expires_at));
        if !key.is_withdrawn() {
            shared.cache.insert(self.hash, self.token, issuer.id, &key, &identity, self.now);
        }
        Ok((identity, key))
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
