//! What comes out, in the types of user space: addresses, durations, names.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde::{Serialize, Serializer};
use sluice_ebpf_common::{
    ConnectionRecord, End, EndEvent, EndpointCounters, EndpointKey, GlobalCounter, Role, endpoint::SLOTS, tcp_state,
};

use crate::histogram::Histogram;

/// Which side opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// This host.
    Outgoing,
    /// A remote host, to a listener here.
    Incoming,
}

impl From<Role> for Direction {
    fn from(role: Role) -> Self {
        match role {
            Role::Outgoing => Self::Outgoing,
            Role::Incoming => Self::Incoming,
        }
    }
}

/// What is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EndpointId {
    /// Which side opens the connections.
    pub direction: Direction,
    /// The remote endpoint; for incoming connections our port, with the unspecified address. IPv4 is always IPv4 here,
    /// also where the socket was of the other family.
    pub address: SocketAddr,
    /// The process that connects, where counting by process was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<u32>,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.direction {
            Direction::Outgoing => write!(f, "{}", self.address)?,
            Direction::Incoming => write!(f, "clients of :{}", self.address.port())?,
        }
        match self.process {
            Some(process) => write!(f, " by {process}"),
            None => Ok(()),
        }
    }
}

impl From<EndpointKey> for EndpointId {
    fn from(key: EndpointKey) -> Self {
        Self {
            direction: Role::from_raw(key.role).into(),
            address: SocketAddr::new(address(key.address), key.port),
            process: (key.owner != 0).then_some(key.owner),
        }
    }
}

/// An address as the kernel side writes it: network byte order, IPv4 in mapped form.
fn address(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (chunk, word) in octets.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// Our TCP state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpState(u8);

impl TcpState {
    /// The states in which a connection can be when it ends or is reset.
    pub const LIVE: [Self; 8] = [
        Self(tcp_state::ESTABLISHED),
        Self(tcp_state::SYN_SENT),
        Self(tcp_state::SYN_RECV),
        Self(tcp_state::FIN_WAIT1),
        Self(tcp_state::FIN_WAIT2),
        Self(tcp_state::CLOSE_WAIT),
        Self(tcp_state::LAST_ACK),
        Self(tcp_state::CLOSING),
    ];

    /// ESTABLISHED.
    pub const ESTABLISHED: Self = Self(tcp_state::ESTABLISHED);
    /// SYN_SENT.
    pub const SYN_SENT: Self = Self(tcp_state::SYN_SENT);
    /// CLOSE_WAIT.
    pub const CLOSE_WAIT: Self = Self(tcp_state::CLOSE_WAIT);

    /// The state with the kernel's number.
    #[must_use]
    pub const fn from_raw(number: u8) -> Self {
        Self(number)
    }

    /// Its name in lower case: a metric label and a JSON value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            tcp_state::ESTABLISHED => "established",
            tcp_state::SYN_SENT => "syn_sent",
            tcp_state::SYN_RECV => "syn_recv",
            tcp_state::FIN_WAIT1 => "fin_wait1",
            tcp_state::FIN_WAIT2 => "fin_wait2",
            tcp_state::TIME_WAIT => "time_wait",
            tcp_state::CLOSE => "close",
            tcp_state::CLOSE_WAIT => "close_wait",
            tcp_state::LAST_ACK => "last_ack",
            tcp_state::LISTEN => "listen",
            tcp_state::CLOSING => "closing",
            tcp_state::NEW_SYN_RECV => "new_syn_recv",
            _ => "unknown",
        }
    }

    fn slot(self) -> usize {
        usize::from(self.0) & (SLOTS - 1)
    }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for TcpState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What was counted for one endpoint since the observer began (or since the table last evicted it).
