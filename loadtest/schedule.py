"""An open loop: every user sends one request a second, at its own offset within the second.

Locust's constant pacing counts from a user's last request. One stall of the client then aligns all
users, and they stay aligned: bursts that real traffic does not have. Here a user that was delayed
sends at once and returns to its own offset afterwards, so N users send N requests a second, evenly.
"""

import random
from time import perf_counter
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    # Importing Locust patches the whole process for gevent.
    from locust.env import Environment


def worker_index(environment: "Environment") -> int:
    """Index of this Locust process, from 0, among several that load together."""
    return max(getattr(environment.runner, "worker_index", 0), 0)


class OpenLoop:
    """Mixin for Locust users."""

    _due = 0.0

    def on_start(self) -> None:
        """Choose the user's offset within the second."""
        self._due = perf_counter() + random.random()
        gevent.sleep(self._due - perf_counter())

    def wait_time(self) -> float:
        """Seconds until the next request is due."""
        self._due += 1.0
        return max(self._due - perf_counter(), 0.0)
