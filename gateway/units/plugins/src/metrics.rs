//! What the unit counts. Handles are made when a plugin is prepared: a call looks nothing up and takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};
use sluice_vocabulary::PluginName;

use crate::call::Phase;
use crate::failure::Kind;

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

/// The unit's metrics. The label `plugin` is bounded by the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    invocations: Family<OfPhase, Counter>,
    failures: Family<OfReason, Counter>,
    duration: Family<OfPhase, Durations>,
    guest_time: Family<OfPlugin, Counter<f64, AtomicU64>>,
    instances: Family<OfPlugin, Gauge>,
    log_lines_dropped: Family<OfPlugin, Counter>,
    pub(crate) loaded: Gauge,
    pub(crate) compile_time: Durations,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
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
            "log_lines_dropped",
            "Lines that plugins logged beyond what one phase may",
            metrics.log_lines_dropped.clone(),
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
    pub(crate) fn plugin(&self, name: &PluginName) -> PluginMetrics {
        let plugin = || name.as_str().to_owned();
        let of_plugin = OfPlugin { plugin: plugin() };
        let of_phase = |phase: Phase| OfPhase { plugin: plugin(), phase: phase.as_str() };
        PluginMetrics {
            phases: Phase::ALL.map(|phase| PhaseMetrics {
                invocations: self.invocations.get_or_create(&of_phase(phase)).clone(),
                duration: self.duration.get_or_create(&of_phase(phase)).clone(),
            }),
            failures: Kind::ALL
                .map(|kind| self.failures.get_or_create(&OfReason { plugin: plugin(), reason: kind.as_str() }).clone()),
            guest_time: self.guest_time.get_or_create(&of_plugin).clone(),
            instances: self.instances.get_or_create(&of_plugin).clone(),
            log_lines_dropped: self.log_lines_dropped.get_or_create(&of_plugin).clone(),
        }
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
        self.log_lines_dropped.remove(&labels);
    }
}

/// One plugin's handles.
#[derive(Debug)]
pub(crate) struct PluginMetrics {
    phases: [PhaseMetrics; Phase::ALL.len()],
    failures: [Counter; Kind::ALL.len()],
    pub(crate) guest_time: Counter<f64, AtomicU64>,
    pub(crate) instances: Gauge,
    pub(crate) log_lines_dropped: Counter,
}

#[derive(Debug)]
pub(crate) struct PhaseMetrics {
    pub(crate) invocations: Counter,
    pub(crate) duration: Durations,
}

impl PluginMetrics {
    pub(crate) const fn phase(&self, phase: Phase) -> &PhaseMetrics {
        &self.phases[phase as usize]
    }

    pub(crate) const fn failures(&self, kind: Kind) -> &Counter {
        &self.failures[kind as usize]
    }
}

/// Upper bounds in microseconds. A native plugin takes 5 to 20, one with an interpreter inside up to a few thousand; slices
/// are 1 000 long, and the default deadline is 5 000.
const BOUNDS_MICROS: [u64; 12] = [5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000];

/// A histogram of durations without a lock: calls of one plugin on all threads would else queue for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Durations(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// One for each bound, and one for what is beyond.
    counts: [AtomicU64; BOUNDS_MICROS.len() + 1],
    nanos: AtomicU64,
}

impl Durations {
    pub(crate) fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| bound * 1_000 < nanos);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How many were observed, and their sum.
    pub(crate) fn totals(&self) -> (u64, Duration) {
        let count = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        (count, Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed)))
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(self.0.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        // From the same reading as the buckets, so that the page agrees with itself.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_holds_it() {
        let mut registry = Registry::default();
        let durations = Durations::default();
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
