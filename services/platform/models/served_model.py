"""The model in one role: the champion that serving holds, the challenger that shadow mode holds.

It is loaded, checked, watched for promotions, and replaced by one assignment.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.platform.models.checks.probe import refuse_greedy
from services.platform.models.checks.signature import verified
from services.platform.models.names import (
    ANNOUNCEMENTS,
    CHAMPION,
    announced_version,
    announcement_key,
)
from services.platform.models.onnx import ScoringModel
from services.platform.models.refused import ModelRefused
from services.platform.models.served_file import LastGood, read_signed
from services.platform.settings import Settings
from services.platform.telemetry import EVENTS, MODEL_REFUSED, MODEL_VERSION

log = logging.getLogger(__name__)

_POLL_S = 1.0

M = TypeVar("M", bound=ScoringModel)


class ServedModel(Generic[M]):
    """The model in a role. A request reads `model` once and uses it to its end.

    Attributes:
        role: `CHAMPION` or `CHALLENGER`.
        model: The model in use; None before the first is loaded, and for a challenger whenever
            none is announced.
        refused: Why the last file was refused, empty if it was not.
    """

    def __init__(
        self,
        settings: Settings,
        design: str,
        read_model: Callable[[bytes], M],
        role: str = CHAMPION,
    ) -> None:
        """Hold no model yet.

        Args:
            read_model: Makes a checked and warm model of a file. ModelRefused if it is unusable.
            role: `CHAMPION` or `CHALLENGER`.
        """
        self._settings = settings
        self._design = design
        self._read_model = read_model
        self.role = role
        self.model: M | None = None
        self.refused = ""
        self._last_good = LastGood(settings, design, role)
        self._signed_at = 0.0

    def load(self) -> bool:
        """Load the role's present file, from the model file of the settings or from S3.

        Its signature is verified first, and a new file is read in a process of its own before it is
        read here. It is checked and warmed up before it takes over; a refused one changes nothing.
        Where nothing serves yet, the last good champion does, which was kept here.

        Returns:
            False if a retry may succeed: S3 did not answer, or has no such file yet.
        """
        try:
            model = self._newest()
        except FileNotFoundError:
            self._refuse(f"there is no {self.role} yet: train one first")
            self._fall_back()
            return False
        except OSError as error:
            log.warning("%s not loaded, S3 does not answer: %s", self.role, error)
            self._fall_back()
            return False
        except ModelRefused as error:
            self._refuse(str(error))
            self._fall_back()
            return True
        self.refused = ""
        self._replace(model)
        log.info("%s: %s", self.role, self._label())
        return True

    def _newest(self) -> M:
        """The model of the newest file. ModelRefused, FileNotFoundError, OSError: see `load`."""
        own = self._settings.model_file
        if self.role == CHAMPION and own.exists():
            return self._read_apart_first(own.read_bytes())
        signed = read_signed(self._settings, self._design, self.role)
        data, statement = verified(self._settings, signed, self._design, self.role)
        if statement.at < self._last_signed_at():
            raise ModelRefused("signed before the model that was served last: promote it again")
        model = self._read_apart_first(data)
        self._signed_at = statement.at
        if self.role == CHAMPION:
            self._last_good.keep(signed)
        return model

    def _read_apart_first(self, data: bytes) -> M:
        """Read a file that may be new here: in a process of its own, then in this one."""
        refuse_greedy(data, self._read_model, self._settings.home / "models" / "passed")
        return self._read_model(data)

    def _last_signed_at(self) -> float:
        """When the file was signed that was served last, here or before a restart."""
        if not self._signed_at:
            with suppress(ModelRefused):
                found = self._last_good.read()
                self._signed_at = found[1].at if found else 0.0
        return self._signed_at

    def _fall_back(self) -> None:
        """Serve the last good champion, if nothing serves yet."""
        if self.role != CHAMPION or self.model is not None:
            return
        try:
            found = self._last_good.read()
            if found is None:
                return
            self._replace(self._read_model(found[0]))
        except ModelRefused as error:
            log.error("the last good copy is refused: %s", error)
            return
        log.warning("%s: %s, the last good copy", self.role, self._label())

    async def watch(self, nc: Client) -> None:
        """Reload whenever a promotion is announced. Runs until cancelled.

        It polls once a second: a subscription lost with a server would have to be detected by a
        watch of its own, and a promotion can wait a second (ADR 5).
        """
        seen = 0
        while True:
            try:
                bucket = await nc.jetstream().key_value(ANNOUNCEMENTS)
                note = await bucket.get(announcement_key(self._design, self.role))
                revision = note.revision or 0
                # A refused file is not tried again until the next announcement: it costs a core.
                if revision != seen and await self._follow(note.value):
                    seen = revision
            except (NatsError, OSError, TimeoutError) as error:
                log.debug("polling for promotions: %s", error)
            await asyncio.sleep(_POLL_S)

    async def _follow(self, note: bytes | None) -> bool:
        """Hold the announced version. False if a retry may succeed."""
        try:
            version = announced_version(note)
        except ValueError as error:
            EVENTS.labels(ANNOUNCEMENTS, "unreadable").inc()
            log.error("%s skipped, keeping %s: %s", self.role, self._label(), error)
            return True
        if version is None and self.role != CHAMPION:
            self._replace(None)
            return True
        if self.model is not None and version == self.model.card.version:
            return True
        return await asyncio.to_thread(self.load)

    def _refuse(self, reason: str) -> None:
        if reason != self.refused:
            MODEL_REFUSED.inc()
            log.error("%s refused, keeping %s: %s", self.role, self._label(), reason)
        self.refused = reason

    def _replace(self, model: M | None) -> None:
        if self.model is not None:
            MODEL_VERSION.remove(self.role, self.model.card.candidate)
        self.model = model
        if model is not None:
            MODEL_VERSION.labels(self.role, model.card.candidate).set(model.card.version)

    def _label(self) -> str:
        return self.model.card.label if self.model else "nothing"
