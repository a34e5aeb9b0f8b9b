//! Answers of services, kept for a while in bounded memory.
//!
//! Built like the cache of verified tokens, and for the same reasons: an entry is found by a keyed hash and compared by
//! the whole key, shards have read-write locks so that hits exclude nobody, and the clock algorithm evicts what was used
//! once before what was used again. Bytes are bounded, not entries. An answer is never given after its time.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use smallvec::SmallVec;

/// A shard is not made smaller than this, so that one large key cannot empty it.
const SMALLEST_SHARD: usize = 128 * 1024;
const MOST_SHARDS: usize = 16;

/// What an entry costs beside itself: a reference count, a table slot and its free-list slot, allocator rounding.
const BOOKKEEPING: usize = 80;

struct Entry<V> {
    hash: u64,
    key: Box<[u8]>,
    value: V,
    until: Instant,
    size: usize,
    used: AtomicBool,
}

struct Shard<V> {
    table: HashTable<u32>,
    slots: Vec<Option<Entry<V>>>,
    free: Vec<u32>,
    hand: usize,
    bytes: usize,
}

/// The cache. One without shards keeps nothing.
pub(crate) struct AnswerCache<V> {
    shards: Box<[RwLock<Shard<V>>]>,
    shard_bytes: usize,
    hasher: RandomState,
    /// Bytes held, of this cache and of others that share the gauge.
    gauge: Gauge,
}

impl<V: Clone> AnswerCache<V> {
    /// A cache of at most `bytes`; 0 makes one that keeps nothing.
    pub(crate) fn new(bytes: usize, gauge: Gauge) -> Self {
        let count = match bytes / SMALLEST_SHARD {
            0 => usize::from(bytes > 0),
            // A power of two, so that a shard is chosen by a mask.
            room => 1 << room.min(MOST_SHARDS).ilog2(),
        };
        let shard = || Shard { table: HashTable::new(), slots: Vec::new(), free: Vec::new(), hand: 0, bytes: 0 };
        Self {
            shards: (0..count).map(|_| RwLock::new(shard())).collect(),
            shard_bytes: bytes.checked_div(count).unwrap_or(0),
            hasher: RandomState::default(),
            gauge,
        }
    }

    /// What is known of `key` at `now`.
    pub(crate) fn get(&self, key: &[u8], now: Instant) -> Option<V> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash)?.read();
        let entry = shard.slots[shard.find(hash, key)?].as_ref().filter(|entry| now < entry.until)?;
        // Reading first keeps the line shared between cores while the mark is set.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(entry.value.clone())
    }

    /// Keeps `value`, whose memory beside itself is `size`, until `until`, in place of what was known of `key`.
    pub(crate) fn insert(&self, key: &[u8], value: V, size: usize, until: Instant, now: Instant) {
        let hash = self.hasher.hash_one(key);
        let Some(shard) = self.shard(hash) else { return };
        let size = size_of::<Entry<V>>() + BOOKKEEPING + key.len() + size;
        let mut shard = shard.write();
        let before = shard.bytes;
        // Freed after the lock: a value may be many small allocations.
        let mut out: SmallVec<[Entry<V>; 2]> = SmallVec::new();
        if let Some(slot) = shard.find(hash, key) {
            out.extend(shard.remove(slot));
        }
        // One entry may have a quarter of a shard; a larger one would throw out too much of what others use.
        if size <= self.shard_bytes / 4 && now < until {
            shard.make_room(self.shard_bytes - size, now, &mut out);
            shard.put(Entry { hash, key: key.into(), value, until, size, used: AtomicBool::new(false) });
        }
        let after = shard.bytes;
        drop(shard);
        self.count_bytes(before, after);
    }

    /// Drops what is past its time. It is not found anyway; this gives its memory back.
    pub(crate) fn sweep(&self, now: Instant) {
        for shard in &self.shards {
            let mut shard = shard.write();
            let before = shard.bytes;
            for slot in 0..shard.slots.len() {
                if shard.slots[slot].as_ref().is_some_and(|entry| entry.until <= now) {
                    shard.remove(slot);
                }
            }
            self.count_bytes(before, shard.bytes);
        }
    }
}

