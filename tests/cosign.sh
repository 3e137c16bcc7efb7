#!/bin/sh
# Puts cosign into target/toolchains/cosign, from Debian's trixie: bookworm has none, and its skopeo is built without these
# signatures. The package needs nothing that bookworm lacks, and nothing of the system is changed. For Debian, with its mirror
# as apt has it.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/target/toolchains/cosign
[ ! -x "$folder/usr/bin/cosign" ] || exit 0
mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial"
mirror() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1; }
# Who has no lists yet has no word of who the mirror's are.
[ -n "$(mirror)" ] || apt-get update -qq
mirror=$(mirror)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$folder/apt/sources.list"
from_trixie() {
    apt-get -qq -o Dir::Etc::SourceList="$folder/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$folder/apt/lists" -o Dir::Cache="$folder/apt" -o APT::Sandbox::User=root "$@"
}
from_trixie update
cd "$folder/apt" && from_trixie download cosign
dpkg-deb --extract cosign_*.deb "$folder"
rm -r "$folder/apt"
