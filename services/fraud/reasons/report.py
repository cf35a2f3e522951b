"""A decision with its reasons as one JSON document, and where it is kept.

Kept in a key-value bucket of the stream's server, under the decision's id: it survives restarts,
one process writes, and the scorer and `whiteboard why` read. Writing it twice changes nothing. A
report has some 6 KB, so it goes after `KEPT_S`; the decision stays in the lake, and from it
`whiteboard why` makes the report again.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from nats.js import JetStreamContext
from nats.js.errors import BucketNotFoundError, KeyNotFoundError
from nats.js.kv import KeyValue

from features.spec import DAY
from services.fraud.features.states import FEATURES
from services.fraud.problem import DISPUTE_WINDOW_DAYS
from services.fraud.reasons.explainer import Explanation
from services.platform.streaming.connection import ensure_bucket

BUCKET = "fraud_reasons"
# At 200 decisions a second, of which 1 to 2 % have a report: 15 to 30 GB.
KEPT_S = DISPUTE_WINDOW_DAYS * DAY
DECLINE, REVIEW = "decline", "review"
EXPLAINED = (DECLINE, REVIEW)
_ID = re.compile(r"^[0-9A-Za-z_-]{1,64}$")
# What an event holds that the report words differently.
_REPLACED = ("features", "seqs")


def make_report(event: Mapping[str, Any], found: Explanation | None, note: str) -> dict[str, Any]:
    """The report on a decision.

    Args:
        event: The decision event; fields that it has beyond those known here, such as the rules
            that fired, are kept as they are.
        found: Its explanation; None if it cannot be explained.
        note: Why not.
    """
    kept = {name: value for name, value in event.items() if name not in _REPLACED}
    explanation = {"reasons": [], "note": note} if found is None else found.as_dict()
    vector = dict(zip(FEATURES, event["features"], strict=False))
    return {**kept, **explanation, "vector": vector, "versions": event["seqs"]}


async def open_bucket(js: JetStreamContext) -> KeyValue:
    """The bucket of reports, made where it is missing."""
    return await ensure_bucket(js, BUCKET, KEPT_S)


def encoded(report: Mapping[str, Any]) -> bytes:
    """A report as the JSON that is stored."""
    return orjson.dumps(report, option=orjson.OPT_SERIALIZE_NUMPY)


async def store(bucket: KeyValue, report: Mapping[str, Any]) -> None:
    """Store a report under its decision's id."""
    await bucket.put(str(report["decision_id"]), encoded(report))


async def fetch(js: JetStreamContext, decision_id: str) -> dict[str, Any] | None:
    """The report on a decision; None if there is none.

    Raises:
        nats.errors.Error: NATS does not answer.
    """
    if not _ID.match(decision_id):
        return None
    try:
        bucket = await js.key_value(BUCKET)
        entry = await bucket.get(decision_id)
    except (BucketNotFoundError, KeyNotFoundError):
        return None
    report: dict[str, Any] = orjson.loads(entry.value or b"{}")
    return report
