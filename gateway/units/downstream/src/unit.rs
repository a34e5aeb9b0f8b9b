//! The unit: sockets bound when it is made, served while its task runs, drained when that is stopped.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::apps::HttpServerApp;
use prometheus_client::registry::Registry;
use sluice_vocabulary::clock::{Clock, Random};
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::config::{Config, ListenerConfig};
use crate::error::StartError;
use crate::handle::Handle;
use crate::limits::Gate;
use crate::listener::{Listener, accept_loop, bind};
use crate::metrics::Metrics;
use crate::proxy_protocol::Senders;
use crate::refuse::RefusalLog;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::tls::{Certificates, Refreshed};
use crate::worker::Workers;

/// How often certificates' files are looked at.
const REFRESH: Duration = Duration::from_secs(2);

/// What the unit asks of others.
#[derive(Debug, Clone)]
pub struct Deps {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for the request ids of refusals.
    pub random: Arc<dyn Random>,
}

/// The unit with its sockets bound, not yet serving: the application it serves is made with the unit's [`Handle`], and
/// therefore after it.
#[derive(Debug)]
pub struct Unit {
    shared: Arc<Shared>,
    sockets: Vec<(TcpListener, Arc<Listener>)>,
    workers: usize,
}

/// The unit's task: serves an application until it is stopped, then drains.
#[derive(Debug)]
pub struct Server<A> {
    unit: Unit,
    app: Arc<A>,
}

impl Unit {
    /// Binds every listener and reads every certificate; starts nothing. The configuration must have been validated.
    ///
    /// # Errors
    /// The first address that cannot be listened on, or whose certificates cannot be used.
    pub fn new(config: &Config, deps: Deps, registry: &mut Registry) -> Result<(Handle, Self), StartError> {
        let metrics = Metrics::new(registry);
        let mut sockets = Vec::with_capacity(config.listeners.len());
        for (index, listener) in config.listeners.iter().enumerate() {
            sockets.push(open(index, listener, &metrics)?);
        }
        let shared = Arc::new(Shared {
            settings: Arc::new(ArcSwap::from_pointee(Settings::new(&config.downstream, None))),
            gate: Arc::new(Gate::default()),
            metrics,
            refusals: RefusalLog::default(),
            health: Health::new("downstream"),
            clock: deps.clock,
            random: deps.random,
            next_connection: AtomicU64::new(1),
        });
        let listeners = sockets.iter().map(|(_, listener)| Arc::clone(listener)).collect();
        let handle = Handle::new(Arc::clone(&shared), listeners, Mutex::new(config.clone()));
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = config.downstream.workers.map_or_else(cores, NonZeroUsize::get);
        Ok((handle, Self { shared, sockets, workers }))
    }

    /// The task that serves `app` on these listeners.
    pub fn serve<A>(self, app: Arc<A>) -> Server<A>
    where
        A: HttpServerApp + Send + Sync + 'static,
    {
        Server { unit: self, app }
    }
}

fn open(index: usize, config: &ListenerConfig, metrics: &Metrics) -> Result<(TcpListener, Arc<Listener>), StartError> {
    let address = config.address;
    let tls = config
        .tls
        .as_ref()
        .map(|tls| Certificates::load(tls, config.http2))
        .transpose()
        .map_err(|cause| StartError::Tls { address, cause: Box::new(cause) })?;
    let bound = |cause| StartError::Bind { address, cause };
    let socket = bind(address, config.backlog).map_err(bound)?;
    let real: SocketAddr = socket.local_addr().map_err(bound)?;
    let name: Arc<str> = address.to_string().into();
    let listener = Listener {
        index,
        address: real,
        tls,
        http2: config.http2,
        proxies: config.proxy_protocol.as_ref().map(|proxies| Senders::new(&proxies.from)),
        metrics: metrics.listener(&name),
        name,
    };
    Ok((socket, Arc::new(listener)))
}

impl<A> Task for Server<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    fn health(&self) -> &Health {
        &self.unit.shared.health
    }

    fn run(&mut self, stop: Stop) -> BoxFuture<'_, ()> {
        Box::pin(self.serve_until(stop))
    }
}

