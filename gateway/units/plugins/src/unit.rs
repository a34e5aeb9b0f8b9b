//! The unit: what the application makes, runs, asks and reloads.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use sluice_vocabulary::clock::{Clock, Entropy};
use sluice_vocabulary::histogram::DurationHistogram;
use sluice_vocabulary::ports::Inspect;
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop};
use sluice_vocabulary::{Fault, Path, PluginName};
use tokio::sync::{mpsc, oneshot};

use crate::cache::{Cache, CacheBounds};
use crate::call::{Ports, Shared};
use crate::chain::Chain;
use crate::config::{PluginConfig, Told};
use crate::counts::Counts;
use crate::disk::{Disk, NoDisk};
use crate::ends::{self, Ends, Farewell, MOST_WAITING};
use crate::engine::Sandbox;
use crate::failover::{Comparison, Standby};
use crate::failure::Kind;
use crate::load::{Known, Loader, Pair, pair};
use crate::message::{Ended, RequestHead, Who};
use crate::metrics::Metrics;
use crate::outbound::{Clients, NoClient, Outbound, Resolver};
use crate::plugin::Plugin;
use crate::stages::{Part, Stages};
use crate::store::{Store, Whole};

/// What the unit asks for.
#[derive(Debug, Clone)]
pub struct Deps {
    /// Time, for durations and for how often a failing plugin is spoken of. The sandbox's own ticks are the machine's.
    pub clock: Arc<dyn Clock>,
    /// Random bytes, for plugins that are granted them.
    pub entropy: Arc<dyn Entropy>,
    /// Where plugins' requests to other services are made.
    pub background: tokio::runtime::Handle,
    /// Where the names of other services lead.
    pub resolver: Arc<dyn Resolver>,
}

/// How large the sandbox is: fixed while the process lives.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Instances at once. Default 256: a native plugin holds one for microseconds, and an instance that waits for its next
    /// slice holds little more than its memory.
    pub instances: u32,
    /// How long a call waits for an instance before it is given up. Default 50 ms.
    pub queue: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { instances: 256, queue: Duration::from_millis(50) }
    }
}

/// The sandbox cannot be made on this machine.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the plugin sandbox cannot be made: {0}")]
pub struct SandboxUnavailable(String);

/// Makes the unit.
#[derive(Debug)]
pub struct Unit;

impl Unit {
    /// Makes the engine and its pool; starts nothing. Calls fail until the task runs, since nothing would bound them.
    ///
    /// Registers, without a prefix: `invocations`, `failures`, `duration_seconds`, `cpu_seconds`, `instances`,
    /// `instances_reused`, `log_lines_dropped`, `failovers`, `quarantined`, `comparisons`, `loaded`, `compile_duration_seconds`, `count`, `gauge`,
    /// `series_dropped`, `ends_dropped`, `outbound_requests`, `outbound_duration_seconds`, `cache_hits`, `cache_misses`, `cache_discarded`, `cache_write_failures`,
    /// `store_write_failures`.
    ///
    /// # Errors
    /// If the machine cannot run the engine at all.
    #[expect(clippy::new_ret_no_self, reason = "a unit is its handle and its task")]
    pub fn new(deps: Deps, options: Options, registry: &mut Registry) -> Result<(Handle, Task), SandboxUnavailable> {
        let describe = |error: wasmtime::Error| SandboxUnavailable(format!("{error:#}"));
        let sandbox = Arc::new(Sandbox::new(options.instances, options.queue).map_err(describe)?);
        let metrics = Metrics::new(registry);
        let health = Health::new("plugins");
        let loader = Arc::new(Loader {
            engine: sandbox.engine.clone(),
            clock: Arc::clone(&deps.clock),
            compile_time: metrics.compile_time.clone(),
            cache: ArcSwapOption::empty(),
            told_of_no_cache: AtomicBool::new(false),
        });
        let (farewells, waiting) = mpsc::channel(MOST_WAITING);
        let began = deps.clock.now();
        let inner = Inner {
            farewells,
            sandbox: Arc::clone(&sandbox),
            loader,
            metrics,
            clients: Clients::new(deps.background, deps.resolver),
            ports: Arc::new(Ports { began, clock: deps.clock, entropy: deps.entropy }),
            loaded: ArcSwap::default(),
            named: Arc::default(),
            stores: Arc::default(),
            state_dir: Mutex::default(),
            disk: Mutex::default(),
            parting: Mutex::default(),
            own_time: OnceLock::new(),
            stages: Mutex::new(Stages::new(began)),
        };
        let inner = Arc::new(inner);
        Ok((Handle { inner: Arc::clone(&inner), health: health.clone() }, Task { sandbox, inner, health, waiting }))
    }
}

