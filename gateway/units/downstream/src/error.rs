//! Why the unit cannot start.

use std::io;
use std::net::SocketAddr;

use crate::tls::TlsError;

/// Why the unit cannot start. Each names what in the configuration it is about.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why: most often it is taken, or the process may not use the port.
        #[source]
        cause: io::Error,
    },
    /// A listener's certificates cannot be used.
    #[error("cannot serve TLS on {address}")]
    Tls {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: Box<TlsError>,
    },
}
