//! Whether a service is worth asking now.
//!
//! After so many failures in a row nothing is asked for a while (open). Then one call alone tries (half-open): its success
//! closes the breaker, its failure begins another rest. A try that ends undecided, since whoever waited for it went away,
//! leaves the next call to try.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

/// A breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// So many failures in a row open it.
    failures: u32,
    rest: Duration,
    state: Mutex<State>,
    /// 1 while it is not closed.
    open: Gauge,
    /// Called when it opens or closes.
    changed: Arc<tokio::sync::Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    Trying { since: Instant },
}

impl Breaker {
    pub(crate) fn new(failures: u32, rest: Duration, open: Gauge, changed: Arc<tokio::sync::Notify>) -> Self {
        Self { failures, rest, state: Mutex::new(State::Closed { failures: 0 }), open, changed }
    }

    /// Leave to call at `now`, or how long to wait before asking for it again.
    pub(crate) fn enter(&self, now: Instant) -> Result<Pass<'_>, Duration> {
        let mut state = self.state.lock();
        match *state {
            State::Closed { .. } => {}
            State::Open { until } if now < until => return Err(until - now),
            State::Open { .. } => *state = State::Trying { since: now },
            State::Trying { .. } => return Err(Duration::from_secs(1)),
        }
        let tries = matches!(*state, State::Trying { .. });
        Ok(Pass { breaker: self, tries, decided: false })
    }

    /// Whether [`Self::enter`] would say no at `now`, without taking what it would give.
    pub(crate) fn rests(&self, now: Instant) -> Option<Duration> {
        match *self.state.lock() {
            State::Closed { .. } => None,
            State::Open { until } => until.checked_duration_since(now).filter(|left| !left.is_zero()),
            State::Trying { .. } => Some(Duration::from_secs(1)),
        }
    }

    /// `closed`, `open` or `half-open`.
    pub(crate) fn name(&self, now: Instant) -> &'static str {
        match *self.state.lock() {
            State::Closed { .. } => "closed",
            State::Open { until } if now < until => "open",
            State::Open { .. } | State::Trying { .. } => "half-open",
        }
    }

    /// Failures in a row; none known while it is not closed.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.state.lock(), State::Closed { .. })
    }

    fn succeeded(&self) {
        let before = std::mem::replace(&mut *self.state.lock(), State::Closed { failures: 0 });
        if !matches!(before, State::Closed { .. }) {
            self.open.dec();
            self.changed.notify_one();
        }
    }

    fn failed(&self, tried: bool, now: Instant) {
        let mut state = self.state.lock();
        let until = now + self.rest;
        match *state {
            State::Closed { failures } if failures + 1 < self.failures => {
                *state = State::Closed { failures: failures + 1 };
            }
            State::Closed { .. } => {
                *state = State::Open { until };
                self.open.inc();
                self.changed.notify_one();
            }
            State::Trying { .. } if tried => *state = State::Open { until },
            // A call from before it opened says nothing new.
            State::Open { .. } | State::Trying { .. } => {}
        }
    }

    fn undecided(&self) {
        let mut state = self.state.lock();
        if let State::Trying { since } = *state {
            *state = State::Open { until: since };
        }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        if !self.is_closed() {
            self.open.dec();
        }
    }
}

/// Leave for one call.
#[derive(Debug)]
pub(crate) struct Pass<'b> {
    breaker: &'b Breaker,
    tries: bool,
    decided: bool,
}

impl Pass<'_> {
    /// The call ended at `now`.
    pub(crate) fn end(mut self, success: bool, now: Instant) {
        self.decided = true;
        if success { self.breaker.succeeded() } else { self.breaker.failed(self.tries, now) }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.tries && !self.decided {
            self.breaker.undecided();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const REST: Duration = Duration::from_secs(10);

    fn breaker() -> Breaker {
        Breaker::new(3, REST, Gauge::default(), Arc::default())
    }

    fn fail(breaker: &Breaker, times: u32, now: Instant) {
        (0..times).for_each(|_| breaker.enter(now).unwrap().end(false, now));
    }

    #[test]
    fn failures_open_it_in_a_row_alone() {
        let (breaker, now) = (breaker(), Instant::now());
        fail(&breaker, 2, now);
        breaker.enter(now).unwrap().end(true, now);
        fail(&breaker, 2, now);
        assert!(breaker.is_closed() && breaker.open.get() == 0);
        fail(&breaker, 1, now);
        assert_eq!((breaker.enter(now).unwrap_err(), breaker.name(now), breaker.open.get()), (REST, "open", 1));
    }

    #[test]
    fn after_the_rest_one_call_tries_for_all() {
        let (breaker, now) = (breaker(), Instant::now());
        fail(&breaker, 3, now);
        let later = now + REST;
        assert_eq!(breaker.rests(later), None);
        let pass = breaker.enter(later).unwrap();
        assert!(breaker.enter(later).is_err() && breaker.rests(later).is_some());
        pass.end(false, later);
        assert_eq!(breaker.enter(later).unwrap_err(), REST, "it failed, and another rest began");
        breaker.enter(later + REST).unwrap().end(true, later + REST);
        assert!(breaker.is_closed() && breaker.open.get() == 0);
        fail(&breaker, 2, later + REST);
        assert!(breaker.is_closed(), "old failures are forgotten");
    }

    #[test]
    fn a_try_that_nobody_waited_for_leaves_the_next_to_try() {
        let (breaker, now) = (breaker(), Instant::now());
        fail(&breaker, 3, now);
        drop(breaker.enter(now + REST).unwrap());
        breaker.enter(now + REST).unwrap().end(true, now + REST);
        assert!(breaker.is_closed());
    }

    #[test]
    fn late_failures_do_not_lengthen_the_rest_and_a_late_success_ends_it() {
        let (breaker, now) = (breaker(), Instant::now());
        let (early, other) = (breaker.enter(now).unwrap(), breaker.enter(now).unwrap());
        fail(&breaker, 3, now);
        early.end(false, now + REST / 2);
        assert_eq!(breaker.enter(now).unwrap_err(), REST);
        other.end(true, now + REST / 2);
        assert!(breaker.is_closed());
    }
}
