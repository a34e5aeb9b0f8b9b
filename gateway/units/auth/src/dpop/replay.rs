//! Proofs seen, so that none is good twice (RFC 9449 section 11.1).
//!
//! Of each there is a keyed hash of 128 bits over its key's thumbprint and its `jti`, and the second until which it must
//! be remembered. Two hashes of 64 bits with independent random keys make it (SipHash): nobody outside can aim at a
//! collision, and one by chance, which refuses an honest proof, is not to be expected in the life of the universe.
//!
//! The memory is cut into shards by that hash, each under a lock that is held for one look-up and one insertion, as one
//! step: of the same proof sent many times at once exactly one passes. A shard is swept of what has expired when it is
//! full, and now and then, at most once a second. It has expired when the clock on the wall says so and its time has really
//! passed: a clock that is set forward and back again must not make a proof new. One that is full all the same takes no more ([`Seen::Full`]): to forget
//! a proof early would be to let it pass again.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hashbrown::HashTable;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use sluice_vocabulary::clock::Clock;

use crate::thumbprint::Thumbprint;

const SHARDS: usize = 64;

/// How many seconds may pass before a shard in use is swept, so that memory follows load down.
const SWEEP_EVERY: u64 = 15;

/// A proof, as it is remembered.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    check: u64,
    /// The last second in which it could be used, by the clock on the wall, which tells until 2106 in so many bits.
    until: u32,
    /// And by one that nobody sets.
    kept_until: u32,
}

impl Entry {
    fn is_over(&self, now: Now) -> bool {
        u64::from(self.until) < now.wall && u64::from(self.kept_until) < now.steady
    }
}

/// The present second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Since the epoch, as somebody may set it.
    pub(crate) wall: u64,
    /// Since some moment, as it really passes.
    pub(crate) steady: u64,
}

fn second(second: u64) -> u32 {
    u32::try_from(second).unwrap_or(u32::MAX)
}

/// What a table takes for one entry: the entry, and its control byte.
const BUCKET: usize = size_of::<Entry>() + 1;

/// What is known of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is seen for the first time, and now is remembered.
    New,
    /// It was used before.
    Before,
    /// It cannot be remembered, so it must not be used.
    Full,
}

#[derive(Debug, Default)]
struct Shard {
    table: HashTable<Entry>,
    swept: u64,
}

/// The proofs seen.
pub(crate) struct Replays {
    shards: [Mutex<Shard>; SHARDS],
    /// The most entries of a shard.
    most: AtomicUsize,
    keys: [RandomState; 2],
    /// Where the steady clock begins.
    began: OnceLock<Instant>,
    remembered: Gauge,
}

