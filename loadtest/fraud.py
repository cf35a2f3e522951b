"""Locust scenario of the fraud scorer: the simulator's own transactions, none of them twice.

N users are an open loop of N requests a second (`schedule.py`).

    locust -f loadtest/fraud.py --host http://127.0.0.1:18080            # with its web UI
    locust -f loadtest/fraud.py --headless -u 300 -r 60 -t 60s           # without
    locust -f loadtest/fraud.py --headless -u 900 -r 180 -t 60s --processes 3
"""

from collections.abc import Iterator

from locust import FastHttpUser, events, task
from locust.env import Environment

from loadtest.bodies import bodies
from loadtest.schedule import OnSchedule, loader
from services.platform.runtime.http import SYNTHETIC
from services.platform.runtime.worker import settle
from services.platform.settings import settings


class Gateway(OnSchedule, FastHttpUser):
    """One of many gateways.

    Attributes:
        purchases: What all of them ask about, one after the other.
    """

    purchases: Iterator[bytes]
    host = settings().scorer
    network_timeout = connection_timeout = 10.0

    @task  # type: ignore[untyped-decorator]
    def score(self) -> None:
        """Ask about one transaction."""
        headers = {"Content-Type": "application/json", **SYNTHETIC}
        self.client.post("/score", data=next(self.purchases), headers=headers)


@events.init.add_listener  # type: ignore[untyped-decorator]
def make_the_first_day(environment: Environment, **_: object) -> None:
    """A day takes a moment to make, a full collection another; users must not wait for them."""
    Gateway.purchases = bodies(loader=loader(environment))
    next(Gateway.purchases)
    settle()
