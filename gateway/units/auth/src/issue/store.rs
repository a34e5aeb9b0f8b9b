//! Identity tokens made a moment ago, so that a signature is not made for every request.
//!
//! An entry is found by the identity and by the route's demand, both by the place in memory where they live: the identity
//! of a cached token is one and the same for all its requests. The entry holds a weak reference to either, which keeps
//! the place from being used for another while it does not keep the claims. Shards have a fixed number of entries each;
//! a new one takes the place of the oldest.

use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use http::HeaderValue;
use parking_lot::RwLock;
use sluice_vocabulary::Identity;

use crate::issue::Spec;

const SHARDS: usize = 16;

/// Entries of a shard: 16 384 in all, which with tokens of common size take some 12 MiB.
const MOST: usize = 1024;

struct Entry {
    identity: Weak<Identity>,
    spec: Weak<Spec>,
    value: HeaderValue,
    /// The second from which it is not handed out again.
    until: u64,
}

impl Entry {
    fn places(&self) -> (usize, usize) {
        (Weak::as_ptr(&self.identity).addr(), Weak::as_ptr(&self.spec).addr())
    }
}

#[derive(Default)]
struct Shard {
    table: HashTable<u32>,
    slots: Vec<Entry>,
    oldest: usize,
}

/// The tokens.
#[derive(Default)]
pub(crate) struct Store {
    shards: [RwLock<Shard>; SHARDS],
    hasher: RandomState,
}

impl Store {
    /// The token for `identity` by `spec`, if there is one that may still be handed out.
    pub(crate) fn get(&self, identity: &Arc<Identity>, spec: &Arc<Spec>, now: u64) -> Option<HeaderValue> {
        let places = (Arc::as_ptr(identity).addr(), Arc::as_ptr(spec).addr());
        let hash = self.hasher.hash_one(places);
        let shard = self.shard(hash).read();
        let slot = *shard.table.find(hash, |slot| shard.slots[*slot as usize].places() == places)?;
        let entry = &shard.slots[slot as usize];
        (now < entry.until).then(|| entry.value.clone())
    }

    /// Keeps a token to be handed out before the second `until`.
    pub(crate) fn put(&self, identity: &Arc<Identity>, spec: &Arc<Spec>, value: HeaderValue, until: u64) {
        let entry = Entry { identity: Arc::downgrade(identity), spec: Arc::downgrade(spec), value, until };
        let places = entry.places();
        let hash = self.hasher.hash_one(places);
        let mut shard = self.shard(hash).write();
        let Shard { table, slots, oldest } = &mut *shard;
        if let Some(slot) = table.find(hash, |slot| slots[*slot as usize].places() == places) {
            slots[*slot as usize] = entry;
            return;
        }
        let slot = if slots.len() < MOST {
            slots.push(entry);
            slots.len() - 1
        } else {
            let slot = *oldest;
            *oldest = (slot + 1) % MOST;
            let gone = self.hasher.hash_one(slots[slot].places());
            if let Ok(found) = table.find_entry(gone, |held| *held as usize == slot) {
                found.remove();
            }
            slots[slot] = entry;
            slot
        };
        // Far below the bound of u32.
        table.insert_unique(hash, slot as u32, |slot| self.hasher.hash_one(slots[*slot as usize].places()));
    }

    /// Entries held now.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().table.len()).sum()
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        // The table inside uses the low and the top bits; the middle is free.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }
}

impl std::fmt::Debug for Store {
    /// Without the tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("entries", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::issue::config::IdentityToken;
    use sluice_vocabulary::IssuerName;

    fn spec() -> Arc<Spec> {
        let config: IdentityToken = serde_json::from_value(serde_json::json!({ "audience": "a" })).unwrap();
        Arc::new(Spec::new(&config).unwrap())
    }

    fn identity() -> Arc<Identity> {
        let issuer = IssuerName::new("i").unwrap();
        Arc::new(Identity::new(issuer, serde_json::Map::new().into(), 0))
    }

    #[test]
    fn a_token_is_for_its_identity_and_its_route_until_its_time() {
        let (store, one, other) = (Store::default(), identity(), identity());
        let (route, elsewhere) = (spec(), spec());
        store.put(&one, &route, HeaderValue::from_static("one"), 10);
        assert_eq!(store.get(&one, &route, 9).unwrap(), "one");
        assert_eq!(store.get(&one, &route, 10), None);
        assert_eq!(store.get(&other, &route, 9), None);
        assert_eq!(store.get(&one, &elsewhere, 9), None);
        store.put(&one, &route, HeaderValue::from_static("two"), 20);
        assert_eq!((store.get(&one, &route, 10).unwrap(), store.len()), (HeaderValue::from_static("two"), 1));
    }

    #[test]
    fn entries_are_bounded_and_the_identity_of_one_that_is_gone_is_nobody_elses() {
        let (store, route) = (Store::default(), spec());
        for round in 0..60_000_u32 {
            // Freed at once: without the weak reference the next one would often live in the same place.
            let one = identity();
            assert_eq!(store.get(&one, &route, 1), None, "{round}");
            store.put(&one, &route, HeaderValue::from(round), 10);
            assert_eq!(store.get(&one, &route, 1), Some(HeaderValue::from(round)));
        }
        // A place that an eviction frees is often the next identity's, which then is of the same shard: so one shard may
        // turn round while others have room.
        assert!((MOST..=SHARDS * MOST).contains(&store.len()), "{}", store.len());
        assert!(store.shards.iter().all(|shard| shard.read().slots.len() <= MOST));
    }
}
