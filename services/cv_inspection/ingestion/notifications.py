"""The store's notifications: which images they are about, and their events on the stream.

Forms that are read: S3 event notifications (AWS, MinIO, Ceph), the same through an SNS topic, S3
events of EventBridge, and SeaweedFS's own.
Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html,
https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import orjson
from nats.aio.client import Client

from services.cv_inspection.ingestion.events import DEAD, ImageRef, publish_image
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

NAME = "notifications"
_SEAWEED_PUTS = ("create", "update", "rename")
# Messages that a topic sends about itself.
_TOPIC_MESSAGES = ("SubscriptionConfirmation", "UnsubscribeConfirmation")
# An envelope in an envelope: EventBridge through SNS.
_MAX_DEPTH = 3
# NATS takes 1 MiB with its headers.
_MAX_DEAD_BYTES = 512 << 10


class NotANotification(ValueError):
    """A body in none of the known forms; the message says what was found."""


@dataclass(frozen=True)
class BadRecord:
    """A record that is not published.

    Attributes:
        reason: What is wrong with it.
        record: The record as JSON.
    """

    reason: str
    record: bytes


@dataclass(frozen=True)
class Notification:
    """What a notification is about.

    Attributes:
        keys: Keys of new images below the inbox, in order, without repetition.
        bad: Records that name no image.
        ignored: Records about something else: other buckets, deleted objects, folders, tests.
    """

    keys: tuple[str, ...]
    bad: tuple[BadRecord, ...]
    ignored: int


@dataclass(frozen=True)
class _Put:
    """A new object of a bucket."""

    bucket: str
    key: str


def read_notification(data: bytes, inbox: str) -> Notification:
    """Read a notification of any known form.

    >>> body = b'{"key": "/buckets/inbox/a/b/c/1.jpg", "event_type": "create"}'
    >>> read_notification(body, "inbox").keys
    ('a/b/c/1.jpg',)
    >>> read_notification(body.replace(b"create", b"delete"), "inbox").keys
    ()

    Raises:
        NotANotification: it has none of the known forms.
    """
    keys, bad, ignored = [], [], 0
    for record in _records(_json(data)):
        try:
            put = _put(record)
            if put is None or put.bucket != inbox or _is_no_image(put.key):
                ignored += 1
                continue
            ImageRef.from_key(put.key)
            keys.append(put.key)
        except ValueError as error:
            bad.append(BadRecord(str(error), orjson.dumps(record)))
    return Notification(tuple(dict.fromkeys(keys)), tuple(bad), ignored)


async def publish_images(nc: Client, notification: bytes, inbox: str) -> tuple[int, list[str]]:
    """Publish an event for each image of a notification; bad records become dead letters.

    Returns:
        How many events were published, and why the other records were refused.

    Raises:
        NotANotification: it has none of the known forms.
        nats.errors.Error, TimeoutError: the stream did not acknowledge.
    """
    found = read_notification(notification, inbox)
    for key in found.keys:
        # A repeated notification has the same identity; an overwritten image has another.
        await publish_image(nc, key, ImageRef.from_key(key).line, _identity(notification, key))
    for number, bad in enumerate(found.bad):
        log.warning("notification refused: %s", bad.reason)
        headers = {
            "Nats-Msg-Id": _identity(notification, f"bad record {number}"),
            "Reason": " ".join(bad.reason.split())[:500],
        }
        record = bad.record[:_MAX_DEAD_BYTES]
        await nc.jetstream().publish(f"{DEAD}.events", record, headers=headers)
    if not found.keys and not found.bad:
        log.info("notification about no new image: %r", notification[:200])
    EVENTS.labels(NAME, "published").inc(len(found.keys))
    EVENTS.labels(NAME, "dead").inc(len(found.bad))
    EVENTS.labels(NAME, "ignored").inc(found.ignored)
    return len(found.keys), [bad.reason for bad in found.bad]


def _identity(notification: bytes, part: str) -> str:
    return hashlib.sha256(notification + part.encode(errors="replace")).hexdigest()[:32]


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NotANotification(f"not a store's notification: {error}") from None


def _records(body: Any, depth: int = 0) -> Iterator[Any]:
    """The records of a notification, each of one form that `_put` reads; none of a test."""
    if not isinstance(body, dict) or depth > _MAX_DEPTH:
        raise NotANotification(f"not a store's notification: {_excerpt(body)}")
    records = body.get("Records")
    if isinstance(records, list) and records:
        yield from records
    elif body.get("Type") in _TOPIC_MESSAGES:
        # Following the address would let any sender make this service call it.
        log.warning(
            "a topic asks for a confirmation; open its address once: %s",
            str(body.get("SubscribeURL"))[:500],
        )
    elif body.get("Type") == "Notification" and isinstance(body.get("Message"), str):
        yield from _records(_json(body["Message"].encode(errors="replace")), depth + 1)
    elif body.get("Event") == "s3:TestEvent":
        log.info("a test notification of bucket %.200r", body.get("Bucket"))
    elif "detail-type" in body or isinstance(body.get("key"), str):
        yield body
    else:
        raise NotANotification(f"not a store's notification: {_excerpt(body)}")


def _put(record: Any) -> _Put | None:
    """The object that a record says is new; None for a record about something else.

    Raises:
        ValueError: it is malformed; the message names the field.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a record is not an object: {_excerpt(record)}")
    if "detail-type" in record:
        return _eventbridge(record)
    if "eventName" not in record and isinstance(record.get("key"), str):
        return _seaweed(record)
    # MinIO writes s3:ObjectCreated:Put, the others leave out the prefix.
    if not _text(record, "eventName").removeprefix("s3:").startswith("ObjectCreated:"):
        return None
    return _Put(
        _text(record, "s3", "bucket", "name"),
        _unquoted(_text(record, "s3", "object", "key")),
    )


def _eventbridge(event: dict[str, Any]) -> _Put | None:
    """An S3 event of EventBridge; its key is not URL-encoded."""
    if event["detail-type"] != "Object Created":
        return None
    return _Put(_text(event, "detail", "bucket", "name"), _text(event, "detail", "object", "key"))


def _seaweed(event: dict[str, Any]) -> _Put | None:
    """SeaweedFS's own form: its key is `/buckets/<bucket>/<key>`. Folders cause events, too."""
    if event.get("event_type") not in _SEAWEED_PUTS or _is_folder(event.get("message")):
        return None
    root, _, path = event["key"].removeprefix("/").partition("/")
    bucket, _, key = path.partition("/")
    return _Put(bucket, key) if root == "buckets" else None


def _is_folder(message: Any) -> bool:
    entry = message.get("new_entry") if isinstance(message, dict) else None
    return isinstance(entry, dict) and entry.get("is_directory") is True


def _is_no_image(key: str) -> bool:
    """Whether it is a folder, or a part of an unfinished upload, in a hidden folder."""
    return key.startswith(".") or key.endswith("/")


def _text(record: dict[str, Any], *path: str) -> str:
    value: Any = record
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise ValueError(f"a record has no {'.'.join(path)}: {_excerpt(record)}")
    return value


def _unquoted(key: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"key {key[:120]!r} is not URL-encoded UTF-8") from None


def _excerpt(value: Any) -> str:
    return orjson.dumps(value)[:120].decode(errors="replace")
