"""The signal catalogue is the one source: what services show is what it lists, and back."""

import re
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from services.cli.stack import services
from tests.conftest import wait_for_port

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = yaml.safe_load((ROOT / "monitoring" / "signals.yaml").read_text())
# Of the client library, and of the languages' runtimes.
_FOREIGN = ("python_", "process_")


def listed(service):
    return {s["name"] for s in SIGNALS if service in s["services"]}


def shown(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = set()
    for family in text_string_to_metric_families(text):
        counter = family.type == "counter"
        found.add(f"{family.name}_total" if counter else family.name)
    return {name for name in found if not name.startswith(_FOREIGN)}


NAMES = sorted({name for signal in SIGNALS for name in signal["services"]})


@pytest.mark.parametrize("name", NAMES)
async def test_a_service_shows_what_is_listed(config, nc, worker, name):
    """Modules share their metrics' names; what a service lists, it must show."""
    service = next(s for s in services(config) if s.name == name)
    worker(service.module, *service.arguments)
    port = next(iter(service.ports.values()))
    wait_for_port(port, 60)
    missing = listed(name) - shown(port)
    assert not missing
    unlisted = shown(port) - {s["name"] for s in SIGNALS}
    assert not unlisted, "add them to monitoring/signals.yaml"


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
                re.findall(r"[a-z_]+_(?:seconds|total|events|psi|ks|share|rows)\b", rule["expr"])
            )
            used |= set(re.findall(r"[a-z_]+_seconds(?=_bucket)", rule["expr"]))
            assert used, rule["alert"]
            assert used <= known, rule["alert"]
