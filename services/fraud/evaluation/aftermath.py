"""What follows one decision on the walkthrough's page: its money, reasons, review and label."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, TypeVar

import orjson
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from services.fraud.ingestion.events import VERDICT, VERDICTS_STREAM
from services.fraud.problem import DISPUTE_WINDOW_DAYS, OUTCOMES, CostModel
from services.fraud.reasons.report import fetch
from services.fraud.review.live import read_costs
from services.platform.walkthrough import Mark

T = TypeVar("T")

# How long reasons and a verdict are waited for: simulated analysts take a quarter of a second.
_REASONS_S, _VERDICT_S, _POLL_S = 3.0, 5.0, 0.05


async def aftermath(
    js: JetStreamContext, answer: Mapping[str, Any], amount_minor: int, begin: float
) -> AsyncIterator[Mark]:
    """What a decision is expected to cost, why it was taken, who reviews it, and its label.

    Args:
        answer: The scorer's answer.
        begin: When it was requested, by `perf_counter`.

    Raises:
        OSError: NATS does not answer.
    """

    def since() -> float:
        return (perf_counter() - begin) * 1e3

    try:
        costs = await read_costs(js)
        yield Mark("scorer", "money", since(), None, money(costs, answer["score"], amount_minor))
        outcome, identity = answer["decision"], answer["decision_id"]
        if outcome != "approve":
            report = await _until(lambda: fetch(js, identity), _REASONS_S)
            said = "no reasons yet" if report is None else "reasons are written"
            yield Mark("reasons", said, since(), None, first_reason(report))
        verdict = None
        if outcome == "review":
            verdict = await _until(lambda: _verdict(js, identity), _VERDICT_S)
            said = "the case waits for an analyst" if verdict is None else "reviewed"
            yield Mark("analysts", said, since(), None, reviewed(verdict))
        yield Mark("gateway", "label", since(), None, label(answer, verdict))
    except (NatsError, TimeoutError) as error:
        raise ConnectionError("NATS does not answer") from error


async def _until(ask: Callable[[], Awaitable[T | None]], seconds: float) -> T | None:
    """The first answer that is not None; None if none came in time."""
    end = perf_counter() + seconds
    while (found := await ask()) is None and perf_counter() < end:
        await asyncio.sleep(_POLL_S)
    return found


async def _verdict(js: JetStreamContext, decision_id: str) -> dict[str, Any] | None:
    try:
        message = await js.get_last_msg(VERDICTS_STREAM, f"{VERDICT}.{decision_id}")
    except NotFoundError:
        return None
    found: dict[str, Any] = orjson.loads(message.data or b"{}")
    return found


def money(costs: CostModel, score: float, amount_minor: int) -> str:
    """The expected cost of each outcome, EUR, a review without the price of its slot.

    >>> money(CostModel(), 0.3, 5_000)
    'expected cost: approve 19.50 EUR, decline 3.50 EUR, review 2.54 EUR and its slot'
    """
    expected = zip(OUTCOMES, costs.expected(score, amount_minor), strict=True)
    parts = ", ".join(f"{name} {cost / 100:,.2f} EUR" for name, cost in expected)
    return f"expected cost: {parts} and its slot"


def first_reason(report: Mapping[str, Any] | None) -> str:
    """The first reason of a report, in words.

    >>> first_reason({"fired": ["stolen-device"], "reasons": []}), first_reason(None)
    ('rule stolen-device', '')
    """
    if report is None:
        return ""
    texts = [f"rule {name}" for name in report.get("fired") or ()]
    texts += [reason["text"] for reason in report.get("reasons", ())]
    return texts[0] if texts else str(report.get("note", ""))


def reviewed(verdict: Mapping[str, Any] | None) -> str:
    """What an analyst said.

    >>> reviewed({"verdict": "fraud", "outcome": "decline", "by": "ann", "waited_s": 0.2})
    'fraud, so decline, by ann after 0.2 s in the queue'
    """
    if verdict is None:
        return ""
    said = verdict["verdict"] or "no verdict"
    waited = f"after {verdict['waited_s']:.1f} s in the queue"
    return f"{said}, so {verdict['outcome']}, by {verdict['by']} {waited}"


def label(answer: Mapping[str, Any], verdict: Mapping[str, Any] | None) -> str:
    """Which label the transaction gets, and when.

    >>> label({"decision": "decline"}, None)
    'none: what is declined has no chargeback'
    """
    outcome = answer["decision"] if verdict is None else verdict["outcome"]
    if verdict is not None and verdict["verdict"] == "fraud":
        return "fraud, at once: an analyst said so"
    if outcome == "decline":
        return "none: what is declined has no chargeback"
    comes = f"a chargeback, or undisputed after {DISPUTE_WINDOW_DAYS} days"
    if answer.get("control"):
        return f"{comes}; it counts {1 / answer['propensity']:,.0f} times, as a control"
    return comes if outcome == "approve" else f"{comes}, if it is approved"
