//! One upstream at work: its endpoints now, and the choice among them.
//!
//! A cluster is made from one configuration and does not outlive it; requests keep the one they began with. What should
//! outlive it (endpoint states, the retry budget, the queue, metrics) is in [`Lasting`], shared by name. The endpoints are a
//! snapshot, [`Members`], replaced whole when names resolve differently or certificates change. A request reads the
//! snapshot, one counter and its endpoint's own atomics; it takes no lock.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sluice_vocabulary::clock::Random;
use sluice_vocabulary::deadline::Timeouts;
use sluice_vocabulary::ports::EndpointFacts;
use sluice_vocabulary::{Reason, Refusal, UpstreamName};
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::address::Address;
use crate::balance;
use crate::chosen::Chosen;
use crate::config::{Balance, Protocol, UpstreamConfig};
use crate::endpoint::{Endpoint, EndpointState};
use crate::identity::Identity;
use crate::line::Lines;
use crate::metrics::UpstreamMetrics;
use crate::peer::template;
use crate::retry::Budget;
use crate::time::{Epoch, Ticks};

/// What all clusters of the unit share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) epoch: Epoch,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) facts: OnceLock<Arc<dyn EndpointFacts>>,
}

impl Core {
    pub(crate) fn round_trip(&self, address: SocketAddr) -> Option<Duration> {
        self.facts.get()?.round_trip(address)
    }
}

/// What an upstream keeps from one configuration to the next.
#[derive(Debug)]
pub(crate) struct Lasting {
    pub(crate) metrics: Arc<UpstreamMetrics>,
    pub(crate) budget: Budget,
    states: Mutex<HashMap<SocketAddr, Arc<EndpointState>>>,
    freed: Notify,
    waiting: AtomicU32,
}

impl Lasting {
    pub(crate) fn new(metrics: Arc<UpstreamMetrics>) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            budget: Budget::new(0),
            states: Mutex::default(),
            freed: Notify::new(),
            waiting: AtomicU32::new(0),
        })
    }

    /// A place came free.
    pub(crate) fn freed(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.freed.notify_one();
        }
    }

    fn state(&self, address: SocketAddr) -> Arc<EndpointState> {
        let mut states = self.states.lock();
        let state = states.entry(address).or_insert_with(|| EndpointState::new(address, Arc::clone(&self.metrics)));
        Arc::clone(state)
    }
}

/// The endpoints at one moment.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) endpoints: Box<[Arc<Endpoint>]>,
    schedule: Box<[u16]>,
}

/// What the members are made from.
#[derive(Debug)]
struct Sources {
    identity: Identity,
    resolved: BTreeMap<Address, Vec<SocketAddr>>,
}

/// One upstream under one configuration.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) name: UpstreamName,
    pub(crate) config: UpstreamConfig,
    pub(crate) base: PathBuf,
    pub(crate) core: Arc<Core>,
    pub(crate) lasting: Arc<Lasting>,
    timeouts: Timeouts,
    addresses: Vec<(Address, u16)>,
    members: ArcSwap<Members>,
    sources: Mutex<Sources>,
    turn: AtomicUsize,
    pub(crate) next_resolve: AtomicU64,
    pub(crate) next_reload: AtomicU64,
}

/// The endpoints that a request was sent to already.
#[derive(Debug, Clone, Default)]
pub struct Tried(SmallVec<[SocketAddr; 2]>);

impl Tried {
    /// How often the request was sent.
    pub fn count(&self) -> u8 {
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }

    pub(crate) fn add(&mut self, address: SocketAddr) {
        self.0.push(address);
    }

    fn contains(&self, address: SocketAddr) -> bool {
        self.0.contains(&address)
    }
}

/// What a look at the members came to.
enum Pick {
    Found(Arc<Endpoint>),
    Busy,
    NoneUsable,
}

impl Cluster {
    pub(crate) fn new(
        name: &UpstreamName,
        config: &UpstreamConfig,
        base: PathBuf,
        identity: Identity,
        core: Arc<Core>,
        lasting: Arc<Lasting>,
        known: BTreeMap<Address, Vec<SocketAddr>>,
    ) -> Arc<Self> {
        let addresses: Vec<_> = config
            .endpoints
            .iter()
            // A fault of the configuration is told by `validate`; a cluster does without that endpoint.
            .filter_map(|endpoint| Some((Address::parse(&endpoint.address).ok()?, endpoint.weight.max(1))))
            .collect();
        let cluster = Arc::new(Self {
            name: name.clone(),
            config: config.clone(),
            base,
            core,
            lasting,
            timeouts: config.timeouts.get(),
            addresses,
            members: ArcSwap::from_pointee(Members { endpoints: Box::default(), schedule: Box::default() }),
            sources: Mutex::new(Sources { identity, resolved: known }),
            turn: AtomicUsize::new(0),
            next_resolve: AtomicU64::new(0),
            next_reload: AtomicU64::new(0),
        });
        cluster.rebuild(&cluster.sources.lock());
        cluster
    }

