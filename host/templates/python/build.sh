#!/bin/sh
# Makes build/plugin.wasm: CPython with the modules of src in it. The tool is the one on the path,
# or one that the first build installs into .venv.
set -eu
cd "$(dirname "$0")"
PATH="$PATH:$PWD/.venv/bin"
command -v componentize-py >/dev/null || { python3 -m venv .venv && .venv/bin/pip install --quiet -r requirements.txt; }
mkdir -p build
componentize-py --quiet --wit-path wit --world lines componentize --python-path src app --output build/plugin.wasm
