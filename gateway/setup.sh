#!/usr/bin/env bash
# Installs what is missing from the distribution's packages, and nothing that is there already.
# Usage: setup.sh build|test|templates|bench|deny
set -euo pipefail

say() { printf '== %s ==\n' "$*"; }

need_packages() { # pairs of command:package; installs the packages whose command is missing
    local missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "missing: ${missing[*]}; install them (apt-get install ${missing[*]}) or run this as root" >&2
        exit 1
    fi
    say "installing from the distribution: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >/dev/null
    apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

command -v cargo >/dev/null 2>&1 || { echo "cargo is not on PATH: install stable Rust first" >&2; exit 1; }

case "${1:-build}" in
    build) need_packages cc:gcc c++:g++ make:make cmake:cmake ;;
    test) need_packages cc:gcc cmake:cmake ip:iproute2 ;;
    templates)
        # Python's package of virtual environments has no command of its own.
        python3 -c 'import ensurepip' 2>/dev/null || need_packages none:python3-venv
        need_packages node:nodejs npm:npm python3:python3
        ;;
    bench) need_packages haproxy:haproxy nginx:nginx wrk:wrk h2load:nghttp2-client taskset:util-linux ;;
    deny)
        if ! command -v cargo-deny >/dev/null 2>&1; then
            say "installing cargo-deny (a few minutes, once)"
            CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
                cargo install --quiet --locked cargo-deny@0.20.2
        fi
        ;;
    *) echo "usage: setup.sh build|test|templates|bench|deny" >&2; exit 2 ;;
esac
