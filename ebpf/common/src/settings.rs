//! What the user side tells the probes before they are loaded.

/// An offset that the running kernel does not have; the probe then leaves that reading out.
pub const ABSENT: u32 = u32::MAX;

/// Where fields lie in the running kernel, in bytes from the start of the socket.
///
/// Compilers for BPF targets other than C emit no relocations for kernel fields, so the observer reads the offsets from
/// the kernel's own type information and hands them over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `sock_common.skc_state`, one byte.
    pub state: u32,
    /// `sock_common.skc_cookie`, eight bytes; 0 until somebody asked for the cookie.
    pub cookie: u32,
    /// `sock.sk_err`, four bytes.
    pub error: u32,
    /// `tcp_sock.srtt_us`, four bytes, eighths of a microsecond.
    pub srtt_us: u32,
    /// `tcp_sock.rtt_min`'s best sample, four bytes, microseconds.
    pub rtt_min_us: u32,
    /// `tcp_sock.bytes_acked`, eight bytes.
    pub bytes_acked: u32,
    /// `tcp_sock.bytes_received`, eight bytes.
    pub bytes_received: u32,
    /// `tcp_sock.lsndtime`, four bytes, ticks.
    pub last_sent: u32,
    /// `inet_connection_sock.icsk_ack.lrcvtime`, four bytes, ticks.
    pub last_received: u32,
}

impl Offsets {
    /// No field is known.
    pub const ABSENT: Self = Self {
        state: ABSENT,
        cookie: ABSENT,
        error: ABSENT,
        srtt_us: ABSENT,
        rtt_min_us: ABSENT,
        bytes_acked: ABSENT,
        bytes_received: ABSENT,
        last_sent: ABSENT,
        last_received: ABSENT,
    };
}

/// Read-only data of the probes. The kernel freezes it at load time and its verifier then drops the branches that are
/// switched off, so a feature that is off costs nothing, and a helper that an older kernel lacks does no harm.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Settings {
    /// Where fields lie.
    pub offsets: Offsets,
    /// Nanoseconds of one tick of the kernel's timer.
    pub tick_ns: u32,
    /// Bits of [`switch`].
    pub switches: u32,
}

/// Bits of [`Settings::switches`].
pub mod switch {
    /// Of the outgoing connections, only those opened by a process in the table `PROCESSES`. Incoming ones are not
    /// concerned, since the kernel completes their handshake outside any process.
    pub const ONLY_PROCESSES: u32 = 1;
    /// Only connections with a local or remote port in the table `PORTS`.
    pub const ONLY_PORTS: u32 = 1 << 1;
    /// Count endpoints apart by process.
    pub const BY_PROCESS: u32 = 1 << 2;
    /// `bpf_get_current_pid_tgid` may be called from a socket-operations program (kernel 6.10 and later).
    pub const KNOWS_PROCESS: u32 = 1 << 3;
    /// State changes are seen by the socket-operations program, since the raw tracepoint is not to be had.
    pub const STATES_IN_SOCK_OPS: u32 = 1 << 4;
    /// Take round-trip samples on every connection.
    pub const RTT_ALWAYS: u32 = 1 << 5;
    /// Take no round-trip samples while a connection lives.
    pub const RTT_NEVER: u32 = 1 << 6;
    /// Leave incoming connections out.
    pub const ONLY_OUTGOING: u32 = 1 << 7;
}

/// Index into the table of counters that belong to no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum GlobalCounter {
    /// Events that found the ring buffer full.
    EventsLost = 0,
    /// Connections that could not be remembered.
    ConnectionsMissed = 1,
    /// Counts that found no room in the endpoint table.
    EndpointsMissed = 2,
    /// RSTs received on connections that are not watched, or were open before the probes were attached.
    ResetsReceivedElsewhere = 3,
    /// RSTs sent from sockets that are not watched.
    ResetsSentElsewhere = 4,
    /// RSTs sent where no full socket is left: to a closed port, or in TIME_WAIT.
    ResetsSentWithoutSocket = 5,
    /// Ends of connections that are not watched.
    EndsElsewhere = 6,
}

impl GlobalCounter {
    /// How many slots the table has.
    pub const SLOTS: u32 = 8;
}

const _: () = assert!(size_of::<Settings>() == 11 * 4);
