//! The unit as others see it: made once, given configurations, asked for clusters.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluice_vocabulary::UpstreamName;
use sluice_vocabulary::clock::{Clock, Random};
use sluice_vocabulary::fault::{Fault, Path};
use sluice_vocabulary::ports::{EndpointFacts, EndpointNames, Inspect};
use sluice_vocabulary::unit::Health;
use tokio::sync::Notify;

use crate::cluster::{Cluster, Core, Lasting};
use crate::config::Config;
use crate::identity::Identity;
use crate::inspect;
use crate::line::Lines;
use crate::metrics::Metrics;
use crate::task::Keeper;
use crate::time::Epoch;

type Clusters = HashMap<UpstreamName, Arc<Cluster>>;

/// The unit. Cheap to clone; clones are the same unit.
#[derive(Debug, Clone)]
pub struct Handle(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    metrics: Metrics,
    lasting: Mutex<HashMap<UpstreamName, Arc<Lasting>>>,
    clusters: ArcSwap<Clusters>,
    owners: ArcSwap<HashMap<SocketAddr, UpstreamName>>,
    /// Told when there is a new configuration to look after.
    pub(crate) changed: Notify,
}

/// A configuration made ready, not yet in force. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "it is not in force until committed"]
pub struct Prepared(Clusters);

impl Prepared {
    /// The cluster of that name under the prepared configuration.
    pub fn cluster(&self, name: &UpstreamName) -> Option<Arc<Cluster>> {
        self.0.get(name).cloned()
    }
}

/// Makes the unit: what the rest of the gateway holds, and the background work to run. It has no upstreams until a
/// configuration is committed.
pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>, metrics: Metrics) -> (Handle, Keeper) {
    let epoch = Epoch::new(clock);
    let core = Arc::new(Core { lines: Lines::new(epoch.clone()), epoch, random, facts: OnceLock::new() });
    let handle = Handle(Arc::new(Inner {
        core,
        metrics,
        lasting: Mutex::default(),
        clusters: ArcSwap::default(),
        owners: ArcSwap::default(),
        changed: Notify::new(),
    }));
    let keeper = Keeper::new(handle.clone(), Health::new("upstream"));
    (handle, keeper)
}

impl Handle {
    /// Says who knows the round trips to endpoints. The first caller wins; without one there are none.
    pub fn set_facts(&self, facts: Arc<dyn EndpointFacts>) {
        if self.0.core.facts.set(facts).is_err() {
            tracing::warn!("endpoint facts were set twice; the first stay");
        }
    }

    /// Makes a configuration ready. Reads its certificate files, which `base` anchors, and so is not for a request's
    /// thread; resolves no names. Clusters whose configuration is unchanged are kept as they are; others keep what is known
    /// of their endpoints.
    ///
    /// # Errors
    /// Every file that cannot be used, with its place in the configuration, which is taken to stand under `upstreams`.
    pub fn prepare(&self, config: &Config, base: &FilePath) -> Result<Prepared, Vec<Fault>> {
        let root = Path::root().key("upstreams");
        let current = self.0.clusters.load();
        let mut faults = Vec::new();
        let mut clusters = Clusters::with_capacity(config.len());
        for (name, config) in config {
            let identity = match Identity::load(name, config, base) {
                Ok(identity) => identity,
                Err(bad) => {
                    let at = root.key(name.as_str()).key("tls");
                    faults.extend(bad.iter().map(|bad| {
                        let at = bad.key.iter().fold(at.clone(), |at, key| at.key(key));
                        Fault::error(&at, bad.to_string())
                    }));
                    continue;
                }
            };
            let before = current.get(name);
            if let Some(before) = before
                && before.config == *config
                && before.base == base
                && before.identity().group_key == identity.group_key
            {
                clusters.insert(name.clone(), Arc::clone(before));
                continue;
            }
            let known = before.map_or_else(BTreeMap::new, |before| before.resolved());
            let cluster = Cluster::new(
                name,
                config,
                base.to_owned(),
                identity,
                Arc::clone(&self.0.core),
                self.lasting(name),
                known,
            );
            clusters.insert(name.clone(), cluster);
        }
        if faults.is_empty() { Ok(Prepared(clusters)) } else { Err(faults) }
    }

    /// Puts a configuration in force. Requests under way keep the one they began with.
    pub fn commit(&self, prepared: Prepared) {
        for cluster in prepared.0.values() {
            cluster.take_over();
        }
        self.0.lasting.lock().retain(|name, _| {
            let stays = prepared.0.contains_key(name);
            if !stays {
                self.0.metrics.forget(name);
            }
            stays
        });
        self.0.clusters.store(Arc::new(prepared.0));
        self.note_owners();
        self.0.changed.notify_one();
    }

    /// The cluster of that name under the configuration in force.
    pub fn cluster(&self, name: &UpstreamName) -> Option<Arc<Cluster>> {
        self.0.clusters.load().get(name).cloned()
    }

    pub(crate) fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.0.clusters.load().values().cloned().collect()
    }

    /// Writes down anew whose endpoint each address is. Where upstreams share one, the first by name has it.
    pub(crate) fn note_owners(&self) {
        let mut clusters = self.clusters();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        let mut owners = HashMap::new();
        for cluster in &clusters {
            for endpoint in &cluster.members().endpoints {
                owners.entry(endpoint.state.address).or_insert_with(|| cluster.name.clone());
            }
        }
        self.0.owners.store(Arc::new(owners));
    }

    fn lasting(&self, name: &UpstreamName) -> Arc<Lasting> {
        let mut lasting = self.0.lasting.lock();
        let entry = lasting.entry(name.clone()).or_insert_with(|| Lasting::new(self.0.metrics.of(name)));
        Arc::clone(entry)
    }
}

impl EndpointNames for Handle {
    fn upstream_of(&self, endpoint: SocketAddr) -> Option<UpstreamName> {
        self.0.owners.load().get(&endpoint).cloned()
    }
}

impl Inspect for Handle {
    fn inspect(&self) -> Value {
        let mut clusters = self.clusters();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        let upstreams: serde_json::Map<String, Value> =
            clusters.iter().map(|cluster| (cluster.name.as_str().to_owned(), inspect::cluster(cluster))).collect();
        json!({ "upstreams": upstreams })
    }
}
