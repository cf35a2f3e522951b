"""The signal catalogue: services show exactly the metrics that it lists."""

import asyncio
import re
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from services.designs import DESIGNS
from services.platform.design import SCHEDULER
from services.platform.run import SHARED
from tests.conftest import wait_for_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SIGNALS = yaml.safe_load((ROOT / "monitoring" / "signals.yaml").read_text())
# Of the client library, and of the languages' runtimes.
_FOREIGN = ("python_", "process_")


def listed(service):
    return {s["name"] for s in SIGNALS if service in s["services"]}


def metrics(port, seconds=60.0):
    """The text of a process's metrics. A process that is just starting may reset a connection."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def shown(port):
    text = metrics(port)
    found = set()
    for family in text_string_to_metric_families(text):
        counter = family.type == "counter"
        found.add(f"{family.name}_total" if counter else family.name)
    # When a series began is no signal of its own.
    return {n for n in found if not n.startswith(_FOREIGN) and not n.endswith("_created")}


NAMES = sorted({name for signal in SIGNALS for name in signal["services"]})


async def test_services_show_what_is_listed(config, nc, worker):
    """All of them run; each shows every metric listed for it, and none that is not listed."""
    running = {process.name: (d.name, process) for d in DESIGNS for process in d.everything}
    for owner, process in running.values():
        worker(owner, process.name)
    worker(SHARED, SCHEDULER.name, "true")
    running[SCHEDULER.name] = (SHARED, SCHEDULER)
    assert sorted(running) == NAMES
    known = {s["name"] for s in SIGNALS}
    for name, (_, process) in running.items():
        port = process.port(config)
        await asyncio.to_thread(wait_for_port, port, 120)
        found = await asyncio.to_thread(shown, port)
        assert not listed(name) - found, name
        assert not found - known, f"{name}: add them to monitoring/signals.yaml"


def test_every_signal_has_a_unit_and_a_reason():
    assert len({s["name"] for s in SIGNALS}) == len(SIGNALS)
    for signal in SIGNALS:
        assert set(signal) == {"name", "unit", "services", "why"}
        assert signal["why"].endswith(".")


def test_alert_rules_and_code_name_only_what_is_listed():
    known = {s["name"] for s in SIGNALS}
    rules = yaml.safe_load((ROOT / "infra" / "prometheus" / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["runbook"]
            used = set(
                re.findall(r"[a-z_]+_(?:seconds|total|events|distance|rows)\b", rule["expr"])
            )
            used |= set(re.findall(r"[a-z_]+_seconds(?=_bucket)", rule["expr"]))
            assert used, rule["alert"]
            assert used <= known, rule["alert"]
