"""How tasks end."""

import asyncio

from services.platform.runtime.tasks import cancel_tasks


async def test_a_task_that_lost_its_cancellation_is_cancelled_again():
    """Before Python 3.12 `wait_for` loses one that coincides with its result."""

    async def ignores_once():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    ignoring, done = asyncio.create_task(ignores_once()), asyncio.create_task(asyncio.sleep(0))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        await cancel_tasks(ignoring, done)
    assert ignoring.cancelled()
    assert done.done()
