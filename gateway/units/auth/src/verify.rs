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
//!
//! All of it tells a [`Witness`] what it does: nobody where a request is served, [`crate::explain`] where an operator asks.

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
use crate::bearer;
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
use crate::places::Located;
use crate::policy::Policy;
use crate::proof::Proof;
use crate::revocation::Judgement;
use crate::witness::{Step, Witness, shown, spoken};

/// The proof that a request carries a token that its route accepts. Only this module can make one.
#[derive(Debug, Clone)]
pub struct Verified {
    identity: Arc<Identity>,
    held: Held,
    /// The number of the place that it was found in, among those of its policy.
    place: usize,
}

impl Verified {
    pub(crate) fn place(&self) -> usize {
        self.place
    }

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
pub(crate) async fn authenticate<W: Witness>(
    policy: &Policy,
    request: &RequestView<'_>,
    clock: &dyn Clock,
    metrics: &Metrics,
    witness: &mut W,
) -> Result<Proof, Refusal> {
    let now = clock.unix_seconds();
    let refuse = |refusal| Err(tell::<W>(policy, refusal, &metrics.anonymous, now));
    witness.begin(Step::Token);
    let Located { token, scheme, place } = match policy.places.find(request) {
        Ok(Some(located)) => located,
        Ok(None) => return policy.judge_nothing(W::SERVES).or_else(refuse),
        Err(why) => return refuse(policy.shared.challenges.malformed_credentials(why)),
    };
    witness.note(|| policy.places.describe(place, scheme));
    let presented = Presented { scheme, token: &token, place, request, clock, now };
    let outcome = judge(policy, &presented, clock, metrics, witness).await;
    match scheme {
        Scheme::Bearer => outcome,
        Scheme::Dpop => outcome.map_err(|refusal| policy.shared.dpop.in_own_scheme(refusal)),
    }
}

/// A refusal on its way to the client, of which the operator is told first.
fn tell<W: Witness>(policy: &Policy, refusal: Refusal, counters: &Verifications, now: u64) -> Refusal {
    if W::SERVES { policy.refuse(refusal, counters, now) } else { refusal }
}

/// Judges a token that was found.
async fn judge<W: Witness>(
    policy: &Policy,
    presented: &Presented<'_>,
    clock: &dyn Clock,
    metrics: &Metrics,
    witness: &mut W,
) -> Result<Proof, Refusal> {
    let challenges = &policy.shared.challenges;
    let &Presented { token, request, now, .. } = presented;
    let refuse = |refusal, counters: &Verifications| Err(tell::<W>(policy, refusal, counters, now));
    // Who only asks why is nobody's client.
    let client = W::SERVES.then_some(request.client);
    // A token that no issuer with keys can have made is its own issuer's to judge.
    if let Some(introspector) = &policy.introspection
        && (policy.issuers.is_empty() || introspection::is_opaque(token))
    {
        witness.skip(&[Step::Cache], "tokens that only their issuer can judge are not kept here");
        witness.skip(&Step::BY_KEYS, "only its issuer can judge this token");
        return introspect(policy, introspector, presented, clock, client, witness).await;
    }
    witness.skip(&[Step::Introspection], "the token is for keys to judge");
    witness.begin(Step::Cache);
    let hash = policy.shared.cache.hash(token);
    let is_ours = |id| policy.issuers.iter().any(|issuer| issuer.id == id);
    let cached = if W::SERVES {
        policy.shared.cache.get(hash, token, now, is_ours)
    } else {
        policy.shared.cache.peek(hash, token, now, is_ours)
    };
    if let Some((identity, id, key)) = cached {
        let issuer = policy.issuers.iter().find(|issuer| issuer.id == id);
        let counters = issuer.map_or(&metrics.anonymous, |issuer| &issuer.metrics.verifications);
        witness.note(|| {
            let left = spoken(identity.expires_at.saturating_sub(now));
            format!("verified before, as one of issuer {}; expires in {left}", identity.issuer)
        });
        witness.skip(&Step::BY_KEYS, "it was verified before");
        return admit(policy, presented, identity, key.kid(), counters, witness);
    }
    witness.skip(&[Step::Cache], "it was not verified before, or is no longer remembered");

    let mut attempt = Attempt { policy, token, hash, clock, now };
    let mut issuer = None;
    // One that is known to be another issuer's will be found so again: that costs no signature check.
    let is_known = policy.introspection.as_ref().is_some_and(|introspector| introspector.knows(token));
    let mut outcome = attempt.check(client.filter(|_| !is_known), &mut issuer, witness);
    if let (Err(Halt::NeedsKeys(kid)), Some(issuer)) = (&outcome, issuer) {
        witness.waits();
        outcome = match issuer.keyring.ask(kid.as_deref(), clock.now(), issuer.config.jwks.wait.get()).await {
            Asked::Look => {
                attempt.now = clock.unix_seconds();
                // The budget was charged the first time.
                attempt.check(None, &mut Some(issuer), witness)
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
        witness.waive("it names no issuer with keys of this route: the one that is introspected is asked");
        let charge = client.filter(|_| !introspection::was_charged(fault));
        return introspect(policy, introspector, presented, clock, charge, witness).await;
    }
    let counters = issuer.map_or(&metrics.anonymous, |issuer| &issuer.metrics.verifications);
    match outcome {
        // Where it waited for keys, what follows is judged by the time now: a proof may be forgotten by then.
        Ok((identity, key)) => {
            admit(policy, &Presented { now: attempt.now, ..*presented }, identity, key.kid(), counters, witness)
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
async fn introspect<W: Witness>(
    policy: &Policy,
    introspector: &Introspector,
    presented: &Presented<'_>,
    clock: &dyn Clock,
    charge: Option<IpAddr>,
    witness: &mut W,
) -> Result<Proof, Refusal> {
    witness.begin(Step::Introspection);
    let identified = introspector.identify(presented.token, &policy.shared, charge, witness).await;
    // It may have waited for as long as it takes to forget a proof.
    let presented = &Presented { now: clock.unix_seconds(), ..*presented };
    match identified {
        // No key of ours verified it.
        Ok(identity) => admit(policy, presented, identity, None, &introspector.verifications, witness),
        Err(refusal) => Err(tell::<W>(policy, refusal, &introspector.verifications, presented.now)),
    }
}

/// The last steps, for tokens old and new: what was revoked, whether its holder presents it, and what the route asks beyond
/// a good token. `kid` is that of the key which verified the token, whatever the token's header says.
fn admit<W: Witness>(
    policy: &Policy,
    presented: &Presented<'_>,
    identity: Arc<Identity>,
    kid: Option<&str>,
    counters: &Verifications,
    witness: &mut W,
) -> Result<Proof, Refusal> {
    let now = presented.now;
    witness.begin(Step::Revocation);
    let revocations = &policy.shared.revocations;
    let judgement =
        if W::SERVES { revocations.judge(&identity, kid, now) } else { revocations.look(&identity, kid, now) };
    let judged = match judgement {
        Judgement::Good => binding::check(policy, presented, &identity, witness),
        Judgement::Revoked(kind) => Err(policy.shared.challenges.bad_token(&TokenFault::Revoked(kind))),
        Judgement::Unknown(why) => Err(challenge::revocations_unknown(why)),
    };
    match judged.and_then(|held| policy.judge(&identity, now, witness).map(|()| held)) {
        Ok(held) => {
            if W::SERVES {
                counters.ok();
            }
            Ok(Proof::Verified(Verified { identity, held, place: presented.place }))
        }
        Err(refusal) => Err(tell::<W>(policy, refusal, counters, now)),
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
    fn check<W: Witness>(
        &self,
        charge: Option<IpAddr>,
        whose: &mut Option<&'r Issuer>,
        witness: &mut W,
    ) -> Result<Checked, Halt> {
        let shared = &self.policy.shared;
        witness.begin(Step::Shape);
        let compact = Compact::split(self.token, shared.longest)?;
        witness.note(|| format!("three parts, {} bytes", self.token.len()));
        witness.begin(Step::Header);
        let mut room: SmallVec<[u8; 512]> = SmallVec::from_elem(0, compact.header.len());
        let header =
            base64url::decode_slice(compact.header, &mut room).map_err(|_| TokenFault::Encoding(Part::Header))?;
        let header = Header::parse(header)?;
        witness.note(|| {
            let kid = header.kid.as_deref().map_or("no kid".into(), |kid| format!("kid {}", shown(kid)));
            format!("alg {}, {kid}", header.algorithm.name())
        });
        if header.algorithm.is_mac() && !self.policy.has_secrets() {
            // No key of the route can be for it, as for an algorithm that nobody knows.
            return Err(TokenFault::AlgorithmUnknown.into());
        }

        self.charge(charge)?;
        witness.begin(Step::Payload);
        let payload = base64url::decode(compact.payload).map_err(|_| TokenFault::Encoding(Part::Payload))?;
        let claims = claims::read(payload)?;
        witness.begin(Step::Issuer);
        let issuer = match claims.raw("iss") {
            Some(Raw::Text(iss)) => {
                witness.note(|| self.policy.explain_issuer(iss));
                self.policy.issuers.iter().find(|issuer| issuer.config.issuer == iss).ok_or(TokenFault::Issuer)?
            }
            Some(Raw::Json(_)) => return Err(TokenFault::ClaimForm("iss").into()),
            None => return Err(TokenFault::ClaimMissing("iss").into()),
        };
        *whose = Some(issuer);

        let key = self.verify_signature(issuer, &compact, &header, charge, witness)?;
        let expires_at = issuer.judge_claims(&claims, self.now, witness)?;
        let identity = Arc::new(claims::identity(&issuer.name, issuer.scope_claim.as_ref(), claims, expires_at));
        if W::SERVES && !key.is_withdrawn() {
            shared.cache.insert(self.hash, self.token, issuer.id, &key, &identity, self.now);
        }
        Ok((identity, key))
    }

    /// Charges an address with a signature check, if it has one left.
    fn charge(&self, client: Option<IpAddr>) -> Result<(), Halt> {
        let (Some(client), Some(limiter)) = (client, &self.policy.shared.limiter) else { return Ok(()) };
        let checked = limiter.check(&address_key(client), self.clock.now());
        checked.map(drop).map_err(|limited| Halt::Limited(limited.retry_after))
    }

    /// Finds the key that made the signature. The first check was charged; where several keys may be meant, each further
    /// one is charged too.
    fn verify_signature<W: Witness>(
        &self,
        issuer: &Issuer,
        compact: &Compact<'_>,
        header: &Header<'_>,
        charge: Option<IpAddr>,
        witness: &mut W,
    ) -> Result<Arc<Key>, Halt> {
        witness.begin(Step::Algorithm);
        issuer.judge_algorithm(header)?;
        witness.begin(Step::Type);
        witness.note(|| header.typ.as_deref().map_or("no typ".into(), |typ| format!("typ {}", shown(typ))));
        issuer.judge_type(header)?;
        let mut room = [0; MAX_SIGNATURE];
        let signature = compact.decode_signature(&mut room)?;
        witness.begin(Step::Key);
        let keys = issuer.keyring.keys();
        let Some(keys) = keys.as_ref() else { return Err(Halt::NeedsKeys(None)) };
        let kid = header.kid.as_deref();
        let candidates = match keys.lookup(kid, header.algorithm) {
            Lookup::Candidates(candidates) => candidates,
            Lookup::NotForAlgorithm => return Err(TokenFault::KeyNotForAlgorithm(header.algorithm).into()),
            Lookup::Unknown => SmallVec::new(),
        };
        for (tried, key) in candidates.into_iter().enumerate() {
            if tried > 0 {
                self.charge(charge)?;
            }
            if key.verifies(header.algorithm, compact.signed, signature) {
                witness.note(|| key.kid().map_or("one without kid".into(), |kid| format!("kid {}", shown(kid))));
                witness.begin(Step::Signature);
                return Ok(Arc::clone(key));
            }
        }
        match kid {
            // A key of that name may have been published since.
            Some(kid) if !keys.has_kid(kid) => Err(Halt::NeedsKeys(Some(kid.into()))),
            None if keys.keys().is_empty() => Err(TokenFault::KeyUnknown.into()),
            Some(_) | None => {
                witness.begin(Step::Signature);
                Err(TokenFault::Signature.into())
            }
        }
    }
}
