//! What the unit counts. Handles are made when a plugin is prepared: a call looks nothing up and takes no lock.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use sluice_vocabulary::PluginName;
use sluice_vocabulary::histogram::DurationHistogram;

use crate::cache::Discarded;
use crate::counts::{Counts, Families};
use crate::failover::Comparison;
use crate::failure::Kind;
use crate::outbound::{OutboundMetrics, Outcome};
use crate::phase::Phase;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlugin {
    plugin: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    plugin: String,
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    plugin: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    plugin: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    plugin: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDiscarded {
    reason: &'static str,
}

/// The unit's metrics. The label `plugin` is bounded by the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    invocations: Family<OfPhase, Counter>,
    failures: Family<OfReason, Counter>,
    duration: Family<OfPhase, DurationHistogram, fn() -> DurationHistogram>,
    guest_time: Family<OfPlugin, Counter<f64, AtomicU64>>,
    instances: Family<OfPlugin, Gauge>,
    reused: Family<OfPlugin, Counter>,
    log_lines_dropped: Family<OfPlugin, Counter>,
    failovers: Family<OfPlugin, Counter>,
    quarantined: Family<OfPlugin, Gauge>,
    comparisons: Family<OfOutcome, Counter>,
    slow_stage: Family<OfPlugin, Gauge>,
    series_dropped: Family<OfPlugin, Counter>,
    ends_dropped: Family<OfPlugin, Counter>,
    outbound_requests: Family<OfResult, Counter>,
    outbound_duration: Family<OfPlugin, DurationHistogram, fn() -> DurationHistogram>,
    own: Families,
    pub(crate) loaded: Gauge,
    pub(crate) compile_time: DurationHistogram,
    pub(crate) cache: CacheMetrics,
    pub(crate) store_write_failures: Counter,
}

/// What the cache of compiled components counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct CacheMetrics {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    discarded: [Counter; Discarded::ALL.len()],
    pub(crate) write_failures: Counter,
}

impl CacheMetrics {
    fn register(registry: &mut Registry) -> Self {
        let family = Family::<OfDiscarded, Counter>::default();
        let discarded =
            Discarded::ALL.map(|reason| family.get_or_create(&OfDiscarded { reason: reason.as_str() }).clone());
        let metrics = Self { discarded, ..Self::default() };
        registry.register("cache_hits", "Components that were found compiled on disk", metrics.hits.clone());
        registry.register("cache_misses", "Components that were looked for on disk in vain", metrics.misses.clone());
        registry.register("cache_discarded", "Compiled components that were removed from disk, by reason", family);
        registry.register(
            "cache_write_failures",
            "Compiled components that could not be kept on disk",
            metrics.write_failures.clone(),
        );
        metrics
    }

