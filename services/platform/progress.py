"""Progress callbacks: long work reports how far it is, without knowing what displays it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

# Called with (done, total).
ProgressCallback = Callable[[int, int], None]
# Opens a progress bar with a title and yields its callback.
ProgressBar = Callable[[str], AbstractContextManager[ProgressCallback]]
