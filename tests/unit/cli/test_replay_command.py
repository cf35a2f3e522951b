"""`whiteboard replay`: what it tells, and its exit codes."""

import csv
import json

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from tests.unit.fraud.replay_files import write_csv

MAPPING = """
columns: {transaction_id: id, event_time: when, customer_id: who, merchant_id: shop, amount: eur,
          fraud: bad}
"""


@pytest.fixture
def replay(tmp_path):
    (tmp_path / "m.yaml").write_text(MAPPING)

    def run(*arguments, rows):
        file = write_csv(tmp_path / "t.csv", rows)
        mapping = str(tmp_path / "m.yaml")
        command = ["replay", "fraud", "--file", str(file), "--mapping", mapping, *arguments]
        return CliRunner().invoke(app, command)

    return run


GOOD = "1,2022-04-01,7,3,12.75,1"


def test_check_reads_the_whole_file_and_sends_nothing(replay, tmp_path):
    left_out = tmp_path / "rejected.csv"
    rows = [GOOD, GOOD, "2,2022-04-02,7,3,x,0", "3,2022-04-03,7,3,1,"]
    done = replay("--check", "--json", "--rejected", str(left_out), rows=rows)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["transactions"], found["labels"], found["labels_unknown"]) == (2, 1, 1)
    assert (found["duplicate_rows"], found["rejected_rows"]) == (1, 1)
    assert found["rejected_by_field"] == {"amount": 1}
    assert "row 3 (line 4)" in found["rejected"][0]
    with left_out.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["row"], row["column"], row["value"]) == ("3", "eur", "x")


def test_nothing_to_send_is_an_error_with_its_reason(replay):
    done = replay("--check", rows=["1,0,7,3,1,0", "2,61,7,3,1,0"])
    assert done.exit_code == 1
    assert "nan" not in done.stdout
    assert "no transaction was sent" in done.stderr
    assert "time: {unit: s" in " ".join(done.stderr.split())


def test_a_replay_that_sent_nothing_ends_with_1_and_without_nan(replay, monkeypatch):
    from services.fraud.problem import CostModel
    from services.fraud.review import live
    from services.fraud.simulator import replay as module
    from services.fraud.simulator.gateway import TrafficReport

    async def nothing(*_):
        return TrafficReport()

    async def costs(_):
        return CostModel()

    monkeypatch.setattr(module, "replay", nothing)
    monkeypatch.setattr(live, "present_costs", costs)
    done = replay(rows=[GOOD.replace("7,3", "O'Neil,3")])
    assert done.exit_code == 1
    assert "nan" not in done.stdout
    done = replay("--json", rows=[GOOD])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["p50_ms"] is None


@pytest.mark.parametrize("arguments", [("--since", "soon"), ("--run", "a b")])
def test_a_bad_option_is_named(replay, arguments):
    done = replay(*arguments, rows=[GOOD])
    assert done.exit_code == 1
    assert arguments[1] in done.stderr
