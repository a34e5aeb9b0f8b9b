//! One connection, from its acceptance to the protocol it speaks.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BytesMut};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::SocketDigest;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use prometheus_client::metrics::gauge::Gauge;
use sluice_vocabulary::request::Connection;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::control::{self, StreamControl};
use crate::guard::{Core, Facts, Guard, Home};
use crate::listener::Accepted;
use crate::metrics::ConnectionRefusal;
use crate::shared::Shared;
use crate::socket::{EarlySocket, Socket};
use crate::{h1, h2, handshake, proxy_protocol};

/// What a connection needs of its worker.
#[derive(Debug)]
pub(crate) struct Link<A> {
    pub(crate) app: Arc<A>,
    pub(crate) shared: Arc<Shared>,
    /// Turns true when the process stops taking requests.
    pub(crate) shutdown: watch::Receiver<bool>,
    /// The worker waits for what is spawned here.
    pub(crate) tracker: TaskTracker,
}

/// Serves a connection until it ends.
pub(crate) async fn serve<A>(accepted: Accepted, link: Arc<Link<A>>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let Accepted { socket, peer, listener, permit: _permit } = accepted;
    let _active = ActiveConnection::new(&listener.metrics.active);
    let shared = &link.shared;
    let settings = shared.settings.load_full();
    // An error means that the client left before we came to it.
    let Ok(mut tcp) = TcpStream::from_std(socket) else { return };
    let Ok(local) = tcp.local_addr() else { return };
    // One deadline for all that comes before HTTP.
    let deadline = Instant::now() + settings.handshake_timeout;

    let mut early = BytesMut::new();
    let mut client = peer;
    if listener.proxies.as_ref().is_some_and(|proxies| proxies.include(peer.ip())) {
        match read_proxy_header(&mut tcp, &mut early, deadline).await {
            Ok(source) => client = source.unwrap_or(peer),
            Err(refusal) => {
                shared.metrics.connection_refused(refusal);
                tracing::debug!(peer.addr = %peer, reason = refusal.as_str(), "connection refused");
                return;
            }
        }
    }
    let Some(_address_permit) = shared.gate.enter_address(client.ip(), settings.connections_per_address) else {
        shared.metrics.connection_refused(ConnectionRefusal::PerAddress);
        tracing::debug!(client.addr = %client, "connection refused: too many from this address");
        return;
    };

    let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
    let cookie = digest.socket_cookie().ok();
    let (socket, tls) = match &listener.tls {
        None => (Socket::Plain(EarlySocket::new(tcp, early)), None),
        Some(certificates) => {
            let early = EarlySocket::new(tcp, early);
            match handshake::shake(early, certificates, deadline, &shared.metrics).await {
                Some(stream) => {
                    let agreed = stream.get_ref().1;
                    let info = (Arc::new(handshake::info(agreed)), handshake::is_http2(agreed));
                    (Socket::Tls(Box::new(stream)), Some(info))
                }
                None => return,
            }
        }
    };
    let is_http2 = tls.as_ref().is_some_and(|(_, http2)| *http2);
    let tls = tls.map(|(info, _)| info);
    let ssl = tls.as_deref().map(handshake::digest);
    let connection = Arc::new(Connection {
        id: shared.next_connection.fetch_add(1, Ordering::Relaxed),
        peer,
        local,
        client,
        tls,
        cookie,
        listener: listener.index,
    });
    let control = Arc::new(StreamControl::new());
    let facts = Arc::new(Facts {
        proxy: control::digest(Arc::clone(&connection), Arc::clone(&control)),
        socket: Arc::new(known(digest, client, local)),
        ssl,
    });
    let core = Core::new(socket, settings, control);
    if is_http2 {
        let guard = Guard::new(core, facts, Home::default());
        h2::serve(guard, &connection, &link).await;
    } else {
        let prior_knowledge = listener.http2 && connection.tls.is_none();
        h1::serve(core, facts, &connection, prior_knowledge, &link).await;
    }
}

/// Pingora asks the kernel for these unless they are known.
fn known(digest: SocketDigest, client: SocketAddr, local: SocketAddr) -> SocketDigest {
    // An error would mean that somebody asked before, and nobody has the digest yet.
    let _ = digest.peer_addr.set(Some(PingoraAddr::Inet(client)));
    let _ = digest.local_addr.set(Some(PingoraAddr::Inet(local)));
    digest
}

/// Reads a PROXY protocol header; what comes with it beyond its end stays in `early`.
async fn read_proxy_header(
    tcp: &mut TcpStream,
    early: &mut BytesMut,
    deadline: Instant,
) -> Result<Option<SocketAddr>, ConnectionRefusal> {
    early.reserve(512);
    loop {
        match tokio::time::timeout_at(deadline, tcp.read_buf(early)).await {
            Err(_elapsed) => return Err(ConnectionRefusal::ProxyProtocolTimeout),
            Ok(Ok(0) | Err(_)) => return Err(ConnectionRefusal::ProxyProtocol),
            Ok(Ok(_)) => {}
        }
        match proxy_protocol::parse(early) {
            Ok(None) => {}
            Ok(Some(header)) => {
                early.advance(header.length);
                return Ok(header.source);
            }
            Err(_malformed) => return Err(ConnectionRefusal::ProxyProtocol),
        }
    }
}

/// Counts a connection as open while it lives.
struct ActiveConnection(Gauge);

impl ActiveConnection {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
