//! What is counted for one endpoint, in the kernel, on one processor.

/// Buckets of each histogram; a power of two, so that a mask keeps an index inside.
pub const BUCKETS: usize = 32;

/// Slots of the tables indexed by a TCP state or an [`End`](crate::End); a power of two for the same reason.
pub const SLOTS: usize = 16;

/// Counters of one endpoint on one processor. The observer adds the processors up.
///
/// All of them only grow, except the `last` and `min` fields. An endpoint that the table had to evict starts again at
/// zero: a reader that keeps totals must treat a smaller value as a fresh start.
///
/// Histograms are base two: bucket 0 counts values below 2, bucket `i` counts `2^i ..= 2^(i+1) - 1`, the last bucket
/// everything above.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct EndpointCounters {
    /// When the first connection was counted here, nanoseconds of the monotonic clock.
    pub first_seen_ns: u64,
    /// When anything was last counted here, nanoseconds of the monotonic clock.
    pub last_seen_ns: u64,
    /// Connections begun: SYNs sent by us (outgoing), or connections established by a client (incoming).
    pub opened: u64,
    /// Connections that reached ESTABLISHED.
    pub established: u64,
    /// Sum over established outgoing connections of the time from `connect` to ESTABLISHED.
    pub connect_ns_sum: u64,
    /// Smoothed round-trip times folded in: at most one each 50 ms and connection, and one when it ends.
    pub srtt_samples: u64,
    /// Sum of those samples, microseconds.
    pub srtt_us_sum: u64,
    /// When the latest of them was taken.
    pub srtt_last_ns: u64,
    /// Sum of the lifetimes of ended connections.
    pub lifetime_ns_sum: u64,
    /// Connections that ended, established before or not.
    pub ended: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Retransmission timers that ran out.
    pub timeouts: u64,
    /// Bytes that the peer acknowledged, added when a connection ends.
    pub bytes_sent: u64,
    /// Bytes received, added when a connection ends.
    pub bytes_received: u64,
    /// Sum of the idle ages at the moments the peer closed in order, milliseconds.
    pub idle_ms_sum: u64,
    /// When the peer last closed a connection in order.
    pub idle_last_ns: u64,
    /// The latest smoothed round-trip time, microseconds; 0 before the first sample.
    pub srtt_last_us: u32,
    /// The lowest round-trip time the kernel's own filter reported, microseconds; 0 before the first sample.
    pub rtt_min_us: u32,
    /// How long the connection had been idle when the peer last closed one, milliseconds.
    pub idle_last_ms: u32,
    /// Always zero.
    pub zero: u32,
    /// How connections ended, indexed by [`End`](crate::End).
    pub ends: [u64; SLOTS],
    /// RSTs received, indexed by our TCP state at that moment.
    pub resets_received: [u64; SLOTS],
    /// RSTs sent, indexed by our TCP state before the abort.
    pub resets_sent: [u64; SLOTS],
    /// Connect latency, microseconds.
    pub connect_us: [u64; BUCKETS],
    /// Idle age at the moment the peer closed in order, milliseconds.
    pub idle_ms: [u64; BUCKETS],
}

impl EndpointCounters {
    /// Nothing counted yet.
    pub const ZERO: Self = Self {
        first_seen_ns: 0,
        last_seen_ns: 0,
        opened: 0,
        established: 0,
        connect_ns_sum: 0,
        srtt_samples: 0,
        srtt_us_sum: 0,
        srtt_last_ns: 0,
        lifetime_ns_sum: 0,
        ended: 0,
        retransmits: 0,
        timeouts: 0,
        bytes_sent: 0,
        bytes_received: 0,
        idle_ms_sum: 0,
        idle_last_ns: 0,
        srtt_last_us: 0,
        rtt_min_us: 0,
        idle_last_ms: 0,
        zero: 0,
        ends: [0; SLOTS],
        resets_received: [0; SLOTS],
        resets_sent: [0; SLOTS],
        connect_us: [0; BUCKETS],
        idle_ms: [0; BUCKETS],
    };
}

/// The histogram bucket of `value`.
#[must_use]
#[inline(always)]
pub const fn bucket(value: u64) -> usize {
    // Written without a loop and without `leading_zeros`, which the BPF instruction set lacks: five compares.
    let mut rest = if value > u32::MAX as u64 { u32::MAX } else { value as u32 };
    let mut index = 0;
    if rest >= 1 << 16 {
        rest >>= 16;
        index += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        index += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        index += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        index += 2;
    }
    if rest >= 1 << 1 {
        index += 1;
    }
    index & (BUCKETS - 1)
}

const _: () = assert!(size_of::<EndpointCounters>() == 16 * 8 + 4 * 4 + 3 * SLOTS * 8 + 2 * BUCKETS * 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_the_values_between_two_powers_of_two() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1), 0);
        for power in 1..32_usize {
            let low = 1_u64 << power;
            assert_eq!(bucket(low), power, "lower bound of bucket {power}");
            assert_eq!(bucket(low * 2 - 1), power, "upper bound of bucket {power}");
        }
        assert_eq!(bucket(u64::MAX), 31);
    }
}