    pub(crate) const fn discarded(&self, reason: Discarded) -> &Counter {
        &self.discarded[reason as usize]
    }
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            invocations: Family::default(),
            failures: Family::default(),
            duration: Family::new_with_constructor(|| DurationHistogram::new(BOUNDS)),
            guest_time: Family::default(),
            instances: Family::default(),
            reused: Family::default(),
            log_lines_dropped: Family::default(),
            failovers: Family::default(),
            quarantined: Family::default(),
            comparisons: Family::default(),
            slow_stage: Family::default(),
            series_dropped: Family::default(),
            ends_dropped: Family::default(),
            outbound_requests: Family::default(),
            outbound_duration: Family::new_with_constructor(|| DurationHistogram::new(OUTBOUND_BOUNDS)),
            own: Families::register(registry),
            loaded: Gauge::default(),
            compile_time: DurationHistogram::new(BOUNDS),
            cache: CacheMetrics::register(registry),
            store_write_failures: Counter::default(),
        };
        registry.register(
            "store_write_failures",
            "Times that what plugins' stores had changed could not be written to disk",
            metrics.store_write_failures.clone(),
        );
        registry.register("invocations", "Phases that plugins were called for", metrics.invocations.clone());
        registry.register("failures", "Phases in which a plugin failed, by reason", metrics.failures.clone());
        registry.register_with_unit(
            "duration",
            "Time from the start of a phase to its end, with waiting between slices",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register_with_unit(
            "cpu",
            "Time that plugins and the host functions they called held a thread",
            Unit::Seconds,
            metrics.guest_time.clone(),
        );
        registry.register("instances", "Instances alive now", metrics.instances.clone());
        registry.register(
            "instances_reused",
            "Requests that found an instance which had served another one",
            metrics.reused.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Lines that plugins logged beyond what one phase may",
            metrics.log_lines_dropped.clone(),
        );
        registry.register(
            "failovers",
            "Phases that a plugin's fallback was called for because the first implementation failed",
            metrics.failovers.clone(),
        );
        registry.register(
            "quarantined",
            "1 while calls go straight to a plugin's fallback",
            metrics.quarantined.clone(),
        );
        registry.register(
            "comparisons",
            "Phases in which both implementations of a plugin ran, by how their decisions compare",
            metrics.comparisons.clone(),
        );
        registry.register(
            "slow_stage",
            "1 while a plugin takes more than two fifths of the gateway's own time",
            metrics.slow_stage.clone(),
        );
        registry.register(
            "series_dropped",
            "Counts of plugins' own that were dropped for want of room",
            metrics.series_dropped.clone(),
        );
        registry.register(
            "ends_dropped",
            "Ends of exchanges that plugins were not told of, since too many waited or the gateway stopped",
            metrics.ends_dropped.clone(),
        );
        registry.register(
            "outbound_requests",
            "Requests that plugins made to other services, by result",
            metrics.outbound_requests.clone(),
        );
        registry.register_with_unit(
            "outbound_duration",
            "Time from a plugin's request to another service, once it was found good, to its answer or fault",
            Unit::Seconds,
            metrics.outbound_duration.clone(),
        );
        registry.register("loaded", "Plugins loaded now", metrics.loaded.clone());
        registry.register_with_unit(
            "compile_duration",
            "Time to compile and check one component",
            Unit::Seconds,
            metrics.compile_time.clone(),
        );
        metrics
    }

    /// Handles for one plugin; the same ones again for a name that is known.
    ///
    /// Only the phases that it has are told of.
    pub(crate) fn plugin(&self, name: &PluginName, has: impl Fn(Phase) -> bool) -> PluginMetrics {
        let plugin = || name.as_str().to_owned();
        let of_plugin = OfPlugin { plugin: plugin() };
        let of_phase = |phase: Phase| OfPhase { plugin: plugin(), phase: phase.as_str() };
        PluginMetrics {
            phases: Phase::ALL.map(|phase| {
                has(phase).then(|| PhaseMetrics {
                    invocations: self.invocations.get_or_create(&of_phase(phase)).clone(),
                    duration: self.duration.get_or_create(&of_phase(phase)).clone(),
                })
            }),
            failures: Kind::ALL
                .map(|kind| self.failures.get_or_create(&OfReason { plugin: plugin(), reason: kind.as_str() }).clone()),
            guest_time: self.guest_time.get_or_create(&of_plugin).clone(),
            instances: self.instances.get_or_create(&of_plugin).clone(),
            reused: self.reused.get_or_create(&of_plugin).clone(),
            log_lines_dropped: self.log_lines_dropped.get_or_create(&of_plugin).clone(),
            ends_dropped: self.ends_dropped.get_or_create(&of_plugin).clone(),
            slow_stage: self.slow_stage.get_or_create(&of_plugin).clone(),
        }
    }

    /// Handles for a plugin that has a fallback.
    pub(crate) fn standby(&self, name: &PluginName) -> StandbyMetrics {
        let plugin = || name.as_str().to_owned();
        let of_plugin = OfPlugin { plugin: plugin() };
        StandbyMetrics {
            failovers: self.failovers.get_or_create(&of_plugin).clone(),
            quarantined: self.quarantined.get_or_create(&of_plugin).clone(),
            comparisons: Comparison::ALL.map(|outcome| {
                let labels = OfOutcome { plugin: plugin(), outcome: outcome.as_str() };
                self.comparisons.get_or_create(&labels).clone()
            }),
        }
    }

    /// Forgets that a plugin had a fallback.
    pub(crate) fn forget_standby(&self, name: &PluginName) {
        let plugin = || name.as_str().to_owned();
        let labels = OfPlugin { plugin: plugin() };
        self.failovers.remove(&labels);
        self.quarantined.remove(&labels);
        for outcome in Comparison::ALL {
            self.comparisons.remove(&OfOutcome { plugin: plugin(), outcome: outcome.as_str() });
        }
    }

    /// Handles for a plugin that may ask other services.
    pub(crate) fn outbound(&self, name: &PluginName) -> OutboundMetrics {
        let plugin = || name.as_str().to_owned();
        OutboundMetrics {
            results: Outcome::ALL.map(|result| {
                let labels = OfResult { plugin: plugin(), result: result.as_str() };
                self.outbound_requests.get_or_create(&labels).clone()
            }),
            duration: self.outbound_duration.get_or_create(&OfPlugin { plugin: plugin() }).clone(),
        }
    }

    /// Forgets that a plugin might ask other services.
    pub(crate) fn forget_outbound(&self, name: &PluginName) {
        let plugin = || name.as_str().to_owned();
        self.outbound_duration.remove(&OfPlugin { plugin: plugin() });
        for result in Outcome::ALL {
            self.outbound_requests.remove(&OfResult { plugin: plugin(), result: result.as_str() });
        }
    }

    /// What a plugin counts itself.
    pub(crate) fn counts(&self, name: &PluginName) -> Counts {
        let dropped = self.series_dropped.get_or_create(&OfPlugin { plugin: name.as_str().to_owned() }).clone();
        Counts::new(name.clone(), self.own.clone(), dropped)
    }

    /// Forgets a plugin that is no longer configured.
    pub(crate) fn forget(&self, name: &PluginName) {
        let plugin = || name.as_str().to_owned();
        for phase in Phase::ALL {
            let labels = OfPhase { plugin: plugin(), phase: phase.as_str() };
            self.invocations.remove(&labels);
            self.duration.remove(&labels);
        }
        for kind in Kind::ALL {
            self.failures.remove(&OfReason { plugin: plugin(), reason: kind.as_str() });
        }
        let labels = OfPlugin { plugin: plugin() };
        self.guest_time.remove(&labels);
        self.instances.remove(&labels);
        self.reused.remove(&labels);
        self.log_lines_dropped.remove(&labels);
        self.series_dropped.remove(&labels);
        self.ends_dropped.remove(&labels);
        self.slow_stage.remove(&labels);
        self.forget_standby(name);
        self.forget_outbound(name);
    }
}

