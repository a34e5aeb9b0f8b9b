//! What tenancy counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use sluice_vocabulary::share::Told;
use sluice_vocabulary::{Reason, TenantId};

/// Counters with their handles made in advance. Tenants are labels only where the operator named them in `overrides`,
/// which bounds their number.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) all: Outcomes,
    unknown: Counter,
    crowded_out: Counter,
    pub(crate) tracked: Gauge,
    pub(crate) forgotten: Counter,
    by_tenant: Family<ByTenant, Counter>,
    plugin_cpu: Family<OfTenant, Counter<f64, AtomicU64>>,
    plugin_refusals: Family<OfTenant, Counter>,
}

/// What may become of a request of a known tenant.
#[derive(Debug, Clone)]
pub(crate) struct Outcomes {
    admitted: Counter,
    rate_limited: Counter,
    at_once: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTenant {
    tenant: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTenant {
    tenant: String,
}

const ADMITTED: &str = "admitted";

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let admitted = Counter::default();
        let refusals = Family::<ByReason, Counter>::default();
        let by_tenant = Family::<ByTenant, Counter>::default();
        let tracked = Gauge::default();
        let forgotten = Counter::default();
        registry.register("admitted", "Requests that were admitted, with or without a tenant", admitted.clone());
        registry.register(
            "refusals",
            "Requests that were refused on account of their tenant, by reason",
            refusals.clone(),
        );
        registry.register(
            "requests",
            "Requests of the tenants that the configuration names, by tenant and outcome",
            by_tenant.clone(),
        );
        registry.register(
            "tracked",
            "Tenants remembered now, beyond those that the configuration names",
            tracked.clone(),
        );
        registry.register("forgotten", "Tenants forgotten to make room for others", forgotten.clone());
        let plugin_cpu = Family::<OfTenant, Counter<f64, AtomicU64>>::default();
        let plugin_refusals = Family::<OfTenant, Counter>::default();
        registry.register_with_unit(
            "plugin_cpu",
            "Time that plugins held a thread on account of the tenants that the configuration names",
            Unit::Seconds,
            plugin_cpu.clone(),
        );
        registry.register(
            "plugin_refusals",
            "Calls of plugins that found a named tenant over its share",
            plugin_refusals.clone(),
        );
        let refused = |reason: Reason| refusals.get_or_create_owned(&ByReason { reason: reason.slug() });
        Self {
            all: Outcomes {
                admitted,
                rate_limited: refused(Reason::TenantRateLimited),
                at_once: refused(Reason::TenantConcurrency),
            },
            unknown: refused(Reason::TenantUnknown),
            crowded_out: refused(Reason::Overloaded),
            tracked,
            forgotten,
            by_tenant,
            plugin_cpu,
            plugin_refusals,
        }
    }

    /// What is told of what a named tenant's plugins use.
    pub(crate) fn told(&self, tenant: &TenantId) -> Arc<Told> {
        let labels = OfTenant { tenant: tenant.as_str().to_owned() };
        Arc::new(Told {
            cpu: self.plugin_cpu.get_or_create_owned(&labels),
            refused: self.plugin_refusals.get_or_create_owned(&labels),
        })
    }

    /// The counters of one tenant of the configuration.
    pub(crate) fn of(&self, tenant: &TenantId) -> Outcomes {
        let counter = |outcome| self.by_tenant.get_or_create_owned(&labels(tenant, outcome));
        Outcomes {
            admitted: counter(ADMITTED),
            rate_limited: counter(Reason::TenantRateLimited.slug()),
            at_once: counter(Reason::TenantConcurrency.slug()),
        }
    }

    /// Tenants that the configuration names no longer.
    pub(crate) fn no_longer(&self, tenants: &BTreeSet<&TenantId>) {
        for tenant in tenants {
            for outcome in [ADMITTED, Reason::TenantRateLimited.slug(), Reason::TenantConcurrency.slug()] {
                self.by_tenant.remove(&labels(tenant, outcome));
            }
            let labels = OfTenant { tenant: tenant.as_str().to_owned() };
            self.plugin_cpu.remove(&labels);
            self.plugin_refusals.remove(&labels);
        }
    }

    /// A refusal that is not on account of one known tenant.
    pub(crate) fn refused(&self, reason: Reason) {
        match reason {
            Reason::TenantUnknown => self.unknown.inc(),
            _ => self.crowded_out.inc(),
        };
    }
}

fn labels(tenant: &TenantId, outcome: &'static str) -> ByTenant {
    ByTenant { tenant: tenant.as_str().to_owned(), outcome }
}

impl Outcomes {
    pub(crate) fn admitted(&self) {
        self.admitted.inc();
    }

    pub(crate) fn refused(&self, reason: Reason) {
        match reason {
            Reason::TenantRateLimited => self.rate_limited.inc(),
            _ => self.at_once.inc(),
        };
    }
}
