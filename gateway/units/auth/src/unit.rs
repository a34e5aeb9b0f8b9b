//! The unit's outside: made once, reconfigured by prepare and commit, asked for each request.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::HeaderName;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustls::RootCertStore;
use sluice_vocabulary::clock::{Clock, Random};
use sluice_vocabulary::limiter::{KeyedLimiter, Rate};
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::unit::{Health, State};
use sluice_vocabulary::{Fault, Faults, IssuerName, Path, Refusal, RouteName};
use smallvec::SmallVec;
use tokio::sync::watch;

use crate::cache::TokenCache;
use crate::challenge::Challenges;
use crate::config::{Config, IssuerConfig, RouteAuth};
use crate::dpop::Dpop;
use crate::explain::{Explanation, Trail};
use crate::fetch;
use crate::forward_auth::config::ForwardAuthConfig;
use crate::forward_auth::{Decision, ForwardAuth};
use crate::introspection::Introspector;
use crate::issue::page::IdentityKeys;
use crate::issue::{Mint, MintDeps, Spec};
use crate::issuer::Issuer;
use crate::metrics::{KeyAgeCollector, Metrics};
use crate::places::TokenParameters;
use crate::policy::{Policy, Shared, StrippedHeaders};
use crate::proof::Proof;
use crate::refusals::RouteOutcomes;
use crate::remote::Surroundings;
use crate::remotes::Remotes;
use crate::revocation::{Plan, Revocations};
use crate::shared_secret;
use crate::task::AuthTask;
use crate::verify;

/// What the unit asks of its composer.
#[derive(Debug)]
pub struct Deps {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for jitter.
    pub random: Arc<dyn Random>,
    /// The configuration's folder: where relative file names begin.
    pub base_dir: PathBuf,
    /// The runtime that questions to other services run on: never one that serves requests.
    pub background: tokio::runtime::Handle,
}

/// What the handle and the task share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    base_dir: PathBuf,
    /// What is lent to those who ask other services.
    pub(crate) around: Surroundings,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) world: ArcSwap<World>,
    /// Changes with every commit.
    pub(crate) commits: watch::Sender<u64>,
    next_issuer: AtomicU64,
}

/// A configuration in force.
#[derive(Debug)]
pub(crate) struct World {
    config: Config,
    pub(crate) shared: Arc<Shared>,
    pub(crate) issuers: BTreeMap<IssuerName, Arc<Issuer>>,
    pub(crate) remotes: Remotes,
    stripped: StrippedHeaders,
    /// Those with a policy.
    routes: BTreeSet<RouteName>,
}

impl World {
    fn knows(&self, issuer: &IssuerName) -> bool {
        self.issuers.contains_key(issuer) || self.remotes.introspector(issuer).is_some()
    }
}

/// The unit's constructor.
#[derive(Debug)]
pub struct Unit;

impl Unit {
    /// Makes the unit, without issuers until the first [`Handle::commit`]. Opens and starts nothing.
    #[expect(clippy::new_ret_no_self, reason = "a unit is its handle and its task")]
    pub fn new(config: &Config, deps: Deps, registry: &mut Registry) -> (Handle, AuthTask) {
        let metrics = Metrics::new(registry);
        let revocations = Revocations::new(Arc::clone(&deps.clock), registry);
        let world = World {
            config: config.clone(),
            shared: Arc::new(share(config, None, None, &metrics, &revocations)),
            issuers: BTreeMap::new(),
            remotes: Remotes::default(),
            stripped: StrippedHeaders::default(),
            routes: BTreeSet::new(),
        };
        let core = Arc::new(Core {
            around: Surroundings {
                clock: Arc::clone(&deps.clock),
                base_dir: deps.base_dir.clone(),
                background: deps.background,
                changed: Arc::default(),
            },
            clock: deps.clock,
            random: deps.random,
            base_dir: deps.base_dir,
            metrics,
            health: Health::new("auth"),
            revocations,
            world: ArcSwap::from_pointee(world),
            commits: watch::Sender::new(0),
            next_issuer: AtomicU64::new(1),
        });
        registry.register_collector(Box::new(KeyAgeCollector(Arc::clone(&core) as _)));
        (Handle { core: Arc::clone(&core) }, AuthTask::new(core))
    }
}

