//! Origin servers: what stands behind a gateway, answering by a script and remembering what it was asked.

mod connection;
pub(crate) mod raw;
pub(crate) mod reply;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Authority, Certificate, Reply, within};

/// An origin server in preparation; HTTP/1.1 and HTTP/2 by prior knowledge on a free loopback port until told otherwise.
#[derive(Default)]
pub struct OriginBuilder {
    routes: Vec<(String, Script)>,
    fallback: Option<Reply>,
    at: Option<SocketAddr>,
    tls: Option<ServerConfig>,
    manners: Manners,
}

/// What an origin does to its connections rather than to its requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manners {
    /// Close a connection, without a word, once it has been idle this long.
    pub(crate) idle_limit: Option<Duration>,
    /// Close a connection, without a word, after this many answers.
    pub(crate) answers_per_connection: Option<usize>,
    /// Reset every connection as soon as it is accepted.
    pub(crate) reset_on_accept: bool,
}

/// How a path is answered.
#[derive(Clone)]
pub(crate) enum Script {
    Fixed(Box<Reply>),
    Computed(Arc<dyn Fn(&Seen) -> Reply + Send + Sync>),
}

/// A request as it reached an origin.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The target as sent: path and query.
    pub target: String,
    /// The protocol version.
    pub version: Version,
    /// `Host`, or `:authority` in HTTP/2.
    pub authority: Option<String>,
    /// Every header, in order of arrival.
    pub headers: HeaderMap,
    /// The body's first MiB; empty until it was read to its end, and for replies that do not read it.
    pub body: Bytes,
    /// How many body bytes came in all.
    pub body_length: u64,
    /// Which connection carried it, counted from 0 in order of acceptance.
    pub connection: u64,
    /// The other end of that connection.
    pub peer: SocketAddr,
    /// The name that the peer asked for in its TLS handshake, if there was one.
    pub server_name: Option<String>,
}

impl Seen {
    /// The value of a header, or `None` if it was not sent; the first where it was repeated.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of visible characters"))
    }
}

/// A running origin server; it stops, and its connections close, when this is dropped.
pub struct Origin {
    address: SocketAddr,
    secure: bool,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What an origin's connections share.
pub(crate) struct Shared {
    routes: Mutex<Vec<(String, Script)>>,
    fallback: Reply,
    pub(crate) manners: Manners,
    seen: Mutex<Vec<Seen>>,
    seen_count: watch::Sender<usize>,
    pub(crate) accepted: AtomicU64,
    pub(crate) open: AtomicUsize,
    pub(crate) sunk: AtomicU64,
    pub(crate) produced: AtomicU64,
    /// Whether request bodies are left unread for now.
    pub(crate) held: watch::Sender<bool>,
}

/// Prepares an origin server.
#[must_use]
pub fn origin() -> OriginBuilder {
    OriginBuilder::default()
}

impl OriginBuilder {
    /// Answers `path` with `reply`. A path that ends in `*` is a prefix; earlier lines win.
    #[must_use]
    pub fn on(mut self, path: &str, reply: Reply) -> Self {
        self.routes.push((path.to_owned(), Script::Fixed(Box::new(reply))));
        self
    }

    /// Answers `path` with what `reply` makes of each request. The body has been read by then.
    #[must_use]
    pub fn compute(mut self, path: &str, reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        self.routes.push((path.to_owned(), Script::Computed(Arc::new(reply))));
        self
    }

    /// Answers whatever no path matches; [`Reply::echo`] unless given.
    #[must_use]
    pub fn otherwise(mut self, reply: Reply) -> Self {
        self.fallback = Some(reply);
        self
    }

    /// Listens on this address rather than on a free port, as when an origin comes back.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.at = Some(address);
        self
    }

    /// Speaks TLS with this certificate, offering HTTP/2 and HTTP/1.1.
    #[must_use]
    pub fn tls(self, certificate: &Certificate) -> Self {
        self.tls_config(certificate.server_config(&["h2", "http/1.1"], None))
    }

    /// Speaks TLS with this certificate and demands a client certificate of `clients`.
    #[must_use]
    pub fn tls_demanding(self, certificate: &Certificate, clients: &Authority) -> Self {
        self.tls_config(certificate.server_config(&["h2", "http/1.1"], Some(clients)))
    }

