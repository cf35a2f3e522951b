"""Retries until an engine is available again, so that an outage delays work and loses nothing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nats.errors import Error as NatsError
from nats.js.errors import APIError

log = logging.getLogger(__name__)

_RETRY_S = 0.5
_UNAVAILABLE = (OSError, NatsError, APIError)

T = TypeVar("T")


async def retry_forever(
    work: Callable[[], Awaitable[T]], name: str, retry_on: tuple[type[Exception], ...] = ()
) -> T:
    """Call `work` until it succeeds, and return its result.

    Args:
        name: Name of the work in the log.
        retry_on: Exceptions that mean an engine is unavailable, besides OSError and NATS' own.
    """
    while True:
        try:
            return await work()
        except (*_UNAVAILABLE, *retry_on) as error:
            log.info("%s: %s; retrying", name, str(error) or type(error).__name__)
            await asyncio.sleep(_RETRY_S)
