//! From what each endpoint has counted to what each upstream adds up to.
//!
//! The kernel's counts belong to endpoints, start at zero whenever its table had to evict one or the probes were loaded
//! anew, and outlive an endpoint's membership in an upstream. Metrics must only grow. So the difference to the reading
//! before is what goes into an upstream's totals, at the moment when the endpoint belongs to it.

use std::collections::BTreeMap;
use std::time::Duration;

use hashbrown::HashMap;
use sluice_observer::{Direction, End, EndpointId, EndpointStats, GlobalCounts, TcpState};
use sluice_vocabulary::UpstreamName;
use sluice_vocabulary::ports::EndpointNames;

/// Buckets of the kernel's histograms.
const BUCKETS: usize = 32;

/// All totals, and the readings that they were made of.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) upstreams: BTreeMap<UpstreamName, UpstreamTotals>,
    pub(crate) globals: GlobalCounts,
    last: HashMap<EndpointId, EndpointStats, foldhash::fast::RandomState>,
    last_globals: GlobalCounts,
}

/// What was counted for the endpoints of one upstream. A label set is as small as the tables in here.
#[derive(Debug, Default)]
pub(crate) struct UpstreamTotals {
    pub(crate) opened: u64,
    pub(crate) connect_us: [u64; BUCKETS],
    pub(crate) connect_sum: Duration,
    pub(crate) idle_ms: [u64; BUCKETS],
    pub(crate) idle_sum: Duration,
    pub(crate) retransmits: u64,
    pub(crate) timeouts: u64,
    pub(crate) ends: [u64; End::ALL.len()],
    pub(crate) resets_received: [u64; TcpState::LIVE.len()],
    pub(crate) resets_sent: [u64; TcpState::LIVE.len()],
    /// Mean of the endpoints' latest round trips, and the lowest of them all: as of the last reading.
    pub(crate) round_trip: Option<Duration>,
    pub(crate) round_trip_min: Option<Duration>,
}

impl Totals {
    /// Adds a reading.
    pub(crate) fn add(&mut self, endpoints: &[EndpointStats], globals: GlobalCounts, names: &dyn EndpointNames) {
        let mut round_trips: BTreeMap<UpstreamName, Vec<&EndpointStats>> = BTreeMap::new();
        for stats in endpoints.iter().filter(|stats| stats.id.direction == Direction::Outgoing) {
            if let Some(name) = names.upstream_of(stats.id.address) {
                let before = self.last.get(&stats.id).filter(|before| !began_anew(before, stats));
                self.upstreams.entry(name.clone()).or_default().add(before, stats);
                round_trips.entry(name).or_default().push(stats);
            }
        }
        for (name, totals) in &mut self.upstreams {
            let members = round_trips.get(name).map(Vec::as_slice).unwrap_or_default();
            totals.round_trip = mean(members.iter().filter_map(|stats| stats.srtt));
            totals.round_trip_min = members.iter().filter_map(|stats| stats.rtt_min).min();
        }
        self.last = endpoints.iter().map(|stats| (stats.id, stats.clone())).collect();
        add_globals(&mut self.globals, &self.last_globals, &globals);
        self.last_globals = globals;
    }

    /// The probes are taken down: the next reading is of fresh tables.
    pub(crate) fn forget_readings(&mut self) {
        self.last.clear();
        self.last_globals = GlobalCounts::default();
        for totals in self.upstreams.values_mut() {
            (totals.round_trip, totals.round_trip_min) = (None, None);
        }
    }
}

impl UpstreamTotals {
    fn add(&mut self, before: Option<&EndpointStats>, now: &EndpointStats) {
        let grown = |of: fn(&EndpointStats) -> u64| of(now).saturating_sub(before.map_or(0, of));
        let passed = |of: fn(&EndpointStats) -> Duration| of(now).saturating_sub(before.map_or(Duration::ZERO, of));
        self.opened += grown(|stats| stats.opened);
        self.retransmits += grown(|stats| stats.retransmits);
        self.timeouts += grown(|stats| stats.timeouts);
        self.connect_sum += passed(|stats| stats.connect_sum);
        self.idle_sum += passed(|stats| stats.idle_sum);
        for (index, total) in self.connect_us.iter_mut().enumerate() {
            *total += difference(now, before, |stats| stats.connect_us.buckets[index]);
        }
        for (index, total) in self.idle_ms.iter_mut().enumerate() {
            *total += difference(now, before, |stats| stats.idle_ms.buckets[index]);
        }
        for (total, end) in self.ends.iter_mut().zip(End::ALL) {
            *total += difference(now, before, |stats| stats.ends(end));
        }
        for (total, state) in self.resets_received.iter_mut().zip(TcpState::LIVE) {
            *total += difference(now, before, |stats| stats.resets_received(state));
        }
        for (total, state) in self.resets_sent.iter_mut().zip(TcpState::LIVE) {
            *total += difference(now, before, |stats| stats.resets_sent(state));
        }
    }
}

fn difference(now: &EndpointStats, before: Option<&EndpointStats>, of: impl Fn(&EndpointStats) -> u64) -> u64 {
    of(now).saturating_sub(before.map_or(0, &of))
}

/// An endpoint that was evicted in between has counted less than before.
fn began_anew(before: &EndpointStats, now: &EndpointStats) -> bool {
    now.opened < before.opened || now.ended < before.ended
}

fn mean(values: impl Iterator<Item = Duration>) -> Option<Duration> {
    let (mut sum, mut count) = (Duration::ZERO, 0_u32);
    for value in values {
        sum += value;
        count += 1;
    }
    sum.checked_div(count)
}

fn add_globals(totals: &mut GlobalCounts, before: &GlobalCounts, now: &GlobalCounts) {
    totals.events_lost += now.events_lost.saturating_sub(before.events_lost);
    totals.connections_missed += now.connections_missed.saturating_sub(before.connections_missed);
    totals.endpoints_missed += now.endpoints_missed.saturating_sub(before.endpoints_missed);
    totals.resets_received_elsewhere += now.resets_received_elsewhere.saturating_sub(before.resets_received_elsewhere);
    totals.resets_sent_elsewhere += now.resets_sent_elsewhere.saturating_sub(before.resets_sent_elsewhere);
    totals.resets_sent_without_socket +=
        now.resets_sent_without_socket.saturating_sub(before.resets_sent_without_socket);
    totals.ends_elsewhere += now.ends_elsewhere.saturating_sub(before.ends_elsewhere);
}
