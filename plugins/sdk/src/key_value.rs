//! A small store that outlives requests. Granted by `key_value: {}`. Every tenant has a space of its own.
//!
//! A key has 1 to 256 bytes, a value at most 64 KiB. What is written is written: it stays even if the phase then fails.
//!
//! ```no_run
//! use std::time::Duration;
//! use sluice_plugin_sdk::key_value;
//!
//! let hits = key_value::increment("hits", 1, Some(Duration::from_secs(60)));
//! let over = hits.is_ok_and(|hits| hits > 100);
//! ```

use std::time::Duration;

use crate::bindings::granted::sluice::plugin::key_value;

pub use crate::bindings::granted::sluice::plugin::key_value::{Entry, StoreFault};

/// The entry of a key; none where it is not there or has expired.
///
/// # Errors
/// If the key is not one.
pub fn get(key: &str) -> Result<Option<Entry>, StoreFault> {
    key_value::get(key)
}

/// Writes a value, whatever was there; gives its version. Without `expires` it stays.
///
/// # Errors
/// If the key or value is not one, or the tenant's space is full.
pub fn set(key: &str, value: &[u8], expires: Option<Duration>) -> Result<u64, StoreFault> {
    key_value::set(key, value, expires.map(millis))
}

/// Writes a value if the key's version is `expected`, none for a key that must not be there. Gives the new version, or none
/// where it was another and nothing was done.
///
/// # Errors
/// As [`set`].
pub fn compare_and_swap(
    key: &str,
    expected: Option<u64>,
    value: &[u8],
    expires: Option<Duration>,
) -> Result<Option<u64>, StoreFault> {
    key_value::compare_and_swap(key, expected, value, expires.map(millis))
}

/// Adds to a number, which begins at 0, and gives the sum. `expires` counts only where the key was not there.
///
/// # Errors
/// As [`set`]; also if what is there is not a number, or the sum would no longer fit one.
pub fn increment(key: &str, amount: i64, expires: Option<Duration>) -> Result<i64, StoreFault> {
    key_value::increment(key, amount, expires.map(millis))
}

/// Removes a key; whether it was there.
///
/// # Errors
/// If the key is not one.
pub fn delete(key: &str) -> Result<bool, StoreFault> {
    key_value::delete(key)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
