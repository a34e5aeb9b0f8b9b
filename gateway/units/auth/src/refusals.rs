//! Refusals as the operator learns of them: counted by route, and told in the log, one for many.
//!
//! A flood of bad tokens must not become a flood of lines. Of each reason, for each issuer, one line a second is written;
//! it holds the route and the cause of the refusal it tells of, and how many others were left out since the line before.
//! It never holds a token, nor anything that a token says: a cause names claims and rules, not values.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus_client::metrics::counter::Counter;
use sluice_vocabulary::{Reason, Refusal};

use crate::metrics::{Metrics, REFUSALS, index_of};

/// A clock this many seconds behind was set back; one less behind is that of a request which waited.
const SET_BACK: u64 = 60;

/// Lets one of many through for each second.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// The second of the last one let through; 0 before the first.
    last: AtomicU64,
    left_out: AtomicU64,
}

impl Sampler {
    /// How many were left out since the last one, if it is this one's turn. `now` is in seconds since the epoch; requests
    /// that waited say an earlier one than others at the same time, and have no turn of their own by that.
    fn turn(&self, now: u64) -> Option<u64> {
        let last = self.last.load(Ordering::Relaxed);
        let is_due = now > last || last - now >= SET_BACK;
        // Of several at once, one wins the second.
        let is_turn = is_due && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_turn {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Tells an issuer's refusals, sampled by reason.
#[derive(Debug)]
pub(crate) struct RefusalLog {
    issuer: Box<str>,
    samplers: [Sampler; REFUSALS.len()],
}

impl RefusalLog {
    pub(crate) fn new(issuer: &str) -> Arc<Self> {
        Arc::new(Self { issuer: issuer.into(), samplers: Default::default() })
    }

    /// Writes a line about `refusal` if it is its turn.
    pub(crate) fn tell(&self, route: &str, refusal: &Refusal, now: u64) {
        let Some(left_out) = self.samplers[index_of(refusal.reason)].turn(now) else { return };
        let (issuer, reason) = (&*self.issuer, refusal.reason.slug());
        let cause = refusal.internal.as_deref().unwrap_or_default();
        if refusal.reason == Reason::TokenMissing {
            // Whoever walks by a locked door; nothing is wrong with any token.
            tracing::debug!(route, issuer, reason, left_out, "a request without a token was refused");
        } else {
            tracing::info!(route, issuer, reason, cause, left_out, "a token was refused");
        }
    }
}

/// The counters of one route's policy. Most series are there only from their first count on: routes are many, and refuse
/// for few reasons each.
#[derive(Debug)]
pub(crate) struct RouteOutcomes {
    route: Box<str>,
    metrics: Metrics,
    refused: [OnceLock<Counter>; REFUSALS.len()],
    anonymous: OnceLock<Counter>,
}

impl RouteOutcomes {
    pub(crate) fn new(route: &str, metrics: Metrics) -> Self {
        Self { route: route.into(), metrics, refused: Default::default(), anonymous: OnceLock::new() }
    }

    pub(crate) fn route(&self) -> &str {
        &self.route
    }

    pub(crate) fn refused(&self, reason: Reason) {
        let index = index_of(reason);
        self.refused[index].get_or_init(|| self.metrics.of_route(&self.route, REFUSALS[index].slug())).inc();
    }

    pub(crate) fn anonymous(&self) {
        self.anonymous.get_or_init(|| self.metrics.of_route(&self.route, "anonymous")).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_is_told_each_second_with_the_number_of_the_others() {
        let sampler = Sampler::default();
        assert_eq!(sampler.turn(100), Some(0));
        assert_eq!([sampler.turn(100), sampler.turn(100)], [None, None]);
        assert_eq!(sampler.turn(101), Some(2));
        assert_eq!(sampler.turn(101), None);
        assert_eq!(sampler.turn(500), Some(1));
        assert_eq!(sampler.turn(501), Some(0));
    }

    #[test]
    fn who_waited_has_no_turn_of_his_own_and_a_clock_set_back_goes_on() {
        let sampler = Sampler::default();
        assert_eq!(sampler.turn(100), Some(0));
        for _ in 0..10 {
            assert_eq!([sampler.turn(98), sampler.turn(100)], [None, None]);
        }
        assert_eq!(sampler.turn(101), Some(20));
        assert_eq!(sampler.turn(30), Some(0));
        assert_eq!([sampler.turn(30), sampler.turn(31)], [None, Some(1)]);
    }

    #[test]
    fn of_those_at_once_one_is_told_and_none_is_lost() {
        let sampler = Sampler::default();
        let told = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter_map(|_| sampler.turn(7)).count())).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).sum::<usize>()
        });
        assert_eq!((told, sampler.turn(8)), (1, Some(3999)));
    }
}