#[derive(Debug, Clone, Serialize)]
pub struct EndpointStats {
    /// Which endpoint.
    #[serde(flatten)]
    pub id: EndpointId,
    /// Connections begun.
    pub opened: u64,
    /// Connections established.
    pub established: u64,
    /// Connections ended, established before or not.
    pub ended: u64,
    /// Time from `connect` to ESTABLISHED, microseconds; empty for incoming connections.
    pub connect_us: Histogram,
    /// Sum of the same.
    #[serde(serialize_with = "micros")]
    pub connect_sum: Duration,
    /// The latest smoothed round-trip time.
    #[serde(serialize_with = "optional_micros")]
    pub srtt: Option<Duration>,
    /// Mean of all samples of it.
    #[serde(serialize_with = "optional_micros")]
    pub srtt_mean: Option<Duration>,
    /// How many samples there were.
    pub srtt_samples: u64,
    /// Sum of all samples.
    #[serde(serialize_with = "micros")]
    pub srtt_sum: Duration,
    /// The lowest round trip.
    #[serde(serialize_with = "optional_micros")]
    pub rtt_min: Option<Duration>,
    /// Segments sent again.
    pub retransmits: u64,
    /// Retransmission timers that ran out.
    pub timeouts: u64,
    /// Bytes that the peer acknowledged, of connections that have ended; SYN and FIN count as one each.
    pub bytes_sent: u64,
    /// Bytes received, of connections that have ended; FIN counts as one.
    pub bytes_received: u64,
    /// Sum of the lifetimes of ended connections.
    #[serde(serialize_with = "micros")]
    pub lifetime_sum: Duration,
    /// Idle age at the moment the peer closed in order, milliseconds.
    pub idle_ms: Histogram,
    /// Sum of those ages.
    #[serde(serialize_with = "micros")]
    pub idle_sum: Duration,
    /// The latest of those ages.
    #[serde(serialize_with = "optional_micros")]
    pub idle_last: Option<Duration>,
    /// How long ago anything was counted here.
    #[serde(serialize_with = "micros")]
    pub quiet: Duration,
    /// Ends by kind, with [`EndpointStats::ends`].
    #[serde(serialize_with = "named_ends")]
    ends: [u64; SLOTS],
    /// RSTs received, by our state.
    #[serde(serialize_with = "named_states")]
    resets_received: [u64; SLOTS],
    /// RSTs sent, by our state.
    #[serde(serialize_with = "named_states")]
    resets_sent: [u64; SLOTS],
}

impl EndpointStats {
    /// Adds the processors up. `now` is nanoseconds of the monotonic clock.
    pub(crate) fn sum<'a>(key: EndpointKey, parts: impl Iterator<Item = &'a EndpointCounters>, now: u64) -> Self {
        let mut whole = EndpointCounters::ZERO;
        let (mut connect_us, mut idle_ms) = (Histogram::default(), Histogram::default());
        for part in parts {
            whole.last_seen_ns = whole.last_seen_ns.max(part.last_seen_ns);
            whole.opened += part.opened;
            whole.established += part.established;
            whole.connect_ns_sum += part.connect_ns_sum;
            whole.srtt_samples += part.srtt_samples;
            whole.srtt_us_sum += part.srtt_us_sum;
            whole.lifetime_ns_sum += part.lifetime_ns_sum;
            whole.ended += part.ended;
            whole.retransmits += part.retransmits;
            whole.timeouts += part.timeouts;
            whole.bytes_sent += part.bytes_sent;
            whole.bytes_received += part.bytes_received;
            whole.idle_ms_sum += part.idle_ms_sum;
            if part.srtt_last_ns > whole.srtt_last_ns {
                (whole.srtt_last_ns, whole.srtt_last_us) = (part.srtt_last_ns, part.srtt_last_us);
            }
            if part.idle_last_ns > whole.idle_last_ns {
                (whole.idle_last_ns, whole.idle_last_ms) = (part.idle_last_ns, part.idle_last_ms);
            }
            if part.rtt_min_us != 0 && (whole.rtt_min_us == 0 || part.rtt_min_us < whole.rtt_min_us) {
                whole.rtt_min_us = part.rtt_min_us;
            }
            for (sum, more) in whole.ends.iter_mut().zip(&part.ends) {
                *sum += more;
            }
            for (sum, more) in whole.resets_received.iter_mut().zip(&part.resets_received) {
                *sum += more;
            }
            for (sum, more) in whole.resets_sent.iter_mut().zip(&part.resets_sent) {
                *sum += more;
            }
            connect_us.add(&part.connect_us);
            idle_ms.add(&part.idle_ms);
        }
        Self {
            id: key.into(),
            opened: whole.opened,
            established: whole.established,
            ended: whole.ended,
            connect_us,
            connect_sum: Duration::from_nanos(whole.connect_ns_sum),
            srtt: some_micros(whole.srtt_last_us),
            srtt_mean: whole.srtt_us_sum.checked_div(whole.srtt_samples).map(Duration::from_micros),
            srtt_samples: whole.srtt_samples,
            srtt_sum: Duration::from_micros(whole.srtt_us_sum),
            rtt_min: some_micros(whole.rtt_min_us),
            retransmits: whole.retransmits,
            timeouts: whole.timeouts,
            bytes_sent: whole.bytes_sent,
            bytes_received: whole.bytes_received,
            lifetime_sum: Duration::from_nanos(whole.lifetime_ns_sum),
            idle_ms,
            idle_sum: Duration::from_millis(whole.idle_ms_sum),
            idle_last: (whole.idle_last_ns != 0).then(|| Duration::from_millis(whole.idle_last_ms.into())),
            quiet: Duration::from_nanos(now.saturating_sub(whole.last_seen_ns)),
            ends: whole.ends,
            resets_received: whole.resets_received,
            resets_sent: whole.resets_sent,
        }
    }

    /// How many connections ended like this.
    #[must_use]
    pub fn ends(&self, end: End) -> u64 {
        self.ends[end as usize & (SLOTS - 1)]
    }

    /// RSTs received while our state was `state`.
    #[must_use]
    pub fn resets_received(&self, state: TcpState) -> u64 {
        self.resets_received[state.slot()]
    }

    /// RSTs sent when our state was, or had just been, `state`.
    #[must_use]
    pub fn resets_sent(&self, state: TcpState) -> u64 {
        self.resets_sent[state.slot()]
    }

    /// RSTs received in any state.
    #[must_use]
    pub fn resets_received_total(&self) -> u64 {
        self.resets_received.iter().sum()
    }

    /// RSTs sent in any state.
    #[must_use]
    pub fn resets_sent_total(&self) -> u64 {
        self.resets_sent.iter().sum()
    }

    /// Connections that ended before they were established.
    #[must_use]
    pub fn connect_failures(&self) -> u64 {
        End::ALL.into_iter().filter(|end| end.is_connect_failure()).map(|end| self.ends(end)).sum()
    }

    /// Mean time from `connect` to ESTABLISHED; `None` for incoming connections.
    #[must_use]
    pub fn connect_mean(&self) -> Option<Duration> {
        let count = self.connect_us.count();
        (count != 0)
            .then(|| Duration::from_nanos(u64::try_from(self.connect_sum.as_nanos()).unwrap_or(u64::MAX) / count))
    }
}