/// Loads plugins and hands out chains of them. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
    health: Health,
}

struct Inner {
    sandbox: Arc<Sandbox>,
    /// To the task, which makes the calls at the end of exchanges.
    farewells: mpsc::Sender<Farewell>,
    loader: Arc<Loader>,
    metrics: Metrics,
    ports: Arc<Ports>,
    clients: Clients,
    /// What was committed last. Chains hold their plugins themselves; this is for reuse and for those who look.
    loaded: ArcSwap<Loaded>,
    named: Arc<Mutex<HashMap<PluginName, Named>>>,
    stores: Arc<Whole>,
    /// Where the cache was last looked for, and what else outlives the process.
    state_dir: Mutex<Option<PathBuf>>,
    /// The stores on disk and the state folder that they are in, from when a plugin was first granted one.
    disk: Mutex<Option<(PathBuf, Arc<Disk>)>>,
    /// Stores that are no longer to be on disk.
    parting: Mutex<Vec<Arc<Store>>>,
    /// What the gateway adds to requests, where that is known.
    own_time: OnceLock<DurationHistogram>,
    stages: Mutex<Stages>,
}

impl Inner {
    /// The stores on disk; opened where they are not yet, or are in another folder. Waits for the disk.
    fn open_disk(&self) -> Result<Arc<Disk>, NoDisk> {
        let Some(state_dir) = self.state_dir.lock().clone() else {
            return Err(NoDisk::nowhere());
        };
        let mut open = self.disk.lock();
        match &*open {
            Some((folder, disk)) if *folder == state_dir => Ok(Arc::clone(disk)),
            _ => {
                let (clock, entropy) = (Arc::clone(&self.ports.clock), Arc::clone(&self.ports.entropy));
                let disk = Disk::open(&state_dir, clock, entropy)?;
                tracing::info!(file = disk.path(), "plugins' stores are kept on disk where that is granted");
                *open = Some((state_dir, Arc::clone(&disk)));
                Ok(disk)
            }
        }
    }

    /// Writes to disk what plugins' stores have changed. Waits for the disk.
    fn write_stores(&self) -> Result<(), String> {
        let disk = self.disk.lock().as_ref().map(|(_, disk)| Arc::clone(disk));
        // Locked to the end: whoever wants one kept after all finds it either here or no longer kept.
        let mut parting = self.parting.lock();
        while let Some(store) = parting.pop() {
            store.keep_no_longer().map_err(|error| error.to_string())?;
        }
        drop(parting);
        disk.map_or(Ok(()), |disk| disk.write().map_err(|error| format!("{}: {error}", disk.path())))
    }

    /// Throws away instances that nobody has used for a while.
    fn sweep_shelves(&self) {
        let now = self.ports.clock.now();
        for plugin in self.loaded.load().values() {
            let second = plugin.standby.as_ref().map(|standby| &standby.second);
            for plugin in second.into_iter().chain([plugin]) {
                if let Some(reuse) = plugin.config.reuse {
                    plugin.shelf.sweep(now, reuse.idle.get());
                }
            }
        }
    }

    /// Ends a window of the watch over stages, if it is time to, and tells what has turned.
    fn look_at_stages(&self) {
        let Some(own_time) = self.own_time.get() else { return };
        let loaded = self.loaded.load();
        let times: Vec<_> =
            loaded.iter().map(|(name, plugin)| (name.clone(), plugin.shared.metrics.waited_for())).collect();
        let turned = self.stages.lock().look(self.ports.clock.now(), own_time.totals().1, &times);
        for turned in turned.into_iter().flatten() {
            let Part { share, is_slow } = turned.part;
            if let Some(plugin) = loaded.get(&turned.plugin) {
                plugin.shared.metrics.slow_stage.set(i64::from(is_slow));
            }
            let percent = (share * 100.0).round();
            if is_slow {
                tracing::warn!(plugin = %turned.plugin, percent, "the plugin takes much of the gateway's own time");
            } else {
                tracing::info!(plugin = %turned.plugin, percent, "the plugin takes its fair part of the gateway's own time again");
            }
        }
    }
}

