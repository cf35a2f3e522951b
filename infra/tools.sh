#!/usr/bin/env bash
# Brings into .venv/bin, out of Debian's packages, what only checks need: promtool for the alert
# rules, kustomize for the Kubernetes manifests. Nothing is installed on the machine, and no server
# is started. Needs apt; without it, or without the package, says so and goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

# bring PROGRAM PACKAGE WHAT-IS-NOT-CHECKED-WITHOUT-IT
bring() {
    if command -v "$1" >/dev/null || [ -x ".venv/bin/$1" ]; then return; fi
    command -v apt-get >/dev/null || { echo "no apt here: $3 not checked"; return; }
    local folder
    folder=$(mktemp -d)
    (
        cd "$folder"
        apt-get download -qq "$2" 2>/dev/null || { apt-get update -qq && apt-get download -qq "$2"; }
        dpkg -x "$2"_*.deb .
    ) && install -D "$folder/usr/bin/$1" ".venv/bin/$1" || echo "no package $2 here: $3 not checked"
    rm -rf "$folder"
}

bring promtool prometheus "alert rules are"
# kubectl has kustomize in it.
command -v kubectl >/dev/null || bring kustomize kustomize "rendered Kubernetes manifests are"
