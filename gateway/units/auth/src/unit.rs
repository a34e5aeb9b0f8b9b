//! The unit's outside: made once, reconfigured by prepare and commit, asked for each request.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::HeaderName;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustls::RootCertStore;
use sluice_vocabulary::clock::{Clock, Random};
use sluice_vocabulary::limiter::{KeyedLimiter, Rate};
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::unit::{Health, State};
use sluice_vocabulary::{Fault, Faults, IssuerName, Path, Refusal};
use smallvec::SmallVec;
use tokio::sync::watch;

use crate::cache::TokenCache;
use crate::challenge::Challenges;
use crate::config::{Config, IssuerConfig, RouteAuth, identity_header};
use crate::dpop::Dpop;
use crate::fetch;
use crate::issue::page::IdentityKeys;
use crate::issue::{Mint, MintDeps, Spec};
use crate::issuer::Issuer;
use crate::metrics::{KeyAgeCollector, Metrics};
use crate::policy::{Policy, Shared, StrippedHeaders};
use crate::task::AuthTask;
use crate::verify::{self, Verified};

/// What the unit asks of its composer.
#[derive(Debug)]
pub struct Deps {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for jitter.
    pub random: Arc<dyn Random>,
    /// The configuration's folder: where relative file names begin.
    pub base_dir: PathBuf,
}

/// What the handle and the task share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    base_dir: PathBuf,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
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
    stripped: StrippedHeaders,
}

/// The unit's constructor.
#[derive(Debug)]
pub struct Unit;

impl Unit {
    /// Makes the unit, without issuers until the first [`Handle::commit`]. Opens and starts nothing.
    #[expect(clippy::new_ret_no_self, reason = "a unit is its handle and its task")]
    pub fn new(config: &Config, deps: Deps, registry: &mut Registry) -> (Handle, AuthTask) {
        let metrics = Metrics::new(registry);
        let world = World {
            config: config.clone(),
            shared: Arc::new(share(config, None, None, &metrics)),
            issuers: BTreeMap::new(),
            stripped: StrippedHeaders::default(),
        };
        let core = Arc::new(Core {
            clock: deps.clock,
            random: deps.random,
            base_dir: deps.base_dir,
            metrics,
            health: Health::new("auth"),
            world: ArcSwap::from_pointee(world),
            commits: watch::Sender::new(0),
            next_issuer: AtomicU64::new(1),
        });
        registry.register_collector(Box::new(KeyAgeCollector(Arc::clone(&core) as _)));
        (Handle { core: Arc::clone(&core) }, AuthTask::new(core))
    }
}

