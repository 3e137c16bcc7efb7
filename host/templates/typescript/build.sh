#!/bin/sh
# Makes build/plugin.wasm: checks the types, joins the modules into one script, and puts QuickJS
# around it. The tools are those on the path, or those that the first build installs here.
set -eu
cd "$(dirname "$0")"
PATH="$PATH:$PWD/node_modules/.bin"
for tool in componentize-qjs esbuild tsc; do
    command -v "$tool" >/dev/null || npm install --silent --no-audit --no-fund >&2
done
mkdir -p build
tsc --project .
esbuild src/lines.ts --bundle --format=esm --target=es2022 --external:wharf:* --external:wasi:* \
    --outfile=build/lines.js --log-level=warning
# Without --sync, the tool would use functions that this contract does not have.
componentize-qjs --sync --wit wit --world lines --js build/lines.js --output build/plugin.wasm
