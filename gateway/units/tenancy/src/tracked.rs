//! What is remembered of tenants: bounded in number, spread over shards.
//!
//! An entry is forgotten only to make room, and only while no request of its tenant is under way, so that a limit on
//! requests at once cannot be escaped by crowding a tenant out. Among the few entries that are looked at, the one whose
//! bucket is nearest to full goes, since least is lost with it. If every tenant of a shard has requests under way, there
//! is no room, and the newcomer is refused.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hashbrown::HashTable;
use parking_lot::Mutex;
use sluice_vocabulary::TenantId;
use sluice_vocabulary::limiter::Bucket;
use sluice_vocabulary::share::Account;

/// What is remembered of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) bucket: Bucket,
    in_flight: AtomicU32,
    /// What its plugins use; made when the first of its requests passes one.
    plugins: OnceLock<Arc<Account>>,
}

impl Usage {
    /// Takes one of `most` places, if one is free.
    pub(crate) fn enter(&self, most: u32) -> bool {
        let enter = |current: u32| (current < most).then_some(current + 1);
        self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter).is_ok()
    }

    /// What its plugins use.
    pub(crate) fn plugins(&self) -> &Arc<Account> {
        self.plugins.get_or_init(Arc::default)
    }

    /// Gives the place back.
    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Usage by tenant.
#[derive(Debug)]
pub(crate) struct Tracked {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    most_per_shard: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    /// Positions in `entries`, by tenant.
    index: HashTable<usize>,
    entries: Vec<(TenantId, Arc<Usage>)>,
    /// Where the search for an entry to forget goes on.
    hand: usize,
}

/// What became of a wish to track a tenant.
#[derive(Debug)]
pub(crate) enum Entry {
    Known(Arc<Usage>),
    Added(Arc<Usage>),
    /// In the place of another.
    Replaced(Arc<Usage>),
    /// Every place is held by a tenant with requests under way.
    NoRoom,
}

impl Tracked {
    const SHARDS: usize = 64;
    const LOOKED_AT: usize = 16;

    pub(crate) fn new(most: usize) -> Self {
        Self {
            // Tenants may be named by clients, hence a keyed hash that they cannot predict.
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(Mutex::default).take(Self::SHARDS).collect(),
            most_per_shard: AtomicUsize::new(Self::per_shard(most)),
        }
    }

    /// Rounded up, so that a small bound leaves each shard at least one place.
    fn per_shard(most: usize) -> usize {
        most.div_ceil(Self::SHARDS).max(1)
    }

    /// Changes the bound. What is too much is forgotten as far as it rests; what does not goes when it may. Returns how
    /// many were forgotten.
    pub(crate) fn set_most(&self, most: usize, now: Instant) -> usize {
        let most = Self::per_shard(most);
        self.most_per_shard.store(most, Ordering::Relaxed);
        let mut forgotten = 0;
        for shard in &self.shards {
            let shard = &mut *shard.lock();
            while shard.entries.len() > most {
                let Some(position) = shard.choose_to_forget(Self::LOOKED_AT, now) else { break };
                shard.take(position, &self.hasher);
                forgotten += 1;
            }
        }
        forgotten
    }

    /// The tenant's usage, tracked from now on if it was not.
    pub(crate) fn of(&self, tenant: &TenantId, now: Instant) -> Entry {
        let hash = self.hasher.hash_one(tenant);
        let shard = &mut *self.shard(hash).lock();
        if let Some(position) = shard.position(tenant, hash) {
            return Entry::Known(Arc::clone(&shard.entries[position].1));
        }
        let usage = Arc::new(Usage::default());
        let most = self.most_per_shard.load(Ordering::Relaxed);
        let full = shard.entries.len() >= most;
        if full {
            let Some(position) = shard.choose_to_forget(Self::LOOKED_AT, now) else { return Entry::NoRoom };
            shard.take(position, &self.hasher);
        }
        shard.put(tenant.clone(), Arc::clone(&usage), hash, &self.hasher);
        if full { Entry::Replaced(usage) } else { Entry::Added(usage) }
    }

    /// Takes the tenant out, with its usage.
    pub(crate) fn take(&self, tenant: &TenantId) -> Option<Arc<Usage>> {
        let hash = self.hasher.hash_one(tenant);
        let shard = &mut *self.shard(hash).lock();
        let position = shard.position(tenant, hash)?;
        Some(shard.take(position, &self.hasher))
    }

    /// Puts a tenant in with the usage it has, over the bound if need be. If it is tracked already, that stays.
    pub(crate) fn put(&self, tenant: &TenantId, usage: Arc<Usage>) -> bool {
        let hash = self.hasher.hash_one(tenant);
        let shard = &mut *self.shard(hash).lock();
        let free = shard.position(tenant, hash).is_none();
        if free {
            shard.put(tenant.clone(), usage, hash, &self.hasher);
        }
        free
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // The table uses the lowest and highest bits; the shard is chosen by those between.
        &self.shards[(hash >> 24) as usize % Self::SHARDS]
    }
}

