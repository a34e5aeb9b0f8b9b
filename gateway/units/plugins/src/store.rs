//! What plugins keep from one request to the next: a small store in memory, of which every tenant of every plugin has a space
//! of its own.
//!
//! A space is cut into shards by its keys, each under a lock that is held for one look-up and one change. Bounds are counted
//! beside the locks, and are never exceeded: what has no room is refused, since to evict what a plugin counts on, a quota or
//! a ban, would undo a decision behind its back. What has expired is never found; its memory is given back when its shard is
//! next written to while the space is full, and by the sweep.
//!
//! Where it is kept on [`Disk`] as well, memory is what requests see, and each shard notes which of its keys have changed since
//! they were written.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use sluice_vocabulary::{PluginName, TenantId};

use crate::contract::key_value::{Entry as Told, StoreFault};
use crate::disk::{Changes, Disk, Found, NoDisk, Owner};

/// Bytes of a key.
const LONGEST_KEY: usize = 256;
/// Bytes of a value.
const LONGEST_VALUE: usize = 64 * 1024;
/// Bytes that all stores together may take.
const MOST_BYTES_IN_ALL: usize = 256 << 20;
/// Spaces that one plugin may have: one for each tenant that it has met and that has something in it.
const MOST_SPACES: usize = 10_000;
/// What an entry costs beside its key and value.
const BOOKKEEPING: usize = 112;
const SHARDS: usize = 16;
/// Changed keys of one shard that may wait for the disk: so no tenant takes all the room there is for those.
const MOST_CHANGED: usize = 2048;

type Hasher = foldhash::fast::RandomState;

/// What all stores share.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    bytes: AtomicUsize,
    /// The version given last: none is given twice.
    version: AtomicU64,
}

/// How much a space may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// One plugin's store.
#[derive(Debug)]
pub(crate) struct Store {
    whole: Arc<Whole>,
    room: RwLock<Room>,
    spaces: RwLock<HashMap<Option<TenantId>, Arc<Space>, Hasher>>,
    kept: RwLock<Option<Kept>>,
}

/// Where a store is kept beside memory.
#[derive(Debug, Clone)]
struct Kept {
    disk: Arc<Disk>,
    plugin: PluginName,
}

/// What one tenant's requests have there.
#[derive(Debug, Default)]
pub(crate) struct Space {
    shards: [Mutex<Shard>; SHARDS],
    hasher: Hasher,
    entries: AtomicUsize,
    bytes: AtomicUsize,
    /// Whether the disk knows that something has changed here.
    is_told_of: AtomicBool,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Box<str>, Record, Hasher>,
    /// Keys whose change is not on disk yet; none where the store is not kept there.
    changed: HashSet<Box<str>, Hasher>,
}

/// What a key has.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) value: Arc<[u8]>,
    pub(crate) version: u64,
    pub(crate) expires: Option<Instant>,
}

impl Record {
    fn is_good(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether it is one that could have been written under this key.
    pub(crate) fn is_sound(&self, key: &str) -> bool {
        check_key(key).is_ok() && self.value.len() <= LONGEST_VALUE
    }
}

/// When what is written now is to expire: after so many milliseconds, or never.
fn expiry(now: Instant, millis: Option<u64>) -> Option<Instant> {
    // What no clock can tell is as good as never.
    millis.and_then(|millis| now.checked_add(Duration::from_millis(millis)))
}

fn size(key: &str, value: &[u8]) -> usize {
    BOOKKEEPING + key.len() + value.len()
}

impl Store {
    pub(crate) fn new(whole: Arc<Whole>, room: Room) -> Self {
        Self { whole, room: RwLock::new(room), spaces: RwLock::default(), kept: RwLock::default() }
    }

