//! The probes, what each is good for, and whether it is on.

use std::time::Duration;

use serde::Serialize;

/// One of the programs in the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// The socket-operations program: beginnings, round trips, retransmissions. Nothing works without it.
    SockOps,
    /// The raw tracepoint of state changes: ends, with the socket's error, and idle ages.
    SetState,
    /// The raw tracepoint of RSTs received.
    ReceiveReset,
    /// The raw tracepoint of RSTs sent.
    SendReset,
}

impl Probe {
    /// All of them, in the order in which they are attached: the one that remembers connections comes last, so that
    /// none is remembered whose end nobody would see.
    pub const ALL: [Self; 4] = [Self::SetState, Self::ReceiveReset, Self::SendReset, Self::SockOps];

    /// The program's name in the object.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::SockOps => "sluice_sock_ops",
            Self::SetState => "sluice_set_state",
            Self::ReceiveReset => "sluice_receive_reset",
            Self::SendReset => "sluice_send_reset",
        }
    }

    /// The tracepoint it attaches to; `None` for the one that attaches to a control group.
    pub(crate) const fn tracepoint(self) -> Option<&'static str> {
        match self {
            Self::SockOps => None,
            Self::SetState => Some("inet_sock_set_state"),
            Self::ReceiveReset => Some("tcp_receive_reset"),
            Self::SendReset => Some("tcp_send_reset"),
        }
    }

    /// Its short name: a metric label and a JSON value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SockOps => "sock_ops",
            Self::SetState => "set_state",
            Self::ReceiveReset => "receive_reset",
            Self::SendReset => "send_reset",
        }
    }

    /// The hook it is attached to, for people.
    #[must_use]
    pub const fn hook(self) -> &'static str {
        match self {
            Self::SockOps => "sock_ops of a version 2 control group",
            Self::SetState => "raw tracepoint inet_sock_set_state",
            Self::ReceiveReset => "raw tracepoint tcp_receive_reset",
            Self::SendReset => "raw tracepoint tcp_send_reset",
        }
    }

    /// What it tells.
    #[must_use]
    pub const fn tells(self) -> &'static str {
        match self {
            Self::SockOps => "connects and their latency, round trips, retransmissions, timeouts",
            Self::SetState => "how connections end and with which error, idle age when the peer closes, bytes",
            Self::ReceiveReset => "resets by the peer, by our TCP state",
            Self::SendReset => "resets by us, by our TCP state",
        }
    }

    /// What stands in where it is off.
    #[must_use]
    pub const fn stand_in(self) -> &'static str {
        match self {
            Self::SockOps => "nothing in the kernel; a process can still read TCP_INFO of its own sockets",
            Self::SetState => {
                "state callbacks of sock_ops: ends without the socket's error, idle age since the last acknowledgement"
            }
            Self::ReceiveReset => {
                "the socket's error at its last state change: resets by the peer, without their state"
            }
            Self::SendReset => "an end from ESTABLISHED without an error counts as our abort, without the RST itself",
        }
    }

    /// What it needs.
    #[must_use]
    pub const fn needs(self) -> &'static str {
        match self {
            Self::SockOps => "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, version 2 control groups, kernel 5.10",
            Self::SetState | Self::ReceiveReset | Self::SendReset => {
                "CAP_BPF, CAP_PERFMON, kernel type information (CONFIG_DEBUG_INFO_BTF)"
            }
        }
    }
}

/// Whether a probe is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum ProbeState {
    /// Loaded and attached.
    On,
    /// Not attached: why.
    Off(String),
}

impl ProbeState {
    /// Whether it is on.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        matches!(self, Self::On)
    }
}

/// What a probe has cost so far; see [`Observer::costs`](crate::Observer::costs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProbeCost {
    /// Which.
    pub probe: Probe,
    /// How often it has run.
    pub runs: u64,
    /// How long all its runs took.
    pub time: Duration,
}
