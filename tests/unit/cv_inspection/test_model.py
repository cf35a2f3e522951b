"""The served model: memory of many images, and answers that are no numbers."""

import numpy as np
import pytest
from PIL import Image

from services.cv_inspection import model as module
from services.cv_inspection.evaluation import drift_benchmark
from services.cv_inspection.model import ImageModel, ImageOutputs, ModelFailed
from tests.unit.cv_inspection.vision_fixtures import simulated


def test_many_images_are_inspected_some_at_a_time(vision_model, monkeypatch):
    """The gate scores thousands at once, and each takes megabytes while the network runs."""
    images, counts = simulated(40), []

    def run(model, pixels, options):
        counts.append(len(pixels))
        return real(model, pixels, options)

    real = ImageModel._run
    monkeypatch.setattr(ImageModel, "_run", run)
    together = vision_model.inspect(images.vectors)
    score = vision_model.score(images.vectors)
    assert max(counts) == module._BATCH
    assert sum(counts) == 80
    assert [len(output) for output in together] == [40] * 4
    assert np.array_equal(score, 1.0 - together.probabilities[:, 0])


def test_an_answer_that_is_no_number_passes_no_part(vision_model, monkeypatch):
    image = Image.fromarray(simulated(1).vectors[0])
    real = vision_model.inspect(np.asarray(image)[None])
    for name in ImageOutputs._fields:
        broken = real._replace(**{name: np.full_like(getattr(real, name), np.nan)})
        monkeypatch.setattr(ImageModel, "_run", lambda *_, broken=broken: broken)
        with pytest.raises(ModelFailed, match="efficientnet:1 gives outputs that are not finite"):
            vision_model.inspect_image(image)

    def fail(*_):
        raise RuntimeError("Failed to allocate memory")

    monkeypatch.setattr(ImageModel, "_run", fail)
    with pytest.raises(ModelFailed, match="efficientnet:1 failed: Failed to allocate memory"):
        vision_model.inspect_image(image)


def test_the_drift_benchmark_scores_streams_of_images(vision_model, monkeypatch):
    monkeypatch.setattr(drift_benchmark, "WINDOW_IMAGES", 20)
    monkeypatch.setattr(drift_benchmark, "VALIDATION_IMAGES", 40)
    monkeypatch.setattr(drift_benchmark, "_CLEAN", 2)
    monkeypatch.setattr(drift_benchmark, "DRIFTS", {"blur": (1, 3)})
    drifts = [("blur", 1.0)]
    clean, blurred = drift_benchmark.streams(vision_model, [3], drifts, lambda *_: None)
    assert (len(clean.windows), len(blurred.windows)) == (2, 3)
    assert clean.windows[0].shape == (20, len(clean.reference.names))
    assert np.isfinite(np.concatenate([*clean.windows, *blurred.windows])).all()
    assert (blurred.drift, blurred.strength) == ("blur", 1.0)
