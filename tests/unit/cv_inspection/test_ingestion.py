"""Valid and invalid images; the images that a store's notifications are about."""

import io
import zlib

import numpy as np
import orjson
import pytest
from PIL import Image

from services.cv_inspection.ingestion.events import ImageRef, inspection_id
from services.cv_inspection.ingestion.images import InvalidImage, decode
from services.cv_inspection.ingestion.notifications import image_keys
from services.cv_inspection.simulator.camera import Camera

JPEG = Camera(1).shot(0).jpeg()


def file(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def bomb(side):
    """A PNG whose header declares a larger image: it must be refused by its size alone."""
    small = file(Image.new("L", (64, 64)))
    header = side.to_bytes(4, "big") * 2 + small[24:29]
    crc = zlib.crc32(b"IHDR" + header).to_bytes(4, "big")
    return small[:16] + header + crc + small[33:]


half = np.full((64, 64), 128, np.uint8)
BAD = {
    "truncated": (JPEG[: len(JPEG) // 2], "can't be decoded"),
    "one pixel": (file(Image.new("L", (1, 1))), "1 x 1 pixels"),
    "100 megapixels": (bomb(10_000), "more pixels than the maximum"),
    "36 megapixels": (bomb(6_000), "6000 x 6000 pixels; the maximum is 25,000,000"),
    "bomb": (bomb(60_000), "more pixels than the maximum"),
    "CMYK": (file(Image.new("CMYK", (64, 64)), "JPEG"), "colours are CMYK"),
    "alpha": (file(Image.fromarray(np.dstack([half] * 4), "RGBA")), "transparent"),
    "HTML": (b"<!doctype html><html></html>", "not a JPEG or PNG"),
    "GIF": (file(Image.new("L", (64, 64)), "GIF"), "not a JPEG or PNG"),
    "empty": (b"", "not a JPEG or PNG"),
    "too many bytes": (b"\xff" * (16 << 20) + b"\xff", "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_image_is_named(name):
    data, word = BAD[name]
    with pytest.raises(InvalidImage, match=word):
        decode(data)


def test_grey_rgb_sixteen_bits_and_opaque_alpha_are_accepted():
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    grey = decode(file(Image.fromarray(ramp)))
    assert grey.mode == "RGB"
    assert np.array_equal(np.asarray(grey)[..., 0], ramp)
    deep = decode(file(Image.fromarray(ramp.astype(np.uint16) << 8)))
    assert np.array_equal(np.asarray(deep), np.asarray(grey))
    opaque = Image.fromarray(np.dstack([ramp, ramp, ramp, np.full_like(ramp, 255)]), "RGBA")
    assert np.array_equal(np.asarray(decode(file(opaque))), np.asarray(grey))


def test_a_key_is_parsed():
    ref = ImageRef.from_key("line-a/station-1/lot-7/0001.jpg")
    assert (ref.line, ref.station, ref.lot, ref.frame) == (
        "line-a", "station-1", "lot-7", "0001",
    )  # fmt: skip
    for bad in ("a/b/c.jpg", "../b/c/d.jpg", "a/b/c/d.exe", "a/b/c/d e.jpg"):
        with pytest.raises(ValueError, match="is not <line>"):
            ImageRef.from_key(bad)


def test_an_inspection_is_identified_by_key_and_content():
    first, second = ImageRef.from_key("a/b/c/1.jpg"), ImageRef.from_key("a/b/c/2.jpg")
    assert inspection_id(first, JPEG) == inspection_id(first, JPEG)
    assert len({inspection_id(p, d) for p in (first, second) for d in (JPEG, b"x")}) == 4


def seaweed(key, kind="create", **entry):
    return orjson.dumps({"event_type": kind, "key": key, "message": {"new_entry": entry}})


def test_keys_of_seaweed_notifications():
    assert image_keys(seaweed("/buckets/inbox/a/b/c/1.jpg"), "inbox") == ["a/b/c/1.jpg"]
    assert image_keys(seaweed("/buckets/inbox/a/b", is_directory=True), "inbox") == []
    assert image_keys(seaweed("/buckets/results/a/b/c/1.jpg"), "inbox") == []
    assert image_keys(seaweed("/buckets/inbox/.uploads/x/1.part"), "inbox") == []
    assert image_keys(seaweed("/buckets/inbox/a/b/c/1.jpg", "delete"), "inbox") == []


def aws(key, event="ObjectCreated:Put"):
    return {"eventName": event, "s3": {"bucket": {"name": "inbox"}, "object": {"key": key}}}


def test_keys_of_s3_notifications():
    body = [aws("a/b/c/1.jpg"), aws("a/b/c/2.jpg", "ObjectRemoved:Delete"), aws("a%2Fb/c/3+4.jpg")]
    keys = image_keys(orjson.dumps({"Records": body}), "inbox")
    assert keys == ["a/b/c/1.jpg", "a/b/c/3 4.jpg"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b"not json", b'{"key": 1}', b'{"Records": []}', b'{"Records": [1]}',
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": null}]}',
    ],
)  # fmt: skip
def test_an_invalid_notification_is_refused(data):
    with pytest.raises(ValueError, match="not a store's notification"):
        image_keys(data, "inbox")


@pytest.mark.parametrize("message", [None, "x", {"new_entry": None}, {"new_entry": []}])
def test_unknown_fields_of_a_notification_are_ignored(message):
    body = {"key": "/buckets/inbox/a/b/c/1.jpg", "event_type": "create", "message": message}
    assert image_keys(orjson.dumps(body), "inbox") == ["a/b/c/1.jpg"]
