//! What the probes write and the observer reads.
//!
//! One definition serves both sides, so that a field cannot mean one thing in the kernel and another outside it.
//! Every type is `repr(C)`, has no implicit padding (the size assertions say so) and is valid for every bit pattern,
//! which is what lets it cross the border as bytes.
//!
//! In reading order: [`key`] says what is counted apart, [`endpoint`] what is counted, [`connection`] what is kept of
//! one connection, [`settings`] what the user side tells the probes before they are loaded.
#![no_std]

pub mod connection;
pub mod endpoint;
pub mod key;
pub mod settings;

#[cfg(feature = "user")]
pub mod pod;

pub use connection::{ConnectionRecord, End, EndEvent};
pub use endpoint::EndpointCounters;
pub use key::{EndpointKey, Role};
pub use settings::{GlobalCounter, Offsets, Settings};

/// TCP states as the kernel numbers them (`include/net/tcp_states.h`); user ABI since `TCP_INFO` reports them.
pub mod tcp_state {
    /// Open in both directions.
    pub const ESTABLISHED: u8 = 1;
    /// We have sent a SYN and wait for its answer.
    pub const SYN_SENT: u8 = 2;
    /// We have answered a SYN and wait for the last part of the handshake.
    pub const SYN_RECV: u8 = 3;
    /// We have closed, the peer has not acknowledged it.
    pub const FIN_WAIT1: u8 = 4;
    /// We have closed and the peer knows; it has not closed its side.
    pub const FIN_WAIT2: u8 = 5;
    /// Both sides have closed; the addresses are held back for a while.
    pub const TIME_WAIT: u8 = 6;
    /// No connection.
    pub const CLOSE: u8 = 7;
    /// The peer has closed and we have not: what a stale keep-alive connection looks like.
    pub const CLOSE_WAIT: u8 = 8;
    /// The peer closed first, then we did; its last acknowledgement is missing.
    pub const LAST_ACK: u8 = 9;
    /// Waiting for connections.
    pub const LISTEN: u8 = 10;
    /// Both closed at once.
    pub const CLOSING: u8 = 11;
    /// A half-open connection that has no full socket yet.
    pub const NEW_SYN_RECV: u8 = 12;
}
