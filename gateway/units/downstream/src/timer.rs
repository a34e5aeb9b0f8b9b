//! A deadline that is cheap to move.
//!
//! Setting a runtime's timer costs more than a clock read, and most deadlines are moved far more often than they pass: a
//! busy connection's idle deadline moves with every request. So the runtime's timer is left where it is while the
//! deadline only moves away, and set anew when it fires too early.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use sluice_vocabulary::clock::{Clock as _, SystemClock};
use tokio::time::{Instant, Sleep};

/// About now, a few milliseconds behind at most, and cheap: for the beginning of a wait that may last seconds. The
/// machine's clock and no other, since the runtime's timers go by it.
pub(crate) fn about_now() -> Instant {
    Instant::from_std(SystemClock.coarse())
}

/// One deadline at a time.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Ready once `at` has passed. The caller gives the deadline anew each time, and may move it either way.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() > at || sleep.is_elapsed() {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}
