//! What the task publishes for everyone to read.

use std::net::SocketAddr;
use std::time::Duration;

use hashbrown::HashMap;
use serde::Serialize;
use sluice_observer::{Direction, End, EndpointStats, GlobalCounts, Histogram};

type ByAddress = HashMap<SocketAddr, usize, foldhash::fast::RandomState>;

/// All that was counted, as of the last reading. Immutable: the next reading makes a new one.
#[derive(Debug, Default)]
pub struct Snapshot {
    endpoints: Vec<EndpointStats>,
    by_address: ByAddress,
    globals: GlobalCounts,
}

impl Snapshot {
    pub(crate) fn new(endpoints: Vec<EndpointStats>, globals: GlobalCounts) -> Self {
        let by_address = endpoints
            .iter()
            .enumerate()
            .filter(|(_, stats)| stats.id.direction == Direction::Outgoing)
            .map(|(index, stats)| (stats.id.address, index))
            .collect();
        Self { endpoints, by_address, globals }
    }

    /// Every endpoint, in no order.
    pub fn endpoints(&self) -> &[EndpointStats] {
        &self.endpoints
    }

    /// What was counted of connections to this remote address.
    pub fn endpoint(&self, address: &SocketAddr) -> Option<&EndpointStats> {
        // What is counted is in canonical form; what is asked for may name an IPv4 host in the other family.
        let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.by_address.get(&canonical).and_then(|index| self.endpoints.get(*index))
    }

    /// Counters that belong to no endpoint.
    pub fn globals(&self) -> &GlobalCounts {
        &self.globals
    }
}

/// What decisions are made of, for one remote endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EndpointFacts {
    /// The latest smoothed round trip.
    pub round_trip: Option<Duration>,
    /// Mean time that connecting takes.
    pub connect: Option<Duration>,
    /// How long a connection had been idle when the peer last closed one in order.
    pub idle_at_peer_close: Option<Duration>,
    /// The shortest such age, rounded down to a power of two of milliseconds: the peer's keep-alive limit is not below.
    pub shortest_idle_at_peer_close: Option<Duration>,
    /// Segments sent again.
    pub retransmits: u64,
    /// Connections that the peer reset, while open or after it had closed them.
    pub resets_by_peer: u64,
    /// Connections that were reset since we wrote into them after the peer had closed: the keep-alive race.
    pub stale_writes: u64,
    /// Connections that ended before they were established.
    pub connect_failures: u64,
}

impl From<&EndpointStats> for EndpointFacts {
    fn from(stats: &EndpointStats) -> Self {
        Self {
            round_trip: stats.srtt,
            connect: stats.connect_mean(),
            idle_at_peer_close: stats.idle_last,
            shortest_idle_at_peer_close: shortest(&stats.idle_ms),
            retransmits: stats.retransmits,
            resets_by_peer: stats.ends(End::PeerReset) + stats.ends(End::PeerResetAfterClose),
            stale_writes: stats.ends(End::PeerResetAfterClose),
            connect_failures: stats.connect_failures(),
        }
    }
}

/// The lower bound of the first bucket that is not empty.
fn shortest(histogram: &Histogram) -> Option<Duration> {
    let first = histogram.buckets.iter().position(|count| *count != 0)?;
    Some(Duration::from_millis(if first == 0 { 0 } else { 1 << first }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_idle_age_is_never_above_the_true_one() {
        let mut histogram = Histogram::default();
        assert_eq!(shortest(&histogram), None);
        histogram.buckets[12] = 1; // 4096 to 8191 ms
        histogram.buckets[14] = 9;
        assert_eq!(shortest(&histogram), Some(Duration::from_millis(4096)));
        histogram.buckets[0] = 1;
        assert_eq!(shortest(&histogram), Some(Duration::ZERO));
    }
}
