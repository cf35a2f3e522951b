"""Locust scenario of the inspector: images of the simulated camera, none of them twice.

locust -f loadtest/cv.py --host http://127.0.0.1:18081               # with its web UI
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice

from locust import FastHttpUser, events, task
from locust.env import Environment

from loadtest.schedule import OpenLoop, worker_index
from services.cv_inspection.service import INSPECTOR
from services.cv_inspection.simulator.camera import Camera
from services.platform.runtime.tokens import client_headers
from services.platform.settings import settings

_SEED = 4_242
_PREPARED = 400
# Frame numbers reserved for each of several processes.
_FRAMES_PER_WORKER = 10_000_000


class InspectUser(OpenLoop, FastHttpUser):
    """A user that posts images.

    Attributes:
        shots: Route and JPEG of each image, shared by all users.
    """

    shots: Iterator[tuple[str, bytes]]
    host = INSPECTOR.url(settings())
    network_timeout = connection_timeout = 10.0

    @task  # type: ignore[untyped-decorator]
    def inspect(self) -> None:
        """Post one image."""
        url, data = next(self.shots)
        self.client.post(url, data=data, name="/inspect", headers=_headers())


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Environment, **_: object) -> None:
    """Render some images before the run: rendering costs more than posting."""
    shots = _shots(_FRAMES_PER_WORKER * worker_index(environment))
    InspectUser.shots = chain(list(islice(shots, _PREPARED)), shots)


@lru_cache(maxsize=1)  # asked for every request
def _headers() -> dict[str, str]:
    return {"Content-Type": "image/jpeg", **client_headers(settings())}


def _shots(first: int) -> Iterator[tuple[str, bytes]]:
    for shot in Camera(_SEED).shots(first):
        yield f"/inspect?line={shot.line}&frame={shot.frame}", shot.jpeg()
