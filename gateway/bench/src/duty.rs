//! What a proxy is told to do with each request, and what kind of load it gets for that.

use crate::scenario::{Scenario, TokenKind, Tokens};

/// What a proxy does with each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// The job of a scenario.
    Scenario(Scenario),
    /// Ask the introspection service about the token.
    Introspect(Introspect),
}

/// How the introspection service is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Introspect {
    /// How long the service takes, in milliseconds.
    pub(crate) delay_ms: u32,
    /// Whether the proxy believes an answer for a while. Only the gateway can.
    pub(crate) cached: bool,
}

/// The load on a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) tls: bool,
    /// Over HTTP/2, several streams share a connection.
    pub(crate) http2: bool,
    /// Requests under way at once.
    pub(crate) connections: u32,
    pub(crate) tokens: Option<(TokenKind, Tokens)>,
}

/// Requests under way at once in the scenarios.
const CONCURRENCY: u32 = 64;

impl Scenario {
    /// The load that goes with it.
    pub(crate) fn load(self) -> Load {
        Load { tls: self.tls(), http2: self == Self::TlsH2, connections: CONCURRENCY, tokens: self.tokens() }
    }
}

impl Duty {
    pub(crate) fn scenario(self) -> Option<Scenario> {
        match self {
            Self::Scenario(scenario) => Some(scenario),
            Self::Introspect(_) => None,
        }
    }
}
