"""Streams that a test deletes and makes again."""

import asyncio
from contextlib import suppress

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from services.platform.settings import Settings

TIMEOUT_S = 30.0


async def delete_stream(config: Settings, js: JetStreamContext, name: str) -> None:
    """Delete a stream if it exists, and wait until the server has removed its files.

    nats-server answers a deletion, renames the stream's directory to `.NAME` and removes that in
    the background. A second deletion before the end finds that name taken and removes `NAME`
    itself in the background: a stream made at that time fails ("error creating store for
    stream") or has the old messages.
    """
    with suppress(NotFoundError):
        await js.delete_stream(name)
    async with asyncio.timeout(TIMEOUT_S):
        while any((config.home / "nats").glob(f"jetstream/*/streams/.{name}")):
            await asyncio.sleep(0.005)


async def delete_streams(config: Settings, js: JetStreamContext) -> None:
    """Delete every stream."""
    for stream in await js.streams_info():
        await delete_stream(config, js, str(stream.config.name))
