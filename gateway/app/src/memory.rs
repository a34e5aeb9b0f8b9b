//! The allocator, and having it give back what a start or a reload needed for a moment.
//!
//! Reading the kernel's types takes some 20 MB, compiling a component more, for less than a second. What is freed the
//! allocator keeps for a second in case it is wanted again, and looks later whether to return it, which is when a thread
//! allocates or ends; a gateway that has just started and waits for its first requests does neither. So once it is over, a
//! thread is made that does nothing but end.

use std::time::Duration;

// The request path allocates little but often; the bare Pingora proxy that we measure against uses this allocator too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Longer than what is begun at the start takes to finish, and than the second that freed memory is kept.
const SETTLED: Duration = Duration::from_secs(3);

/// Has unused memory returned to the system, in a few seconds.
pub(crate) fn give_back_soon() {
    let made = std::thread::Builder::new().name("settle".into()).spawn(|| std::thread::sleep(SETTLED));
    if let Err(error) = made {
        // Nothing but memory is lost.
        tracing::debug!(%error, "unused memory is not given back");
    }
}
