//! Tokens already verified, in bounded memory.
//!
//! An entry is found by the whole token: a keyed hash leads to it and every byte is compared, so no collision can lend
//! one token's identity to another. It is good while the key that verified it is still published and its `exp` has not
//! come (without leeway: in those last seconds a token is checked anew). Entries are made after a valid signature only,
//! so strangers cannot push others out.
//!
//! The cache is cut into shards, each under its own read-write lock, so that a hit, even of one token that all requests
//! share, excludes nobody. A shard evicts by the clock algorithm: a hit sets a mark, the hand takes marks away and evicts
//! what has none. A new entry has no mark, hence tokens used once leave before tokens used again.
//!
//! Bytes are bounded, not entries: each is counted with its token, its claims and the bookkeeping around them.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::RwLock;
use sluice_vocabulary::Identity;
use smallvec::SmallVec;

use crate::jwk::Key;
use crate::metrics::CacheMetrics;

/// A shard is not made smaller than this, so that one large token cannot empty it.
const SMALLEST_SHARD: usize = 256 * 1024;
const MOST_SHARDS: usize = 64;

/// A verified token.
struct Entry {
    hash: u64,
    token: Box<[u8]>,
    /// The issuer's instance: a reconfigured issuer is another one, and its old tokens are not found.
    issuer: u64,
    key: Arc<Key>,
    identity: Arc<Identity>,
    size: usize,
    used: AtomicBool,
}

impl Entry {
    fn is_good(&self, now: u64) -> bool {
        now < self.identity.expires_at && !self.key.is_withdrawn()
    }
}

/// One part of the cache: entries in slots, and a table of slot numbers by hash.
#[derive(Default)]
struct Shard {
    table: HashTable<u32>,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    hand: usize,
    bytes: usize,
}

/// The cache. One without shards keeps nothing.
pub(crate) struct TokenCache {
    shards: Box<[RwLock<Shard>]>,
    shard_bytes: usize,
    hasher: RandomState,
    metrics: CacheMetrics,
}

impl TokenCache {
    /// A cache of at most `bytes`; 0 makes one that keeps nothing.
    pub(crate) fn new(bytes: usize, metrics: CacheMetrics) -> Self {
        let count = match bytes / SMALLEST_SHARD {
            0 => usize::from(bytes > 0),
            // A power of two, so that a shard is chosen by a mask.
            room => 1 << room.min(MOST_SHARDS).ilog2(),
        };
        Self {
            shards: (0..count).map(|_| RwLock::default()).collect(),
            shard_bytes: bytes.checked_div(count).unwrap_or(0),
            hasher: RandomState::default(),
            metrics,
        }
    }

    /// The hash of `token`, keyed, for [`get`](Self::get) and [`insert`](Self::insert).
    pub(crate) fn hash(&self, token: &[u8]) -> u64 {
        self.hasher.hash_one(token)
    }

    /// The identity that `token` stands for, the instance of its issuer and the key that verified it, if it is here, still
    /// good, and of an issuer that `accepts` takes.
    pub(crate) fn get(
        &self,
        hash: u64,
        token: &[u8],
        now: u64,
        accepts: impl Fn(u64) -> bool,
    ) -> Option<(Arc<Identity>, u64, Arc<Key>)> {
        let found = self.shard(hash).and_then(|shard| shard.read().find(hash, token, now, &accepts));
        match &found {
            Some(_) => self.metrics.hits.inc(),
            None => self.metrics.misses.inc(),
        };
        found
    }

    /// What [`get`](Self::get) would give, for who only asks: nothing is counted.
    pub(crate) fn peek(
        &self,
        hash: u64,
        token: &[u8],
        now: u64,
        accepts: impl Fn(u64) -> bool,
    ) -> Option<(Arc<Identity>, u64, Arc<Key>)> {
        self.shard(hash)?.read().find(hash, token, now, &accepts)
    }

