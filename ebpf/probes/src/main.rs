//! The programs that run in the kernel.
//!
//! One socket-operations program sees connections begin, live and (where nothing better is to be had) end; three raw
//! tracepoints see what it cannot: the socket's error at the last state change, and RSTs in both directions. All four
//! meet in the tables of [`maps`]: a connection is remembered under its socket cookie when it begins, if it passes the
//! filter, and everything later is a look-up of that cookie, so that what is not watched costs one miss.
//!
//! Counting happens in [`count`], into per-processor tables. Events go out only for connections that ended abnormally:
//! one event per close would cost a gateway a third of its throughput.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "an addition to memory that cannot be interrupted; see `count`")]

mod count;
mod end;
mod maps;
mod resets;
mod settings;
mod sock_ops;
mod states;

/// Nothing here can panic; the linker wants to hear it anyway.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel offers some helpers only to programs under a licence it knows.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
