//! The unit: who a request's tenant is, and whether it is admitted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use http::header::{self, HeaderName, HeaderValue};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use sluice_vocabulary::limiter::{Allowed, Limited};
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::share::Claim;
use sluice_vocabulary::{Identity, PluginName, Reason, Refusal, TenantId};
use smallvec::SmallVec;

use crate::config::Config;
use crate::identify::Sources;
use crate::metrics::{Metrics, Outcomes};
use crate::policy::{Policy, RatePolicy, whole_seconds};
use crate::tracked::{Entry, Tracked, Usage};

/// `RateLimit`, of the IETF's draft on rate limit header fields.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// `RateLimit-Policy`, of the same draft.
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The unit, as the request path sees it. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    snapshot: ArcSwap<Snapshot>,
    tracked: Tracked,
    metrics: Metrics,
    /// Held while a configuration is applied: two at once would hand usage on from the same predecessor.
    applying: Mutex<()>,
}

/// What one configuration says.
#[derive(Debug)]
struct Snapshot {
    sources: Sources,
    default: Arc<Policy>,
    overrides: HashMap<TenantId, Named>,
}

/// A tenant that the configuration names. Its usage is held here rather than among the tracked ones: it is never
/// forgotten, and found without a lock.
#[derive(Debug)]
struct Named {
    policy: Arc<Policy>,
    usage: Arc<Usage>,
    outcomes: Outcomes,
}

/// A request that was let in, until it is dropped: then its place among its tenant's requests is free again. Hold it until
/// the last byte of the response is sent.
#[derive(Debug)]
pub struct Admitted {
    policy: Option<Arc<Policy>>,
    /// Here if a place is to be given back.
    place: Option<Arc<Usage>>,
    allowed: Option<Allowed>,
}

impl Handle {
    /// The unit with its first configuration, which `validate` found no errors in. Metrics are registered unprefixed.
    pub fn new(config: &Config, registry: &mut Registry) -> Self {
        let metrics = Metrics::new(registry);
        let tracked = Tracked::new(config.max_tracked);
        let snapshot = Snapshot::new(config, &metrics, |_| None);
        let snapshot = ArcSwap::from_pointee(snapshot);
        Self(Arc::new(Inner { snapshot, tracked, metrics, applying: Mutex::new(()) }))
    }

    /// Applies another validated configuration. What tenants have used so far stays used, and requests under way keep
    /// their places, also where a tenant comes into `overrides` or leaves them.
    pub fn apply(&self, config: &Config, now: Instant) {
        let Inner { snapshot, tracked, metrics, applying } = &*self.0;
        let _one_at_a_time = applying.lock();
        let old = snapshot.load_full();
        let new = Snapshot::new(config, metrics, |tenant| match old.overrides.get(tenant) {
            Some(named) => Some(Arc::clone(&named.usage)),
            None => tracked.take(tenant).inspect(|_| {
                metrics.tracked.dec();
            }),
        });
        let gone: BTreeSet<_> = old.overrides.keys().filter(|tenant| !new.overrides.contains_key(*tenant)).collect();
        for tenant in &gone {
            if let Some(named) = old.overrides.get(*tenant)
                && tracked.put(tenant, Arc::clone(&named.usage))
            {
                metrics.tracked.inc();
            }
        }
        snapshot.store(Arc::new(new));
        metrics.no_longer(&gone);
        let forgotten = tracked.set_most(config.max_tracked, now);
        metrics.tracked.dec_by(i64::try_from(forgotten).unwrap_or(i64::MAX));
        metrics.forgotten.inc_by(forgotten as u64);
    }

    /// The request's tenant: by the identity's claims first, by header fields where the configuration has any.
    ///
    /// A header field that contradicts the identity is refused rather than ignored, since the upstream would see it.
    ///
    /// # Errors
    /// [`Reason::TenantUnknown`] where a tenant is required and none is named, where what is named is not a tenant's name,
    /// or where two places contradict each other.
    pub fn identify(
        &self,
        identity: Option<&Identity>,
        request: &RequestView<'_>,
    ) -> Result<Option<TenantId>, Refusal> {
        let snapshot = self.0.snapshot.load();
        let known = |text: &str| snapshot.overrides.get_key_value(text).map(|(tenant, _)| tenant.clone());
        snapshot
            .sources
            .identify(identity, request, known)
            .inspect_err(|refusal| self.0.metrics.refused(refusal.reason))
    }

    /// Admits a request of this tenant, or refuses it. A request without tenant is admitted: it is limited by its address,
    /// elsewhere.
    ///
    /// A place among the requests at once is taken before the rate is asked, so that a request which finds no place costs
    /// nothing of the rate.
    ///
    /// # Errors
    /// [`Reason::TenantConcurrency`] and [`Reason::TenantRateLimited`], with `Retry-After` and the rate-limit fields;
    /// [`Reason::Overloaded`] where so many tenants have requests under way that another cannot be tracked.
    pub fn admit(&self, tenant: Option<&TenantId>, now: Instant) -> Result<Admitted, Refusal> {
        let metrics = &self.0.metrics;
        let Some(tenant) = tenant else {
            metrics.all.admitted();
            return Ok(Admitted { policy: None, place: None, allowed: None });
        };
        let snapshot = self.0.snapshot.load();
        let (policy, usage, own) = match snapshot.overrides.get(tenant) {
            Some(Named { policy, usage, outcomes }) => (policy, Arc::clone(usage), Some(outcomes)),
            None => (&snapshot.default, self.usage_of(tenant, now)?, None),
        };
        let admitted = enter(policy, usage, now);
        let outcomes = [Some(&metrics.all), own];
        for outcomes in outcomes.into_iter().flatten() {
            match &admitted {
                Ok(_) => outcomes.admitted(),
                Err(refusal) => outcomes.refused(refusal.reason),
            }
        }
        admitted
    }

