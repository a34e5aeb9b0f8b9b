//! What is kept of one connection while it lives, and told when it ends badly.

use crate::{
    key::{EndpointKey, Role},
    tcp_state,
};

/// One connection, keyed by its socket cookie.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ConnectionRecord {
    /// When it was begun (outgoing: `connect`; incoming: ESTABLISHED), nanoseconds of the monotonic clock.
    pub started_ns: u64,
    /// When it became ESTABLISHED; 0 if it has not.
    pub established_ns: u64,
    /// When it ended; 0 while it lives.
    pub ended_ns: u64,
    /// When its round-trip time was last folded into its endpoint; 0 before the first time.
    pub folded_ns: u64,
    /// When the kernel last took a round-trip sample, which is when the peer last acknowledged something.
    pub acked_ns: u64,
    /// Bytes that the peer acknowledged, filled in when it ends.
    pub bytes_sent: u64,
    /// Bytes received, filled in when it ends.
    pub bytes_received: u64,
    /// Our address, network byte order, IPv4 in mapped form.
    pub local_address: [u32; 4],
    /// The peer's address, in the same form.
    pub remote_address: [u32; 4],
    /// Our port, host byte order.
    pub local_port: u16,
    /// The peer's port, host byte order.
    pub remote_port: u16,
    /// Process (thread group) that opened it; 0 where the kernel could not say.
    pub process: u32,
    /// Smoothed round-trip time, microseconds; 0 before the first sample.
    pub srtt_us: u32,
    /// Lowest round-trip time, microseconds; 0 before the first sample.
    pub rtt_min_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Retransmission timers that ran out.
    pub timeouts: u32,
    /// How long nothing had been sent or received when the peer closed or reset it, milliseconds.
    pub idle_ms: u32,
    /// The socket's error when it ended: a positive errno, 0 for none.
    pub error: u32,
    /// Our TCP state; once it has ended, the last state before CLOSE.
    pub state: u8,
    /// A [`Role`] as a number.
    pub role: u8,
    /// An [`End`] as a number; [`End::Open`] while it lives.
    pub end: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Our TCP state when a RST arrived; 0 if none has.
    pub reset_state: u8,
    /// 1 if its endpoint is counted apart by process.
    pub by_process: u8,
    /// Always zero.
    pub zero: [u8; 2],
}

/// Bits of [`ConnectionRecord::flags`].
pub mod flag {
    /// The peer closed its side first.
    pub const PEER_CLOSED: u8 = 1;
    /// We closed our side first.
    pub const LOCAL_CLOSED: u8 = 2;
    /// A RST arrived.
    pub const RESET_RECEIVED: u8 = 4;
}

