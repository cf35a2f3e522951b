"""Masks, run lengths and boxes lie right on images of any size: 1:1, 1:2.5, 5:1, 12 megapixels."""

import io
from datetime import UTC, datetime

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from services.cv_inspection.features.image import height_width, parse_size
from services.cv_inspection.features.labelled_images import ImageArrays, NoOutline
from services.cv_inspection.features.mask import boxes, run_lengths
from services.cv_inspection.features.tiling import merge_masks, tile_boxes
from services.cv_inspection.ingestion.events import ImageRef
from services.cv_inspection.model import ImageModel
from services.cv_inspection.serving.inspect import inspect
from services.platform.models.onnx import write_card
from tests.unit.cv_inspection.image_files import encoded
from tests.unit.cv_inspection.vision_fixtures import cv_card

REF = ImageRef.from_key("a/b/c/1.png")
AT = datetime(2026, 1, 1, tzinfo=UTC)
HEIGHT, WIDTH = 64, 96
SIZES = {"1:1": (256, 256), "1:2.5": (200, 500), "5:1": (1000, 200), "12 MP": (4000, 3000)}


def dark_is_defect():
    """A file whose mask is positive where the red channel is below 128, as is P(defect)."""
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["values"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Slice", ["channels", "zero", "one", "axis"], ["red"]),
        helper.make_node("Sub", ["half", "red"], ["mask"]),
        helper.make_node("ReduceMax", ["mask"], ["darkest"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sigmoid", ["darkest"], ["bad"]),
        helper.make_node("Sub", ["unit", "bad"], ["good"]),
        helper.make_node("Unsqueeze", ["bad", "axis"], ["bad_column"]),
        helper.make_node("Unsqueeze", ["good", "axis"], ["good_column"]),
        helper.make_node("Concat", ["good_column", "bad_column"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [128.0]),
        helper.make_tensor("unit", TensorProto.FLOAT, [], [1.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "dark",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", HEIGHT, WIDTH, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 1, HEIGHT, WIDTH]),
        ],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def model():
    card = cv_card(classes=("good", "dark"), limits={"max_reduction": 4.0})
    return ImageModel(write_card(dark_is_defect(), card))


@pytest.mark.parametrize("name", SIZES)
def test_mask_run_lengths_and_boxes_are_in_the_images_own_pixels(model, name):
    height, width = SIZES[name]
    pixels = np.full((height, width), 200, np.uint8)
    truth = np.zeros((height, width), bool)
    # A spot that the input sees at the largest reduction, once in a corner and once off centre.
    side = 16
    for top, left in ((2 * side, side), (height * 2 // 3, width * 3 // 5)):
        truth[top : top + side, left : left + side] = True
    pixels[truth] = 20
    found = inspect(model, encoded(pixels), REF, AT)
    assert found.mask.shape == (height, width)
    assert (found.mask & truth).sum() / (found.mask | truth).sum() > 0.75
    assert len(found.boxes) == 2
    for box, (top, left) in zip(
        sorted(found.boxes, key=lambda b: b[1]),
        ((2 * side, side), (height * 2 // 3, width * 3 // 5)),
        strict=True,
    ):
        assert np.abs(np.subtract(box, (left, top, left + side, top + side))).max() <= 4
    lengths = run_lengths(found.mask)
    restored = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    assert np.array_equal(restored, found.mask)
    png = np.asarray(Image.open(io.BytesIO(found.mask_png)))
    assert np.array_equal(png > 0, found.mask)
    assert found.event.defect > 0.99
    assert found.event.defect_share == pytest.approx(found.mask.mean())


def test_a_large_image_loses_its_defect_without_tiles(model):
    pixels = np.full((3000, 4000), 200, np.uint8)
    pixels[1500:1508, 1500:1508] = 20
    whole = ImageModel(write_card(dark_is_defect(), cv_card(classes=("good", "dark"))))
    assert inspect(model, encoded(pixels), REF, AT).event.decision == "reject"
    assert inspect(whole, encoded(pixels), REF, AT).event.decision == "pass"


def test_shadow_mode_scores_as_serving(model):
    """Both cut alike, whatever size the image has."""
    pixels = np.full((700, 900, 3), 200, np.uint8)
    pixels[500:510, 600:610] = 20
    served = inspect(model, encoded(pixels), REF, AT).event.defect
    assert model.score(pixels[None])[0] == pytest.approx(served, abs=1e-6)


@pytest.mark.parametrize(("width", "height"), [(31, 5000), (4001, 2999), (385, 257), (256, 256)])
def test_tiles_cover_the_image_and_overlap(width, height):
    seen = np.zeros((height, width), int)
    tiles = tile_boxes(width, height, (64, 96), 4.0)
    for left, top, right, bottom in tiles:
        assert right - left <= 96 * 4
        assert bottom - top <= 64 * 4
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    assert len({(r - x, b - y) for x, y, r, b in tiles}) == 1
    assert len(tiles) == 1 or seen.max() > 1


def test_masks_are_merged_where_any_tile_says_defect():
    logits = np.full((2, 4, 4), -1.0, np.float32)
    logits[0, :, 3] = 1.0
    merged = merge_masks(logits, [(0, 0, 4, 4), (3, 0, 7, 4)], 7, 4)
    assert merged.any(axis=0).tolist() == [False, False, False, True, False, False, False]


def test_boxes_agree_with_scipy():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    for share in (0.05, 0.2, 0.4):
        mask = rng.random((12, 17)) < share
        labelled, _ = ndimage.label(mask, np.ones((3, 3)))
        slices = ndimage.find_objects(labelled)
        expected = {(x.start, y.start, x.stop, y.stop) for y, x in slices}
        assert set(boxes(mask)) == expected


def test_tiles_of_a_labelled_image_get_the_label_where_their_mask_is():
    arrays = ImageArrays((64, 96), 4.0)
    mask = Image.new("L", (1000, 256))
    mask.paste(255, (900, 100, 950, 150))
    arrays.add(Image.new("RGB", (1000, 256)), mask, 2, 7)
    arrays.add(Image.new("RGB", (96, 64)), None, 1, 8)
    images = arrays.labelled()
    assert images.label.tolist() == [0, 0, 0, 2, 1][-len(images) :]
    assert images.source.tolist() == [0] * (len(images) - 1) + [1]
    score, whole = images.by_image(np.linspace(0.9, 0.1, len(images)))
    assert whole.label.tolist() == [2, 1]
    assert score.tolist() == pytest.approx([0.9, 0.1])
    with pytest.raises(NoOutline, match="without a mask: the image is cut into"):
        arrays.add(Image.new("RGB", (1000, 256)), None, 2, 7)


def test_an_input_says_its_height_and_width():
    assert parse_size([192, 480]) == height_width((192, 480)) == (192, 480)
    for wrong in (100, [192], [192, 480, 3], "128"):
        with pytest.raises(ValueError, match="size"):
            parse_size(wrong)


def test_a_defect_of_a_few_pixels_is_not_lost_in_tiles():
    mask = Image.new("L", (1_600, 1_200))
    mask.paste(255, (503, 503, 505, 505))
    arrays = ImageArrays(256, 4.0)
    arrays.add(Image.new("RGB", mask.size), mask, 2, 0)
    label = arrays.labelled().label
    assert len(label) > 1
    assert set(label) == {0, 2}
