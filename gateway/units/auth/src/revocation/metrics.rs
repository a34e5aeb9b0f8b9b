//! What is counted of revocations. Labels are fixed lists.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::record::Kind;
use super::{Revocations, Way};
use crate::metrics::registered;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWay {
    feed: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    feed: &'static str,
    outcome: &'static str,
}

/// The counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    hits: [Counter; Kind::ALL.len()],
    reads: Family<Outcome, Counter>,
    bad_lines: Family<OfWay, Counter>,
    pub(crate) full: Counter,
    pub(crate) store_errors: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let hits: Family<OfKind, Counter> = registered(
            registry,
            "revocation_hits",
            "Requests refused because their token was revoked, by what it was revoked by",
        );
        let metrics = Self {
            hits: Kind::ALL.map(|kind| hits.get_or_create(&OfKind { kind: kind.name() }).clone()),
            reads: registered(
                registry,
                "revocation_reads",
                "Times that revocations were read, by feed (door, file, url) and outcome",
            ),
            bad_lines: registered(
                registry,
                "revocation_bad_lines",
                "Lines that are no revocations, by feed, each time they are read",
            ),
            full: registered(registry, "revocation_memory_refusals", "Revocations that found no memory"),
            store_errors: registered(
                registry,
                "revocation_store_errors",
                "Failures to read or write the store of revocations",
            ),
        };
        for way in [Way::Door, Way::File, Way::Url] {
            // Made here, so that the series are there from the beginning.
            metrics.read_with(way, "ok", 0, 0);
        }
        metrics
    }

    pub(crate) fn hit(&self, kind: Kind) {
        self.hits[kind as usize].inc();
    }

    /// `outcome` is one of a fixed list.
    pub(crate) fn read(&self, way: Way, outcome: &'static str, bad_lines: usize) {
        self.read_with(way, outcome, 1, bad_lines as u64);
    }

    fn read_with(&self, way: Way, outcome: &'static str, by: u64, bad_lines: u64) {
        self.reads.get_or_create(&Outcome { feed: way.name(), outcome }).inc_by(by);
        self.bad_lines.get_or_create(&OfWay { feed: way.name() }).inc_by(bad_lines);
    }
}

/// What is told when asked: sizes and ages.
#[derive(Debug)]
pub(crate) struct Sizes(pub(crate) Arc<Revocations>);

impl Collector for Sizes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = MetricType::Gauge;
        let mut entries =
            encoder.encode_descriptor("revocations", "Revocations in force, by what they are by", None, gauge)?;
        for kind in Kind::ALL {
            let count = i64::try_from(self.0.list().count(kind)).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(entries.encode_family(&OfKind { kind: kind.name() })?)?;
        }
        let size = |bytes: u64| ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
        let help = "Memory held by revocations";
        let memory = encoder.encode_descriptor("revocation_memory", help, Some(&Unit::Bytes), gauge)?;
        size(self.0.list().bytes() as u64).encode(memory)?;
        let help = "Length of the store of revocations; 0 without one";
        let store = encoder.encode_descriptor("revocation_store", help, Some(&Unit::Bytes), gauge)?;
        size(self.0.store_bytes()).encode(store)?;
        let help = "Time since a feed of revocations was last heard without a fault";
        let mut ages = encoder.encode_descriptor("revocation_feed_age", help, Some(&Unit::Seconds), gauge)?;
        for way in [Way::File, Way::Url] {
            if let Some(age) = self.0.age(way) {
                ConstGauge::new(age.as_secs_f64()).encode(ages.encode_family(&OfWay { feed: way.name() })?)?;
            }
        }
        Ok(())
    }
}
