"""An open loop: every user asks once a second, at a moment of the second that is its own.

Locust's constant pacing counts from a user's last request. One stall of the client then brings all
users together, and they stay together: crowds that no shop sees. Here a user that was held up asks
at once and is back at its own moment the second after, so N users are N requests a second, evenly.
"""

import random
from time import perf_counter
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    # Locust makes the whole process gevent's as it is imported.
    from locust.env import Environment


def loader(environment: "Environment") -> int:
    """Which of Locust's processes this is, counted from 0, where several load together."""
    return max(getattr(environment.runner, "worker_index", 0), 0)


class OnSchedule:
    """To be mixed into a Locust user."""

    _due = 0.0

    def on_start(self) -> None:
        """Take a moment of the second."""
        self._due = perf_counter() + random.random()
        gevent.sleep(self._due - perf_counter())

    def wait_time(self) -> float:
        """Seconds until the next request is due."""
        self._due += 1.0
        return max(self._due - perf_counter(), 0.0)
