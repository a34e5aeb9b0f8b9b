//! Where the running kernel keeps the fields that the probes read.

use std::{fs, io, path::Path};

use sluice_ebpf_common::{Offsets, settings::ABSENT};
use thiserror::Error;

use crate::btf::{Btf, BtfError};

/// Where every kernel built with type information shows it.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why no offsets are to be had at all.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OffsetsError {
    /// The kernel shows no type information.
    #[error("cannot read {KERNEL_BTF} (the kernel must be built with CONFIG_DEBUG_INFO_BTF)")]
    Unreadable(#[source] io::Error),
    /// It could not be understood.
    #[error("cannot use {KERNEL_BTF}")]
    Btf(#[from] BtfError),
}

/// The offsets, and what this kernel does not have.
#[derive(Debug)]
pub struct Resolved {
    /// Offsets from the start of a socket.
    pub offsets: Offsets,
    /// Readings that are left out, each with the reason.
    pub missing: Vec<BtfError>,
}

/// Finds the offsets in the running kernel.
///
/// # Errors
/// Where it has no type information, or lacks what identifies a socket (its cookie or its state).
pub fn of_running_kernel() -> Result<Resolved, OffsetsError> {
    let bytes = fs::read(Path::new(KERNEL_BTF)).map_err(OffsetsError::Unreadable)?;
    Ok(resolve(&Btf::parse(&bytes)?)?)
}

/// Finds the offsets in `btf`.
///
/// `struct sock` begins with `sock_common`, `inet_connection_sock` and `tcp_sock` begin with `struct sock` (through
/// `inet_sock`), so an offset into any of them is one into the socket.
///
/// # Errors
/// Where a field without which nothing can be told is not there.
pub fn resolve(btf: &Btf<'_>) -> Result<Resolved, BtfError> {
    let mut missing = Vec::new();
    let mut optional = |structure, path, size| {
        btf.offset_of(structure, path, size).unwrap_or_else(|error| {
            missing.push(error);
            ABSENT
        })
    };
    let offsets = Offsets {
        error: optional("sock", "sk_err", 4),
        srtt_us: optional("tcp_sock", "srtt_us", 4),
        rtt_min_us: optional("tcp_sock", "rtt_min.s.v", 4),
        bytes_acked: optional("tcp_sock", "bytes_acked", 8),
        bytes_received: optional("tcp_sock", "bytes_received", 8),
        last_sent: optional("tcp_sock", "lsndtime", 4),
        last_received: optional("inet_connection_sock", "icsk_ack.lrcvtime", 4),
        state: btf.offset_of("sock_common", "skc_state", 1)?,
        cookie: btf.offset_of("sock_common", "skc_cookie", 8)?,
    };
    Ok(Resolved { offsets, missing })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn the_running_kernel_has_every_field_where_it_has_type_information() {
        match of_running_kernel() {
            Ok(resolved) => {
                assert_eq!(resolved.missing, []);
                // The layout of the start of a socket has been the same for longer than there has been BTF.
                assert_eq!(resolved.offsets.state, 18);
            }
            Err(OffsetsError::Unreadable(error)) => eprintln!("SKIPPED: {KERNEL_BTF}: {error}"),
            Err(error) => panic!("{error:?}"),
        }
    }
}