/// What the policies of `config` share; cache and limiter are those of `old` where nothing about them changed.
fn share(config: &Config, old: Option<&World>, mint: Option<Arc<Mint>>, metrics: &Metrics) -> Shared {
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
    let dpop = Dpop::new(&config.dpop, &config.realm, old.map(|old| &old.shared.dpop), &metrics.proofs);
    Shared {
        cache,
        limiter,
        challenges: Challenges::new(&config.realm),
        dpop,
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
    /// keys. Reads CA files, so it is not for a service thread. The error holds every fault; paths begin at `auth` and
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
        let mut compiled = BTreeMap::new();
        for (name, wanted) in issuers {
            if let Some(same) = old.issuers.get(name).filter(|issuer| issuer.config == *wanted) {
                compiled.insert(name.clone(), Arc::clone(same));
                continue;
            }
            let id = self.core.next_issuer.fetch_add(1, Ordering::Relaxed);
            let metrics = self.core.metrics.issuer(name.as_str());
            let made = Issuer::new(id, name.clone(), wanted.clone(), &self.core.base_dir, &mut system_roots, metrics);
            match made {
                Ok(issuer) => {
                    compiled.insert(name.clone(), Arc::new(issuer));
                }
                Err(why) => faults.error(&Path::root().key("issuers").key(name.as_str()).key("jwks"), why),
            }
        }
        if faults.has_errors() {
            self.core.forget_unused(issuers.keys());
            return Err(faults.into_vec());
        }
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
        let shared = Arc::new(share(config, Some(&old), Some(mint), &self.core.metrics));
        let core = Arc::clone(&self.core);
        Ok(Prepared { core, config: config.clone(), shared, issuers: compiled, stripped: Mutex::default() })
    }

    /// Puts a prepared configuration in force: the task begins to read the keys of new issuers, and what was verified
    /// by the rules of issuers that changed or went is void. Requests that began before keep their policies.
    pub fn commit(&self, mut prepared: Prepared) {
        let old = self.core.world.load_full();
        let issuers = std::mem::take(&mut prepared.issuers);
        for (name, issuer) in &issuers {
            // Other rules do not make other keys: requests need not wait for what is at hand.
            if let Some(old) = old.issuers.get(name).filter(|old| old.id != issuer.id && old.has_same_keys_as(issuer)) {
                issuer.keyring.inherit(&old.keyring);
            }
        }
        let world = World {
            stripped: prepared.stripped_headers(),
            config: prepared.config.clone(),
            shared: Arc::clone(&prepared.shared),
            issuers,
        };
        self.core.world.store(Arc::new(world));
        self.core.forget_unused(old.issuers.keys());
        self.core.tell_health();
        self.core.commits.send_modify(|count| *count += 1);
    }

    /// Verifies the token of `request` for the route whose policy this is. A token seen before is decided without
    /// waiting and without a lock that excludes other requests; at the worst, where the issuer's keys must be waited
    /// for, it takes `jwks.wait`. Drop the future when the client goes away: nothing is left behind.
    pub async fn authenticate(&self, policy: &Policy, request: &RequestView<'_>) -> Result<Verified, Refusal> {
        verify::authenticate(policy, request, &*self.core.clock, &self.core.metrics).await
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
    stripped: Mutex<Vec<HeaderName>>,
}

impl Prepared {
    /// Compiles what a route, whose section `auth` stands at `at`, asks of a token.
    pub fn policy(&self, wanted: &RouteAuth, at: &Path) -> Result<Arc<Policy>, Vec<Fault>> {
        let mut faults = Faults::new();
        wanted.validate(at, &mut faults);
        let mut issuers: SmallVec<[Arc<Issuer>; 1]> = SmallVec::new();
        for (index, name) in wanted.issuer_names().enumerate() {
            let here = if wanted.issuer.is_some() { at.key("issuer") } else { at.key("issuers").index(index) };
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
        let boxed = |scopes: &[String]| scopes.iter().map(|scope| scope.as_str().into()).collect::<Box<[Box<str>]>>();
        let headers: Box<[(HeaderName, Box<str>)]> = wanted
            .claims_to_headers
            .iter()
            .filter_map(|(header, claim)| Some((identity_header(header).ok()?, claim.as_str().into())))
            .collect();
        let identity_token = match wanted.identity_token.as_ref().map(Spec::new).transpose() {
            Ok(spec) => spec.map(Arc::new),
            Err(why) => return Err(vec![Fault::error(&at.key("identity_token").key("header"), why)]),
        };
        let mut stripped = self.stripped.lock();
        // A client's `Authorization` is what its token is read from; the upstream gets the gateway's in its place.
        let token_header = identity_token.iter().map(|spec| &spec.header).filter(|name| **name != AUTHORIZATION);
        for name in headers.iter().map(|(name, _)| name).chain(token_header) {
            if !stripped.contains(name) {
                stripped.push(name.clone());
            }
        }
        let scopes = wanted.scopes.all.iter().chain(&wanted.scopes.any).map(String::as_str);
        Ok(Arc::new(Policy {
            insufficient_scope: self.shared.challenges.insufficient_scope(scopes),
            shared: Arc::clone(&self.shared),
            issuers,
            all: boxed(&wanted.scopes.all),
            any: boxed(&wanted.scopes.any),
            headers,
            sender_constraint: wanted.sender_constraint,
            identity_token,
        }))
    }

    /// The header fields that a client may not set: those of every policy made so far. Ask when all are made.
    pub fn stripped_headers(&self) -> StrippedHeaders {
        StrippedHeaders::new(self.stripped.lock().clone())
    }

    fn unknown_issuer(&self, name: &IssuerName, at: &Path) -> Fault {
        let known: Vec<_> = self.issuers.keys().map(IssuerName::as_str).collect();
        let help =
            if known.is_empty() { "no issuers are configured".into() } else { format!("known: {}", known.join(", ")) };
        Fault::error(at, format!("there is no issuer {name}")).help(help)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // Empty after a commit.
        self.core.forget_unused(self.issuers.keys());
    }
}

impl Core {
    /// Ends the series of issuers that are not, or no longer, in force.
    fn forget_unused<'n>(&self, names: impl Iterator<Item = &'n IssuerName>) {
        let world = self.world.load();
        names.filter(|name| !world.issuers.contains_key(*name)).for_each(|name| self.metrics.forget(name.as_str()));
    }

    /// Sets the unit's health by the state of its issuers: starting until each was asked for its keys once, degraded
    /// while one has no usable keys or is failing to be heard. It never is unavailable: routes without tokens, and other
    /// issuers, work all the same.
    pub(crate) fn tell_health(&self) {
        let world = self.world.load();
        let untried = |issuer: &Arc<Issuer>| {
            let record = issuer.keyring.record();
            record.heard.is_none() && record.error.is_none()
        };
        if self.health.get() == State::Starting && world.issuers.values().any(untried) {
            return;
        }
        let complaints: Vec<_> = world
            .issuers
            .values()
            .filter_map(|issuer| {
                let record = issuer.keyring.record();
                match (issuer.keyring.keys().as_ref(), &record.error) {
                    (None, Some(error)) => Some(format!("issuer {}: no keys: {error}", issuer.name)),
                    (None, None) => Some(format!("issuer {}: its keys are not read yet", issuer.name)),
                    (Some(keys), _) if keys.keys().is_empty() => {
                        Some(format!("issuer {}: its key set holds no usable key", issuer.name))
                    }
                    (Some(_), Some(error)) => Some(format!("issuer {}: on its last good keys: {error}", issuer.name)),
                    (Some(_), None) => None,
                }
            })
            .collect();
        let state = if complaints.is_empty() { State::Ready } else { State::Degraded(complaints.join("; ")) };
        self.health.set(state);
    }
}
