"""How a worker process starts, exposes its metrics, and stops."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable

import uvloop

from services.platform.runtime.metrics_server import serve_metrics
from services.platform.runtime.tasks import cancel_tasks
from services.platform.settings import Settings

log = logging.getLogger(__name__)


def run_worker(config: Settings, port: int, main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` until it ends or the process gets SIGTERM or SIGINT; metrics on `port`."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    serve_metrics(config.host, port)
    uvloop.run(_run_until_signal(main))


def lower_priority(pid: int) -> None:
    """Give a process and its children the scheduling class SCHED_IDLE, where the system has it.

    For training, which computes for minutes (ADR 11). Does nothing if it is not permitted or the
    process has ended.
    """
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def training_threads() -> int:
    """Number of threads that training may use: one per core.

    It runs at a low priority, and its threads sleep while they wait for each other: see
    `platform.settings`.
    """
    return os.cpu_count() or 1


async def _run_until_signal(main: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(main())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopping = loop.create_task(stop.wait())
    await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        log.info("stopping")
        await cancel_tasks(task)
    if not task.cancelled():
        await task


def freeze_gc() -> None:
    """Exclude all present objects from garbage collection.

    A full collection traverses every object during a request; most objects belong to imports and
    models, which are never freed.
    """
    gc.collect()
    gc.freeze()