impl Shard {
    fn position(&self, tenant: &TenantId, hash: u64) -> Option<usize> {
        self.index.find(hash, |&position| self.entries[position].0 == *tenant).copied()
    }

    fn put(&mut self, tenant: TenantId, usage: Arc<Usage>, hash: u64, hasher: &RandomState) {
        self.entries.push((tenant, usage));
        let entries = &self.entries;
        self.index.insert_unique(hash, entries.len() - 1, |&position| hasher.hash_one(&entries[position].0));
    }

    /// The last entry moves into the place that becomes free.
    fn take(&mut self, position: usize, hasher: &RandomState) -> Arc<Usage> {
        let (tenant, usage) = self.entries.swap_remove(position);
        if let Ok(found) = self.index.find_entry(hasher.hash_one(&tenant), |&other| other == position) {
            found.remove();
        }
        let moved_from = self.entries.len();
        if let Some((moved, _)) = self.entries.get(position)
            && let Some(entry) = self.index.find_mut(hasher.hash_one(moved), |&other| other == moved_from)
        {
            *entry = position;
        }
        usage
    }

    /// The first of the next few resting entries whose bucket is full, else the one of them nearest to full; if none of
    /// the few rests, the first that does.
    fn choose_to_forget(&mut self, looked_at: usize, now: Instant) -> Option<usize> {
        let count = self.entries.len();
        let mut best = None;
        for step in 0..count {
            if step >= looked_at && best.is_some() {
                break;
            }
            let position = (self.hand + step) % count;
            let usage = &self.entries[position].1;
            // References are handed out under this shard's lock alone, so that one reference means nobody else has any.
            if Arc::strong_count(usage) > 1 {
                continue;
            }
            let full_after = usage.bucket.full_after(now);
            if best.is_none_or(|(least, _)| full_after < least) {
                best = Some((full_after, position));
            }
            if full_after.is_zero() {
                break;
            }
        }
        let (_, position) = best?;
        self.hand = position + 1;
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn tenant(number: usize) -> TenantId {
        TenantId::new(&format!("t{number}")).unwrap()
    }

    fn tracked(store: &Tracked) -> usize {
        store.shards.iter().map(|shard| shard.lock().entries.len()).sum()
    }

    #[test]
    fn who_has_requests_under_way_is_not_forgotten() {
        let store = Tracked::new(64);
        let now = Instant::now();
        let Entry::Added(held) = store.of(&tenant(0), now) else { panic!("not added") };
        let mut refused = 0;
        for other in 1..2_000 {
            refused += usize::from(matches!(store.of(&tenant(other), now), Entry::NoRoom));
        }
        assert!(refused > 0 && tracked(&store) <= 64);
        assert!(matches!(store.of(&tenant(0), now), Entry::Known(same) if Arc::ptr_eq(&same, &held)));
    }

    #[test]
    fn a_lower_bound_forgets_who_rests() {
        let store = Tracked::new(6_400);
        let now = Instant::now();
        let held: Vec<_> = (0..1_000).map(|number| store.of(&tenant(number), now)).collect();
        store.set_most(64, now);
        assert_eq!(tracked(&store), 1_000);
        drop(held);
        assert!(store.set_most(64, now) >= 900);
        assert!(tracked(&store) <= 64);
    }

    proptest! {
        #[test]
        fn the_index_always_leads_to_the_right_tenant(
            steps in prop::collection::vec((0_usize..40, 0_u8..4), 1..300), most in 1_usize..30,
        ) {
            // All in one shard, so that places are taken over and given up often.
            let hasher = RandomState::new();
            let now = Instant::now();
            let mut shard = Shard::default();
            for (number, action) in steps {
                let tenant = tenant(number);
                let hash = hasher.hash_one(&tenant);
                match (shard.position(&tenant, hash), action) {
                    (Some(position), 0) => drop(shard.take(position, &hasher)),
                    (Some(_), _) => {}
                    (None, _) => {
                        if shard.entries.len() >= most {
                            let position = shard.choose_to_forget(4, now).unwrap();
                            shard.take(position, &hasher);
                        }
                        shard.put(tenant, Arc::default(), hash, &hasher);
                    }
                }
                prop_assert!(shard.entries.len() <= most && shard.index.len() == shard.entries.len());
                for (position, (tenant, _)) in shard.entries.iter().enumerate() {
                    prop_assert_eq!(shard.position(tenant, hasher.hash_one(tenant)), Some(position));
                }
            }
        }
    }
}
