"""Valid and invalid images, keys and labels; the images that notifications are about."""

import io
import json
import zlib
from contextlib import suppress

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.cv_inspection.ingestion.events import (
    ImageRef,
    LabelEvent,
    inspection_id,
    subject_token,
)
from services.cv_inspection.ingestion.images import InvalidImage, decode
from services.cv_inspection.ingestion.labels import UnknownLabel, read_label
from services.cv_inspection.ingestion.notifications import NotANotification, read_notification
from services.cv_inspection.problem import CLASSES, GOOD
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


@pytest.mark.parametrize(
    ("key", "stem"),
    [
        ("line-a/station-1/lot-1/UPPER_CASE.JPG", "line-a/station-1/lot-1/UPPER_CASE"),
        ("line-a/station-1/lot-1/größe 图片 1.jpg", "line-a/station-1/lot-1/größe 图片 1"),
        ("Linie 1/Station №2/Los (3)/frame+1.2.Png", "Linie 1/Station №2/Los (3)/frame+1.2"),
        ("a/b/c/👍🏽.jpeg", "a/b/c/👍🏽"),
    ],
)
def test_a_key_in_any_language_is_parsed(key, stem):
    assert ImageRef.from_key(key).stem == stem


@pytest.mark.parametrize(
    "bad",
    ["a/b/c.jpg", "../b/c/d.jpg", "a/b/c/d.exe", "a/b/c/d/e.jpg", "a/b/c/.jpg", "a//c/d.jpg",
     "a/./c/d.jpg", "a/.b/c/d.jpg", "a/b/c/d\n.jpg", "a/b/c/d.jpg\n", "a/b/c/\ud800.jpg",
     f"a/b/c/{'x' * 241}.jpg", f"a/b/c/{'图' * 81}.jpg", ""],
)  # fmt: skip
def test_other_keys_are_named(bad):
    with pytest.raises(ValueError, match=r"is not <line>|240 bytes"):
        ImageRef.from_key(bad)


@given(st.text(max_size=30))
def test_any_name_is_one_token_of_a_subject(name):
    token = subject_token(name)
    assert not set(token) & set(" .*>\r\n\t")
    assert token.isascii()


def test_an_inspection_is_identified_by_key_and_content():
    first, second = ImageRef.from_key("a/b/c/1.jpg"), ImageRef.from_key("a/b/c/2.jpg")
    assert inspection_id(first, JPEG) == inspection_id(first, JPEG)
    assert len({inspection_id(p, d) for p in (first, second) for d in (JPEG, b"x")}) == 4


def seaweed(key, kind="create", **entry):
    return orjson.dumps({"event_type": kind, "key": key, "message": {"new_entry": entry}})


def image_keys(data, inbox="inbox"):
    return list(read_notification(data, inbox).keys)


def test_keys_of_seaweed_notifications():
    assert image_keys(seaweed("/buckets/inbox/a/b/c/1.jpg")) == ["a/b/c/1.jpg"]
    assert image_keys(seaweed("/buckets/inbox/a/b", is_directory=True)) == []
    assert image_keys(seaweed("/buckets/results/a/b/c/1.jpg")) == []
    assert image_keys(seaweed("/buckets/inbox/.uploads/x/1.part")) == []
    assert image_keys(seaweed("/buckets/inbox/a/b/c/1.jpg", "delete")) == []


def aws(key, event="ObjectCreated:Put"):
    return {"eventName": event, "s3": {"bucket": {"name": "inbox"}, "object": {"key": key}}}


def test_keys_of_s3_notifications():
    body = [aws("a/b/c/1.jpg"), aws("a/b/c/2.jpg", "ObjectRemoved:Delete"), aws("a/b%2Fc/3+4.jpg")]
    assert image_keys(orjson.dumps({"Records": body})) == ["a/b/c/1.jpg", "a/b/c/3 4.jpg"]


KEY = "line-a/station-1/lot-1/frame+1.jpg"
ENCODED = KEY.replace("+", "%2B")


def topic(body):
    """What SNS sends for a message."""
    return {"Type": "Notification", "MessageId": "0", "Message": orjson.dumps(body).decode()}


