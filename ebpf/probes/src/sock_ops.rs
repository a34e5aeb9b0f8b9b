//! Beginnings, round trips and retransmissions, from the socket-operations hook of a control group.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RETRANS_CB,
        BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_RTT_CB,
        BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        bpf_sock_ops,
    },
    helpers::{bpf_get_current_pid_tgid, bpf_get_socket_cookie, bpf_ktime_get_ns},
    macros::sock_ops,
    programs::SockOpsContext,
};
use sluice_ebpf_common::{ConnectionRecord, End, GlobalCounter, Role, connection::flag, settings::switch, tcp_state};

use crate::{
    count::{self, Endpoint},
    end::{self, Last},
    maps::{CONNECTIONS, PORTS, PROCESSES},
    settings::is_on,
};

/// A connection's round-trip time goes into its endpoint's figures no more often than this.
const FOLD_EVERY_NS: u64 = 50_000_000;

/// Of the connections to an endpoint where they are short-lived, one in this many takes samples (a power of two).
const SAMPLED_SHARE: u64 = 16;

/// Reads four bytes of the context at the offset of a field.
///
/// The verifier allows only reads at an offset that is written into the instruction. The compiler does not know that:
/// where two branches read neighbouring fields it likes to choose the address first and read once. So the instruction
/// is written by hand, which it can neither join nor move apart.
macro_rules! field {
    ($ops:expr, $field:ident) => {
        field!($ops, $field, 0)
    };
    ($ops:expr, $field:ident, $index:literal) => {{
        let value: u32;
        // SAFETY: the context is valid while the program runs; the verifier checks the offset.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({ops} + {offset})",
                value = out(reg) value,
                ops = in(reg) $ops,
                offset = const core::mem::offset_of!(bpf_sock_ops, $field) + 4 * $index,
                options(nostack, readonly, preserves_flags),
            );
        }
        value
    }};
}

/// The same for a field of eight bytes.
macro_rules! wide_field {
    ($ops:expr, $field:ident) => {{
        let value: u64;
        // SAFETY: as in `field`.
        unsafe {
            core::arch::asm!(
                "{value} = *(u64 *)({ops} + {offset})",
                value = out(reg) value,
                ops = in(reg) $ops,
                offset = const core::mem::offset_of!(bpf_sock_ops, $field),
                options(nostack, readonly, preserves_flags),
            );
        }
        value
    }};
}

/// The answer 1 lets the next program have its say and changes nothing.
#[sock_ops]
fn sluice_sock_ops(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // Operations that are not ours leave at once: an arm64 kernel 5.10 panics if every operation touches the socket.
    match field!(ops, op) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_RTT_CB => round_trip(&ctx),
        BPF_SOCK_OPS_RETRANS_CB => retransmitted(&ctx),
        BPF_SOCK_OPS_RTO_CB => timer_ran_out(&ctx),
        BPF_SOCK_OPS_STATE_CB => {
            if is_on(switch::STATES_IN_SOCK_OPS) {
                state_changed(&ctx);
            }
        }
        _ => {}
    }
    1
}

#[inline(always)]
fn cookie_of(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes the context itself.
    unsafe { bpf_get_socket_cookie(ctx.ops.cast()) }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Our `connect` is about to send its first SYN; we are still in the process that called it.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let process = if is_on(switch::KNOWS_PROCESS) { (bpf_get_current_pid_tgid() >> 32) as u32 } else { 0 };
    if is_on(switch::ONLY_PROCESSES) && PROCESSES.get_ptr(&process).is_none() {
        return;
    }
    remember(ctx, Role::Outgoing, process, 0);
}

/// A client's handshake with one of our listeners is done.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    if is_on(switch::ONLY_OUTGOING) {
        return;
    }
    remember(ctx, Role::Incoming, 0, now());
}

