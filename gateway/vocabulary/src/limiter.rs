//! The one rate limiter that units share: the generic cell rate algorithm (GCRA), which is a token bucket written as a
//! single moment.
//!
//! A bucket holds up to `burst` requests and gains `rate` of them per second. Instead of a count and the time it was
//! taken, GCRA stores the *theoretical arrival time*: when the bucket will be full again. With `T = 1 / rate`, a request
//! at `now` moves it to `max(stored, now) + T`, and is let through if that lies at most `T × burst` ahead of `now`. One
//! 64-bit number per bucket therefore is the whole state, and taking from a bucket is one compare-and-swap.
//!
//! Two things differ from the textbook. A stored moment further ahead than a full debt (`T × burst`) is read as exactly
//! that debt, so that a bucket whose rate was raised by a new configuration is not punished by the old one. And times are
//! whole nanoseconds, so that a rate is kept to within one part in `10⁹ / rate`.
//!
//! [`Rate`] is the arithmetic, [`Bucket`] one bucket whose rate is handed in, [`Limiter`] one bucket with its rate, and
//! [`KeyedLimiter`] very many of them in bounded memory.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use parking_lot::Mutex;

/// How fast, and how much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds in which a bucket gains one request.
    interval: u64,
    /// Nanoseconds in which an empty bucket becomes full.
    window: u64,
    burst: u32,
}

/// A request that was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// How many more would be let through at this same moment.
    pub remaining: u32,
    /// How long until the bucket is full again, if nothing more is taken.
    pub full_after: Duration,
}

/// A request that was not let through. It cost the bucket nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rate limit reached, expected again after {retry_after:?}")]
pub struct Limited {
    /// How long until one request would be let through; never zero.
    pub retry_after: Duration,
}

impl Rate {
    /// A bucket that gains one request less often than this is of no use, and its arithmetic could overflow.
    const SLOWEST_NANOS: u64 = 365 * 86_400 * 1_000_000_000;

    /// `per_second` requests for ever, `burst` of them at once after a rest.
    ///
    /// A rate that is not a positive number is read as the slowest there is, one request a year: a wrong number must not
    /// open the door. A `burst` of 0, which would let nothing through ever, is read as 1.
    pub fn new(per_second: f64, burst: u32) -> Self {
        let nanos = 1e9 / per_second;
        // The cast saturates, and turns NaN into 0, which is caught before it.
        let interval =
            if per_second > 0.0 { (nanos.round() as u64).clamp(1, Self::SLOWEST_NANOS) } else { Self::SLOWEST_NANOS };
        let burst = burst.max(1);
        // Half the range is left free, so that a moment plus a window cannot overflow.
        let window = interval.saturating_mul(u64::from(burst)).min(u64::MAX / 4);
        Self { interval, window, burst }
    }

    /// `requests` in every `per`, `burst` of them at once. Read like [`Rate::new`] where it makes no sense.
    pub fn per(requests: u64, per: Duration, burst: u32) -> Self {
        Self::new(requests as f64 / per.as_secs_f64(), burst)
    }

    /// The most that is let through at once.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// How long an empty bucket takes to become full.
    pub fn window(&self) -> Duration {
        Duration::from_nanos(self.window)
    }

    /// Takes one request at `now` from a bucket that is full again at `full_at`: its new such moment, or how long to wait.
    fn take(&self, full_at: u64, now: u64) -> Result<(u64, Allowed), Limited> {
        let debt = full_at.saturating_sub(now).min(self.window);
        let debt_after = debt + self.interval;
        if debt_after > self.window {
            return Err(Limited { retry_after: Duration::from_nanos(debt_after - self.window) });
        }
        let remaining = (self.window - debt_after) / self.interval;
        let allowed = Allowed {
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            full_after: Duration::from_nanos(debt_after),
        };
        Ok((now.saturating_add(debt_after), allowed))
    }
}

/// Moments as nanoseconds on a scale of our own, that begins a day before the scale was made: clocks of tests, and
/// threads that read the clock just before, may be behind that.
#[derive(Debug, Clone, Copy)]
struct Scale(Instant);

impl Scale {
    const BEFORE: u64 = 86_400 * 1_000_000_000;

    fn at(&self, moment: Instant) -> u64 {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX / 2);
        match moment.checked_duration_since(self.0) {
            Some(after) => Self::BEFORE.saturating_add(nanos(after)),
            None => Self::BEFORE.saturating_sub(nanos(self.0.saturating_duration_since(moment))),
        }
    }
}

