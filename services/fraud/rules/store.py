"""Published sets of rules: the present one in a NATS bucket, all of them in a history.

A set is published in this order: its lists, a row of the history, the bucket. Scorers follow the
bucket. The row's sequence is the version, and the stream refuses a row unless it is the next one:
two publishers cannot make the same version, and the bucket never goes back to a lower one. A set
whose publisher ended between the two is announced by the next. The history's stream refuses
deletion, and no process deletes lists, so the skew audit can recompute every decision.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NotFoundError,
)
from nats.js.object_store import ObjectStore
from pydantic import BaseModel

from services.fraud.problem import DESIGN
from services.fraud.rules.files import Rules, shipped_rules
from services.fraud.rules.rule import RuleSet
from services.platform.streaming import stored
from services.platform.streaming.connection import ensure_bucket

BUCKET = "rules"
LISTS = "rule_lists"
HISTORY_STREAM = "FRAUD_RULE_HISTORY"
_SUBJECT = "rules.fraud"
_EXPECTED = "Nats-Expected-Last-Sequence"
# JetStream's error for a row that is not the next one.
_WRONG_LAST_SEQUENCE = 10071


class RulesConflict(ValueError):
    """Another set of rules was published meanwhile."""


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

    A retired set must be the acting one without one rule: another may act since it was read.

    Raises:
        RulesConflict: another set was published meanwhile.
        nats.errors.Error: NATS did not answer.
    """
    js = nc.jetstream()
    await _store_lists(js, rules.texts)
    last_seq = await stored.ensure_history(js, HISTORY_STREAM, [_SUBJECT])
    present = await _finish(js, last_seq, await current(js))
    if event is RulesEvent.retired and not _lacks_one_rule(rules.rule_set, present):
        raise _conflict(present)
    record = RulesRecord(
        at=datetime.now(UTC),
        event=event,
        before=present.version if present else 0,
        reasons=reasons,
        rule_set=rules.rule_set,
    )
    record = record.model_copy(update={"version": await _append(js, record, last_seq)})
    if event is not RulesEvent.refused:
        acting = await _announce(js, Announcement(version=record.version, rule_set=rules.rule_set))
        if acting.version > record.version:
            raise _conflict(acting)
    return record


async def _append(js: JetStreamContext, record: RulesRecord, last_seq: int) -> int:
    """Store a row as the next one; returns its version. RulesConflict if another is the next."""
    headers = {_EXPECTED: str(last_seq)}
    try:
        return (await js.publish(_SUBJECT, record.model_dump_json().encode(), headers=headers)).seq
    except APIError as error:
        if error.err_code != _WRONG_LAST_SEQUENCE:
            raise
        raise _conflict(await current(js)) from None


async def _announce(js: JetStreamContext, note: Announcement) -> Announcement:
    """Announce a set unless a later one acts; returns the set that acts."""
    bucket = await ensure_bucket(js, BUCKET)
    data = note.model_dump_json().encode()
    while True:
        found = await announced(js)
        acting = None if found is None else Announcement.model_validate_json(found[1])
        if acting is not None and acting.version >= note.version:
            return acting
        with suppress(KeyWrongLastSequenceError):  # another was announced: look again
            await bucket.update(DESIGN, data, last=0 if found is None else found[0])
            return note


async def _finish(
    js: JetStreamContext, last_seq: int, present: Announcement | None
) -> Announcement | None:
    """Announce the last published set if its publisher has not; returns the set that acts."""
    for seq in range(last_seq, present.version if present else 0, -1):
        message = await js.get_msg(HISTORY_STREAM, seq)
        record = RulesRecord.model_validate_json(message.data or b"")
        if record.event is not RulesEvent.refused:
            return await _announce(js, Announcement(version=seq, rule_set=record.rule_set))
    return present


def _lacks_one_rule(rule_set: RuleSet, acting: Announcement | None) -> bool:
    """Whether a set is the acting one, or the shipped one, without one of its rules."""
    whole = acting.rule_set if acting else shipped_rules().rule_set
    kept = {rule.id for rule in rule_set.rules}
    rules = tuple(rule for rule in whole.rules if rule.id in kept)
    expected = whole.model_copy(update={"rules": rules})
    return len(rules) == len(whole.rules) - 1 and rule_set == expected


def _conflict(acting: Announcement | None) -> RulesConflict:
    version = f"version {acting.version}" if acting else "another set"
    return RulesConflict(
        f"{version} was published meanwhile: look at it (`whiteboard rules {DESIGN} list`), and "
        "run the command again"
    )


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
