"""Fills a scorer's cache from the online store at its start, so that it is warm before an outage.

Until then it would hold the rows of the requests it has answered, and an outage that comes early
would find few of them. A store of more entities than the cache holds fills it with any of them;
those that are read replace them in time.
"""

import asyncio
import logging

from redis.exceptions import RedisError

from features.online.reader import OnlineReader
from services.fraud.serving.row_cache import RowCache

log = logging.getLogger(__name__)

# A page takes .7 ms of the event loop (2026-11-28); at this pace 60,000 entities take 15 s or more.
_PAGE, _PAUSE_S = 200, 0.05
_RETRY_S = 10.0


async def preload(cache: RowCache, reader: OnlineReader) -> None:
    """Read the stored rows, a page at a time, until all are read or the cache is full.

    Where Redis does not answer, it begins again after `_RETRY_S`.
    """
    while True:
        try:
            async for rows in reader.scan(_PAGE):
                if not cache.add_older(rows):
                    break
                await asyncio.sleep(_PAUSE_S)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("the cache of rows is not filled yet, Redis does not answer: %s", error)
            await asyncio.sleep(_RETRY_S)
        else:
            log.info("%d rows are known for an outage of Redis", len(cache))
            return
