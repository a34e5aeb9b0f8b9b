//! RSTs, in both directions. A RST arrives in softirq, where the current process means nothing: it is joined to its
//! connection by the socket's cookie. Both tracepoints are host-wide; what is not watched is only counted.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::raw_tracepoint, programs::RawTracePointContext};
use sluice_ebpf_common::{GlobalCounter, connection::flag, tcp_state};

use crate::{
    count::{self, Endpoint},
    maps::{CONNECTIONS, ENDED},
    settings::{Field, Sock},
};

/// `tcp_receive_reset(sk)`: before the RST is acted on, so the state is still the one it hit.
#[raw_tracepoint(tracepoint = "tcp_receive_reset")]
fn sluice_receive_reset(ctx: RawTracePointContext) -> i32 {
    let sk = Sock::new(ctx.arg::<*const u8>(0));
    let cookie = sk.read::<u64>(Field::Cookie).unwrap_or(0);
    let Some(record) = CONNECTIONS.get_ptr_mut(&cookie) else {
        count::global(GlobalCounter::ResetsReceivedElsewhere);
        return 0;
    };
    let state = sk.read::<u8>(Field::State).unwrap_or(0);
    // SAFETY: a checked map value.
    let record = unsafe { &mut *record };
    record.flags |= flag::RESET_RECEIVED;
    record.reset_state = state;
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(endpoint) = Endpoint::of(&record.key(), now) {
        endpoint.reset_received(state);
    }
    0
}

/// `tcp_send_reset(sk, skb, …)`. Later kernels append arguments: only the first one is read, for reading one that is
/// not there would keep the program from attaching.
#[raw_tracepoint(tracepoint = "tcp_send_reset")]
fn sluice_send_reset(ctx: RawTracePointContext) -> i32 {
    let sk = Sock::new(ctx.arg::<*const u8>(0));
    if sk.is_null() {
        count::global(GlobalCounter::ResetsSentWithoutSocket);
        return 0;
    }
    let state = sk.read::<u8>(Field::State).unwrap_or(0);
    // What is left of a socket in these states is smaller than a socket, and belongs to no connection of ours.
    if state == tcp_state::TIME_WAIT || state == tcp_state::NEW_SYN_RECV || state == tcp_state::LISTEN {
        count::global(GlobalCounter::ResetsSentWithoutSocket);
        return 0;
    }
    let cookie = sk.read::<u64>(Field::Cookie).unwrap_or(0);
    // An abort changes the state to CLOSE before it sends the RST, so the connection has usually ended by now.
    let Some(record) = ENDED.get_ptr_mut(&cookie).or_else(|| CONNECTIONS.get_ptr_mut(&cookie)) else {
        count::global(GlobalCounter::ResetsSentElsewhere);
        return 0;
    };
    // SAFETY: a checked map value.
    let record = unsafe { &mut *record };
    let state = if state == tcp_state::CLOSE { record.state } else { state };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(endpoint) = Endpoint::of(&record.key(), now) {
        endpoint.reset_sent(state);
    }
    0
}
