//! An issuer's keys as requests see them, and the desk at which a request may ask for them to be read anew.
//!
//! Requests load the present set without a lock. Only one whose token names an unknown key, or that comes before any key
//! was had, goes to the desk. There, in this order: what was just found unknown stays unknown; a refresh under way is
//! joined; else one is asked for, if the budget of attempts allows. Attempts count, not successes, so that an issuer that
//! is down is asked no more often than one that is up. Whoever waits does so for a bounded time, and so many at most.
//!
//! What comes of it tells "the token is bad" from "the issuer cannot be heard": a key that an issuer, heard just now,
//! does not have is [`Asked::Unknown`] (401); everything else is [`Asked::Unavailable`] (503).

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Guard};
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use sluice_vocabulary::limiter::Limiter;
use tokio::sync::{Notify, Semaphore, watch};

use crate::fetch::FetchFault;
use crate::jwk::KeySet;

/// The most requests that may wait for one issuer's keys at once.
const MAX_WAITING: usize = 1024;

/// The most unknown kids remembered for one issuer.
const MAX_UNKNOWN: usize = 1024;

/// An issuer's keys, and the state of getting them.
#[derive(Debug)]
pub(crate) struct Keyring {
    keys: ArcSwapOption<KeySet>,
    desk: Mutex<Desk>,
    budget: Limiter,
    /// How long an unknown kid is remembered as such.
    unknown_for: Duration,
    wanted: Notify,
    /// Counts finished attempts; requests wait for it to change.
    finished: watch::Sender<u64>,
    seats: Semaphore,
}

#[derive(Debug, Default)]
struct Desk {
    requested: bool,
    unknown: UnknownKids,
    record: Record,
}

/// What is known of the attempts so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    /// When keys were last read with success.
    pub(crate) heard: Option<Instant>,
    /// Failures since then.
    pub(crate) failures: u32,
    /// Why the last attempt failed, if it did.
    pub(crate) error: Option<Arc<str>>,
    /// When the next attempt is due.
    pub(crate) next: Option<Instant>,
    /// Attempts in all.
    pub(crate) attempts: u64,
    /// Whether one is under way.
    pub(crate) in_flight: bool,
}

/// What comes of asking.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Look again: the key may be there now.
    Look,
    /// The issuer was heard and has no such key.
    Unknown,
    /// The issuer cannot be heard: why, for the operator, and when trying again makes sense.
    Unavailable { why: Arc<str>, retry_after: Duration },
}

impl Keyring {
    /// An empty ring whose attempts on request are limited to one per `every` after `burst`.
    pub(crate) fn new(every: Duration, burst: u32) -> Self {
        Self {
            keys: ArcSwapOption::empty(),
            desk: Mutex::default(),
            budget: Limiter::new(1.0 / every.as_secs_f64(), burst),
            unknown_for: every * 2,
            wanted: Notify::new(),
            finished: watch::Sender::new(0),
            seats: Semaphore::new(MAX_WAITING),
        }
    }

    /// The keys now; `None` before any were had and after they became stale.
    pub(crate) fn keys(&self) -> Guard<Option<Arc<KeySet>>> {
        self.keys.load()
    }

    /// What is known of the attempts so far.
    pub(crate) fn record(&self) -> Record {
        self.desk.lock().record.clone()
    }

    /// Asks, on behalf of a request at `now`, for the key `kid`, or for any keys where it is `None`; waits at most `wait`.
    pub(crate) async fn ask(&self, kid: Option<&str>, now: Instant, wait: Duration) -> Asked {
        let mut finished = match self.step_up(kid, now) {
            Ok(finished) => finished,
            Err(answer) => return answer,
        };
        let unavailable = |why: &str| Asked::Unavailable { why: why.into(), retry_after: Duration::from_secs(1) };
        let Ok(_seat) = self.seats.try_acquire() else {
            return unavailable("too many requests wait for its keys");
        };
        if tokio::time::timeout(wait, finished.changed()).await.is_err() {
            return unavailable("its keys did not arrive while the request could wait");
        }
        self.answer(kid, now, None)
    }

    /// Joins or starts a refresh; the error is an answer that needs none.
    fn step_up(&self, kid: Option<&str>, now: Instant) -> Result<watch::Receiver<u64>, Asked> {
        let mut desk = self.desk.lock();
        // Between the request's look and now a refresh may have ended.
        if self.has(kid) {
            return Err(Asked::Look);
        }
        if let Some(kid) = kid
            && self.keys.load().is_some()
            && desk.unknown.holds(kid, now, self.unknown_for)
        {
            return Err(Asked::Unknown);
        }
        // Under the lock that `finish` takes, so that no end of an attempt is missed.
        let finished = self.finished.subscribe();
        if !desk.record.in_flight && !desk.requested {
            if let Err(limited) = self.budget.check(now) {
                drop(desk);
                return Err(self.answer(kid, now, Some(limited.retry_after)));
            }
            desk.requested = true;
            self.wanted.notify_one();
        }
        Ok(finished)
    }