#[inline(always)]
fn remember(ctx: &SockOpsContext, role: Role, process: u32, established_ns: u64) {
    let ops = ctx.ops;
    let local_port = field!(ops, local_port) as u16;
    let remote_port = u32::from_be(field!(ops, remote_port)) as u16;
    if is_on(switch::ONLY_PORTS) && PORTS.get_ptr(&local_port).is_none() && PORTS.get_ptr(&remote_port).is_none() {
        return;
    }
    let Some((local_address, remote_address)) = addresses(ops) else { return };
    let now = if established_ns != 0 { established_ns } else { now() };
    let incoming = matches!(role, Role::Incoming);
    let record = ConnectionRecord {
        started_ns: now,
        established_ns,
        ended_ns: 0,
        folded_ns: 0,
        acked_ns: 0,
        bytes_sent: 0,
        bytes_received: 0,
        local_address,
        remote_address,
        local_port,
        remote_port,
        process,
        srtt_us: 0,
        rtt_min_us: 0,
        retransmits: 0,
        timeouts: 0,
        idle_ms: 0,
        error: 0,
        state: if incoming { tcp_state::ESTABLISHED } else { tcp_state::SYN_SENT },
        role: role as u8,
        end: End::Open as u8,
        flags: 0,
        reset_state: 0,
        by_process: u8::from(is_on(switch::BY_PROCESS)),
        zero: [0; 2],
    };
    let cookie = cookie_of(ctx);
    if CONNECTIONS.insert(&cookie, &record, 0).is_err() {
        count::global(GlobalCounter::ConnectionsMissed);
        return;
    }
    let mut wanted = BPF_SOCK_OPS_RETRANS_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;
    if is_on(switch::STATES_IN_SOCK_OPS) {
        wanted |= BPF_SOCK_OPS_STATE_CB_FLAG;
    }
    if let Some(endpoint) = Endpoint::of(&record.key(), now) {
        endpoint.opened();
        if incoming {
            endpoint.established();
            if takes_samples(endpoint, cookie) {
                wanted |= BPF_SOCK_OPS_RTT_CB_FLAG;
            }
        }
    }
    ask_for(ctx, wanted);
}

/// Switches further callbacks on, leaving alone what others asked for.
#[inline(always)]
fn ask_for(ctx: &SockOpsContext, flags: u32) {
    let _ = ctx.set_cb_flags((field!(ctx.ops, bpf_sock_ops_cb_flags) | flags) as i32);
}

/// Round-trip callbacks come with every acknowledgement. On connections that live for one request they would cost a
/// proxy 15 % of its throughput, on long-lived ones 1 %.
#[inline(always)]
fn takes_samples(endpoint: Endpoint, cookie: u64) -> bool {
    if is_on(switch::RTT_NEVER) {
        return false;
    }
    is_on(switch::RTT_ALWAYS) || endpoint.is_long_lived() || cookie & (SAMPLED_SHARE - 1) == 0
}

/// Our and the peer's address, IPv4 in mapped form; `None` for a family that is neither.
#[inline(always)]
fn addresses(ops: *mut bpf_sock_ops) -> Option<([u32; 4], [u32; 4])> {
    const INET: u32 = 2;
    const INET6: u32 = 10;
    match field!(ops, family) {
        INET => {
            let mapped = 0xffff_u32.to_be();
            Some(([0, 0, mapped, field!(ops, local_ip4)], [0, 0, mapped, field!(ops, remote_ip4)]))
        }
        INET6 => Some((
            [
                field!(ops, local_ip6, 0),
                field!(ops, local_ip6, 1),
                field!(ops, local_ip6, 2),
                field!(ops, local_ip6, 3),
            ],
            [
                field!(ops, remote_ip6, 0),
                field!(ops, remote_ip6, 1),
                field!(ops, remote_ip6, 2),
                field!(ops, remote_ip6, 3),
            ],
        )),
        _ => None,
    }
}

