#!/bin/sh
# Installs the toolchains of the languages in host/templates into target/toolchains, from PyPI and npm, in the versions that the
# templates name. Needs Python 3 with venv, Node.js and npm.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/target/toolchains
mkdir -p "$folder/bin" "$folder/node"
[ -x "$folder/python/bin/pip" ] || python3 -m venv "$folder/python"
"$folder/python/bin/pip" install --quiet --disable-pip-version-check \
    -r host/templates/c/requirements.txt -r host/templates/python/requirements.txt -r host/templates/go/requirements.txt
sed 's/{{name}}/toolchains/' host/templates/typescript/package.json >"$folder/node/package.json"
npm install --silent --no-audit --no-fund --prefix "$folder/node"
ln -sf "$folder/python/bin/python-zig" "$folder/bin/zig"
for tool in go componentize-py; do ln -sf "$folder/python/bin/$tool" "$folder/bin/$tool"; done
for tool in componentize-qjs esbuild tsc; do ln -sf "$folder/node/node_modules/.bin/$tool" "$folder/bin/$tool"; done
