//! An issuer's keys as requests see them, and the desk at which a request may ask for them to be read anew.
//!
//! Requests load the present set without a lock. Only one whose token names an unknown key, or that comes before any key
//! was had, goes to the desk. There, in this order: what was just found unknown stays unknown; a refresh under way is
//! joined; else one is asked for, if the budget of attempts allows. Attempts count, not successes, so that an issuer that
//! is down is asked no more often than one that is up. Whoever waits does so for a bounded time, and so many at most.
//!
//! A refresh that was under way before the request came may have been answered before the key was published, or have
//! failed before the issuer came back: it can bring the key and cannot prove that there is none. So who joined one asks
//! once more, within the same time and budget.
//!
//! Keys from an earlier process are *held* at first and come into force when the issuer turns out not to be heard, since
//! it may have withdrawn one meanwhile.
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
    /// Whether the keys stand in the configuration, so that there is nobody to ask for others.
    fixed: bool,
    wanted: Notify,
    /// The number of the attempt that ended last; requests wait for it to grow.
    ended: watch::Sender<u64>,
    seats: Semaphore,
}

#[derive(Debug, Default)]
struct Desk {
    requested: bool,
    unknown: UnknownKids,
    record: Record,
    held: Option<Held>,
}

/// Keys from an earlier process that are not in force yet.
#[derive(Debug)]
struct Held {
    keys: KeySet,
    heard: Instant,
    /// When they are too old to be used.
    stale: Instant,
}

/// What is known of the attempts so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    /// When the issuer last confirmed its keys; before this process began, where `restored`.
    pub(crate) heard: Option<Instant>,
    /// Whether the keys in force are those of an earlier process, and the issuer was not heard by this one.
    pub(crate) restored: bool,
    /// Failures since it was heard.
    pub(crate) failures: u32,
    /// Why the last attempt failed, if it did.
    pub(crate) error: Option<Arc<str>>,
    /// Why the keys could not be kept on disk, if they were to be and could not.
    pub(crate) unkept: Option<Arc<str>>,
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

impl Asked {
    fn unavailable(why: &str) -> Self {
        Self::Unavailable { why: why.into(), retry_after: Duration::from_secs(1) }
    }
}

/// A request's ticket for the end of an attempt.
struct Ticket {
    ended: watch::Receiver<u64>,
    /// The attempt whose end it waits for.
    attempt: u64,
    /// Whether that attempt had begun before the request came.
    joined: bool,
}

impl Keyring {
    /// An empty ring whose attempts on request are limited to one per `every` after `burst`.
    pub(crate) fn new(every: Duration, burst: u32) -> Self {
        Self {
            keys: ArcSwapOption::empty(),
            desk: Mutex::default(),
            budget: Limiter::new(1.0 / every.as_secs_f64(), burst),
            unknown_for: every * 2,
            fixed: false,
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
            seats: Semaphore::new(MAX_WAITING),
        }
    }

    /// A ring of keys that stand in the configuration: nothing is ever asked for.
    pub(crate) fn fixed(keys: KeySet) -> Self {
        let keys = ArcSwapOption::from_pointee(keys);
        Self { keys, fixed: true, ..Self::new(Duration::from_secs(1), 1) }
    }

    /// The keys now; `None` before any were had and after they became stale.
    pub(crate) fn keys(&self) -> Guard<Option<Arc<KeySet>>> {
        self.keys.load()
    }

    /// What is known of the attempts so far.
    pub(crate) fn record(&self) -> Record {
        self.desk.lock().record.clone()
    }

    /// Whether it is known yet what the issuer says: its keys stand in the configuration, or an attempt has ended.
    pub(crate) fn is_settled(&self) -> bool {
        let record = self.record();
        self.fixed || record.error.is_some() || (record.heard.is_some() && !record.restored)
    }

    /// What an operator should know to be wrong, if anything.
    pub(crate) fn complaint(&self) -> Option<String> {
        let record = self.record();
        let keys = self.keys();
        match (keys.as_ref(), &record.error) {
            (None, Some(error)) => Some(format!("no keys: {error}")),
            (None, None) if record.heard.is_some() => Some("no keys: it was not heard for too long".into()),
            (None, None) => Some("its keys are not read yet".into()),
            (Some(keys), _) if keys.keys().is_empty() => Some("its key set holds no usable key".into()),
            (Some(_), Some(error)) if record.restored => Some(format!("on keys kept by an earlier process: {error}")),
            (Some(_), Some(error)) => Some(format!("on its last good keys: {error}")),
            (Some(_), None) if record.restored => Some("on keys kept by an earlier process".into()),
            (Some(_), None) => record.unkept.map(|why| format!("its keys are not kept for a restart: {why}")),
        }
    }

