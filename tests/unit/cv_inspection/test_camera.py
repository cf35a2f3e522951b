"""The camera: images are reproducible, masks are exact, each drift has its effect."""

import numpy as np
import pytest

from services.cv_inspection.problem import CLASSES, GOOD
from services.cv_inspection.simulator.camera import LINES, Camera
from services.cv_inspection.simulator.defects import DEFECT_GENERATORS
from services.cv_inspection.simulator.drift import CameraDrift
from services.cv_inspection.simulator.station import StationReport
from services.cv_inspection.simulator.surfaces import DEFECTS, SURFACES


def test_a_number_gives_the_same_image():
    one, other = Camera(3, defect_share=0.5), Camera(3, defect_share=0.5)
    other.shot(0)
    assert one.shot(17).jpeg() == other.shot(17).jpeg()
    assert one.shot(17).jpeg() != Camera(4, defect_share=0.5).shot(17).jpeg()


def test_masks_cover_where_reflectance_changes():
    """A generator returns coverage in 0..1 and a visible change of reflectance."""
    for kind, draw in DEFECT_GENERATORS.items():
        cover, change = draw(np.random.default_rng(5), 256, 0.5)
        assert cover.shape == (256, 256)
        assert cover.min() >= 0.0, kind
        assert cover.max() <= 1.0, kind
        assert (cover >= 0.5).any(), kind
        assert abs(change) > 0.05, kind


def test_only_defects_have_a_mask():
    for number in range(60):
        shot = Camera(1, defect_share=0.5).shot(number)
        assert shot.mask.any() == (shot.label != GOOD)
        assert shot.label in CLASSES
        assert shot.label == GOOD or shot.label in DEFECTS[LINES[shot.line]]


def test_defects_of_the_surfaces_are_the_classes():
    assert set(DEFECTS) == set(SURFACES) == set(LINES.values())
    assert {kind for kinds in DEFECTS.values() for kind in kinds} == set(CLASSES) - {GOOD}


def test_defects_have_the_share_asked_for():
    labels = [Camera(2, defect_share=0.1).shot(n).label for n in range(600)]
    assert 0.06 < np.mean([label != GOOD for label in labels]) < 0.14


def detail(pixels):
    return float(np.abs(np.diff(pixels.astype(float), axis=0)).mean())


def test_blur_removes_detail_and_exposure_darkens():
    plain, blurred, dark = (
        [Camera(6, drift=drift).shot(n).pixels for n in range(9)]
        for drift in (None, CameraDrift(blur=1.0), CameraDrift(exposure=1.0))
    )
    assert np.mean([detail(p) for p in blurred]) < 0.5 * np.mean([detail(p) for p in plain])
    assert np.mean(dark) < 0.6 * np.mean(plain)


def test_a_drift_can_be_limited_to_one_station():
    plain, drifted = Camera(6), Camera(6, drift=CameraDrift.parse("blur=1@line-b/station-2"))
    pairs = [(plain.shot(n), drifted.shot(n)) for n in range(12)]
    changed = {f"{a.line}/{a.station}" for a, b in pairs if not np.array_equal(a.pixels, b.pixels)}
    assert changed == {"line-b/station-2"}
    with pytest.raises(ValueError, match="line-z/station-1"):
        Camera(6, drift=CameraDrift.parse("blur=1@line-z/station-1"))


def test_the_new_defect_is_not_a_class():
    labels = {
        Camera(6, defect_share=1.0, drift=CameraDrift(new_defect=1.0)).shot(n).label
        for n in range(9)
    }
    assert labels == {"dent"}
    assert "dent" not in CLASSES


@pytest.mark.parametrize(
    ("text", "word"),
    [("fog=1", "unknown drift 'fog'"), ("blur=x", "not a number"), ("blur=2", "0..1")],
)
def test_an_invalid_drift_is_named(text, word):
    with pytest.raises(ValueError, match=word):
        CameraDrift.parse(text)


def test_two_sequence_numbers_are_a_duplicate_and_a_redelivery_is_not():
    """A killed NATS loses acknowledgements and delivers again."""
    report = StationReport(landed=2)
    assert report.record_inspection("a", 7)
    assert not report.record_inspection("a", 7)
    assert (report.duplicates, report.lost) == (0, 1)
    assert not report.record_inspection("a", 9)
    assert report.duplicates == 1
