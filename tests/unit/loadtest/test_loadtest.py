"""The load test: its open loop, distinct transactions, and Locust's figures."""

import subprocess
import sys
import time
from itertools import islice

import orjson
import psutil
import pytest

from loadtest import run, schedule, stream
from loadtest.bodies import bodies
from loadtest.run import _by_time, _plot, _total
from services.fraud.ingestion.events import Transaction

STATS = "Type,Name,Request Count,Failure Count,50%,95%,99%,Requests/s\n"


def test_much_output_does_not_block_locust_and_its_end_is_quoted(tmp_path, monkeypatch):
    scenario = "import sys\nsys.stderr.write('x' * 200_000 + ' the end')\nsys.exit(3)\n"
    (tmp_path / "noisy.py").write_text(scenario)
    monkeypatch.setattr(run, "__file__", str(tmp_path / "run.py"))
    begin = time.monotonic()

    def step(*_):
        assert time.monotonic() - begin < 100, "Locust is blocked"

    with pytest.raises(RuntimeError, match=r"locust ended with 3: x+ the end"):
        run.run("noisy", 1, 1, tmp_path / "out", step)


def test_a_stalled_user_returns_to_its_own_offset(monkeypatch):
    """Stalled for 2.4 s, a user sends at once and returns to its own offset within the second."""
    now = [100.0]
    monkeypatch.setattr(schedule, "perf_counter", lambda: now[0])
    monkeypatch.setattr(schedule.gevent, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    user = schedule.OpenLoop()
    user.on_start()
    offset = now[0] % 1.0
    now[0] += 2.4
    waits = []
    for _ in range(5):
        wait = user.wait_time()
        waits.append(wait)
        now[0] += wait
    assert waits[:2] == [0.0, 0.0]
    assert waits[3:] == pytest.approx([1.0, 1.0])
    assert now[0] % 1.0 == pytest.approx(offset)


def test_bodies_are_distinct_transactions():
    made = list(islice(bodies(), 500))
    identities = {Transaction.model_validate_json(body).transaction_id for body in made}
    assert len(identities) == 500
    assert len({orjson.loads(body)["customer_id"] for body in made}) > 300
    assert len(list(bodies(3))) == 3


def test_load_generators_send_different_transactions():
    first, second = set(bodies(500)), set(bodies(500, worker=1))
    assert not first & second
    assert first == set(bodies(500, worker=0))


def test_locusts_figures_are_read_and_a_run_without_requests_is_an_error(tmp_path):
    path = tmp_path / "stats.csv"
    path.write_text(STATS + "POST,/score,10,0,3,8,9,5.0\n,Aggregated,10,1,3,8,9,5.0\n")
    assert _total(path)["Failure Count"] == "1"
    path.write_text(STATS + ",Aggregated,0,0,N/A,N/A,N/A,0\n")
    with pytest.raises(RuntimeError, match="no request"):
        _total(path)


def test_the_plot_has_the_aggregated_requests_and_may_be_empty(tmp_path):
    history, head = tmp_path / "history.csv", "Timestamp,Name,50%,95%,99%\n"
    history.write_text(f"{head}1,Aggregated,N/A,N/A,N/A\n1,Aggregated,0,0,0\n")
    assert _by_time(history) == []
    assert _plot(history, tmp_path / "plot.png", "fraud", 10).stat().st_size > 1_000
    history.write_text(f"{head}2,/score,9,9,9\n2,Aggregated,3,8,9\n3,Aggregated,3,9,12\n")
    assert [row["95%"] for row in _by_time(history)] == ["8", "9"]
    assert _plot(history, tmp_path / "plot.png", "fraud", 10).stat().st_size > 1_000


def test_a_worker_that_ended_and_was_not_waited_for_has_ended():
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        process = psutil.Process(ended.pid)
        end = time.monotonic() + 30
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(RuntimeError, match="a feature worker ended"):
            stream._check([process])
    stream._check([psutil.Process()])
