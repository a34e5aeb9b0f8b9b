//! Values found by whole keys, in bounded memory: what the caches of tokens, of answers and of decisions are made of.
//!
//! A value is found by its key: a keyed hash leads to it and every byte is compared, so no collision can lend one key's
//! value to another. What is no longer good, by its own word, is never found.
//!
//! The memory is cut into shards, each under its own read-write lock, so that a hit, even of one key that all requests
//! share, excludes nobody. A shard evicts by the clock algorithm: a hit sets a mark, the hand takes marks away and evicts
//! what has none or is no longer good. A new entry has no mark, hence what is used once leaves before what is used again.
//!
//! Whoever fills a cache with what may never be asked for again can say so ([`Shards::admits`]): once a shard is full, such a
//! key is let in only when it comes a second time.
//!
//! Bytes are bounded, not entries: each is counted with its key, its value and the bookkeeping around them. An entry may
//! have a quarter of a shard, which is 64 KiB or more where the bound is 256 KiB or more; a larger one is not kept.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use smallvec::SmallVec;

use crate::sightings::Sightings;

/// A shard is not made smaller than this, so that one large entry cannot empty it.
const SMALLEST_SHARD: usize = 256 * 1024;
const MOST_SHARDS: usize = 64;

/// What an entry costs beside itself: two reference counts, a table slot and its free-list slot, allocator rounding.
const BOOKKEEPING: usize = 96;

/// The part of a shard's bytes that marks of what was seen once take: about as many marks as the rest holds tokens.
const MARKS: usize = 256;

/// A value that may be kept.
pub(crate) trait Kept {
    /// What its time is told by.
    type Time: Copy;

    /// Whether it may still be given at `now`.
    fn is_good(&self, now: Self::Time) -> bool;
}

/// Keys and values in bounded memory. Without shards it keeps nothing.
pub(crate) struct Shards<V> {
    shards: Box<[Part<V>]>,
    /// Bytes of entries in one of them.
    shard_bytes: usize,
    hasher: RandomState,
    /// Bytes held, of this and of others that share the gauge.
    gauge: Gauge,
}

/// A shard, and what is known of it without its lock.
struct Part<V> {
    shard: RwLock<Shard<V>>,
    /// Whether something good had to go for want of room, and no sweep has made room since.
    is_full: AtomicBool,
    sightings: Sightings,
}

/// Entries in slots, and a table of slot numbers by hash.
struct Shard<V> {
    table: HashTable<u32>,
    slots: Vec<Option<Entry<V>>>,
    free: Vec<u32>,
    hand: usize,
    bytes: usize,
}

struct Entry<V> {
    hash: u64,
    key: Box<[u8]>,
    value: V,
    size: usize,
    used: AtomicBool,
}

/// Entries taken out under the lock, to be freed after it: a value may be many small allocations.
type Out<V> = SmallVec<[Entry<V>; 2]>;

impl<V: Kept> Shards<V> {
    /// At most `bytes`, told by `gauge`; 0 keeps nothing.
    pub(crate) fn new(bytes: usize, gauge: Gauge) -> Self {
        let count = match bytes / SMALLEST_SHARD {
            0 => usize::from(bytes > 0),
            // A power of two, so that a shard is chosen by a mask.
            room => 1 << room.min(MOST_SHARDS).ilog2(),
        };
        let shard_bytes = bytes.checked_div(count).unwrap_or(0);
        let part = || Part {
            shard: RwLock::new(Shard::new()),
            is_full: AtomicBool::new(false),
            sightings: Sightings::new(shard_bytes / MARKS),
        };
        let shards: Box<[_]> = (0..count).map(|_| part()).collect();
        let marks = shards.first().map_or(0, |part| part.sightings.bytes());
        Self { shards, shard_bytes: shard_bytes.saturating_sub(marks), hasher: RandomState::default(), gauge }
    }

