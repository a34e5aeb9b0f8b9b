//! Random bytes, fit for keys. Granted by `random: true`.

use crate::bindings::granted::sluice::plugin::random;

/// So many bytes, at most 1024: beyond that the phase fails.
pub fn bytes(length: u32) -> Vec<u8> {
    random::bytes(length)
}

/// A number of 64 random bits.
pub fn number() -> u64 {
    random::number()
}
