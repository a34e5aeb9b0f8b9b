//! Leave for the loader to treat these types as bytes.

use crate::{ConnectionRecord, EndEvent, EndpointCounters, EndpointKey, Offsets, Settings};

// SAFETY: `repr(C)` without padding (see its size assertion), made of integers only.
unsafe impl aya::Pod for EndpointKey {}
// SAFETY: as above.
unsafe impl aya::Pod for EndpointCounters {}
// SAFETY: as above.
unsafe impl aya::Pod for ConnectionRecord {}
// SAFETY: as above.
unsafe impl aya::Pod for EndEvent {}
// SAFETY: as above.
unsafe impl aya::Pod for Offsets {}
// SAFETY: as above.
unsafe impl aya::Pod for Settings {}

/// Reads a value from bytes that may lie at any address; `None` where there are not enough.
#[must_use]
pub fn read<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the length is checked, the read is unaligned, and every bit pattern is a valid `Pod`.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
