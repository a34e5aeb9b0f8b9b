//! The metrics page: totals that the task keeps, encoded when somebody asks.
//!
//! The kernel counts; nothing is counted here a second time, so there are no handles to keep and no request ever
//! touches a metric of this unit. Labels are bounded: `upstream` by the configuration, the others by the tables of
//! states and ends.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use sluice_observer::{End, Histogram, Probe, TcpState};

use crate::totals::{Totals, UpstreamTotals};
use crate::unit::Core;

#[derive(Debug, EncodeLabelSet)]
struct OfUpstream {
    upstream: String,
}

#[derive(Debug, EncodeLabelSet)]
struct OfReset {
    upstream: String,
    side: &'static str,
    state: &'static str,
}

#[derive(Debug, EncodeLabelSet)]
struct OfEnd {
    upstream: String,
    how: &'static str,
}

#[derive(Debug, EncodeLabelSet)]
struct OfProbe {
    probe: &'static str,
}

#[derive(Debug, EncodeLabelSet)]
struct OfTable {
    table: &'static str,
}

/// Writes the unit's part of the page.
#[derive(Debug)]
pub(crate) struct Page {
    core: Arc<Core>,
}

impl Page {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let totals = self.core.totals.lock();
        counts(&mut encoder, &totals)?;
        labelled(&mut encoder, &totals)?;
        histograms(&mut encoder, &totals)?;
        gauges(&mut encoder, &totals)?;
        drop(totals);
        self.probes(&mut encoder)
    }
}

