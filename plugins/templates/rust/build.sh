#!/bin/sh
# Makes plugin.wasm. Arguments go to cargo.
set -eu
cd "$(dirname "$0")"

case "$*" in
*build-std*) ;;
*)
    if ! [ -d "$(rustc --print target-libdir --target wasm32-unknown-unknown)" ]; then
        echo "the target is missing: rustup target add wasm32-unknown-unknown" >&2
        exit 1
    fi
    ;;
esac

# The linker that makes components comes with every Rust toolchain, and needs wasm-ld, which lies beside it.
bin=$(rustc --print sysroot)/lib/rustlib/$(rustc --print host-tuple)/bin
PATH="$bin/gcc-ld:$PATH" \
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$bin/wasm-component-ld" \
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C link-arg=-zstack-size=32768" \
    cargo build --release --target wasm32-unknown-unknown --target-dir target "$@"
cp target/wasm32-unknown-unknown/release/@crate@.wasm plugin.wasm
