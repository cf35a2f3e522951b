"""Counting what a fault did: NATS, once the lake has what its streams hold."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from services.platform.settings import Settings
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import wait_until_acknowledged

# What came in at the end is on its way for so long: an event's way, a retry of a publisher.
_ON_ITS_WAY = timedelta(seconds=3)
FLUSH_S = 60.0


@asynccontextmanager
async def settled(
    config: Settings, until: datetime, durables: Iterable[tuple[str, str]]
) -> AsyncIterator[JetStreamContext]:
    """JetStream, once consumers have acknowledged what their streams hold.

    Args:
        until: End of the time that is counted.
        durables: Stream and name of the lake writer's consumers.

    Raises:
        ConnectionError: NATS does not answer.
        ValueError: the lake is still behind after a minute.
    """
    nc = await connect(config, "damage")
    try:
        await asyncio.sleep(max((until + _ON_ITS_WAY - datetime.now(UTC)).total_seconds(), 0.0))
        if not await wait_until_acknowledged(nc.jetstream(), durables, FLUSH_S):
            raise ValueError(
                "the lake is behind its streams: `whiteboard status`, then count again"
            )
        yield nc.jetstream()
    except (NatsError, TimeoutError) as error:
        raise ConnectionError("NATS does not answer: `whiteboard status`") from error
    finally:
        await nc.close()