EVENTBRIDGE = {
    "detail-type": "Object Created", "source": "aws.s3",
    "detail": {"bucket": {"name": "inbox"}, "object": {"key": KEY}},
}  # fmt: skip
FORMS = {
    "aws": {"Records": [aws(ENCODED)]},
    "minio": {
        "EventName": "s3:ObjectCreated:Put", "Key": f"inbox/{KEY}",
        "Records": [aws(ENCODED, "s3:ObjectCreated:CompleteMultipartUpload")],
    },
    "sns": topic({"Records": [aws(ENCODED)]}),
    "eventbridge": EVENTBRIDGE,
    "eventbridge through sns": topic(EVENTBRIDGE),
    "seaweedfs": {"key": f"/buckets/inbox/{KEY}", "event_type": "create"},
    "with a malformed record": {"Records": [{}, aws(ENCODED), aws(3), {"eventName": 1}]},
    "twice": {"Records": [aws(ENCODED), aws(ENCODED)]},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_notification_is_read(form):
    assert image_keys(orjson.dumps(FORMS[form])) == [KEY]


@pytest.mark.parametrize(
    ("body", "logged"),
    [
        ({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "inbox"}, "test notification"),
        (topic({"Event": "s3:TestEvent", "Bucket": "inbox"}), "test notification"),
        (
            {"Type": "SubscriptionConfirmation", "SubscribeURL": "https://sns.example/confirm"},
            "https://sns.example/confirm",
        ),
    ],
)
def test_other_messages_are_logged_and_not_refused(body, logged, caplog):
    caplog.set_level("INFO")
    found = read_notification(orjson.dumps(body), "inbox")
    assert (found.keys, found.bad) == ((), ())
    assert logged in caplog.text


def test_a_bad_record_spoils_none_beside_it():
    bad = [
        {"eventName": "ObjectCreated:Put", "s3": {}},
        7,
        aws("nowhere.jpg"),
        aws("a/b/c/%FF.jpg"),
    ]
    found = read_notification(orjson.dumps({"Records": [aws(ENCODED), *bad]}), "inbox")
    assert found.keys == (KEY,)
    words = ("no s3.bucket.name", "not an object", "is not <line>", "not URL-encoded")
    assert len(found.bad) == len(words)
    for record, word, given_record in zip(found.bad, words, bad, strict=True):
        assert word in record.reason
        assert orjson.loads(record.record) == given_record


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b"not json", b'{"key": 1}', b'{"Records": []}', b'{"Records": 1}',
        b'{"Type": "Notification", "Message": "hello"}', b'{"Type": "Notification"}', b"[" * 5_000,
    ],
)  # fmt: skip
def test_an_invalid_notification_is_refused(data):
    with pytest.raises(NotANotification, match="not a store's notification"):
        read_notification(data, "inbox")


@pytest.mark.parametrize("message", [None, "x", {"new_entry": None}, {"new_entry": []}])
def test_unknown_fields_of_a_notification_are_ignored(message):
    body = {"key": "/buckets/inbox/a/b/c/1.jpg", "event_type": "create", "message": message}
    assert image_keys(orjson.dumps(body)) == ["a/b/c/1.jpg"]


NAMES = st.sampled_from(
    ["Records", "eventName", "s3", "bucket", "object", "name", "key", "detail", "detail-type",
     "Type", "Message", "event_type", "message", "new_entry", "is_directory"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON.map(str).map(str.encode),
    JSON.map(json.dumps).map(str.encode),
    st.lists(JSON, max_size=3).map(lambda records: json.dumps({"Records": records}).encode()),
    JSON.map(lambda body: json.dumps({"Type": "Notification", "Message": body}).encode()),
)


@settings(max_examples=400)
@given(BODIES)
def test_any_body_is_a_notification_or_a_named_error(data):
    with suppress(NotANotification):
        found = read_notification(data, "inbox")
        assert all(ImageRef.from_key(key) for key in found.keys)
        assert all(bad.reason for bad in found.bad)


@pytest.mark.parametrize(
    "label", ["OK", "ok", "Good", "PASS", "passed", "free", "MT_Free", "No defect"]
)
def test_spellings_of_good_are_good(label):
    assert read_label(label, CLASSES) == GOOD
    event = LabelEvent(inspection_id="0" * 32, label=label)
    assert event.label == GOOD
    assert not event.has_defect


@pytest.mark.parametrize("label", ["missing_thread", "Missing Thread", " MISSING-thread "])
def test_a_class_is_known_by_any_spelling_of_its_name(label):
    assert read_label(label, CLASSES) == "missing_thread"
    assert read_label(label, ("good", "missing thread")) == "missing thread"


@pytest.mark.parametrize("label", ["scrach", "goood", "", "bad"])
def test_an_unknown_label_is_named_with_the_classes(label):
    with pytest.raises(
        UnknownLabel, match="is not one of good, scratch, pit, crack, stain, missing"
    ):
        read_label(label, CLASSES)
