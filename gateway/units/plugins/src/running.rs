//! How long a guest may still run in one phase.
//!
//! What counts is running, not waiting. A tick of the engine that comes while the guest runs is counted whole. The first tick
//! after a wait says nothing, since it may have come during the wait: it is forgiven, and what the guest runs from there to
//! its next wait is measured instead, so that a guest which waits often gets nothing for it.

use std::time::{Duration, Instant};

use crate::ticker::TICK;

/// What is left of a phase's running time.
#[derive(Debug)]
pub(crate) struct Running {
    ticks_left: u64,
    /// When the guest went on after a wait, if no tick was counted since.
    since: Option<Instant>,
    /// Whether the next tick may have come during the wait.
    forgives: bool,
    /// What was measured and makes no whole tick yet.
    measured: Duration,
}

/// What a tick means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tick {
    /// The guest has had its time.
    Over,
    /// The guest has had its slice.
    Counted,
    /// It goes on.
    Forgiven,
}

impl Running {
    pub(crate) const fn new(ticks: u64) -> Self {
        Self { ticks_left: ticks, since: None, forgives: false, measured: Duration::ZERO }
    }

    /// A tick came while the guest ran.
    pub(crate) fn tick(&mut self, now: impl FnOnce() -> Instant) -> Tick {
        if std::mem::take(&mut self.forgives) {
            return Tick::Forgiven;
        }
        if let Some(since) = self.since.take() {
            // Of this tick and the forgiven one before it, no more than that one: a thread may stand for long.
            self.charge(now().saturating_duration_since(since).saturating_sub(TICK).min(TICK));
        }
        if self.ticks_left == 0 {
            return Tick::Over;
        }
        self.ticks_left -= 1;
        Tick::Counted
    }

    /// The guest is about to wait. False if it has had its time.
    pub(crate) fn pauses(&mut self, now: Instant) -> bool {
        if let Some(since) = self.since.take() {
            self.charge(now.saturating_duration_since(since).min(2 * TICK));
        }
        self.ticks_left > 0
    }

    /// The wait is over.
    pub(crate) const fn resumes(&mut self, now: Instant) {
        self.since = Some(now);
        self.forgives = true;
    }

    fn charge(&mut self, ran: Duration) {
        self.measured += ran;
        while self.measured >= TICK && self.ticks_left > 0 {
            self.measured -= TICK;
            self.ticks_left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_wait_every_tick_counts() {
        let mut running = Running::new(2);
        let now = || unreachable!("nobody needs the time");
        assert_eq!(
            [running.tick(now), running.tick(now), running.tick(now)],
            [Tick::Counted, Tick::Counted, Tick::Over]
        );
    }

    #[test]
    fn the_tick_that_came_during_a_wait_does_not_count() {
        let (start, mut running) = (Instant::now(), Running::new(1));
        for wait in 0..100 {
            let now = start + wait * Duration::from_millis(50);
            assert!(running.pauses(now));
            running.resumes(now + Duration::from_millis(50));
            assert_eq!(running.tick(|| now + Duration::from_millis(50)), Tick::Forgiven);
        }
        let resumed = start + Duration::from_secs(5);
        assert_eq!(running.tick(|| resumed + TICK), Tick::Counted);
        assert_eq!(running.tick(|| resumed + 2 * TICK), Tick::Over);
    }

    #[test]
    fn whoever_waits_often_runs_no_longer_for_it() {
        let (mut now, mut running) = (Instant::now(), Running::new(5));
        let mut ran = Duration::ZERO;
        while running.pauses(now) {
            now += Duration::from_millis(3);
            running.resumes(now);
            assert_eq!(running.tick(|| now), Tick::Forgiven);
            now += Duration::from_micros(900);
            ran += Duration::from_micros(900);
        }
        assert!(ran >= 5 * TICK && ran <= 6 * TICK, "{ran:?}");
    }
}
