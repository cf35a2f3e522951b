"""The magnetic-tile protocol by its command, on a few made-up tiles."""

import json
import subprocess
import sys

import pytest

from tests.unit.cv_inspection.vision_fixtures import make_tiles

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(660)]


def test_folds_are_trained_side_by_side_and_judged(tmp_path):
    make_tiles(tmp_path, 6)
    command = [sys.executable, "-m", "services.cli.main", "evaluate", "cv", "--file", str(tmp_path)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3_000:]
    found = json.loads(done.stdout)
    for name in ("auc", "recall_at_5fpr", "balanced_accuracy", "miou"):
        assert set(found[name]) == {"mean", "low", "high"}
        assert 0.0 <= found[name]["mean"] <= 1.0
    # A black square on grey is easy to detect.
    assert found["auc"]["mean"] > 0.8
