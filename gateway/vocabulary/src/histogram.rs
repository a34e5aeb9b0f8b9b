//! A histogram of durations made of atomics only.
//!
//! The client library's own histogram holds a lock while it observes; one that every request of a route takes would be
//! the busiest of the process. Here an observation is two relaxed additions. A scrape that falls between them sees a count
//! and a sum that differ by the requests under way at that instant, which the next scrape mends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A histogram of durations, in seconds on the metrics page. Clones count together.
#[derive(Debug, Clone)]
pub struct DurationHistogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: &'static [Duration],
    /// One for each bound, and one for what is above all of them. Not cumulative.
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl DurationHistogram {
    /// Empty, with these upper bounds, which rise.
    pub fn new(bounds: &'static [Duration]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner { bounds, counts, nanoseconds: AtomicU64::new(0) }))
    }

    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < duration);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// How many were counted, and their sum.
    pub fn totals(&self) -> (u64, Duration) {
        let count = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        (count, Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed)))
    }
}

impl EncodeMetric for DurationHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = self.0.bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(self.0.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        // The count is that of the buckets just read, so that the page agrees with itself.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for DurationHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use prometheus_client::registry::{Registry, Unit};

    #[test]
    fn an_observation_falls_into_the_first_bound_that_holds_it() {
        static BOUNDS: &[Duration] = &[Duration::from_millis(1), Duration::from_secs(1)];
        let histogram = DurationHistogram::new(BOUNDS);
        for micros in [10, 1_000, 1_001, 5_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut registry = Registry::default();
        registry.register_with_unit("took", "Time", Unit::Seconds, histogram);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            "took_seconds_bucket{le=\"0.001\"} 2\n",
            "took_seconds_bucket{le=\"1.0\"} 3\n",
            "took_seconds_bucket{le=\"+Inf\"} 4\n",
            "took_seconds_count 4\n",
            "took_seconds_sum 5.002011\n",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
