//! What one tenant may use of something that all tenants share and that runs code of theirs: how many at once, and how much
//! of the processors' time. Tenancy keeps the accounts and says the bounds; whoever runs the code asks and charges.
//!
//! An account is paid off as time goes by: with `cpu` of 500 ms, half a second in each second. Whoever has used more than a
//! second's worth is in debt, and waits until that is paid. However much is allowed, what takes long takes turns: of one
//! account, code that outlived its first slice runs on as many threads at once as whole processors are allowed (one, with
//! the default), so that others never stand behind more than that.
//!
//! Nothing here is a lock: an account is a few numbers, and those who wait are woken in their order.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use crate::clock::Clock;

/// The bounds of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// How many instances at once, at least 1.
    pub instances: u32,
    /// Processor time in each second, more than none.
    pub cpu: Duration,
}

impl Share {
    /// How many instances, and how much time of each processor, a tenant may use where the operator says nothing: an eighth of
    /// the sandbox's usual number, and a half, which is some 80 000 calls of a native plugin per second.
    pub const DEFAULT: Self = Self { instances: 32, cpu: Duration::from_millis(500) };

    /// How many long runs at once.
    fn runs(&self) -> u32 {
        u32::try_from(self.cpu.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
    }
}

/// What somebody uses. Idle and paid off at first.
#[derive(Debug)]
pub struct Account {
    born: Instant,
    instances: Slots,
    runs: Slots,
    /// When all that was used is paid for, in nanoseconds since `born`.
    paid_at: AtomicU64,
}

impl Default for Account {
    fn default() -> Self {
        Self { born: Instant::now(), instances: Slots::default(), runs: Slots::default(), paid_at: AtomicU64::new(0) }
    }
}

/// What is told of an account whose owner the operator named.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Seconds of processor time that were used.
    pub cpu: Counter<f64, AtomicU64>,
    /// How often something was turned away for being over the share.
    pub refused: Counter,
}

/// An account with its present bounds.
#[derive(Debug, Clone)]
pub struct Claim {
    account: Arc<Account>,
    share: Share,
    told: Option<Arc<Told>>,
}

/// Something found no place, or would have had to wait too long for its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverShare {
    /// All instances are in use.
    #[error("{0} instances of the tenant are in use")]
    Instances(u32),
    /// More time was used than is paid for.
    #[error("the tenant has used its time: its share is {} ms a second, and what it owes is paid in {} ms", share.as_millis(), after.as_millis())]
    Cpu {
        /// The time in each second.
        share: Duration,
        /// When all is paid.
        after: Duration,
    },
}

impl OverShare {
    /// When to ask again.
    pub const fn retry_after(&self) -> Duration {
        match self {
            Self::Instances(_) => Duration::from_secs(1),
            Self::Cpu { after, .. } => *after,
        }
    }
}

/// How long one may still wait, over all that one waits for.
#[derive(Debug)]
pub struct Patience(Duration);

impl Patience {
    /// So long in all.
    pub const fn new(most: Duration) -> Self {
        Self(most)
    }

    /// Waits for `what`; none where that takes longer than what is left.
    pub async fn wait<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        let begun = tokio::time::Instant::now();
        let done = tokio::time::timeout(self.0, what).await.ok();
        self.0 = self.0.saturating_sub(begun.elapsed());
        done
    }
}

impl Claim {
    /// A claim on an account. `told` counts it, where its owner is one that may be a label.
    pub const fn new(account: Arc<Account>, share: Share, told: Option<Arc<Told>>) -> Self {
        Self { account, share, told }
    }

    /// An account that nobody else uses, with the default's bounds.
    pub fn alone() -> Self {
        Self::new(Arc::default(), Share::DEFAULT, None)
    }

