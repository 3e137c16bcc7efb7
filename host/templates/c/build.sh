#!/bin/sh
# Makes build/plugin.wasm with the C compiler of Zig: the one on the path, or one that the first
# build installs into .venv.
set -eu
cd "$(dirname "$0")"
if command -v zig >/dev/null; then
    zig=zig
else
    .venv/bin/python -c 'import ziglang' 2>/dev/null || { python3 -m venv .venv && .venv/bin/pip install --quiet -r requirements.txt; }
    zig=".venv/bin/python -m ziglang"
fi
mkdir -p build
$zig cc -target wasm32-wasi -mexec-model=reactor -std=c11 -O2 -g0 -fsanitize-trap=undefined -fno-stack-protector -Wall -Wextra -Werror \
    -Iwharf -Wl,-z,stack-size=65536 -o build/core.wasm src/lines.c wharf/wharf.c
"${WHARF:-wharf}" component build/core.wasm -o build/plugin.wasm
