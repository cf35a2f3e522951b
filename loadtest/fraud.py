"""Locust scenario of the fraud scorer: simulated transactions, none of them twice.

N users make an open loop of N requests a second (`schedule.py`).

    locust -f loadtest/fraud.py --host http://127.0.0.1:18080            # with its web UI
    locust -f loadtest/fraud.py --headless -u 300 -r 60 -t 60s           # without
    locust -f loadtest/fraud.py --headless -u 900 -r 180 -t 60s --processes 3
"""

from collections.abc import Iterator

from locust import FastHttpUser, events, task
from locust.env import Environment

from loadtest.bodies import bodies, load_headers
from loadtest.schedule import OpenLoop, worker_index
from services.fraud.service import SCORER
from services.platform.runtime.worker import freeze_gc
from services.platform.settings import settings


class ScoreUser(OpenLoop, FastHttpUser):
    """A user that posts transactions.

    Attributes:
        transactions: The bodies to post, shared by all users.
    """

    transactions: Iterator[bytes]
    host = SCORER.url(settings())
    network_timeout = connection_timeout = 10.0

    @task  # type: ignore[untyped-decorator]
    def score(self) -> None:
        """Post one transaction."""
        headers = load_headers()
        self.client.post("/score", data=next(self.transactions), headers=headers)


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: object) -> None:
    """Simulate the first day and collect garbage before the run, so that no request waits."""
    ScoreUser.transactions = bodies(worker=worker_index(environment))
    next(ScoreUser.transactions)
    freeze_gc()
