//! How long an exchange with an upstream may take: the words in which the unit that sets the limits, the one that keeps
//! them and the one that applies them to a connection speak of it.

use std::time::{Duration, Instant};

/// The limits on one exchange, as an upstream's configuration sets them. All are finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TCP connection to be made.
    pub connect: Duration,
    /// For the TLS handshake after it.
    pub handshake: Duration,
    /// From the end of the request to the end of the response's header.
    pub response: Duration,
    /// For which nothing may move while a body is under way.
    pub idle: Duration,
    /// For all of it, retries included.
    pub total: Duration,
    /// For which nothing may move on a connection that was upgraded (WebSocket).
    pub upgraded_idle: Duration,
}

/// What one try may take, worked out at the moment it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TryLimits {
    /// For the connection with all its handshakes.
    pub establish: Duration,
    /// From the end of the request to the end of the response's header.
    pub response: Duration,
    /// For which nothing may move while a body is under way.
    pub idle: Duration,
    /// When everything must be over, where anything says so.
    pub ends: Option<Instant>,
}
