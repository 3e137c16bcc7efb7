#!/bin/sh
# Makes build/plugin.wasm. `wharf` reads the text itself.
set -eu
cd "$(dirname "$0")"
"${WHARF:-wharf}" component src/lines.wat -o build/plugin.wasm