    /// Speaks TLS as `config` says, ALPN included.
    #[must_use]
    pub fn tls_config(mut self, config: ServerConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// Closes each connection, unannounced, once it has been idle for `limit`.
    #[must_use]
    pub fn closing_idle_after(mut self, limit: Duration) -> Self {
        self.manners.idle_limit = Some(limit);
        self
    }

    /// Closes each HTTP/1.1 connection, unannounced, right after its answer number `count`.
    #[must_use]
    pub fn closing_after(mut self, count: usize) -> Self {
        self.manners.answers_per_connection = Some(count);
        self
    }

    /// Resets each connection as soon as it is accepted.
    #[must_use]
    pub fn resetting_on_accept(mut self) -> Self {
        self.manners.reset_on_accept = true;
        self
    }

    /// Binds and serves.
    pub async fn run(self) -> Origin {
        let at = self.at.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener =
            TcpListener::bind(at).await.unwrap_or_else(|error| panic!("an origin cannot listen on {at}: {error}"));
        let address = listener.local_addr().expect("the address of a bound listener");
        let shared = Arc::new(Shared {
            routes: Mutex::new(self.routes),
            fallback: self.fallback.unwrap_or_else(Reply::echo),
            manners: self.manners,
            seen: Mutex::default(),
            seen_count: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            sunk: AtomicU64::new(0),
            produced: AtomicU64::new(0),
            held: watch::Sender::new(false),
        });
        let secure = self.tls.is_some();
        let acceptor = self.tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(connection::accept(listener, acceptor, Arc::clone(&shared), stop.clone(), tasks.clone()));
        Origin { address, secure, shared, stop, tasks }
    }
}

impl Origin {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path on it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// Changes how `path` is answered from now on.
    pub fn script(&self, path: &str, reply: Reply) {
        let mut routes = self.shared.routes.lock();
        routes.retain(|(known, _)| known != path);
        routes.insert(0, (path.to_owned(), Script::Fixed(Box::new(reply))));
    }

    /// Every request so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// How many requests came so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.seen.lock().len()
    }

    /// The latest request.
    ///
    /// # Panics
    /// If none came.
    #[must_use]
    pub fn last(&self) -> Seen {
        self.shared.seen.lock().last().cloned().expect("a request that reached the origin")
    }

    /// Waits until `count` requests have come in all.
    pub async fn wait_for_requests(&self, count: usize) {
        let mut seen = self.shared.seen_count.subscribe();
        let waiting = format!("request number {count} at the origin on {}", self.address);
        within(waiting, seen.wait_for(|seen| *seen >= count)).await.expect("an origin that still runs");
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// How many request body bytes it has read so far, in all requests, those still in flight included.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.shared.sunk.load(Ordering::Relaxed)
    }

    /// How many response body bytes it has handed to its connections, for replies that stream.
    #[must_use]
    pub fn bytes_produced(&self) -> u64 {
        self.shared.produced.load(Ordering::Relaxed)
    }

    /// Reads no more of any request's body until [`release`](Self::release).
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Reads on, as fast as bytes come.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Stops listening, drops every connection and waits until that is done.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        within("an origin to stop", self.tasks.wait()).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    /// The script of a target's path.
    pub(crate) fn script(&self, target: &str) -> Script {
        let path = target.split('?').next().unwrap_or_default();
        let routes = self.routes.lock();
        let found = routes.iter().find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == pattern,
        });
        found.map_or_else(|| Script::Fixed(Box::new(self.fallback.clone())), |(_, script)| script.clone())
    }

    /// Notes a request at its head; gives its place for [`complete`](Self::complete).
    pub(crate) fn record(&self, seen: Seen) -> usize {
        let mut all = self.seen.lock();
        all.push(seen);
        let count = all.len();
        drop(all);
        self.seen_count.send_replace(count);
        count - 1
    }

    /// Notes a request's body.
    pub(crate) fn complete(&self, place: usize, body: Bytes, body_length: u64) -> Seen {
        let mut all = self.seen.lock();
        let seen = &mut all[place];
        seen.body = body;
        seen.body_length = body_length;
        seen.clone()
    }
}

/// Headers as name → value, repeated ones joined by `, `, for an echo.
pub(crate) fn header_map(headers: &HeaderMap) -> HashMap<String, String> {
    let mut map: HashMap<String, String> = HashMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        map.entry(name.to_string())
            .and_modify(|have| {
                have.push_str(", ");
                have.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    map
}
