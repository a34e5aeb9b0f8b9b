//! Builds the units from a configuration, hands each what it asks for, and orders start and stop.
//!
//! Everything is made here and nowhere else: the metrics registry with a part for each unit, the ports that one unit asks
//! for and another offers, the runtimes. Nothing serves before every unit has accepted the configuration; the listener
//! starts last and stops first.

use std::net::SocketAddr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use rustix::process::{Resource, getrlimit, setrlimit};
use sluice_resilience::Shedder;
use sluice_telemetry::sink::{OpenError, SinkMetrics};
use sluice_telemetry::{AccessLog, AccessLogConfig, LogHandle, MetricsRoot, RequestMetrics};
use sluice_vocabulary::Fault;
use sluice_vocabulary::clock::{Clock, Random, SystemClock, SystemEntropy, SystemRandom};
use sluice_vocabulary::ports::{Inspect, MetricsPage, Reload};
use sluice_vocabulary::unit::{Health, State, Task};
use tokio::runtime::Runtime;

use crate::config::Config;
use crate::fixed::Fixed;
use crate::inspection::Inspector;
use crate::memory;
use crate::reload::PluginFiles;
use crate::request_path::RequestPath;
use crate::signals::StopSignals;
use crate::snapshot::{self, Snapshot};
use crate::supervisor::Supervisor;

/// How long background tasks may take to end once they are told to: the door beyond its drain, all others together.
const TASK_PATIENCE: Duration = Duration::from_secs(5);
/// Connections to upstreams that may lie unused at once, per worker and over all upstreams together. Each upstream's own
/// limits come first; this bounds file descriptors.
const POOLED_CONNECTIONS: usize = 4096;
/// More tries than any upstream may be configured to make: the decision is the upstream unit's.
const MOST_TRIES: usize = 16;

/// Every unit's handle, and the configuration in force.
pub(crate) struct Units {
    /// The configuration's own folder, where relative paths start.
    pub(crate) folder: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) downstream: sluice_downstream::Handle,
    pub(crate) auth: sluice_auth::Handle,
    pub(crate) tenancy: sluice_tenancy::Handle,
    pub(crate) plugins: sluice_plugins::Handle,
    pub(crate) upstream: sluice_upstream::Handle,
    pub(crate) kernel: sluice_kernel::Handle,
    pub(crate) shedder: Shedder,
    pub(crate) request_metrics: RequestMetrics,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) config: ArcSwapOption<Config>,
    /// What no configuration after the first can change.
    pub(crate) fixed: Fixed,
    pub(crate) log: LogHandle,
    pub(crate) routing_metrics: sluice_routing::Metrics,
    sink_metrics: SinkMetrics,
    threads: usize,
}

impl Units {
    /// The configuration in force. A request asks once and keeps it.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The access log of a configuration: the present one where nothing about it changed.
    pub(crate) fn access_log(&self, config: &AccessLogConfig) -> Result<AccessLog, OpenError> {
        let random = Arc::clone(&self.random);
        self.snapshot.load().access_log.reconfigured(config, self.threads, random, &self.sink_metrics)
    }
}

/// Why the gateway could not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The configuration is at fault.
    Config(Vec<Fault>),
    /// The machine is: an address is taken, a thread cannot be had.
    Machine(String),
}

impl StartError {
    fn machine(what: &str, why: impl std::fmt::Display) -> Self {
        Self::Machine(format!("{what}: {why}"))
    }
}

/// The log, installed before anything else so that everything after it can speak.
pub(crate) struct Log {
    pub(crate) handle: LogHandle,
    metrics: SinkMetrics,
}

impl Log {
    /// Makes the configured log the process's.
    pub(crate) fn install(config: &sluice_telemetry::LogsConfig) -> Result<Self, String> {
        let metrics = SinkMetrics::default();
        let handle = sluice_telemetry::Logs::install(config, &metrics).map_err(|e| e.to_string())?;
        Ok(Self { handle, metrics })
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) units: Arc<Units>,
    pub(crate) admin: sluice_admin::Address,
    pub(crate) background: Runtime,
    pub(crate) stop_signals: StopSignals,
    supervisor: Supervisor,
    log: LogHandle,
}

