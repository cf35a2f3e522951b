"""How a worker process starts, shows its metrics, and stops."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable

import uvloop
from nats.errors import Error as NatsError
from prometheus_client import start_http_server

from services.platform.settings import Settings
from services.platform.streaming.consumer import OrderedConsumer
from services.platform.telemetry import LAG


def run_worker(config: Settings, port: int, main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` until it ends or the process is told to stop; metrics on `port`."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    start_http_server(port, addr=config.host)
    uvloop.run(_until_told(main))


def stand_aside(pid: int) -> None:
    """Let a process, and those it starts, run when nobody else wants the processor.

    A nice process that has a core keeps it for some milliseconds while a request waits; one of the
    idle class, where the system has one, is put aside at once. Where that is not allowed, or the
    process has ended, nothing happens.
    """
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def training_threads() -> int:
    """Threads a training may use: all cores; half of them at a niceness, as the scheduler's nights.

    With every core busy, threads that wait for each other (OpenMP's) wait for those put aside, and
    learn no faster for it.
    """
    cores = os.cpu_count() or 1
    return max(cores // 2, 1) if os.nice(0) else cores


async def end(*tasks: asyncio.Future[None]) -> None:
    """Cancel tasks until they have ended.

    Before Python 3.12 `asyncio.wait_for` loses a cancellation that meets its answer.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=1.0)


async def _until_told(main: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(main())
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    telling = loop.create_task(told.wait())
    await asyncio.wait((task, telling), return_when=asyncio.FIRST_COMPLETED)
    if told.is_set():
        logging.info("told to stop")
        await end(task)
    if not task.cancelled():
        await task


def settle() -> None:
    """Tell the garbage collector that what is loaded by now stays.

    A full collection looks through every object there is, within somebody's request; those of the
    imports and models never go away, and are most of them.
    """
    gc.collect()
    gc.freeze()


async def report_lag(consumers: dict[str, OrderedConsumer]) -> None:
    """Keep the lag gauges up to date. Runs until cancelled."""
    while True:
        for name, consumer in consumers.items():
            # Away for the moment: the gauge keeps its last value.
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                LAG.labels(name).set(await consumer.lag())
        await asyncio.sleep(2.0)
