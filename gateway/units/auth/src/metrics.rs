//! What the unit counts. Label values are the names of issuers and of routes, and fixed lists, so the series are bounded.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Metric, Registry, Unit};
use sluice_vocabulary::{Reason, Refusal};

use crate::dpop::proof::ProofFault;
use crate::fetch::FetchFault;
use crate::introspection::Counters;
use crate::refusals::RefusalLog;
use crate::remote::metrics::CallFamilies;

/// The `issuer` label where no issuer is known. It is not an issuer's name: those hold no parentheses.
pub(crate) const NO_ISSUER: &str = "(none)";

/// The reasons this unit refuses for; the `outcome` label is their slug, or `ok`.
pub(crate) const REFUSALS: [Reason; 20] = [
    Reason::TokenMissing,
    Reason::CredentialsMalformed,
    Reason::TokenMalformed,
    Reason::TokenRejected,
    Reason::TokenExpired,
    Reason::TokenRevoked,
    Reason::TokenNotYetValid,
    Reason::TokenNotForUs,
    Reason::SenderUnproven,
    Reason::SenderUnbound,
    Reason::ProofRejected,
    Reason::ProofNonce,
    Reason::ProofsUnavailable,
    Reason::ScopeMissing,
    Reason::TokenNotAllowed,
    Reason::AuthenticationInsufficient,
    Reason::KeysUnavailable,
    Reason::IntrospectionUnavailable,
    Reason::AddressRateLimited,
    Reason::Internal,
];

/// A reason's place among [`REFUSALS`]. One outside the list would be a fault of this unit; it then counts as such.
pub(crate) fn index_of(reason: Reason) -> usize {
    REFUSALS.iter().position(|known| *known == reason).unwrap_or(REFUSALS.len() - 1)
}

/// A metric, made and registered.
pub(crate) fn registered<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: impl Into<String>,
    help: &str,
) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// The same for one that is told in `unit`, which its name then ends with.
pub(crate) fn registered_in<M: Metric + Clone + Default>(
    registry: &mut Registry,
    unit: Unit,
    name: impl Into<String>,
    help: &str,
) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    issuer: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfIssuer {
    issuer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: String,
    outcome: &'static str,
}

/// All of the unit's metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    verifications: Family<Outcome, Counter>,
    routes: Family<OfRoute, Counter>,
    fetches: Family<Outcome, Counter>,
    keys: Family<OfIssuer, Gauge>,
    up: Family<OfIssuer, Gauge>,
    unkept: Family<OfIssuer, Counter>,
    pub(crate) cache: CacheMetrics,
    /// Questions to introspection endpoints, by issuer.
    pub(crate) introspection: CallFamilies,
    /// Questions to authorising services, by route.
    pub(crate) forward_auth: CallFamilies,
    pub(crate) proofs: ProofMetrics,
    pub(crate) mint: MintMetrics,
    /// Requests of which no issuer is known.
    pub(crate) anonymous: Verifications,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeAlone {
    outcome: &'static str,
}

/// The DPoP proofs' own.
#[derive(Debug, Clone)]
pub(crate) struct ProofMetrics {
    ok: Counter,
    refused: [Counter; ProofFault::SLUGS.len()],
    pub(crate) remembered: Gauge,
}

impl ProofMetrics {
    fn new(registry: &mut Registry) -> Self {
        let family: Family<OutcomeAlone, Counter> =
            registered(registry, "dpop_proofs", "DPoP proofs, by outcome: ok or what is wrong");
        let counter = |outcome| family.get_or_create(&OutcomeAlone { outcome }).clone();
        Self {
            ok: counter("ok"),
            refused: ProofFault::SLUGS.map(counter),
            remembered: registered(
                registry,
                "dpop_proofs_remembered",
                "DPoP proofs remembered so that none is good twice",
            ),
        }
    }