/// What the policies of `config` share; cache and limiter are those of `old` where nothing about them changed.
fn share(
    config: &Config,
    old: Option<&World>,
    mint: Option<Arc<Mint>>,
    metrics: &Metrics,
    revocations: &Arc<Revocations>,
) -> Shared {
    let cache = match old {
        Some(old) if old.config.token_cache == config.token_cache => Arc::clone(&old.shared.cache),
        _ => Arc::new(TokenCache::new(config.token_cache.as_usize(), metrics.cache.clone())),
    };
    let limiter = match (old, &config.signature_checks_per_address) {
        (Some(old), budget) if old.config.signature_checks_per_address == *budget => old.shared.limiter.clone(),
        (_, None) => None,
        (_, Some(budget)) => {
            let rate = Rate::new(budget.per_second(), budget.burst);
            Some(Arc::new(KeyedLimiter::with_rate(rate, budget.max_addresses)))
        }
    };
    Shared {
        cache,
        limiter,
        challenges: Challenges::new(&config.realm),
        revocations: Arc::clone(revocations),
        dpop: Dpop::new(&config.dpop, &config.realm, old.map(|old| &old.shared.dpop), &metrics.proofs),
        mint,
        longest: config.max_token.as_usize(),
    }
}

/// The unit as the request path sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) core: Arc<Core>,
}

impl Handle {
    /// Checks and compiles a configuration, without putting it in force. Issuers that did not change keep their keys,
    /// their health and their cached tokens; those whose rules alone changed keep their
    /// keys. Reads CA files, secrets and kept keys, so it is not for a service thread. The error holds every fault; paths begin at `auth` and
    /// `issuers`. What is merely risky is told by the configurations' own `validate`.
    pub fn prepare(
        &self,
        config: &Config,
        issuers: &BTreeMap<IssuerName, IssuerConfig>,
    ) -> Result<Prepared, Vec<Fault>> {
        let mut faults = Faults::new();
        config.validate(&Path::root().key("auth"), &mut faults);
        for (name, issuer) in issuers {
            issuer.validate(&Path::root().key("issuers").key(name.as_str()), &mut faults);
        }
        if faults.has_errors() {
            return Err(faults.into_vec());
        }

        let old = self.core.world.load();
        let mut roots = None;
        let mut system_roots = || -> Result<Arc<RootCertStore>, String> {
            // Once for all issuers.
            roots.get_or_insert_with(|| fetch::system_roots().map(Arc::new)).clone()
        };
        let state_dir = config.state_dir.as_ref().map(|folder| self.core.base_dir.join(folder));
        let same_state_dir = old.config.state_dir == config.state_dir;
        let mut compiled = BTreeMap::new();
        let mut remotes = Remotes::default();
        for (name, wanted) in issuers {
            if wanted.introspection.is_some() {
                let added = remotes.introspect(&self.core, &old.remotes, name, wanted, &mut system_roots);
                added.unwrap_or_else(|fault| faults.push(fault));
                continue;
            }
            let at = Path::root().key("issuers").key(name.as_str());
            let base_dir = &*self.core.base_dir;
            let secrets = if wanted.secrets.is_empty() {
                None
            } else {
                let read = shared_secret::read(&wanted.secrets, base_dir, &at.key("secrets"), &mut faults);
                let Some(read) = read else { continue };
                Some(read)
            };
            if let Some(same) = old
                .issuers
                .get(name)
                .filter(|issuer| issuer.config == *wanted && same_state_dir && issuer.still_has(secrets.as_ref()))
            {
                compiled.insert(name.clone(), Arc::clone(same));
                continue;
            }
            let id = self.core.next_issuer.fetch_add(1, Ordering::Relaxed);
            let metrics = self.core.metrics.issuer(name.as_str());
            let (name_of_it, config) = (name.clone(), wanted.clone());
            let made = match secrets {
                Some(keys) => Issuer::of_secrets(id, name_of_it, config, keys, metrics),
                None => {
                    let state_dir = state_dir.as_deref();
                    Issuer::new(id, name_of_it, config, base_dir, state_dir, &mut system_roots, metrics)
                }
            };
            match made {
                Ok(issuer) => {
                    issuer.restore(&*self.core.clock);
                    compiled.insert(name.clone(), Arc::new(issuer));
                }
                Err(why) => faults.error(&at.key("jwks"), why),
            }
        }
        let revocation =
            self.core.revocations.prepare(&config.revocation, &self.core.base_dir, &mut system_roots).map_err(|why| {
                faults.error(&Path::root().key("auth").key("revocation").key("url"), why);
            });
        let Some(revocation) = revocation.ok().filter(|_| !faults.has_errors()) else {
            self.core.forget_unused(issuers.keys());
            return Err(faults.into_vec());
        };
        let deps = MintDeps {
            clock: Arc::clone(&self.core.clock),
            random: Arc::clone(&self.core.random),
            metrics: self.core.metrics.mint.clone(),
        };
        let mint = Mint::follow(old.shared.mint.as_ref(), &config.identity_tokens, &self.core.base_dir, deps);
        let mint = match mint {
            Ok(mint) => mint,
            Err(why) => {
                self.core.forget_unused(issuers.keys());
                let at = Path::root().key("auth").key("identity_tokens").key("state_dir");
                faults.error(&at, why);
                return Err(faults.into_vec());
            }
        };
        let shared = Arc::new(share(config, Some(&old), Some(mint), &self.core.metrics, &self.core.revocations));
        let core = Arc::clone(&self.core);
        let remotes = Mutex::new(remotes);
        let (stripped, parameters, routes) = Default::default();
        let config = config.clone();
        Ok(Prepared { core, config, shared, issuers: compiled, revocation, remotes, stripped, parameters, routes })
    }

