//! How the door is made and run.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_vocabulary::ports::{Inspect, Judge, LogLevel, MetricsPage, Reload, Revoke};
use sluice_vocabulary::unit::{self, BoxFuture, Health, State, Stop};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::listen::{Address, BindError, Listener};
use crate::metrics::Metrics;
use crate::pages::Pages;

/// How many connections there may be at once; more wait in the listener's queue.
const MOST_CONNECTIONS: usize = 64;
/// How long a header may take, and a connection may be idle.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may live; then its request is finished, or cut off.
const LIFETIME: Duration = Duration::from_secs(120);
/// How long requests under way have when the process stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long accepting rests after it failed, which it does when descriptors run out.
const REST: Duration = Duration::from_millis(100);

/// What the door shows and passes orders to.
pub struct Deps {
    /// The state of every other unit: what `/readyz` goes by.
    pub healths: Vec<Health>,
    /// `/metrics`.
    pub metrics: Arc<dyn MetricsPage>,
    /// `/log`.
    pub log_level: Arc<dyn LogLevel>,
    /// `/reload`.
    pub reload: Arc<dyn Reload>,
    /// `/revocations`.
    pub revoke: Arc<dyn Revoke>,
    /// `/tokens/inspect`.
    pub judge: Arc<dyn Judge>,
    /// Further pages by path: `/routes`, `/upstreams`, `/issuers`, `/plugins`, `/kernel`, `/config`.
    pub pages: Vec<(&'static str, Arc<dyn Inspect>)>,
}

/// Makes the door.
#[derive(Debug)]
pub struct Unit;

/// Where the door is.
#[derive(Debug, Clone)]
pub struct Handle {
    address: Address,
}

impl Handle {
    /// The address it listens on.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Unit {
    /// Binds the socket. The door's own state joins those that `/readyz` shows.
    #[expect(clippy::new_ret_no_self, reason = "the shape of every unit: a handle, and the task that does the work")]
    pub fn new(config: &Config, mut deps: Deps, registry: &mut Registry) -> Result<(Handle, Task), BindError> {
        let (listener, address) = Listener::bind(config)?;
        let health = Health::new("admin");
        deps.healths.push(health.clone());
        let metrics = Metrics::new(registry);
        let is_local = matches!(address, Address::Unix(_));
        let pages = Arc::new(Pages { deps, hosts: config.hosts.clone(), is_local, metrics });
        let handle = Handle { address };
        Ok((handle.clone(), Task { listener, handle, pages, health }))
    }
}

/// The door's work: accepts connections and answers until stopped.
pub struct Task {
    listener: Listener,
    handle: Handle,
    pages: Arc<Pages>,
    health: Health,
}

impl unit::Task for Task {
    fn health(&self) -> &Health {
        &self.health
    }

    fn run(&mut self, stop: Stop) -> BoxFuture<'_, ()> {
        Box::pin(self.serve(stop))
    }
}

impl Task {
    async fn serve(&mut self, stop: Stop) {
        // The socket itself stays with the task, so that it can be served again after a panic.
        let served = match &self.listener {
            Listener::Tcp(listener) => listener.try_clone().and_then(TcpListener::from_std).map(Door::Tcp),
            Listener::Unix { listener, .. } => listener.try_clone().and_then(UnixListener::from_std).map(Door::Unix),
        };
        let door = match served {
            Ok(door) => door,
            Err(error) => {
                self.health.set(State::Unavailable(format!("the socket cannot be served: {error}")));
                return;
            }
        };
        tracing::info!(address = %self.handle.address, "admin listening");
        self.health.set(State::Ready);
        self.accept(door, stop).await;
        self.health.set(State::Stopped);
    }

    async fn accept(&self, door: Door, mut stop: Stop) {
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.stopped() => break,
                accepted = async {
                    // Never closed, so there is always a permit to wait for.
                    let permit = room.clone().acquire_owned().await.ok();
                    door.accept().await.map(|stream| (stream, permit))
                } => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            match accepted {
                Ok((stream, permit)) => {
                    let pages = self.pages.clone();
                    let stop = stop.clone();
                    connections.spawn(async move {
                        let _permit = permit;
                        let _counted = Counted::new(&pages.metrics.connections);
                        match stream {
                            Stream::Tcp(stream) => serve(stream, pages.clone(), stop).await,
                            Stream::Unix(stream) => serve(stream, pages.clone(), stop).await,
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(error = %error, "admin cannot accept a connection");
                    sleep(REST).await;
                }
            }
        }
        drop(door);
        let joined = timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
        if joined.is_err() {
            connections.shutdown().await;
        }
    }
}

/// Serves one connection until it ends, its life does, or the process stops.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send, pages: Arc<Pages>, mut stop: Stop) {
    let service = service_fn(move |request| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_headers(64)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // An error ends the connection, which is all there is to do about a client that is gone or speaks nonsense.
    let over = tokio::select! {
        _ = connection.as_mut() => true,
        () = sleep(LIFETIME) => false,
        () = stop.stopped() => false,
    };
    if !over {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(FAREWELL, connection).await;
    }
}

enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Door {
    async fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// Counts a connection while it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
