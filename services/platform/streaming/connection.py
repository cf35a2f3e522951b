"""Connections to NATS, and the streams and buckets a process creates where they are missing."""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

from services.platform.access import inbox_prefix
from services.platform.runtime.tasks import cancel_tasks
from services.platform.settings import Settings

log = logging.getLogger(__name__)

DUPLICATE_WINDOW = timedelta(minutes=2)
_RECONNECT_S = 0.5


def open_connection(settings: Settings, name: str) -> tuple[Client, asyncio.Task[None]]:
    """A client, and the task that retries until it is connected.

    A connection that is lost later is restored automatically.
    """

    async def on_error(error: Exception) -> None:
        # What the process's `access` does not declare: its calls only time out.
        refused = "permissions violation" in str(error).lower()
        log.log(
            logging.ERROR if refused else logging.DEBUG, "nats: %s", error or type(error).__name__
        )

    async def on_disconnect() -> None:
        if not client.is_closed:  # by us
            log.info("NATS: connection lost")

    async def on_reconnect() -> None:
        log.info("NATS: reconnected")

    client = Client()
    url, credentials = _credentials(settings.nats)
    if user := credentials.get("user"):
        credentials["inbox_prefix"] = inbox_prefix(user)
    connecting = client.connect(
        url,
        **credentials,
        name=name,
        max_reconnect_attempts=-1,
        reconnect_time_wait=_RECONNECT_S,
        ping_interval=5,
        max_outstanding_pings=2,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
    )
    return client, asyncio.create_task(connecting)


def _credentials(url: str) -> tuple[str, dict[str, str]]:
    """A URL without user and password, and these decoded: the client does not decode them.

    >>> _credentials("nats://me:50%25off@host:4222")
    ('nats://host:4222', {'user': 'me', 'password': '50%off'})
    >>> _credentials("nats://token@host:4222")
    ('nats://token@host:4222', {})
    """
    parts = urlsplit(url)
    if parts.password is None:
        return url, {}
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return plain.geturl(), {
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password),
    }


async def connect(settings: Settings, name: str, timeout_s: float = 5.0) -> Client:
    """Connect to NATS.

    Raises:
        ConnectionError: no server answered within `timeout_s` seconds.
    """
    client, connecting = open_connection(settings, name)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(connecting)
    except (TimeoutError, OSError, NatsError) as error:
        where = settings.nats.rpartition("@")[2]
        raise ConnectionError(f"no NATS at {where}: is the stack up? `whiteboard up`") from error
    finally:
        await cancel_tasks(connecting)
    return client


async def ensure_stream(
    js: JetStreamContext, name: str, subjects: list[str], first_seq: int = 1
) -> None:
    """Create a stream unless it exists. Its first message gets sequence `first_seq`.

    Older streams are updated to allow atomic batches.
    """
    try:
        config = (await js.stream_info(name)).config
    except NotFoundError:
        config = api.StreamConfig(
            name=name,
            subjects=subjects,
            first_seq=first_seq,
            storage=api.StorageType.FILE,
            duplicate_window=DUPLICATE_WINDOW.total_seconds(),
            max_bytes=4 << 30,
            allow_atomic=True,
        )
        await js.add_stream(config)
    else:
        if not config.allow_atomic:
            await js.update_stream(replace(config, allow_atomic=True))


async def ensure_bucket(js: JetStreamContext, name: str) -> KeyValue:
    """A key-value bucket, created unless it exists."""
    try:
        return await js.key_value(name)
    except NotFoundError:
        return await js.create_key_value(bucket=name)
