//! Bounds of the histograms of requests.

use std::time::Duration;

/// Bounds for whole requests: from what the gateway itself takes (tens of microseconds) over a local service's
/// milliseconds to the usual deadlines. About two bounds per factor of four, so that a percentile read from them is off by
/// no more than half.
pub const REQUEST_BOUNDS: &[Duration] = &[
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// Bounds for what the gateway adds to a request: it is expected below 100 µs; what is above 10 ms is a fault to look into.
pub const OVERHEAD_BOUNDS: &[Duration] = &[
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
];
