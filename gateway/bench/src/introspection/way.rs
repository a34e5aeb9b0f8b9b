//! The ways in which a token is checked: by the proxy itself, or by a service that it asks.

use serde::{Deserialize, Serialize};

use crate::duty::{Duty, Introspect};
use crate::peer::Peer;
use crate::scenario::{Scenario, Tokens};

/// A proxy and how it comes to know that a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// The gateway checks the token itself.
    SluiceInline,
    /// The gateway asks. Requests that carry one token at the same time share a question, as they always do.
    SluiceIntrospect,
    /// The gateway asks, and believes an answer for a while: what it does unless told otherwise.
    SluiceIntrospectCached,
    /// Envoy checks the token itself, by the quicker of its two ways: its cache helps with a token that it has seen, and
    /// costs with others.
    EnvoyInline,
    /// Envoy asks (`ext_authz`).
    EnvoyIntrospect,
    /// nginx asks (`auth_request`).
    NginxIntrospect,
}

impl Way {
    pub(crate) const ALL: &[Self] = &[
        Self::SluiceInline,
        Self::SluiceIntrospect,
        Self::SluiceIntrospectCached,
        Self::EnvoyInline,
        Self::EnvoyIntrospect,
        Self::NginxIntrospect,
    ];

    /// The name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SluiceInline => "sluice-inline",
            Self::SluiceIntrospect => "sluice-introspect",
            Self::SluiceIntrospectCached => "sluice-introspect-cached",
            Self::EnvoyInline => "envoy-inline",
            Self::EnvoyIntrospect => "envoy-introspect",
            Self::NginxIntrospect => "nginx-introspect",
        }
    }

    /// What tables call it with these tokens.
    pub(crate) fn label(self, tokens: Tokens) -> &'static str {
        match (self, tokens) {
            (Self::SluiceIntrospect, Tokens::Repeated) => "sluice-introspect (shared)",
            _ => self.name(),
        }
    }

    /// Whether a service is asked, so that its delay matters.
    pub(crate) fn asks(self) -> bool {
        !matches!(self, Self::SluiceInline | Self::EnvoyInline)
    }

    /// Whether it is asked about every request.
    pub(crate) fn asks_always(self) -> bool {
        self.asks() && self != Self::SluiceIntrospectCached
    }

    /// Whether it is worth measuring with these tokens: what is known of a token helps nobody who never sees it again.
    pub(crate) fn suits(self, tokens: Tokens) -> bool {
        self != Self::SluiceIntrospectCached || tokens == Tokens::Repeated
    }

    /// The proxy, as it is started for these tokens.
    pub(crate) fn peer(self, tokens: Tokens) -> Peer {
        match (self, tokens) {
            (Self::SluiceInline | Self::SluiceIntrospect | Self::SluiceIntrospectCached, _) => Peer::Sluice,
            (Self::EnvoyInline, Tokens::Repeated) => Peer::EnvoyCached,
            (Self::EnvoyInline, Tokens::NeverSeen) | (Self::EnvoyIntrospect, _) => Peer::Envoy,
            (Self::NginxIntrospect, _) => Peer::Nginx,
        }
    }

    /// What it does with each request, where a service takes so long.
    pub(crate) fn duty(self, delay_ms: u32) -> Duty {
        if self.asks() {
            Duty::Introspect(Introspect { delay_ms, cached: self == Self::SluiceIntrospectCached })
        } else {
            // The configuration is that of `rs256-many` too.
            Duty::Scenario(Scenario::Rs256One)
        }
    }
}
