#!/bin/sh
# Install a lock by its hashes: `sh infra/install_locked.sh PIP LOCK [URL]`.
#
# pip would compile the packages on one core (60 s of a processor); they are compiled on all of them
# at the end. Templates among them are no Python, so errors are left out.
#
# All but torch: its CPU build is another file than PyPI's, from the index URL where that is in
# reach. From PyPI it brings CUDA's libraries on Linux, which the lock leaves out.
set -eu
pip=$1 lock=$2 url=${3:-}
torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' "$lock")
if [ -n "$torch" ] && [ -n "$url" ]; then
    "$pip" install --no-compile --quiet --no-deps --index-url "$url" "$torch"
fi
hashed=$(mktemp)
trap 'rm -f "$hashed"' EXIT
awk '/^[A-Za-z0-9]/ { is_torch = /^torch==/ } !is_torch' "$lock" > "$hashed"
"$pip" install --no-compile --progress-bar off --no-deps --require-hashes -r "$hashed"
[ -z "$torch" ] || "$pip" install --no-compile --quiet "$torch"
python=$(dirname "$(command -v "$pip")")/python
if [ -x "$python" ]; then
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -m compileall -q -j 0 "$packages" > /dev/null 2>&1 || true
fi
