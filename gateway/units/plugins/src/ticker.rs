//! The sandbox's clock: one tick a millisecond while guests run, none while they do not.
//!
//! Guest code looks at the engine's tick count at every loop and call, and stops when its count is reached. The thread that
//! counts must not depend on any executor, since it is what bounds code that holds one. It goes to sleep when no instance
//! was alive for a while, and whoever starts a call wakes it.
//!
//! The sleep and the wake must not miss each other, or a loop would run unwatched. Each side writes, then fences, then
//! reads what the other wrote (Dekker's pattern): the ticker says "resting" and then looks for instances, a call takes its
//! permit and then looks whether the ticker rests.

use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;

/// Between two ticks.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Ticks without an instance before the ticker rests: long enough not to wake it for each request of a steady trickle.
const TICKS_BEFORE_REST: u32 = 50;

const STOPPED: u8 = 0;
const TICKING: u8 = 1;
const RESTING: u8 = 2;

/// The ticker's state, as calls see it.
#[derive(Debug)]
pub(crate) struct Pulse {
    engine: wasmtime::Engine,
    state: AtomicU8,
    thread: Mutex<Option<Thread>>,
}

impl Pulse {
    pub(crate) fn new(engine: wasmtime::Engine) -> Self {
        Self { engine, state: AtomicU8::new(STOPPED), thread: Mutex::new(None) }
    }

    /// Makes sure that ticks come while a call runs whose permit is held already. False if no ticker is there.
    pub(crate) fn beat_for_a_call(&self) -> bool {
        fence(Ordering::SeqCst);
        match self.state.load(Ordering::Relaxed) {
            TICKING => true,
            RESTING => {
                if self.state.compare_exchange(RESTING, TICKING, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                    self.unpark();
                }
                true
            }
            _ => false,
        }
    }

    /// Ends [`Pulse::run`].
    pub(crate) fn stop(&self) {
        self.state.store(STOPPED, Ordering::SeqCst);
        self.unpark();
    }

    /// Ticks until stopped, on the calling thread. However it ends, no call starts afterwards.
    pub(crate) fn run(&self, instances_alive: impl Fn() -> bool) {
        struct StopsCalls<'a>(&'a Pulse);
        impl Drop for StopsCalls<'_> {
            fn drop(&mut self) {
                self.0.state.store(STOPPED, Ordering::SeqCst);
            }
        }
        let _stops_calls = StopsCalls(self);
        *self.thread.lock() = Some(thread::current());
        let mut idle_ticks = 0;
        loop {
            match self.state.load(Ordering::SeqCst) {
                STOPPED => break,
                RESTING => thread::park(),
                _ => {
                    thread::park_timeout(TICK);
                    self.engine.increment_epoch();
                    idle_ticks = if instances_alive() { 0 } else { idle_ticks + 1 };
                    if idle_ticks >= TICKS_BEFORE_REST {
                        idle_ticks = 0;
                        self.rest(&instances_alive);
                    }
                }
            }
        }
    }

    fn rest(&self, instances_alive: &impl Fn() -> bool) {
        // A stop in between must win, hence not a plain store.
        if self.state.compare_exchange(TICKING, RESTING, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            return;
        }
        fence(Ordering::SeqCst);
        if instances_alive() {
            let _ = self.state.compare_exchange(RESTING, TICKING, Ordering::SeqCst, Ordering::Relaxed);
        }
    }

    /// Allows calls from now on; [`Pulse::run`] must follow on some thread.
    pub(crate) fn start(&self) {
        self.state.store(TICKING, Ordering::SeqCst);
    }

    fn unpark(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn until(what: &str, happened: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if happened() {
                return;
            }
            thread::sleep(TICK);
        }
        unreachable!("waited in vain: {what}");
    }

    #[test]
    fn it_rests_when_nothing_runs_and_wakes_for_a_call() {
        let pulse = Arc::new(Pulse::new(wasmtime::Engine::default()));
        let alive = Arc::new(AtomicBool::new(false));
        assert!(!pulse.beat_for_a_call(), "no call before it runs");
        pulse.start();
        let ticker = thread::spawn({
            let (pulse, alive) = (Arc::clone(&pulse), Arc::clone(&alive));
            move || pulse.run(|| alive.load(Ordering::SeqCst))
        });
        let state = || pulse.state.load(Ordering::SeqCst);
        until("rest", || state() == RESTING);
        alive.store(true, Ordering::SeqCst);
        assert!(pulse.beat_for_a_call());
        assert_eq!(state(), TICKING);
        // It does not rest while something runs: long after it otherwise would.
        thread::sleep(TICK * 3 * TICKS_BEFORE_REST);
        assert_eq!(state(), TICKING);
        alive.store(false, Ordering::SeqCst);
        until("rest", || state() == RESTING);
        pulse.stop();
        ticker.join().unwrap();
        assert!(!pulse.beat_for_a_call(), "no call after it ended");
    }

    #[test]
    fn a_ticker_that_dies_takes_no_calls_with_it() {
        let pulse = Pulse::new(wasmtime::Engine::default());
        pulse.start();
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pulse.run(|| std::panic::resume_unwind(Box::new("told to")));
        }));
        assert!(died.is_err());
        assert!(!pulse.beat_for_a_call());
    }
}
