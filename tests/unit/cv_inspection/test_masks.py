"""Masks as annotation tools write them: the same mask from each, or what was found."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from services.cv_inspection.retraining.folders import read_folder
from services.cv_inspection.retraining.masks import InvalidMask, read_mask
from tests.unit.cv_inspection.image_files import encoded, part
from tests.unit.cv_inspection.vision_fixtures import quiet

TRUTH = np.zeros((128, 128), np.uint8)
TRUTH[:64, :64] = 1


def palette(values, colours):
    image = Image.fromarray(values).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([c for colour in colours for c in colour])
    return image


def with_alpha(colour, alpha):
    return Image.fromarray(np.dstack([colour, alpha]))


def rgb(values, colours):
    return Image.fromarray(np.array(colours, np.uint8)[values])


WHITE = np.full((128, 128, 3), 255, np.uint8)
TWO_CLASSES = TRUTH + (np.arange(128) < 32).astype(np.uint8) * TRUTH
NONE = np.zeros_like(TRUTH)
BLACK_AND_WHITE = np.repeat(TRUTH[..., None] * 255, 3, axis=2)
IGNORED = np.where(TRUTH > 0, TWO_CLASSES, 255 * (np.arange(128) > 120)).astype(np.uint8)
SOFT = Image.fromarray(TRUTH * 255).filter(ImageFilter.GaussianBlur(1))
SAME = {
    "0 and 1": TRUTH,
    "0 and 255": TRUTH * 255,
    "one class number": TRUTH * 3,
    "class numbers": TWO_CLASSES,
    "spread class numbers": TWO_CLASSES * 60,
    "16 bits": TRUTH.astype(np.uint16) * 65_535,
    "one bit": Image.fromarray(TRUTH.astype(bool)),
    "palette": palette(TRUTH, [(0, 0, 0), (128, 0, 0)]),
    "palette of two classes": palette(TWO_CLASSES, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]),
    "palette, black last": palette(1 - TRUTH, [(255, 255, 255), (0, 0, 0)]),
    "colours": rgb(TWO_CLASSES, [(0, 0, 0), (128, 0, 0), (0, 64, 0)]),
    "grey in RGB": Image.fromarray(TRUTH * 255).convert("RGB"),
    "white with alpha": with_alpha(WHITE, TRUTH * 255),
    "red on transparent black": with_alpha(np.dstack([TRUTH * 255, NONE, NONE]), TRUTH * 255),
    "opaque alpha": with_alpha(BLACK_AND_WHITE, NONE + 255),
    "soft edges": SOFT,
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_quarter_is_defect_however_it_is_written(name):
    mask = read_mask(encoded(SAME[name]), (128, 128))
    assert mask.mode == "L"
    # A soft corner loses a pixel.
    assert ((np.asarray(mask) > 127) == (TRUTH > 0)).sum() >= TRUTH.size - (name == "soft edges")


def test_a_jpeg_of_a_mask_is_read():
    mask = read_mask(encoded(TRUTH * 255, "JPEG", quality=80), (128, 128))
    assert ((np.asarray(mask) > 127) == (TRUTH > 0)).mean() > 0.99


def test_a_smaller_mask_of_the_same_shape_is_read():
    assert read_mask(encoded(TRUTH), (1_280, 1_270)).size == (128, 128)


def test_an_empty_and_a_full_mask_are_read():
    for value, share in ((0, 0.0), (1, 1.0), (255, 1.0)):
        mask = read_mask(encoded(np.full((64, 64), value, np.uint8)), (64, 64))
        assert (np.asarray(mask) > 0).mean() == share


REFUSED = {
    "the image itself": (part(128), "values .* and .* more"),
    "a colour image": (np.dstack([part(128, seed) for seed in range(3)]), "is it the image"),
    "class numbers and 255": (IGNORED, "values 0, 1, 2, 255"),
    "no background": (TRUTH + 1, "values 1, 2"),
    "no black": (palette(TRUTH, [(9, 9, 9), (128, 0, 0)]), "no black"),
    "wholly transparent": (with_alpha(WHITE, NONE), "wholly transparent"),
    "alpha against colours": (with_alpha(BLACK_AND_WHITE, (1 - TRUTH) * 255), "differ"),
    "one grey": (NONE + 7, "values 7"),
    "another shape": (TRUTH[:64].copy(), "128 x 64 pixels for an image of 128 x 128"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mask_that_may_mean_two_things_is_refused(name):
    image, word = REFUSED[name]
    with pytest.raises(InvalidMask, match=word):
        read_mask(encoded(image), (128, 128))


MASKS = [encoded(image) for image in SAME.values()]


@st.composite
def damaged(draw):
    data = bytearray(draw(st.sampled_from(MASKS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 20))] = draw(st.binary(max_size=20))
    return bytes(data)


SMALL = st.integers(0, 255)


@st.composite
def drawn(draw):
    """A small mask of few or many values, in any mode."""
    values = draw(st.lists(SMALL, min_size=1, max_size=6))
    pixels = np.random.default_rng(draw(SMALL)).choice(values, (40, 40, 4)).astype(np.uint8)
    mode = draw(st.sampled_from(["L", "RGB", "RGBA", "LA", "P", "1"]))
    return encoded(Image.fromarray(pixels, "RGBA").convert(mode))


@settings(max_examples=300)
@example(b"")
@given(st.one_of(st.binary(max_size=100), damaged(), drawn()))
def test_any_bytes_are_a_mask_or_a_named_error(data):
    size = (40, 40) if len(data) % 2 else (128, 128)
    with suppress(InvalidMask):
        assert read_mask(data, size).mode == "L"


def write(folder, files):
    for name, image in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    return folder


# One image in two classes would be an error of its own.
DATA = {
    f"{kind}/{n}.png": part(128, seed + n)
    for kind, seed in (("OK", 0), ("Dent", 2))
    for n in range(2)
}


def test_masks_of_a_folder_are_found_in_any_case(tmp_path):
    masks = {"Dent/0_MASK.PNG": TRUTH, "Dent/masks/1.PNG": TRUTH * 255}
    data = read_folder(write(tmp_path, {**DATA, **masks, "Dent/.trash/x.png": TRUTH}), 32, quiet)
    assert data.classes == ("good", "Dent")
    assert data.images.mask.mean(axis=(1, 2)).tolist() == [0.25, 0.25, 0, 0]


@pytest.mark.parametrize(
    ("name", "image", "word"),
    [
        ("Dent/0_mask.png", part(128), r"0_mask\.png: mask: values"),
        ("Dent/0_mask.png", TRUTH[:64].copy(), r"0_mask\.png: mask of 128 x 64"),
        ("Dent/7_mask.png", TRUTH, r"7_mask\.png: a mask without its image"),
        ("Dent/masks/7.png", TRUTH, r"7\.png: a mask without its image"),
        ("OK/0_mask.png", TRUTH, r"0_mask\.png: it outlines a defect of a good part"),
        ("Dent/deeper/1.png", TRUTH, "deeper: a class folder has"),
        ("Dent/1.tif", TRUTH, r"1\.tif: a class folder has"),
    ],
)
def test_a_file_that_would_be_left_out_is_named(tmp_path, name, image, word):
    with pytest.raises(ValueError, match=word):
        read_folder(write(tmp_path, {**DATA, name: image}), 32, quiet)


def test_two_masks_of_one_image_are_named(tmp_path):
    both = {"Dent/0_mask.png": TRUTH, "Dent/masks/0.png": TRUTH}
    with pytest.raises(ValueError, match="are masks of one image"):
        read_folder(write(tmp_path, {**DATA, **both}), 32, quiet)
