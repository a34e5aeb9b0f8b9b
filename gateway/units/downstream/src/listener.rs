//! Sockets that listen, and the loop that accepts from one.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::limits::ConnectionPermit;
use crate::metrics::{ConnectionRefusal, ListenerMetrics};
use crate::proxy_protocol::Senders;
use crate::shared::Shared;
use crate::tls::Certificates;

/// The pause after a failure to accept that will not mend itself at once, such as too many open files: long enough not
/// to spin, short enough that nobody notices once it is over.
const PAUSE: Duration = Duration::from_millis(50);

/// A listener as connections see it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The position in the configuration.
    pub(crate) index: usize,
    /// The address as configured, which is the `listener` label.
    pub(crate) name: Arc<str>,
    /// The address as bound.
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Certificates>,
    pub(crate) http2: bool,
    pub(crate) proxies: Option<Senders>,
    pub(crate) metrics: ListenerMetrics,
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<Listener>,
    pub(crate) permit: ConnectionPermit,
}

/// Binds a socket to `address` and lets it listen.
///
/// SO_REUSEADDR, so that a restart need not wait for the old process's connections to leave TIME_WAIT. Not SO_REUSEPORT:
/// two gateways on one address by mistake should be an error. An IPv6 address is only that, so that `[::]` and `0.0.0.0`
/// can be configured side by side.
pub(crate) fn bind(address: SocketAddr, backlog: NonZeroU32) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Inherited by every connection that is accepted: answers must not wait for the client's acknowledgements.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog.get()).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Accepts until it is dropped, and hands every connection to `dispatch`. Does nothing else: no byte of any connection is
/// awaited here.
pub(crate) async fn accept_loop(
    socket: TcpListener,
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    dispatch: impl Fn(Accepted),
) {
    loop {
        // The socket is taken out of this runtime again: the one it will live in is its worker's.
        match socket.accept().await.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
            Ok((socket, peer)) => admit(socket, peer, &listener, &shared, &dispatch),
            // The client left while it waited: nothing of ours is wrong.
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                failed(&shared, &listener, &error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn admit(
    socket: TcpStream,
    peer: SocketAddr,
    listener: &Arc<Listener>,
    shared: &Arc<Shared>,
    dispatch: &impl Fn(Accepted),
) {
    listener.metrics.connections.inc();
    match shared.gate.enter(shared.settings.load().connections) {
        Some(permit) => dispatch(Accepted { socket, peer, listener: Arc::clone(listener), permit }),
        None => {
            shared.metrics.connection_refused(ConnectionRefusal::Connections);
            tracing::debug!(client.addr = %peer, listener = %listener.name, "connection refused: too many in all");
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NotConnected)
}

fn failed(shared: &Shared, listener: &Listener, error: &io::Error) {
    if shared.metrics.accept_errors.inc() == 0 {
        tracing::error!(listener = %listener.name, %error, "cannot accept connections; further failures are counted only");
    }
}