    /// Keeps what was just verified with `key`.
    pub(crate) fn insert(
        &self,
        hash: u64,
        token: &[u8],
        issuer: u64,
        key: &Arc<Key>,
        identity: &Arc<Identity>,
        now: u64,
    ) {
        let Some(shard) = self.shard(hash) else { return };
        let size = size_of::<Entry>() + BOOKKEEPING + token.len() + identity.size();
        // One entry may have a quarter of a shard; a larger one would throw out too much of what others use.
        if size > self.shard_bytes / 4 {
            return;
        }
        let entry = Entry {
            hash,
            token: token.into(),
            issuer,
            key: Arc::clone(key),
            identity: Arc::clone(identity),
            size,
            used: AtomicBool::new(false),
        };
        // Taken out under the lock, freed after it: an identity is many small allocations.
        let mut out: SmallVec<[Entry; 2]> = SmallVec::new();
        let mut shard = shard.write();
        let before = shard.bytes;
        let evicted = shard.make_room(self.shard_bytes - size, now, &mut out);
        out.extend(shard.put(entry));
        let after = shard.bytes;
        drop(shard);
        self.count_bytes(before, after);
        self.metrics.evictions.inc_by(evicted);
    }

    /// Drops what is no longer good: after keys were withdrawn, and now and then for what has expired.
    pub(crate) fn sweep(&self, now: u64) {
        for shard in &self.shards {
            let mut shard = shard.write();
            let before = shard.bytes;
            for slot in 0..shard.slots.len() {
                if shard.slots[slot].as_ref().is_some_and(|entry| !entry.is_good(now)) {
                    shard.remove(slot);
                }
            }
            self.count_bytes(before, shard.bytes);
        }
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().bytes).sum()
    }

    /// Entries held now.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().table.len()).sum()
    }

    fn shard(&self, hash: u64) -> Option<&RwLock<Shard>> {
        // The table inside uses the low and the top bits; the middle is free.
        let index = (hash >> 32) as usize & self.shards.len().wrapping_sub(1);
        self.shards.get(index)
    }

    fn count_bytes(&self, before: usize, after: usize) {
        // No cache comes near the range of i64.
        self.metrics.bytes.inc_by(after as i64 - before as i64);
    }
}

impl Drop for TokenCache {
    fn drop(&mut self) {
        self.count_bytes(self.bytes(), 0);
    }
}

impl std::fmt::Debug for TokenCache {
    /// Without the tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache").field("entries", &self.len()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Shard {
    fn find(
        &self,
        hash: u64,
        token: &[u8],
        now: u64,
        accepts: &impl Fn(u64) -> bool,
    ) -> Option<(Arc<Identity>, u64, Arc<Key>)> {
        let slot = self.table.find(hash, |slot| {
            self.slots[*slot as usize]
                .as_ref()
                .is_some_and(|e| e.hash == hash && *e.token == *token && accepts(e.issuer))
        })?;
        let entry = self.slots[*slot as usize].as_ref().filter(|entry| entry.is_good(now))?;
        // Reading first keeps the line shared between cores while the mark is set.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some((Arc::clone(&entry.identity), entry.issuer, Arc::clone(&entry.key)))
    }

    /// Evicts into `out` until no more than `target` bytes are held; says how many good entries had to go.
    fn make_room(&mut self, target: usize, now: u64, out: &mut SmallVec<[Entry; 2]>) -> u64 {
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
            let good = entry.is_good(now);
            if good && entry.used.swap(false, Ordering::Relaxed) {
                continue;
            }
            out.extend(self.remove(at));
            evicted += u64::from(good);
        }
        evicted
    }

    /// Puts the entry in, in place of one for the same token and issuer, which it gives back.
    fn put(&mut self, entry: Entry) -> Option<Entry> {
        let same = self.table.find(entry.hash, |slot| {
            self.slots[*slot as usize].as_ref().is_some_and(|e| e.issuer == entry.issuer && e.token == entry.token)
        });
        let same = same.map(|slot| *slot as usize);
        let replaced = same.and_then(|slot| self.remove(slot));
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
        replaced
    }

    fn remove(&mut self, slot: usize) -> Option<Entry> {
        let entry = self.slots[slot].take()?;
        if let Ok(found) = self.table.find_entry(entry.hash, |held| *held as usize == slot) {
            found.remove();
        }
        self.bytes -= entry.size;
        self.free.push(slot as u32);
        Some(entry)
    }
}