    /// Keeps it on disk from now on: what is there of this plugin comes back, unless memory has something under its key, and
    /// all of it is there from now on. Nothing happens if it is kept there already. Waits for the disk.
    pub(crate) fn keep_on(&self, disk: &Arc<Disk>, plugin: &PluginName) -> Result<(), NoDisk> {
        if self.kept.read().as_ref().is_some_and(|kept| Arc::ptr_eq(&kept.disk, disk)) {
            return Ok(());
        }
        let found = disk.read(plugin)?;
        let newest = found.iter().map(|found| found.record.version).max().unwrap_or(0);
        self.whole.version.fetch_max(newest.max(disk.first_version()), Ordering::Relaxed);
        let kept = Kept { disk: Arc::clone(disk), plugin: plugin.clone() };
        *self.kept.write() = Some(kept.clone());
        for (tenant, space) in self.every_space() {
            for shard in &space.shards {
                let shard = &mut *shard.lock();
                for key in shard.entries.keys() {
                    if shard.changed.insert(key.clone()) {
                        disk.admit_anyway(1);
                    }
                }
            }
            space.tell(&kept, tenant.as_ref());
        }
        let left = found.into_iter().map(|found| self.take_back(found)).filter(Result::is_err).count();
        if left > 0 {
            tracing::warn!(%plugin, left, "entries of a plugin's store on disk have no room in memory");
        }
        Ok(())
    }

    /// Keeps it in memory alone from now on, and leaves nothing on disk. Waits for the disk.
    pub(crate) fn keep_no_longer(&self) -> Result<(), NoDisk> {
        let Some(Kept { disk, plugin }) = self.kept.write().take() else { return Ok(()) };
        // What still waits is written first, and so cannot come back after.
        disk.forget(&plugin)
    }

    /// Whether it outlives the process.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.read().is_some()
    }

    /// One record of an earlier life. What memory has under its key is newer.
    fn take_back(&self, found: Found) -> Result<(), StoreFault> {
        let Found { tenant, key, record } = found;
        let space = self.space_or_new(tenant.as_ref())?;
        let mut shard = space.shard(&key).lock();
        if shard.entries.contains_key(&key) || shard.changed.contains(&key) {
            return Ok(());
        }
        // What there was room for once is not to be lost because the operator has come to allow less since.
        let bytes = size(&key, &record.value);
        grow(&self.whole.bytes, bytes, MOST_BYTES_IN_ALL)?;
        space.bytes.fetch_add(bytes, Ordering::Relaxed);
        space.entries.fetch_add(1, Ordering::Relaxed);
        shard.entries.insert(key, record);
        Ok(())
    }

    /// Changes the bounds. What is there stays, even beyond them.
    pub(crate) fn resize(&self, room: Room) {
        *self.room.write() = room;
    }

    pub(crate) fn get(&self, tenant: Option<&TenantId>, key: &str, now: Instant) -> Result<Option<Told>, StoreFault> {
        check_key(key)?;
        let Some(space) = self.space(tenant) else { return Ok(None) };
        let shard = space.shard(key).lock();
        let entry = shard.entries.get(key).filter(|entry| entry.is_good(now));
        Ok(entry.map(|entry| Told { value: entry.value.to_vec(), version: entry.version }))
    }

    /// Writes whatever was there; gives the new version.
    pub(crate) fn set(
        &self,
        tenant: Option<&TenantId>,
        key: &str,
        value: &[u8],
        expires: Option<u64>,
        now: Instant,
    ) -> Result<u64, StoreFault> {
        let written = self.change(tenant, key, now, |_| Ok(Some((value.into(), expiry(now, expires)))))?;
        // Nothing declines above.
        written.ok_or(StoreFault::Invalid)
    }

    /// Writes if the version is the one expected, none for a key that must not be there; none where it is another.
    pub(crate) fn compare_and_swap(
        &self,
        tenant: Option<&TenantId>,
        key: &str,
        expected: Option<u64>,
        value: &[u8],
        expires: Option<u64>,
        now: Instant,
    ) -> Result<Option<u64>, StoreFault> {
        self.change(tenant, key, now, |entry| {
            let is_it = entry.map(|entry| entry.version) == expected;
            Ok(is_it.then(|| (value.into(), expiry(now, expires))))
        })
    }

