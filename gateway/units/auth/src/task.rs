//! The unit's background work: keeping every issuer's keys fresh, ahead of need.
//!
//! One keeper per issuer reads its keys at once, then at every refresh, sooner when a request or an operator asks or a
//! file changes, and after failures at growing intervals from 1 s to 1 min. What it reads is kept on disk, if a folder is
//! given. Keys of an earlier process are put in force when the first attempt fails or takes long; keys of an issuer that
//! has not been heard for its stale window are withdrawn. All keepers end with the task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use tokio::task::{AbortHandle, JoinSet};

use crate::fetch::Source;
use crate::issuer::Issuer;
use crate::jwk::KeySet;
use crate::unit::Core;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How often a file is looked at for a change.
const FILE_POLL: Duration = Duration::from_secs(1);

/// How long keys of an earlier process are held back for the issuer's answer: it may have withdrawn one meanwhile. Shorter
/// than requests wait by default.
const HOLD: Duration = Duration::from_secs(1);

/// How long a write to disk may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

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
    keepers.spawn(crate::revocation::tend(Arc::clone(&core)));
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
            _ = sweep.tick() => {
                let world = core.world.load();
                world.shared.cache.sweep(core.clock.unix_seconds());
                world.remotes.sweep();
            }
            () = core.around.changed.notified() => core.tell_health(),
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
    core.revocations.close();
    core.health.set(State::Stopped);
}

/// Keeps one issuer's keys fresh, for ever.
async fn keep(core: Arc<Core>, issuer: Arc<Issuer>) {
    if matches!(issuer.source, Source::Inline | Source::Secrets) {
        issuer.metrics.up.set(1);
        issuer.metrics.keys.set(issuer.keyring.keys().as_ref().map_or(0, |keys| count(keys)));
        core.tell_health();
        return std::future::pending().await;
    }
    loop {
        // Taken before reading: a change during the read is then seen as one.
        let stamp = match &issuer.source {
            Source::File(file) => file.stamp().await,
            Source::Url(_) | Source::Discovered(_) | Source::Inline | Source::Secrets => None,
        };
        let delay = while_time_passes(&core, &issuer, attempt(&core, &issuer)).await;
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
        let next = async {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = issuer.keyring.requested() => {}
                () = file_changed => {}
            }
        };
        while_time_passes(&core, &issuer, next).await;
    }
}

/// Does `work`, and meanwhile to the keys what comes with time alone: those of an earlier process are put in force when
/// the issuer is slow to answer, and those that become stale are withdrawn.
async fn while_time_passes<T>(core: &Core, issuer: &Issuer, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        let hold = async {
            if !issuer.keyring.is_holding() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(HOLD).await;
        };
        let window = async {
            match issuer.until_stale(core.clock.now()) {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = hold => {
                issuer.keyring.release(core.clock.now());
                tell_release(core, issuer);
            }
            () = window => {
                drop_if_stale(core, issuer);
                core.tell_health();
            }
        }
    }
}

/// Reads the keys once. Gives the time until the next regular attempt.
async fn attempt(core: &Core, issuer: &Issuer) -> Duration {
    issuer.keyring.begin();
    let before = issuer.keyring.record();
    let outcome = issuer.source.read(core.clock.now()).await.and_then(|fetched| {
        let keys = KeySet::parse(&fetched.document, issuer.algorithms)?;
        Ok((keys, fetched))
    });
    let now = core.clock.now();
    let delay = match outcome {
        Ok((keys, fetched)) => {
            tell_keys(issuer, &keys, before.failures);
            issuer.metrics.fetched();
            issuer.metrics.keys.set(count(&keys));
            if issuer.keyring.finish(Ok(keys), now) {
                sweep(core);
            }
            // Whoever waits for the keys need not wait for the disk.
            core.tell_health();
            keep_on_disk(core, issuer, fetched.document).await;
            until_refresh(core, issuer.config.jwks.refresh_bounds(), fetched.max_age)
        }
        Err(fault) => {
            if before.failures == 0 {
                // On the edge alone; the rest is in the metrics.
                tracing::warn!(issuer = %issuer.name, source = issuer.source.describe(), error = %fault, "keys cannot be read");
            }
            issuer.metrics.fetch_failed(&fault);
            let held = issuer.keyring.is_holding();
            issuer.keyring.finish(Err(&fault), now);
            if held {
                tell_release(core, issuer);
            }
            drop_if_stale(core, issuer);
            let retry = retry_after(before.failures).min(issuer.config.jwks.refresh.get());
            retry + chance(core, retry / 4)
        }
    };
    core.tell_health();
    delay
}

/// Keeps `document`, which the issuer gave just now, for the next process.
async fn keep_on_disk(core: &Core, issuer: &Issuer, document: Bytes) {
    let Some(shelf) = issuer.shelf.clone() else { return };
    let heard = core.clock.unix_seconds();
    let writing = tokio::task::spawn_blocking(move || shelf.store(&document, heard));
    let outcome = match tokio::time::timeout(STORE_TIMEOUT, writing).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err("the write ended early".into()),
        Err(_) => Err(format!("the disk did not take them within {STORE_TIMEOUT:?}")),
    };
    if let Err(why) = &outcome {
        issuer.metrics.unkept.inc();
        if issuer.keyring.record().unkept.is_none() {
            tracing::warn!(issuer = %issuer.name, error = why, "keys are not kept for a restart");
        }
    }
    issuer.keyring.note_keeping(outcome);
}

/// Withdraws the keys if their issuer was not heard for its stale window.
fn drop_if_stale(core: &Core, issuer: &Issuer) {
    if issuer.until_stale(core.clock.now()).is_some_and(|left| left.is_zero()) && issuer.keyring.drop_keys() {
        tracing::error!(issuer = %issuer.name, "keys are stale and no longer used");
        issuer.metrics.keys.set(0);
        sweep(core);
    }
}

/// Gives back the memory of tokens whose keys are withdrawn. They are not found any more as it is.
fn sweep(core: &Core) {
    core.world.load().shared.cache.sweep(core.clock.unix_seconds());
}

/// The time to the next regular attempt after one that went well: as the answer said within `bounds`, or their upper one,
/// and up to a tenth less, so that many gateways do not ask at one time. Never more, since it is what bounds how long a
/// new key can stay unknown and an old one good.
fn until_refresh(core: &Core, bounds: (Duration, Duration), max_age: Option<Duration>) -> Duration {
    let (least, most) = bounds;
    let wanted = max_age.map_or(most, |age| age.clamp(least, most));
    wanted - chance(core, wanted / 10)
}

/// The time to the next attempt after one that failed, `failures` having failed before it.
fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(6)).min(LAST_RETRY)
}

/// Any time below `bound`.
fn chance(core: &Core, bound: Duration) -> Duration {
    Duration::from_millis(core.random.below(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX)))
}

fn count(keys: &KeySet) -> i64 {
    i64::try_from(keys.keys().len()).unwrap_or(i64::MAX)
}

/// Says that keys of an earlier process are in force, if they are.
fn tell_release(core: &Core, issuer: &Issuer) {
    if let Some(keys) = issuer.keyring.keys().as_ref()
        && issuer.keyring.record().restored
    {
        tracing::warn!(issuer = %issuer.name, "the issuer is not heard: using keys that an earlier process kept");
        issuer.metrics.keys.set(count(keys));
    }
    core.tell_health();
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
