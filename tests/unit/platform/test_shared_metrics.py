"""One page for several processes: what is added, and what is not."""

import os
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families

from services.platform.latency_histogram import LatencyHistogram
from services.platform.runtime.sharing.metrics import SharedMetrics


class OneProcess:
    """A process with metrics of its own."""

    def __init__(self, folder, name, first=False):
        registry = CollectorRegistry()
        self.requests = Counter("requests", "R", ["route"], registry=registry)
        self.depth = Gauge("outbox_events", "O", registry=registry)
        self.version = Gauge("model_version", "V", registry=registry)
        self.seconds = LatencyHistogram("seconds", "S", "route", (0.1, 1.0), registry)
        others = lambda: [n for n in ("a", "b") if n != name]  # noqa: E731
        member = SimpleNamespace(folder=folder, name=name, first=first, others=others)
        self.metrics = SharedMetrics(member, registry)

    def serve(self, count, depth, version):
        self.requests.labels("/score").inc(count)
        for _ in range(count):
            self.seconds.observe("/score", 0.05)
        self.depth.set(depth)
        self.version.set(version)
        return self


def values(metrics):
    families = text_string_to_metric_families(metrics.page().decode())
    return {
        (s.name, *s.labels.values()): s.value
        for family in families
        for s in family.samples
        if not s.name.endswith("_created")
    }


@pytest.fixture
def pair(tmp_path):
    one = OneProcess(tmp_path, "a", first=True).serve(3, depth=1, version=7)
    other = OneProcess(tmp_path, "b").serve(4, depth=2, version=6)
    other.metrics.write()
    return one, other


EXPECTED = {
    ("requests_total", "/score"): 7.0,
    ("seconds_bucket", "0.1", "/score"): 7.0,
    ("seconds_bucket", "1.0", "/score"): 7.0,
    ("seconds_bucket", "+Inf", "/score"): 7.0,
    ("seconds_count", "/score"): 7.0,
    ("seconds_sum", "/score"): pytest.approx(0.35),
    ("outbox_events",): 3.0,
    ("model_version",): 7.0,
}


def test_counters_histograms_and_amounts_are_added_and_versions_are_not(pair):
    one, other = pair
    assert values(one.metrics) == EXPECTED
    one.metrics.write()
    assert values(other.metrics) == EXPECTED


def test_what_an_ended_process_counted_stays_and_its_gauges_do_not(pair, tmp_path):
    one, _ = pair
    os.utime(tmp_path / "metrics" / "b.json", (1, 1))
    found = values(one.metrics)
    assert found["requests_total", "/score"] == 7.0
    assert (found["outbox_events",], found["model_version",]) == (1.0, 7.0)


def test_a_process_that_starts_again_counts_on(pair, tmp_path):
    one, _ = pair
    again = OneProcess(tmp_path, "b").serve(1, depth=0, version=7)
    again.metrics.write()
    assert values(one.metrics)["requests_total", "/score"] == 8.0
    assert values(one.metrics)["seconds_count", "/score"] == 8.0


def test_the_first_process_of_all_counts_from_nothing(pair, tmp_path):
    fresh = OneProcess(tmp_path, "a", first=True).serve(1, depth=0, version=7)
    assert values(fresh.metrics)["requests_total", "/score"] == 1.0


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": ["counter", "A", [1]]}'])
def test_a_file_that_cannot_be_read_is_left_out(pair, tmp_path, data):
    one, _ = pair
    (tmp_path / "metrics" / "b.json").write_bytes(data)
    assert values(one.metrics)["requests_total", "/score"] == 3.0
