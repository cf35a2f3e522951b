"""The champion as serving holds it, and the challenger as shadow mode holds it.

Loaded, checked, watched, and exchanged in one assignment.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.platform.models.onnx import ModelRefused, Scoring
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.telemetry import MODEL_REFUSED, MODEL_VERSION

log = logging.getLogger(__name__)

BUCKET = "models"
_EVERY_S = 1.0


CHAMPION, CHALLENGER = "champion", "challenger"


def champion_path(design: str, role: str = CHAMPION) -> str:
    """Where in the bucket serving finds the champion, or the challenger."""
    return f"models/{design}/{role}.onnx"


def version_path(design: str, version: int) -> str:
    """Where in the bucket a version is kept."""
    return f"models/{design}/{version}.onnx"


def reference_path(design: str, version: int) -> str:
    """Where what is normal for a version is kept: see `monitoring.reference`."""
    return f"models/{design}/{version}.reference.npz"


def note_key(design: str, role: str) -> str:
    """Key of the note that announces a design's champion or challenger."""
    return f"{design}.{role}"


M = TypeVar("M", bound=Scoring)


class Champion(Generic[M]):
    """The model being served. Requests take `model` once and keep it to their end."""

    role = CHAMPION

    def __init__(self, settings: Settings, design: str, read: Callable[[bytes], M]) -> None:
        """Hold no model yet.

        Args:
            read: Makes a checked and warm model of a file. ModelRefused if it is none.
        """
        self._settings = settings
        self._design = design
        self._read = read
        self.model: M | None = None
        self.refused = ""

    def load(self) -> bool:
        """Load the file that is champion now, from the model folder or from S3.

        The file is checked and warmed before it takes over; a refused one changes nothing.
        Returns false where it is worth asking again: S3 did not answer, or has no such file yet.
        """
        try:
            model = self._read(self._file())
        except FileNotFoundError:
            self._refuse(f"there is no {self.role} yet: train one first")
            return False
        except OSError as error:
            log.warning("%s not loaded, S3 does not answer: %s", self.role, error)
            return False
        except ModelRefused as error:
            self._refuse(str(error))
            return True
        self.refused = ""
        self._take(model)
        log.info("%s: %s", self.role, self._serving())
        return True

    def _refuse(self, why: str) -> None:
        if why != self.refused:
            MODEL_REFUSED.inc()
            log.error("%s refused, keeping %s: %s", self.role, self._serving(), why)
        self.refused = why

    def _take(self, model: M | None) -> None:
        if self.model is not None:
            MODEL_VERSION.remove(self.role, self.model.card.candidate)
        self.model = model
        if model is not None:
            MODEL_VERSION.labels(self.role, model.card.candidate).set(model.card.version)

    async def watch(self, nc: Client) -> None:
        """Reload whenever a promotion is announced. Runs until cancelled.

        It asks once a second: a subscription would have to be watched itself, to notice that it
        was lost with a server, and a promotion can wait a second.
        """
        seen = 0
        while True:
            try:
                bucket = await nc.jetstream().key_value(BUCKET)
                note = await bucket.get(note_key(self._design, self.role))
                revision = note.revision or 0
                # A refused file stays refused until another is announced: trying it costs a core.
                if revision != seen and (
                    not self._differs(note.value) or await asyncio.to_thread(self.load)
                ):
                    seen = revision
            except (NatsError, OSError, TimeoutError) as error:
                log.debug("asking for promotions: %s", error)
            await asyncio.sleep(_EVERY_S)

    def _differs(self, note: bytes | None) -> bool:
        """Whether a note announces another version than the one that is served."""
        announced = orjson.loads(note or b"{}").get("version")
        return self.model is None or announced != self.model.card.version

    def _file(self) -> bytes:
        if self.role == CHAMPION and self._settings.model_file.exists():
            return self._settings.model_file.read_bytes()
        return Lake(self._settings).get(champion_path(self._design, self.role))

    def _serving(self) -> str:
        card = self.model.card if self.model else None
        return f"{card.candidate} v{card.version}" if card else "nothing"


class Challenger(Champion[M]):
    """The model in shadow mode; there is none most of the time."""

    role = CHALLENGER

    def _differs(self, note: bytes | None) -> bool:
        if orjson.loads(note or b"{}").get("version") is None:
            self._take(None)
            return False
        return super()._differs(note)
