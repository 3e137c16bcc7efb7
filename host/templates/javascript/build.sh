#!/bin/sh
# Makes build/plugin.wasm: QuickJS with the script in it. The tool is the one on the path, or one
# that the first build installs here.
set -eu
cd "$(dirname "$0")"
PATH="$PATH:$PWD/node_modules/.bin"
command -v componentize-qjs >/dev/null || npm install --silent --no-audit --no-fund >&2
mkdir -p build
# Without --sync, the tool would use functions that this contract does not have.
componentize-qjs --sync --wit wit --world lines --js src/lines.js --module-root . --output build/plugin.wasm
