"""The store's notifications: which images they are about, and their events on the stream."""

import hashlib
import logging
from typing import Annotated
from urllib.parse import unquote_plus

from nats.aio.client import Client
from pydantic import AliasPath, BaseModel, Field, TypeAdapter, ValidationError

from services.cv_inspection.ingestion.events import DEAD, ImageRef, publish_image
from services.platform.streaming.messages import validation_message

log = logging.getLogger(__name__)


class SeaweedNotification(BaseModel):
    """SeaweedFS's own notification; `key` is `/buckets/<bucket>/<key>`."""

    key: str
    event_type: str = ""
    # Folders cause notifications, too.
    is_folder: Annotated[
        bool, Field(validation_alias=AliasPath("message", "new_entry", "is_directory"))
    ] = False


class S3Record(BaseModel):
    """One object of an S3 event notification, its key URL-encoded."""

    event: Annotated[str, Field(validation_alias="eventName")]
    bucket: Annotated[str, Field(validation_alias=AliasPath("s3", "bucket", "name"))]
    key: Annotated[str, Field(validation_alias=AliasPath("s3", "object", "key"))]


class S3Notification(BaseModel):
    """An S3 event notification.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """

    records: Annotated[list[S3Record], Field(validation_alias="Records", min_length=1)]


_NOTIFICATION: TypeAdapter[SeaweedNotification | S3Notification] = TypeAdapter(
    SeaweedNotification | S3Notification
)


def image_keys(notification: bytes, inbox: str) -> list[str]:
    """Keys below bucket `inbox` that were put, by a store's notification; empty if none were.

    >>> image_keys(b'{"key": "/buckets/inbox/a/b/c/1.jpg", "event_type": "create"}', "inbox")
    ['a/b/c/1.jpg']
    >>> image_keys(b'{"key": "/buckets/inbox/a/b/c/1.jpg", "event_type": "delete"}', "inbox")
    []

    Raises:
        ValueError: it is not a notification.
    """
    try:
        parsed = _NOTIFICATION.validate_json(notification)
    except ValidationError as error:
        raise ValueError(f"not a store's notification: {validation_message(error)}") from None
    if isinstance(parsed, SeaweedNotification):
        put = parsed.event_type in ("create", "update", "rename") and not parsed.is_folder
        paths = [parsed.key] if put else []
    else:
        created = [r for r in parsed.records if r.event.startswith("ObjectCreated")]
        paths = [f"/buckets/{r.bucket}/{unquote_plus(r.key)}" for r in created]
    prefix = f"/buckets/{inbox}/"
    keys = [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]
    # Parts of an unfinished upload lie in a hidden folder of the store.
    return [key for key in keys if not key.startswith(".")]


async def publish_images(nc: Client, notification: bytes, inbox: str) -> tuple[int, list[str]]:
    """Publish an event for each image of a notification; invalid keys become dead letters.

    Returns:
        How many events were published, and why the other keys were refused.

    Raises:
        ValueError: it is not a notification.
        nats.errors.Error, TimeoutError: the stream did not acknowledge.
    """
    published, refused = 0, []
    for key in image_keys(notification, inbox):
        # A repeated notification has the same identity; an overwritten image has another.
        identity = hashlib.sha256(notification + key.encode()).hexdigest()[:32]
        try:
            line = ImageRef.from_key(key).line
        except ValueError as error:
            log.warning("%s", error)
            headers = {"Nats-Msg-Id": identity, "Reason": str(error)[:500]}
            await nc.jetstream().publish(f"{DEAD}.events", notification, headers=headers)
            refused.append(str(error))
            continue
        await publish_image(nc, key, line, identity)
        published += 1
    return published, refused
