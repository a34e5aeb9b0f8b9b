//! What the observer told us, read so that the compiler cannot fold in the values of build time.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use sluice_ebpf_common::{Offsets, Settings, settings::ABSENT};

/// Overwritten in the object's read-only data before it is loaded.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings { offsets: Offsets::ABSENT, tick_ns: 0, switches: 0 };

/// Whether `bit` of [`sluice_ebpf_common::settings::switch`] is on. The verifier knows the answer at load time.
#[inline(always)]
pub(crate) fn is_on(bit: u32) -> bool {
    // SAFETY: reads a static of this object; volatile, since the loader changes its bytes behind the compiler's back.
    unsafe { core::ptr::read_volatile(&raw const SETTINGS.switches) & bit != 0 }
}

/// Nanoseconds of a kernel tick.
#[inline(always)]
pub(crate) fn tick_ns() -> u64 {
    // SAFETY: as in `is_on`.
    u64::from(unsafe { core::ptr::read_volatile(&raw const SETTINGS.tick_ns) })
}

/// A `struct sock` of the kernel, known only by its address.
#[derive(Clone, Copy)]
pub(crate) struct Sock(*const u8);

/// One of the known fields of a socket.
#[derive(Clone, Copy)]
pub(crate) enum Field {
    State,
    Cookie,
    Error,
    Srtt,
    RttMin,
    BytesAcked,
    BytesReceived,
    LastSent,
    LastReceived,
}

impl Sock {
    pub(crate) const fn new(address: *const u8) -> Self {
        Self(address)
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The field's value, or `None` where this kernel does not have it or the address is not readable.
    #[inline(always)]
    pub(crate) fn read<T: Copy>(self, field: Field) -> Option<T> {
        let offsets = &raw const SETTINGS.offsets;
        // SAFETY: reads a static of this object; volatile as in `is_on`.
        let offset = unsafe {
            match field {
                Field::State => core::ptr::read_volatile(&raw const (*offsets).state),
                Field::Cookie => core::ptr::read_volatile(&raw const (*offsets).cookie),
                Field::Error => core::ptr::read_volatile(&raw const (*offsets).error),
                Field::Srtt => core::ptr::read_volatile(&raw const (*offsets).srtt_us),
                Field::RttMin => core::ptr::read_volatile(&raw const (*offsets).rtt_min_us),
                Field::BytesAcked => core::ptr::read_volatile(&raw const (*offsets).bytes_acked),
                Field::BytesReceived => core::ptr::read_volatile(&raw const (*offsets).bytes_received),
                Field::LastSent => core::ptr::read_volatile(&raw const (*offsets).last_sent),
                Field::LastReceived => core::ptr::read_volatile(&raw const (*offsets).last_received),
            }
        };
        if offset == ABSENT {
            return None;
        }
        // SAFETY: the helper copies from any kernel address and fails, rather than faults, where there is nothing.
        unsafe { bpf_probe_read_kernel(self.0.wrapping_add(offset as usize).cast::<T>()).ok() }
    }
}
