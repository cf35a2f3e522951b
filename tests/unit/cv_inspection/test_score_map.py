"""Maps: levels are fixed to the threshold, lie right on any size, and old files still serve."""

import numpy as np
import pytest
from PIL import Image

from services.cv_inspection.features.score_map import DEFECT, MAX_SIDE, NOVELTY
from services.cv_inspection.features.tiling import merge_masks, tile_boxes
from services.cv_inspection.model import WholeImage
from services.platform.colour_scale import ABOVE, laid_over, overlay, read_levels

SIZES = [(256, 256), (500, 1240), (1600, 320), (4000, 3000)]


def whole(width: int, height: int, patches: bool = True) -> WholeImage:
    """An image of some tiles with smooth random logits."""
    rng = np.random.default_rng(width)
    boxes = tile_boxes(width, height, 128, 4.0)
    coarse = rng.normal(-1, 3, (len(boxes), 8, 8)).astype(np.float32)
    logits = np.stack([np.asarray(Image.fromarray(c).resize((128, 128))) for c in coarse])
    side = 16 if patches else 0
    novelty = rng.normal(2, 2, (len(boxes), side, side)).astype(np.float32)
    mask = merge_masks(logits, boxes, width, height)
    return WholeImage(np.array([0.5, 0.5], np.float32), mask, 3.0, boxes, logits, novelty)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_map_contains_its_mask_at_any_size(width, height):
    found = whole(width, height)
    levels = read_levels(found.map_png(4.0), DEFECT)
    assert max(levels.shape) == min(max(width, height), MAX_SIDE)
    own = np.asarray(Image.fromarray(levels >= ABOVE).resize((width, height)))
    if max(width, height) <= MAX_SIDE:
        assert np.array_equal(own, found.mask)
    # Of 12 megapixels, a pixel of the map is 6 along a side.
    assert (own & found.mask).sum() / (own | found.mask).sum() > 0.94


def test_novelty_is_scaled_to_its_limit_not_to_the_image():
    found = whole(256, 256)
    one, two = (read_levels(found.map_png(limit), NOVELTY) for limit in (4.0, 8.0))
    assert (one >= ABOVE).sum() > (two >= ABOVE).sum()
    assert read_levels(found.map_png(4.0), DEFECT).tolist() == (
        read_levels(found.map_png(8.0), DEFECT).tolist()
    )


def test_a_model_without_novelty_of_patches_gives_a_map_of_one_channel():
    png = whole(256, 256, patches=False).map_png(None)
    assert read_levels(png).shape == (256, 256)
    with pytest.raises(ValueError, match="1 channels, and no 1"):
        read_levels(png, NOVELTY)


def test_colours_are_those_of_the_level_whatever_else_is_in_the_image():
    low, high = np.full((60, 60), 60, np.uint8), np.full((60, 60), 60, np.uint8)
    high[20:50, 20:50] = 255
    assert np.array_equal(np.asarray(overlay(low))[0, 0], np.asarray(overlay(high))[0, 0])
    colours = np.asarray(overlay(high)).astype(int)
    assert colours[20, 20].tolist() == [255, 255, 255, 255]
    assert colours[35, 35, 0] > colours[35, 35, 2]
    assert colours[5, 5, 2] > colours[5, 5, 0]
    assert laid_over(Image.new("RGB", (300, 90)), high, (100, 30)).size == (100, 30)