impl ConnectionRecord {
    /// The key under which this connection is counted.
    #[must_use]
    #[inline(always)]
    pub const fn key(&self) -> EndpointKey {
        let owner = if self.by_process != 0 { self.process } else { 0 };
        if self.role == Role::Incoming as u8 {
            EndpointKey { address: [0; 4], port: self.local_port, role: self.role, zero: 0, owner }
        } else {
            EndpointKey { address: self.remote_address, port: self.remote_port, role: self.role, zero: 0, owner }
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum End {
    /// It has not ended.
    Open = 0,
    /// In order, by us first.
    LocalClose = 1,
    /// In order, by the peer first.
    PeerClose = 2,
    /// The peer reset it while it was open.
    PeerReset = 3,
    /// The peer reset it after having closed it in order: we wrote into a stale keep-alive connection.
    PeerResetAfterClose = 4,
    /// We aborted it: closed with a zero linger time, or with unread data.
    LocalReset = 5,
    /// The peer stopped answering.
    TimedOut = 6,
    /// The peer refused the connection.
    ConnectRefused = 7,
    /// Nothing answered our SYNs.
    ConnectTimedOut = 8,
    /// The network refused it: no route, or an ICMP error.
    ConnectUnreachable = 9,
    /// We gave up before the handshake was done.
    ConnectAbandoned = 10,
    /// Some other error of the socket.
    OtherError = 11,
}

/// Errors of the socket that the classification knows; the numbers are the same on every architecture Linux has
/// except MIPS, SPARC, Alpha and PA-RISC, for which nothing here is built.
mod errno {
    pub(super) const ETIMEDOUT: u32 = 110;
    pub(super) const ECONNREFUSED: u32 = 111;
    pub(super) const EHOSTUNREACH: u32 = 113;
    pub(super) const ENETUNREACH: u32 = 101;
}

impl End {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Open,
        Self::LocalClose,
        Self::PeerClose,
        Self::PeerReset,
        Self::PeerResetAfterClose,
        Self::LocalReset,
        Self::TimedOut,
        Self::ConnectRefused,
        Self::ConnectTimedOut,
        Self::ConnectUnreachable,
        Self::ConnectAbandoned,
        Self::OtherError,
    ];

    /// What the last state change says about how a connection ended.
    ///
    /// `last` is our state before CLOSE, `error` the socket's error (0 also where it cannot be read), `flags` the bits
    /// of [`flag`] gathered while it lived. The rules are the ones that hold on every kernel from 5.10 on:
    ///
    /// | what happened | state change | error | RST |
    /// |---|---|---|---|
    /// | peer resets an open connection | ESTABLISHED→CLOSE | ECONNRESET | received |
    /// | we abort | ESTABLISHED→CLOSE | 0 | sent, after the change |
    /// | nobody listens | SYN_SENT→CLOSE | ECONNREFUSED | received in SYN_SENT |
    /// | we write into a stale connection | CLOSE_WAIT→CLOSE | EPIPE | received in CLOSE_WAIT |
    #[must_use]
    #[inline(always)]
    pub const fn classify(last: u8, error: u32, flags: u8) -> Self {
        let reset = flags & flag::RESET_RECEIVED != 0;
        if last == tcp_state::SYN_SENT || last == tcp_state::SYN_RECV {
            return match error {
                errno::ECONNREFUSED => Self::ConnectRefused,
                errno::ETIMEDOUT => Self::ConnectTimedOut,
                errno::EHOSTUNREACH | errno::ENETUNREACH => Self::ConnectUnreachable,
                0 if reset => Self::ConnectRefused,
                0 => Self::ConnectAbandoned,
                _ => Self::OtherError,
            };
        }
        if reset {
            return if flags & flag::PEER_CLOSED != 0 { Self::PeerResetAfterClose } else { Self::PeerReset };
        }
        if error == errno::ETIMEDOUT {
            return Self::TimedOut;
        }
        if error != 0 && last == tcp_state::ESTABLISHED {
            // The RST's own tracepoint was missed or is off: the error still names it.
            return if error == 104 { Self::PeerReset } else { Self::OtherError };
        }
        if error == 32 && last == tcp_state::CLOSE_WAIT {
            return Self::PeerResetAfterClose;
        }
        if last == tcp_state::ESTABLISHED || last == tcp_state::CLOSE_WAIT {
            // Neither side's FIN was waited for.
            return Self::LocalReset;
        }
        if flags & flag::PEER_CLOSED != 0 { Self::PeerClose } else { Self::LocalClose }
    }

    /// Whether this end is worth an event: nobody asked for it.
    #[must_use]
    #[inline(always)]
    pub const fn is_abnormal(self) -> bool {
        !matches!(self, Self::Open | Self::LocalClose | Self::PeerClose)
    }

    /// Whether the connection ended before it was established.
    #[must_use]
    pub const fn is_connect_failure(self) -> bool {
        matches!(self, Self::ConnectRefused | Self::ConnectTimedOut | Self::ConnectUnreachable | Self::ConnectAbandoned)
    }

    /// The end stored as `value`; an unknown number is [`End::OtherError`].
    #[must_use]
    pub const fn from_raw(value: u8) -> Self {
        if (value as usize) < Self::ALL.len() { Self::ALL[value as usize] } else { Self::OtherError }
    }

    /// A short name: a metric label and a JSON value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::LocalClose => "local_close",
            Self::PeerClose => "peer_close",
            Self::PeerReset => "peer_reset",
            Self::PeerResetAfterClose => "peer_reset_after_close",
            Self::LocalReset => "local_reset",
            Self::TimedOut => "timed_out",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimedOut => "connect_timed_out",
            Self::ConnectUnreachable => "connect_unreachable",
            Self::ConnectAbandoned => "connect_abandoned",
            Self::OtherError => "other_error",
        }
    }
}

/// Sent through the ring buffer when a connection ended abnormally.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct EndEvent {
    /// The socket's cookie.
    pub cookie: u64,
    /// All that was known of it.
    pub record: ConnectionRecord,
}

const _: () = assert!(size_of::<ConnectionRecord>() == 128);
const _: () = assert!(size_of::<EndEvent>() == 136);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_truth_table_of_ends_holds() {
        use tcp_state::{CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT2, LAST_ACK, SYN_SENT};
        let (peer, local, rst) = (flag::PEER_CLOSED, flag::LOCAL_CLOSED, flag::RESET_RECEIVED);
        for (last, error, flags, expected) in [
            (ESTABLISHED, 104, rst, End::PeerReset),
            (ESTABLISHED, 104, 0, End::PeerReset),
            (ESTABLISHED, 0, 0, End::LocalReset),
            (ESTABLISHED, 110, 0, End::TimedOut),
            (ESTABLISHED, 71, 0, End::OtherError),
            (SYN_SENT, 111, rst, End::ConnectRefused),
            (SYN_SENT, 111, 0, End::ConnectRefused),
            (SYN_SENT, 0, rst, End::ConnectRefused),
            (SYN_SENT, 110, 0, End::ConnectTimedOut),
            (SYN_SENT, 113, 0, End::ConnectUnreachable),
            (SYN_SENT, 0, 0, End::ConnectAbandoned),
            (CLOSE_WAIT, 32, peer | rst, End::PeerResetAfterClose),
            (CLOSE_WAIT, 32, peer, End::PeerResetAfterClose),
            (CLOSE_WAIT, 0, peer, End::LocalReset),
            (LAST_ACK, 0, peer, End::PeerClose),
            (FIN_WAIT2, 0, local, End::LocalClose),
            (CLOSING, 0, local, End::LocalClose),
            (FIN_WAIT2, 104, local | rst, End::PeerReset),
        ] {
            assert_eq!(End::classify(last, error, flags), expected, "state {last}, error {error}, flags {flags}");
        }
    }

    #[test]
    fn every_end_survives_its_number() {
        for end in End::ALL {
            assert_eq!(End::from_raw(end as u8), end);
        }
        assert_eq!(End::from_raw(200), End::OtherError);
    }
}
