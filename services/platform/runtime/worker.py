"""How a worker process starts, exposes its metrics, and stops."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator

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

    A process with a high nice value keeps its core for some milliseconds while a request waits; an
    idle one is preempted at once. Does nothing if it is not permitted or the process has ended.
    """
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


class TrainingThreads:
    """How many threads training may use.

    All cores, or half of them at a nice value above 0: with every core busy, OpenMP's threads wait
    at their barriers for preempted ones, so that more threads train no faster. All cores again
    after a signal, which says that nothing else runs.
    """

    ALONE = signal.SIGUSR1

    def __init__(self) -> None:
        self._alone = False

    def __call__(self) -> int:
        """Number of threads."""
        cores = os.cpu_count() or 1
        return max(cores // 2, 1) if os.nice(0) and not self._alone else cores

    @contextlib.contextmanager
    def taking_signal(self) -> Iterator[None]:
        """Take `ALONE` in this process meanwhile, and ignore it afterwards.

        Python gives a handled signal its default effect as it ends, which is to kill the process.
        """
        signal.signal(self.ALONE, self._use_all_cores)
        try:
            yield
        finally:
            signal.signal(self.ALONE, signal.SIG_IGN)

    def _use_all_cores(self, *_: object) -> None:
        self._alone = True
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(self())


training_threads = TrainingThreads()


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