    /// The account it is on.
    pub const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// A place for one instance, waited for if need be.
    ///
    /// # Errors
    /// If none is free in time.
    pub async fn seat(&self, patience: &mut Patience) -> Result<Seat, OverShare> {
        let (slots, most) = (&self.account.instances, self.share.instances);
        if !slots.try_take(most) && patience.wait(slots.take(most)).await.is_none() {
            return Err(self.refused(OverShare::Instances(most)));
        }
        Ok(Seat { account: Arc::clone(&self.account) })
    }

    /// Whether most of its places are free, so that one may be held while nothing runs in it.
    pub fn has_room(&self) -> bool {
        self.account.instances.taken() <= self.share.instances.div_ceil(2)
    }

    /// Whether it owes nothing, so that [`begin`](Self::begin) would not wait.
    pub fn is_at_ease(&self, now: Instant) -> bool {
        self.account.debt(now).is_zero()
    }

    /// How long until what it owes is paid.
    pub fn owed(&self, now: Instant) -> Duration {
        self.account.debt(now)
    }

    /// Leave for a first slice: given at once to whoever owes nothing.
    ///
    /// # Errors
    /// If what is owed is not paid in time.
    pub async fn begin(&self, clock: &dyn Clock, patience: &mut Patience) -> Result<Turn<'_>, OverShare> {
        if self.is_at_ease(clock.coarse()) {
            return Ok(Turn { runs: None });
        }
        self.go_on(clock, patience).await
    }

    /// Leave for another slice: in turn, and when what is owed is paid.
    ///
    /// # Errors
    /// If what is owed is not paid in time.
    pub async fn go_on(&self, clock: &dyn Clock, patience: &mut Patience) -> Result<Turn<'_>, OverShare> {
        let (slots, most) = (&self.account.runs, self.share.runs());
        let over = |claim: &Self| {
            let after = claim.account.debt(clock.now());
            claim.refused(OverShare::Cpu { share: claim.share.cpu, after })
        };
        if !slots.try_take(most) {
            // Whoever owes nothing is let run in the end: those before it run for their deadlines at most, and there are no
            // more of them than the account has instances.
            if self.is_at_ease(clock.now()) {
                slots.take(most).await;
            } else if patience.wait(slots.take(most)).await.is_none() {
                return Err(over(self));
            }
        }
        let turn = Turn { runs: Some(slots) };
        loop {
            let debt = self.account.debt(clock.now());
            if debt.is_zero() {
                return Ok(turn);
            }
            // To wait for what cannot come in time would only keep others waiting.
            if debt > patience.0 || patience.wait(tokio::time::sleep(debt)).await.is_none() {
                return Err(over(self));
            }
        }
    }

    /// Charges time that was used until `now`.
    pub fn charge(&self, held: Duration, now: Instant) {
        if held.is_zero() {
            return;
        }
        let cost = held.as_secs_f64() / self.share.cpu.as_secs_f64().max(1e-6) * 1e9;
        // The cast saturates; a day is more than any debt that can come of slices.
        let cost = (cost as u64).min(86_400 * 1_000_000_000);
        let now = self.account.nanos(now);
        let after = |paid_at: u64| Some(paid_at.max(now).saturating_add(cost));
        // Relaxed suffices: the number orders nothing but itself.
        let _ = self.account.paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        if let Some(told) = &self.told {
            told.cpu.inc_by(held.as_secs_f64());
        }
    }

    fn refused(&self, over: OverShare) -> OverShare {
        if let Some(told) = &self.told {
            told.refused.inc();
        }
        over
    }
}

impl Account {
    /// What may be owed before anybody waits: a second's worth.
    const WINDOW: Duration = Duration::from_secs(1);

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_nanos()).unwrap_or(u64::MAX / 2)
    }

    /// How long until what is owed beyond the window is paid.
    fn debt(&self, now: Instant) -> Duration {
        let owed = self.paid_at.load(Ordering::Relaxed).saturating_sub(self.nanos(now));
        Duration::from_nanos(owed).saturating_sub(Self::WINDOW)
    }
}

