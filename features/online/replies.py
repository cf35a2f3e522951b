"""What Redis answered for many rows: those that were read, and why the others were not."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from hiredis import ReplyError
from prometheus_client import Counter
from redis.exceptions import ResponseError

from features.online.layout import RowLayout
from services.platform.types import Floats

# By state name, the Redis keys of its K entities.
RowKeys = dict[str, list[bytes]]

ROW_ERRORS = Counter(
    "online_row_errors_total", "Rows of the online store that were not read or written", ["reason"]
)

_WRONG_TYPE = "WRONGTYPE"


def count_row_error(error: Exception) -> None:
    """Count a row that was not read or written, by why: WRONGTYPE, OOM, MOVED, timeout, away."""
    if isinstance(error, ReplyError | ResponseError):
        reason = str(error).partition(" ")[0].lower()
    else:
        reason = "timeout" if isinstance(error, TimeoutError) else "away"
    ROW_ERRORS.labels(reason).inc()


def is_wrong_type(reply: Any) -> bool:
    """Whether a reply says that a key holds no row but a value of another type."""
    return isinstance(reply, Exception) and str(reply).startswith(_WRONG_TYPE)


def decode_all(
    layouts: Mapping[str, RowLayout], row_keys: RowKeys, replies: Sequence[Any]
) -> dict[str, Floats]:
    """By state name, the rows (K, width) of replies in the order of the keys.

    NaN where the reply is an exception, which is counted.
    """
    found = iter(replies)
    rows = {}
    for name, keys in row_keys.items():
        raws = list(islice(found, len(keys)))
        unread = [at for at, raw in enumerate(raws) if isinstance(raw, Exception)]
        for at in unread:
            count_row_error(raws[at])
            raws[at] = None
        rows[name] = layouts[name].decode(raws)
        if unread:
            rows[name] = rows[name].copy()
            rows[name][unread] = np.nan
    return rows
