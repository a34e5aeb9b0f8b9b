#!/bin/sh
# Makes plugin.wasm. The first time it fetches its compiler into .venv.
set -eu
cd "$(dirname "$0")"
if ! [ -x .venv/bin/componentize-py ]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
fi
.venv/bin/componentize-py --wit-path wit --world on-both componentize app --output plugin.wasm --stub-wasi