/// What an entry costs beside itself: two reference counts, a table slot and its free-list slot, allocator rounding.
const BOOKKEEPING: usize = 96;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::jwk::KeySet;
    use sluice_vocabulary::IssuerName;
    use sluice_vocabulary::claims::Claims;

    fn keys() -> KeySet {
        let json =
            br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        KeySet::parse(json, crate::Algorithm::ALL.iter().collect()).unwrap()
    }

    fn identity(expires_at: u64) -> Arc<Identity> {
        let issuer = IssuerName::new("i").unwrap();
        Arc::new(Identity::new(issuer, Claims::new("", []), expires_at))
    }

    fn cache(bytes: usize) -> TokenCache {
        TokenCache::new(bytes, CacheMetrics::default())
    }

    fn get(cache: &TokenCache, token: &[u8], now: u64, issuer: u64) -> Option<(Arc<Identity>, u64)> {
        cache.get(cache.hash(token), token, now, |known| known == issuer).map(|(identity, id, _)| (identity, id))
    }

    fn hit(cache: &TokenCache, token: &[u8], now: u64) -> bool {
        get(cache, token, now, 1).is_some()
    }

    fn insert(cache: &TokenCache, token: &[u8], issuer: u64, keys: &KeySet, expires_at: u64) {
        cache.insert(cache.hash(token), token, issuer, &keys.keys()[0], &identity(expires_at), 5);
    }

    #[test]
    fn a_token_is_found_whole_for_its_issuer_and_until_it_expires() {
        let (cache, keys) = (cache(1 << 20), keys());
        insert(&cache, b"token", 1, &keys, 10);
        assert!(hit(&cache, b"token", 9));
        assert!(!hit(&cache, b"token", 10), "never at its exp");
        assert!(!hit(&cache, b"tokeN", 9) && !hit(&cache, b"toke", 9) && !hit(&cache, b"token.", 9));
        assert!(get(&cache, b"token", 9, 2).is_none());
        assert_eq!((cache.metrics.hits.get(), cache.metrics.misses.get()), (1, 5));
    }

    #[test]
    fn a_withdrawn_key_takes_its_tokens_along_at_once() {
        let (cache, keys) = (cache(1 << 20), keys());
        insert(&cache, b"token", 1, &keys, 10);
        keys.withdraw_all();
        assert!(!hit(&cache, b"token", 5));
        cache.sweep(5);
        assert_eq!((cache.len(), cache.bytes(), cache.metrics.bytes.get()), (0, 0, 0));
    }

    #[test]
    fn the_same_token_may_be_known_of_two_issuers() {
        let (cache, keys) = (cache(1 << 20), keys());
        for issuer in [1, 2, 1, 2] {
            insert(&cache, b"token", issuer, &keys, 10);
        }
        assert_eq!(cache.len(), 2);
        assert_eq!(get(&cache, b"token", 5, 2).unwrap().1, 2);
    }

    #[test]
    fn bytes_stay_within_the_bound_whatever_comes() {
        for bound in [4096, 300_000, 1 << 20] {
            let (cache, keys) = (cache(bound), keys());
            for i in 0..5_000_u32 {
                let token = [&i.to_be_bytes()[..], &vec![b'x'; (i % 700) as usize]].concat();
                insert(&cache, &token, 1, &keys, u64::from(i % 50));
                assert!(cache.bytes() <= bound, "{} > {bound}", cache.bytes());
            }
            assert!(cache.len() > 3);
            assert_eq!(i64::try_from(cache.bytes()).unwrap(), cache.metrics.bytes.get());
        }
    }

    #[test]
    fn a_token_in_use_outlives_a_flood_of_tokens_used_once() {
        let (cache, keys) = (cache(100_000), keys());
        insert(&cache, b"in use", 1, &keys, 10);
        for i in 0..10_000_u32 {
            assert!(hit(&cache, b"in use", 5), "after {i}");
            insert(&cache, &i.to_be_bytes(), 1, &keys, 10);
        }
        assert!(cache.metrics.evictions.get() > 9_000);
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing_and_a_huge_entry_is_not_kept() {
        let keys = keys();
        let none = cache(0);
        insert(&none, b"token", 1, &keys, 10);
        assert!(!hit(&none, b"token", 5));
        let small = cache(4096);
        insert(&small, &[b'x'; 2000], 1, &keys, 10);
        assert_eq!(small.len(), 0);
    }
}
