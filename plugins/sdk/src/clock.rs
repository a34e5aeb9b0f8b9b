//! The clock. Granted by `clock: true`.

use std::time::Duration;

use crate::bindings::granted::sluice::plugin::clock;

/// Time since 1970-01-01 UTC, without leap seconds.
pub fn since_epoch() -> Duration {
    Duration::from_nanos(clock::now())
}

/// Time since some moment before the gateway began; never goes back.
pub fn monotonic() -> Duration {
    Duration::from_nanos(clock::monotonic())
}
