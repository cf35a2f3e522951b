"""Published sets of rules: the present one in a NATS bucket, all of them in a history.

A set is published in this order: its lists, a row of the history, the bucket. Scorers follow the
bucket. The row's sequence is the version, and the stream refuses a row unless it is the next one:
two publishers cannot make the same version. The history's stream refuses deletion, and no process
deletes lists, so the skew audit can recompute every decision.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, NotFoundError
from nats.js.object_store import ObjectStore
from pydantic import BaseModel

from services.fraud.problem import DESIGN
from services.fraud.rules.files import Rules
from services.fraud.rules.rule import RuleSet
from services.platform.streaming import stored
from services.platform.streaming.connection import ensure_bucket

BUCKET = "rules"
LISTS = "rule_lists"
HISTORY_STREAM = "FRAUD_RULE_HISTORY"
_SUBJECT = "rules.fraud"
_EXPECTED = "Nats-Expected-Last-Sequence"


class RulesEvent(StrEnum):
    """What happened to a set of rules."""

    published = "published"
    refused = "refused"
    retired = "retired"


class RulesRecord(BaseModel):
    """One row of the history.

    Attributes:
        version: Its number; 0 before the row is stored.
        at: When, UTC.
        event: What happened; a refused set never acted.
        before: Version that acted until then; 0: the shipped rules.
        reasons: Why, or what is different, a clause each.
        rule_set: The set.
    """

    version: int = 0
    at: datetime
    event: RulesEvent
    before: int
    reasons: list[str]
    rule_set: RuleSet


class Announcement(BaseModel):
    """What the bucket holds: the set that acts, and its version."""

    version: int
    rule_set: RuleSet


async def current(js: JetStreamContext) -> Announcement | None:
    """The set that was announced last; None if there is none.

    Raises:
        pydantic.ValidationError: what is announced is no set of rules.
        nats.errors.Error: NATS did not answer.
    """
    found = await announced(js)
    return None if found is None else Announcement.model_validate_json(found[1])


async def announced(js: JetStreamContext) -> tuple[int, bytes] | None:
    """Revision and content of the announcement; None if there is none."""
    try:
        entry = await (await js.key_value(BUCKET)).get(DESIGN)
    except (BucketNotFoundError, KeyNotFoundError):
        return None
    return entry.revision or 0, entry.value or b""


async def publish(
    nc: Client,
    rules: Rules,
    reasons: list[str],
    event: RulesEvent = RulesEvent.published,
) -> RulesRecord:
    """Store a set of rules as the next version, and announce it unless it is refused.

    Raises:
        nats.errors.Error: NATS did not answer, or another set was published meanwhile.
    """
    js = nc.jetstream()
    await _store_lists(js, rules.texts)
    last_seq = await stored.ensure_history(js, HISTORY_STREAM, [_SUBJECT])
    present = await current(js)
    record = RulesRecord(
        at=datetime.now(UTC),
        event=event,
        before=present.version if present else 0,
        reasons=reasons,
        rule_set=rules.rule_set,
    )
    data = record.model_dump_json().encode()
    ack = await js.publish(_SUBJECT, data, headers={_EXPECTED: str(last_seq)})
    record = record.model_copy(update={"version": ack.seq})
    if event is not RulesEvent.refused:
        bucket = await ensure_bucket(js, BUCKET)
        note = Announcement(version=record.version, rule_set=rules.rule_set)
        await bucket.put(DESIGN, note.model_dump_json().encode())
    return record


async def history(js: JetStreamContext) -> list[RulesRecord]:
    """All rows, oldest first; none before the first set was published."""
    return [
        RulesRecord.model_validate_json(message.data or b"").model_copy(update={"version": seq})
        async for seq, message in stored.history(js, HISTORY_STREAM)
    ]


async def list_texts(js: JetStreamContext, rule_set: RuleSet) -> dict[str, bytes]:
    """By digest, the content of the lists of a set. NotFoundError if one is not stored."""
    wanted = {reference.digest for reference in rule_set.lists.values()}
    if not wanted:
        return {}
    store = await js.object_store(LISTS)
    return {digest: (await store.get(digest)).data or b"" for digest in wanted}


async def _store_lists(js: JetStreamContext, texts: Mapping[str, bytes]) -> None:
    if not texts:
        return
    store = await _ensure_lists(js)
    for digest, text in texts.items():
        try:
            await store.get_info(digest)
        except NotFoundError:
            await store.put(digest, text)


async def _ensure_lists(js: JetStreamContext) -> ObjectStore:
    try:
        return await js.object_store(LISTS)
    except NotFoundError:
        return await js.create_object_store(bucket=LISTS)