/// One bucket, full at first, whose rate is handed in at every use: for a holder whose configuration may change while
/// the bucket's debt must live on. No lock; any number of threads.
#[derive(Debug)]
pub struct Bucket {
    scale: Scale,
    full_at: AtomicU64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { scale: Scale(Instant::now()), full_at: AtomicU64::new(0) }
    }
}

impl Bucket {
    /// Takes one request, or says how long to wait.
    pub fn check(&self, rate: &Rate, now: Instant) -> Result<Allowed, Limited> {
        let now = self.scale.at(now);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let (after, allowed) = rate.take(full_at, now)?;
            // Relaxed suffices: the number orders nothing but itself.
            match self.full_at.compare_exchange_weak(full_at, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(allowed),
                Err(current) => full_at = current,
            }
        }
    }

    /// How long until it is full again, if nothing more is taken: zero where nothing would be lost by forgetting it.
    pub fn full_after(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.full_at.load(Ordering::Relaxed).saturating_sub(self.scale.at(now)))
    }
}

/// One bucket and its rate.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    bucket: Bucket,
}

impl Limiter {
    /// A full bucket. See [`Rate::new`] for numbers that make no sense.
    pub fn new(rate_per_sec: f64, burst: u32) -> Self {
        Self { rate: Rate::new(rate_per_sec, burst), bucket: Bucket::default() }
    }

    /// Takes one request, or says how long to wait.
    pub fn check(&self, now: Instant) -> Result<Allowed, Limited> {
        self.bucket.check(&self.rate, now)
    }

    /// The rate it was made with.
    pub fn rate(&self) -> &Rate {
        &self.rate
    }
}

/// A bucket for every key, in bounded memory.
///
/// The keys are spread over shards, each with its own lock held for one look-up; no lock is shared by all requests. A
/// limiter for few keys has fewer shards, so that its bound holds to the key.
///
/// # When there are more keys than room
///
/// A new key then takes the place of an old one of its shard. Of a few looked at in turn (16, so that the cost stays the
/// same for every request), one whose bucket is full again goes first, since nothing is lost by forgetting it; if there
/// is none, the one that is *nearest to full* goes. What an eviction gives away is the debt of that key alone, and keys
/// that just came, owing one request each, are always nearer to full than a key that has used up its burst. So an attacker
/// who rotates through addresses pushes out his own earlier addresses rather than those that are being held back, each new
/// address still has no more than one burst, and the limiter neither grows nor lets everything through. What it cannot do,
/// and no limiter by key can, is to tell a million addresses with one request each from a million clients.
pub struct KeyedLimiter<K> {
    rate: Rate,
    scale: Scale,
    hasher: RandomState,
    shards: Box<[Mutex<Shard<K>>]>,
    keys_per_shard: usize,
}

struct Shard<K> {
    /// Positions in `entries`, by key.
    index: HashTable<u32>,
    /// Never shrinks, never longer than the bound.
    entries: Vec<Entry<K>>,
    /// Where the search for an entry to evict goes on.
    hand: usize,
    evicted: u64,
}

struct Entry<K> {
    key: K,
    full_at: u64,
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    const SHARDS: usize = 64;
    const LOOKED_AT: usize = 16;

    /// For at most `max_keys` keys (at least 1 and at most 2³²). See [`Rate::new`] for rates that make no sense.
    pub fn new(rate_per_sec: f64, burst: u32, max_keys: usize) -> Self {
        Self::with_rate(Rate::new(rate_per_sec, burst), max_keys)
    }

    /// As [`KeyedLimiter::new`], from a rate.
    pub fn with_rate(rate: Rate, max_keys: usize) -> Self {
        let max_keys = max_keys.clamp(1, u32::MAX as usize);
        // A shard of fewer keys than are looked at would evict by luck rather than by need.
        let shards = (max_keys / Self::LOOKED_AT).clamp(1, Self::SHARDS);
        let shard = || Mutex::new(Shard { index: HashTable::new(), entries: Vec::new(), hand: 0, evicted: 0 });
        Self {
            rate,
            scale: Scale(Instant::now()),
            // Keys are chosen by clients, hence a keyed hash that they cannot predict.
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(shard).take(shards).collect(),
            keys_per_shard: max_keys / shards,
        }
    }

    /// Takes one request from the key's bucket, or says how long to wait.
    pub fn check(&self, key: &K, now: Instant) -> Result<Allowed, Limited> {
        let now = self.scale.at(now);
        let hash = self.hasher.hash_one(key);
        // The table uses the lowest and highest bits; the shard is chosen by those between.
        let which = (hash >> 24) as usize % self.shards.len();
        let shard = &mut *self.shards[which].lock();

        let entries = &mut shard.entries;
        if let Some(&position) = shard.index.find(hash, |&position| entries[position as usize].key == *key) {
            let entry = &mut entries[position as usize];
            let (full_at, allowed) = self.rate.take(entry.full_at, now)?;
            entry.full_at = full_at;
            return Ok(allowed);
        }
        let (full_at, allowed) = self.rate.take(0, now)?;
        self.insert(shard, hash, Entry { key: key.clone(), full_at }, now);
        Ok(allowed)
    }

