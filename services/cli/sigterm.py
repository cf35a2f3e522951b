"""Ending a command by SIGTERM, which by default ends Python at once."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cleanup_at_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit in the block, so that `finally` runs; a second one does nothing."""

    def leave(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
