//! A request and its connection as every unit may see them: plain, read-only, borrowed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, Method};

/// The scheme a client used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Cleartext.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What is known of a client's TLS session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: &'static str,
    /// The server name the client asked for.
    pub server_name: Option<Box<str>>,
    /// SHA-256 of the client's certificate, when it showed one that was verified.
    pub client_certificate_sha256: Option<[u8; 32]>,
}

/// A client's connection: made once when it is accepted, shared by all its requests.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The connection's number, unique in this process's life; the same in every log line about it.
    pub id: u64,
    /// The other end of the socket: perhaps a load balancer.
    pub peer: SocketAddr,
    /// Our end of the socket.
    pub local: SocketAddr,
    /// The client as told by the PROXY protocol, or the socket's peer where there was none.
    pub client: SocketAddr,
    /// TLS, if the connection has it.
    pub tls: Option<Arc<TlsInfo>>,
    /// The kernel's cookie of the socket: joins it to what the kernel saw.
    pub cookie: Option<u64>,
    /// Which listener took it, as an index into the configuration's list.
    pub listener: usize,
}

impl Connection {
    /// The scheme on this connection itself.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }
}

/// A request, after its path was normalised: what routing, identity, tenancy and plugins look at.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The scheme the client used, as a trusted proxy told it or as the connection has it.
    pub scheme: Scheme,
    /// The host without port, lower case, no trailing dot. Empty where an HTTP/1.0 client sent none.
    pub host: &'a str,
    /// The port that the client named beside the host, where it named one.
    pub port: Option<u16>,
    /// The path, normalised; begins with `/` (or is `*` for OPTIONS).
    pub path: &'a str,
    /// The query without its `?`, as sent.
    pub query: Option<&'a str>,
    /// The header fields as sent.
    pub headers: &'a HeaderMap,
    /// The client's address: behind trusted proxies, the one they vouch for.
    pub client: IpAddr,
    /// The connection.
    pub connection: &'a Connection,
}
