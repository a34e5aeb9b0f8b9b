//! Whether the first of two implementations is in service.
//!
//! It leaves service after so many failures in a row, and is then tried by one request at a time, at growing distances. A
//! call in service reads one number; out of service two. Nothing here takes a lock.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::fallback::QuarantineConfig;

/// A probe is under way: no other begins.
const UNDER_WAY: u64 = u64::MAX;

/// The state of one plugin's first implementation.
#[derive(Debug)]
pub(crate) struct Quarantine {
    config: QuarantineConfig,
    /// What `next_probe` counts from.
    born: Instant,
    out: AtomicBool,
    /// Failures in a row while in service.
    failures: AtomicU32,
    /// Good probes in a row while out of service.
    good: AtomicU32,
    /// Nanoseconds between the last probe and the next; written by whoever probes.
    distance: AtomicU64,
    /// When the next probe is due, in nanoseconds; [`UNDER_WAY`] while one runs.
    next_probe: AtomicU64,
}

/// Which implementation a call is for.
#[derive(Debug)]
pub(crate) enum Turn<'a> {
    /// The first, in service.
    First,
    /// The first, to see whether it is well again.
    Probe(Probe<'a>),
    /// The second alone.
    Second,
}

/// What a call changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// It was taken out of service.
    Out,
    /// It is back in service.
    Back,
}

impl Quarantine {
    pub(crate) fn new(config: QuarantineConfig, now: Instant) -> Self {
        Self {
            config,
            born: now,
            out: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            good: AtomicU32::new(0),
            distance: AtomicU64::new(0),
            next_probe: AtomicU64::new(UNDER_WAY),
        }
    }

    /// Whether calls go straight to the second.
    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Acquire)
    }

    /// Failures in a row while in service.
    pub(crate) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Good probes in a row while out of service.
    pub(crate) fn good_probes(&self) -> u32 {
        self.good.load(Ordering::Relaxed)
    }

    /// What the next call is for.
    pub(crate) fn turn(&self, now: Instant) -> Turn<'_> {
        if !self.is_out() {
            return Turn::First;
        }
        let due = self.next_probe.load(Ordering::Acquire);
        let is_due = due != UNDER_WAY && self.nanos(now) >= due;
        // Only one of those that see it due begins the probe.
        let begins =
            is_due && self.next_probe.compare_exchange(due, UNDER_WAY, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if begins { Turn::Probe(Probe { quarantine: self, due }) } else { Turn::Second }
    }

    /// A call in service went well.
    pub(crate) fn went_well(&self) {
        // Mostly there is nothing to write, and then the line stays shared between processors.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A call in service failed.
    pub(crate) fn failed(&self, now: Instant) -> Change {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < self.config.after || self.out.load(Ordering::Acquire) {
            return Change::Nothing;
        }
        if self.out.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Change::Nothing;
        }
        let distance = nanos_of(self.config.probe_after.get());
        self.good.store(0, Ordering::Relaxed);
        self.distance.store(distance, Ordering::Relaxed);
        // Last: from here on a probe may begin.
        self.next_probe.store(self.nanos(now).saturating_add(distance), Ordering::Release);
        Change::Out
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos_of(now.saturating_duration_since(self.born))
    }
}

/// The right to try the first while it is out of service. Dropped without an end (the client went away, or there was no room)
/// it leaves the next probe due at once, and proves nothing.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    quarantine: &'a Quarantine,
    due: u64,
}

impl Probe<'_> {
    /// It went well: back in service if it did so often enough, and else another probe is due at once.
    pub(crate) fn went_well(mut self) -> Change {
        let quarantine = self.quarantine;
        if quarantine.good.fetch_add(1, Ordering::Relaxed) + 1 < quarantine.config.back_after {
            return Change::Nothing;
        }
        quarantine.failures.store(0, Ordering::Relaxed);
        // Out of service no probe may be due before the next time: in service nobody looks.
        self.due = UNDER_WAY;
        quarantine.out.store(false, Ordering::Release);
        Change::Back
    }

    /// It failed: the next is twice as far away.
    pub(crate) fn failed(mut self, now: Instant) {
        let quarantine = self.quarantine;
        quarantine.good.store(0, Ordering::Relaxed);
        let most = nanos_of(quarantine.config.probe_at_most.get());
        let distance = quarantine.distance.load(Ordering::Relaxed).saturating_mul(2).min(most);
        quarantine.distance.store(distance, Ordering::Relaxed);
        self.due = quarantine.nanos(now).saturating_add(distance);
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if self.due != UNDER_WAY {
            self.quarantine.next_probe.store(self.due, Ordering::Release);
        }
    }
}

fn nanos_of(span: Duration) -> u64 {
    // Far below the value that stands for a probe under way.
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests")]
    use sluice_vocabulary::measure::Span;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> QuarantineConfig {
        QuarantineConfig { after: 3, probe_after: Span::secs(1), probe_at_most: Span::secs(3), back_after: 2 }
    }

    fn out_of_service(now: Instant) -> Quarantine {
        let quarantine = Quarantine::new(config(), now);
        assert_eq!(quarantine.failed(now), Change::Nothing);
        assert_eq!(quarantine.failed(now), Change::Nothing);
        assert_eq!(quarantine.failed(now), Change::Out);
        quarantine
    }

    fn probe(quarantine: &Quarantine, now: Instant) -> Probe<'_> {
        match quarantine.turn(now) {
            Turn::Probe(probe) => probe,
            other => panic!("a probe is due: {other:?}"),
        }
    }

    #[test]
    fn only_failures_in_a_row_take_it_out_of_service() {
        let now = Instant::now();
        let quarantine = Quarantine::new(config(), now);
        for _ in 0..100 {
            quarantine.failed(now);
            quarantine.failed(now);
            quarantine.went_well();
        }
        assert!(matches!(quarantine.turn(now), Turn::First));
    }

    #[test]
    fn one_request_at_a_time_tries_it_and_farther_apart_after_each_failure() {
        let mut now = Instant::now();
        let quarantine = out_of_service(now);
        for distance in [1, 2, 3, 3] {
            assert!(matches!(quarantine.turn(now + distance * SECOND - Duration::from_nanos(1)), Turn::Second));
            now += distance * SECOND;
            let probing = probe(&quarantine, now);
            assert!(matches!(quarantine.turn(now + 100 * SECOND), Turn::Second), "while one is under way");
            probing.failed(now);
        }
    }

    #[test]
    fn good_probes_in_a_row_bring_it_back() {
        let now = Instant::now();
        let quarantine = out_of_service(now);
        let later = now + SECOND;
        assert_eq!(probe(&quarantine, later).went_well(), Change::Nothing);
        probe(&quarantine, later).failed(later);
        let later = later + 2 * SECOND;
        assert_eq!(probe(&quarantine, later).went_well(), Change::Nothing);
        assert_eq!(probe(&quarantine, later).went_well(), Change::Back);
        assert!(matches!(quarantine.turn(later), Turn::First));
        assert_eq!(quarantine.failed(later), Change::Nothing, "it begins anew");
    }

    #[test]
    fn a_probe_whose_client_went_away_proves_nothing_and_blocks_nothing() {
        let now = Instant::now();
        let quarantine = out_of_service(now);
        let later = now + SECOND;
        drop(probe(&quarantine, later));
        assert_eq!(quarantine.good_probes(), 0);
        drop(probe(&quarantine, later));
        assert!(quarantine.is_out());
    }
}