/// Our connection is established.
#[inline(always)]
fn connected(ctx: &SockOpsContext) {
    let cookie = cookie_of(ctx);
    let Some(record) = CONNECTIONS.get_ptr_mut(&cookie) else { return };
    // SAFETY: a checked map value.
    let record = unsafe { &mut *record };
    let now = now();
    record.established_ns = now;
    record.state = tcp_state::ESTABLISHED;
    if let Some(endpoint) = Endpoint::of(&record.key(), now) {
        endpoint.established();
        endpoint.connect_took(now.wrapping_sub(record.started_ns));
        if takes_samples(endpoint, cookie) {
            ask_for(ctx, BPF_SOCK_OPS_RTT_CB_FLAG);
        }
    }
}

#[inline(always)]
fn round_trip(ctx: &SockOpsContext) {
    let Some(record) = CONNECTIONS.get_ptr_mut(&cookie_of(ctx)) else { return };
    // SAFETY: a checked map value.
    let record = unsafe { &mut *record };
    let now = now();
    let srtt_us = field!(ctx.ops, srtt_us) >> 3;
    let min_us = field!(ctx.ops, rtt_min);
    record.acked_ns = now;
    record.srtt_us = srtt_us;
    record.rtt_min_us = min_us;
    if srtt_us != 0 && now.wrapping_sub(record.folded_ns) >= FOLD_EVERY_NS {
        record.folded_ns = now;
        if let Some(endpoint) = Endpoint::of(&record.key(), now) {
            endpoint.round_trip(srtt_us, min_us, now);
        }
    }
}

/// Arguments: sequence number, segments, result of sending.
#[inline(always)]
fn retransmitted(ctx: &SockOpsContext) {
    let Some(record) = CONNECTIONS.get_ptr_mut(&cookie_of(ctx)) else { return };
    // SAFETY: a checked map value.
    let record = unsafe { &mut *record };
    let segments = field!(ctx.ops, __bindgen_anon_1, 1);
    record.retransmits = record.retransmits.wrapping_add(segments);
    if let Some(endpoint) = Endpoint::of(&record.key(), now()) {
        endpoint.retransmitted(u64::from(segments));
    }
}

#[inline(always)]
fn timer_ran_out(ctx: &SockOpsContext) {
    let Some(record) = CONNECTIONS.get_ptr_mut(&cookie_of(ctx)) else { return };
    // SAFETY: a checked map value.
    let record = unsafe { &mut *record };
    record.timeouts = record.timeouts.wrapping_add(1);
    if let Some(endpoint) = Endpoint::of(&record.key(), now()) {
        endpoint.timer_ran_out();
    }
}

/// The poorer view of state changes, for kernels and privileges without the raw tracepoint: the socket's error and the
/// stamps of its last data are not to be had. Arguments: old state, new state.
#[inline(always)]
fn state_changed(ctx: &SockOpsContext) {
    let cookie = cookie_of(ctx);
    let Some(record) = CONNECTIONS.get_ptr_mut(&cookie) else { return };
    let ops = ctx.ops;
    let old = field!(ops, __bindgen_anon_1, 0) as u8;
    let new = field!(ops, __bindgen_anon_1, 1) as u8;
    if new == tcp_state::CLOSE {
        let last = Last {
            error: 0,
            srtt_us: field!(ops, srtt_us) >> 3,
            rtt_min_us: field!(ops, rtt_min),
            bytes_sent: wide_field!(ops, bytes_acked),
            bytes_received: wide_field!(ops, bytes_received),
        };
        end::finish(cookie, record, old, &last);
        return;
    }
    // SAFETY: a checked map value.
    let record = unsafe { &mut *record };
    if old != tcp_state::ESTABLISHED {
        return;
    }
    if new == tcp_state::FIN_WAIT1 {
        record.state = new;
        record.flags |= flag::LOCAL_CLOSED;
    } else if new == tcp_state::CLOSE_WAIT {
        let now = now();
        let since = if record.acked_ns != 0 { record.acked_ns } else { record.established_ns };
        let idle_ms = (now.wrapping_sub(since) / 1_000_000) as u32;
        record.state = new;
        record.flags |= flag::PEER_CLOSED;
        record.idle_ms = idle_ms;
        if let Some(endpoint) = Endpoint::of(&record.key(), now) {
            endpoint.peer_closed_after(idle_ms, now);
        }
    }
}
