//! Moments as numbers, so that atomics can hold them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_vocabulary::clock::Clock;

/// Nanoseconds since the unit was made; never 0, so that 0 can mean "none". 64 bits last 584 years.
pub(crate) type Ticks = u64;

/// Where counting begins.
#[derive(Debug, Clone)]
pub(crate) struct Epoch {
    clock: Arc<dyn Clock>,
    start: Instant,
}

impl Epoch {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let start = clock.now();
        Self { clock, start }
    }

    pub(crate) fn now(&self) -> Ticks {
        self.at(self.clock.now())
    }

    /// For deadlines: a few milliseconds behind at most, and cheap.
    pub(crate) fn coarse(&self) -> Ticks {
        self.at(self.clock.coarse())
    }

    pub(crate) fn at(&self, moment: Instant) -> Ticks {
        Self::length(moment.saturating_duration_since(self.start)).saturating_add(1)
    }

    pub(crate) fn length(duration: Duration) -> Ticks {
        u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
    }
}
