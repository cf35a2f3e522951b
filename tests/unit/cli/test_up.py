"""How many feature workers and scorers `up` starts: what is refused, and which programs."""

import os

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from services.cli.programs import programs
from services.designs import DESIGNS
from services.fraud.service import SCORER
from services.platform.settings import Settings, settings


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("0", "greater than or equal"),
        ("many", "valid integer"),
        ("17", "17 feature workers: choose 1 to 16, one per shard at most"),
    ],
)
def test_a_number_that_cannot_be_is_refused_before_anything_starts(number, words):
    done = CliRunner().invoke(app, ["up", "--feature-workers", number])
    assert done.exit_code != 0
    assert words in " ".join(done.output.replace("\u2502", " ").split())


def test_each_has_a_name_a_number_and_a_port_of_its_own(tmp_path):
    config = Settings(home=tmp_path)
    one = {program.name: program for program in programs(config, DESIGNS)}
    three = {p.name: p for p in programs(config, DESIGNS, {"feature-worker": 3})}
    assert set(three) - set(one) == {"feature-worker-1", "feature-worker-2"}
    assert three["feature-worker"] == one["feature-worker"]
    second = three["feature-worker-2"]
    assert second.ports == {"metrics_port": config.metrics_port + 42}
    assert second.command[3:] == (
        "--port", str(config.metrics_port + 42), "fraud", "feature-worker", "--worker", "2",
    )  # fmt: skip
    assert second.nice == one["feature-worker"].nice


def scorers(monkeypatch, number):
    monkeypatch.setenv("WHITEBOARD_SCORER_PROCESSES", number)
    return SCORER.processes(Settings())


def test_scorers_share_their_port_and_nothing_else(tmp_path):
    config = Settings(home=tmp_path, build="b")
    found = [p for p in programs(config, DESIGNS, {"scorer": 2}) if p.name.startswith("scorer")]
    assert [one.name for one in found] == ["scorer", "scorer-1"]
    assert [one.environment["WHITEBOARD_INSTANCE"] for one in found] == ["scorer", "scorer-1"]
    assert {one.environment["WHITEBOARD_BUILD"] for one in found} == {"b"}
    assert {tuple(one.ports.items()) for one in found} == {(("scorer_port", SCORER.port(config)),)}
    assert all(one.drains for one in found)
    own = {config.model_copy(update={"instance": one.name}).folder("scorer") for one in found}
    assert own == {tmp_path / "scorer", tmp_path / "scorer-1"}
    [inspector] = [p for p in programs(config, DESIGNS) if p.name == "inspector"]
    assert (inspector.drains, "WHITEBOARD_INSTANCE" in inspector.environment) == (False, False)


def test_as_many_scorers_as_the_setting_says(monkeypatch):
    assert scorers(monkeypatch, "1") == 1
    assert scorers(monkeypatch, f" {4 * os.cpu_count()} ") == 4 * os.cpu_count()


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5", "", "²", str(4 * os.cpu_count() + 1)])
def test_a_number_of_scorers_that_cannot_be_is_named(number, monkeypatch):
    with pytest.raises(ValueError, match=f"WHITEBOARD_SCORER_PROCESSES={number}: choose a number"):
        scorers(monkeypatch, number)
    settings.cache_clear()
    done = CliRunner().invoke(app, ["up"])
    settings.cache_clear()
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert f"from 1 to {4 * os.cpu_count()}, 4 for each core of this machine" in said