    fn insert(&self, shard: &mut Shard<K>, hash: u64, entry: Entry<K>, now: u64) {
        let position = if shard.entries.len() < self.keys_per_shard {
            shard.entries.push(entry);
            shard.entries.len() - 1
        } else {
            let position = shard.choose_to_evict(Self::LOOKED_AT, now);
            let old = std::mem::replace(&mut shard.entries[position], entry);
            if let Ok(found) =
                shard.index.find_entry(self.hasher.hash_one(&old.key), |&other| other as usize == position)
            {
                found.remove();
            }
            shard.evicted += 1;
            position
        };
        let entries = &shard.entries;
        // The bound on keys fits 32 bits.
        shard.index.insert_unique(hash, position as u32, |&other| self.hasher.hash_one(&entries[other as usize].key));
    }

    /// The rate that each key has.
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// How many keys are remembered now. Takes each shard's lock in turn: for metrics, not for requests.
    pub fn tracked(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().entries.len()).sum()
    }

    /// How many keys were forgotten to make room, ever. For metrics: growth means that the bound is too small, or that
    /// somebody rotates keys.
    pub fn evicted(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().evicted).sum()
    }
}

impl<K> Shard<K> {
    /// The first of the next few entries whose bucket is full again, else the one nearest to full. There is at least one.
    fn choose_to_evict(&mut self, looked_at: usize, now: u64) -> usize {
        let count = self.entries.len();
        let mut best = self.hand % count;
        for step in 0..looked_at.min(count) {
            let position = (self.hand + step) % count;
            if self.entries[position].full_at < self.entries[best].full_at {
                best = position;
            }
            if self.entries[best].full_at <= now {
                self.hand = position + 1;
                return best;
            }
        }
        self.hand = (self.hand + looked_at) % count;
        best
    }
}

impl<K> std::fmt::Debug for KeyedLimiter<K> {
    /// Without the keys: they are clients.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedLimiter")
            .field("rate", &self.rate)
            .field("max_keys", &(self.keys_per_shard * self.shards.len()))
            .finish_non_exhaustive()
    }
}