/// What a gateway is started from.
pub(crate) struct Start<'a> {
    pub(crate) config: Config,
    /// Where relative paths start.
    pub(crate) folder: &'a FilePath,
    /// The file to watch, where there is one.
    pub(crate) file: Option<&'a FilePath>,
    /// Whether the files of plugins are watched with it.
    pub(crate) watch_plugins: bool,
    pub(crate) log: Log,
}

impl Gateway {
    /// Builds everything and starts it. Connections are accepted a moment later: see `wait_until_listening`.
    pub(crate) fn start(start: Start<'_>) -> Result<Self, StartError> {
        let Start { config, folder, file, watch_plugins, log } = start;
        let background = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("sluice-background")
            .enable_all()
            .build()
            .map_err(|e| StartError::machine("the background runtime could not be made", e))?;
        let _inside = background.enter();
        let stop_signals = StopSignals::listen().map_err(|e| StartError::machine("signals cannot be heard", e))?;

        raise_descriptor_limit(config.downstream.limits.connections.get());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let mut metrics = MetricsRoot::new(env!("CARGO_PKG_VERSION"));
        log.metrics.register(metrics.unit("telemetry"));

        // The units, each with what it asks for.
        let deps = sluice_downstream::Deps { clock: Arc::clone(&clock), random: Arc::clone(&random) };
        let (downstream, listeners) =
            sluice_downstream::Unit::new(&config.downstream_part(), deps, metrics.unit("downstream"))
                .map_err(|e| StartError::Machine(e.to_string()))?;
        let deps = sluice_auth::Deps {
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            base_dir: folder.to_owned(),
            background: background.handle().clone(),
        };
        let (auth, auth_task) = sluice_auth::Unit::new(&config.auth, deps, metrics.unit("auth"));
        let tenancy = sluice_tenancy::Handle::new(&config.tenants, metrics.unit("tenancy"));
        let deps = sluice_plugins::Deps {
            clock: Arc::clone(&clock),
            entropy: Arc::new(SystemEntropy),
            background: background.handle().clone(),
            resolver: Arc::new(sluice_plugins::SystemResolver),
        };
        let (plugins, plugins_task) =
            sluice_plugins::Unit::new(deps, sluice_plugins::Options::default(), metrics.unit("plugin"))
                .map_err(|e| StartError::Machine(e.to_string()))?;
        let upstream_metrics = sluice_upstream::Metrics::new(metrics.unit("upstream"));
        let (upstream, upstream_task) = sluice_upstream::new(Arc::clone(&clock), Arc::clone(&random), upstream_metrics);
        let deps = sluice_kernel::Deps { names: Arc::new(upstream.clone()) };
        let (kernel, kernel_task) = sluice_kernel::Unit::new(&config.kernel, deps, metrics.unit("kernel"));
        upstream.set_facts(Arc::new(kernel.clone()));
        let shedder = Shedder::new(
            config.overload.max_requests_in_flight,
            config.overload.retry_after.get(),
            sluice_resilience::Metrics::new(metrics.unit("overload")),
        );
        let routing_metrics = sluice_routing::Metrics::new(metrics.unit("routing"));
        let request_metrics = RequestMetrics::new(metrics.gateway());
        plugins.watch_stages(request_metrics.own_time());
        let mut supervisor = Supervisor::new(background.handle().clone(), Arc::clone(&clock), metrics.gateway());
        let reloads = crate::reload::Metrics::new(metrics.unit("config"));
        let watched =
            file.map(|file| sluice_config::Watch::new(file, sluice_config::Watch::EVERY, metrics.unit("config")));

        let plugin_files = watch_plugins.then(|| PluginFiles::of(&config, folder));

        let threads = config.downstream.workers.map_or_else(cores, std::num::NonZeroUsize::get);
        let nothing_served = Snapshot::nothing(Arc::clone(&random)).map_err(StartError::Config)?;
        let units = Arc::new(Units {
            folder: folder.to_owned(),
            clock,
            random,
            downstream,
            auth,
            tenancy,
            plugins,
            upstream,
            kernel,
            shedder,
            request_metrics,
            snapshot: ArcSwap::from_pointee(nothing_served),
            config: ArcSwapOption::empty(),
            fixed: Fixed::of(&config),
            log: log.handle.clone(),
            routing_metrics,
            sink_metrics: log.metrics,
            threads,
        });

        // Every unit accepts the configuration, or nothing starts.
        let admin_config = config.admin.clone();
        let ready = background.block_on(snapshot::prepare(&units, config)).map_err(StartError::Config)?;
        for warning in ready.warnings() {
            tracing::warn!(path = %warning.path, "{}", warning.message);
        }
        for left in ready.commit(&units) {
            tracing::warn!(path = %left.path, "{}", left.message);
        }

        let mut healths = vec![
            units.downstream.health().clone(),
            units.auth.health().clone(),
            units.plugins.health().clone(),
            units.kernel.health().clone(),
        ];
        let files_task = match (&plugin_files, &watched) {
            (Some(PluginFiles(files)), Some((watch, _))) => {
                tracing::info!("the files of plugins are watched: those that change are loaded anew");
                Some(sluice_config::WatchFiles::new(files.clone(), sluice_config::WatchFiles::EVERY, watch.events()))
            }
            _ => None,
        };
        let reload = Arc::new(crate::reload::Reloader::new(Arc::clone(&units), file, plugin_files, reloads));
        healths.push(reload.health().clone());
        let reloader = Arc::clone(&reload);
        let reload: Arc<dyn Reload> = reload;
        let (watch_task, events) = match watched {
            Some((task, events)) => (Some(task), Some(events)),
            None => (None, None),
        };
        if let Some(task) = &watch_task {
            healths.push(task.health().clone());
        }
        if let Some(task) = &files_task {
            healths.push(task.health().clone());
        }
        healths.push(upstream_task.health().clone());
        let pages: Vec<(&'static str, Arc<dyn Inspect>)> = vec![
            ("/routes", Arc::new(pages::Routes(Arc::clone(&units)))),
            ("/upstreams", Arc::new(units.upstream.clone())),
            ("/issuers", Arc::new(units.auth.clone())),
            ("/identity/jwks.json", Arc::new(units.auth.identity_keys())),
            ("/plugins", Arc::new(units.plugins.clone())),
            ("/kernel", Arc::new(units.kernel.clone())),
            ("/config", Arc::new(pages::InForce(Arc::clone(&units)))),
        ];
        let page = Arc::new(LatePage::default());
        let watched_healths = healths.clone();
        let deps = sluice_admin::Deps {
            healths,
            metrics: Arc::clone(&page) as Arc<dyn MetricsPage>,
            log_level: Arc::new(log.handle.clone()),
            reload: Arc::clone(&reload),
            revoke: Arc::new(units.auth.clone()),
            judge: Arc::new(Inspector(Arc::clone(&units))),
            pages,
        };
        let (admin, admin_task) = sluice_admin::Unit::new(&admin_config, deps, metrics.unit("admin"))
            .map_err(|e| StartError::Machine(e.to_string()))?;
        page.fill(metrics.freeze());

        // Start: what requests need first, the doors last.
        let conf = Arc::new(ServerConf {
            threads,
            upstream_keepalive_pool_size: POOLED_CONNECTIONS,
            max_retries: MOST_TRIES,
            ..ServerConf::default()
        });
        let proxy = Arc::new(http_proxy(&conf, RequestPath::new(Arc::clone(&units))));
        let server = listeners.serve(proxy);
        supervisor.start(plugins_task);
        supervisor.start(upstream_task);
        supervisor.start(auth_task);
        supervisor.start(kernel_task);
        supervisor.start(admin_task);
        if let (Some(task), Some(events)) = (watch_task, events) {
            supervisor.start(task);
            supervisor.start(crate::reload::Follow::new(events, reloader));
        }
        if let Some(task) = files_task {
            supervisor.start(task);
        }
        supervisor.start(server);
        background.spawn(async move {
            all_serve(watched_healths).await;
            tracing::info!("ready");
        });
        drop(_inside);
        memory::give_back_soon();
        Ok(Self { units, admin: admin.address().clone(), background, stop_signals, supervisor, log: log.handle })
    }