impl Replays {
    /// A memory that takes nothing until it is given room; `remembered` tells its entries.
    pub(crate) fn new(remembered: Gauge) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            most: AtomicUsize::new(0),
            keys: [RandomState::new(), RandomState::new()],
            began: OnceLock::new(),
            remembered,
        }
    }

    /// Allows it `bytes`, from now on. Less room than is in use now makes nothing forgotten early.
    pub(crate) fn bound(&self, bytes: usize) {
        // Tables have a power of two of buckets, of which seven in eight are used.
        let buckets = (bytes / SHARDS / BUCKET).max(8);
        self.most.store((1 << buckets.ilog2()) / 8 * 7, Ordering::Relaxed);
    }

    /// The present second, which is `wall` by the clock on the wall.
    pub(crate) fn now(&self, clock: &dyn Clock, wall: u64) -> Now {
        let moment = clock.coarse();
        Now { wall, steady: moment.saturating_duration_since(*self.began.get_or_init(|| moment)).as_secs() }
    }

    /// What [`see`](Self::see) would say. Remembers nothing.
    pub(crate) fn look(&self, key: &Thumbprint, id: &[u8], now: Now) -> Seen {
        let [hash, check] = self.hashes(key, id);
        let shard = self.shard(hash).lock();
        let most = self.most.load(Ordering::Relaxed);
        // What has expired would be swept first.
        let is_full = || shard.table.iter().filter(|entry| !entry.is_over(now)).count() >= most;
        match shard.table.find(hash, |entry| entry.hash == hash && entry.check == check) {
            Some(entry) if !entry.is_over(now) => Seen::Before,
            Some(_) => Seen::New,
            None if shard.table.len() >= most && is_full() => Seen::Full,
            None => Seen::New,
        }
    }

    fn hashes(&self, key: &Thumbprint, id: &[u8]) -> [u64; 2] {
        [0, 1].map(|which: usize| self.keys[which].hash_one((key.as_bytes(), id)))
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // The table inside uses the low and the top bits; the middle is free.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Remembers a proof until the second `until`, unless it is remembered already.
    pub(crate) fn see(&self, key: &Thumbprint, id: &[u8], until: u64, now: Now) -> Seen {
        let [hash, check] = self.hashes(key, id);
        let mut shard = self.shard(hash).lock();
        let before = shard.table.len();
        let most = self.most.load(Ordering::Relaxed);
        let waited = now.steady.saturating_sub(shard.swept);
        if waited >= SWEEP_EVERY || (before >= most && waited >= 1) {
            shard.table.retain(|entry| !entry.is_over(now));
            shard.swept = now.steady;
        }
        let kept_until = second(now.steady.saturating_add(until.saturating_sub(now.wall)));
        let until = second(until);
        let found = shard.table.find(hash, |entry| entry.hash == hash && entry.check == check);
        let seen = match found {
            Some(entry) if !entry.is_over(now) => Seen::Before,
            // Expired and not swept: the same `jti`, used again by its owner after its time.
            Some(_) => {
                if let Ok(entry) = shard.table.find_entry(hash, |entry| entry.hash == hash && entry.check == check) {
                    *entry.into_mut() = Entry { hash, check, until, kept_until };
                }
                Seen::New
            }
            None if shard.table.len() >= most => Seen::Full,
            None => {
                shard.table.insert_unique(hash, Entry { hash, check, until, kept_until }, |entry| entry.hash);
                Seen::New
            }
        };
        let after = shard.table.len();
        drop(shard);
        if before != after {
            // No memory comes near the range of i64.
            self.remembered.inc_by(after as i64 - before as i64);
        }
        seen
    }
}

