"""Locust scenario of the inspector: the simulated camera's pictures, none of them twice.

locust -f loadtest/cv.py --host http://127.0.0.1:18081               # with its web UI
"""

from collections.abc import Iterator
from itertools import chain, islice

from locust import FastHttpUser, events, task
from locust.env import Environment

from loadtest.schedule import OnSchedule, loader
from services.cv_inspection.simulator.camera import Camera
from services.platform.settings import settings

_SEED = 4_242
_MADE = 400
# Pictures that each of several processes has to itself.
_EACH = 10_000_000


class Station(OnSchedule, FastHttpUser):
    """One of many stations.

    Attributes:
        shots: What all of them post, one after the other.
    """

    shots: Iterator[tuple[str, bytes]]
    host = settings().inspector
    network_timeout = connection_timeout = 10.0

    @task  # type: ignore[untyped-decorator]
    def inspect(self) -> None:
        """Post one picture."""
        url, data = next(self.shots)
        self.client.post(url, data=data, name="/inspect", headers={"Content-Type": "image/jpeg"})


@events.init.add_listener  # type: ignore[untyped-decorator]
def take_some(environment: Environment, **_: object) -> None:
    """Taking a picture costs more than posting it: some are taken before."""
    coming = _shots(_EACH * loader(environment))
    Station.shots = chain(list(islice(coming, _MADE)), coming)


def _shots(first: int) -> Iterator[tuple[str, bytes]]:
    for shot in Camera(_SEED).shots(first):
        yield f"/inspect?line={shot.line}&frame={shot.frame}", shot.jpeg()
