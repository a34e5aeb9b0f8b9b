//! Whether a request that failed may be sent again.
//!
//! A request must not be done twice by the upstream unless it asks for nothing to be done. So it is repeated only when
//!
//! * the endpoint cannot have read it: there was no connection, or the endpoint itself says that it did not look
//!   (HTTP/2's refused stream and graceful end); or
//! * its method is safe (RFC 9110 9.2.1) and the connection broke before any answer came. RFC 9110 9.2.2 allows idempotent
//!   methods too; that is the operator's choice, since it is the application that must keep to it.
//!
//! A reused connection that was closed proves nothing: the close may have been sent before or after the request was read.
//! A request that timed out is not repeated: the endpoint may be at work on it, and slow is what more load makes slower.
//!
//! Retries are paid from a budget that grows with requests, so that when everything fails the upstream sees a fifth more
//! load and not twice as much.

use std::sync::atomic::{AtomicI64, Ordering};

use http::Method;

use crate::config::{Repeat, RetriesConfig};
use crate::failure::Failure;

/// What is known of a try that failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    pub(crate) method: &'a Method,
    /// How often the request was tried, this time included.
    pub(crate) tries: u8,
    pub(crate) failure: Failure,
    /// A connection was there and the request may have been written to it.
    pub(crate) may_be_sent: bool,
    /// The endpoint said that it did not look at it.
    pub(crate) disowned: bool,
    /// An answer began.
    pub(crate) answered: bool,
    /// Its body is there still.
    pub(crate) replayable: bool,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Send the same request, to another endpoint where there is one.
    SameRequestOtherEndpoint,
    /// Leave it at that: why.
    No(NoRetry),
}

impl Retry {
    /// Whether to try again.
    pub const fn is_yes(self) -> bool {
        matches!(self, Self::SameRequestOtherEndpoint)
    }
}

/// Why a request is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRetry {
    /// It was tried as often as is allowed.
    Exhausted,
    /// The failure is not the upstream's.
    NotTheUpstreams,
    /// An answer had begun.
    Answered,
    /// Its body is no longer held.
    BodyGone,
    /// The endpoint may have acted on it, and its method does not allow doing that twice.
    MayBeDone,
    /// It timed out.
    TimedOut,
    /// What came was not HTTP; another try would bring the same.
    Protocol,
    /// Too many retries were made of late.
    OverBudget,
}

/// Decides, and pays.
pub(crate) fn decide(attempt: &Attempt<'_>, config: &RetriesConfig, budget: &Budget) -> Retry {
    match allowed(attempt, config) {
        Err(why) => Retry::No(why),
        Ok(()) if budget.withdraw() => Retry::SameRequestOtherEndpoint,
        Ok(()) => Retry::No(NoRetry::OverBudget),
    }
}

fn allowed(attempt: &Attempt<'_>, config: &RetriesConfig) -> Result<(), NoRetry> {
    if attempt.failure == Failure::Elsewhere {
        return Err(NoRetry::NotTheUpstreams);
    }
    if attempt.tries > config.attempts {
        return Err(NoRetry::Exhausted);
    }
    if attempt.answered {
        return Err(NoRetry::Answered);
    }
    if !attempt.replayable {
        return Err(NoRetry::BodyGone);
    }
    if !attempt.may_be_sent || attempt.disowned {
        return Ok(());
    }
    match attempt.failure {
        Failure::Timeout => Err(NoRetry::TimedOut),
        Failure::Protocol => Err(NoRetry::Protocol),
        _ if repeatable(attempt.method, config.repeat) => Ok(()),
        _ => Err(NoRetry::MayBeDone),
    }
}

fn repeatable(method: &Method, policy: Repeat) -> bool {
    match policy {
        Repeat::Safe => method.is_safe(),
        Repeat::Idempotent => method.is_idempotent(),
    }
}

/// A token bucket, filled by requests and emptied by retries. One atomic, in thousandths of a retry.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicI64,
    per_request: AtomicI64,
}

/// A retry's price.
const RETRY: i64 = 1_000;
/// Ten retries: enough for a few failures of an upstream with little traffic.
const FULL: i64 = 10 * RETRY;

