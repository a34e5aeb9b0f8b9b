//! The jobs that proxies are given.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A job. All are `GET` of 1 KiB over kept connections; they differ in what the proxy does besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Nothing.
    Plain,
    /// Verify an RS256 token and its scope; always the same token.
    Rs256One,
    /// Verify an RS256 token and its scope; more tokens than any cache holds.
    Rs256Many,
    /// Verify an ES256 token and its scope; always the same token.
    Es256One,
    /// Verify an ES256 token and its scope; more tokens than any cache holds.
    Es256Many,
    /// Run an extension that reads one header and sets one on the way in, and sets one on the way out.
    Plugin,
    /// TLS 1.3 toward the client, HTTP/1.1.
    TlsH1,
    /// TLS 1.3 toward the client, HTTP/2.
    TlsH2,
}

/// Which tokens requests carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tokens {
    /// Each another one: more than any cache holds, in turn.
    NeverSeen,
    /// All the same.
    Repeated,
}

/// How a token's signature is made in a scenario that verifies tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Rs256,
    Es256,
}

impl Scenario {
    pub(crate) const ALL: &[Self] = &[
        Self::Plain,
        Self::Rs256One,
        Self::Rs256Many,
        Self::Es256One,
        Self::Es256Many,
        Self::Plugin,
        Self::TlsH1,
        Self::TlsH2,
    ];

    /// The name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Rs256One => "rs256-one",
            Self::Rs256Many => "rs256-many",
            Self::Es256One => "es256-one",
            Self::Es256Many => "es256-many",
            Self::Plugin => "plugin",
            Self::TlsH1 => "tls-h1",
            Self::TlsH2 => "tls-h2",
        }
    }

    /// What a table is headed by.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Plain => "plain proxying, HTTP/1.1",
            Self::Rs256One => "RS256 verified, one token",
            Self::Rs256Many => "RS256 verified, more tokens than any cache holds",
            Self::Es256One => "ES256 verified, one token",
            Self::Es256Many => "ES256 verified, more tokens than any cache holds",
            Self::Plugin => "plugin that reads a header and sets one, then sets one in the answer",
            Self::TlsH1 => "TLS 1.3, HTTP/1.1",
            Self::TlsH2 => "TLS 1.3, HTTP/2 (16 connections of 4 streams)",
        }
    }

    /// What tokens its requests carry, and which of them.
    pub(crate) fn tokens(self) -> Option<(TokenKind, Tokens)> {
        match self {
            Self::Rs256One => Some((TokenKind::Rs256, Tokens::Repeated)),
            Self::Rs256Many => Some((TokenKind::Rs256, Tokens::NeverSeen)),
            Self::Es256One => Some((TokenKind::Es256, Tokens::Repeated)),
            Self::Es256Many => Some((TokenKind::Es256, Tokens::NeverSeen)),
            Self::Plain | Self::Plugin | Self::TlsH1 | Self::TlsH2 => None,
        }
    }

    pub(crate) fn token(self) -> Option<TokenKind> {
        self.tokens().map(|(kind, _)| kind)
    }

    pub(crate) fn tls(self) -> bool {
        matches!(self, Self::TlsH1 | Self::TlsH2)
    }
}

impl Tokens {
    /// The name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NeverSeen => "never-seen",
            Self::Repeated => "repeated",
        }
    }
}

impl TokenKind {
    /// The stem of the files that hold its tokens and key.
    pub(crate) fn stem(self) -> &'static str {
        match self {
            Self::Rs256 => "rs256",
            Self::Es256 => "es256",
        }
    }

    /// The JOSE name.
    pub(crate) fn algorithm(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}