    /// Adds to a number; gives the sum. One that was not there begins at 0, and its time begins.
    pub(crate) fn increment(
        &self,
        tenant: Option<&TenantId>,
        key: &str,
        amount: i64,
        expires: Option<u64>,
        now: Instant,
    ) -> Result<i64, StoreFault> {
        let mut sum = amount;
        self.change(tenant, key, now, |entry| {
            let expires = match entry {
                Some(entry) => {
                    let number = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<i64>().ok());
                    sum = number.and_then(|number| number.checked_add(amount)).ok_or(StoreFault::NotANumber)?;
                    entry.expires
                }
                None => expiry(now, expires),
            };
            Ok(Some((sum.to_string().into_bytes().into(), expires)))
        })?;
        Ok(sum)
    }

    /// Removes; whether it was there.
    pub(crate) fn delete(&self, tenant: Option<&TenantId>, key: &str, now: Instant) -> Result<bool, StoreFault> {
        check_key(key)?;
        let Some(space) = self.space(tenant) else { return Ok(false) };
        let mut shard = space.shard(key).lock();
        let Some(entry) = shard.entries.remove(key) else { return Ok(false) };
        self.give_back(&space, size(key, &entry.value));
        // It must go from the disk too, however much waits there: it was admitted when it was written.
        if let Some(kept) = &*self.kept.read() {
            shard.note_anyway(key, kept);
            drop(shard);
            space.tell(kept, tenant);
        }
        Ok(entry.is_good(now))
    }

    /// Gives back the memory of what has expired, and the spaces that hold nothing.
    pub(crate) fn sweep(&self, now: Instant) {
        for (tenant, space) in self.every_space() {
            let mut has_changed = false;
            for shard in &space.shards {
                let mut shard = shard.lock();
                has_changed |= self.sweep_shard(&space, &mut shard, now, self.kept.read().as_ref());
            }
            if let Some(kept) = self.kept.read().as_ref().filter(|_| has_changed) {
                space.tell(kept, tenant.as_ref());
            }
        }
        // A space that somebody is about to write to, or to write to the disk, is held by him, and stays.
        self.spaces
            .write()
            .retain(|_, space| Arc::strong_count(space) > 1 || space.entries.load(Ordering::Relaxed) > 0);
    }

    fn every_space(&self) -> Vec<(Option<TenantId>, Arc<Space>)> {
        self.spaces.read().iter().map(|(tenant, space)| (tenant.clone(), Arc::clone(space))).collect()
    }

    /// Entries and bytes held now.
    pub(crate) fn held(&self) -> (usize, usize) {
        let spaces = self.spaces.read();
        let sum = |of: fn(&Space) -> &AtomicUsize| spaces.values().map(|space| of(space).load(Ordering::Relaxed)).sum();
        (sum(|space| &space.entries), sum(|space| &space.bytes))
    }

    /// Looks at the entry of a key and writes what `decide` makes of it, as one step. None where that is nothing.
    fn change(
        &self,
        tenant: Option<&TenantId>,
        key: &str,
        now: Instant,
        decide: impl FnOnce(Option<&Record>) -> Result<Option<(Arc<[u8]>, Option<Instant>)>, StoreFault>,
    ) -> Result<Option<u64>, StoreFault> {
        check_key(key)?;
        let space = self.space_or_new(tenant)?;
        let mut shard = space.shard(key).lock();
        let before = shard.entries.get(key);
        let Some((value, expires)) = decide(before.filter(|entry| entry.is_good(now)))? else { return Ok(None) };
        if value.len() > LONGEST_VALUE {
            return Err(StoreFault::Invalid);
        }
        let (had, needs) = (before.map(|entry| size(key, &entry.value)), size(key, &value));
        let kept = self.kept.read();
        if let Some(kept) = &*kept {
            shard.note(key, kept)?;
        }
        let mut taken = self.take(&space, had, needs);
        if taken.is_err() {
            self.sweep_shard(&space, &mut shard, now, kept.as_ref());
            // It may have been swept itself.
            let had = shard.entries.get(key).map(|entry| size(key, &entry.value));
            taken = self.take(&space, had, needs);
        }
        let version = taken.map(|()| self.whole.version.fetch_add(1, Ordering::Relaxed) + 1);
        if let Ok(version) = version {
            shard.entries.insert(key.into(), Record { value, version, expires });
        }
        drop(shard);
        // Also where there was no room: what was swept has changed.
        if let Some(kept) = &*kept {
            space.tell(kept, tenant);
        }
        version.map(Some)
    }

    fn space(&self, tenant: Option<&TenantId>) -> Option<Arc<Space>> {
        self.spaces.read().get(&tenant.cloned()).cloned()
    }

    fn space_or_new(&self, tenant: Option<&TenantId>) -> Result<Arc<Space>, StoreFault> {
        if let Some(space) = self.space(tenant) {
            return Ok(space);
        }
        let mut spaces = self.spaces.write();
        if spaces.len() >= MOST_SPACES && !spaces.contains_key(&tenant.cloned()) {
            return Err(StoreFault::Full);
        }
        Ok(Arc::clone(spaces.entry(tenant.cloned()).or_default()))
    }

    /// Makes room for an entry in the place of one that had so many bytes, if there was one; or changes nothing.
    fn take(&self, space: &Space, had: Option<usize>, needs: usize) -> Result<(), StoreFault> {
        let room = *self.room.read();
        let more_entries = usize::from(had.is_none());
        let (more, less) = (needs.saturating_sub(had.unwrap_or(0)), had.unwrap_or(0).saturating_sub(needs));
        grow(&space.entries, more_entries, room.entries)?;
        if let Err(full) = grow(&space.bytes, more, room.bytes) {
            space.entries.fetch_sub(more_entries, Ordering::Relaxed);
            return Err(full);
        }
        if let Err(full) = grow(&self.whole.bytes, more, MOST_BYTES_IN_ALL) {
            space.entries.fetch_sub(more_entries, Ordering::Relaxed);
            space.bytes.fetch_sub(more, Ordering::Relaxed);
            return Err(full);
        }
        space.bytes.fetch_sub(less, Ordering::Relaxed);
        self.whole.bytes.fetch_sub(less, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, space: &Space, bytes: usize) {
        space.entries.fetch_sub(1, Ordering::Relaxed);
        space.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.whole.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether anything went.
    fn sweep_shard(&self, space: &Space, shard: &mut Shard, now: Instant, kept: Option<&Kept>) -> bool {
        let Shard { entries, changed } = shard;
        let before = entries.len();
        entries.retain(|key, entry| {
            let stays = entry.is_good(now);
            if !stays {
                self.give_back(space, size(key, &entry.value));
                if let Some(kept) = kept
                    && changed.insert(key.clone())
                {
                    kept.disk.admit_anyway(1);
                }
            }
            stays
        });
        entries.len() < before
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let (_, bytes) = self.held();
        self.whole.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Space {
    fn shard(&self, key: &str) -> &Mutex<Shard> {
        // Not the bits that the map inside goes by.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }

    /// Has the disk know of what was noted here, unless it knows that something was.
    fn tell(self: &Arc<Self>, kept: &Kept, tenant: Option<&TenantId>) {
        if !self.is_told_of.swap(true, Ordering::AcqRel) {
            let owner = Owner { plugin: kept.plugin.clone(), tenant: tenant.cloned() };
            kept.disk.has_changed(owner, Arc::clone(self));
        }
    }

    /// What has changed since this was asked last.
    pub(crate) fn take_changes(&self) -> Changes {
        // Before anything is looked at: whoever changes something from now on tells of it again.
        self.is_told_of.store(false, Ordering::Release);
        let mut changes = Vec::new();
        for shard in &self.shards {
            let Shard { entries, changed } = &mut *shard.lock();
            changes.extend(changed.drain().map(|key| {
                let record = entries.get(&key).cloned();
                (key, record)
            }));
        }
        changes
    }

    /// Notes again what could not be written.
    pub(crate) fn put_back(self: &Arc<Self>, keys: impl Iterator<Item = Box<str>>, disk: &Arc<Disk>, owner: Owner) {
        for key in keys {
            if self.shard(&key).lock().changed.insert(key) {
                disk.admit_anyway(1);
            }
        }
        if !self.is_told_of.swap(true, Ordering::AcqRel) {
            disk.has_changed(owner, Arc::clone(self));
        }
    }
}

impl Shard {
    /// Notes that a key is about to change; or that too much waits for the disk already.
    fn note(&mut self, key: &str, kept: &Kept) -> Result<(), StoreFault> {
        if self.changed.contains(key) {
            return Ok(());
        }
        if self.changed.len() >= MOST_CHANGED || !kept.disk.admit() {
            return Err(StoreFault::Full);
        }
        self.changed.insert(key.into());
        Ok(())
    }

    /// The same, however much waits.
    fn note_anyway(&mut self, key: &str, kept: &Kept) {
        if self.changed.insert(key.into()) {
            kept.disk.admit_anyway(1);
        }
    }
}

/// Adds to a count that may be at most so much; or changes nothing.
fn grow(count: &AtomicUsize, by: usize, most: usize) -> Result<(), StoreFault> {
    if by == 0 {
        return Ok(());
    }
    let added =
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| now.checked_add(by).filter(|sum| *sum <= most));
    added.map(drop).map_err(|_| StoreFault::Full)
}

fn check_key(key: &str) -> Result<(), StoreFault> {
    if (1..=LONGEST_KEY).contains(&key.len()) { Ok(()) } else { Err(StoreFault::Invalid) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn store(entries: usize, bytes: usize) -> Store {
        Store::new(Arc::default(), Room { entries, bytes })
    }

    fn tenant(name: &str) -> Option<TenantId> {
        Some(TenantId::new(name).unwrap())
    }

    fn value(store: &Store, key: &str, now: Instant) -> Option<Vec<u8>> {
        store.get(None, key, now).unwrap().map(|entry| entry.value)
    }

    #[test]
    fn every_tenant_has_a_space_of_its_own() {
        let (store, now) = (store(10, 10_000), Instant::now());
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        store.set(acme.as_ref(), "k", b"a", None, now).unwrap();
        assert!(store.get(globex.as_ref(), "k", now).unwrap().is_none() && value(&store, "k", now).is_none());
        assert_eq!(store.get(acme.as_ref(), "k", now).unwrap().unwrap().value, b"a");
        // One that fills its own takes nothing from the other.
        while store.increment(globex.as_ref(), &store.held().0.to_string(), 1, None, now).is_ok() {}
        assert_eq!(store.held().0, 11);
        assert!(store.set(acme.as_ref(), "more", b"b", None, now).is_ok());
    }

    #[test]
    fn a_version_is_good_for_one_swap() {
        let (store, now) = (store(10, 10_000), Instant::now());
        let swap = |expected, value: &[u8]| store.compare_and_swap(None, "k", expected, value, None, now).unwrap();
        let first = swap(None, b"1").unwrap();
        assert_eq!(swap(None, b"2"), None, "it is there");
        let second = swap(Some(first), b"2").unwrap();
        assert_eq!((swap(Some(first), b"3"), value(&store, "k", now)), (None, Some(b"2".to_vec())));
        store.delete(None, "k", now).unwrap();
        assert_eq!(swap(Some(second), b"4"), None, "it is gone");
        assert!(swap(None, b"5").unwrap() > second, "no version comes again");
    }

    #[test]
    fn numbers_are_added_to_and_a_window_begins_with_its_first_count() {
        let (store, now) = (store(10, 10_000), Instant::now());
        let add =
            |amount, after: u64| store.increment(None, "n", amount, Some(1_000), now + Duration::from_millis(after));
        assert_eq!([add(2, 0), add(3, 900), add(-1, 999), add(1, 1_000)], [Ok(2), Ok(5), Ok(4), Ok(1)]);
        store.set(None, "n", i64::MAX.to_string().as_bytes(), None, now).unwrap();
        assert_eq!(store.increment(None, "n", 1, None, now), Err(StoreFault::NotANumber));
        store.set(None, "n", b"seven", None, now).unwrap();
        assert_eq!(store.increment(None, "n", 1, None, now), Err(StoreFault::NotANumber));
        assert_eq!(value(&store, "n", now).unwrap(), b"seven");
    }

    #[test]
    fn what_is_no_key_or_too_long_a_value_is_invalid() {
        let (store, now) = (store(10, 1 << 20), Instant::now());
        for key in ["", &"k".repeat(257)] {
            assert_eq!(store.set(None, key, b"v", None, now), Err(StoreFault::Invalid));
            assert!(matches!(store.get(None, key, now), Err(StoreFault::Invalid)));
        }
        assert_eq!(store.set(None, "k", &[0; LONGEST_VALUE + 1], None, now), Err(StoreFault::Invalid));
        assert!(store.set(None, &"k".repeat(256), &[0; LONGEST_VALUE], None, now).is_ok());
    }

    #[test]
    fn a_full_space_refuses_and_what_has_expired_makes_room() {
        let (store, now) = (store(1_000, 40_000), Instant::now());
        let mut kept = 0;
        while store.set(None, &format!("k{kept}"), &[0; 100], Some(500), now).is_ok() {
            kept += 1;
        }
        assert!((150..=200).contains(&kept), "{kept}");
        assert_eq!(value(&store, "k0", now).unwrap().len(), 100, "nothing that is good was evicted");
        let later = now + Duration::from_millis(500);
        // A shard's own are given back when it is written to, all of them by the sweep.
        let mut tries = (0..).map(|n| store.set(None, &format!("l{n}"), &[0; 100], None, later).is_ok());
        assert!(tries.by_ref().take(kept).filter(|ok| *ok).count() > kept / 2);
        store.sweep(later + Duration::from_secs(1));
        assert!(value(&store, "k0", later).is_none());
        let (entries, bytes) = store.held();
        assert!(entries <= kept && bytes <= 40_000, "{entries} {bytes}");
    }

    #[test]
    fn an_empty_space_is_given_up_and_so_is_a_dropped_store() {
        let whole = Arc::new(Whole::default());
        let (store, now) = (Store::new(Arc::clone(&whole), Room { entries: 10, bytes: 10_000 }), Instant::now());
        for name in ["a", "b"] {
            store.set(tenant(name).as_ref(), "k", b"v", (name == "a").then_some(10), now).unwrap();
        }
        store.sweep(now + Duration::from_secs(1));
        assert_eq!((store.spaces.read().len(), store.held().0), (1, 1));
        drop(store);
        assert_eq!(whole.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn of_counts_made_by_many_at_once_none_is_lost() {
        let (store, now) = (store(10, 10_000), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        store.increment(None, "n", 1, None, now).unwrap();
                        let swapped = || {
                            let entry = store.get(None, "c", now).unwrap();
                            let (version, number) = entry.map_or((None, 0), |entry| {
                                (Some(entry.version), String::from_utf8(entry.value).unwrap().parse::<u64>().unwrap())
                            });
                            let next = (number + 1).to_string();
                            store.compare_and_swap(None, "c", version, next.as_bytes(), None, now).unwrap()
                        };
                        while swapped().is_none() {}
                    }
                });
            }
        });
        assert_eq!(
            (value(&store, "n", now).unwrap(), value(&store, "c", now).unwrap()),
            (b"8000".to_vec(), b"8000".to_vec())
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// The store is a map with expiry, as long as there is room, and its account is always right.
        #[test]
        fn it_holds_what_a_plain_map_would(
            steps in prop::collection::vec((0..4_u8, 0..6_usize, 0..300_usize, prop::option::of(0..50_u64), 0..20_u64), 0..200)
        ) {
            let (store, start) = (store(1_000, 1 << 20), Instant::now());
            let mut model: HashMap<String, (Vec<u8>, Option<Instant>)> = HashMap::new();
            let mut now = start;
            for (kind, key, length, expires, passed) in steps {
                now += Duration::from_millis(passed);
                let key = format!("k{key}");
                model.retain(|_, (_, until)| until.is_none_or(|until| now < until));
                let written = vec![b'x'; length];
                match kind {
                    0 => {
                        store.set(None, &key, &written, expires, now).unwrap();
                        model.insert(key, (written, expiry(now, expires)));
                    }
                    1 => prop_assert_eq!(store.delete(None, &key, now).unwrap(), model.remove(&key).is_some()),
                    2 => {
                        let swapped = store.compare_and_swap(None, &key, None, &written, expires, now).unwrap();
                        prop_assert_eq!(swapped.is_some(), !model.contains_key(&key));
                        model.entry(key).or_insert((written, expiry(now, expires)));
                    }
                    _ => store.sweep(now),
                }
                model.retain(|_, (_, until)| until.is_none_or(|until| now < until));
                for key in (0..6).map(|key| format!("k{key}")) {
                    prop_assert_eq!(value(&store, &key, now), model.get(&key).map(|(value, _)| value.clone()));
                }
            }
            store.sweep(now);
            let bytes = model.iter().filter(|(_, (_, until))| until.is_none_or(|until| now < until));
            let bytes: usize = bytes.map(|(key, (value, _))| size(key, value)).sum();
            prop_assert_eq!(store.held().1, bytes);
            prop_assert_eq!(store.whole.bytes.load(Ordering::Relaxed), bytes);
        }
    }
}
