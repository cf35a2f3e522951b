"""What this process and its children take, Spark's JVM and its workers among them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

# Reading the pages of a JVM of 1 GB takes 20 ms.
_EVERY_S = 0.5


class Usage:
    """Memory and processor time so far.

    Attributes:
        peak_mb: Peak of the proportional set sizes' sum, in which a page that processes share
            counts once; megabytes.
    """

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._own = psutil.Process()
        self._cpu: dict[int, float] = {}
        self._before = sum(self._own.cpu_times()[:2])

    @property
    def cpu_s(self) -> float:
        """Processor seconds; of a child, as of the last sample before its end."""
        return sum(self._cpu.values()) - self._before

    def sample(self) -> None:
        """Measure once."""
        total = 0
        for process in [self._own, *self._own.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
                self._cpu[process.pid] = sum(process.cpu_times()[:2])
        self.peak_mb = max(self.peak_mb, total / 1e6)


@contextmanager
def measured() -> Iterator[Usage]:
    """Measure twice a second while the block runs."""
    usage, ended = Usage(), threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            usage.sample()

    thread = threading.Thread(target=watch, daemon=True)
    usage.sample()
    thread.start()
    try:
        yield usage
    finally:
        ended.set()
        thread.join()
        usage.sample()