    /// The answer by what is known now: after an attempt, or without one where the budget is `spent`.
    fn answer(&self, kid: Option<&str>, now: Instant, spent: Option<Duration>) -> Asked {
        if self.has(kid) {
            return Asked::Look;
        }
        let mut desk = self.desk.lock();
        match (&desk.record.error, self.keys.load().is_some()) {
            (None, true) => {
                // Only a refresh made for it proves a kid unknown for a while to come.
                if let (Some(kid), None) = (kid, spent) {
                    desk.unknown.note(kid, now);
                }
                Asked::Unknown
            }
            (error, _) => Asked::Unavailable {
                why: error.clone().unwrap_or_else(|| "its keys were never read".into()),
                retry_after: spent.unwrap_or(Duration::from_secs(1)),
            },
        }
    }

    fn has(&self, kid: Option<&str>) -> bool {
        self.keys.load().as_ref().is_some_and(|keys| kid.is_none_or(|kid| keys.has_kid(kid)))
    }

    /// Asks for an attempt outside every budget: an operator did.
    pub(crate) fn request_now(&self) {
        self.desk.lock().requested = true;
        self.wanted.notify_one();
    }

    /// Returns when an attempt is asked for.
    pub(crate) async fn requested(&self) {
        // A permit may be left from a request that a due attempt has served meanwhile; then nothing is asked for.
        while !self.desk.lock().requested {
            self.wanted.notified().await;
        }
    }

    /// An attempt begins.
    pub(crate) fn begin(&self) {
        let mut desk = self.desk.lock();
        desk.requested = false;
        desk.record.in_flight = true;
        desk.record.attempts += 1;
    }

    /// An attempt ended at `now`. Says whether a key was withdrawn by it.
    pub(crate) fn finish(&self, outcome: Result<KeySet, &FetchFault>, now: Instant) -> bool {
        let mut withdrew = false;
        let mut desk = self.desk.lock();
        match outcome {
            Ok(new) => {
                let (new, some_went) = new.succeed(self.keys.load().as_deref());
                withdrew = some_went;
                self.keys.store(Some(Arc::new(new)));
                desk.record.heard = Some(now);
                desk.record.failures = 0;
                desk.record.error = None;
            }
            Err(fault) => {
                desk.record.failures = desk.record.failures.saturating_add(1);
                desk.record.error = Some(fault.to_string().into());
            }
        }
        desk.record.in_flight = false;
        self.finished.send_modify(|count| *count += 1);
        withdrew
    }

    /// Takes over the keys of `other`, and what is known of them.
    pub(crate) fn inherit(&self, other: &Self) {
        self.keys.store(other.keys.load_full());
        let record = other.desk.lock().record.clone();
        self.desk.lock().record = Record { in_flight: false, ..record };
    }

    /// The next attempt is due then.
    pub(crate) fn due(&self, next: Instant) {
        self.desk.lock().record.next = Some(next);
    }

    /// Withdraws all keys, since they are stale. Says whether there were any.
    pub(crate) fn drop_keys(&self) -> bool {
        let old = self.keys.swap(None);
        if let Some(old) = &old {
            old.withdraw_all();
        }
        old.is_some()
    }
}

/// Kids found unknown of late, as keyed hashes, the oldest forgotten first. A collision, which nobody can aim at, lets a
/// new kid wait for the next regular refresh.
#[derive(Debug, Default)]
struct UnknownKids {
    hasher: RandomState,
    since: HashMap<u64, Instant>,
    order: VecDeque<u64>,
}

impl UnknownKids {
    fn holds(&self, kid: &str, now: Instant, lasting: Duration) -> bool {
        let since = self.since.get(&self.hasher.hash_one(kid));
        since.is_some_and(|since| now.saturating_duration_since(*since) < lasting)
    }