/// What a plugin's name has beyond any one configuration of it, committed or not.
struct Named {
    counts: Arc<Counts>,
    store: Arc<Store>,
}

type Loaded = BTreeMap<PluginName, Arc<Plugin>>;

/// Plugins that are loaded and not yet in force: make chains of them, then [`commit`](Handle::commit), or drop it and
/// nothing has changed.
#[derive(Debug)]
pub struct Prepared {
    plugins: Loaded,
    /// Those that were not taken over as they are.
    anew: Vec<PluginName>,
}

impl Handle {
    /// Keeps compiled components in the folder `components` of `state_dir` from now on, within these bounds, and takes them
    /// from there; with `None`, nowhere. Where the folder cannot be used the log says why, and components are compiled as
    /// if there were none. Waits for the disk. Nothing happens if that folder was named before.
    pub fn keep_in(&self, state_dir: Option<&FilePath>, bounds: CacheBounds) {
        let inner = &self.inner;
        let mut before = inner.state_dir.lock();
        if before.as_deref() == state_dir {
            return;
        }
        let ports = (Arc::clone(&inner.ports.clock), Arc::clone(&inner.ports.entropy));
        let metrics = inner.metrics.cache.clone();
        let opened = state_dir.map(|folder| Cache::open(folder, &inner.loader.engine, bounds, ports, metrics));
        let cache = match opened.transpose() {
            Ok(cache) => cache,
            Err(error) => {
                tracing::warn!(%error, "compiled components are not kept: each start compiles them anew");
                None
            }
        };
        inner.loader.cache.store(cache.map(Arc::new));
        *before = state_dir.map(FilePath::to_owned);
    }

    /// Reports plugins that take an undue part of `own_time` from now on: of what the gateway adds to requests. To be said
    /// once.
    pub fn watch_stages(&self, own_time: DurationHistogram) {
        // A second time nothing changes.
        let _ = self.inner.own_time.set(own_time);
    }

    /// Loads every plugin of a configuration, off the threads that serve. What is loaded already and unchanged is taken
    /// over as it is; relative paths start at `base`.
    ///
    /// # Errors
    /// A fault for each plugin that cannot be loaded, with its place under `at` and the reason; what runs goes on running.
    pub async fn prepare(
        &self,
        plugins: &BTreeMap<PluginName, PluginConfig>,
        at: &Path,
        base: &FilePath,
    ) -> Result<Prepared, Vec<Fault>> {
        let loaded = self.inner.loaded.load_full();
        let seconds = loaded.values().filter_map(|plugin| Some(&plugin.standby.as_ref()?.second));
        let all = loaded.values().chain(seconds);
        let known: Known = all.map(|plugin| (plugin.component.sha256, Arc::clone(&plugin.component))).collect();
        let second = |config: &PluginConfig| Some(config.fallback.as_ref()?.as_plugin(config));
        let wanted = plugins.values().cloned().chain(plugins.values().filter_map(second)).collect();
        let mut components = self.inner.loader.load(wanted, base, known).await;
        let mut seconds = components.split_off(plugins.len()).into_iter();

        let mut outbounds = self.outbounds(plugins, &loaded, base).await;

        let mut prepared = Loaded::new();
        let mut anew = Vec::new();
        let mut faults = Vec::new();
        for ((name, config), first) in plugins.iter().zip(components) {
            let second = config.fallback.as_ref().and_then(|_| seconds.next());
            let at = at.key(name.as_str());
            let outbound = outbounds.remove(name).transpose();
            match (pair(config, first, second), outbound) {
                (Ok(pair), Ok(outbound)) => {
                    let is_same = |plugin: &&Arc<Plugin>| {
                        let clients = (plugin.shared.outbound.as_ref(), outbound.as_ref());
                        pair.is_of(plugin) && plugin.config == *config && same(clients)
                    };
                    let unchanged = loaded.get(name).filter(is_same);
                    if unchanged.is_none() {
                        anew.push(name.clone());
                    }
                    let plugin =
                        unchanged.cloned().unwrap_or_else(|| Arc::new(self.plugin(name, config, pair, outbound)));
                    prepared.insert(name.clone(), plugin);
                }
                (pair, outbound) => {
                    faults.extend(pair.err().into_iter().flatten().flat_map(|refused| refused.faults(&at)));
                    faults.extend(outbound.err().map(|no_client| no_client.fault(&at.key("grants").key("http"))));
                }
            }
        }
        faults.extend(self.keep_stores(&prepared, at).await);
        if faults.is_empty() { Ok(Prepared { plugins: prepared, anew }) } else { Err(faults) }
    }