    /// The addresses that clients can connect to, in the configuration's order.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.units.downstream.addresses().collect()
    }

    /// Returns once connections are accepted.
    pub(crate) fn wait_until_listening(&self, patience: Duration) -> Result<(), String> {
        let downstream = self.units.downstream.health().clone();
        let listening = async { tokio::time::timeout(patience, all_serve(vec![downstream.clone()])).await };
        self.background
            .block_on(listening)
            .map_err(|_| format!("not listening after {patience:?}: {:?}", downstream.get()))
    }

    /// Stops in the opposite order: the doors close, requests in flight finish, then the background ends.
    pub(crate) fn stop(self) {
        let Self { units, background, supervisor, log, mut stop_signals, .. } = self;
        background.spawn(async move {
            let signal = stop_signals.next().await;
            tracing::warn!(signal, "told again: what is in flight is cut");
            std::process::exit(1);
        });
        let drain =
            units.config.load().as_ref().map_or(Duration::ZERO, |config| config.downstream.timeouts.drain.get());
        background.block_on(supervisor.stop(drain + TASK_PATIENCE, TASK_PATIENCE));
        tracing::info!("stopped");
        log.flush(Duration::from_secs(1));
        background.shutdown_timeout(Duration::from_secs(1));
    }
}

/// Returns once every unit may take traffic.
async fn all_serve(healths: Vec<Health>) {
    for health in healths {
        // An error means that the unit is gone; the process is ending.
        if health.watch().wait_for(State::serves).await.is_err() {
            return;
        }
    }
}

