//! The deadlines of one request, from its arrival to the last byte of its answer.
//!
//! An upstream sets limits, a route may set others in their place, and what remains shrinks as time passes and tries are
//! used up. Everything is worked out from one moment, `now`, that the caller hands in, so nothing here sleeps.
//!
//! The limits are enforced in three places, because a proxy on Pingora has one timer per read and none for the whole:
//!
//! 1. Before a try, [`Deadlines::try_limits`] says what the try may take; the upstream unit gives that to its connection,
//!    whose socket is cut when the header or a body makes no progress, or when the whole is over.
//! 2. At each piece of a body, in either direction, [`Deadlines::check`] refuses to go on past the total. An upstream that
//!    drips calls it with every drop; one that falls silent is met by the connection's own timer.
//! 3. Before a retry, `try_limits` again: when nothing is left there is no further try.

use std::time::{Duration, Instant};

use sluice_vocabulary::deadline::{Timeouts, TryLimits};
use sluice_vocabulary::{Reason, Refusal};

/// What kind of exchange it is: how far the limits go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exchange {
    /// A request and its answer.
    #[default]
    Plain,
    /// A route whose bodies have no end in sight (server-sent events, long downloads): no total.
    Streaming,
    /// A connection that changes its protocol (WebSocket): no total, and its own limit on silence.
    Upgrade,
}

/// What a route sets in place of its upstream's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// In place of the upstream's limit on the response's header.
    pub response: Option<Duration>,
    /// In place of the upstream's limit on silence.
    pub idle: Option<Duration>,
    /// In place of the upstream's limit on the whole.
    pub total: Option<Duration>,
}

/// The deadlines of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    establish: Duration,
    response: Duration,
    idle: Duration,
    started: Instant,
    ends: Option<Instant>,
}

impl Deadlines {
    /// Of a request that arrived at `started`.
    pub fn new(upstream: &Timeouts, route: &Overrides, exchange: Exchange, started: Instant) -> Self {
        let total = match exchange {
            Exchange::Plain => Some(route.total.unwrap_or(upstream.total)),
            Exchange::Streaming | Exchange::Upgrade => None,
        };
        let idle = match exchange {
            Exchange::Upgrade => upstream.upgraded_idle,
            Exchange::Plain | Exchange::Streaming => route.idle.unwrap_or(upstream.idle),
        };
        Self {
            establish: upstream.connect.saturating_add(upstream.handshake),
            response: route.response.unwrap_or(upstream.response),
            idle,
            started,
            ends: total.and_then(|total| started.checked_add(total)),
        }
    }

    /// What is left of the whole, where anything bounds it; zero once it is over.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.ends.map(|ends| ends.saturating_duration_since(now))
    }

    /// What a try that begins now may take.
    ///
    /// # Errors
    /// [`Reason::UpstreamTimeout`] when the whole is over.
    pub fn try_limits(&self, now: Instant) -> Result<TryLimits, Refusal> {
        self.check(now)?;
        let left = self.remaining(now).unwrap_or(Duration::MAX);
        Ok(TryLimits {
            establish: self.establish.min(left),
            response: self.response.min(left),
            idle: self.idle.min(left),
            ends: self.ends,
        })
    }

    /// Whether the exchange may go on: to be called at each piece of a body, in both directions.
    ///
    /// # Errors
    /// [`Reason::UpstreamTimeout`] when the whole is over.
    pub fn check(&self, now: Instant) -> Result<(), Refusal> {
        match self.ends {
            Some(ends) if now >= ends => {
                let allowed = ends.saturating_duration_since(self.started);
                let taken = now.saturating_duration_since(self.started);
                Err(Refusal::new(Reason::UpstreamTimeout)
                    .internal(format!("the exchange took {taken:?} of {allowed:?} in all")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn upstream() -> Timeouts {
        Timeouts {
            connect: SECOND,
            handshake: 2 * SECOND,
            response: 15 * SECOND,
            idle: 30 * SECOND,
            total: 60 * SECOND,
            upgraded_idle: 300 * SECOND,
        }
    }

    #[test]
    fn a_try_may_take_no_more_than_what_is_left_of_the_whole() {
        let started = Instant::now();
        let deadlines = Deadlines::new(&upstream(), &Overrides::default(), Exchange::Plain, started);

        let first = deadlines.try_limits(started).unwrap();
        assert_eq!(
            (first.establish, first.response, first.idle, first.ends),
            (3 * SECOND, 15 * SECOND, 30 * SECOND, Some(started + 60 * SECOND))
        );
        let late = deadlines.try_limits(started + 58 * SECOND).unwrap();
        assert_eq!((late.establish, late.response, late.idle), (2 * SECOND, 2 * SECOND, 2 * SECOND));

        let over = deadlines.try_limits(started + 60 * SECOND).unwrap_err();
        assert_eq!(over.reason, Reason::UpstreamTimeout);
        assert_eq!(over.internal.as_deref(), Some("the exchange took 60s of 60s in all"));
    }

    #[test]
    fn a_route_replaces_what_its_upstream_says() {
        let started = Instant::now();
        let route = Overrides { response: Some(40 * SECOND), idle: Some(SECOND), total: Some(50 * SECOND) };
        let limits = Deadlines::new(&upstream(), &route, Exchange::Plain, started).try_limits(started).unwrap();
        assert_eq!((limits.response, limits.idle, limits.ends), (40 * SECOND, SECOND, Some(started + 50 * SECOND)));
    }

    #[test]
    fn streams_and_upgraded_connections_have_no_total_but_still_end_when_silent() {
        let started = Instant::now();
        let much_later = started + 86_400 * SECOND;
        for (exchange, idle) in [(Exchange::Streaming, 30 * SECOND), (Exchange::Upgrade, 300 * SECOND)] {
            let deadlines = Deadlines::new(&upstream(), &Overrides::default(), exchange, started);
            assert!(deadlines.check(much_later).is_ok());
            let limits = deadlines.try_limits(much_later).unwrap();
            assert_eq!((limits.ends, limits.idle), (None, idle));
        }
    }

    proptest! {
        #[test]
        fn no_try_ever_outlasts_the_whole(total_ms in 1_u64..120_000, passed_ms in 0_u64..240_000) {
            let started = Instant::now();
            let route = Overrides { total: Some(Duration::from_millis(total_ms)), ..Overrides::default() };
            let deadlines = Deadlines::new(&upstream(), &route, Exchange::Plain, started);
            let now = started + Duration::from_millis(passed_ms);
            match deadlines.try_limits(now) {
                Ok(limits) => {
                    let ends = started + Duration::from_millis(total_ms);
                    prop_assert!(passed_ms < total_ms);
                    for limit in [limits.establish, limits.response, limits.idle] {
                        prop_assert!(now + limit <= ends);
                    }
                }
                Err(refusal) => {
                    prop_assert!(passed_ms >= total_ms);
                    prop_assert_eq!(refusal.reason, Reason::UpstreamTimeout);
                }
            }
        }
    }
}