impl<V> AnswerCache<V> {
    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().bytes).sum()
    }

    /// Entries held now.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().table.len()).sum()
    }

    fn shard(&self, hash: u64) -> Option<&RwLock<Shard<V>>> {
        // The table inside uses the low and the top bits; the middle is free.
        let index = (hash >> 32) as usize & self.shards.len().wrapping_sub(1);
        self.shards.get(index)
    }

    fn count_bytes(&self, before: usize, after: usize) {
        // No cache comes near the range of i64.
        self.gauge.inc_by(after as i64 - before as i64);
    }
}

impl<V> Drop for AnswerCache<V> {
    fn drop(&mut self) {
        self.count_bytes(self.bytes(), 0);
    }
}

impl<V> std::fmt::Debug for AnswerCache<V> {
    /// Without keys, which are credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerCache")
            .field("entries", &self.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl<V> Shard<V> {
    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let is_it = |slot: &u32| {
            self.slots[*slot as usize].as_ref().is_some_and(|entry| entry.hash == hash && *entry.key == *key)
        };
        self.table.find(hash, is_it).map(|slot| *slot as usize)
    }

    /// Evicts into `out` until no more than `target` bytes are held.
    fn make_room(&mut self, target: usize, now: Instant, out: &mut SmallVec<[Entry<V>; 2]>) {
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
            if now < entry.until && entry.used.swap(false, Ordering::Relaxed) {
                continue;
            }
            out.extend(self.remove(at));
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache(bytes: usize) -> AnswerCache<u32> {
        AnswerCache::new(bytes, Gauge::default())
    }

    #[test]
    fn an_answer_is_found_by_its_whole_key_until_its_time() {
        let (cache, now) = (cache(1 << 20), Instant::now());
        cache.insert(b"key", 7, 0, now + SECOND, now);
        assert_eq!(cache.get(b"key", now + SECOND - Duration::from_nanos(1)), Some(7));
        assert_eq!(cache.get(b"key", now + SECOND), None);
        for other in [&b"kez"[..], b"ke", b"key.", b""] {
            assert_eq!(cache.get(other, now), None);
        }
        cache.sweep(now + SECOND);
        assert_eq!((cache.len(), cache.bytes(), cache.gauge.get()), (0, 0, 0));
    }

    #[test]
    fn the_latest_answer_counts_even_where_it_cannot_be_kept() {
        let (cache, now) = (cache(4096), Instant::now());
        cache.insert(b"key", 7, 0, now + SECOND, now);
        cache.insert(b"key", 8, 0, now + SECOND, now);
        assert_eq!((cache.get(b"key", now), cache.len()), (Some(8), 1));
        cache.insert(b"key", 9, 1 << 20, now + SECOND, now);
        assert_eq!((cache.get(b"key", now), cache.len()), (None, 0));
    }

    #[test]
    fn bytes_stay_within_the_bound_whatever_comes() {
        for bound in [4096, 300_000, 1 << 20] {
            let (cache, now) = (cache(bound), Instant::now());
            for i in 0..5_000_u32 {
                let key = [&i.to_be_bytes()[..], &vec![b'x'; (i % 700) as usize]].concat();
                cache.insert(&key, i, (i % 90) as usize, now + SECOND, now);
                assert!(cache.bytes() <= bound, "{} > {bound}", cache.bytes());
            }
            assert!(cache.len() > 3);
            assert_eq!(i64::try_from(cache.bytes()).unwrap(), cache.gauge.get());
        }
    }

    #[test]
    fn an_answer_in_use_outlives_a_flood_of_answers_used_once() {
        let (cache, now) = (cache(50_000), Instant::now());
        cache.insert(b"in use", 1, 0, now + SECOND, now);
        for i in 0..10_000_u32 {
            assert_eq!(cache.get(b"in use", now), Some(1), "after {i}");
            cache.insert(&i.to_be_bytes(), i, 0, now + SECOND, now);
        }
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let (cache, now) = (cache(0), Instant::now());
        cache.insert(b"key", 7, 0, now + SECOND, now);
        assert_eq!(cache.get(b"key", now), None);
    }
}