    /// Counts a proof by what is wrong with it.
    pub(crate) fn count(&self, fault: Option<&ProofFault>) {
        match fault.and_then(|fault| ProofFault::SLUGS.iter().position(|slug| *slug == fault.slug())) {
            Some(index) => self.refused[index].inc(),
            None => self.ok.inc(),
        };
    }
}

/// The identity tokens' own.
#[derive(Debug, Clone)]
pub(crate) struct MintMetrics {
    pub(crate) signed: Counter,
    pub(crate) cached: Counter,
    pub(crate) left_out: Counter,
}

impl MintMetrics {
    fn new(registry: &mut Registry) -> Self {
        let family: Family<OutcomeAlone, Counter> = registered(
            registry,
            "identity_tokens",
            "Identity tokens for upstreams, by outcome: signed, cached (used again), left-out (too long)",
        );
        let counter = |outcome| family.get_or_create(&OutcomeAlone { outcome }).clone();
        Self { signed: counter("signed"), cached: counter("cached"), left_out: counter("left-out") }
    }
}

/// The cache's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct CacheMetrics {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) evictions: Counter,
    pub(crate) passed_over: Counter,
    pub(crate) bytes: Gauge,
}

impl CacheMetrics {
    fn new(registry: &mut Registry) -> Self {
        Self {
            hits: registered(registry, "token_cache_hits", "Tokens found among those already verified"),
            misses: registered(registry, "token_cache_misses", "Tokens not found among those already verified"),
            evictions: registered(registry, "token_cache_evictions", "Verified tokens dropped for want of memory"),
            passed_over: registered(
                registry,
                "token_cache_passed_over",
                "Verified tokens not kept at their first use, since memory was full",
            ),
            bytes: registered_in(registry, Unit::Bytes, "token_cache", "Memory held by verified tokens"),
        }
    }
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let verifications = registered(
            registry,
            "verifications",
            "Requests on routes that ask for a token, by issuer and outcome: ok or the reason of the refusal",
        );
        Self {
            anonymous: Verifications::new(&verifications, NO_ISSUER),
            verifications,
            routes: registered(
                registry,
                "route_outcomes",
                "Requests on routes that ask for a token, by route: anonymous, or the reason of the refusal",
            ),
            fetches: registered(registry, "jwks_fetches", "Attempts to read an issuer's keys, by issuer and outcome"),
            keys: registered(registry, "keys", "Usable keys of an issuer"),
            up: registered(
                registry,
                "issuer_up",
                "Whether the last attempt to read an issuer's keys went well (1) or not (0)",
            ),
            unkept: registered(
                registry,
                "keys_not_kept",
                "Times that an issuer's keys could not be written to the state folder",
            ),
            cache: CacheMetrics::new(registry),
            introspection: CallFamilies::new(registry, "introspection", "issuer"),
            forward_auth: CallFamilies::new(registry, "forward_auth", "route"),
            proofs: ProofMetrics::new(registry),
            mint: MintMetrics::new(registry),
        }
    }

    /// The handles of one issuer.
    pub(crate) fn issuer(&self, name: &str) -> IssuerMetrics {
        let of = || OfIssuer { issuer: name.into() };
        let fetch = |outcome| self.fetches.get_or_create(&Outcome { issuer: name.into(), outcome }).clone();
        IssuerMetrics {
            verifications: Verifications::new(&self.verifications, name),
            fetched: fetch("ok"),
            fetch_failures: FetchFault::SLUGS.map(fetch),
            keys: self.keys.get_or_create(&of()).clone(),
            up: self.up.get_or_create(&of()).clone(),
            unkept: self.unkept.get_or_create(&of()).clone(),
        }
    }

    /// The counter of one outcome of one route.
    pub(crate) fn of_route(&self, route: &str, outcome: &'static str) -> Counter {
        self.routes.get_or_create(&OfRoute { route: route.into(), outcome }).clone()
    }

    /// Begins a route's series with the commonest, so that each route is seen; the others come with what they count.
    pub(crate) fn begin_route(&self, route: &str) {
        self.of_route(route, Reason::TokenMissing.slug());
    }

    /// Forgets a route that is no longer configured, or asks for no token any more.
    pub(crate) fn forget_route(&self, route: &str) {
        for outcome in REFUSALS.iter().map(|reason| reason.slug()).chain(["anonymous"]) {
            self.routes.remove(&OfRoute { route: route.into(), outcome });
        }
    }

    /// The handles of one issuer whose tokens are introspected.
    pub(crate) fn introspected(&self, name: &str) -> Counters {
        Counters { verifications: Verifications::new(&self.verifications, name), calls: self.introspection.of(name) }
    }

    /// Forgets an issuer that is no longer configured.
    pub(crate) fn forget(&self, name: &str) {
        self.introspection.forget(name);
        let outcomes = REFUSALS.iter().map(|reason| reason.slug()).chain(["ok"]);
        for outcome in outcomes {
            self.verifications.remove(&Outcome { issuer: name.into(), outcome });
        }
        for outcome in FetchFault::SLUGS.into_iter().chain(["ok"]) {
            self.fetches.remove(&Outcome { issuer: name.into(), outcome });
        }
        let issuer = OfIssuer { issuer: name.into() };
        self.keys.remove(&issuer);
        self.up.remove(&issuer);
        self.unkept.remove(&issuer);
    }
}