/// What is known of one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionFacts {
    /// The socket's cookie.
    pub cookie: u64,
    /// Which side opened it.
    pub direction: Direction,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// The process that opened it, where the kernel can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<u32>,
    /// Time from `connect` to ESTABLISHED; `None` for incoming connections and before it is established.
    #[serde(serialize_with = "optional_micros")]
    pub connect: Option<Duration>,
    /// How long it has lived, or lived.
    #[serde(serialize_with = "micros")]
    pub age: Duration,
    /// Smoothed round-trip time.
    #[serde(serialize_with = "optional_micros")]
    pub srtt: Option<Duration>,
    /// Lowest round-trip time.
    #[serde(serialize_with = "optional_micros")]
    pub rtt_min: Option<Duration>,
    /// Segments sent again.
    pub retransmits: u32,
    /// Retransmission timers that ran out.
    pub timeouts: u32,
    /// Bytes that the peer acknowledged; known once it has ended.
    pub bytes_sent: u64,
    /// Bytes received; known once it has ended.
    pub bytes_received: u64,
    /// Our state; once it has ended, the last one before CLOSE.
    pub state: TcpState,
    /// How long nothing had been sent or received when the peer closed or reset it.
    #[serde(serialize_with = "optional_micros")]
    pub idle: Option<Duration>,
    /// How it ended; [`End::Open`] while it lives.
    #[serde(serialize_with = "end_name")]
    pub end: End,
    /// The socket's error when it ended (a positive errno); 0 for none.
    pub error: u32,
    /// Our state when a RST arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_state: Option<TcpState>,
}

impl ConnectionFacts {
    pub(crate) fn new(cookie: u64, record: &ConnectionRecord, now: u64) -> Self {
        let direction = Role::from_raw(record.role).into();
        let nanos = |from: u64, to: u64| Duration::from_nanos(to.saturating_sub(from));
        let until = if record.ended_ns == 0 { now } else { record.ended_ns };
        let peer_ended = record.flags & sluice_ebpf_common::connection::flag::PEER_CLOSED != 0
            || record.flags & sluice_ebpf_common::connection::flag::RESET_RECEIVED != 0;
        Self {
            cookie,
            direction,
            local: SocketAddr::new(address(record.local_address), record.local_port),
            remote: SocketAddr::new(address(record.remote_address), record.remote_port),
            process: (record.process != 0).then_some(record.process),
            connect: (direction == Direction::Outgoing && record.established_ns != 0)
                .then(|| nanos(record.started_ns, record.established_ns)),
            age: nanos(record.started_ns, until),
            srtt: some_micros(record.srtt_us),
            rtt_min: some_micros(record.rtt_min_us),
            retransmits: record.retransmits,
            timeouts: record.timeouts,
            bytes_sent: record.bytes_sent,
            bytes_received: record.bytes_received,
            state: TcpState(record.state),
            idle: peer_ended.then(|| Duration::from_millis(record.idle_ms.into())),
            end: End::from_raw(record.end),
            error: record.error,
            reset_state: (record.reset_state != 0).then_some(TcpState(record.reset_state)),
        }
    }
}

