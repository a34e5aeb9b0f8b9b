//! The unit's outside: made once, reconfigured at any time, asked by the request path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::json;
use sluice_observer::{Cgroup, ConnectionFacts, DoctorReport, Observer, Options};
use sluice_vocabulary::ports::{self, EndpointNames};
use sluice_vocabulary::unit::Health;
use tokio::sync::watch;

use crate::config::{Config, RoundTrips, Scope};
use crate::metrics::Page;
use crate::snapshot::{EndpointFacts, Snapshot};
use crate::task::KernelTask;
use crate::totals::Totals;

/// What the unit asks of its composer.
#[derive(Debug)]
pub struct Deps {
    /// Which upstream an address belongs to.
    pub names: Arc<dyn EndpointNames>,
}

/// What the handle, the task and the metrics page share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) names: Arc<dyn EndpointNames>,
    pub(crate) health: Health,
    pub(crate) config: watch::Sender<Config>,
    pub(crate) running: ArcSwapOption<Running>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// Written once a second and read by scrapes: the request path never comes here.
    pub(crate) totals: Mutex<Totals>,
    /// Why nothing is watched, while nothing is.
    pub(crate) why_not: ArcSwap<String>,
}

/// An observer at work, and what it was started with.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) observer: Observer,
    pub(crate) options: Options,
}

/// The unit's constructor.
#[derive(Debug)]
pub struct Unit;

impl Unit {
    /// Makes the unit. Loads and starts nothing: the task does.
    ///
    /// Registers, without a prefix: `connects`, `connect_duration_seconds`, `connect_failures`, `round_trip_seconds`,
    /// `round_trip_min_seconds`, `retransmits`, `retransmission_timeouts`, `resets`, `closes`, `idle_close_age_seconds`,
    /// `events_lost`, `table_misses`, `probe_on`.
    #[expect(clippy::new_ret_no_self, reason = "a unit is its handle and its task")]
    pub fn new(config: &Config, deps: Deps, registry: &mut Registry) -> (Handle, KernelTask) {
        let core = Arc::new(Core {
            names: deps.names,
            health: Health::new("kernel"),
            config: watch::Sender::new(config.clone()),
            running: ArcSwapOption::empty(),
            snapshot: ArcSwap::default(),
            totals: Mutex::default(),
            why_not: ArcSwap::from_pointee("not started".to_owned()),
        });
        registry.register_collector(Box::new(Page::new(Arc::clone(&core))));
        (Handle { core: Arc::clone(&core) }, KernelTask::new(core))
    }
}

/// What the rest of the gateway sees. Cheap to clone; all answers are empty while nothing is watched.
#[derive(Debug, Clone)]
pub struct Handle {
    core: Arc<Core>,
}

impl Handle {
    /// Puts a configuration in force, which must have been validated. The probes are loaded anew if it differs from the
    /// one before; counts then begin at zero in the kernel, not in the metrics.
    pub fn apply(&self, config: &Config) {
        self.core.config.send_if_modified(|current| {
            let differs = current != config;
            if differs {
                current.clone_from(config);
            }
            differs
        });
    }

    /// What is known of a remote endpoint, as of the last reading.
    pub fn endpoint(&self, address: &SocketAddr) -> Option<EndpointFacts> {
        self.core.snapshot.load().endpoint(address).map(EndpointFacts::from)
    }

    /// What is known of the connection with this socket cookie (`SO_COOKIE`), now: while it lives, and after it ended
    /// abnormally. One or two short system calls, so ask once per request and not more.
    pub fn connection(&self, cookie: u64) -> Option<ConnectionFacts> {
        self.core.running.load().as_ref()?.observer.connection(cookie)
    }

    /// Everything, as of the last reading.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.core.snapshot.load_full()
    }

    /// Which probes are on and why others are not, for the observer as it runs; it loads nothing.
    pub fn doctor(&self) -> DoctorReport {
        match self.core.running.load().as_ref() {
            Some(running) => DoctorReport::of(&running.observer, &running.options),
            None => DoctorReport::without(&options(&self.core.config.borrow()), &self.core.why_not.load()),
        }
    }

    /// How the unit is.
    pub fn health(&self) -> &Health {
        &self.core.health
    }
}

impl ports::EndpointFacts for Handle {
    fn round_trip(&self, endpoint: SocketAddr) -> Option<Duration> {
        self.core.snapshot.load().endpoint(&endpoint)?.srtt
    }
}

impl ports::Inspect for Handle {
    /// Probes and, per endpoint, the upstream's name and what was counted.
    fn inspect(&self) -> serde_json::Value {
        let snapshot = self.core.snapshot.load();
        let endpoints: Vec<_> = snapshot
            .endpoints()
            .iter()
            .map(|stats| {
                let upstream = self.core.names.upstream_of(stats.id.address);
                json!({ "upstream": upstream.as_ref().map(|name| name.as_str()), "counted": stats })
            })
            .collect();
        json!({
            "health": self.core.health.get(),
            "doctor": self.doctor(),
            "endpoints": endpoints,
            "elsewhere": snapshot.globals(),
        })
    }
}

/// The observer's options for a configuration.
pub(crate) fn options(config: &Config) -> Options {
    Options {
        cgroup: config.cgroup.clone().map_or(Cgroup::Own, Cgroup::Directory),
        processes: match config.scope {
            Scope::Process => vec![std::process::id()],
            Scope::Cgroup => Vec::new(),
        },
        round_trips: match config.round_trips {
            RoundTrips::Adaptive => sluice_observer::RoundTrips::Adaptive,
            RoundTrips::Always => sluice_observer::RoundTrips::Always,
            RoundTrips::Never => sluice_observer::RoundTrips::Never,
        },
        max_connections: config.max_connections,
        max_endpoints: config.max_endpoints,
        ..Options::default()
    }
}
