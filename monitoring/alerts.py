"""Alerts as events, `alerts.<design>.<kind>`: for people, `status`, and the scheduler."""

from datetime import datetime

from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError
from pydantic import BaseModel

STREAM = "ALERTS"
DRIFT = "drift"
_KEPT_S = 30 * 86_400.0


class Alert(BaseModel):
    """One alert.

    Attributes:
        at: When it was raised, UTC. window_begin: Event time the window began at.
        kind: The last part of its subject. model: "candidate:version" that was watched.
        said: What a person is told. findings: By detector, the columns that showed it.
        sources: By column, whose figures moved most, where somebody's did.
    """

    at: datetime
    window_begin: datetime
    design: str
    kind: str
    model: str
    said: str
    findings: dict[str, list[str]] = {}
    sources: dict[str, str] = {}


async def raise_alert(js: JetStreamContext, alert: Alert) -> None:
    """Publish an alert. nats.errors.Error if the stream did not take it."""
    try:
        await js.stream_info(STREAM)
    except NotFoundError:
        config = api.StreamConfig(name=STREAM, subjects=["alerts.>"], max_age=_KEPT_S)
        await js.add_stream(config)
    subject = f"alerts.{alert.design}.{alert.kind}"
    # A window that is looked at again after a restart raises the same alert, once.
    identity = f"{alert.design}-{alert.kind}-{alert.model}-{alert.window_begin.isoformat()}"
    data = alert.model_dump_json().encode()
    await js.publish(subject, data, headers={"Nats-Msg-Id": identity})


async def newest(js: JetStreamContext, most: int = 5) -> list[Alert]:
    """The newest alerts, newest first."""
    try:
        state = (await js.stream_info(STREAM)).state
    except NotFoundError:
        return []
    found = []
    for seq in range(state.last_seq, max(state.first_seq, state.last_seq - most + 1, 1) - 1, -1):
        message = await js.get_msg(STREAM, seq)
        found.append(Alert.model_validate_json(message.data or b""))
    return found
