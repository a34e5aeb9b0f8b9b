//! What routing counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_vocabulary::Reason;

use crate::answer::DirectKind;
use crate::table::Table;

/// Counters with their handles made in advance; a clone counts into the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    no_route: Counter,
    method_not_allowed: Counter,
    address_denied: Counter,
    preflight: Counter,
    redirect: Counter,
    fixed: Counter,
    routes: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

impl Metrics {
    /// Registers them, unprefixed.
    pub fn new(registry: &mut Registry) -> Self {
        let refusals = Family::<ByReason, Counter>::default();
        let direct = Family::<ByKind, Counter>::default();
        let routes = Gauge::default();
        registry.register("refusals", "Requests that routing refused, by reason", refusals.clone());
        registry.register("direct_answers", "Requests answered without an upstream, by kind", direct.clone());
        registry.register("routes", "Routes in the table in force", routes.clone());
        let refused = |reason: Reason| refusals.get_or_create_owned(&ByReason { reason: reason.slug() });
        let answered = |kind: DirectKind| direct.get_or_create_owned(&ByKind { kind: kind.as_str() });
        Self {
            no_route: refused(Reason::NoRoute),
            method_not_allowed: refused(Reason::MethodNotAllowed),
            address_denied: refused(Reason::AddressDenied),
            preflight: answered(DirectKind::Preflight),
            redirect: answered(DirectKind::Redirect),
            fixed: answered(DirectKind::Fixed),
            routes,
        }
    }

    /// A table came into force.
    pub fn table(&self, table: &Table) {
        self.routes.set(i64::try_from(table.len()).unwrap_or(i64::MAX));
    }

    /// A look-up or a decision refused. Reasons that are not routing's own are not counted here.
    pub fn refused(&self, reason: Reason) {
        let counter = match reason {
            Reason::NoRoute => &self.no_route,
            Reason::MethodNotAllowed => &self.method_not_allowed,
            Reason::AddressDenied => &self.address_denied,
            _ => return,
        };
        counter.inc();
    }

    /// A request was answered here.
    pub fn answered(&self, kind: DirectKind) {
        match kind {
            DirectKind::Preflight => self.preflight.inc(),
            DirectKind::Redirect => self.redirect.inc(),
            DirectKind::Fixed => self.fixed.inc(),
        };
    }
}
