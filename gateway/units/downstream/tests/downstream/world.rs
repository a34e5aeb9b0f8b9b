//! A small world around the unit: an edge with real sockets, an application that tells what it saw, and clients that
//! write whatever bytes they like.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use prometheus_client::registry::Registry;
use sluice_downstream::{Config, Deps, Handle, Unit, connection, control};
use sluice_testkit::{Metrics, within};
use sluice_vocabulary::clock::{SystemClock, SystemRandom};
use sluice_vocabulary::unit::{Stop, Stopper, Task};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// The unit, serving [`Teller`].
pub(crate) struct Edge {
    pub(crate) handle: Handle,
    pub(crate) app: Arc<Teller>,
    registry: Registry,
    stopper: Stopper,
    task: JoinHandle<()>,
}

/// What the application saw of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saw {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) headers: Vec<(String, String)>,
    /// The body, or none if it broke off.
    pub(crate) body: Option<String>,
    pub(crate) client: SocketAddr,
    pub(crate) server_name: Option<String>,
    /// SHA-256 of the client's certificate.
    pub(crate) certificate: Option<[u8; 32]>,
    /// The thread that served it.
    pub(crate) thread: String,
}

/// Reads each request to its end, says what it saw on a channel, and answers with the body; `/wait` first waits for
/// [`Teller::go`], `/early` answers before it reads, `/large` answers with 8 MiB, `/upgrade` switches protocols and
/// echoes. It answers nothing when reading fails, as an application may.
pub(crate) struct Teller {
    saw: mpsc::UnboundedSender<Saw>,
    pub(crate) seen: tokio::sync::Mutex<mpsc::UnboundedReceiver<Saw>>,
    pub(crate) go: Notify,
    pub(crate) waiting: Notify,
    pub(crate) body_limit: Option<u64>,
}

impl Teller {
    fn new(body_limit: Option<u64>) -> Arc<Self> {
        let (saw, seen) = mpsc::unbounded_channel();
        Arc::new(Self { saw, seen: seen.into(), go: Notify::new(), waiting: Notify::new(), body_limit })
    }

    /// The next request that came through.
    pub(crate) async fn next(&self) -> Saw {
        within("a request to come through", async { self.seen.lock().await.recv().await })
            .await
            .expect("an application")
    }

    /// The requests that came through so far and were not looked at.
    pub(crate) async fn so_far(&self) -> Vec<Saw> {
        let mut seen = self.seen.lock().await;
        std::iter::from_fn(|| seen.try_recv().ok()).collect()
    }
}

#[async_trait]
impl HttpServerApp for Teller {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.read_request().await.ok()? {
            return None;
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        let digest = session.digest().expect("a digest");
        let connection = Arc::clone(connection(digest).expect("a connection of ours"));
        if let (Some(limit), Some(control)) = (self.body_limit, control(digest)) {
            control.limit_body(limit);
        }
        let request = session.req_header();
        let target = String::from_utf8_lossy(request.raw_path()).into_owned();
        let mut saw = Saw {
            method: request.method.to_string(),
            target: target.clone(),
            host: match request.uri.authority() {
                Some(authority) => authority.to_string(),
                None => request.headers.get("host").map_or_else(String::new, |host| host.to_str().unwrap().to_owned()),
            },
            headers: request
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            body: None,
            client: connection.client,
            server_name: connection.tls.as_ref().and_then(|tls| tls.server_name.as_deref().map(str::to_owned)),
            thread: std::thread::current().name().unwrap_or_default().to_owned(),
            certificate: connection.tls.as_ref().and_then(|tls| tls.client_certificate_sha256),
        };
        if target == "/upgrade" {
            let _ = self.saw.send(saw);
            return upgrade(session).await;
        }
        if target == "/continue" {
            session.write_continue_response().await.ok()?;
        }
        let mut body = Vec::new();
        if target != "/early" {
            loop {
                match session.read_request_body().await {
                    Ok(Some(part)) => body.extend_from_slice(&part),
                    Ok(None) => {
                        saw.body = Some(String::from_utf8_lossy(&body).into_owned());
                        break;
                    }
                    Err(_) => {
                        let _ = self.saw.send(saw);
                        return None;
                    }
                }
            }
        }
        let _ = self.saw.send(saw);
        if target == "/wait" {
            self.waiting.notify_one();
            self.go.notified().await;
        }
        if target == "/large" {
            body = vec![b'x'; 8 * 1024 * 1024];
        }
        let mut answer = ResponseHeader::build(200, Some(2)).unwrap();
        answer.insert_header("content-length", body.len()).unwrap();
        session.write_response_header(Box::new(answer)).await.ok()?;
        session.write_response_body(Bytes::from(body), true).await.ok()?;
        let persistent = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, persistent))
    }
}

