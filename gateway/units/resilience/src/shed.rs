//! Shedding: a bound on how many requests are in the gateway at once.
//!
//! Past the bound a request is refused at once with 503, which costs almost nothing, instead of joining a queue in which
//! all requests become late together. The count is kept in one place for the whole process: one addition when a request
//! enters and one subtraction when it leaves. A count split over cores would be cheaper still, but could not refuse the
//! request that is one too many. The count is the metric itself, so that telling it costs nothing more.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, header};
use sluice_vocabulary::{Reason, Refusal};

use crate::metrics::Metrics;

/// Decides who may enter. Cheap to clone; clones share the count.
#[derive(Debug, Clone)]
pub struct Shedder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bound: AtomicI64,
    retry_after_seconds: AtomicU64,
    metrics: Metrics,
}

/// A request that was let in. Dropping it lets it out.
#[derive(Debug)]
#[must_use = "dropping it at once lets the request out again"]
pub struct InFlight(Shedder);

impl Shedder {
    /// Lets in at most `bound` requests at once.
    pub fn new(bound: usize, retry_after: Duration, metrics: Metrics) -> Self {
        let shedder =
            Self(Arc::new(Inner { bound: AtomicI64::new(0), retry_after_seconds: AtomicU64::new(0), metrics }));
        shedder.configure(bound, retry_after);
        shedder
    }

    /// Sets the bound anew; requests that are in stay in, even above it.
    pub fn configure(&self, bound: usize, retry_after: Duration) {
        let bound = i64::try_from(bound).unwrap_or(i64::MAX);
        self.0.bound.store(bound, Ordering::Relaxed);
        self.0.retry_after_seconds.store(retry_after.as_secs().max(1), Ordering::Relaxed);
        self.0.metrics.bound.set(bound);
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] with `Retry-After` when as many as allowed are in.
    pub fn enter(&self) -> Result<InFlight, Refusal> {
        let bound = self.0.bound.load(Ordering::Relaxed);
        let before = self.0.metrics.in_flight.inc();
        if before >= bound {
            self.0.metrics.in_flight.dec();
            self.0.metrics.shed.inc();
            let seconds = HeaderValue::from(self.0.retry_after_seconds.load(Ordering::Relaxed));
            return Err(Refusal::new(Reason::Overloaded)
                .header(header::RETRY_AFTER, seconds)
                .internal(format!("{before} requests are in flight of {bound} allowed")));
        }
        Ok(InFlight(self.clone()))
    }

    /// How many requests are in now.
    pub fn in_flight(&self) -> i64 {
        self.0.metrics.in_flight.get()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.metrics.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use prometheus_client::registry::Registry;

    fn shedder(bound: usize) -> Shedder {
        Shedder::new(bound, Duration::from_secs(2), Metrics::new(&mut Registry::default()))
    }

    #[test]
    fn one_too_many_is_refused_and_the_next_is_let_in_when_one_has_left() {
        let shedder = shedder(2);
        let first = shedder.enter().unwrap();
        let _second = shedder.enter().unwrap();

        let refusal = shedder.enter().unwrap_err();
        assert_eq!(refusal.reason, Reason::Overloaded);
        assert_eq!(refusal.headers, vec![(header::RETRY_AFTER, HeaderValue::from_static("2"))]);
        assert_eq!(refusal.internal.as_deref(), Some("2 requests are in flight of 2 allowed"));
        assert_eq!(shedder.0.metrics.shed.get(), 1);

        drop(first);
        assert!(shedder.enter().is_ok());
    }

    #[test]
    fn a_lower_bound_lets_nobody_in_until_enough_have_left() {
        let shedder = shedder(3);
        let mut inside: Vec<_> = (0..3).map(|_| shedder.enter().unwrap()).collect();
        shedder.configure(1, Duration::from_secs(1));
        inside.pop();
        inside.pop();
        assert!(shedder.enter().is_err());
        inside.pop();
        assert!(shedder.enter().is_ok());
    }

    #[test]
    fn however_many_threads_rush_in_the_bound_holds_and_all_leave() {
        let shedder = shedder(8);
        let inside = AtomicI64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let held: Vec<_> = (0..3).filter_map(|_| shedder.enter().ok()).collect();
                        let count = i64::try_from(held.len()).unwrap();
                        assert!(inside.fetch_add(count, Ordering::SeqCst) + count <= 8);
                        inside.fetch_sub(count, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(shedder.in_flight(), 0);
    }
}
