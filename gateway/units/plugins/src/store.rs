//! What plugins keep from one request to the next: a small store in memory, of which every tenant of every plugin has a space
//! of its own.
//!
//! A space is cut into shards by its keys, each under a lock that is held for one look-up and one change. Bounds are counted
//! beside the locks, and are never exceeded: what has no room is refused, since to evict what a plugin counts on, a quota or
//! a ban, would undo a decision behind its back. What has expired is never found; its memory is given back when its shard is
//! next written to while the space is full, and by the sweep.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use sluice_vocabulary::TenantId;

use crate::contract::key_value::{Entry as Told, StoreFault};

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
}

/// What one tenant's requests have there.
#[derive(Debug, Default)]
struct Space {
    shards: [Mutex<HashMap<Box<str>, Entry, Hasher>>; SHARDS],
    hasher: Hasher,
    entries: AtomicUsize,
    bytes: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Entry {
    value: Arc<[u8]>,
    version: u64,
    expires: Option<Instant>,
}

impl Entry {
    fn is_good(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
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
        Self { whole, room: RwLock::new(room), spaces: RwLock::default() }
    }

    /// Changes the bounds. What is there stays, even beyond them.
    pub(crate) fn resize(&self, room: Room) {
        *self.room.write() = room;
    }

    pub(crate) fn get(&self, tenant: Option<&TenantId>, key: &str, now: Instant) -> Result<Option<Told>, StoreFault> {
        check_key(key)?;
        let Some(space) = self.space(tenant) else { return Ok(None) };
        let shard = space.shard(key).lock();
        let entry = shard.get(key).filter(|entry| entry.is_good(now));
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
        let removed = space.shard(key).lock().remove(key);
        Ok(removed.is_some_and(|entry| {
            self.give_back(&space, size(key, &entry.value));
            entry.is_good(now)
        }))
    }

    /// Gives back the memory of what has expired, and the spaces that hold nothing.
    pub(crate) fn sweep(&self, now: Instant) {
        let spaces: Vec<_> = self.spaces.read().values().cloned().collect();
        for space in spaces {
            for shard in &space.shards {
                self.sweep_shard(&space, &mut shard.lock(), now);
            }
        }
        // A space that somebody is about to write to is held by him, and stays.
        self.spaces
            .write()
            .retain(|_, space| Arc::strong_count(space) > 1 || space.entries.load(Ordering::Relaxed) > 0);
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
        decide: impl FnOnce(Option<&Entry>) -> Result<Option<(Arc<[u8]>, Option<Instant>)>, StoreFault>,
    ) -> Result<Option<u64>, StoreFault> {
        check_key(key)?;
        let space = self.space_or_new(tenant)?;
        let mut shard = space.shard(key).lock();
        let before = shard.get(key);
        let Some((value, expires)) = decide(before.filter(|entry| entry.is_good(now)))? else { return Ok(None) };
        if value.len() > LONGEST_VALUE {
            return Err(StoreFault::Invalid);
        }
        let (had, needs) = (before.map(|entry| size(key, &entry.value)), size(key, &value));
        if self.take(&space, had, needs).is_err() {
            self.sweep_shard(&space, &mut shard, now);
            // It may have been swept itself.
            let had = shard.get(key).map(|entry| size(key, &entry.value));
            self.take(&space, had, needs)?;
        }
        let version = self.whole.version.fetch_add(1, Ordering::Relaxed) + 1;
        shard.insert(key.into(), Entry { value, version, expires });
        Ok(Some(version))
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

    fn sweep_shard(&self, space: &Space, shard: &mut HashMap<Box<str>, Entry, Hasher>, now: Instant) {
        shard.retain(|key, entry| {
            let stays = entry.is_good(now);
            if !stays {
                self.give_back(space, size(key, &entry.value));
            }
            stays
        });
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let (_, bytes) = self.held();
        self.whole.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Space {
    fn shard(&self, key: &str) -> &Mutex<HashMap<Box<str>, Entry, Hasher>> {
        // Not the bits that the map inside goes by.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
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
