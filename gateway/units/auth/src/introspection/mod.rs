//! Tokens that only their issuer can judge: opaque ones, asked of its introspection endpoint (RFC 7662).
//!
//! What the endpoint said is believed for a configured while, yes and no apart, and a yes never past the token's `exp`.
//! Beyond that every request that carries the token waits for one and the same question. Who cannot be heard has said
//! nothing: then the answer is 503. Only an endpoint that was heard makes a 401.
//!
//! On a route that has issuers with keys too, a token goes to the endpoint if it is not three parts joined by dots, or if
//! as a JWT it is none of theirs: see [`is_foreign`]. A token that names one of them is theirs to judge, however it ends.

pub(crate) mod answer;
pub(crate) mod config;
mod question;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::limiter::address_key;
use sluice_vocabulary::secret::Secret;
use sluice_vocabulary::{Identity, IssuerName, Reason, Refusal};

use crate::bearer;
use crate::challenge;
use crate::claims::Rules;
use crate::config::IssuerConfig;
use crate::error::{Part, TokenFault};
use crate::metrics::Verifications;
use crate::pointer::ClaimPath;
use crate::policy::Shared;
use crate::remote::cache::AnswerCache;
use crate::remote::flights::{Flights, Landed};
use crate::remote::metrics::CallMetrics;
use crate::remote::{self, RemoteFault, Service, Surroundings};
use crate::remotes::SystemRoots;
use crate::witness::{Witness, spoken};
use answer::Judge;
use config::IntrospectionConfig;
use question::Question;

/// What an endpoint's answer comes to.
type Verdict = Result<Arc<Identity>, TokenFault>;

/// An issuer whose tokens are introspected. A change of its configuration makes another one.
#[derive(Debug)]
pub(crate) struct Introspector {
    pub(crate) name: IssuerName,
    pub(crate) verifications: Verifications,
    config: IssuerConfig,
    /// As it was read: another one makes another introspector.
    secret: Secret,
    asking: Arc<Asking>,
    flights: Flights<Result<Verdict, RemoteFault>>,
    metrics: CallMetrics,
}

/// What a question under way needs.
#[derive(Debug)]
struct Asking {
    service: Service,
    question: Question,
    judge: Judge,
    clock: Arc<dyn Clock>,
    positive: Duration,
    negative: Duration,
    good: AnswerCache<Arc<Identity>>,
    bad: AnswerCache<TokenFault>,
}

/// Whom an introspector counts for.
pub(crate) struct Counters {
    pub(crate) verifications: Verifications,
    pub(crate) calls: CallMetrics,
}

impl Introspector {
    /// Compiles a validated configuration with its section `introspection` and the client's `secret`. The error is fit for
    /// the operator and is about that section.
    pub(crate) fn new(
        name: IssuerName,
        config: &IssuerConfig,
        wanted: &IntrospectionConfig,
        secret: Secret,
        around: &Surroundings,
        system_roots: SystemRoots<'_>,
        counters: Counters,
    ) -> Result<Self, String> {
        let Counters { verifications, calls } = counters;
        let roots = remote::roots(&wanted.url, wanted.ca.as_deref(), &around.base_dir, system_roots)?;
        let service = Service::new(&wanted.url, roots, &wanted.bounds(), around, calls.clone())?;
        let question = Question::new(&wanted.client.id, &secret, wanted.client.method)
            .ok_or("the client's credentials cannot be sent in a header")?;
        let audiences = (!config.audiences.is_empty())
            .then(|| config.audiences.iter().map(|audience| audience.as_str().into()).collect());
        let judge = Judge {
            issuer: name.clone(),
            iss: config.issuer.as_str().into(),
            rules: Rules { audiences, leeway: config.leeway.get().as_secs() },
            // Validated: what cannot be parsed was told as a fault.
            scope_claim: config.scope_claim.as_deref().and_then(|place| ClaimPath::parse(place).ok()),
            belief: wanted.cache.positive.get().as_secs().max(1),
        };
        let size = wanted.cache.size.as_usize();
        let asking = Arc::new(Asking {
            service,
            question,
            judge,
            clock: Arc::clone(&around.clock),
            positive: wanted.cache.positive.get(),
            negative: wanted.cache.negative.get(),
            good: AnswerCache::new(size - size / 4, calls.bytes.clone()),
            bad: AnswerCache::new(size / 4, calls.bytes.clone()),
        });
        let flights = Flights::new(wanted.max_waiting as usize, around.background.clone());
        Ok(Self { name, verifications, config: config.clone(), secret, asking, flights, metrics: calls })
    }

    /// Whether it is what this configuration and secret would make.
    pub(crate) fn is_of(&self, config: &IssuerConfig, secret: &Secret) -> bool {
        self.config == *config && self.secret == *secret
    }

    /// Whether `token` is known to be good. Counts nothing, and decides nothing: on another route it may have been asked
    /// about which here is an issuer's with keys.
    pub(crate) fn knows(&self, token: &[u8]) -> bool {
        matches!(self.asking.known(token), Some(Ok(_)))
    }

    /// What is known of `token`, without asking.
    fn known(&self, token: &[u8]) -> Option<Verdict> {
        let known = self.asking.known(token);
        match &known {
            Some(_) => self.metrics.hits.inc(),
            None => self.metrics.misses.inc(),
        };
        known
    }