/// The metrics page, which can only be made when every unit, the admin's door among them, has registered its part.
#[derive(Default)]
struct LatePage(OnceLock<Arc<dyn MetricsPage>>);

impl LatePage {
    fn fill(&self, page: Arc<dyn MetricsPage>) {
        // Filled once, at the end of composition, and nobody else has it.
        let _ = self.0.set(page);
    }
}

impl MetricsPage for LatePage {
    fn encode(&self) -> String {
        self.0.get().map_or_else(String::new, |page| page.encode())
    }
}

/// A proxied connection takes three descriptors (the client's, the upstream's, and the handle that cuts it at its
/// deadline). Raises the process's soft limit so far, as far as the hard limit allows, and says where that is too little.
fn raise_descriptor_limit(connections: usize) {
    let wanted = 3 * connections as u64 + 1024;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let reachable = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    limit.current = Some(reachable);
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(error = %error, "the limit of open files could not be raised");
    } else if reachable < wanted {
        tracing::warn!(
            limit = reachable,
            wanted,
            connections,
            "fewer files may be open than the configured connections need"
        );
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// The admin's pages that only the whole can fill.
mod pages {
    use super::{Arc, Inspect, Units};
    use serde_json::{Value, json};

    /// `/routes`.
    pub(super) struct Routes(pub(super) Arc<Units>);

    impl Inspect for Routes {
        fn inspect(&self) -> Value {
            Inspect::inspect(&self.0.snapshot.load().table)
        }
    }

    /// `/config`: what is in force, without secrets.
    pub(super) struct InForce(pub(super) Arc<Units>);

    impl Inspect for InForce {
        fn inspect(&self) -> Value {
            let config = self.0.config.load();
            let Some(config) = config.as_ref() else { return Value::Null };
            let value = serde_json::to_value(&**config).unwrap_or_else(|error| json!({ "error": error.to_string() }));
            serde_json::from_str(&crate::config::schema())
                .map_or(Value::Null, |schema| sluice_config::redact(&value, &schema))
        }
    }
}
