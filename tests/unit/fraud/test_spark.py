"""What the backfill on Spark finds out before it starts anything, and its parts without Spark."""

import socket
import stat

import numpy as np
import pyarrow as pa
import pytest

from features.aggregation import backfill
from features.spec import Measure, State
from services.fraud.features.spark import request as module
from services.fraud.features.spark.backfill import states_by_shard
from services.fraud.features.spark.request import SparkRequest, check, java_version
from services.fraud.features.spark.session import _sentence
from services.fraud.features.spark.shard import _chunks
from services.fraud.features.states import DEVICE, PAIR, STATES
from tests.identical import assert_identical


@pytest.fixture
def complete(monkeypatch):
    """A machine with PySpark, Java and memory."""
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    monkeypatch.setattr(module, "_check_java", lambda: None)
    monkeypatch.setattr(module, "available_mb", lambda: 4_000)


def test_without_pyspark_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="PySpark is not installed: `make spark-setup`"):
        check(SparkRequest())


def test_without_java_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"JAVA_HOME has none: `infra/tools\.sh java`"):
        check(SparkRequest())
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "own_java", lambda: tmp_path / "java")
    with pytest.raises(ValueError, match="there is none here"):
        check(SparkRequest())


def test_an_old_java_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="is Java 11"):
        check(SparkRequest())
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(ValueError, match="does not run"):
        check(SparkRequest())


@pytest.mark.parametrize(
    "master",
    ["", "yarn", "local[0]", "local[two]", "spark://host", "spark://host:7077/x", "k8s://host:1",
     "k8s://ftp://host", "spark://"],
)  # fmt: skip
def test_a_master_of_another_form_is_refused(complete, master):
    with pytest.raises(ValueError, match="--master"):
        check(SparkRequest(master))


@pytest.mark.parametrize("form", ["spark://127.0.0.1:{}", "k8s://https://127.0.0.1:{}"])
def test_a_master_that_does_not_answer_is_named(complete, form):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionError, match=f"no Spark master answers at 127.0.0.1:{port}"):
            check(SparkRequest(form.format(port)))
        taken.listen()
        check(SparkRequest(form.format(port)))


def test_too_little_memory_is_refused_with_what_would_do(complete):
    check(SparkRequest("local[2]", 1024))
    with pytest.raises(ValueError, match=r"needs 8,2\d\d MB .* 4,000 MB are free: a smaller"):
        check(SparkRequest("local[15]", 1150))
    with pytest.raises(ValueError, match="512 MB of heap at least"):
        check(SparkRequest(memory_mb=100))


def test_memory_of_the_control_group_counts():
    assert 0 < module.available_mb() < 10_000_000
    assert module._group_bytes("/no/such/file") is None


def test_java_says_nothing_known():
    assert java_version("") == 0


def test_states_that_need_each_other_share_a_shard(monkeypatch):
    jobs = states_by_shard()
    assert [state for states in jobs.values() for state in states] == list(STATES)
    assert list(jobs["device_id"]) == [PAIR, DEVICE]
    apart = State("pair", PAIR.keys, PAIR.measures, shard="customer_id")
    new = Measure("new_customers", "", "first", first_of=apart)
    needs = State("device", DEVICE.keys, (new,), shard="device_id")
    monkeypatch.setattr("services.fraud.features.spark.backfill.STATES", (apart, needs))
    with pytest.raises(ValueError, match="must be sharded by device_id"):
        states_by_shard()


def test_chunks_hold_each_event_once_and_in_order(monkeypatch):
    monkeypatch.setattr("services.fraud.features.spark.shard.CHUNK", 4)
    seq = np.sort(np.random.default_rng(1).integers(1, 50, 200))
    whole = pa.RecordBatch.from_pydict({"seq": seq})
    batches = [whole.slice(at, 7) for at in range(0, 200, 7)]
    found = [chunk["seq"].to_numpy() for chunk in _chunks(iter(batches))]
    assert np.concatenate(found).tolist() == sorted(set(seq.tolist()))
    assert min(map(len, found[:-1])) >= 4
    assert list(_chunks(iter([]))) == []


def test_spark_s_errors_become_sentences(tmp_path):
    log = tmp_path / "spark.log"
    assert "the disk is full" in _sentence("java.io.IOException: No space left on device", log)
    assert "does not answer as a Spark master" in _sentence("All masters are unresponsive!", log)
    assert "more --shards" in _sentence("Python worker exited unexpectedly (crashed)", log)
    assert "Spark failed: it ended" in _sentence("", log)
    text = "Traceback\n  File x\nOSError: S3 did not answer\n SQLSTATE: 38000"
    assert "Spark failed: OSError: S3 did not answer" in _sentence(text, log)
    log.write_text("java.lang.OutOfMemoryError: Java heap space")
    assert "a greater --memory-mb" in _sentence("connection lost", log)


def test_the_embedded_backfill_is_what_shards_are_compared_with(simulated):
    """Folding a shard's events alone gives the rows that folding all events gives them."""
    events = simulated.events
    keys = np.asarray(events.keys["device_id"], dtype=object)
    mine = np.array([key is not None and hash(key) % 3 == 0 for key in keys])
    part = type(events)(
        events.seq[mine], events.time[mine], events.is_transaction[mine], events.amount[mine],
        events.chargeback[mine], {n: np.asarray(k)[mine] for n, k in events.keys.items()},
    )  # fmt: skip
    here = backfill((PAIR, DEVICE), part)
    for state in (PAIR, DEVICE):
        whole = simulated.states[state.name]
        index = {key: n for n, key in enumerate(whole.keys)}
        found = here[state.name]
        rows = whole.table[[index[key] for key in found.keys]]
        assert_identical(rows, found.table)
        assert len(found.keys)
