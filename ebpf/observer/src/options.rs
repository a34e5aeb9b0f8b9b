//! What to watch, and how much memory it may take.

use std::path::PathBuf;

use crate::probe::Probe;

/// What to watch. The default watches the whole host.
#[derive(Debug, Clone)]
pub struct Options {
    /// The control group whose connections are seen.
    pub cgroup: Cgroup,
    /// Of the outgoing connections, only those opened by these processes (thread group ids); empty for all. Incoming
    /// ones belong to no process when the kernel completes their handshake: see [`Options::incoming`]. Needs kernel 6.10.
    pub processes: Vec<u32>,
    /// Only connections with one of these as local or remote port; empty for all.
    pub ports: Vec<u16>,
    /// Whether connections that clients open to listeners here are watched.
    pub incoming: bool,
    /// Whether the same endpoint is counted apart for each process that connects to it. Needs kernel 6.10.
    pub by_process: bool,
    /// When round trips are sampled.
    pub round_trips: RoundTrips,
    /// How many living connections are remembered; beyond it the least recently used ones are forgotten. 16 384 take
    /// about 3.5 MiB of kernel memory.
    pub max_connections: u32,
    /// How many endpoints are counted; beyond it the least recently used ones start again at zero. Each takes about
    /// 1.1 KiB for each possible processor.
    pub max_endpoints: u32,
    /// Size of the event buffer in bytes: a power of two and a multiple of the page size. 256 KiB hold 1 800 events.
    pub event_buffer: u32,
    /// Probes to leave off though they would work. [`Probe::SockOps`] cannot be left off.
    pub without: Vec<Probe>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cgroup: Cgroup::Host,
            processes: Vec::new(),
            ports: Vec::new(),
            incoming: true,
            by_process: false,
            round_trips: RoundTrips::Adaptive,
            max_connections: 16_384,
            max_endpoints: 1_024,
            event_buffer: 256 * 1024,
            without: Vec::new(),
        }
    }
}

/// A control group (version 2) to attach to; its children are covered too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroup {
    /// The root: the whole host, or all that a container can see.
    Host,
    /// The one this process is in.
    Own,
    /// The one with this directory.
    Directory(PathBuf),
}

/// When the kernel is asked for a callback with every round-trip sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoundTrips {
    /// On all connections of endpoints whose connections live a second or longer, on one in 16 where they are shorter:
    /// short ones give the value they ended with in any case.
    Adaptive,
    /// On all connections. Costs a proxy that opens one connection per request about 15 % of its throughput.
    Always,
    /// On none; each connection gives the value it ended with.
    Never,
}