/// Switches protocols, then sends back what comes, until the client ends its side.
async fn upgrade(mut session: ServerSession) -> Option<ReusedHttpStream> {
    let mut answer = ResponseHeader::build(101, Some(2)).unwrap();
    answer.insert_header("upgrade", "echo").unwrap();
    answer.insert_header("connection", "upgrade").unwrap();
    session.write_response_header(Box::new(answer)).await.ok()?;
    while let Ok(Some(part)) = session.read_request_body().await {
        session.write_response_body(part, false).await.ok()?;
    }
    let _ = session.finish().await;
    None
}

/// An edge with one cleartext listener and this `downstream` section.
pub(crate) async fn edge(downstream: serde_json::Value) -> Edge {
    edge_with(serde_json::json!({"listeners": [{"address": "127.0.0.1:0"}], "downstream": downstream})).await
}

pub(crate) async fn edge_with(config: serde_json::Value) -> Edge {
    start(config, None).await
}

/// An edge whose application allows bodies of so many bytes.
pub(crate) async fn edge_with_route_limit(limit: u64) -> Edge {
    start(serde_json::json!({"listeners": [{"address": "127.0.0.1:0"}]}), Some(limit)).await
}

async fn start(mut config: serde_json::Value, body_limit: Option<u64>) -> Edge {
    let workers = &mut config["downstream"]["workers"];
    if workers.is_null() {
        *workers = 1.into();
    }
    let config = parse(config);
    let mut registry = Registry::default();
    let deps = Deps { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom) };
    let (handle, unit) = Unit::new(&config, deps, &mut registry).expect("an edge that starts");
    let app = Teller::new(body_limit);
    let mut server = unit.serve(Arc::clone(&app));
    let (stopper, stop) = Stop::new();
    let mut health = handle.health().watch();
    let task = tokio::spawn(async move { server.run(stop).await });
    within("the edge to be ready", health.wait_for(|state| state.serves())).await.unwrap();
    Edge { handle, app, registry, stopper, task }
}

pub(crate) fn parse(config: serde_json::Value) -> Config {
    serde_json::from_value(config).expect("a configuration")
}

impl Edge {
    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.addresses().next().expect("a listener")
    }

    pub(crate) async fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.address()).await.unwrap())
    }

    /// Sends `bytes` on a new connection and gives all that comes back until the edge closes.
    pub(crate) async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.rest().await
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        Metrics::parse(&text)
    }

    pub(crate) fn refused(&self, breach: &str) -> f64 {
        self.metrics().value("requests_refused_total", &[("breach", breach)])
    }

    /// Tells it to stop, without waiting.
    pub(crate) fn begin_stop(&self) {
        self.stopper.stop();
    }

    /// Stops it and waits until it has ended.
    pub(crate) async fn stop(self) -> Duration {
        let begun = Instant::now();
        self.stopper.stop();
        within("the edge to end", self.task).await.expect("no panic");
        begun.elapsed()
    }
}

/// A client that writes bytes.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    unread: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Sends, as far as the edge still listens.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    async fn read_more(&mut self) -> bool {
        let read = within("bytes from the edge", self.stream.read_buf(&mut self.unread)).await;
        matches!(read, Ok(count) if count > 0)
    }

    /// Everything until the edge closes.
    pub(crate) async fn rest(&mut self) -> String {
        while self.read_more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned()
    }

    /// One response: its head, and its body by Content-Length.
    pub(crate) async fn response(&mut self) -> (String, String) {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.read_more().await, "closed within a head: {:?}", String::from_utf8_lossy(&self.unread));
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        let length = head
            .to_ascii_lowercase()
            .lines()
            .find_map(|line| {
                line.strip_prefix("content-length: ").and_then(|length| length.trim().parse::<usize>().ok())
            })
            .unwrap_or(0);
        while self.unread.len() < end + length {
            assert!(self.read_more().await, "closed within a body");
        }
        let body = String::from_utf8_lossy(&self.unread[end..end + length]).into_owned();
        self.unread.drain(..end + length);
        (head, body)
    }

    /// So many bytes, whatever they are.
    pub(crate) async fn bytes(&mut self, count: usize) -> String {
        while self.unread.len() < count {
            assert!(self.read_more().await, "closed after {:?}", String::from_utf8_lossy(&self.unread));
        }
        String::from_utf8_lossy(&self.unread.drain(..count).collect::<Vec<_>>()).into_owned()
    }

    /// Whether the edge closes without another byte.
    pub(crate) async fn closes(&mut self) -> bool {
        self.unread.is_empty() && !self.read_more().await
    }
}

pub(crate) fn status(response: &str) -> u16 {
    response.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no response: {response:?}"))
}