impl std::fmt::Debug for Replays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replays").field("remembered", &self.remembered.get()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::sync::Barrier;

    const NOW: u64 = 1_000_000;

    fn replays(bytes: usize) -> Replays {
        let replays = Replays::new(Gauge::default());
        replays.bound(bytes);
        replays
    }

    /// So long after `NOW`, with a clock that nobody set.
    fn at(wall: u64) -> Now {
        Now { wall, steady: wall - NOW + 1_000 }
    }

    fn key(byte: u8) -> Thumbprint {
        Thumbprint::parse(&crate::base64url::encode(&[byte; 32])).unwrap()
    }

    #[test]
    fn a_proof_is_new_once_and_for_its_own_key() {
        let replays = replays(1 << 20);
        assert_eq!(replays.see(&key(1), b"a", NOW + 60, at(NOW)), Seen::New);
        assert_eq!(replays.see(&key(1), b"a", NOW + 60, at(NOW)), Seen::Before);
        assert_eq!(replays.see(&key(1), b"a", NOW + 90, at(NOW + 60)), Seen::Before, "in its last second");
        assert_eq!(replays.see(&key(1), b"b", NOW + 60, at(NOW)), Seen::New);
        assert_eq!(replays.see(&key(2), b"a", NOW + 60, at(NOW)), Seen::New);
        assert_eq!(replays.see(&key(1), b"a", NOW + 121, at(NOW + 61)), Seen::New, "after its time");
        assert_eq!(replays.see(&key(1), b"a", NOW + 121, at(NOW + 61)), Seen::Before);
    }

    #[test]
    fn a_clock_that_is_set_forward_and_back_makes_no_proof_new() {
        let replays = replays(1 << 20);
        let set = |wall: u64, passed: u64| Now { wall, steady: 1_000 + passed };
        assert_eq!(replays.see(&key(1), b"a", NOW + 60, set(NOW, 0)), Seen::New);
        // Set forward by a day; others come, so that what is over is swept.
        for id in 0..1_000_u32 {
            replays.see(&key(2), &id.to_be_bytes(), NOW + 86_460, set(NOW + 86_400, 20));
        }
        assert_eq!(replays.see(&key(1), b"a", NOW + 60, set(NOW + 40, 40)), Seen::Before, "and set back");
        // Set back by an hour, it could be used for an hour longer.
        assert_eq!(replays.see(&key(1), b"a", NOW + 60, set(NOW - 3_600, 61)), Seen::Before);
        assert_eq!(replays.see(&key(1), b"a", NOW + 60, set(NOW + 61, 3_700)), Seen::New, "its time is over by both");
    }

    #[test]
    fn a_look_says_what_would_be_seen_and_remembers_nothing() {
        let replays = replays(64 * 1024);
        for id in 0..20_000_u32 {
            let id = id.to_be_bytes();
            let looks = [replays.look(&key(1), &id, at(NOW)), replays.look(&key(1), &id, at(NOW))];
            let remembered = replays.remembered.get();
            assert_eq!(looks, [replays.see(&key(1), &id, NOW + 60, at(NOW)); 2]);
            assert!(looks[0] == Seen::Full || replays.remembered.get() == remembered + 1);
        }
        for id in 0..20_000_u32 {
            let id = id.to_be_bytes();
            // Those that are over make room, as they do when one is seen.
            let look = replays.look(&key(1), &id, at(NOW + 61));
            assert_eq!((look, replays.see(&key(1), &id, NOW + 61, at(NOW + 61))), (look, look));
        }
    }

    #[test]
    fn of_one_proof_sent_by_many_at_once_one_passes() {
        let replays = replays(1 << 20);
        for round in 0..200_u32 {
            let barrier = Barrier::new(8);
            let passed: usize = std::thread::scope(|scope| {
                let one = || {
                    barrier.wait();
                    usize::from(replays.see(&key(1), &round.to_be_bytes(), NOW + 60, at(NOW)) == Seen::New)
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(passed, 1, "round {round}");
        }
    }

    #[test]
    fn when_full_nothing_passes_and_nothing_is_forgotten_until_it_expires() {
        let replays = replays(64 * 1024);
        let most = replays.most.load(Ordering::Relaxed) * SHARDS;
        let mut passed = Vec::new();
        let mut full = 0_usize;
        for id in 0..20_000_u32 {
            match replays.see(&key(1), &id.to_be_bytes(), NOW + 60, at(NOW)) {
                Seen::New => passed.push(id),
                Seen::Full => full += 1,
                Seen::Before => unreachable!("each is sent once"),
            }
        }
        assert!(passed.len() <= most && full > 15_000, "{} of {most} passed", passed.len());
        assert_eq!(replays.remembered.get(), i64::try_from(passed.len()).unwrap());
        let bytes: usize = replays.shards.iter().map(|shard| shard.lock().table.allocation_size()).sum();
        assert!(bytes <= 80 * 1024, "{bytes}");
        for id in &passed {
            assert_eq!(replays.see(&key(1), &id.to_be_bytes(), NOW + 60, at(NOW + 60)), Seen::Before);
        }
        // A second later all have expired and there is room again.
        // So few that by chance none of the shards is full of them.
        for id in 100_000..100_300_u32 {
            assert_eq!(replays.see(&key(1), &id.to_be_bytes(), NOW + 130, at(NOW + 61)), Seen::New);
        }
    }

    #[test]
    fn memory_follows_load_down_and_a_smaller_bound_forgets_nothing() {
        let replays = replays(1 << 20);
        for id in 0..5_000_u32 {
            assert_eq!(replays.see(&key(1), &id.to_be_bytes(), NOW + 60, at(NOW)), Seen::New);
        }
        replays.bound(64 * 1024);
        for id in 0..5_000_u32 {
            assert_eq!(replays.see(&key(1), &id.to_be_bytes(), NOW + 60, at(NOW + 1)), Seen::Before);
        }
        for id in 10_000..11_000_u32 {
            replays.see(&key(1), &id.to_be_bytes(), NOW + 200, at(NOW + 100));
        }
        assert!(replays.remembered.get() <= 1_000, "{}", replays.remembered.get());
    }
}
