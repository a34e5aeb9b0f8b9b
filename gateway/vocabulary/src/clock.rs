//! Time and chance come in through ports, so that tests step time and repeat chance.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Time, as a unit may ask for it.
pub trait Clock: Debug + Send + Sync + 'static {
    /// A moment that only goes forward: for durations that are told.
    fn now(&self) -> Instant;

    /// A moment at most a few milliseconds before [`now`](Self::now), at a fraction of its price: for deadlines and ages
    /// that are counted in seconds, on a path that looks at them for every request.
    fn coarse(&self) -> Instant {
        self.now()
    }

    /// Whole seconds since the Unix epoch: for what tokens and certificates say.
    fn unix_seconds(&self) -> u64;

    /// Time since the Unix epoch, as finely as the clock tells it.
    fn since_epoch(&self) -> Duration {
        Duration::from_secs(self.unix_seconds())
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// One moment as the library and as the kernel count it.
///
/// Reading the precise clock takes 20 to 100 ns, depending on the machine; the coarse one, which the kernel moves at each
/// tick (1 to 10 ms), a few. Both count the same time from the same beginning.
static ORIGIN: LazyLock<(Instant, Duration)> = LazyLock::new(|| {
    // In this order, so that no coarse reading comes out later than it was.
    let moment = Instant::now();
    (moment, kernel_time(ClockId::Monotonic))
});

fn kernel_time(clock: ClockId) -> Duration {
    let read = clock_gettime(clock);
    // Neither part is ever negative.
    Duration::new(u64::try_from(read.tv_sec).unwrap_or(0), u32::try_from(read.tv_nsec).unwrap_or(0))
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn coarse(&self) -> Instant {
        let (moment, then) = *ORIGIN;
        moment + kernel_time(ClockId::MonotonicCoarse).saturating_sub(then)
    }

    fn unix_seconds(&self) -> u64 {
        // A clock before 1970 reads as 0: every token is then "not valid yet" or expired far ahead, never wrongly good.
        self.since_epoch().as_secs()
    }

    fn since_epoch(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that stands still until it is told: for tests.
#[derive(Debug, Clone)]
pub struct ManualClock {
    start: Instant,
    unix_start: u64,
    passed_nanos: Arc<AtomicU64>,
    /// By how many seconds the clock on the wall was set forward (or back, below 0) since the start.
    set_by: Arc<AtomicI64>,
}

impl ManualClock {
    /// Standing at `unix_start` seconds since the epoch.
    pub fn at(unix_start: u64) -> Self {
        Self { start: Instant::now(), unix_start, passed_nanos: Arc::default(), set_by: Arc::default() }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.passed_nanos.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Sets the clock on the wall to `unix_seconds`, as an operator or a time server does. No time passes by it.
    pub fn set(&self, unix_seconds: u64) {
        let shown = self.unix_start.saturating_add(self.passed().as_secs());
        self.set_by.store(unix_seconds.cast_signed().saturating_sub(shown.cast_signed()), Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        Duration::from_nanos(self.passed_nanos.load(Ordering::SeqCst))
    }

    fn wall_start(&self) -> u64 {
        self.unix_start.saturating_add_signed(self.set_by.load(Ordering::SeqCst))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + self.passed()
    }

    fn unix_seconds(&self) -> u64 {
        self.wall_start() + self.passed().as_secs()
    }

    fn since_epoch(&self) -> Duration {
        Duration::from_secs(self.wall_start()) + self.passed()
    }
}

/// Chance, for jitter and balancing; not for secrets.
pub trait Random: Debug + Send + Sync + 'static {
    /// A number below `bound`; 0 where `bound` is 0.
    fn below(&self, bound: u64) -> u64;

    /// 128 bits, for identifiers.
    fn bits128(&self) -> u128;
}

/// Chance from a per-thread generator seeded by the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { fastrand::u64(..bound) }
    }

    fn bits128(&self) -> u128 {
        fastrand::u128(..)
    }
}

/// Bytes that nobody can guess: for keys and for what plugins make of them.
pub trait Entropy: Debug + Send + Sync + 'static {
    /// Fills `bytes`. False where the machine has none to give, which then holds nothing of use.
    fn fill(&self, bytes: &mut [u8]) -> bool;
}

/// The operating system's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> bool {
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
                Ok(0) => return false,
                Ok(more) => filled += more,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_clock_is_never_ahead_and_a_tick_behind_at_most() {
        for _ in 0..10_000 {
            let before = SystemClock.now();
            let coarse = SystemClock.coarse();
            assert!(coarse <= SystemClock.now(), "ahead");
            // 10 ms is the longest tick there is; a machine that stops this thread meanwhile only makes `coarse` later.
            assert!(coarse + Duration::from_millis(10) >= before, "{:?} behind", before - coarse);
        }
    }
}