    /// The keyed hash of `key`, for [`get`](Self::get) and [`insert`](Self::insert).
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// A copy of the value that is kept under `key`, is still good, and is `wanted`. Keys are told apart by `wanted` too:
    /// see [`insert`](Self::insert).
    pub(crate) fn get(&self, hash: u64, key: &[u8], now: V::Time, wanted: impl Fn(&V) -> bool) -> Option<V>
    where
        V: Clone,
    {
        self.with(hash, key, now, wanted, |entry| {
            // Reading first keeps the line shared between cores while the mark is set.
            if !entry.used.load(Ordering::Relaxed) {
                entry.used.store(true, Ordering::Relaxed);
            }
            entry.value.clone()
        })
    }

    /// What [`get`](Self::get) would give, which does not stay longer for it.
    pub(crate) fn peek(&self, hash: u64, key: &[u8], now: V::Time, wanted: impl Fn(&V) -> bool) -> Option<V>
    where
        V: Clone,
    {
        self.with(hash, key, now, wanted, |entry| entry.value.clone())
    }

    fn with<T>(
        &self,
        hash: u64,
        key: &[u8],
        now: V::Time,
        wanted: impl Fn(&V) -> bool,
        give: impl FnOnce(&Entry<V>) -> T,
    ) -> Option<T> {
        let shard = self.part(hash)?.shard.read();
        let entry = shard.slots[shard.find(hash, key, wanted)?].as_ref().filter(|entry| entry.value.is_good(now))?;
        Some(give(entry))
    }

    /// Whether a key that may never be asked for again is worth a place: while there is room, or when it comes again.
    pub(crate) fn admits(&self, hash: u64) -> bool {
        self.part(hash).is_some_and(|part| !part.is_full.load(Ordering::Relaxed) || part.sightings.again(hash))
    }

    /// Keeps `value`, whose memory beside itself is `size`, in place of one under `key` that is the `same`; that one goes
    /// even where this one is too large, or no longer good, to be kept. Says how many others, still good, had to go.
    pub(crate) fn insert(
        &self,
        hash: u64,
        key: &[u8],
        value: V,
        size: usize,
        now: V::Time,
        same: impl Fn(&V) -> bool,
    ) -> u64 {
        let Some(part) = self.part(hash) else { return 0 };
        let size = size_of::<Entry<V>>() + BOOKKEEPING + key.len() + size;
        // Made before the lock, as what goes is freed after it.
        let kept = (size <= self.shard_bytes / 4 && value.is_good(now)).then(|| Entry {
            hash,
            key: key.into(),
            value,
            size,
            used: AtomicBool::new(false),
        });
        let mut out = Out::new();
        let mut evicted = 0;
        let mut shard = part.shard.write();
        let before = shard.bytes;
        if let Some(slot) = shard.find(hash, key, same) {
            out.extend(shard.remove(slot));
        }
        if let Some(entry) = kept {
            evicted = shard.make_room(self.shard_bytes - size, now, &mut out);
            shard.put(entry);
        }
        let after = shard.bytes;
        drop(shard);
        if evicted > 0 && !part.is_full.load(Ordering::Relaxed) {
            part.is_full.store(true, Ordering::Relaxed);
        }
        self.count_bytes(before, after);
        evicted
    }

    /// Drops what is no longer good. It is not found anyway; this gives its memory back.
    pub(crate) fn sweep(&self, now: V::Time) {
        for part in &self.shards {
            let mut out = Out::new();
            let mut shard = part.shard.write();
            let before = shard.bytes;
            for slot in 0..shard.slots.len() {
                if shard.slots[slot].as_ref().is_some_and(|entry| !entry.value.is_good(now)) {
                    out.extend(shard.remove(slot));
                }
            }
            if shard.table.is_empty() {
                // Slots are not counted while nothing is in them, so they are not kept for ever.
                *shard = Shard::new();
            }
            let after = shard.bytes;
            drop(shard);
            if after < self.shard_bytes / 8 * 7 {
                part.is_full.store(false, Ordering::Relaxed);
            }
            self.count_bytes(before, after);
        }
    }
}

