"""Messages that a stream keeps: append-only histories, and the newest messages of any stream."""

import asyncio
from collections.abc import AsyncIterator

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


async def history(js: JetStreamContext, name: str) -> AsyncIterator[tuple[int, api.RawStreamMsg]]:
    """Sequence and message of each row of a history, oldest first; none before it exists."""
    try:
        state = (await js.stream_info(name)).state
    except NotFoundError:
        return
    for seq in range(max(state.first_seq, 1), state.last_seq + 1):
        yield seq, await js.get_msg(name, seq)


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
