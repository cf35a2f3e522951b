"""How long work tells how far it is, without knowing who shows it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

# Told (done, of).
Step = Callable[[int, int], None]
# Opens a progress bar with a title; gives the step to tell.
Bar = Callable[[str], AbstractContextManager[Step]]