impl<V> Shards<V> {
    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|part| part.shard.read().bytes).sum()
    }

    /// Entries held now.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|part| part.shard.read().table.len()).sum()
    }

    fn part(&self, hash: u64) -> Option<&Part<V>> {
        // The table inside uses the low and the top bits; the middle is free.
        let index = (hash >> 32) as usize & self.shards.len().wrapping_sub(1);
        self.shards.get(index)
    }

    fn count_bytes(&self, before: usize, after: usize) {
        if before != after {
            // No cache comes near the range of i64.
            self.gauge.inc_by(after as i64 - before as i64);
        }
    }
}

impl<V> Drop for Shards<V> {
    fn drop(&mut self) {
        self.count_bytes(self.bytes(), 0);
    }
}

impl<V> std::fmt::Debug for Shards<V> {
    /// Without keys, which are credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shards").field("entries", &self.len()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl<V> Shard<V> {
    fn new() -> Self {
        Self { table: HashTable::new(), slots: Vec::new(), free: Vec::new(), hand: 0, bytes: 0 }
    }

    fn find(&self, hash: u64, key: &[u8], wanted: impl Fn(&V) -> bool) -> Option<usize> {
        let is_it = |slot: &u32| {
            self.slots[*slot as usize]
                .as_ref()
                .is_some_and(|entry| entry.hash == hash && *entry.key == *key && wanted(&entry.value))
        };
        self.table.find(hash, is_it).map(|slot| *slot as usize)
    }

    fn put(&mut self, entry: Entry<V>) {
        let hash = entry.hash;
        self.bytes += entry.size;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                // Bounded by bytes far below this.
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let slots = &self.slots;
        self.table.insert_unique(hash, slot, |slot| slots[*slot as usize].as_ref().map_or(0, |entry| entry.hash));
    }

    fn remove(&mut self, slot: usize) -> Option<Entry<V>> {
        let entry = self.slots[slot].take()?;
        if let Ok(found) = self.table.find_entry(entry.hash, |held| *held as usize == slot) {
            found.remove();
        }
        self.bytes -= entry.size;
        self.free.push(slot as u32);
        Some(entry)
    }
}

