//! Tokens already verified, in bounded memory: see [`crate::shards`].
//!
//! An entry is found by the whole token, for an issuer that the route takes. It is good while the key that verified it is
//! still published and its `exp` has not come (without leeway: in those last seconds a token is checked anew). Entries are
//! made after a valid signature only, so strangers cannot push others out. Once the memory is full, a token is kept when it
//! comes a second time: clients that fetch a new token for each request neither push out those in use nor pay for a place.

use std::sync::Arc;

use sluice_vocabulary::Identity;

use crate::jwk::Key;
use crate::metrics::CacheMetrics;
use crate::shards::{Kept, Shards};

/// What a token was found to be.
#[derive(Debug, Clone)]
struct Known {
    /// The issuer's instance: a reconfigured issuer is another one, and its old tokens are not found.
    issuer: u64,
    /// The key that verified it.
    key: Arc<Key>,
    identity: Arc<Identity>,
}

impl Kept for Known {
    /// Seconds since the Unix epoch.
    type Time = u64;

    fn is_good(&self, now: u64) -> bool {
        now < self.identity.expires_at && !self.key.is_withdrawn()
    }
}

/// The cache. One of no bytes keeps nothing.
#[derive(Debug)]
pub(crate) struct TokenCache {
    tokens: Shards<Known>,
    metrics: CacheMetrics,
}

impl TokenCache {
    /// A cache of at most `bytes`; 0 makes one that keeps nothing.
    pub(crate) fn new(bytes: usize, metrics: CacheMetrics) -> Self {
        Self { tokens: Shards::new(bytes, metrics.bytes.clone()), metrics }
    }

    /// The hash of `token`, keyed, for [`get`](Self::get) and [`insert`](Self::insert).
    pub(crate) fn hash(&self, token: &[u8]) -> u64 {
        self.tokens.hash(token)
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
        let found = self.tokens.get(hash, token, now, |known| accepts(known.issuer));
        match &found {
            Some(_) => self.metrics.hits.inc(),
            None => self.metrics.misses.inc(),
        };
        found.map(|Known { issuer, key, identity }| (identity, issuer, key))
    }

    /// What [`get`](Self::get) would give, for who only asks: nothing is counted.
    pub(crate) fn peek(
        &self,
        hash: u64,
        token: &[u8],
        now: u64,
        accepts: impl Fn(u64) -> bool,
    ) -> Option<(Arc<Identity>, u64, Arc<Key>)> {
        let found = self.tokens.peek(hash, token, now, |known| accepts(known.issuer));
        found.map(|Known { issuer, key, identity }| (identity, issuer, key))
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
        if !self.tokens.admits(hash) {
            self.metrics.passed_over.inc();
            return;
        }
        let known = Known { issuer, key: Arc::clone(key), identity: Arc::clone(identity) };
        let evicted = self.tokens.insert(hash, token, known, identity.size(), now, |known| known.issuer == issuer);
        self.metrics.evictions.inc_by(evicted);
    }

    /// Drops what is no longer good: after keys were withdrawn, and now and then for what has expired.
    pub(crate) fn sweep(&self, now: u64) {
        self.tokens.sweep(now);
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.tokens.bytes()
    }

    /// Entries held now.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }
}

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
    fn a_token_in_use_outlives_a_flood_of_tokens_used_once() {
        let (cache, keys) = (cache(100_000), keys());
        insert(&cache, b"in use", 1, &keys, 10);
        for i in 0..10_000_u32 {
            assert!(hit(&cache, b"in use", 5), "after {i}");
            insert(&cache, &i.to_be_bytes(), 1, &keys, 10);
        }
        assert!(cache.metrics.passed_over.get() > 9_000, "{}", cache.metrics.passed_over.get());
    }

    #[test]
    fn a_new_token_that_is_used_again_is_kept_in_a_full_cache() {
        let (cache, keys) = (cache(100_000), keys());
        for i in 0..10_000_u32 {
            insert(&cache, &i.to_be_bytes(), 1, &keys, 10);
        }
        for kept in [false, true] {
            assert!(!hit(&cache, b"new", 5));
            insert(&cache, b"new", 1, &keys, 10);
            assert_eq!(hit(&cache, b"new", 5), kept);
        }
    }
}
