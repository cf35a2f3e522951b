"""Locust scenario of the inspector: the simulated camera's pictures, none of them twice.

locust -f loadtest/cv.py --host http://127.0.0.1:18081               # with its web UI
"""

from collections.abc import Iterator

from locust import FastHttpUser, events, task

from loadtest.schedule import OnSchedule
from services.cv_inspection.simulator.camera import Camera, Shot
from services.skeleton.settings import settings

_SEED = 4_242
_MADE = 400


def _shots() -> Iterator[tuple[Shot, bytes]]:
    for shot in Camera(_SEED).shots():
        yield shot, shot.jpeg()


_NEXT = _shots()
_READY: list[tuple[Shot, bytes]] = []


@events.init.add_listener  # type: ignore[untyped-decorator]
def take_some(**_: object) -> None:
    """Taking a picture costs more than posting it: some are taken before."""
    _READY.extend(next(_NEXT) for _ in range(_MADE))


class Station(OnSchedule, FastHttpUser):
    """One of many stations."""

    host = settings().inspector
    network_timeout = connection_timeout = 10.0

    @task  # type: ignore[untyped-decorator]
    def inspect(self) -> None:
        """Post one picture."""
        shot, data = _READY.pop() if _READY else next(_NEXT)
        url = f"/inspect?line={shot.line}&frame={shot.frame}"
        self.client.post(url, data=data, name="/inspect", headers={"Content-Type": "image/jpeg"})