    /// Brings back what the plugins' stores held, of those that are kept on disk.
    async fn keep_stores(&self, prepared: &Loaded, at: &Path) -> Vec<Fault> {
        let kept: Vec<_> = prepared.iter().filter(|(_, plugin)| plugin.config.grants.persists()).collect();
        if kept.is_empty() {
            return Vec::new();
        }
        let stores = kept.iter().map(|(name, plugin)| ((*name).clone(), Arc::clone(&plugin.shared.store))).collect();
        let inner = Arc::clone(&self.inner);
        let keep = move |stores: Vec<(PluginName, Arc<Store>)>| {
            let disk = inner.open_disk()?;
            stores.iter().try_for_each(|(name, store)| {
                inner.parting.lock().retain(|parting| !Arc::ptr_eq(parting, store));
                store.keep_on(&disk, name)
            })
        };
        let result = tokio::task::spawn_blocking(move || keep(stores)).await;
        match result.unwrap_or_else(|error| Err(NoDisk::panicked(&error))) {
            Ok(()) => Vec::new(),
            Err(why) => kept.iter().map(|(name, _)| no_disk(&why, &at.key(name.as_str()))).collect(),
        }
    }

    /// Makes prepared plugins the ones in force: for [`inspect`](Inspect::inspect), metrics and the next reload. Chains made
    /// of them work before and after; calls that run on earlier ones end there.
    pub fn commit(&self, prepared: Prepared) {
        self.inner.metrics.loaded.set(i64::try_from(prepared.plugins.len()).unwrap_or(i64::MAX));
        self.inner.named.lock().retain(|name, Named { counts, .. }| {
            let stays = prepared.plugins.contains_key(name);
            if !stays {
                self.inner.metrics.forget(name);
                counts.forget();
            }
            stays
        });
        for (name, plugin) in &prepared.plugins {
            match &plugin.standby {
                Some(standby) => drop(standby.metrics.quarantined.set(i64::from(standby.quarantine.is_out()))),
                None => self.inner.metrics.forget_standby(name),
            }
            if plugin.shared.outbound.is_none() {
                self.inner.metrics.forget_outbound(name);
            }
            let store = &plugin.shared.store;
            store.resize(plugin.config.grants.key_value.unwrap_or_default().room());
            if store.is_kept() && !plugin.config.grants.persists() {
                self.inner.parting.lock().push(Arc::clone(store));
            }
        }
        self.inner.loaded.store(Arc::new(prepared.plugins));
    }

    /// An exchange is over: calls the last phase of the plugins that its request passed, some time later and elsewhere. Where
    /// too many wait it is dropped and counted.
    pub fn ended(&self, ends: Ends, request: Arc<RequestHead>, who: Who, ended: Ended) {
        if !ends.is_empty() {
            Farewell { ends, request, who, ended: Arc::new(ended) }.leave(&self.inner.farewells);
        }
    }

    /// The unit's health.
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// What a plugin's name has of counts and of a store.
    pub(crate) fn lasting(&self, plugin: &PluginName) -> Option<(Arc<Counts>, Arc<Store>)> {
        let named = self.inner.named.lock();
        named.get(plugin).map(|Named { counts, store }| (Arc::clone(counts), Arc::clone(store)))
    }

