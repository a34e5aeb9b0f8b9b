//! From Pingora's errors to what went wrong, for clients, operators and the endpoint's record.

use http::StatusCode;
use pingora_error::{Error, ErrorSource, ErrorType};
use sluice_vocabulary::Reason;

/// Our own error: as many connections are open as are allowed.
pub(crate) const SATURATED: ErrorType = ErrorType::new("UpstreamSaturated");

/// What went wrong with one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection: refused, no route, or not in time.
    Connect,
    /// The TLS handshake failed, or the certificate is not good.
    Tls,
    /// As many connections are open as are allowed.
    Saturated,
    /// The endpoint closed or reset before its answer was complete.
    Reset,
    /// What came is not HTTP.
    Protocol,
    /// It did not come in time.
    Timeout,
    /// Not the endpoint's doing: the client went away, or the gateway itself gave up.
    Elsewhere,
}

impl Failure {
    /// The reason that a client is told, unless the failure is not the upstream's.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Connect => Some(Reason::UpstreamConnect),
            Self::Tls => Some(Reason::UpstreamTls),
            Self::Saturated => Some(Reason::UpstreamSaturated),
            Self::Reset => Some(Reason::UpstreamReset),
            Self::Protocol => Some(Reason::UpstreamProtocol),
            Self::Timeout => Some(Reason::UpstreamTimeout),
            Self::Elsewhere => None,
        }
    }

    /// Whether it speaks against the endpoint.
    pub(crate) const fn counts(self) -> bool {
        !matches!(self, Self::Elsewhere | Self::Saturated)
    }
}

/// What went wrong, read from Pingora's error alone. Where a try is at hand, [`crate::Chosen::failed`] knows more: whether
/// the connection ended because one of our deadlines cut it.
pub fn classify(error: &Error) -> Failure {
    use ErrorType as E;
    if *error.esource() == ErrorSource::Downstream {
        return Failure::Elsewhere;
    }
    match error.etype() {
        E::ConnectTimedout | E::ConnectRefused | E::ConnectNoRoute | E::ConnectError | E::ConnectProxyFailure => {
            Failure::Connect
        }
        E::TLSWantX509Lookup
        | E::TLSHandshakeFailure
        | E::TLSHandshakeTimedout
        | E::InvalidCert
        | E::HandshakeError => Failure::Tls,
        kind if *kind == SATURATED => Failure::Saturated,
        // Without a source these are raised about the client's request or by ourselves.
        _ if *error.esource() != ErrorSource::Upstream => Failure::Elsewhere,
        E::ReadError | E::WriteError | E::ConnectionClosed => Failure::Reset,
        E::ReadTimedout | E::WriteTimedout => Failure::Timeout,
        E::H2Error => match h2(error) {
            Some(cause) if cause.is_remote() || cause.is_io() => Failure::Reset,
            _ => Failure::Protocol,
        },
        E::InvalidHTTPHeader | E::H1Error | E::H2Downgrade | E::InvalidH2 => Failure::Protocol,
        // Pingora's name for an HTTP/2 connection whose ping was not answered.
        E::Custom("PingTimedout") => Failure::Timeout,
        _ => Failure::Elsewhere,
    }
}

/// Whether the endpoint itself says that it has not looked at the request: a refused stream, or a connection that ends
/// gracefully before it (RFC 9113 8.7).
pub(crate) fn disowned(error: &Error) -> bool {
    h2(error).is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        let leaving = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
        cause.is_remote() && (refused || leaving)
    })
}

fn h2(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref()
}

/// How a try ended, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Outcome {
    Informational,
    Successful,
    Redirected,
    ClientError,
    ServerError,
    Connect,
    Tls,
    Saturated,
    Reset,
    Protocol,
    Timeout,
    Abandoned,
}

impl Outcome {
    pub(crate) const ALL: [Self; 12] = [
        Self::Informational,
        Self::Successful,
        Self::Redirected,
        Self::ClientError,
        Self::ServerError,
        Self::Connect,
        Self::Tls,
        Self::Saturated,
        Self::Reset,
        Self::Protocol,
        Self::Timeout,
        Self::Abandoned,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Successful => "2xx",
            Self::Redirected => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Saturated => "saturated",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Abandoned => "abandoned",
        }
    }

    pub(crate) fn of(failure: Option<Failure>, status: Option<StatusCode>) -> Self {
        match (failure, status) {
            (Some(Failure::Connect), _) => Self::Connect,
            (Some(Failure::Tls), _) => Self::Tls,
            (Some(Failure::Saturated), _) => Self::Saturated,
            (Some(Failure::Reset), _) => Self::Reset,
            (Some(Failure::Protocol), _) => Self::Protocol,
            (Some(Failure::Timeout), _) => Self::Timeout,
            (Some(Failure::Elsewhere), _) | (None, None) => Self::Abandoned,
            (None, Some(status)) => match status.as_u16() / 100 {
                1 => Self::Informational,
                2 => Self::Successful,
                3 => Self::Redirected,
                4 => Self::ClientError,
                _ => Self::ServerError,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_a_connection_has_its_reason() {
        use ErrorType as E;
        let table = [
            (E::ConnectRefused, Failure::Connect),
            (E::ConnectTimedout, Failure::Connect),
            (E::ConnectNoRoute, Failure::Connect),
            (E::ConnectError, Failure::Connect),
            (E::TLSHandshakeFailure, Failure::Tls),
            (E::InvalidCert, Failure::Tls),
            (E::ReadError, Failure::Reset),
            (E::WriteError, Failure::Reset),
            (E::ConnectionClosed, Failure::Reset),
            (E::ReadTimedout, Failure::Timeout),
            (E::WriteTimedout, Failure::Timeout),
            (E::InvalidHTTPHeader, Failure::Protocol),
            (E::H2Error, Failure::Protocol),
            (E::InvalidH2, Failure::Protocol),
            (SATURATED, Failure::Saturated),
            (E::InternalError, Failure::Elsewhere),
            (E::HTTPStatus(403), Failure::Elsewhere),
        ];
        for (kind, failure) in table {
            assert_eq!(classify(&Error::new_up(kind.clone())), failure, "{kind:?} upstream");
            assert_eq!(classify(&Error::new_down(kind.clone())), Failure::Elsewhere, "{kind:?} downstream");
        }
    }

    #[test]
    fn a_stream_refused_was_not_looked_at() {
        let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
        // Made here and so not remote: only the other end's word counts.
        let error = Error::because(ErrorType::H2Error, "refused", refused).into_up();
        assert!(!disowned(&error));
        assert!(!disowned(&Error::new_up(ErrorType::ConnectionClosed)));
    }
}
