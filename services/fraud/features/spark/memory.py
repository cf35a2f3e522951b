"""The peak of the memory that this process and its children take, Spark's JVM and workers among them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

_EVERY_S = 0.25


class PeakMemory:
    """The peak so far.

    Attributes:
        mb: Proportional set size, so a page that processes share counts once; megabytes.
    """

    def __init__(self) -> None:
        self.mb = 0.0

    def sample(self) -> None:
        """Measure once."""
        own = psutil.Process()
        total = 0
        for process in [own, *own.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        self.mb = max(self.mb, total / 1e6)


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure the peak four times a second while the block runs."""
    peak, ended = PeakMemory(), threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            peak.sample()

    thread = threading.Thread(target=watch, daemon=True)
    peak.sample()
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.sample()
