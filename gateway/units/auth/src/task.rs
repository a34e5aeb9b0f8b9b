//! The unit's background work: keeping every issuer's keys fresh, ahead of need.
//!
//! One keeper per issuer reads its keys at once, then at every refresh, sooner when a request or an operator asks or a
//! file changes, and after failures at growing intervals from 1 s to 1 min. Keys of an issuer that has not been heard for
//! its stale window are withdrawn. All keepers end with the task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use tokio::task::{AbortHandle, JoinSet};

use crate::fetch::{FetchFault, Source};
use crate::issuer::Issuer;
use crate::jwk::KeySet;
use crate::unit::Core;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How often a file is looked at for a change.
const FILE_POLL: Duration = Duration::from_secs(1);

/// How often what has expired is dropped from the cache. It is not found there anyway; this gives its memory back.
const SWEEP: Duration = Duration::from_secs(60);

/// The unit's task.
#[derive(Debug)]
pub struct AuthTask {
    core: Arc<Core>,
}

impl AuthTask {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Task for AuthTask {
    fn health(&self) -> &Health {
        &self.core.health
    }

    fn run(&mut self, stop: Stop) -> BoxFuture<'_, ()> {
        Box::pin(run(Arc::clone(&self.core), stop))
    }
}

async fn run(core: Arc<Core>, mut stop: Stop) {
    let mut commits = core.commits.subscribe();
    // Dropped with this future, it ends every keeper.
    let mut keepers = JoinSet::new();
    let mut running: HashMap<u64, AbortHandle> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    core.tell_health();
    loop {
        commits.mark_unchanged();
        let world = core.world.load_full();
        running.retain(|id, keeper| {
            let stays = world.issuers.values().any(|issuer| issuer.id == *id);
            if !stays {
                keeper.abort();
            }
            stays
        });
        for issuer in world.issuers.values() {
            running.entry(issuer.id).or_insert_with(|| keepers.spawn(keep(Arc::clone(&core), Arc::clone(issuer))));
        }
        if let Some(mint) = world.shared.mint.clone().filter(|mint| mint.keeps()) {
            // A disk may be slow. One that fails is tried again at the next sweep.
            let _ = tokio::task::spawn_blocking(move || mint.keep()).await;
        }
        drop(world);
        tokio::select! {
            () = stop.stopped() => break,
            _ = commits.changed() => {}
            _ = sweep.tick() => core.world.load().shared.cache.sweep(core.clock.unix_seconds()),
            Some(ended) = keepers.join_next() => {
                // Keepers end by abort alone. One that panicked ends the task too: its supervisor counts that and begins
                // anew, with the keys had so far.
                if ended.is_err_and(|error| error.is_panic()) {
                    return;
                }
            }
        }
    }
    keepers.shutdown().await;
    core.health.set(State::Stopped);
}

/// Keeps one issuer's keys fresh, for ever.
async fn keep(core: Arc<Core>, issuer: Arc<Issuer>) {
    loop {
        // Taken before reading: a change during the read is then seen as one.
        let stamp = match &issuer.source {
            Source::File(file) => file.stamp().await,
            Source::Url(_) => None,
        };
        let delay = attempt(&core, &issuer).await;
        issuer.keyring.due(core.clock.now() + delay);
        let file_changed = async {
            let Source::File(file) = &issuer.source else { return std::future::pending().await };
            loop {
                tokio::time::sleep(FILE_POLL).await;
                if file.stamp().await != stamp {
                    return;
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = issuer.keyring.requested() => {}
            () = file_changed => {}
        }
    }
}

/// Reads the keys once. Gives the time until the next regular attempt.
async fn attempt(core: &Core, issuer: &Issuer) -> Duration {
    issuer.keyring.begin();
    let before = issuer.keyring.record();
    let outcome = issuer
        .source
        .read()
        .await
        .and_then(|document| KeySet::parse(&document, issuer.algorithms).map_err(FetchFault::from));
    let now = core.clock.now();
    let (withdrew, delay) = match outcome {
        Ok(keys) => {
            tell_keys(issuer, &keys, before.failures);
            issuer.metrics.fetched();
            issuer.metrics.keys.set(i64::try_from(keys.keys().len()).unwrap_or(i64::MAX));
            let refresh = issuer.config.jwks.refresh.get();
            (issuer.keyring.finish(Ok(keys), now), jittered(core, refresh, refresh / 10))
        }
        Err(fault) => {
            if before.failures == 0 {
                // On the edge alone; the rest is in the metrics.
                tracing::warn!(issuer = %issuer.name, source = issuer.source.describe(), error = %fault, "keys cannot be read");
            }
            issuer.metrics.fetch_failed(&fault);
            issuer.keyring.finish(Err(&fault), now);
            let stale = is_stale(issuer, before.heard, now) && issuer.keyring.drop_keys();
            if stale {
                tracing::error!(issuer = %issuer.name, "keys are stale and no longer used");
                issuer.metrics.keys.set(0);
            }
            let retry = retry_after(before.failures).min(issuer.config.jwks.refresh.get());
            (stale, jittered(core, retry, retry / 4))
        }
    };
    if withdrew {
        core.world.load().shared.cache.sweep(core.clock.unix_seconds());
    }
    core.tell_health();
    delay
}

fn is_stale(issuer: &Issuer, heard: Option<Instant>, now: Instant) -> bool {
    heard.is_some_and(|heard| now.saturating_duration_since(heard) >= issuer.config.jwks.stale.get())
}

/// The time to the next attempt after one that failed, `failures` having failed before it.
fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(6)).min(LAST_RETRY)
}

/// `base` and up to `extra` more, so that many gateways do not ask at one time.
fn jittered(core: &Core, base: Duration, extra: Duration) -> Duration {
    let bound = u64::try_from(extra.as_millis()).unwrap_or(u64::MAX);
    base + Duration::from_millis(core.random.below(bound))
}

/// Says in the log which keys came and went, and what could not be used.
fn tell_keys(issuer: &Issuer, keys: &KeySet, failures: u32) {
    let old = issuer.keyring.keys();
    let kids =
        |set: &KeySet| set.keys().iter().map(|key| key.kid().unwrap_or("(no kid)").to_owned()).collect::<Vec<_>>();
    let (before, after) = (old.as_deref().map(kids).unwrap_or_default(), kids(keys));
    if old.is_none() || before != after {
        tracing::info!(issuer = %issuer.name, ?before, ?after, "keys changed");
        for (kid, cause) in keys.left_out() {
            tracing::warn!(issuer = %issuer.name, ?kid, cause, "key left out");
        }
    } else if failures > 0 {
        tracing::info!(issuer = %issuer.name, failures, "keys can be read again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_grow_from_a_second_to_a_minute() {
        let seconds: Vec<_> = (0..9).map(|failures| retry_after(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(retry_after(u32::MAX), LAST_RETRY);
    }
}
