"""The champion as serving holds it: loaded, watched, exchanged in one assignment."""

import asyncio
import logging
from pathlib import Path

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.skeleton.lake import Lake
from services.skeleton.model import Model, ModelRefused
from services.skeleton.settings import Settings
from services.skeleton.telemetry import MODEL_REFUSED, MODEL_VERSION

log = logging.getLogger(__name__)

BUCKET = "models"
SAGEMAKER_MODEL = Path("/opt/ml/model/model.onnx")
_EVERY_S = 1.0


def champion_path(design: str) -> str:
    """Where in the bucket serving finds the champion."""
    return f"models/{design}/champion.onnx"


class Champion:
    """The model being served. Requests take `model` once and keep it to their end."""

    def __init__(self, settings: Settings, design: str, known: tuple[str, ...]) -> None:
        self._settings = settings
        self._design = design
        self._known = known
        self.model: Model | None = None
        self.refused = ""

    def load(self) -> bool:
        """Load the file that is champion now, from the model folder or from S3.

        The file is checked and warmed before it takes over; a refused one changes nothing.
        Returns false where S3 did not answer and it is worth asking again.
        """
        try:
            model = Model(self._file(), self._design, self._known)
        except OSError as error:
            log.warning("champion not loaded, S3 does not answer: %s", error)
            return False
        except ModelRefused as error:
            if str(error) != self.refused:
                MODEL_REFUSED.inc()
                log.error("champion refused, keeping %s: %s", self._serving(), error)
            self.refused = str(error)
            return True
        self.refused = ""
        self.model = model
        MODEL_VERSION.clear()
        MODEL_VERSION.labels(model.card.candidate).set(model.card.version)
        log.info("serving %s", self._serving())
        return True

    async def watch(self, nc: Client) -> None:
        """Reload whenever a promotion is announced. Runs until cancelled.

        It asks once a second: a subscription would have to be watched itself, to notice that it
        was lost with a server, and a promotion can wait a second.
        """
        seen = 0
        while True:
            try:
                bucket = await nc.jetstream().key_value(BUCKET)
                note = await bucket.get(self._design)
                revision = note.revision or 0
                # Without any model the file may still come, announced or not.
                if (self.model is None or revision != seen) and (
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
        if SAGEMAKER_MODEL.exists():
            return SAGEMAKER_MODEL.read_bytes()
        try:
            return Lake(self._settings).get(champion_path(self._design))
        except FileNotFoundError:
            raise ModelRefused("there is no champion yet: train one first") from None

    def _serving(self) -> str:
        card = self.model.card if self.model else None
        return f"{card.candidate} v{card.version}" if card else "nothing"
