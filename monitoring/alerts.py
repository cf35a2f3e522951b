"""Alerts as events, `alerts.<design>.<kind>`: for people, `status`, and the scheduler."""

from contextlib import suppress
from datetime import datetime

from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError
from pydantic import BaseModel, ValidationError

STREAM = "ALERTS"
DRIFT = "drift"
_KEPT_S = 30 * 86_400.0


class Alert(BaseModel):
    """One alert.

    Attributes:
        at: When it was raised, UTC.
        window_begin: Event time at which the window began.
        design: Name of the design.
        kind: The last part of its subject.
        model: "candidate:version" that was monitored.
        said: The message.
        findings: By detector, the columns that drifted.
        sources: By column, the source whose values moved most, where one did.
        dominated_by: The source of nearly all decisions, if others are known: no reason to retrain.
        examples: Subjects (images) with the most extreme values, where a column has too many.
    """

    at: datetime
    window_begin: datetime
    design: str
    kind: str
    model: str
    said: str
    findings: dict[str, list[str]] = {}
    sources: dict[str, str] = {}
    dominated_by: str = ""
    examples: list[str] = []


async def raise_alert(js: JetStreamContext, alert: Alert) -> None:
    """Publish an alert. nats.errors.Error if the stream did not take it."""
    try:
        await js.stream_info(STREAM)
    except NotFoundError:
        config = api.StreamConfig(name=STREAM, subjects=["alerts.>"], max_age=_KEPT_S)
        await js.add_stream(config)
    subject = f"alerts.{alert.design}.{alert.kind}"
    # A window that is compared again after a restart publishes the same alert: it is stored once.
    identity = f"{alert.design}-{alert.kind}-{alert.model}-{alert.window_begin.isoformat()}"
    data = alert.model_dump_json().encode()
    await js.publish(subject, data, headers={"Nats-Msg-Id": identity})


async def newest_alerts(js: JetStreamContext, limit: int = 5) -> list[Alert]:
    """The newest alerts, newest first."""
    try:
        state = (await js.stream_info(STREAM)).state
    except NotFoundError:
        return []
    found = []
    for seq in range(state.last_seq, max(state.first_seq, state.last_seq - limit + 1, 1) - 1, -1):
        with suppress(NotFoundError, ValidationError):  # deleted, or not an alert
            message = await js.get_msg(STREAM, seq)
            found.append(Alert.model_validate_json(message.data or b""))
    return found