/// The key of a client by its address: an IPv4 address as it is (also where it came mapped into IPv6), an IPv6 address by
/// its /64, since that is the least a single subscriber is given and within it he may take any address he likes.
pub fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_at_once_and_then_one_per_interval() {
        let limiter = Limiter::new(10.0, 3);
        let start = Instant::now();
        let remaining: Vec<_> = (0..3).map(|_| limiter.check(start).unwrap().remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        assert_eq!(limiter.check(start), Err(Limited { retry_after: Duration::from_millis(100) }));
        assert!(limiter.check(start + Duration::from_millis(99)).is_err());
        assert!(limiter.check(start + Duration::from_millis(100)).is_ok());
        assert!(limiter.check(start + Duration::from_millis(100)).is_err());
    }

    #[test]
    fn a_rest_refills_to_the_burst_and_no_further() {
        let limiter = Limiter::new(1.0, 2);
        let start = Instant::now();
        assert_eq!(limiter.check(start).unwrap().full_after, SECOND);
        assert_eq!(limiter.check(start + 1000 * SECOND).unwrap().remaining, 1);
    }

    #[test]
    fn a_rate_that_makes_no_sense_does_not_open_the_door() {
        let start = Instant::now();
        for rate in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            let limiter = Limiter::new(rate, 0);
            assert!(limiter.check(start).is_ok());
            assert!(limiter.check(start + 86_400 * SECOND).is_err(), "{rate}");
        }
        assert!(Rate::new(1e-30, u32::MAX).take(u64::MAX, 0).is_err());
        assert_eq!(Rate::per(100, SECOND, 5), Rate::new(100.0, 5));
        assert_eq!(Rate::per(1, Duration::ZERO, 5), Rate::new(f64::INFINITY, 5));
    }

    #[test]
    fn a_raised_rate_forgives_the_debt_of_the_old_one() {
        let bucket = Bucket::default();
        let (slow, fast) = (Rate::new(0.001, 10), Rate::new(1.0, 1));
        let start = Instant::now();
        for _ in 0..10 {
            bucket.check(&slow, start).unwrap();
        }
        assert_eq!(bucket.check(&fast, start).unwrap_err().retry_after, SECOND);
        assert_eq!(bucket.full_after(start + 9_999 * SECOND), SECOND);
        assert_eq!(bucket.full_after(start + 10_000 * SECOND), Duration::ZERO);
    }

    #[test]
    fn a_clock_behind_the_limiters_birth_still_counts() {
        let earlier = Instant::now();
        let limiter = Limiter::new(1.0, 1);
        assert!(limiter.check(earlier).is_ok());
        assert!(limiter.check(earlier + SECOND / 2).is_err());
        assert!(limiter.check(earlier + SECOND).is_ok());
    }

    #[test]
    fn threads_that_share_a_bucket_get_its_burst_once() {
        let limiter = Limiter::new(0.001, 500);
        let now = Instant::now();
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..400).filter(|_| limiter.check(now).is_ok()).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 500);
    }

    #[test]
    fn keys_do_not_share_a_bucket() {
        let limiter = KeyedLimiter::new(1.0, 1, 1000);
        let now = Instant::now();
        assert!(limiter.check(&"a", now).is_ok());
        assert!(limiter.check(&"a", now).is_err());
        assert!(limiter.check(&"b", now).is_ok());
        assert_eq!(limiter.tracked(), 2);
    }

    #[test]
    fn memory_is_bounded_and_rotating_keys_push_out_each_other_rather_than_who_is_held_back() {
        let limiter = KeyedLimiter::new(1.0, 100, 1024);
        let now = Instant::now();
        let held_back = 0_u32;
        while limiter.check(&held_back, now).is_ok() {}
        for rotating in 1..200_000 {
            assert!(limiter.check(&rotating, now).is_ok());
        }
        assert!(limiter.tracked() <= 1024);
        assert!(limiter.evicted() >= 198_000);
        assert!(limiter.check(&held_back, now).is_err());
    }

    #[test]
    fn room_is_made_where_nothing_is_lost() {
        let limiter = KeyedLimiter::new(1.0, 2, 2);
        let start = Instant::now();
        limiter.check(&'a', start).unwrap();
        limiter.check(&'b', start).unwrap();
        limiter.check(&'b', start).unwrap();
        // By now the bucket of a is full again and that of b is not.
        let later = start + SECOND;
        limiter.check(&'c', later).unwrap();
        assert_eq!(limiter.check(&'b', later).unwrap().remaining, 0);
        assert!(limiter.check(&'b', later).is_err());
    }

    #[test]
    fn a_small_bound_holds_to_the_key() {
        for bound in [0, 1, 15, 17, 100, 1023] {
            let limiter = KeyedLimiter::new(1.0, 1, bound);
            let now = Instant::now();
            for key in 0..2000 {
                let _ = limiter.check(&key, now);
            }
            assert!(limiter.tracked() <= bound.max(1), "{bound}");
        }
    }

    #[test]
    fn an_ipv6_subscriber_is_one_key_and_a_mapped_address_is_ipv4() {
        let key = |text: &str| address_key(text.parse().unwrap()).to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(key("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(key("192.0.2.1"), "192.0.2.1");
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_allow(
            interval_ms in 1_u64..500, burst in 1_u32..20, steps in prop::collection::vec(0_u64..1000, 1..200),
        ) {
            let limiter = KeyedLimiter::new(1000.0 / interval_ms as f64, burst, 10);
            let start = Instant::now();
            let (mut passed_ms, mut allowed) = (0, 0_u64);
            for step in steps {
                passed_ms += step;
                let now = start + Duration::from_millis(passed_ms);
                match limiter.check(&(), now) {
                    Ok(_) => allowed += 1,
                    // Whoever waits as told is let through: checked on a copy of the arithmetic, since it would take.
                    Err(limited) => {
                        prop_assert!(!limited.retry_after.is_zero());
                        prop_assert!(limited.retry_after <= Duration::from_millis(interval_ms) + Duration::from_nanos(1));
                    }
                }
                // One nanosecond of rounding per request at most.
                let gained = (passed_ms + 1) / interval_ms;
                prop_assert!(allowed <= u64::from(burst) + gained, "{allowed} after {passed_ms} ms");
            }
        }

        #[test]
        fn who_waits_as_told_is_let_through(rate in 0.1_f64..10_000.0, burst in 1_u32..50, waits in 1_usize..20) {
            let limiter = Limiter::new(rate, burst);
            let mut now = Instant::now();
            while limiter.check(now).is_ok() {}
            for _ in 0..waits {
                let wait = limiter.check(now).unwrap_err().retry_after;
                prop_assert!(limiter.check(now + wait - Duration::from_nanos(1)).is_err());
                now += wait;
                prop_assert!(limiter.check(now).is_ok());
            }
        }
    }
}
