//! Answers of services, kept for a while in bounded memory: see [`crate::shards`]. An answer is never given after its time.

use std::time::Instant;

use prometheus_client::metrics::gauge::Gauge;

use crate::shards::{Kept, Shards};

/// An answer, and when it is no longer to be given.
#[derive(Debug, Clone)]
struct Dated<V> {
    value: V,
    until: Instant,
}

impl<V> Kept for Dated<V> {
    type Time = Instant;

    fn is_good(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// The cache. One of no bytes keeps nothing.
#[derive(Debug)]
pub(crate) struct AnswerCache<V>(Shards<Dated<V>>);

impl<V: Clone> AnswerCache<V> {
    /// A cache of at most `bytes`, told by `gauge`; 0 makes one that keeps nothing.
    pub(crate) fn new(bytes: usize, gauge: Gauge) -> Self {
        Self(Shards::new(bytes, gauge))
    }

    /// What is known of `key` at `now`.
    pub(crate) fn get(&self, key: &[u8], now: Instant) -> Option<V> {
        self.0.get(self.0.hash(key), key, now, |_| true).map(|dated| dated.value)
    }

    /// Keeps `value`, whose memory beside itself is `size`, until `until`, in place of what was known of `key`.
    pub(crate) fn insert(&self, key: &[u8], value: V, size: usize, until: Instant, now: Instant) {
        self.0.insert(self.0.hash(key), key, Dated { value, until }, size, now, |_| true);
    }

    /// Drops what is past its time.
    pub(crate) fn sweep(&self, now: Instant) {
        self.0.sweep(now);
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Entries held now.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_answer_is_given_until_its_time_and_the_latest_counts() {
        let (cache, now, second) =
            (AnswerCache::new(1 << 20, Gauge::default()), Instant::now(), Duration::from_secs(1));
        cache.insert(b"key", 7, 0, now + second, now);
        assert_eq!(cache.get(b"key", now + second - Duration::from_nanos(1)), Some(7));
        assert_eq!(cache.get(b"key", now + second), None);
        cache.insert(b"key", 8, 0, now + second, now);
        assert_eq!((cache.get(b"key", now), cache.len()), (Some(8), 1));
        cache.insert(b"key", 9, 0, now, now);
        assert_eq!((cache.get(b"key", now), cache.bytes()), (None, 0), "nothing is better than what is no longer so");
        cache.insert(b"key", 7, 0, now + second, now);
        cache.sweep(now + second);
        assert_eq!(cache.len(), 0);
    }
}
