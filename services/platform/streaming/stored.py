"""Messages that a stream keeps: append-only histories, the newest messages, and those of a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime

from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError


async def ensure_history(js: JetStreamContext, name: str, subjects: list[str]) -> int:
    """Create a history unless it exists; nothing can be deleted from it.

    Returns:
        Its last sequence, 0 if it is new.
    """
    try:
        return (await js.stream_info(name)).state.last_seq
    except NotFoundError:
        await js.add_stream(
            api.StreamConfig(
                name=name,
                subjects=subjects,
                storage=api.StorageType.FILE,
                deny_delete=True,
                deny_purge=True,
            )
        )
        return 0


async def history(
    js: JetStreamContext, name: str, subject: str = ">"
) -> AsyncIterator[tuple[int, api.RawStreamMsg]]:
    """Sequence and message of each row of a history, oldest first; none before it exists."""
    seq = 1
    with suppress(NotFoundError):
        while True:
            message = await js.get_msg(name, seq=seq, next=True, subject=subject)
            assert message.seq is not None
            yield message.seq, message
            seq = message.seq + 1


async def bucket_entries(js: JetStreamContext, bucket: str, key: str = ">") -> AsyncIterator[bytes]:
    """The values a key-value bucket keeps, oldest first; none before it exists.

    Each is asked for by itself: nats-py's `keys` and `history` miss all of them where the server is
    slow to name the first.
    """
    async for _, message in history(js, f"KV_{bucket}", f"$KV.{bucket}.{key}"):
        if not (message.headers or {}).get("KV-Operation"):
            yield message.data or b""


async def newest_messages(
    js: JetStreamContext, stream: str, count: int
) -> list[tuple[int, api.RawStreamMsg]]:
    """Sequence and message of the newest `count` messages of a stream, newest first.

    Raises:
        nats.errors.Error, TimeoutError: NATS did not answer.
    """
    state = (await js.stream_info(stream)).state
    first = max(state.first_seq, state.last_seq - count + 1, 1)
    seqs = range(state.last_seq, first - 1, -1)
    messages = await asyncio.gather(*(js.get_msg(stream, seq) for seq in seqs))
    return list(zip(seqs, messages, strict=True))


async def stored_between(
    js: JetStreamContext, stream: str, since: datetime, until: datetime
) -> tuple[int, int]:
    """Sequences of the messages that a stream stored in a time: after the first, up to the second.

    Args:
        since, until: With a time zone; by the clock of NATS, `until` not included.

    Raises:
        nats.errors.Error, TimeoutError: NATS did not answer.
    """
    return await _last_before(js, stream, since), await _last_before(js, stream, until)


async def _last_before(js: JetStreamContext, stream: str, moment: datetime) -> int:
    """The last sequence that was stored before a moment, by bisection: a message a halving."""
    state = (await js.stream_info(stream)).state
    low = max(state.first_seq - 1, 0)
    high = max(state.last_seq, low)
    while low < high:
        middle = (low + high + 1) // 2
        try:
            found = await js.get_msg(stream, seq=middle, next=True, subject=">")
        except NotFoundError:
            high = middle - 1
            continue
        assert found.seq is not None
        assert found.time is not None
        if found.time < moment:
            low = max(found.seq, middle)
        else:
            high = middle - 1
    return low
