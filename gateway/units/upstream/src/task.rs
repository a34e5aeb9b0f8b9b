//! The unit's background work: cut what is overdue, resolve names, ask endpoints how they are, read certificates again.
//!
//! One loop looks ten times a second at what is due; whatever may take time is done beside it, in tasks that the loop owns
//! and that end with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pingora_core::connectors::http::Connector;
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::address::Address;
use crate::cluster::Cluster;
use crate::endpoint::EndpointState;
use crate::handle::Handle;
use crate::health::{ask, jittered};
use crate::identity::{self, Identity};
use crate::time::{Epoch, Ticks};

/// How late a deadline may be noticed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often certificate files are compared with what was read.
const RELOAD_EVERY: Duration = Duration::from_secs(10);
/// How often a name that has no address yet is tried again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);
/// How long a resolver may take before the addresses known stay for another round.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
/// Set on what is being done, so that it is not begun twice.
const UNDER_WAY: Ticks = Ticks::MAX;

/// The unit's background work.
pub struct Keeper {
    handle: Handle,
    health: Health,
    /// For health checks alone; made when the first is due, since it reads the platform's authorities.
    connector: Option<Arc<Connector>>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("health", &self.health).finish_non_exhaustive()
    }
}

impl Task for Keeper {
    fn health(&self) -> &Health {
        &self.health
    }

    fn run(&mut self, stop: Stop) -> BoxFuture<'_, ()> {
        Box::pin(self.keep(stop))
    }
}

impl Keeper {
    pub(crate) fn new(handle: Handle, health: Health) -> Self {
        Self { handle, health, connector: None }
    }

    async fn keep(&mut self, mut stop: Stop) {
        // After a panic, what was under way is not any more.
        for cluster in self.handle.clusters() {
            forget_under_way(&cluster);
        }
        let mut looking = tokio::time::interval(LOOK_EVERY);
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beside = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.stopped() => break,
                _ = looking.tick() => {}
                () = self.handle.0.changed.notified() => {}
                Some(ended) = beside.join_next(), if !beside.is_empty() => {
                    if let Err(error) = ended
                        && error.is_panic()
                    {
                        // The supervisor restarts a task that panics; one that panics beside it must not hide.
                        std::panic::resume_unwind(error.into_panic());
                    }
                    continue;
                }
            }
            self.look(&mut beside);
        }
        beside.shutdown().await;
        self.health.set(State::Stopped);
    }

    fn look(&mut self, beside: &mut JoinSet<()>) {
        let cut = self.handle.0.core.lines.cut_overdue(LOOK_EVERY);
        if cut > 0 {
            tracing::debug!(connections = cut, "connections cut at their deadline");
        }
        let now = self.handle.0.core.epoch.now();
        let mut without = Vec::new();
        for cluster in self.handle.clusters() {
            self.resolve_if_due(&cluster, now, beside);
            self.reload_if_due(&cluster, now, beside);
            self.ask_if_due(&cluster, now, beside);
            let members = cluster.members();
            let usable = members.endpoints.iter().filter(|endpoint| endpoint.state.usable(now)).count();
            let metrics = &cluster.lasting.metrics;
            metrics.endpoints.set(i64::try_from(members.endpoints.len()).unwrap_or(i64::MAX));
            metrics.usable.set(i64::try_from(usable).unwrap_or(i64::MAX));
            if usable == 0 {
                without.push(cluster.name.as_str().to_owned());
            }
        }
        without.sort_unstable();
        self.health.set(if without.is_empty() {
            State::Ready
        } else {
            State::Degraded(format!("no usable endpoint: {}", without.join(", ")))
        });
    }

    fn resolve_if_due(&self, cluster: &Arc<Cluster>, now: Ticks, beside: &mut JoinSet<()>) {
        if cluster.names().next().is_none() || cluster.next_resolve.load(Ordering::Relaxed) > now {
            return;
        }
        cluster.next_resolve.store(UNDER_WAY, Ordering::Relaxed);
        let (cluster, handle) = (Arc::clone(cluster), self.handle.clone());
        beside.spawn(async move {
            let wait =
                if resolve(&cluster, &handle).await { cluster.config.resolve_every.get() } else { RESOLVE_AGAIN };
            let next = cluster.core.epoch.now().saturating_add(Epoch::length(wait));
            cluster.next_resolve.store(next, Ordering::Relaxed);
        });
    }

    fn reload_if_due(&self, cluster: &Arc<Cluster>, now: Ticks, beside: &mut JoinSet<()>) {
        let due = cluster.next_reload.load(Ordering::Relaxed);
        if due > now {
            return;
        }
        let next = now.saturating_add(Epoch::length(RELOAD_EVERY));
        if due == 0 {
            // It was read a moment ago, when the configuration was prepared.
            cluster.next_reload.store(next, Ordering::Relaxed);
            return;
        }
        if identity::files(&cluster.config, &cluster.base).is_empty() {
            cluster.next_reload.store(UNDER_WAY, Ordering::Relaxed);
            return;
        }
        cluster.next_reload.store(UNDER_WAY, Ordering::Relaxed);
        let cluster = Arc::clone(cluster);
        beside.spawn_blocking(move || {
            reload(&cluster);
            cluster.next_reload.store(next, Ordering::Relaxed);
        });
    }

    fn ask_if_due(&mut self, cluster: &Arc<Cluster>, now: Ticks, beside: &mut JoinSet<()>) {
        let Some(health) = &cluster.config.health else { return };
        for endpoint in &cluster.members().endpoints {
            let state = &endpoint.state;
            if state.next_question.load(Ordering::Relaxed) > now {
                continue;
            }
            state.next_question.store(UNDER_WAY, Ordering::Relaxed);
            let connector = self.connector.get_or_insert_with(|| Arc::new(Connector::new(None)));
            let (connector, cluster, state) = (Arc::clone(connector), Arc::clone(cluster), Arc::clone(state));
            let health = health.clone();
            beside.spawn(async move {
                let answer = ask(&connector, &cluster, &state, &health).await;
                take_in(&cluster, &state, &health, answer);
                let wait = jittered(health.interval.get(), cluster.core.random.below(1_000));
                let next = cluster.core.epoch.now().saturating_add(Epoch::length(wait));
                state.next_question.store(next, Ordering::Relaxed);
            });
        }
    }
}