impl<A> Server<A>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    async fn serve_until(&mut self, mut stop: Stop) {
        let shared = Arc::clone(&self.unit.shared);
        let (shutdown, shutdown_signal) = watch::channel(false);
        let started = Workers::start(self.unit.workers, &self.app, &shared, &shutdown_signal);
        let mut workers = match started {
            Ok(workers) => workers,
            Err(error) => {
                shared.health.set(State::Unavailable(format!("cannot start serving threads: {error}")));
                return;
            }
        };
        let mut accepting = JoinSet::new();
        for (socket, listener) in &self.unit.sockets {
            // The original stays with us, so that a task that is run again after a panic can listen again.
            let socket = match socket.try_clone().and_then(tokio::net::TcpListener::from_std) {
                Ok(socket) => socket,
                Err(error) => {
                    shared.health.set(State::Unavailable(format!("cannot listen on {}: {error}", listener.name)));
                    return;
                }
            };
            let doors = workers.doors();
            accepting.spawn(accept_loop(socket, Arc::clone(listener), Arc::clone(&shared), move |accepted| {
                doors.hand_in(accepted);
            }));
            tracing::info!(listener = %listener.name, address = %listener.address, "listening");
        }
        shared.health.set(State::Ready);

        let mut look = tokio::time::interval(REFRESH);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.stopped() => break,
                _ = look.tick() => self.refresh_certificates().await,
                () = workers.any_ended() => {
                    shared.health.set(State::Unavailable("a serving thread ended".to_owned()));
                    return;
                }
                Some(ended) = accepting.join_next() => {
                    let why = ended.err().map_or_else(String::new, |error| error.to_string());
                    shared.health.set(State::Unavailable(format!("accepting connections ended: {why}")));
                    return;
                }
            }
        }
        self.drain(accepting, &shutdown, workers).await;
    }

    /// Takes no more connections, lets what is in flight finish, and cuts what does not in time.
    async fn drain(&mut self, mut accepting: JoinSet<()>, shutdown: &watch::Sender<bool>, workers: Workers) {
        let shared = Arc::clone(&self.unit.shared);
        accepting.shutdown().await;
        // With the last copy of a socket the kernel refuses whoever comes now, so that they try elsewhere.
        self.unit.sockets.clear();
        shutdown.send_replace(true);
        let limit = shared.settings.load().drain_timeout;
        match tokio::time::timeout(limit, shared.gate.empty()).await {
            Ok(()) => tracing::info!("drained: every request in flight has finished"),
            Err(_elapsed) => {
                tracing::warn!(connections = shared.gate.open(), after = ?limit, "drained: connections were cut");
            }
        }
        workers.end().await;
        self.app.http_cleanup().await;
        shared.health.set(State::Stopped);
    }

    /// Reads what changed. Files are read on a thread that may block.
    async fn refresh_certificates(&self) {
        let listeners: Vec<_> = self
            .unit
            .sockets
            .iter()
            .map(|(_, listener)| Arc::clone(listener))
            .filter(|listener| listener.tls.is_some())
            .collect();
        if listeners.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.unit.shared);
        let refreshed = tokio::task::spawn_blocking(move || refresh(&listeners, &shared)).await;
        if let Ok(state) = refreshed {
            self.unit.shared.health.set(state);
        }
    }
}

fn refresh(listeners: &[Arc<Listener>], shared: &Shared) -> State {
    let mut failed = Vec::new();
    for listener in listeners {
        let Some(certificates) = &listener.tls else { continue };
        match certificates.refresh() {
            Refreshed::Unchanged => {}
            Refreshed::Changed => {
                shared.metrics.certificate_reload("ok");
                tracing::info!(listener = %listener.name, "certificates read again");
            }
            Refreshed::Failed(error) => {
                shared.metrics.certificate_reload("failed");
                tracing::warn!(
                    listener = %listener.name, error = error.explain(),
                    "changed certificates cannot be used: the old ones stay"
                );
                failed.push(&*listener.name);
            }
            Refreshed::StillFailed => failed.push(&*listener.name),
        }
    }
    if failed.is_empty() {
        State::Ready
    } else {
        State::Degraded(format!("changed certificates of {} cannot be used: the old ones stay", failed.join(", ")))
    }
}