    fn usage_of(&self, tenant: &TenantId, now: Instant) -> Result<Arc<Usage>, Refusal> {
        let metrics = &self.0.metrics;
        match self.0.tracked.of(tenant, now) {
            Entry::Known(usage) => Ok(usage),
            Entry::Added(usage) => {
                metrics.tracked.inc();
                Ok(usage)
            }
            Entry::Replaced(usage) => {
                metrics.forgotten.inc();
                Ok(usage)
            }
            Entry::NoRoom => {
                metrics.refused(Reason::Overloaded);
                Err(Refusal::new(Reason::Overloaded)
                    .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
                    .internal("every tracked tenant has requests under way, see tenants.max_tracked"))
            }
        }
    }

    /// The plugins that requests of this tenant pass, in order.
    pub fn plugins_of(&self, tenant: &TenantId) -> Arc<[PluginName]> {
        let snapshot = self.0.snapshot.load();
        let policy = snapshot.overrides.get(tenant).map_or(&snapshot.default, |named| &named.policy);
        Arc::clone(policy.plugins())
    }
}

impl Snapshot {
    fn new(config: &Config, metrics: &Metrics, usage: impl Fn(&TenantId) -> Option<Arc<Usage>>) -> Self {
        let named = |tenant: &TenantId, own| Named {
            policy: Arc::new(Policy::of_override(own, &config.default, metrics.told(tenant))),
            usage: usage(tenant).unwrap_or_default(),
            outcomes: metrics.of(tenant),
        };
        Self {
            sources: Sources::new(config),
            default: Arc::new(Policy::of_default(&config.default)),
            overrides: config.overrides.iter().map(|(tenant, own)| (tenant.clone(), named(tenant, own))).collect(),
        }
    }
}

fn enter(policy: &Arc<Policy>, usage: Arc<Usage>, now: Instant) -> Result<Admitted, Refusal> {
    // Every request is counted, also where there is no limit on them now: one may come with the next configuration.
    let most = policy.concurrency.unwrap_or(u32::MAX);
    if !usage.enter(most) {
        return Err(Refusal::new(Reason::TenantConcurrency)
            .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
            .internal(format!("{most} requests of the tenant are under way")));
    }
    // From here on, dropping it gives the place back.
    let mut admitted = Admitted { policy: Some(Arc::clone(policy)), place: Some(usage), allowed: None };
    if let (Some(limit), Some(usage)) = (&policy.rate, &admitted.place) {
        match usage.bucket.check(&limit.rate, now) {
            Ok(allowed) => admitted.allowed = Some(allowed),
            Err(limited) => return Err(rate_limited(limit, limited)),
        }
    }
    Ok(admitted)
}

fn rate_limited(limit: &RatePolicy, Limited { retry_after }: Limited) -> Refusal {
    let seconds = whole_seconds(retry_after);
    let mut refusal = Refusal::new(Reason::TenantRateLimited).header(header::RETRY_AFTER, HeaderValue::from(seconds));
    refusal.headers.extend(rate_limit_fields(limit, 0, seconds));
    refusal
}

fn rate_limit_fields(limit: &RatePolicy, remaining: u32, seconds: u64) -> Fields {
    let mut fields = Fields::new();
    fields.extend(limit.told.clone().map(|policy| (RATE_LIMIT_POLICY, policy)));
    let now = HeaderValue::try_from(format!("\"tenant\";r={remaining};t={seconds}"));
    fields.extend(now.ok().map(|now| (RATE_LIMIT, now)));
    fields
}

/// The two fields, without allocation for the list.
pub type Fields = SmallVec<[(HeaderName, HeaderValue); 2]>;

impl Admitted {
    /// `RateLimit` and `RateLimit-Policy` for the answer: how much of the tenant's rate is left, and in how many seconds
    /// all of it will be there again. Empty where there is no rate.
    pub fn rate_limit_headers(&self) -> Fields {
        let limit = self.policy.as_ref().and_then(|policy| policy.rate.as_ref());
        match (limit, self.allowed) {
            (Some(limit), Some(allowed)) => {
                rate_limit_fields(limit, allowed.remaining, whole_seconds(allowed.full_after))
            }
            _ => Fields::new(),
        }
    }

    /// What the plugins that the request passes may use on account of its tenant. None where it has none.
    pub fn plugin_claim(&self) -> Option<Claim> {
        Some(self.policy.as_ref()?.claim(self.place.as_ref()?.plugins()))
    }

    /// The plugins that the request passes on account of its tenant, in order, as of the configuration it was admitted
    /// under. None where it has no tenant.
    pub fn plugins(&self) -> &[PluginName] {
        self.policy.as_ref().map_or(&[], |policy| policy.plugins())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.leave();
        }
    }
}
