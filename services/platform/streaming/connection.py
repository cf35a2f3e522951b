"""Connections to NATS, and the streams and buckets a process creates where they are missing.

In a cluster, the URL names several servers, and a client goes to another one when its own dies.
What a process creates is kept on as many servers as `WHITEBOARD_NATS_REPLICAS` says; a stream or
bucket that exists stays as it is.
"""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any
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


class _ReplicatedJetStream(JetStreamContext):
    """JetStream whose new streams, and the streams of new buckets, have copies."""

    def __init__(self, client: Client, replicas: int, **options: Any) -> None:
        super().__init__(client, **options)
        self._replicas = replicas

    async def add_stream(
        self, config: api.StreamConfig | None = None, **parameters: Any
    ) -> api.StreamInfo:
        parameters["num_replicas"] = self._replicas
        return await super().add_stream(config, **parameters)


class _Client(Client):
    """A client that knows how many copies a new stream has."""

    def __init__(self, replicas: int) -> None:
        super().__init__()
        self._replicas = replicas

    def jetstream(self, **options: Any) -> JetStreamContext:
        return _ReplicatedJetStream(self, self._replicas, **options)


def open_connection(settings: Settings, name: str) -> tuple[Client, asyncio.Task[None]]:
    """A client, and the task that retries until it is connected.

    A connection that is lost later is restored automatically.
    """

    async def on_error(error: Exception) -> None:
        # What the process's `access` does not declare: its calls only time out.
        refused = "permissions violation" in str(error).lower()
        log.log(
            logging.ERROR if refused else logging.DEBUG,
            "nats: %s",
            str(error) or type(error).__name__,
        )

    async def on_disconnect() -> None:
        if not client.is_closed:  # by us
            log.info("NATS: connection lost")

    async def on_reconnect() -> None:
        log.info("NATS: reconnected")

    client = _Client(settings.nats_replicas)
    servers, credentials = _credentials(settings.nats)
    if user := credentials.get("user"):
        credentials["inbox_prefix"] = inbox_prefix(user)
    connecting = client.connect(
        servers,
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


def _credentials(url: str) -> tuple[list[str], dict[str, str]]:
    """A URL a server, without user and password, and these decoded: the client decodes none.

    >>> _credentials("nats://me:50%25off@host:4222,other:4222")
    (['nats://host:4222', 'nats://other:4222'], {'user': 'me', 'password': '50%off'})
    >>> _credentials("nats://token@host:4222")
    (['nats://token@host:4222'], {})
    """
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    if parts.password is None:
        kept = f"{login}{at}"
        return [parts._replace(netloc=f"{kept}{host}").geturl() for host in hosts.split(",")], {}
    return [parts._replace(netloc=host).geturl() for host in hosts.split(",")], {
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


async def ensure_bucket(js: JetStreamContext, name: str, max_age_s: float = 0.0) -> KeyValue:
    """A key-value bucket, created unless it exists.

    Args:
        max_age_s: Seconds that an entry is kept; 0 for ever. A bucket that exists stays as it is:
            an account that may change a stream could have it copy another.
    """
    try:
        return await js.key_value(name)
    except NotFoundError:
        return await js.create_key_value(bucket=name, ttl=max_age_s or None)
