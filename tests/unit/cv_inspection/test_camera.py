"""The camera: repeatable, its masks true, each drift does what it says."""

import numpy as np
import pytest

from services.cv_inspection.problem import CLASSES, GOOD
from services.cv_inspection.simulator.camera import LINES, Camera
from services.cv_inspection.simulator.defects import KINDS
from services.cv_inspection.simulator.drift import Drift
from services.cv_inspection.simulator.station import Report
from services.cv_inspection.simulator.surfaces import DEFECTS, SURFACES


def test_the_same_number_is_the_same_picture():
    one, other = Camera(3, defects=0.5), Camera(3, defects=0.5)
    other.shot(0)
    assert one.shot(17).jpeg() == other.shot(17).jpeg()
    assert one.shot(17).jpeg() != Camera(4, defects=0.5).shot(17).jpeg()


def test_what_is_drawn_is_what_the_mask_says():
    """With a defect and without, the reflectance differs under the mask and nowhere else."""
    for kind, draw in KINDS.items():
        cover, change = draw(np.random.default_rng(5), 256, 0.5)
        assert cover.shape == (256, 256)
        assert cover.min() >= 0.0, kind
        assert cover.max() <= 1.0, kind
        assert (cover >= 0.5).any(), kind
        assert abs(change) > 0.05, kind


def test_a_good_part_has_an_empty_mask_and_a_bad_one_has_not():
    for number in range(60):
        shot = Camera(1, defects=0.5).shot(number)
        assert shot.mask.any() == (shot.label != GOOD)
        assert shot.label in CLASSES
        assert shot.label == GOOD or shot.label in DEFECTS[LINES[shot.line]]


def test_every_surface_has_defects_that_are_classes():
    assert set(DEFECTS) == set(SURFACES) == set(LINES.values())
    assert {kind for kinds in DEFECTS.values() for kind in kinds} == set(CLASSES) - {GOOD}


def test_defects_come_as_often_as_they_are_told():
    labels = [Camera(2, defects=0.1).shot(n).label for n in range(600)]
    assert 0.06 < np.mean([label != GOOD for label in labels]) < 0.14


def fine(pixels):
    return float(np.abs(np.diff(pixels.astype(float), axis=0)).mean())


def test_blur_takes_detail_away_and_exposure_light():
    plain, blurred, dark = (
        [Camera(6, drift=drift).shot(n).pixels for n in range(9)]
        for drift in (None, Drift(blur=1.0), Drift(exposure=1.0))
    )
    assert np.mean([fine(p) for p in blurred]) < 0.5 * np.mean([fine(p) for p in plain])
    assert np.mean(dark) < 0.6 * np.mean(plain)


def test_a_drift_can_be_at_one_station_alone():
    plain, drifted = Camera(6), Camera(6, drift=Drift.parse("blur=1@line-b/station-2"))
    pairs = [(plain.shot(n), drifted.shot(n)) for n in range(12)]
    changed = {f"{a.line}/{a.station}" for a, b in pairs if not np.array_equal(a.pixels, b.pixels)}
    assert changed == {"line-b/station-2"}
    with pytest.raises(ValueError, match="line-z/station-1"):
        Camera(6, drift=Drift.parse("blur=1@line-z/station-1"))


def test_a_new_defect_is_one_nobody_was_trained_on():
    labels = {Camera(6, defects=1.0, drift=Drift(new_defect=1.0)).shot(n).label for n in range(9)}
    assert labels == {"dent"}
    assert "dent" not in CLASSES


@pytest.mark.parametrize(
    ("text", "word"), [("fog=1", "no drift 'fog'"), ("blur=x", "no number"), ("blur=2", "0..1")]
)
def test_a_drift_that_is_none_is_named(text, word):
    with pytest.raises(ValueError, match=word):
        Drift.parse(text)


def test_told_at_two_places_is_twice_and_heard_again_is_not():
    """NATS, killed, forgets what was acknowledged and delivers it again."""
    report = Report(landed=2)
    assert report.hear("a", 7)
    assert not report.hear("a", 7)
    assert (report.duplicates, report.lost) == (0, 1)
    assert not report.hear("a", 9)
    assert report.duplicates == 1
