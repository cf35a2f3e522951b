"""Who is champion, who is challenger, and how it came to be.

A promotion does four things in this order: the registry's alias moves, the file goes to where
serving loads it from, a note in a NATS key-value bucket announces it, and a row is added to the
history. Serving watches the bucket; after a restart the bucket's last value says what to load.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import orjson
from nats.aio.client import Client

from services.platform.models.promotion_log import Event, Record, append, read
from services.platform.models.registry import Registry
from services.platform.models.served_model import (
    BUCKET,
    CHALLENGER,
    CHAMPION,
    champion_path,
    note_key,
    version_path,
)
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import connect, ensure_bucket


class NothingBefore(ValueError):
    """There is no earlier champion to go back to."""


class Succession:
    """The line of champions of one design. It connects for each call, and keeps nothing open."""

    def __init__(self, settings: Settings, design: str) -> None:
        self._settings = settings
        self._design = design
        self._registry = Registry(settings)

    async def challenge(self, version: int) -> None:
        """Put a registered version into shadow mode. FileNotFoundError if its file is gone."""
        self._copy(version, CHALLENGER)
        self._registry.set_challenger(self._design, version)
        nc = await connect(self._settings, "succession")
        try:
            await announce(nc, self._design, version, CHALLENGER)
        finally:
            await nc.close()

    async def withdraw(self) -> None:
        """End shadow mode."""
        nc = await connect(self._settings, "succession")
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
        event: Event = Event.promoted,
    ) -> Record:
        """Make a registered version the champion. FileNotFoundError if its file is gone."""
        before = self._registry.champion(self._design)
        self._registry.set_champion(self._design, version)
        self._copy(version, CHAMPION)
        return await self._record(event, version, model, before, reasons, figures, announced=True)

    async def refuse(
        self, version: int, model: str, reasons: list[str], figures: Mapping[str, float]
    ) -> Record:
        """Note that a challenger was refused."""
        before = self._registry.champion(self._design)
        return await self._record(
            Event.refused, version, model, before, reasons, figures, announced=False
        )

    async def roll_back(self, reason: str) -> Record:
        """Make the champion before this one champion again.

        Asked again, it goes one further back.

        Raises:
            NothingBefore: this was the first.
        """
        line = _line(await self.history())
        if len(line) < 2:
            raise NothingBefore("there is no champion before this one")
        before = line[-2]
        return await self.promote(before.version, before.model, [reason], {}, Event.rolled_back)

    async def history(self) -> list[Record]:
        """All that happened, oldest first."""
        nc = await connect(self._settings, "succession")
        try:
            return await read(nc.jetstream(), self._design)
        finally:
            await nc.close()

    def champion(self) -> int | None:
        """Version of the champion, None before there is one."""
        return self._registry.champion(self._design)

    def _copy(self, version: int, role: str) -> None:
        lake = Lake(self._settings)
        lake.put(champion_path(self._design, role), lake.get(version_path(self._design, version)))

    async def _record(
        self,
        event: Event,
        version: int,
        model: str,
        before: int | None,
        reasons: list[str],
        figures: Mapping[str, float],
        announced: bool,
    ) -> Record:
        record = Record(
            at=datetime.now(UTC),
            event=event,
            design=self._design,
            version=version,
            model=model,
            before=before,
            reasons=reasons,
            figures=dict(figures),
        )
        nc = await connect(self._settings, "succession")
        try:
            if announced:
                await announce(nc, self._design, version)
            await append(nc.jetstream(), record)
        finally:
            await nc.close()
        return record


def _line(records: list[Record]) -> list[Record]:
    """The champions that led to the present one: a rollback takes the last of them away."""
    line: list[Record] = []
    for record in records:
        if record.event is Event.promoted:
            line.append(record)
        elif record.event is Event.rolled_back:
            line.pop()
    return line


async def announce(nc: Client, design: str, version: int | None, role: str = CHAMPION) -> None:
    """Tell whoever holds a design's champion or challenger that its file has changed."""
    bucket = await ensure_bucket(nc.jetstream(), BUCKET)
    await bucket.put(note_key(design, role), orjson.dumps({"version": version}))