    pub(crate) fn now(&self) -> Instant {
        self.inner.ports.clock.now()
    }

    /// The clients of the plugins that may ask other services; those of before where nothing about them changed.
    async fn outbounds(
        &self,
        plugins: &BTreeMap<PluginName, PluginConfig>,
        loaded: &Loaded,
        base: &FilePath,
    ) -> BTreeMap<PluginName, Result<Arc<Outbound>, NoClient>> {
        let wanted: Vec<_> = plugins
            .iter()
            .filter_map(|(name, config)| {
                let before = loaded.get(name).and_then(|plugin| plugin.shared.outbound.clone());
                Some((name.clone(), config.grants.http.clone()?, before, self.inner.metrics.outbound(name)))
            })
            .collect();
        if wanted.is_empty() { BTreeMap::new() } else { self.inner.clients.of(wanted, base.to_owned()).await }
    }

    fn plugin(&self, name: &PluginName, config: &PluginConfig, pair: Pair, outbound: Option<Arc<Outbound>>) -> Plugin {
        let inner = &self.inner;
        tracing::info!(
            plugin = %name,
            component = %config.component,
            sha256 = hex::encode(pair.first.sha256),
            phases = pair.first.phase_names(),
            fallback = config.fallback.as_ref().map(|fallback| tracing::field::display(&fallback.component)),
            "plugin loaded"
        );
        let (counts, store) = {
            let mut named = inner.named.lock();
            let Named { counts, store } = named.entry(name.clone()).or_insert_with(|| Named {
                counts: Arc::new(inner.metrics.counts(name)),
                store: Arc::new(Store::new(
                    Arc::clone(&inner.stores),
                    config.grants.key_value.unwrap_or_default().room(),
                )),
            });
            (Arc::clone(counts), Arc::clone(store))
        };
        let shared = Arc::new(Shared {
            name: name.clone(),
            told: Told::new(&config.config),
            metrics: inner.metrics.plugin(name, |phase| pair.first.function(phase).is_some()),
            host: Arc::clone(&inner.ports),
            counts,
            store,
            upstreams: config.grants.upstreams.clone(),
            outbound,
        });
        let clock = &inner.ports.clock;
        let plugin = |component, config| {
            Plugin::new(Arc::clone(&shared), component, config, Arc::clone(&inner.sandbox), Arc::clone(clock))
        };
        let mut first = plugin(pair.first, config.clone());
        if let (Some(component), Some(fallback)) = (pair.second, &config.fallback) {
            let second = Arc::new(plugin(component, fallback.as_plugin(config)));
            first.standby = Some(Standby::new(second, fallback, inner.metrics.standby(name), clock.now()));
        }
        first
    }
}

/// Why a plugin's store cannot be kept, as a fault of its configuration.
fn no_disk(why: &NoDisk, at: &Path) -> Fault {
    Fault::error(&at.key("grants").key("key_value").key("persist"), format!("its store cannot be kept: {why}"))
}