    fn note(&mut self, kid: &str, now: Instant) {
        let hash = self.hasher.hash_one(kid);
        if self.since.insert(hash, now).is_none() {
            self.order.push_back(hash);
        }
        if self.order.len() > MAX_UNKNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.since.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use futures_util::future::join_all;

    const EVERY: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(20);

    fn set(kid: &str) -> KeySet {
        let json = format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}]}}"#
        );
        KeySet::parse(json.as_bytes(), crate::Algorithm::ALL.iter().collect()).unwrap()
    }

    fn failure() -> FetchFault {
        FetchFault::Timeout(SHORT)
    }

    /// Serves one request for an attempt with `outcome`, when there is one.
    async fn serve(ring: &Keyring, outcome: Result<KeySet, &FetchFault>, now: Instant) {
        ring.requested().await;
        ring.begin();
        ring.finish(outcome, now);
    }

    fn is_unavailable(asked: &Asked) -> bool {
        matches!(asked, Asked::Unavailable { .. })
    }

    #[tokio::test]
    async fn many_requests_share_one_attempt() {
        let (ring, now) = (Keyring::new(EVERY, 1), Instant::now());
        let asks = (0..50).map(|_| ring.ask(Some("k"), now, Duration::from_secs(5)));
        let (answers, ()) = tokio::join!(join_all(asks), serve(&ring, Ok(set("k")), now));
        assert!(answers.iter().all(|answer| *answer == Asked::Look));
        assert_eq!(ring.record().attempts, 1);
    }

    #[tokio::test]
    async fn a_kid_that_a_heard_issuer_lacks_is_unknown_and_stays_so_for_a_while() {
        let (ring, now) = (Keyring::new(EVERY, 3), Instant::now());
        let (answer, ()) = tokio::join!(ring.ask(Some("x"), now, EVERY), serve(&ring, Ok(set("k")), now));
        assert_eq!(answer, Asked::Unknown);
        assert_eq!(ring.ask(Some("x"), now, SHORT).await, Asked::Unknown);
        assert_eq!(ring.record().attempts, 1, "the second asking cost no attempt");
        // When that is forgotten it may ask again, and finds nobody to serve it here.
        assert!(is_unavailable(&ring.ask(Some("x"), now + EVERY * 2, SHORT).await));
    }

    #[tokio::test]
    async fn while_attempts_are_spent_the_answer_depends_on_whether_the_issuer_was_heard() {
        let (ring, now) = (Keyring::new(EVERY, 1), Instant::now());
        let fault = failure();
        let (answer, ()) = tokio::join!(ring.ask(Some("x"), now, EVERY), serve(&ring, Err(&fault), now));
        assert!(is_unavailable(&answer));
        assert!(is_unavailable(&ring.ask(Some("y"), now, EVERY).await), "spent, and never heard");
        ring.begin();
        ring.finish(Ok(set("k")), now);
        assert_eq!(ring.ask(Some("y"), now, EVERY).await, Asked::Unknown, "spent, and heard");
        ring.begin();
        ring.finish(Err(&fault), now);
        assert!(is_unavailable(&ring.ask(Some("y"), now, EVERY).await), "spent, and not heard any more");
        assert_eq!(ring.ask(Some("k"), now, EVERY).await, Asked::Look, "the last good keys still serve");
    }

    #[tokio::test]
    async fn attempts_are_limited_and_not_successes() {
        let (ring, now) = (Keyring::new(EVERY, 2), Instant::now());
        let fault = failure();
        for i in 0..200 {
            let kid = format!("random {i}");
            let serve = async {
                if i < 2 {
                    serve(&ring, Err(&fault), now).await;
                }
            };
            let (answer, ()) = tokio::join!(ring.ask(Some(&kid), now, EVERY), serve);
            assert!(is_unavailable(&answer));
        }
        assert_eq!(ring.record().attempts, 2);
    }

    #[tokio::test]
    async fn so_many_may_wait_and_no_more() {
        let (ring, now) = (Keyring::new(EVERY, 1), Instant::now());
        let asks = (0..MAX_WAITING + 10).map(|_| ring.ask(None, now, SHORT));
        let answers = join_all(asks).await;
        let crowded =
            answers.iter().filter(|a| matches!(a, Asked::Unavailable { why, .. } if why.contains("too many")));
        assert_eq!(crowded.count(), 10);
    }

    #[tokio::test]
    async fn stale_keys_go_and_say_so() {
        let (ring, now) = (Keyring::new(EVERY, 1), Instant::now());
        ring.begin();
        ring.finish(Ok(set("k")), now);
        let key = Arc::clone(&ring.keys().as_ref().unwrap().keys()[0]);
        assert!(ring.drop_keys() && key.is_withdrawn() && !ring.drop_keys());
        assert!(is_unavailable(&ring.ask(Some("k"), now, SHORT).await));
    }

    #[test]
    fn the_memory_of_unknown_kids_is_bounded() {
        let (mut kids, now) = (UnknownKids::default(), Instant::now());
        for i in 0..5_000 {
            kids.note(&i.to_string(), now);
        }
        assert_eq!((kids.since.len(), kids.order.len()), (MAX_UNKNOWN, MAX_UNKNOWN));
        assert!(kids.holds("4999", now, EVERY) && !kids.holds("0", now, EVERY));
        assert!(!kids.holds("4999", now + EVERY, EVERY));
    }
}