    /// The upstream's name.
    pub fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// How long things may take here, unless a route says otherwise.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Chooses an endpoint for one try, one that was not tried yet where there is such. Waits, as long as is configured,
    /// when all that may be chosen have as many requests as connections allow.
    ///
    /// Dropping the future gives up its place in the queue.
    ///
    /// # Errors
    /// [`Reason::UpstreamUnavailable`] when no endpoint is known, or all are ejected or unwell;
    /// [`Reason::UpstreamSaturated`] when no place came free in time, or too many wait already.
    pub async fn choose(self: &Arc<Self>, tried: &Tried) -> Result<Chosen, Refusal> {
        if tried.count() == 0 {
            self.lasting.budget.deposit();
        }
        match self.pick(tried) {
            Pick::Found(endpoint) => Ok(Chosen::new(Arc::clone(self), endpoint)),
            Pick::NoneUsable => Err(self.unavailable()),
            Pick::Busy => self.wait(tried).await,
        }
    }

    async fn wait(self: &Arc<Self>, tried: &Tried) -> Result<Chosen, Refusal> {
        let Some(_place) = Waiting::enter(&self.lasting, self.config.max_waiting) else {
            return Err(self.saturated("as many requests as allowed are waiting already"));
        };
        let until = tokio::time::Instant::now() + self.config.queue_timeout.get();
        loop {
            // Listen first, look second: what comes free between the two is not missed.
            let freed = self.lasting.freed.notified();
            match self.pick(tried) {
                Pick::Found(endpoint) => return Ok(Chosen::new(Arc::clone(self), endpoint)),
                Pick::NoneUsable => return Err(self.unavailable()),
                Pick::Busy => {}
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(self.saturated("no connection came free in time"));
            }
        }
    }

    fn unavailable(&self) -> Refusal {
        let members = self.members.load();
        let known = members.endpoints.len();
        Refusal::new(Reason::UpstreamUnavailable)
            .internal(format!("upstream {}: none of {known} known endpoints may be used", self.name))
    }

    fn saturated(&self, why: &str) -> Refusal {
        self.lasting.metrics.saturated.inc();
        Refusal::new(Reason::UpstreamSaturated).internal(format!("upstream {}: {why}", self.name))
    }

    /// Looks first among what was not tried, then among all.
    fn pick(&self, tried: &Tried) -> Pick {
        let members = self.members.load();
        let now = self.core.epoch.coarse();
        match self.pick_among(&members, now, |endpoint| !tried.contains(endpoint.state.address)) {
            Pick::NoneUsable if tried.count() > 0 => self.pick_among(&members, now, |_| true),
            pick => pick,
        }
    }

    fn pick_among(&self, members: &Members, now: Ticks, wanted: impl Fn(&Endpoint) -> bool) -> Pick {
        if members.schedule.is_empty() {
            return Pick::NoneUsable;
        }
        let usable = |endpoint: &Endpoint| endpoint.state.usable(now) && wanted(endpoint);
        if self.config.balance != Balance::RoundRobin && members.endpoints.len() > 1 {
            let (first, second) = balance::two(&members.schedule, &*self.core.random);
            let (first, second) = (&members.endpoints[first], &members.endpoints[second]);
            if usable(first) && usable(second) {
                let best = if self.cost(second) < self.cost(first) { second } else { first };
                if best.state.acquire(best.max_requests) {
                    return Pick::Found(Arc::clone(best));
                }
            }
            // One of the two is out: walk on from a place taken by chance, as round robin does from its turn.
        }
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut busy = false;
        for step in 0..members.schedule.len() {
            let turn = members.schedule[start.wrapping_add(step) % members.schedule.len()];
            let endpoint = &members.endpoints[usize::from(turn)];
            if !usable(endpoint) {
                continue;
            }
            if endpoint.state.acquire(endpoint.max_requests) {
                return Pick::Found(Arc::clone(endpoint));
            }
            busy = true;
        }
        if busy { Pick::Busy } else { Pick::NoneUsable }
    }

    fn cost(&self, endpoint: &Endpoint) -> f64 {
        match self.config.balance {
            Balance::RoundRobin => 0.0,
            Balance::LeastRequests => balance::requests(endpoint),
            Balance::LeastLatency => balance::latency(endpoint, self.core.round_trip(endpoint.state.address)),
        }
    }