/// A place for one instance, given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    account: Arc<Account>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.account.instances.give_back();
    }
}

/// Leave to run for a slice. Drop it when the slice is over.
#[derive(Debug)]
pub struct Turn<'a> {
    runs: Option<&'a Slots>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(runs) = self.runs.take() {
            runs.give_back();
        }
    }
}

/// A number of things of which so many may be taken; how many is said by whoever takes, since a configuration may change it.
#[derive(Debug, Default)]
struct Slots {
    taken: AtomicU32,
    freed: Notify,
}

impl Slots {
    fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    fn try_take(&self, most: u32) -> bool {
        let take = |taken: u32| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).is_ok()
    }

    async fn take(&self, most: u32) {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look, so that what is given back in between is not missed.
            freed.as_mut().enable();
            if self.try_take(most) {
                return;
            }
            freed.await;
        }
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        self.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::clock::ManualClock;

    const MILLI: Duration = Duration::from_millis(1);

    fn claim(instances: u32, cpu: Duration) -> (Claim, Arc<Told>) {
        let told = Arc::new(Told::default());
        (Claim::new(Arc::default(), Share { instances, cpu }, Some(Arc::clone(&told))), told)
    }

    #[test]
    fn a_second_s_worth_may_be_used_at_once_and_what_is_beyond_is_paid_at_the_share_s_pace() {
        let (claim, told) = claim(1, 100 * MILLI);
        let now = Instant::now() + Duration::from_secs(5);
        for _ in 0..100 {
            assert!(claim.is_at_ease(now));
            claim.charge(MILLI, now);
        }
        assert!(claim.is_at_ease(now));
        claim.charge(MILLI, now);
        assert!(!claim.is_at_ease(now + 9 * MILLI));
        assert!(claim.is_at_ease(now + 10 * MILLI));
        assert!((told.cpu.get() - 0.101).abs() < 1e-9);
    }

    #[tokio::test]
    async fn who_is_in_debt_waits_and_is_refused_at_once_where_waiting_is_in_vain() {
        let (claim, told) = claim(1, 100 * MILLI);
        let clock = ManualClock::at(0);
        claim.charge(200 * MILLI, clock.now());
        let over = claim.begin(&clock, &mut Patience::new(50 * MILLI)).await.unwrap_err();
        assert!(over.retry_after() > 900 * MILLI, "{over}");
        assert_eq!(told.refused.get(), 1);
        clock.advance(Duration::from_secs(2));
        assert!(claim.begin(&clock, &mut Patience::new(Duration::ZERO)).await.is_ok());
    }

    #[tokio::test]
    async fn what_takes_long_takes_turns_and_what_is_brief_does_not_wait_for_it() {
        let (claim, _) = claim(8, 500 * MILLI);
        let clock = ManualClock::at(0);
        let mut patience = Patience::new(5 * MILLI);
        let first = claim.go_on(&clock, &mut patience).await.unwrap();
        assert!(claim.begin(&clock, &mut patience).await.is_ok());
        assert!(tokio::time::timeout(MILLI, claim.go_on(&clock, &mut patience)).await.is_err());
        let other = claim.clone();
        let waits = tokio::spawn(async move {
            other.go_on(&ManualClock::at(0), &mut Patience::new(Duration::from_secs(60))).await.is_ok()
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waits.await.unwrap());
    }

    #[tokio::test]
    async fn instances_are_bounded_and_given_back() {
        let (claim, _) = claim(2, 500 * MILLI);
        let mut patience = Patience::new(MILLI);
        let held = [claim.seat(&mut patience).await.unwrap(), claim.seat(&mut patience).await.unwrap()];
        assert!(!claim.has_room());
        assert_eq!(claim.seat(&mut patience).await.unwrap_err(), OverShare::Instances(2));
        drop(held);
        assert!(claim.seat(&mut patience).await.is_ok());
    }
}
