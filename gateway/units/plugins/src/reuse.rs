//! Instances that serve more than one request: opt-in for each plugin, and never for more than one tenant.
//!
//! A fresh instance costs a native guest a few microseconds, and one that brings an interpreter along hundreds: that is what
//! an operator may spare it who trusts its author not to leave one request's secrets to the next. What rests is no tenant's
//! seat and nobody's memory but the sandbox's: at most a quarter of all instances and 64 MiB rest, for a while, and one of them
//! goes at once where another plugin finds no room. An instance in which a call ended in a trap, at its deadline or at a bound is never used again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::{Faults, Path, TenantId};

use crate::living::Rested;

/// How often and how long an instance is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reuse {
    /// Requests that one instance serves before it is thrown away, 2 to 1000000. Default 1000.
    pub requests: u32,
    /// How long it may rest in between, 1s to 1h. Default 30s.
    pub idle: Span,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { requests: 1000, idle: Span::secs(30) }
    }
}

impl Reuse {
    pub(crate) fn validate(self, at: &Path, faults: &mut Faults) {
        if !(2..=1_000_000).contains(&self.requests) {
            faults.error(&at.key("requests"), format!("{} is out of range: expected 2 to 1000000", self.requests));
        }
        let (least, most) = (Span::secs(1), Span::secs(3600));
        if self.idle < least || self.idle > most {
            faults.error(&at.key("idle"), format!("{} is out of range: expected {least} to {most}", self.idle));
        }
    }
}

/// One plugin's instances that rest, each tenant's apart.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    /// The lock is held to put one there or to take one. Requests without a tenant share what is under `None`.
    tenants: Mutex<HashMap<Option<TenantId>, Vec<Rested>>>,
}

impl Shelf {
    /// The instance of this tenant that has rested for the shortest time: what it touches is likeliest to be in caches.
    pub(crate) fn take(&self, tenant: Option<&TenantId>) -> Option<Rested> {
        let mut tenants = self.tenants.lock();
        // Names are shared text: this copies a pointer.
        let tenant = tenant.cloned();
        let rested = tenants.get_mut(&tenant)?;
        let taken = rested.pop();
        if rested.is_empty() {
            tenants.remove(&tenant);
        }
        taken
    }

    pub(crate) fn put(&self, tenant: Option<&TenantId>, rested: Rested) {
        self.tenants.lock().entry(tenant.cloned()).or_default().push(rested);
    }

    /// Throws away one that rests, whosoever it is.
    pub(crate) fn give_up_one(&self) -> bool {
        let mut tenants = self.tenants.lock();
        let Some(tenant) = tenants.keys().next().cloned() else { return false };
        let oldest = tenants.get_mut(&tenant).map(|rested| rested.remove(0));
        if tenants.get(&tenant).is_some_and(Vec::is_empty) {
            tenants.remove(&tenant);
        }
        drop(tenants);
        oldest.is_some()
    }

    /// Throws away what has rested for too long.
    pub(crate) fn sweep(&self, now: Instant, idle: Duration) {
        let mut over = Vec::new();
        self.tenants.lock().retain(|_, rested| {
            over.extend(rested.extract_if(.., |rested| rested.has_rested(now) > idle));
            !rested.is_empty()
        });
        // Unmapped here, where nobody waits for the lock.
        drop(over);
    }

    /// How many rest.
    pub(crate) fn len(&self) -> usize {
        self.tenants.lock().values().map(Vec::len).sum()
    }
}
