//! The peer that Pingora connects to, with every option set: all of Pingora's own timeouts default to none.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::l4::ext;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_error::{Error, ErrorType, OkOrErr, OrErr, Result};

use crate::config::UpstreamConfig;
use crate::endpoint::EndpointState;
use crate::failure::SATURATED;
use crate::identity::Identity;
use crate::line::{Lines, Place};

/// The peer of one endpoint, to be copied for each request.
pub(crate) fn template(
    config: &UpstreamConfig,
    identity: &Identity,
    state: &Arc<EndpointState>,
    lines: &Arc<Lines>,
) -> HttpPeer {
    let mut peer = plain(config, identity, state);
    peer.options.custom_l4 = Some(Arc::new(Dialer {
        connect: config.timeouts.connect.get(),
        most: config.max_connections,
        identity_key: identity.group_key,
        endpoint: Arc::clone(state),
        lines: Arc::clone(lines),
    }));
    peer
}

/// The same without our own way of connecting, whose connections are counted: for health checks.
pub(crate) fn plain(config: &UpstreamConfig, identity: &Identity, state: &EndpointState) -> HttpPeer {
    let mut peer = HttpPeer::new(state.address, identity.tls, identity.server_name.clone());
    peer.client_cert_key.clone_from(&identity.client);
    peer.group_key = identity.group_key;
    let times = &config.timeouts;
    let options = &mut peer.options;
    options.verify_cert = identity.verify;
    options.verify_hostname = identity.verify;
    options.ca.clone_from(&identity.ca);
    options.alpn = identity.alpn.clone();
    // With our own dialer this is the limit on the TLS handshake alone.
    options.connection_timeout = Some(times.tls_handshake.get());
    options.total_connection_timeout = Some(times.connect.get().saturating_add(times.tls_handshake.get()));
    options.read_timeout = Some(times.response.get().max(times.idle.get()));
    options.write_timeout = Some(times.idle.get());
    options.idle_timeout = Some(Duration::from_secs(60));
    options.max_h2_streams = usize::try_from(config.http2.max_streams).unwrap_or(1);
    options.h2_stream_window_size = u32::try_from(config.http2.stream_window.get()).ok();
    options.h2_connection_window_size = u32::try_from(config.http2.connection_window.get()).ok();
    options.h2_ping_interval = Some(config.http2.ping_every.get());
    // A peer that vanished without a word is noticed after 60 s idle plus 3 probes; data that stays unacknowledged,
    // after 30 s.
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 3,
        user_timeout: Duration::from_secs(30),
    });
    options.tcp_fast_open = false;
    // What may be forwarded is the request path's to decide, once.
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    options.allow_h1_response_invalid_content_length = false;
    peer
}

/// What keeps connections apart in the pool: the identity, and how long the endpoint was known to keep connections when they
/// were pooled. Those of an older generation were pooled for longer than it keeps them.
pub(crate) fn pool_key(identity: u64, state: &EndpointState) -> u64 {
    identity.wrapping_add(u64::from(state.learned.generation()))
}

/// Makes the TCP connections of one endpoint: within a limit of time and of number, each taken into [`Lines`].
#[derive(Debug)]
struct Dialer {
    connect: Duration,
    most: u32,
    identity_key: u64,
    endpoint: Arc<EndpointState>,
    lines: Arc<Lines>,
}

#[async_trait]
impl L4Connect for Dialer {
    async fn connect(&self, address: &PingoraAddr) -> Result<Stream> {
        let address = address.as_inet().or_err(ErrorType::ConnectError, "the endpoint has no IP address")?;
        // Requests are bounded before they come here; this holds the bound against what pools keep besides, and against
        // connections that HTTP/2 opens because a shared one was out on loan.
        let key = pool_key(self.identity_key, &self.endpoint);
        let place = Place::take(&self.endpoint, self.most).or_else(|| {
            self.lines.evict(&self.endpoint, key).then(|| Place::take(&self.endpoint, self.most)).flatten()
        });
        let Some(place) = place else {
            return Error::e_explain(SATURATED, format!("{} connections to {address} are open", self.most));
        };
        let started = tokio::time::Instant::now();
        let tcp = match tokio::time::timeout(self.connect, ext::connect(address, None)).await {
            Ok(connected) => connected?,
            Err(_) => {
                return Error::e_explain(
                    ErrorType::ConnectTimedout,
                    format!("no connection to {address} within {:?}", self.connect),
                );
            }
        };
        self.endpoint.metrics.connect.observe(started.elapsed());
        self.lines.open(tcp, place).or_err(ErrorType::SocketError, "cannot keep hold of the socket")
    }
}
