//! Who holds how many connections: in all, and by client address.
//!
//! Each count is held by a guard and given back when it drops, so that no path out of a connection can forget to. The
//! order of acquisition is: all connections (when accepted), then the client's address (when it is known, which with the
//! PROXY protocol is later).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use sluice_vocabulary::limiter::address_key;
use tokio::sync::Notify;

/// Locks that addresses are spread over. Taken twice per connection, never per request.
const SHARDS: usize = 16;

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicUsize,
    emptied: Notify,
    hasher: RandomState,
    by_address: [Mutex<HashMap<IpAddr, usize, RandomState>>; SHARDS],
}

/// One of the connections in all.
#[derive(Debug)]
pub(crate) struct ConnectionPermit(Arc<Gate>);

/// One of the connections of an address; nothing where addresses are not limited.
#[derive(Debug)]
pub(crate) struct AddressPermit(Option<(Arc<Gate>, IpAddr)>);

impl Gate {
    /// Takes one of `limit` connections, if one is left.
    pub(crate) fn enter(self: &Arc<Self>, limit: usize) -> Option<ConnectionPermit> {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        let permit = ConnectionPermit(Arc::clone(self));
        (before < limit).then_some(permit)
    }

    /// Takes one of `limit` connections of `address`, if one is left.
    pub(crate) fn enter_address(self: &Arc<Self>, address: IpAddr, limit: usize) -> Option<AddressPermit> {
        if limit == usize::MAX {
            return Some(AddressPermit(None));
        }
        let key = address_key(address);
        let mut shard = self.shard(key).lock();
        let count = shard.entry(key).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(AddressPermit(Some((Arc::clone(self), key))))
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Returns once no connection is open.
    pub(crate) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.open() == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn shard(&self, key: IpAddr) -> &Mutex<HashMap<IpAddr, usize, RandomState>> {
        let hash = self.hasher.hash_one(key);
        // The map uses the hash's ends; the shard is chosen by its middle.
        &self.by_address[(hash >> 32) as usize % SHARDS]
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        if let Some((gate, key)) = self.0.take()
            && let Entry::Occupied(mut count) = gate.shard(key).lock().entry(key)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_connection_beyond_the_limit_waits_for_none_and_takes_none() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter(2).unwrap();
        let _second = gate.enter(2).unwrap();
        assert!(gate.enter(2).is_none());
        assert_eq!(gate.open(), 2);
        drop(first);
        assert!(gate.enter(2).is_some());
    }

    #[test]
    fn an_address_is_forgotten_with_its_last_connection() {
        let gate = Arc::new(Gate::default());
        let (one, neighbour): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let first = gate.enter_address(one, 2).unwrap();
        let second = gate.enter_address(neighbour, 2).unwrap();
        assert!(gate.enter_address(one, 2).is_none(), "a /64 is one client");
        assert!(gate.enter_address("192.0.2.1".parse().unwrap(), 2).is_some());
        drop((first, second));
        assert!(gate.by_address.iter().all(|shard| shard.lock().is_empty()));
    }
}
