#!/bin/sh
# Makes build/plugin.wasm with Go: the one on the path, or one that the first build installs into
# .venv.
set -eu
cd "$(dirname "$0")"
PATH="$PATH:$PWD/.venv/bin"
command -v go >/dev/null || { python3 -m venv .venv && .venv/bin/pip install --quiet -r requirements.txt; }
mkdir -p build
GOOS=wasip1 GOARCH=wasm GOFLAGS=-mod=mod go build -buildmode=c-shared -trimpath -o build/core.wasm .
"${WHARF:-wharf}" component build/core.wasm -o build/plugin.wasm