    /// Asks, on behalf of a request at `now`, for the key `kid`, or for any keys where it is `None`; waits at most `wait`.
    pub(crate) async fn ask(&self, kid: Option<&str>, now: Instant, wait: Duration) -> Asked {
        match tokio::time::timeout(wait, self.ask_with_patience(kid, now)).await {
            Ok(answer) => answer,
            // It may have come at the last moment.
            Err(_) if self.has(kid) => Asked::Look,
            Err(_) => Asked::unavailable("its keys did not arrive while the request could wait"),
        }
    }

    async fn ask_with_patience(&self, kid: Option<&str>, now: Instant) -> Asked {
        let mut ticket = match self.step_up(kid, now) {
            Ok(ticket) => ticket,
            Err(answer) => return answer,
        };
        let Ok(_seat) = self.seats.try_acquire() else {
            return Asked::unavailable("too many requests wait for its keys");
        };
        self.await_end(&mut ticket, kid).await;
        if ticket.joined && !self.has(kid) {
            ticket = match self.step_up(kid, now) {
                Ok(ticket) => ticket,
                Err(answer) => return answer,
            };
            self.await_end(&mut ticket, kid).await;
        }
        self.answer(kid, now, None)
    }

    /// Returns when the ticket's attempt has ended, or the key is there.
    async fn await_end(&self, ticket: &mut Ticket, kid: Option<&str>) {
        while ticket.ended.changed().await.is_ok() {
            if *ticket.ended.borrow_and_update() >= ticket.attempt || self.has(kid) {
                return;
            }
        }
    }

    /// Joins or starts a refresh; the error is an answer that needs none.
    fn step_up(&self, kid: Option<&str>, now: Instant) -> Result<Ticket, Asked> {
        let mut desk = self.desk.lock();
        // Between the request's look and now a refresh may have ended.
        if self.has(kid) {
            return Err(Asked::Look);
        }
        if self.fixed {
            return Err(Asked::Unknown);
        }
        if let Some(kid) = kid
            && self.keys.load().is_some()
            && desk.unknown.holds(kid, now, self.unknown_for)
        {
            return Err(Asked::Unknown);
        }
        // Under the lock that `finish` takes, so that no end of an attempt is missed.
        let ended = self.ended.subscribe();
        let joined = desk.record.in_flight;
        if !joined && !desk.requested {
            if let Err(limited) = self.budget.check(now) {
                drop(desk);
                return Err(self.answer(kid, now, Some(limited.retry_after)));
            }
            desk.requested = true;
            self.wanted.notify_one();
        }
        Ok(Ticket { ended, attempt: desk.record.attempts + u64::from(!joined), joined })
    }

    /// The answer by what is known now: after an attempt, or without one where the budget is `spent`.
    fn answer(&self, kid: Option<&str>, now: Instant, spent: Option<Duration>) -> Asked {
        if self.has(kid) {
            return Asked::Look;
        }
        let desk = &mut *self.desk.lock();
        let record = &desk.record;
        let why: Arc<str> = match &record.error {
            None if record.restored => "it was not heard since the start".into(),
            None if self.keys.load().is_some() => {
                // Only a refresh made for it proves a kid unknown for a while to come.
                if let (Some(kid), None) = (kid, spent) {
                    desk.unknown.note(kid, now);
                }
                return Asked::Unknown;
            }
            None if record.heard.is_some() => "it was not heard for too long".into(),
            None => "its keys were never read".into(),
            Some(error) => Arc::clone(error),
        };
        Asked::Unavailable { why, retry_after: spent.unwrap_or(Duration::from_secs(1)) }
    }

    fn has(&self, kid: Option<&str>) -> bool {
        self.keys.load().as_ref().is_some_and(|keys| kid.is_none_or(|kid| keys.has_kid(kid)))
    }