    /// Whose `token` is: by what is known, or else by asking. A question is charged to the address `charge`, if given.
    pub(crate) async fn identify<W: Witness>(
        &self,
        token: &[u8],
        shared: &Shared,
        charge: Option<IpAddr>,
        witness: &mut W,
    ) -> Result<Arc<Identity>, Refusal> {
        let known = if W::SERVES { self.known(token) } else { self.asking.known(token) };
        let how = if known.is_some() { "answered a while ago" } else { "asked just now" };
        let verdict = match known {
            Some(verdict) => verdict,
            None => self.ask(token, shared, charge).await?,
        };
        witness.note(|| match &verdict {
            Ok(identity) => {
                let left = spoken(identity.expires_at.saturating_sub(self.asking.clock.unix_seconds()));
                format!("issuer {}, {how}: active, believed for at most {left}", self.name)
            }
            Err(fault) => format!("issuer {}, {how}: {fault}", self.name),
        });
        verdict.map_err(|fault| shared.challenges.bad_token(&fault))
    }

    async fn ask(&self, token: &[u8], shared: &Shared, charge: Option<IpAddr>) -> Result<Verdict, Refusal> {
        if token.len() > shared.longest {
            let fault = TokenFault::TooLong { found: token.len(), most: shared.longest };
            return Err(shared.challenges.bad_token(&fault));
        }
        if !bearer::is_token(token) {
            return Err(shared.challenges.malformed_credentials("what follows Bearer is not one token"));
        }
        if let (Some(client), Some(limiter)) = (charge, &shared.limiter) {
            let limited = limiter.check(&address_key(client), self.asking.clock.now());
            limited.map_err(|limited| challenge::address_limited(limited.retry_after.as_secs() + 1))?;
        }
        self.question(token).await.map_err(|fault| {
            fault.refusal(Reason::IntrospectionUnavailable, &format!("introspection for issuer {}", self.name))
        })
    }

    async fn question(&self, token: &[u8]) -> Result<Verdict, RemoteFault> {
        self.asking.service.rests()?;
        let landed = self.flights.join(token, || {
            let (asking, token) = (Arc::clone(&self.asking), Box::<[u8]>::from(token));
            async move { asking.ask(&token).await }
        });
        let Landed { answer, shared } = landed.await.map_err(RemoteFault::from).inspect_err(|fault| {
            self.metrics.ended(Err(fault));
        })?;
        if shared {
            self.metrics.shared.inc();
        }
        answer
    }

    /// Gives back the memory of what is no longer believed.
    pub(crate) fn sweep(&self) {
        let now = self.asking.clock.now();
        self.asking.good.sweep(now);
        self.asking.bad.sweep(now);
    }

    /// What keeps its tokens from being judged, if anything does.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.asking.service.complaint().map(|why| format!("issuer {}: {why}", self.name))
    }

    /// Its part of the operator's page.
    pub(crate) fn inspect(&self) -> Value {
        let asking = &self.asking;
        let mut page = asking.service.inspect();
        page["issuer"] = self.config.issuer.as_str().into();
        page["cache"] = json!({
            "active": asking.good.len(),
            "refused": asking.bad.len(),
            "bytes": asking.good.bytes() + asking.bad.bytes(),
        });
        page
    }
}

impl Asking {
    fn known(&self, token: &[u8]) -> Option<Verdict> {
        let now = self.clock.now();
        // By the clock on the wall too, so that a step of it cannot lengthen a token's life.
        let seconds = self.clock.unix_seconds();
        let good = self.good.get(token, now).filter(|identity| seconds < identity.expires_at);
        good.map(Ok).or_else(|| self.bad.get(token, now).map(Err))
    }

    async fn ask(&self, token: &[u8]) -> Result<Verdict, RemoteFault> {
        // Counted from before the question: what is revoked meanwhile is not believed for longer.
        let asked = self.clock.now();
        let told = self.service.ask(self.question.about(token), |answer| answer::read(&answer)).await?;
        let now = self.clock.now();
        let verdict = match told {
            Some(told) => self.judge.judge(told, self.clock.unix_seconds()).map(Arc::new),
            None => Err(TokenFault::Inactive),
        };
        match &verdict {
            Ok(identity) => {
                self.good.insert(token, Arc::clone(identity), identity.size(), asked + self.positive, now);
            }
            Err(fault) => self.bad.insert(token, fault.clone(), 0, asked + self.negative, now),
        }
        Ok(verdict)
    }
}

/// Whether a token is not even to be looked at as a JWT: it is not three parts joined by dots.
pub(crate) fn is_opaque(token: &[u8]) -> bool {
    memchr::memchr_iter(b'.', token).take(3).count() != 2
}

/// Whether a token that was looked at as a JWT, and in which no issuer of the route was found, is one of none of them:
/// it is not a JWT at all, is signed in a way that no key here can be for, or names another issuer or none.
pub(crate) fn is_foreign(fault: &TokenFault) -> bool {
    matches!(
        fault,
        TokenFault::NotThreeParts
            | TokenFault::Encoding(Part::Header | Part::Payload)
            | TokenFault::Json(..)
            | TokenFault::NoAlgorithm
            | TokenFault::AlgorithmUnknown
            | TokenFault::ClaimMissing("iss")
            | TokenFault::Issuer
    )
}

/// Whether the address was charged for a token before `fault` was found in it.
pub(crate) fn was_charged(fault: &TokenFault) -> bool {
    matches!(
        fault,
        TokenFault::Encoding(Part::Payload)
            | TokenFault::Json(Part::Payload, _)
            | TokenFault::ClaimMissing(_)
            | TokenFault::Issuer
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_parts_are_a_jwt_until_they_prove_none() {
        for opaque in ["", "a", "a.b", "a.b.c.d", "a.b.c.d.e", "2YotnFZFEjr1zCsicMWpAA"] {
            assert!(is_opaque(opaque.as_bytes()), "{opaque}");
        }
        for three in ["a.b.c", "..", "eyJ.eyJ.x"] {
            assert!(!is_opaque(three.as_bytes()), "{three}");
        }
    }
}