/// Counters of outcomes, looked up once, and the log of refusals.
#[derive(Debug, Clone)]
pub(crate) struct Verifications {
    ok: Counter,
    refused: [Counter; REFUSALS.len()],
    log: Arc<RefusalLog>,
}

impl Verifications {
    fn new(family: &Family<Outcome, Counter>, issuer: &str) -> Self {
        let counter = |outcome| family.get_or_create(&Outcome { issuer: issuer.into(), outcome }).clone();
        let refused = REFUSALS.map(|reason| counter(reason.slug()));
        Self { ok: counter("ok"), refused, log: RefusalLog::new(issuer) }
    }

    pub(crate) fn ok(&self) {
        self.ok.inc();
    }

    /// Counts a refusal on `route`, and tells of it if it is its turn.
    pub(crate) fn refused(&self, route: &str, refusal: &Refusal, now: u64) {
        self.refused[index_of(refusal.reason)].inc();
        self.log.tell(route, refusal, now);
    }
}

/// The handles of one issuer.
#[derive(Debug, Clone)]
pub(crate) struct IssuerMetrics {
    pub(crate) verifications: Verifications,
    fetched: Counter,
    fetch_failures: [Counter; FetchFault::SLUGS.len()],
    pub(crate) keys: Gauge,
    pub(crate) up: Gauge,
    pub(crate) unkept: Counter,
}

impl IssuerMetrics {
    pub(crate) fn fetched(&self) {
        self.fetched.inc();
        self.up.set(1);
    }

    pub(crate) fn fetch_failed(&self, fault: &FetchFault) {
        self.up.set(0);
        if let Some(index) = FetchFault::SLUGS.iter().position(|slug| *slug == fault.slug()) {
            self.fetch_failures[index].inc();
        }
    }
}

/// Tells ages when asked, rather than keeping a gauge that ages by itself.
pub(crate) trait KeyAges: std::fmt::Debug + Send + Sync + 'static {
    /// Each issuer that has been heard, and the seconds since.
    fn key_ages(&self) -> Vec<(String, f64)>;
}

/// `key_age_seconds`, computed at each scrape.
#[derive(Debug)]
pub(crate) struct KeyAgeCollector(pub(crate) Arc<dyn KeyAges>);

impl Collector for KeyAgeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let ages = self.0.key_ages();
        if ages.is_empty() {
            return Ok(());
        }
        let mut metric: MetricEncoder<'_> = encoder.encode_descriptor(
            "key_age",
            "Time since the issuer's keys were last confirmed",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (issuer, age) in ages {
            ConstGauge::new(age).encode(metric.encode_family(&OfIssuer { issuer })?)?;
        }
        Ok(())
    }
}
