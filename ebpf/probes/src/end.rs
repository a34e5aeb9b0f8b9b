//! The end of a connection: told apart, counted, remembered if it was abnormal, forgotten if not.

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns};
use sluice_ebpf_common::{ConnectionRecord, End, EndEvent, GlobalCounter};

use crate::{
    count::{self, Endpoint},
    maps::{CONNECTIONS, ENDED, EVENTS},
};

/// What the caller could read from the socket; zero where it could not.
pub(crate) struct Last {
    pub(crate) error: u32,
    pub(crate) srtt_us: u32,
    pub(crate) rtt_min_us: u32,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

/// Closes the books on a connection whose state was `state` before CLOSE.
///
/// The record stays in [`ENDED`] after an abnormal end, for a RST that we send leaves only after the state has changed,
/// and has to find the state before it.
#[inline(always)]
pub(crate) fn finish(cookie: u64, record: *mut ConnectionRecord, state: u8, last: &Last) {
    // SAFETY: a map value that the caller has checked for null.
    let record = unsafe { &mut *record };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let end = End::classify(state, last.error, record.flags);
    record.ended_ns = now;
    record.end = end as u8;
    record.state = state;
    record.error = last.error;
    record.bytes_sent = last.bytes_sent;
    record.bytes_received = last.bytes_received;
    if last.srtt_us != 0 {
        record.srtt_us = last.srtt_us;
        record.rtt_min_us = last.rtt_min_us;
    }
    if let Some(endpoint) = Endpoint::of(&record.key(), now) {
        // Connections that took no samples while they lived give the one they ended with.
        if record.established_ns != 0 && record.folded_ns == 0 && last.srtt_us != 0 {
            endpoint.round_trip(last.srtt_us, last.rtt_min_us, now);
        }
        endpoint.ended(end as u8, now.wrapping_sub(record.started_ns), last.bytes_sent, last.bytes_received);
    }
    if end.is_abnormal() {
        let _ = ENDED.insert(&cookie, &*record, 0);
        tell(cookie, record);
    }
    let _ = CONNECTIONS.remove(&cookie);
}

/// Sends an event. Readers poll: a wake-up for each would cost more than all the rest together.
#[inline(always)]
fn tell(cookie: u64, record: &ConnectionRecord) {
    match EVENTS.reserve::<EndEvent>(0) {
        Some(mut slot) => {
            slot.write(EndEvent { cookie, record: *record });
            slot.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => count::global(GlobalCounter::EventsLost),
    }
}
