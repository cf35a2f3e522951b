"""The model lifecycle: which version is champion or challenger, and the history of both.

A promotion does four things in this order: it moves the registry's alias, signs the file and
puts it where serving loads it, announces the version in a NATS key-value bucket, and appends a
history row.
Serving watches the bucket; after a restart it loads the version that was announced last.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from services.platform.models.names import (
    ANNOUNCEMENTS,
    CHALLENGER,
    CHAMPION,
    announced_version,
    announcement_key,
    version_path,
)
from services.platform.models.promotion_log import (
    PromotionEvent,
    PromotionRecord,
    append_record,
    read_history,
)
from services.platform.models.registry import ModelRegistry
from services.platform.models.served_file import put_served
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect, ensure_bucket
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)


class NoPreviousChampion(ValueError):
    """There is no earlier champion to go back to."""


class ModelLifecycle:
    """Champion and challenger of one design. It connects for each call and keeps nothing open."""

    def __init__(self, settings: Settings, design: str) -> None:
        self._settings = settings
        self._design = design
        self._registry = ModelRegistry(settings)

    async def start_shadow(self, version: int) -> None:
        """Put a registered version into shadow mode. FileNotFoundError if its file is gone."""
        self._copy(version, CHALLENGER)
        self._registry.set_challenger(self._design, version)
        nc = await connect(self._settings, "model-lifecycle")
        try:
            await announce(nc, self._design, version, CHALLENGER)
        finally:
            await nc.close()

    async def stop_shadow(self) -> None:
        """End shadow mode."""
        nc = await connect(self._settings, "model-lifecycle")
        try:
            await announce(nc, self._design, None, CHALLENGER)
        finally:
            await nc.close()
        self._registry.set_challenger(self._design, None)

    async def promote(
        self,
        version: int,
        model: str,
        reasons: list[str],
        figures: Mapping[str, float],
        event: PromotionEvent = PromotionEvent.promoted,
    ) -> PromotionRecord:
        """Make a registered version the champion. FileNotFoundError if its file is gone."""
        before = await self.champion()
        self._registry.set_champion(self._design, version)
        self._copy(version, CHAMPION)
        return await self._record(event, version, model, before, reasons, figures, announced=True)

    async def refuse(
        self, version: int, model: str, reasons: list[str], figures: Mapping[str, float]
    ) -> PromotionRecord:
        """Record that a challenger was refused."""
        before = await self.champion()
        return await self._record(
            PromotionEvent.refused, version, model, before, reasons, figures, announced=False
        )

    async def roll_back(self, reason: str) -> PromotionRecord:
        """Make the previous champion champion again; each further call goes one further back.

        Raises:
            NoPreviousChampion: the present champion was the first.
        """
        champions = _champions(await self.history())
        if len(champions) < 2:
            raise NoPreviousChampion("there is no champion before this one")
        before = champions[-2]
        return await self.promote(
            before.version, before.model, [reason], {}, PromotionEvent.rolled_back
        )

    async def history(self) -> list[PromotionRecord]:
        """All promotions, refusals and rollbacks, oldest first."""
        nc = await connect(self._settings, "model-lifecycle")
        try:
            return await read_history(nc.jetstream(), self._design)
        finally:
            await nc.close()

    async def champion(self) -> int | None:
        """Version of the champion, None if there is none yet.

        It is the one announced last, which serving follows: the registry's alias can be moved past
        the gate. The alias counts where nothing is announced, as after a loss of NATS's data.
        """
        nc = await connect(self._settings, "model-lifecycle")
        try:
            bucket = await nc.jetstream().key_value(ANNOUNCEMENTS)
            note = await bucket.get(announcement_key(self._design, CHAMPION))
            version = announced_version(note.value)
        except NotFoundError:
            version = None
        except ValueError as error:
            EVENTS.labels(ANNOUNCEMENTS, "unreadable").inc()
            log.error("the registry's alias counts: %s", error)
            version = None
        finally:
            await nc.close()
        return self._registry.champion(self._design) if version is None else version

    def _copy(self, version: int, role: str) -> None:
        data = Lake(self._settings).get(version_path(self._design, version))
        put_served(self._settings, data, self._design, role, version)

    async def _record(
        self,
        event: PromotionEvent,
        version: int,
        model: str,
        before: int | None,
        reasons: list[str],
        figures: Mapping[str, float],
        announced: bool,
    ) -> PromotionRecord:
        record = PromotionRecord(
            at=datetime.now(UTC),
            event=event,
            design=self._design,
            version=version,
            model=model,
            before=before,
            reasons=reasons,
            figures=dict(figures),
        )
        nc = await connect(self._settings, "model-lifecycle")
        try:
            if announced:
                await announce(nc, self._design, version)
            await append_record(nc.jetstream(), record)
        finally:
            await nc.close()
        return record


def _champions(records: list[PromotionRecord]) -> list[PromotionRecord]:
    """The promotions that led to the present champion: a rollback removes the last of them."""
    champions: list[PromotionRecord] = []
    for record in records:
        if record.event is PromotionEvent.promoted:
            champions.append(record)
        elif record.event is PromotionEvent.rolled_back:
            champions.pop()
    return champions


async def announce(nc: Client, design: str, version: int | None, role: str = CHAMPION) -> None:
    """Announce the version in a role to every process that serves it; None: there is none."""
    bucket = await ensure_bucket(nc.jetstream(), ANNOUNCEMENTS)
    await bucket.put(announcement_key(design, role), orjson.dumps({"version": version}))
