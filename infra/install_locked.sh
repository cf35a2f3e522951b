#!/bin/sh
# Install a lock by its hashes: `sh infra/install_locked.sh PIP LOCK [URL]`.
#
# All but torch: its CPU build is another file than PyPI's, from the index URL where that is in
# reach. From PyPI it brings CUDA's libraries on Linux, which the lock leaves out.
set -eu
pip=$1 lock=$2 url=${3:-}
torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' "$lock")
if [ -n "$torch" ] && [ -n "$url" ]; then
    "$pip" install --quiet --no-deps --index-url "$url" "$torch"
fi
hashed=$(mktemp)
trap 'rm -f "$hashed"' EXIT
awk '/^[A-Za-z0-9]/ { is_torch = /^torch==/ } !is_torch' "$lock" > "$hashed"
"$pip" install --progress-bar off --no-deps --require-hashes -r "$hashed"
[ -z "$torch" ] || "$pip" install --quiet "$torch"
