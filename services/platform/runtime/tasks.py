"""Tasks of an event loop."""

import asyncio


async def cancel_tasks(*tasks: asyncio.Future[None]) -> None:
    """Cancel tasks and wait until they have ended.

    It cancels again: before Python 3.12 `asyncio.wait_for`, which the NATS client uses, loses a
    cancellation that coincides with its result.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=1.0)