/// Resolves all names of a cluster; says whether each has an address, new or known.
async fn resolve(cluster: &Arc<Cluster>, handle: &Handle) -> bool {
    let mut all = true;
    let mut changed = false;
    for name in cluster.names() {
        let Address::Name { host, port } = name else { continue };
        let looked_up = tokio::time::timeout(RESOLVE_WITHIN, tokio::net::lookup_host((&**host, *port))).await;
        let wrong = match looked_up {
            Ok(Ok(found)) => {
                let found: Vec<_> = found.collect();
                if found.is_empty() {
                    "no address".to_owned()
                } else {
                    if cluster.resolve(name, found) {
                        changed = true;
                        tracing::info!(upstream = %cluster.name, name = %name, "name resolved anew");
                    }
                    continue;
                }
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {RESOLVE_WITHIN:?}"),
        };
        cluster.lasting.metrics.resolve_failures.inc();
        let known = cluster.resolved().get(name).map_or(0, Vec::len);
        all &= known > 0;
        tracing::warn!(upstream = %cluster.name, name = %name, error = wrong, addresses.kept = known, "name not resolved");
    }
    if changed {
        handle.note_owners();
    }
    all
}

fn reload(cluster: &Cluster) {
    match Identity::load(&cluster.name, &cluster.config, &cluster.base) {
        Ok(identity) => {
            if cluster.identify(identity) {
                tracing::info!(upstream = %cluster.name, "certificates read anew");
            }
        }
        Err(bad) => {
            for bad in bad {
                tracing::warn!(upstream = %cluster.name, error = %bad, "certificates not read; the ones known stay");
            }
        }
    }
}

fn take_in(
    cluster: &Cluster,
    state: &EndpointState,
    health: &crate::config::HealthConfig,
    answer: pingora_error::Result<()>,
) {
    let good = answer.is_ok();
    if !good {
        cluster.lasting.metrics.health_failures.inc();
    }
    if !state.answered(good, health) {
        return;
    }
    match answer {
        Ok(()) => tracing::info!(upstream = %cluster.name, endpoint = %state.address, "endpoint healthy"),
        Err(error) => {
            tracing::warn!(upstream = %cluster.name, endpoint = %state.address, error = %error, "endpoint unhealthy");
        }
    }
}

fn forget_under_way(cluster: &Cluster) {
    for next in [&cluster.next_resolve, &cluster.next_reload] {
        let _ = next.compare_exchange(UNDER_WAY, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
    for endpoint in &cluster.members().endpoints {
        let next = &endpoint.state.next_question;
        let _ = next.compare_exchange(UNDER_WAY, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}