/// The handles of a plugin that has a fallback.
#[derive(Debug)]
pub(crate) struct StandbyMetrics {
    pub(crate) failovers: Counter,
    pub(crate) quarantined: Gauge,
    comparisons: [Counter; Comparison::ALL.len()],
}

impl StandbyMetrics {
    pub(crate) const fn comparisons(&self, outcome: Comparison) -> &Counter {
        &self.comparisons[outcome as usize]
    }
}

/// One plugin's handles.
#[derive(Debug)]
pub(crate) struct PluginMetrics {
    phases: [Option<PhaseMetrics>; Phase::ALL.len()],
    failures: [Counter; Kind::ALL.len()],
    pub(crate) guest_time: Counter<f64, AtomicU64>,
    pub(crate) instances: Gauge,
    pub(crate) reused: Counter,
    pub(crate) log_lines_dropped: Counter,
    pub(crate) ends_dropped: Counter,
    pub(crate) slow_stage: Gauge,
}

#[derive(Debug)]
pub(crate) struct PhaseMetrics {
    pub(crate) invocations: Counter,
    pub(crate) duration: DurationHistogram,
}

impl PluginMetrics {
    /// A phase's, if the plugin has it.
    pub(crate) const fn phase(&self, phase: Phase) -> Option<&PhaseMetrics> {
        self.phases[phase as usize].as_ref()
    }

    /// Time that exchanges have waited for it in all phases, since the process began.
    pub(crate) fn waited_for(&self) -> Duration {
        let awaited = Phase::ALL.into_iter().filter(|phase| *phase != Phase::ExchangeEnd);
        awaited.filter_map(|phase| self.phase(phase)).map(|phase| phase.duration.totals().1).sum()
    }

    pub(crate) const fn failures(&self, kind: Kind) -> &Counter {
        &self.failures[kind as usize]
    }
}

/// A native plugin takes 5 to 20 µs, one with an interpreter inside up to a few thousand; slices are 1 ms long, and the
/// default deadline is 5 ms.
const BOUNDS: &[Duration] = &[
    Duration::from_micros(5),
    Duration::from_micros(10),
    Duration::from_micros(20),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(100),
];

/// A service in the same house takes a millisecond, one far away a few hundred; the longest wait that may be configured is 30 s.
const OUTBOUND_BOUNDS: &[Duration] = &[
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_holds_it() {
        let mut registry = Registry::default();
        let durations = DurationHistogram::new(BOUNDS);
        registry.register_with_unit("d", "d", Unit::Seconds, durations.clone());
        durations.observe(Duration::from_micros(5));
        durations.observe(Duration::from_micros(6));
        durations.observe(Duration::from_secs(9));
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            "d_seconds_count 3",
            "d_seconds_bucket{le=\"0.000005\"} 1",
            "d_seconds_bucket{le=\"0.00001\"} 2",
            "d_seconds_bucket{le=\"0.1\"} 2",
            "d_seconds_bucket{le=\"+Inf\"} 3",
        ] {
            assert!(page.contains(line), "{line} not in\n{page}");
        }
        assert_eq!(durations.totals().0, 3);
    }
}
