"""`whiteboard up --feature-workers`: what is refused, and which programs it starts."""

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from services.cli.programs import programs
from services.designs import DESIGNS
from services.platform.settings import Settings


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("0", "greater than or equal"),
        ("many", "valid integer"),
        ("17", "17 feature workers: choose 1 to 16, one a shard at most"),
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
