"""The two dozen lines of docs/device.md answer as serving does."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.cv_inspection.ingestion.events import ImageRef
from services.cv_inspection.model import ImageModel
from services.cv_inspection.serving.inspect import inspect
from services.cv_inspection.simulator.camera import Camera
from services.platform.models.onnx import write_card
from tests.unit.cv_inspection.vision_fixtures import cv_card

DOCS = Path(__file__).parents[3] / "docs" / "device.md"


def test_the_documented_script_answers_as_serving(vision_file, tmp_path):
    [script] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    imported = set(re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE))
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}
    data = write_card(vision_file, cv_card())
    image = Camera(3, defect_share=1.0).shot(0).jpeg()
    for name, content in (("model.onnx", data), ("part.jpg", image)):
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-I", "-c", script, "model.onnx", "part.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    served = inspect(ImageModel(data), image, ImageRef.from_key("a/b/c/1.jpg"), at).event
    assert found["probabilities"] == pytest.approx(served.probabilities, abs=1e-4)
    assert found["defect_share"] == pytest.approx(served.defect_share, abs=1e-4)
    assert found["stop"] == (served.defect >= served.threshold)