impl<V: Kept> Shard<V> {
    /// Evicts into `out` until no more than `target` bytes are held; says how many that were good had to go.
    fn make_room(&mut self, target: usize, now: V::Time, out: &mut Out<V>) -> u64 {
        let mut evicted = 0;
        // Two rounds are always enough: the first takes every mark away.
        let mut steps = 2 * self.slots.len() + 1;
        while self.bytes > target && steps > 0 {
            steps -= 1;
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let at = self.hand;
            self.hand += 1;
            let Some(entry) = &self.slots[at] else { continue };
            let good = entry.value.is_good(now);
            if good && entry.used.swap(false, Ordering::Relaxed) {
                continue;
            }
            out.extend(self.remove(at));
            evicted += u64::from(good);
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A number, and the first second in which it is no longer good.
    #[derive(Debug, Clone, PartialEq)]
    struct Until(u32, u64);

    impl Kept for Until {
        type Time = u64;

        fn is_good(&self, now: u64) -> bool {
            now < self.1
        }
    }

    fn shards(bytes: usize) -> Shards<Until> {
        Shards::new(bytes, Gauge::default())
    }

    fn get(shards: &Shards<Until>, key: &[u8], now: u64) -> Option<u32> {
        shards.get(shards.hash(key), key, now, |_| true).map(|value| value.0)
    }

    fn insert(shards: &Shards<Until>, key: &[u8], value: Until, size: usize, now: u64) -> u64 {
        shards.insert(shards.hash(key), key, value, size, now, |_| true)
    }

    #[test]
    fn a_value_is_found_by_its_whole_key_while_it_is_good() {
        let shards = shards(1 << 20);
        insert(&shards, b"key", Until(7, 10), 0, 5);
        assert_eq!((get(&shards, b"key", 9), get(&shards, b"key", 10)), (Some(7), None));
        for other in [&b"kez"[..], b"ke", b"key.", b""] {
            assert_eq!(get(&shards, other, 5), None);
        }
        shards.sweep(10);
        assert_eq!((shards.len(), shards.bytes(), shards.gauge.get()), (0, 0, 0));
    }

    #[test]
    fn the_latest_value_counts_even_where_it_cannot_be_kept() {
        for unkept in [(Until(9, 10), 1 << 20), (Until(9, 5), 0)] {
            let shards = shards(4096);
            insert(&shards, b"key", Until(7, 10), 0, 5);
            insert(&shards, b"key", Until(8, 10), 0, 5);
            assert_eq!((get(&shards, b"key", 5), shards.len()), (Some(8), 1));
            insert(&shards, b"key", unkept.0, unkept.1, 5);
            assert_eq!((get(&shards, b"key", 4), shards.len(), shards.gauge.get()), (None, 0, 0));
        }
    }

    #[test]
    fn one_key_may_have_values_that_only_its_user_tells_apart() {
        let shards = shards(1 << 20);
        let hash = shards.hash(b"key");
        for number in [1, 2, 1, 2] {
            shards.insert(hash, b"key", Until(number, 10), 0, 5, |value| value.0 == number);
        }
        assert_eq!(shards.len(), 2);
        assert_eq!(shards.get(hash, b"key", 5, |value| value.0 == 2), Some(Until(2, 10)));
        assert_eq!(shards.get(hash, b"key", 5, |value| value.0 == 3), None);
    }

    #[test]
    fn what_is_in_use_outlives_a_flood_of_what_is_used_once() {
        let shards = shards(50_000);
        insert(&shards, b"in use", Until(1, 10), 0, 5);
        let mut evicted = 0;
        for number in 0..10_000_u32 {
            assert_eq!(get(&shards, b"in use", 5), Some(1), "after {number}");
            evicted += insert(&shards, &number.to_be_bytes(), Until(number, 10), 0, 5);
        }
        assert!(evicted > 9_000, "{evicted}");
    }

    #[test]
    fn a_full_shard_takes_in_what_comes_again_and_until_then_everything() {
        let shards = shards(50_000);
        let mut number = 0_u32;
        let mut meet = |times: usize| {
            number += 1;
            let hash = shards.hash(&number.to_be_bytes());
            (0..times).map(|_| shards.admits(hash)).collect::<Vec<_>>()
        };
        assert_eq!(meet(2), [true, true], "there is room");
        for number in 0..1_000_u32 {
            insert(&shards, &number.to_be_bytes(), Until(number, 10), 0, 5);
        }
        assert_eq!(meet(3), [false, true, true], "there is none");
        shards.sweep(10);
        assert_eq!(meet(1), [true], "there is room again");
    }

    #[test]
    fn without_bytes_nothing_is_kept() {
        let shards = shards(0);
        assert_eq!(insert(&shards, b"key", Until(7, 10), 0, 5), 0);
        assert_eq!(get(&shards, b"key", 5), None);
        assert!(!shards.admits(shards.hash(b"key")));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn bytes_stay_within_the_bound_and_what_is_found_is_what_was_put_in_last(
            bound in prop_oneof![Just(4096_usize), Just(300_000), Just(1 << 20)],
            steps in proptest::collection::vec((0..400_u32, 0..700_usize, 0..90_usize, 1..60_u64, any::<bool>()), 0..2000),
        ) {
            let shards = shards(bound);
            let mut last = std::collections::HashMap::new();
            for (step, (name, padding, size, until, sweeps)) in steps.into_iter().enumerate() {
                let now = step as u64 / 50;
                let key = [&name.to_be_bytes()[..], &vec![b'x'; padding]].concat();
                let value = Until(step as u32, until);
                insert(&shards, &key, value.clone(), size, now);
                last.insert(key.clone(), value);
                if sweeps && step % 97 == 0 {
                    shards.sweep(now);
                }
                prop_assert!(shards.bytes() <= bound, "{} > {bound}", shards.bytes());
                prop_assert_eq!(i64::try_from(shards.bytes()), Ok(shards.gauge.get()));
                for (key, value) in last.iter().take(5) {
                    let found = get(&shards, key, now);
                    prop_assert!(found.is_none_or(|found| found == value.0 && now < value.1));
                }
            }
        }
    }
}
