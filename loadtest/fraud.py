"""Locust scenario of the fraud scorer: the simulator's own transactions, none of them twice.

N users are an open loop of N requests a second (`schedule.py`).

    locust -f loadtest/fraud.py --host http://127.0.0.1:18080            # with its web UI
    locust -f loadtest/fraud.py --headless -u 300 -r 60 -t 60s           # without
"""

from locust import FastHttpUser, events, task

from loadtest.bodies import bodies
from loadtest.schedule import OnSchedule
from services.skeleton.http import SYNTHETIC
from services.skeleton.process import settle
from services.skeleton.settings import settings

_NEXT = bodies()


@events.init.add_listener  # type: ignore[untyped-decorator]
def make_the_first_day(**_: object) -> None:
    """A day takes a moment to make, a full collection another; users must not wait for them."""
    next(_NEXT)
    settle()


class Gateway(OnSchedule, FastHttpUser):
    """One of many gateways."""

    host = settings().scorer
    network_timeout = connection_timeout = 10.0

    @task  # type: ignore[untyped-decorator]
    def score(self) -> None:
        """Ask about one transaction."""
        headers = {"Content-Type": "application/json", **SYNTHETIC}
        self.client.post("/score", data=next(_NEXT), headers=headers)