/// Whether two plugins ask through one client, or ask nobody.
fn same(clients: (Option<&Arc<Outbound>>, Option<&Arc<Outbound>>)) -> bool {
    match clients {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

impl Prepared {
    /// The plugins that differ from those in force, by component or configuration, or that are new.
    pub fn loaded_anew(&self) -> &[PluginName] {
        &self.anew
    }

    /// The chain of these plugins, in this order.
    ///
    /// # Errors
    /// A fault for each name that is not configured; `at` is the list in which the names stand.
    pub fn chain(&self, names: &[PluginName], at: &Path) -> Result<Arc<Chain>, Vec<Fault>> {
        let mut plugins = Vec::with_capacity(names.len());
        let mut faults = Vec::new();
        for (index, name) in names.iter().enumerate() {
            match self.plugins.get(name) {
                Some(plugin) => plugins.push(Arc::clone(plugin)),
                None => faults.push(
                    Fault::error(&at.index(index), format!("{:?} is not a plugin", name.as_str()))
                        .help(self.known_names()),
                ),
            }
        }
        if faults.is_empty() { Ok(Arc::new(Chain::new(&plugins))) } else { Err(faults) }
    }

    fn known_names(&self) -> String {
        if self.plugins.is_empty() {
            return "no plugins are configured".to_owned();
        }
        let names: Vec<&str> = self.plugins.keys().map(PluginName::as_str).collect();
        format!("configured: {}", names.join(", "))
    }
}

impl Inspect for Handle {
    fn inspect(&self) -> Value {
        let sandbox = &self.inner.sandbox;
        let stages = self.inner.stages.lock();
        let plugins: serde_json::Map<String, Value> = self
            .inner
            .loaded
            .load()
            .iter()
            .map(|(name, plugin)| (name.as_str().to_owned(), inspect_plugin(plugin, stages.part(name))))
            .collect();
        json!({
            "sandbox": {
                "allocator": sandbox.allocator,
                "instances": {
                    "in_use": sandbox.in_use(),
                    "kept": sandbox.kept(),
                    "resting": sandbox.resting(),
                    "limit": sandbox.instances,
                },
                "stores": self.inner.disk.lock().as_ref().map(|(_, disk)| {
                    json!({ "file": disk.path(), "waiting": disk.waiting() })
                }),
                "cache": self.inner.loader.cache.load().as_ref().map(|cache| cache.path().display().to_string()),
            },
            "plugins": plugins,
        })
    }
}

fn inspect_plugin(plugin: &Plugin, part: Part) -> Value {
    let metrics = &plugin.shared.metrics;
    let phases: serde_json::Map<String, Value> = plugin
        .component
        .phases()
        .filter_map(|phase| Some((phase, metrics.phase(phase)?)))
        .map(|(phase, metrics)| {
            let (count, sum) = metrics.duration.totals();
            let mean_micros = if count == 0 { 0.0 } else { sum.as_secs_f64() * 1e6 / count as f64 };
            let invocations = metrics.invocations.get();
            (phase.as_str().to_owned(), json!({ "invocations": invocations, "mean_micros": mean_micros }))
        })
        .collect();
    let failures: serde_json::Map<String, Value> =
        Kind::ALL.map(|kind| (kind.as_str().to_owned(), json!(metrics.failures(kind).get()))).into_iter().collect();
    let (entries, bytes) = plugin.shared.store.held();
    json!({
        "component": plugin.config.component,
        "sha256": hex::encode(plugin.component.sha256),
        "bytes": plugin.component.bytes,
        "from_cache": plugin.component.from_cache,
        "limits": plugin.config.limits,
        "reuse": plugin.config.reuse,
        "fallback": plugin.standby.as_ref().map(inspect_standby),
        "decides": plugin.config.decides,
        "grants": plugin.config.grants,
        "on_failure": plugin.config.on_failure,
        "phases": phases,
        "failures": failures,
        "instances": metrics.instances.get(),
        "resting": plugin.shelf.len(),
        "outbound": plugin.shared.outbound.as_ref().map(|outbound| outbound.inspect()),
        "store": { "entries": entries, "bytes": bytes, "persisted": plugin.shared.store.is_kept() },
        "cpu_seconds": metrics.guest_time.get(),
        "stage": { "share": part.share, "slow": part.is_slow },
    })
}

fn inspect_standby(standby: &Standby) -> Value {
    let Standby { second, quarantine, metrics, .. } = standby;
    let comparisons: serde_json::Map<String, Value> = Comparison::ALL
        .map(|outcome| (outcome.as_str().to_owned(), json!(metrics.comparisons(outcome).get())))
        .into_iter()
        .collect();
    json!({
        "component": second.config.component,
        "sha256": hex::encode(second.component.sha256),
        "bytes": second.component.bytes,
        "from_cache": second.component.from_cache,
        "deadline": second.config.limits.deadline,
        "quarantined": quarantine.is_out(),
        "failures_in_a_row": quarantine.failures(),
        "good_probes": quarantine.good_probes(),
        "failovers": metrics.failovers.get(),
        "comparisons": comparisons,
    })
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("sandbox", &self.inner.sandbox).finish_non_exhaustive()
    }
}

/// Keeps the sandbox's clock ticking, the stores swept and on disk, watches the part that plugins take of the gateway's own time, and
/// calls plugins at the end of exchanges. Stop it after the last request was served: calls fail from then on.
pub struct Task {
    sandbox: Arc<Sandbox>,
    inner: Arc<Inner>,
    health: Health,
    /// Exchanges that are over.
    waiting: mpsc::Receiver<Farewell>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("sandbox", &self.sandbox).field("health", &self.health).finish_non_exhaustive()
    }
}

