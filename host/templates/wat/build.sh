#!/bin/sh
# Makes build/plugin.wasm. `wharf` itself reads the text.
set -eu
cd "$(dirname "$0")"
"${WHARF:-wharf}" component src/lines.wat -o build/plugin.wasm
