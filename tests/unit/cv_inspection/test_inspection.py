"""One inspection: its decision, mask, quality and identity."""

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from services.cv_inspection.features.image import measure_quality, resize, resize_mask
from services.cv_inspection.features.mask import run_lengths
from services.cv_inspection.ingestion.events import ImageRef, InspectionEvent, Quality
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.serving.inspect import decide, inspect
from services.cv_inspection.simulator.camera import Camera
from services.cv_inspection.simulator.drift import CameraDrift

FINE = Quality(brightness=0.5, contrast=0.1, sharpness=0.1, clipped=0.0)
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("defect", "share", "quality", "decision", "word"),
    [
        (0.05, 0.0, FINE, "pass", ""),
        (0.10, 0.0, FINE, "reject", ""),
        (0.99, 0.5, FINE, "reject", ""),
        (0.05, 0.02, FINE, "review", "mask covers"),
        (0.99, 0.5, FINE.model_copy(update={"brightness": 0.05}), "review", "too dark"),
        (0.05, 0.0, FINE.model_copy(update={"brightness": 0.99}), "review", "too bright"),
        (0.05, 0.0, FINE.model_copy(update={"clipped": 0.5}), "review", "clipped"),
    ],
)
def test_a_decision_and_its_reason(defect, share, quality, decision, word):
    found, reason = decide(defect, 0.1, share, quality)
    assert found == decision
    assert word in reason
    assert bool(reason) == (decision == "review")


def test_a_part_unlike_the_good_ones_goes_to_a_person():
    assert decide(0.02, 0.1, 0.0, FINE, 4.9, 5.0) == ("pass", "")
    assert decide(0.30, 0.1, 0.0, FINE, 9.0, 5.0) == ("reject", "")
    found, reason = decide(0.02, 0.1, 0.0, FINE, 7.25, 5.0)
    assert (found, reason) == ("review", "unlike the good parts: novelty 7.2, limit 5.0")


def test_an_inspection_is_complete_and_repeatable(vision_model):
    shot = Camera(3, defect_share=1.0).shot(0)
    result = inspect(vision_model, shot.jpeg(), ImageRef.from_key(shot.key), AT, shot.key)
    event = result.event
    assert InspectionEvent.model_validate_json(event.model_dump_json()) == event
    assert sum(event.probabilities.values()) == pytest.approx(1.0, abs=1e-4)
    assert tuple(event.probabilities) == CLASSES
    assert event.defect == pytest.approx(1 - event.probabilities["good"], abs=1e-6)
    assert event.mask_key == f"{event.place.stem}.mask.png"
    assert event.map_key == f"{event.place.stem}.map.png"
    assert event.defect_share == pytest.approx(result.mask.mean())
    assert list(result.stages) == ["decode", "measure", "infer", "decide"]
    again = inspect(vision_model, shot.jpeg(), ImageRef.from_key(shot.key), AT, shot.key)
    assert again.event == event
    mask = np.asarray(Image.open(io.BytesIO(result.mask_png)))
    assert np.array_equal(mask > 0, result.mask)


@pytest.mark.parametrize("fill", [0, 1, None])
def test_run_lengths_restore_the_mask(fill):
    rng = np.random.default_rng(0)
    mask = rng.random((9, 7)) < 0.4 if fill is None else np.full((9, 7), bool(fill))
    lengths = run_lengths(mask)
    value = np.arange(len(lengths)) % 2 == 1
    assert np.array_equal(np.repeat(value, lengths).reshape(mask.shape), mask)


def test_quality_shows_blur_and_darkness():
    def quality(drift):
        return measure_quality(decode(Camera(3, drift=drift).shot(2).jpeg()))

    plain = quality(None)
    assert quality(CameraDrift(blur=1.0)).sharpness < 0.6 * plain.sharpness
    assert quality(CameraDrift(exposure=1.0)).brightness < 0.7 * plain.brightness
    white = measure_quality(Image.new("RGB", (64, 64), "white"))
    assert (white.brightness, white.contrast, white.clipped) == (1.0, 0.0, 1.0)


def test_images_and_masks_are_resized_alike():
    square = np.zeros((256, 256), bool)
    square[64:128, 32:96] = True
    image = Image.fromarray(np.repeat(square[..., None], 3, axis=2).astype(np.uint8) * 255)
    small = resize(image, 64)
    assert small.shape == (64, 64, 3)
    mask = resize_mask(Image.fromarray(square), 64)
    assert (mask == (small[..., 0] > 127)).mean() > 0.99