/// Between two looks at what has expired in the plugins' stores.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Gives back the memory of what has expired, for ever.
async fn sweep(inner: &Inner) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let stores: Vec<_> = inner.named.lock().values().map(|named| Arc::clone(&named.store)).collect();
        for store in stores {
            store.sweep(inner.ports.clock.now());
            tokio::task::yield_now().await;
        }
        inner.sweep_shelves();
    }
}

/// Between two writes of what stores have changed: what a crash loses.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Writes what stores have changed, for ever. What cannot be written is tried again; its failures are told of once in a row.
async fn write_stores(inner: &Arc<Inner>) {
    let mut has_failed = false;
    loop {
        tokio::time::sleep(WRITE_EVERY).await;
        let writer = Arc::clone(inner);
        let written = tokio::task::spawn_blocking(move || writer.write_stores()).await;
        match written.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) if has_failed => {
                has_failed = false;
                tracing::info!("plugins' stores are written to disk again");
            }
            Ok(()) => {}
            Err(error) => {
                inner.metrics.store_write_failures.inc();
                if !has_failed {
                    tracing::error!(
                        error,
                        "plugins' stores cannot be written to disk; what has changed is kept in memory and tried again"
                    );
                }
                has_failed = true;
            }
        }
    }
}

/// Between two looks at whether a window of the watch over stages is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches the part that plugins take of the gateway's own time, for ever.
async fn watch_stages(inner: &Inner) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        inner.look_at_stages();
    }
}

/// Ends the ticker's thread however its unit ends: it would hold on to the sandbox.
struct StopsWhenDropped<'a>(&'a Sandbox);

impl Drop for StopsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.pulse.stop();
    }
}

impl sluice_vocabulary::unit::Task for Task {
    fn health(&self) -> &Health {
        &self.health
    }

    fn run(&mut self, mut stop: Stop) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (ended, mut has_ended) = oneshot::channel::<()>();
            self.sandbox.pulse.start();
            let _stops = StopsWhenDropped(&self.sandbox);
            let sandbox = Arc::clone(&self.sandbox);
            let ticker = std::thread::Builder::new().name("sluice-ticker".into()).spawn(move || {
                // Dropped when the thread ends, however it ends.
                let _ended = ended;
                sandbox.pulse.run(|| sandbox.runs_any());
            });
            let ticker = match ticker {
                Ok(ticker) => ticker,
                Err(error) => {
                    self.sandbox.pulse.stop();
                    self.health.set(State::Unavailable(format!("the ticker's thread could not be started: {error}")));
                    return;
                }
            };
            self.health.set(if self.sandbox.allocator == "pooling" {
                State::Ready
            } else {
                State::Degraded("there is no address space for a pool: every instance is mapped anew".to_owned())
            });
            tokio::select! {
                () = stop.stopped() => {
                    self.sandbox.pulse.stop();
                    let _ = has_ended.await;
                    self.health.set(State::Stopped);
                }
                () = sweep(&self.inner) => {}
                () = watch_stages(&self.inner) => {}
                () = write_stores(&self.inner) => {}
                () = ends::serve(&mut self.waiting) => {}
                _ = &mut has_ended => {
                    self.health.set(State::Unavailable("the ticker ended".to_owned()));
                }
            }
            ends::drop_all(&mut self.waiting);
            // Nothing runs any more that could change them.
            let inner = Arc::clone(&self.inner);
            let written = tokio::task::spawn_blocking(move || inner.write_stores()).await;
            if let Err(error) = written.unwrap_or_else(|error| Err(error.to_string())) {
                self.inner.metrics.store_write_failures.inc();
                tracing::error!(error, "what plugins' stores changed last could not be written to disk and is lost");
            }
            // It has left its loop: this does not wait.
            if ticker.join().is_err() {
                tracing::error!("the plugin sandbox's ticker panicked");
            }
        })
    }
}
