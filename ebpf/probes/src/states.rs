//! State changes, from the raw tracepoint that sees the whole socket.

use aya_ebpf::{
    helpers::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use sluice_ebpf_common::{ConnectionRecord, GlobalCounter, connection::flag, tcp_state};

use crate::{
    count::{self, Endpoint},
    end::{self, Last},
    maps::CONNECTIONS,
    settings::{Field, Sock, tick_ns},
};

/// `inet_sock_set_state(sk, old, new)`: before the state changes, in whatever context changes it.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn sluice_set_state(ctx: RawTracePointContext) -> i32 {
    let old = ctx.arg::<u32>(1) as u8;
    let new = ctx.arg::<u32>(2) as u8;
    // Beginnings are seen by the socket-operations program; of the ends, these three say all.
    if new != tcp_state::CLOSE && new != tcp_state::CLOSE_WAIT && new != tcp_state::FIN_WAIT1 {
        return 0;
    }
    let sk = Sock::new(ctx.arg::<*const u8>(0));
    let Some(cookie) = sk.read::<u64>(Field::Cookie).filter(|cookie| *cookie != 0) else { return 0 };
    let Some(record) = CONNECTIONS.get_ptr_mut(&cookie) else {
        if new == tcp_state::CLOSE && old != tcp_state::LISTEN {
            count::global(GlobalCounter::EndsElsewhere);
        }
        return 0;
    };
    if new == tcp_state::CLOSE {
        closed(sk, cookie, record, old);
    } else if old == tcp_state::ESTABLISHED {
        half_closed(sk, record, new);
    }
    0
}

#[inline(always)]
fn closed(sk: Sock, cookie: u64, record: *mut ConnectionRecord, old: u8) {
    let last = Last {
        error: sk.read::<u32>(Field::Error).unwrap_or(0),
        srtt_us: sk.read::<u32>(Field::Srtt).unwrap_or(0) >> 3,
        rtt_min_us: sk.read::<u32>(Field::RttMin).unwrap_or(0),
        bytes_sent: sk.read::<u64>(Field::BytesAcked).unwrap_or(0),
        bytes_received: sk.read::<u64>(Field::BytesReceived).unwrap_or(0),
    };
    if old == tcp_state::ESTABLISHED {
        // SAFETY: a checked map value.
        unsafe { (*record).idle_ms = idle_ms(sk, record) };
    }
    end::finish(cookie, record, old, &last);
}

/// One side has said that it will send no more.
#[inline(always)]
fn half_closed(sk: Sock, record: *mut ConnectionRecord, new: u8) {
    let idle = idle_ms(sk, record);
    // SAFETY: a checked map value.
    let record = unsafe { &mut *record };
    record.state = new;
    if new == tcp_state::FIN_WAIT1 {
        record.flags |= flag::LOCAL_CLOSED;
        return;
    }
    record.flags |= flag::PEER_CLOSED;
    record.idle_ms = idle;
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(endpoint) = Endpoint::of(&record.key(), now) {
        endpoint.peer_closed_after(idle, now);
    }
}

/// How long ago data was last sent or received. From the socket's own stamps, which every segment with data renews, a
/// FIN without data does not; they have the resolution of a tick. Where this kernel lacks them, since the last
/// acknowledgement, or since the beginning.
#[inline(always)]
fn idle_ms(sk: Sock, record: *const ConnectionRecord) -> u32 {
    if let (Some(sent), Some(received)) = (sk.read::<u32>(Field::LastSent), sk.read::<u32>(Field::LastReceived)) {
        // SAFETY: a helper without arguments.
        let ticks = unsafe { bpf_jiffies64() } as u32;
        let since_sent = ticks.wrapping_sub(sent);
        let since_received = ticks.wrapping_sub(received);
        let ticks = if since_sent < since_received { since_sent } else { since_received };
        return (u64::from(ticks) * tick_ns() / 1_000_000) as u32;
    }
    // SAFETY: a checked map value.
    let (acked, established) = unsafe { ((*record).acked_ns, (*record).established_ns) };
    let since = if acked != 0 { acked } else { established };
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_ns() }.wrapping_sub(since) / 1_000_000) as u32
}
