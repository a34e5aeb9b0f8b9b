//! Counting: per endpoint, and what belongs to none.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use sluice_ebpf_common::{
    EndpointCounters, EndpointKey, GlobalCounter,
    endpoint::{BUCKETS, SLOTS, bucket},
};

use crate::maps::{ENDPOINTS, GLOBALS};

/// Too large for a program's stack of 512 bytes, so new entries are copied from here. Its name is not mangled, for that
/// would put a hash of the build path into the object.
#[unsafe(no_mangle)]
static ZERO: EndpointCounters = EndpointCounters::ZERO;

/// The counters of one endpoint on this processor.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint(*mut EndpointCounters);

/// Adds to a counter. The tables are per processor, but a program in process context can be interrupted by one in
/// softirq on the same processor: a plain addition would now and then lose one of the two.
#[inline(always)]
fn add(counter: *mut u64, amount: u64) {
    // SAFETY: the pointer comes from a map value that the verifier has seen checked for null, and is aligned.
    // `AtomicU64` has no addition on this target, since one that yields the old value needs kernel 5.12; the result is
    // not used here, and the instruction for that is as old as the instruction set.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}

/// Counts something that belongs to no endpoint.
#[inline(always)]
pub(crate) fn global(counter: GlobalCounter) {
    if let Some(slot) = GLOBALS.get_ptr_mut(counter as u32) {
        add(slot, 1);
    }
}

impl Endpoint {
    /// The endpoint's counters, made if they are not there; `None` (and counted) where there is no room.
    #[inline(always)]
    pub(crate) fn of(key: &EndpointKey, now: u64) -> Option<Self> {
        if let Some(found) = ENDPOINTS.get_ptr_mut(key) {
            // SAFETY: a checked map value.
            unsafe {
                // A look-up on another processor's entry yields this processor's zeroed slot.
                if (*found).first_seen_ns == 0 {
                    (*found).first_seen_ns = now;
                }
                (*found).last_seen_ns = now;
            }
            return Some(Self(found));
        }
        // Two processors may both get here; the second insertion fails, which is as good.
        let _ = ENDPOINTS.insert(key, &ZERO, u64::from(BPF_NOEXIST));
        if let Some(made) = ENDPOINTS.get_ptr_mut(key) {
            // SAFETY: a checked map value.
            unsafe {
                (*made).first_seen_ns = now;
                (*made).last_seen_ns = now;
            }
            return Some(Self(made));
        }
        global(GlobalCounter::EndpointsMissed);
        None
    }

    #[inline(always)]
    pub(crate) fn opened(self) {
        add(unsafe { &raw mut (*self.0).opened }, 1);
    }

    #[inline(always)]
    pub(crate) fn established(self) {
        add(unsafe { &raw mut (*self.0).established }, 1);
    }

    #[inline(always)]
    pub(crate) fn connect_took(self, ns: u64) {
        add(unsafe { &raw mut (*self.0).connect_ns_sum }, ns);
        let index = bucket(ns / 1000) & (BUCKETS - 1);
        add(unsafe { (&raw mut (*self.0).connect_us).cast::<u64>().add(index) }, 1);
    }

    /// Folds a smoothed round-trip time in.
    #[inline(always)]
    pub(crate) fn round_trip(self, srtt_us: u32, min_us: u32, now: u64) {
        add(unsafe { &raw mut (*self.0).srtt_samples }, 1);
        add(unsafe { &raw mut (*self.0).srtt_us_sum }, u64::from(srtt_us));
        // SAFETY: a checked map value; a torn `last` is impossible at this size, a lost one harmless.
        unsafe {
            (*self.0).srtt_last_us = srtt_us;
            (*self.0).srtt_last_ns = now;
            let known = (*self.0).rtt_min_us;
            if min_us != 0 && min_us != u32::MAX && (known == 0 || min_us < known) {
                (*self.0).rtt_min_us = min_us;
            }
        }
    }

    #[inline(always)]
    pub(crate) fn retransmitted(self, segments: u64) {
        add(unsafe { &raw mut (*self.0).retransmits }, segments);
    }

    #[inline(always)]
    pub(crate) fn timer_ran_out(self) {
        add(unsafe { &raw mut (*self.0).timeouts }, 1);
    }

    #[inline(always)]
    pub(crate) fn reset_received(self, state: u8) {
        let index = usize::from(state) & (SLOTS - 1);
        add(unsafe { (&raw mut (*self.0).resets_received).cast::<u64>().add(index) }, 1);
    }

    #[inline(always)]
    pub(crate) fn reset_sent(self, state: u8) {
        let index = usize::from(state) & (SLOTS - 1);
        add(unsafe { (&raw mut (*self.0).resets_sent).cast::<u64>().add(index) }, 1);
    }

    #[inline(always)]
    pub(crate) fn peer_closed_after(self, idle_ms: u32, now: u64) {
        let index = bucket(u64::from(idle_ms)) & (BUCKETS - 1);
        add(unsafe { (&raw mut (*self.0).idle_ms).cast::<u64>().add(index) }, 1);
        add(unsafe { &raw mut (*self.0).idle_ms_sum }, u64::from(idle_ms));
        // SAFETY: a checked map value.
        unsafe {
            (*self.0).idle_last_ms = idle_ms;
            (*self.0).idle_last_ns = now;
        }
    }

    #[inline(always)]
    pub(crate) fn ended(self, end: u8, lifetime_ns: u64, sent: u64, received: u64) {
        let index = usize::from(end) & (SLOTS - 1);
        add(unsafe { (&raw mut (*self.0).ends).cast::<u64>().add(index) }, 1);
        add(unsafe { &raw mut (*self.0).ended }, 1);
        add(unsafe { &raw mut (*self.0).lifetime_ns_sum }, lifetime_ns);
        add(unsafe { &raw mut (*self.0).bytes_sent }, sent);
        add(unsafe { &raw mut (*self.0).bytes_received }, received);
    }

    /// Whether connections to this endpoint, as far as this processor has seen them, live a second or longer. Unknown
    /// counts as long: the first few are worth their samples.
    #[inline(always)]
    pub(crate) fn is_long_lived(self) -> bool {
        // SAFETY: a checked map value.
        let (ended, sum) = unsafe { ((*self.0).ended, (*self.0).lifetime_ns_sum) };
        ended < 16 || sum >= ended.wrapping_mul(1_000_000_000)
    }
}