    /// Asks for an attempt outside every budget: an operator did.
    pub(crate) fn request_now(&self) {
        if !self.fixed {
            self.desk.lock().requested = true;
            self.wanted.notify_one();
        }
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
                desk.held = None;
                desk.record.heard = Some(now);
                desk.record.restored = false;
                desk.record.failures = 0;
                desk.record.error = None;
            }
            Err(fault) => {
                desk.record.failures = desk.record.failures.saturating_add(1);
                desk.record.error = Some(fault.to_string().into());
                self.release_from(&mut desk, now);
            }
        }
        desk.record.in_flight = false;
        self.ended.send_replace(desk.record.attempts);
        withdrew
    }

    /// Holds keys that an earlier process had from the issuer at `heard` and that are good until `stale`.
    pub(crate) fn hold(&self, keys: KeySet, heard: Instant, stale: Instant) {
        self.desk.lock().held = Some(Held { keys, heard, stale });
    }

    /// Whether keys of an earlier process are held.
    pub(crate) fn is_holding(&self) -> bool {
        self.desk.lock().held.is_some()
    }

    /// Puts keys that are held in force, since the issuer is not heard.
    pub(crate) fn release(&self, now: Instant) {
        let mut desk = self.desk.lock();
        self.release_from(&mut desk, now);
        // Wakes those who wait for any keys; the number stays, since no attempt has ended.
        self.ended.send_modify(|_| {});
    }

    fn release_from(&self, desk: &mut Desk, now: Instant) {
        if let Some(held) = desk.held.take()
            && self.keys.load().is_none()
            && now < held.stale
        {
            self.keys.store(Some(Arc::new(held.keys)));
            desk.record.heard = Some(held.heard);
            desk.record.restored = true;
        }
    }

    /// Takes over the keys of `other`, and what is known of them.
    pub(crate) fn inherit(&self, other: &Self) {
        let mut theirs = other.desk.lock();
        let (record, held) = (theirs.record.clone(), theirs.held.take());
        drop(theirs);
        let mut desk = self.desk.lock();
        self.keys.store(other.keys.load_full());
        desk.record = Record { in_flight: false, unkept: None, ..record };
        if desk.record.heard.is_some() {
            desk.held = None;
        } else if held.is_some() {
            desk.held = held;
        }
    }

    /// The next attempt is due then.
    pub(crate) fn due(&self, next: Instant) {
        self.desk.lock().record.next = Some(next);
    }

    /// Notes why the keys could not be kept on disk, or that they were.
    pub(crate) fn note_keeping(&self, outcome: Result<(), String>) {
        self.desk.lock().record.unkept = outcome.err().map(Into::into);
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

    #[tokio::test]
    async fn an_attempt_that_had_begun_before_cannot_prove_a_key_unknown() {
        let (ring, now) = (Keyring::new(EVERY, 1), Instant::now());
        ring.begin();
        // The answer of this one was made before the key was published; the next one has it.
        let serve = async {
            tokio::task::yield_now().await;
            ring.finish(Ok(set("old")), now);
            serve(&ring, Ok(set("new")), now).await;
        };
        let (answer, ()) = tokio::join!(ring.ask(Some("new"), now, Duration::from_secs(5)), serve);
        assert_eq!((answer, ring.record().attempts), (Asked::Look, 2));
        // Nor where attempts are spent: it is told so now, and may ask again.
        ring.begin();
        let serve = async {
            tokio::task::yield_now().await;
            ring.finish(Ok(set("new")), now);
        };
        let (answer, ()) = tokio::join!(ring.ask(Some("newer"), now, Duration::from_secs(5)), serve);
        assert_eq!(answer, Asked::Unknown);
        assert!(!ring.desk.lock().unknown.holds("newer", now, EVERY), "it is not remembered as unknown");
    }

    #[tokio::test]
    async fn keys_of_an_earlier_process_wait_for_the_issuers_silence() {
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        let held = || {
            let ring = Keyring::new(EVERY, 1);
            ring.hold(set("kept"), now, now + hour);
            assert!(ring.keys().is_none() && !ring.is_settled());
            ring
        };
        // It speaks, and has withdrawn the key meanwhile.
        let ring = held();
        ring.begin();
        ring.finish(Ok(set("new")), now);
        assert!(!ring.has(Some("kept")) && !ring.is_holding() && !ring.record().restored);
        // It is silent.
        let ring = held();
        ring.begin();
        ring.finish(Err(&failure()), now);
        assert!(ring.has(Some("kept")) && ring.record().restored && ring.is_settled());
        assert!(is_unavailable(&ring.ask(Some("new"), now, SHORT).await), "what it has now is not known");
        // It is slow: who waits for any key is let go before the attempt ends.
        let ring = held();
        ring.begin();
        let release = async {
            tokio::task::yield_now().await;
            ring.release(now);
        };
        let (answer, ()) = tokio::join!(ring.ask(Some("kept"), now, Duration::from_secs(5)), release);
        assert_eq!(answer, Asked::Look);
        // It is silent for too long.
        let ring = held();
        ring.begin();
        ring.finish(Err(&failure()), now + hour);
        assert!(ring.keys().is_none() && !ring.is_holding());
    }

    #[tokio::test]
    async fn keys_of_the_configuration_ask_nobody() {
        let (ring, now) = (Keyring::fixed(set("k")), Instant::now());
        assert!(ring.is_settled() && ring.complaint().is_none());
        for number in 0..100 {
            assert_eq!(ring.ask(Some(&number.to_string()), now, EVERY).await, Asked::Unknown);
        }
        ring.request_now();
        assert!(!ring.desk.lock().requested);
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