    /// Puts a prepared configuration in force: the task begins to read the keys of new issuers, and what was verified
    /// by the rules of issuers that changed or went is void. Requests that began before keep their policies.
    pub fn commit(&self, mut prepared: Prepared) {
        let old = self.core.world.load_full();
        let issuers = std::mem::take(&mut prepared.issuers);
        let remotes = std::mem::take(prepared.remotes.get_mut());
        for (name, issuer) in &issuers {
            // Other rules do not make other keys: requests need not wait for what is at hand.
            if let Some(old) = old.issuers.get(name).filter(|old| old.id != issuer.id && old.has_same_keys_as(issuer)) {
                issuer.keyring.inherit(&old.keyring);
            }
        }
        // Before any policy of the new configuration can be asked.
        self.core.revocations.adopt(Arc::clone(&prepared.revocation), issuers.keys());
        prepared.shared.dpop.adopt();
        let world = World {
            stripped: prepared.stripped_headers(),
            routes: std::mem::take(&mut prepared.routes.lock()),
            config: prepared.config.clone(),
            shared: Arc::clone(&prepared.shared),
            issuers,
            remotes,
        };
        self.core.world.store(Arc::new(world));
        self.core.forget_unused(old.issuers.keys());
        self.core.tell_routes(&old.routes);
        self.core.forget_unused_remotes(&old.remotes);
        self.core.tell_health();
        self.core.commits.send_modify(|count| *count += 1);
    }

    /// Verifies the token of `request` for the route whose policy this is, or its absence where the policy allows that.
    /// A token seen before is decided without waiting and without a lock that excludes other requests; at the worst,
    /// where the issuer's keys must be waited for, it takes `jwks.wait`, or twice `introspection.timeout` where the issuer
    /// itself must be asked. Drop the future when the client goes away: nothing is left behind.
    pub async fn authenticate(&self, policy: &Policy, request: &RequestView<'_>) -> Result<Proof, Refusal> {
        verify::authenticate(policy, request, &*self.core.clock, &self.core.metrics, &mut ()).await
    }

    /// What [`authenticate`](Self::authenticate) would say to the same request, and why, step by step. It is the same
    /// judgement, and leaves none of its traces: nothing is counted, charged to the client's address, remembered as
    /// verified or used up. So an address over its budget is not told of. Keys that are not at hand are fetched, and an
    /// issuer that is introspected is asked, as for a request.
    pub async fn explain(&self, policy: &Policy, request: &RequestView<'_>) -> Explanation {
        let mut trail = Trail::default();
        let outcome = verify::authenticate(policy, request, &*self.core.clock, &self.core.metrics, &mut trail).await;
        trail.finish(outcome)
    }