impl Page {
    fn probes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let running = self.core.running.load();
        let help = "Whether a probe is attached (1) or not (0)";
        let mut family = encoder.encode_descriptor("probe_on", help, None, MetricType::Gauge)?;
        for probe in Probe::ALL {
            let on = running.as_ref().is_some_and(|running| running.observer.is_on(probe));
            let labels = OfProbe { probe: probe.name() };
            ConstGauge::new(i64::from(on)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Counters with the upstream as their only label, and those without any.
fn counts(encoder: &mut DescriptorEncoder<'_>, totals: &Totals) -> Result<(), fmt::Error> {
    type Read = fn(&UpstreamTotals) -> u64;
    let families: [(&str, &str, Read); 3] = [
        ("connects", "Connections begun", |totals| totals.opened),
        ("retransmits", "Segments sent again", |totals| totals.retransmits),
        ("retransmission_timeouts", "Retransmission timers that ran out", |totals| totals.timeouts),
    ];
    for (name, help, read) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (upstream, totals) in &totals.upstreams {
            let labels = OfUpstream { upstream: upstream.as_str().to_owned() };
            ConstCounter::new(read(totals)).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Events of abnormal ends that found the buffer full";
    let lost = encoder.encode_descriptor("events_lost", help, None, MetricType::Counter)?;
    ConstCounter::new(totals.globals.events_lost).encode(lost)?;
    let help = "Counts that found no room in a table of the kernel";
    let mut family = encoder.encode_descriptor("table_misses", help, None, MetricType::Counter)?;
    for (table, count) in
        [("connections", totals.globals.connections_missed), ("endpoints", totals.globals.endpoints_missed)]
    {
        ConstCounter::new(count).encode(family.encode_family(&OfTable { table })?)?;
    }
    Ok(())
}

/// Counters with a second label. Combinations that have not occurred are left out, but for what alerts are made of.
fn labelled(encoder: &mut DescriptorEncoder<'_>, totals: &Totals) -> Result<(), fmt::Error> {
    let help = "RSTs, by the side that sent them and our TCP state at that moment";
    let mut family = encoder.encode_descriptor("resets", help, None, MetricType::Counter)?;
    for (upstream, totals) in &totals.upstreams {
        for (side, counts) in [("peer", &totals.resets_received), ("local", &totals.resets_sent)] {
            for (state, count) in TcpState::LIVE.iter().zip(counts) {
                let always = matches!(*state, TcpState::ESTABLISHED | TcpState::CLOSE_WAIT);
                if *count != 0 || always {
                    let labels = OfReset { upstream: upstream.as_str().to_owned(), side, state: state.name() };
                    ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
    }
    let help = "Connections that ended after they were established, by how";
    ends(encoder, totals, "closes", help, |end| end != End::Open && !end.is_connect_failure())?;
    let help = "Connections that ended before they were established, by how";
    ends(encoder, totals, "connect_failures", help, End::is_connect_failure)
}

fn ends(
    encoder: &mut DescriptorEncoder<'_>,
    totals: &Totals,
    name: &str,
    help: &str,
    belongs: fn(End) -> bool,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (upstream, totals) in &totals.upstreams {
        for (end, count) in End::ALL.iter().zip(&totals.ends).filter(|(end, _)| belongs(**end)) {
            let labels = OfEnd { upstream: upstream.as_str().to_owned(), how: end.name() };
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn histograms(encoder: &mut DescriptorEncoder<'_>, totals: &Totals) -> Result<(), fmt::Error> {
    let help = "Time from connect to ESTABLISHED";
    let unit = Unit::Seconds;
    let mut family = encoder.encode_descriptor("connect_duration", help, Some(&unit), MetricType::Histogram)?;
    for (upstream, totals) in &totals.upstreams {
        let labels = OfUpstream { upstream: upstream.as_str().to_owned() };
        // From 32 µs, below which only loopback is, to 8 s, beyond which a SYN was lost at least thrice.
        let (count, buckets) = reduced(&totals.connect_us, 4..=22, 1e-6);
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            totals.connect_sum.as_secs_f64(),
            count,
            &buckets,
            None,
        )?;
    }
    let help = "How long a connection had been idle when the peer closed it in order";
    let mut family = encoder.encode_descriptor("idle_close_age", help, Some(&unit), MetricType::Histogram)?;
    for (upstream, totals) in &totals.upstreams {
        let labels = OfUpstream { upstream: upstream.as_str().to_owned() };
        // From 256 ms, below which a close has to do with a request, to 70 min.
        let (count, buckets) = reduced(&totals.idle_ms, 7..=21, 1e-3);
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            totals.idle_sum.as_secs_f64(),
            count,
            &buckets,
            None,
        )?;
    }
    Ok(())
}

/// The kernel's 32 buckets with those outside `range` joined to its ends; `scale` turns their unit into seconds. The
/// counts are not cumulative: the encoder adds them up.
fn reduced(counts: &[u64; 32], range: std::ops::RangeInclusive<usize>, scale: f64) -> (u64, Vec<(f64, u64)>) {
    let below: u64 = counts[..*range.start()].iter().sum();
    let above: u64 = counts[*range.end() + 1..].iter().sum();
    let mut buckets: Vec<_> = range
        .map(|index| {
            #[expect(clippy::cast_precision_loss, reason = "a power of two")]
            let bound = Histogram::upper_bound(index).map_or(f64::INFINITY, |bound| bound as f64 * scale);
            (bound, counts[index])
        })
        .collect();
    if let Some(first) = buckets.first_mut() {
        first.1 += below;
    }
    buckets.push((f64::INFINITY, above));
    (counts.iter().sum(), buckets)
}

fn gauges(encoder: &mut DescriptorEncoder<'_>, totals: &Totals) -> Result<(), fmt::Error> {
    type Read = fn(&UpstreamTotals) -> Option<std::time::Duration>;
    let families: [(&str, &str, Read); 2] = [
        ("round_trip", "Smoothed round trip: mean of the latest ones of all endpoints", |totals| totals.round_trip),
        ("round_trip_min", "Lowest round trip to any endpoint", |totals| totals.round_trip_min),
    ];
    for (name, help, read) in families {
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (upstream, totals) in &totals.upstreams {
            if let Some(value) = read(totals) {
                let labels = OfUpstream { upstream: upstream.as_str().to_owned() };
                ConstGauge::new(value.as_secs_f64()).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_buckets_loses_no_count() {
        let counts = std::array::from_fn(|index| index as u64 + 1);
        let (count, buckets) = reduced(&counts, 4..=22, 1e-6);
        assert_eq!(count, counts.iter().sum::<u64>());
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), count);
        assert_eq!(buckets[0].1, 1 + 2 + 3 + 4 + 5);
        assert!((buckets[0].0 - 32e-6).abs() < 1e-12);
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0));
    }
}
