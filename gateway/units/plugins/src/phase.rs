//! The phases of an exchange that plugins can be called for.

use std::fmt;

/// A phase of an exchange, in the order of the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Phase {
    RequestHeaders,
    RequestBody,
    RequestChunk,
    ResponseHeaders,
    ResponseBody,
    ResponseChunk,
    ResponseTrailers,
    ExchangeEnd,
}

/// What a phase's function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returns {
    /// `action`: it goes on, answers or refuses.
    Action,
    /// `stream-action`: the message is under way, so that all it can do is end it.
    StreamAction,
    Nothing,
}

impl Phase {
    pub(crate) const ALL: [Self; 8] = [
        Self::RequestHeaders,
        Self::RequestBody,
        Self::RequestChunk,
        Self::ResponseHeaders,
        Self::ResponseBody,
        Self::ResponseChunk,
        Self::ResponseTrailers,
        Self::ExchangeEnd,
    ];

    /// As metrics, logs and the contract name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request-headers",
            Self::RequestBody => "request-body",
            Self::RequestChunk => "request-chunk",
            Self::ResponseHeaders => "response-headers",
            Self::ResponseBody => "response-body",
            Self::ResponseChunk => "response-chunk",
            Self::ResponseTrailers => "response-trailers",
            Self::ExchangeEnd => "exchange-end",
        }
    }

    pub(crate) const fn returns(self) -> Returns {
        match self {
            Self::RequestHeaders | Self::RequestBody | Self::ResponseHeaders => Returns::Action,
            Self::RequestChunk | Self::ResponseBody | Self::ResponseChunk | Self::ResponseTrailers => {
                Returns::StreamAction
            }
            Self::ExchangeEnd => Returns::Nothing,
        }
    }

    /// Whether nothing of what it does shows before it ends well, so that another implementation can be tried.
    pub(crate) const fn can_be_undone(self) -> bool {
        matches!(self.returns(), Returns::Action)
    }

    /// Whether it sees a message that is under way.
    pub(crate) const fn is_under_way(self) -> bool {
        matches!(self.returns(), Returns::StreamAction)
    }

    /// Whether a request that it refuses never reaches the upstream, and an upstream can be chosen in it.
    pub(crate) const fn is_before_the_upstream(self) -> bool {
        matches!(self, Self::RequestHeaders | Self::RequestBody)
    }

    /// Whether a call of it may wait: not where it has one slice of its thread, and not where others queue behind it.
    pub(crate) const fn may_wait(self) -> bool {
        !matches!(self, Self::ResponseBody | Self::ResponseChunk | Self::ResponseTrailers | Self::ExchangeEnd)
    }

    /// Whether it may find the instance that an earlier phase of the same request left.
    pub(crate) const fn is_followed_by(self, later: Self) -> bool {
        (self as usize) < (later as usize) && !matches!(later, Self::ExchangeEnd)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