    /// Asks the authorising service of the route that `forward_auth` was made for whether `request` may pass. At the
    /// worst it takes twice the service's timeout. Drop the future when the client goes away: what nobody waits for any
    /// more is given up.
    pub async fn authorize(&self, forward_auth: &ForwardAuth, request: &RequestView<'_>) -> Result<Decision, Refusal> {
        forward_auth.decide(request).await
    }

    /// The header fields that a client may not set, by the configuration in force.
    pub fn stripped_headers(&self) -> StrippedHeaders {
        self.core.world.load().stripped.clone()
    }

    /// Asks for an issuer's keys to be read now, outside its budget. False where there is no such issuer.
    pub fn refresh_keys(&self, issuer: &IssuerName) -> bool {
        let world = self.core.world.load();
        let found = world.issuers.get(issuer);
        if let Some(issuer) = found {
            issuer.keyring.request_now();
        }
        found.is_some()
    }

    /// The page of the public keys that identity tokens are signed with.
    pub fn identity_keys(&self) -> IdentityKeys {
        IdentityKeys { core: Arc::clone(&self.core) }
    }

    /// The unit's health.
    pub fn health(&self) -> &Health {
        &self.core.health
    }
}

/// A configuration checked and compiled, not yet in force. Routes get their policies from it; then it is committed, or
/// dropped without a trace.
#[derive(Debug)]
pub struct Prepared {
    core: Arc<Core>,
    config: Config,
    shared: Arc<Shared>,
    issuers: BTreeMap<IssuerName, Arc<Issuer>>,
    revocation: Arc<Plan>,
    remotes: Mutex<Remotes>,
    stripped: Mutex<Vec<HeaderName>>,
    parameters: Mutex<Vec<Box<str>>>,
    routes: Mutex<BTreeSet<RouteName>>,
}

impl Prepared {
    /// Compiles what a route, whose section `auth` stands at `at`, asks of a token.
    pub fn policy(&self, route: &RouteName, wanted: &RouteAuth, at: &Path) -> Result<Arc<Policy>, Vec<Fault>> {
        let mut faults = Faults::new();
        wanted.validate(at, &mut faults);
        let mut issuers: SmallVec<[Arc<Issuer>; 1]> = SmallVec::new();
        let mut introspection: Option<Arc<Introspector>> = None;
        for (index, name) in wanted.issuer_names().enumerate() {
            let here = if wanted.issuer.is_some() { at.key("issuer") } else { at.key("issuers").index(index) };
            if let Some(introspector) = self.remotes.lock().introspector(name) {
                if let Some(other) = introspection.replace(introspector) {
                    let why = format!(
                        "tokens of issuers {} and {name} are both introspected: a route can ask one",
                        other.name
                    );
                    faults.error(&here, why);
                }
                continue;
            }
            let Some(issuer) = self.issuers.get(name) else {
                faults.push(self.unknown_issuer(name, &here));
                continue;
            };
            // A token's `iss` is to lead to one issuer and one set of rules.
            match issuers.iter().find(|other| other.config.issuer == issuer.config.issuer) {
                Some(other) if other.id != issuer.id => {
                    faults.error(&here, format!("issuers {} and {name} of one route have the same iss", other.name));
                }
                _ => issuers.push(Arc::clone(issuer)),
            }
        }
        if faults.has_errors() {
            return Err(faults.into_vec());
        }
        let identity_token = match wanted.identity_token.as_ref().map(Spec::new).transpose() {
            Ok(spec) => spec.map(Arc::new),
            Err(why) => return Err(vec![Fault::error(&at.key("identity_token").key("header"), why)]),
        };
        let outcomes = RouteOutcomes::new(route.as_str(), self.core.metrics.clone());
        let policy = Policy::new(wanted, issuers, introspection, identity_token, Arc::clone(&self.shared), outcomes);
        self.strip(policy.own_headers());
        let mut parameters = self.parameters.lock();
        for name in policy.places.parameters() {
            if !parameters.iter().any(|known| **known == *name) {
                parameters.push(name.into());
            }
        }
        drop(parameters);
        self.routes.lock().insert(route.clone());
        Ok(Arc::new(policy))
    }