impl Budget {
    pub(crate) fn new(percent: u8) -> Self {
        let budget = Self { left: AtomicI64::new(FULL), per_request: AtomicI64::new(0) };
        budget.configure(percent);
        budget
    }

    pub(crate) fn configure(&self, percent: u8) {
        self.per_request.store(i64::from(percent) * RETRY / 100, Ordering::Relaxed);
    }

    /// A request came.
    pub(crate) fn deposit(&self) {
        // Full nearly always, so that this is one load. Two deposits at once may overfill it by one request's share.
        if self.left.load(Ordering::Relaxed) < FULL {
            self.left.fetch_add(self.per_request.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn withdraw(&self) -> bool {
        if self.per_request.load(Ordering::Relaxed) == 0 {
            return false;
        }
        if self.left.fetch_sub(RETRY, Ordering::Relaxed) >= RETRY {
            return true;
        }
        self.left.fetch_add(RETRY, Ordering::Relaxed);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(method: &Method, failure: Failure) -> Attempt<'_> {
        Attempt { method, tries: 1, failure, may_be_sent: true, disowned: false, answered: false, replayable: true }
    }

    #[test]
    fn what_may_be_repeated_and_what_may_not() {
        use Failure as F;
        use NoRetry as N;
        let safe = RetriesConfig::default();
        let idempotent = RetriesConfig { repeat: Repeat::Idempotent, ..safe };
        let (get, head, put, delete, post, patch) =
            (Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::POST, Method::PATCH);
        let unsent = |method, failure| Attempt { may_be_sent: false, ..attempt(method, failure) };
        let yes = Ok(());
        let table = [
            // No connection: nothing was sent, whatever the method.
            (unsent(&get, F::Connect), &safe, yes),
            (unsent(&post, F::Connect), &safe, yes),
            (unsent(&patch, F::Tls), &safe, yes),
            (unsent(&post, F::Saturated), &safe, yes),
            // The endpoint says that it did not look.
            (Attempt { disowned: true, ..attempt(&post, F::Reset) }, &safe, yes),
            // It may have read it.
            (attempt(&get, F::Reset), &safe, yes),
            (attempt(&head, F::Reset), &safe, yes),
            (attempt(&put, F::Reset), &safe, Err(N::MayBeDone)),
            (attempt(&delete, F::Reset), &safe, Err(N::MayBeDone)),
            (attempt(&post, F::Reset), &safe, Err(N::MayBeDone)),
            (attempt(&put, F::Reset), &idempotent, yes),
            (attempt(&delete, F::Reset), &idempotent, yes),
            (attempt(&post, F::Reset), &idempotent, Err(N::MayBeDone)),
            (attempt(&patch, F::Reset), &idempotent, Err(N::MayBeDone)),
            // Slow, or no HTTP, even where the method would allow it.
            (attempt(&get, F::Timeout), &safe, Err(N::TimedOut)),
            (attempt(&get, F::Protocol), &safe, Err(N::Protocol)),
            // An answer began; the body is gone; the client is gone; once was enough.
            (Attempt { answered: true, ..attempt(&get, F::Reset) }, &safe, Err(N::Answered)),
            (Attempt { replayable: false, ..attempt(&get, F::Reset) }, &safe, Err(N::BodyGone)),
            (Attempt { replayable: false, ..unsent(&post, F::Connect) }, &safe, Err(N::BodyGone)),
            (attempt(&get, F::Elsewhere), &safe, Err(N::NotTheUpstreams)),
            (Attempt { tries: 2, ..attempt(&get, F::Reset) }, &safe, Err(N::Exhausted)),
            (Attempt { tries: 2, ..unsent(&get, F::Connect) }, &safe, Err(N::Exhausted)),
        ];
        for (attempt, config, expected) in table {
            assert_eq!(allowed(&attempt, config), expected, "{attempt:?} {config:?}");
        }
    }

    #[test]
    fn retries_are_a_bounded_share_of_requests() {
        let budget = Budget::new(20);
        let mut granted = 0;
        for _ in 0..1_000 {
            budget.deposit();
            granted += u32::from(budget.withdraw());
        }
        assert!((200..=210).contains(&granted), "{granted} retries of 1000 failing requests");

        let none = Budget::new(0);
        none.deposit();
        assert!(!none.withdraw());
    }
}
