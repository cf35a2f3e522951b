"""Costs that change while scorers run: a bucket with their history, and the policy that follows.

The bucket holds the costs, and the price of a review slot, which the review desk keeps. Scorers
poll it (ADR 5), so they follow within a second and decide by one assignment.
"""

import asyncio
import logging
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue
from pydantic import BaseModel, ConfigDict, Field

from services.fraud.problem import CostModel
from services.fraud.review.policy import Policy
from services.platform.settings import Settings
from services.platform.streaming.connection import connect
from services.platform.streaming.stored import bucket_entries

log = logging.getLogger(__name__)

BUCKET = "FRAUD_COSTS"
COSTS_KEY, PRICE_KEY = "costs", "price"
# The most that NATS keeps of a key.
HISTORY = 64
POLL_S = 0.25
# The review desk writes its price each second; without it reviews would pile up.
PRICE_VALID_S = 5.0

# Strict: true is no amount.
_Money = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False, strict=True)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


class CostChange(BaseModel):
    """New costs in EUR; what is left out stays as it is.

    Attributes:
        opex: Cost of a declined genuine transaction.
        fee: Fee of a chargeback, on top of the amount.
        analyst_minute: Cost of an analyst's minute.
        analyst_minutes: Minutes of a review.
        missed: Share of reviewed frauds that analysts approve.
        wrongly_stopped: Share of reviewed genuine transactions that analysts stop.
    """

    model_config = ConfigDict(extra="forbid")

    opex: _Money | None = None
    fee: _Money | None = None
    analyst_minute: _Money | None = None
    analyst_minutes: Annotated[float, Field(gt=0, le=1_440, strict=True)] | None = None
    missed: _Share | None = None
    wrongly_stopped: _Share | None = None

    def apply(self, costs: CostModel) -> CostModel:
        """The cost model with these changes.

        >>> CostChange(opex=8).apply(CostModel()).opex
        800
        """
        given = self.model_dump(exclude_none=True)
        money = ("opex", "fee", "analyst_minute")
        minor: dict[str, Any] = {k: round(given[k] * 100) for k in money if k in given}
        changed: dict[str, Any] = {**given, **minor}
        return replace(costs, **changed)


def in_eur(costs: CostModel) -> dict[str, float]:
    """A cost model as people read it, in the units of `CostChange`.

    >>> in_eur(CostModel())["fee"]
    15.0
    """
    found = {k: v for k, v in asdict(costs).items() if k != "slot"}
    return {k: v / 100 if k in ("opex", "fee", "analyst_minute") else v for k, v in found.items()}


async def open_bucket(js: JetStreamContext) -> KeyValue:
    """The bucket, created unless it exists."""
    try:
        return await js.key_value(BUCKET)
    except NotFoundError:
        return await js.create_key_value(bucket=BUCKET, history=HISTORY)


async def read_costs(js: JetStreamContext) -> CostModel:
    """The present costs, with an infinite price of a slot; the design's before the first change."""
    try:
        entry = await (await js.key_value(BUCKET)).get(COSTS_KEY)
    except NotFoundError:
        return CostModel()
    return parse_costs(entry.value)


def parse_costs(value: bytes | None) -> CostModel:
    """A cost model as the bucket holds it; unknown fields of a later version are left out."""
    known = {field.name for field in fields(CostModel)}
    written = orjson.loads(value or b"{}")["costs"]
    return CostModel(**{k: v for k, v in written.items() if k in known and v is not None})


async def change_costs(js: JetStreamContext, change: CostChange) -> tuple[CostModel, CostModel]:
    """Change the present costs; returns those before and those now.

    A change that another process makes meanwhile is kept: this one is then applied to it.
    """
    bucket = await open_bucket(js)
    while True:
        try:
            entry = await bucket.get(COSTS_KEY)
            old, revision = parse_costs(entry.value), entry.revision
        except NotFoundError:
            old, revision = CostModel(), 0
        new = change.apply(old)
        if new == old:
            return old, new
        note = {"at": datetime.now(UTC), "costs": asdict(replace(new, slot=float("inf")))}
        try:
            await bucket.update(COSTS_KEY, orjson.dumps(note), last=revision)
            return old, new
        except KeyWrongLastSequenceError:
            continue


async def costs_history(js: JetStreamContext) -> list[tuple[datetime, CostModel]]:
    """The newest changes (at most `HISTORY`), oldest first."""
    values = [value async for value in bucket_entries(js, BUCKET, COSTS_KEY)]
    noted = [(orjson.loads(value)["at"], value) for value in values]
    return [(datetime.fromisoformat(at), parse_costs(value)) for at, value in noted]


async def present_costs(config: Settings) -> CostModel:
    """The present costs of a running stack. ConnectionError without one."""
    nc = await connect(config, "costs")
    try:
        return await read_costs(nc.jetstream())
    finally:
        await nc.close()


class LivePolicy:
    """The policy by the present costs and price. A request reads `current` once.

    Attributes:
        current: The policy in use; without a valid price nothing is reviewed.
    """

    def __init__(self) -> None:
        self.current = Policy(CostModel())
        self._costs = CostModel()
        self._seen: dict[str, int] = {}
        self._price = float("inf")
        self._priced_at = 0.0

    async def watch(self, nc: Client) -> None:
        """Follow the bucket. Runs until cancelled; what cannot be read keeps the costs."""
        while True:
            await self.look(nc)
            await asyncio.sleep(POLL_S)

    async def look(self, nc: Client) -> None:
        """Take the present costs and price, if NATS answers and they can be read."""
        try:
            await self.poll(nc.jetstream())
        except (NatsError, OSError, TimeoutError) as error:
            log.debug("polling for costs: %s", error)
        except (ValueError, TypeError, KeyError) as error:
            log.error("costs refused, keeping the present ones: %s", error)
        self._replace()

    async def poll(self, js: JetStreamContext) -> None:
        """Read costs and price once."""
        try:
            bucket = await js.key_value(BUCKET)
        except NotFoundError:
            return
        if (value := await self._news(bucket, COSTS_KEY)) is not None:
            self._costs = parse_costs(value)
            log.info("costs: %s", in_eur(self._costs))
        if (value := await self._news(bucket, PRICE_KEY)) is not None:
            slot = orjson.loads(value)["slot"]
            self._price = float("inf") if slot is None else float(slot)
            self._priced_at = monotonic()
        self._replace()

    async def _news(self, bucket: KeyValue, key: str) -> bytes | None:
        """The value of a key, None if it is missing or has been read before."""
        try:
            entry = await bucket.get(key)
        except NotFoundError:
            return None
        if entry.revision == self._seen.get(key):
            return None
        self._seen[key] = entry.revision or 0
        return entry.value

    def _replace(self) -> None:
        valid = monotonic() - self._priced_at < PRICE_VALID_S
        costs = replace(self._costs, slot=self._price if valid else float("inf"))
        if costs != self.current.costs:
            self.current = Policy(costs)