    /// Compiles the authorising service of `route`, whose section `forward_auth` stands at `at`. One that did not change
    /// keeps its connections, its breaker and its answers. Reads a CA file, so it is not for a service thread.
    pub fn forward_auth(
        &self,
        route: &RouteName,
        wanted: &ForwardAuthConfig,
        at: &Path,
    ) -> Result<Arc<ForwardAuth>, Vec<Fault>> {
        let made = self.remotes.lock().authorize(&self.core, route, wanted, at)?;
        self.strip(made.told().iter());
        Ok(made)
    }

    fn strip<'n>(&self, names: impl Iterator<Item = &'n HeaderName>) {
        let mut stripped = self.stripped.lock();
        for name in names {
            if !stripped.contains(name) {
                stripped.push(name.clone());
            }
        }
    }

    /// The header fields that a client may not set: those of every policy and service made so far. Ask when all are made.
    pub fn stripped_headers(&self) -> StrippedHeaders {
        StrippedHeaders::new(self.stripped.lock().clone())
    }

    /// The parameters of queries that may hold tokens, by every policy made so far. Ask when all are made.
    pub fn token_parameters(&self) -> TokenParameters {
        TokenParameters::new(self.parameters.lock().clone())
    }

    fn unknown_issuer(&self, name: &IssuerName, at: &Path) -> Fault {
        let remotes = self.remotes.lock();
        let known: Vec<_> = self.issuers.keys().chain(remotes.introspected()).map(IssuerName::as_str).collect();
        let help =
            if known.is_empty() { "no issuers are configured".into() } else { format!("known: {}", known.join(", ")) };
        Fault::error(at, format!("there is no issuer {name}")).help(help)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // Empty after a commit.
        self.core.forget_unused(self.issuers.keys());
        self.core.forget_unused_remotes(self.remotes.get_mut());
    }
}

impl Core {
    /// Begins the series of the routes that have a policy, and ends those of the `old` that have none any more.
    fn tell_routes(&self, old: &BTreeSet<RouteName>) {
        let world = self.world.load();
        world.routes.iter().for_each(|name| self.metrics.begin_route(name.as_str()));
        old.difference(&world.routes).for_each(|name| self.metrics.forget_route(name.as_str()));
    }

    /// Ends the series of issuers that are not, or no longer, in force.
    fn forget_unused<'n>(&self, names: impl Iterator<Item = &'n IssuerName>) {
        let world = self.world.load();
        names.filter(|name| !world.knows(name)).for_each(|name| self.metrics.forget(name.as_str()));
    }

    /// The same for what asks other services.
    fn forget_unused_remotes(&self, gone: &Remotes) {
        self.forget_unused(gone.introspected());
        let world = self.world.load();
        gone.authorized()
            .filter(|route| !world.remotes.authorizes(route))
            .for_each(|route| self.metrics.forward_auth.forget(route.as_str()));
    }

    /// Sets the unit's health by the state of its issuers and of revocations: starting until each issuer was asked for its
    /// keys once and revocations were looked for where they are to be, degraded while an issuer has no usable keys, or
    /// something is failing to be heard or stored, or a service that is to be asked is. It never is unavailable: routes
    /// without tokens, and other issuers, work all the same.
    pub(crate) fn tell_health(&self) {
        let world = self.world.load();
        let settled = || world.issuers.values().all(|issuer| issuer.keyring.is_settled());
        if self.health.get() == State::Starting && (!settled() || self.revocations.is_settling()) {
            return;
        }
        let complaints: Vec<_> = world
            .issuers
            .values()
            .filter_map(|issuer| Some(format!("issuer {}: {}", issuer.name, issuer.keyring.complaint()?)))
            .chain(self.revocations.complaints())
            .chain(world.remotes.complaints())
            .collect();
        let state = if complaints.is_empty() { State::Ready } else { State::Degraded(complaints.join("; ")) };
        self.health.set(state);
    }
}
