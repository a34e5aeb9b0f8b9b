//! The connection that the request came by. Granted by `connection: true`.

use std::net::IpAddr;
use std::time::Duration;

use crate::bindings::granted::sluice::plugin::connection;

/// The client's address: behind trusted proxies the one that they vouch for.
pub fn client() -> Option<IpAddr> {
    connection::client_address().parse().ok()
}

/// The address of whoever connected: a proxy's where there is one.
pub fn peer() -> Option<IpAddr> {
    connection::peer_address().parse().ok()
}

/// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
pub fn protocol() -> String {
    connection::protocol()
}

/// `TLSv1.2` or `TLSv1.3`; none without TLS.
pub fn tls_version() -> Option<String> {
    connection::tls_version()
}

/// The name that the client asked for by SNI, in lower case.
pub fn server_name() -> Option<String> {
    connection::server_name()
}

/// SHA-256 of the client's verified certificate, base64url as in RFC 8705 section 3.1.
pub fn client_certificate() -> Option<String> {
    connection::client_certificate()
}

/// The connection's smoothed round trip, as the kernel keeps it; none where the kernel does not tell.
pub fn round_trip() -> Option<Duration> {
    connection::round_trip().map(|micros| Duration::from_micros(micros.into()))
}
