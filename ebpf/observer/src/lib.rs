//! What the kernel sees of this host's TCP connections, as a library.
//!
//! [`Observer::start`] loads the probes, attaches them, and from then on [`Observer::endpoints`] tells what was counted
//! for each remote endpoint, [`Observer::connection`] what is known of one socket, and [`Observer::drain_events`] which
//! connections ended as nobody wanted. Nothing is written to the host and no process is touched; when the observer is
//! dropped, the probes are gone.
//!
//! ```no_run
//! use sluice_observer::{Observer, Options};
//!
//! let observer = Observer::start(&Options::default())?;
//! std::thread::sleep(std::time::Duration::from_secs(10));
//! for endpoint in observer.endpoints()? {
//!     println!("{} {:?} resets by the peer: {}", endpoint.id, endpoint.srtt, endpoint.resets_received_total());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Every probe but one can be missing: [`Observer::probes`] says which are on, and [`doctor()`] says for a host, without
//! leaving anything behind, what would work there, why something does not, and what would turn it on.
//!
//! Read in this order: [`options`] what to watch, [`host`] what machine this is, [`btf`] and [`offsets`] where its kernel
//! keeps things, [`probe`] the probes and their state, [`observer`] the loading and reading, [`facts`] and [`histogram`]
//! what comes out, [`doctor`](mod@doctor) the examination.

pub mod options;

pub mod host;

pub mod btf;
pub mod offsets;

pub mod probe;

pub mod observer;

pub mod facts;
pub mod histogram;

pub mod doctor;

pub use doctor::{DoctorReport, doctor};
pub use facts::{ConnectionFacts, Direction, EndpointId, EndpointStats, Event, GlobalCounts, TcpState};
pub use histogram::Histogram;
pub use observer::{Observer, ReadError, StartError};
pub use options::{Cgroup, Options, RoundTrips};
pub use probe::{Probe, ProbeCost, ProbeState};
pub use sluice_ebpf_common::End;