/// A connection ended abnormally.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, on the monotonic clock; compare with [`monotonic_ns`](crate::host::monotonic_ns).
    #[serde(serialize_with = "micros")]
    pub at: Duration,
    /// The connection.
    #[serde(flatten)]
    pub connection: ConnectionFacts,
}

impl Event {
    pub(crate) fn new(raw: &EndEvent) -> Self {
        let ended = raw.record.ended_ns;
        Self { at: Duration::from_nanos(ended), connection: ConnectionFacts::new(raw.cookie, &raw.record, ended) }
    }
}

/// Counters that belong to no endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GlobalCounts {
    /// Events that found the buffer full.
    pub events_lost: u64,
    /// Connections that could not be remembered.
    pub connections_missed: u64,
    /// Counts that found no room in the endpoint table.
    pub endpoints_missed: u64,
    /// RSTs received on connections that are not watched, or were open before the observer began.
    pub resets_received_elsewhere: u64,
    /// RSTs sent on such connections.
    pub resets_sent_elsewhere: u64,
    /// RSTs sent where no full socket is left: to a closed port, or in TIME_WAIT (seen on kernel 6.12 and later only).
    pub resets_sent_without_socket: u64,
    /// Ends of connections that are not watched, or that the table had to forget.
    pub ends_elsewhere: u64,
}

impl GlobalCounts {
    pub(crate) fn slot(&mut self, counter: GlobalCounter) -> &mut u64 {
        match counter {
            GlobalCounter::EventsLost => &mut self.events_lost,
            GlobalCounter::ConnectionsMissed => &mut self.connections_missed,
            GlobalCounter::EndpointsMissed => &mut self.endpoints_missed,
            GlobalCounter::ResetsReceivedElsewhere => &mut self.resets_received_elsewhere,
            GlobalCounter::ResetsSentElsewhere => &mut self.resets_sent_elsewhere,
            GlobalCounter::ResetsSentWithoutSocket => &mut self.resets_sent_without_socket,
            GlobalCounter::EndsElsewhere => &mut self.ends_elsewhere,
        }
    }
}

/// The kernel writes 0 where it has no sample, and all ones where its minimum filter is fresh.
fn some_micros(value: u32) -> Option<Duration> {
    (value != 0 && value != u32::MAX).then(|| Duration::from_micros(value.into()))
}

fn micros<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(value.as_micros()).unwrap_or(u64::MAX))
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn optional_micros<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => micros(value, serializer),
        None => serializer.serialize_none(),
    }
}

fn end_name<S: Serializer>(end: &End, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(end.name())
}

fn named_ends<S: Serializer>(counts: &[u64; SLOTS], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(End::ALL.iter().skip(1).map(|end| (end.name(), counts[*end as usize & (SLOTS - 1)])))
}

fn named_states<S: Serializer>(counts: &[u64; SLOTS], serializer: S) -> Result<S::Ok, S::Error> {
    let states = (0_u8..).zip(counts).filter(|(_, count)| **count != 0);
    serializer.collect_map(states.map(|(state, count)| (TcpState(state).name(), count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(octets: [u8; 4]) -> [u32; 4] {
        [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(octets)]
    }

    #[test]
    fn an_ipv4_peer_reads_as_ipv4_whichever_socket_reached_it() {
        assert_eq!(address(mapped([10, 0, 0, 5])).to_string(), "10.0.0.5");
        let loopback = [0, 0, 0, 1_u32.to_be()];
        assert_eq!(address(loopback).to_string(), "::1");
    }

    #[test]
    fn processors_add_up_and_the_latest_reading_wins() {
        let key = EndpointKey { address: mapped([10, 0, 0, 5]), port: 80, role: 0, zero: 0, owner: 0 };
        let mut one = EndpointCounters::ZERO;
        one.opened = 3;
        one.srtt_samples = 1;
        one.srtt_us_sum = 100;
        (one.srtt_last_ns, one.srtt_last_us, one.rtt_min_us) = (5, 100, 90);
        one.ends[End::PeerReset as usize] = 2;
        let mut two = EndpointCounters::ZERO;
        two.opened = 4;
        two.srtt_samples = 3;
        two.srtt_us_sum = 900;
        (two.srtt_last_ns, two.srtt_last_us, two.rtt_min_us) = (9, 300, 200);
        two.ends[End::PeerReset as usize] = 1;
        let untouched = EndpointCounters::ZERO;
        let sum = EndpointStats::sum(key, [one, two, untouched].iter(), 10);
        assert_eq!(sum.opened, 7);
        assert_eq!(sum.srtt, Some(Duration::from_micros(300)));
        assert_eq!(sum.srtt_mean, Some(Duration::from_micros(250)));
        assert_eq!(sum.rtt_min, Some(Duration::from_micros(90)));
        assert_eq!(sum.ends(End::PeerReset), 3);
        assert_eq!(sum.idle_last, None);
    }
}