    /// The endpoints now.
    pub(crate) fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// The names among the addresses.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().map(|(address, _)| address).filter(|address| matches!(address, Address::Name { .. }))
    }

    /// What the names resolve to now, for the cluster that takes this one's place.
    pub(crate) fn resolved(&self) -> BTreeMap<Address, Vec<SocketAddr>> {
        self.sources.lock().resolved.clone()
    }

    /// Takes in what a name resolves to; says whether that is new.
    pub(crate) fn resolve(&self, name: &Address, mut found: Vec<SocketAddr>) -> bool {
        found.sort_unstable();
        found.dedup();
        let mut sources = self.sources.lock();
        if sources.resolved.get(name) == Some(&found) {
            return false;
        }
        sources.resolved.insert(name.clone(), found);
        self.rebuild(&sources);
        true
    }

    /// Takes in certificates that were read again; says whether they are new.
    pub(crate) fn identify(&self, identity: Identity) -> bool {
        let mut sources = self.sources.lock();
        if sources.identity.group_key == identity.group_key {
            return false;
        }
        sources.identity = identity;
        self.rebuild(&sources);
        true
    }

    pub(crate) fn identity(&self) -> Identity {
        self.sources.lock().identity.clone()
    }

    fn rebuild(&self, sources: &Sources) {
        // Each address of a name has the name's whole weight: five addresses are five times the capacity.
        let mut weights: BTreeMap<SocketAddr, u16> = BTreeMap::new();
        let mut order = Vec::new();
        for (address, weight) in &self.addresses {
            let found: &[SocketAddr] = match address {
                Address::Ip(address) => std::slice::from_ref(address),
                Address::Name { .. } => sources.resolved.get(address).map_or(&[], Vec::as_slice),
            };
            for address in found {
                let entry = weights.entry(*address).or_insert_with(|| {
                    order.push(*address);
                    0
                });
                *entry = entry.saturating_add(*weight);
            }
        }
        // The schedule counts endpoints in 16 bits.
        order.truncate(usize::from(u16::MAX));
        let per_connection = if self.config.protocol == Protocol::Http1 { 1 } else { self.config.http2.max_streams };
        let endpoints: Box<[Arc<Endpoint>]> = order
            .iter()
            .map(|address| {
                let state = self.lasting.state(*address);
                Arc::new(Endpoint {
                    peer: template(&self.config, &sources.identity, &state, &self.core.lines),
                    weight: weights.get(address).copied().unwrap_or(1),
                    max_requests: self.config.max_connections.saturating_mul(per_connection),
                    state,
                })
            })
            .collect();
        let weights: Vec<u16> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        self.members.store(Arc::new(Members { endpoints, schedule: balance::schedule(&weights) }));
    }

    /// Makes this cluster the one that counts: forgets endpoints that are no longer, and sets the lasting parts.
    pub(crate) fn take_over(&self) {
        self.lasting.budget.configure(self.config.retries.budget_percent);
        let members = self.members.load();
        let mut states = self.lasting.states.lock();
        states.retain(|address, _| members.endpoints.iter().any(|endpoint| endpoint.state.address == *address));
        if self.config.health.is_none() {
            for state in states.values() {
                state.not_asked();
            }
        }
    }

    /// Leaves an endpoint out for a while, if enough others remain.
    pub(crate) fn eject(&self, state: &EndpointState) {
        let config = &self.config.ejection;
        let now = self.core.epoch.now();
        if state.ejected(now) {
            return;
        }
        let members = self.members.load();
        let out = members.endpoints.iter().filter(|endpoint| endpoint.state.ejected(now)).count();
        let most = members.endpoints.len() * usize::from(config.max_ejected_percent) / 100;
        if out >= most {
            return;
        }
        let until = now.saturating_add(Epoch::length(config.r#for.get()));
        state.eject(until, config);
        self.lasting.metrics.ejections.inc();
        tracing::warn!(
            upstream = %self.name,
            endpoint = %state.address,
            failures = config.consecutive_failures,
            r#for = %config.r#for,
            "endpoint ejected"
        );
    }
}

/// A place in the queue.
struct Waiting<'a>(&'a Lasting);

impl<'a> Waiting<'a> {
    fn enter(lasting: &'a Lasting, most: u32) -> Option<Self> {
        let waiting = Self(lasting);
        // Made before the comparison, so that its drop undoes the addition in either case.
        (lasting.waiting.fetch_add(1, Ordering::AcqRel) < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
