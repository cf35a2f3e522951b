#!/usr/bin/env bash
# Brings promtool into .venv/bin, out of Debian's package: what checks the alert rules. Nothing is
# installed on the machine, and no Prometheus is started. Needs apt; without it, says so and goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v promtool >/dev/null || [ -x .venv/bin/promtool ]; then exit 0; fi
command -v apt-get >/dev/null || { echo "no apt here: alert rules are not checked"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }
dpkg -x prometheus_*.deb .
cd - >/dev/null
install -D "$folder/usr/bin/promtool" .venv/bin/promtool
