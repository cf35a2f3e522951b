"""The walkthrough's views of inspection: follow one image, newest inspections, label one."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from time import perf_counter

import pyarrow.compute as pc
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from services.cv_inspection.features.score_map import DEFECT, DEFECT_THRESHOLD, NOVELTY
from services.cv_inspection.ingestion.events import (
    DECISIONS_STREAM,
    IMAGE,
    INSPECTION,
    LABEL,
    InspectionEvent,
    LabelEvent,
    parse_inspection,
    subject_token,
)
from services.cv_inspection.ingestion.labels import read_label
from services.cv_inspection.ingestion.tables import INSPECTIONS_TABLE
from services.cv_inspection.problem import ESCAPE_COST_MINOR, REINSPECTION_COST_MINOR
from services.cv_inspection.simulator.camera import Camera, Shot
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.stored import newest_messages
from services.platform.walkthrough import DecisionView, Mark, ScoreMap

NAME = "walkthrough"
_SEED = 7
# Images of the walkthrough are numbered from here: no simulation reaches it.
_FIRST, _IMAGES = 1_900_000_000, 90_000_000
_RESULT_S, _LAKE_S = 30.0, 60.0
# Inspections that the page labels.
_NOT_KEPT = "Its image was posted and is not kept; images that land in the store are shown here."
_LABELLED = 200
_NO_NOVELTY = "Its model's file gives no map of novelty: train the candidate anew for one."


async def follow(config: Settings) -> AsyncIterator[Mark]:
    """Put one image into the store, and tell where it arrives and when.

    Raises:
        OSError: an engine does not answer.
    """
    number = _FIRST + secrets.randbelow(_IMAGES)
    shot = await asyncio.to_thread(lambda: Camera(_SEED).shot(number))
    nc = await connect(config, NAME)
    try:
        notified = await nc.subscribe(f"{IMAGE}.>")
        inspected = await nc.subscribe(f"{INSPECTION}.>")
        lake = Lake(config)
        known = set(await asyncio.to_thread(lake.files, INSPECTIONS_TABLE))
        data = shot.jpeg()
        begin = perf_counter()
        yield Mark("camera", "taken", 0.0, None, f"{shot.key}: {len(data):,} bytes")
        inbox = Lake(config, config.inbox)
        await asyncio.to_thread(inbox.put, shot.key, data)
        yield Mark("store", "image is in the store", _since(begin), _since(begin), config.inbox)
        yield await _arrival(notified, shot, begin)
        async for mark in _inspected(config, inspected, shot, begin):
            yield mark
        yield await _row(lake, known, shot, begin)
    finally:
        await nc.close()


async def newest(config: Settings, count: int) -> list[DecisionView]:
    """The newest inspections, newest first.

    Raises:
        OSError: NATS does not answer.
    """
    nc = await connect(config, NAME)
    try:
        messages = await newest_messages(nc.jetstream(), DECISIONS_STREAM, count)
    except (NatsError, TimeoutError) as error:
        raise ConnectionError("the stream of inspections does not answer") from error
    finally:
        await nc.close()
    views = []
    for _, message in messages:
        # The lake writer dead-letters what can't be read.
        with suppress(ValueError):
            views.append(decision_view(parse_inspection(message.data or b"")))
    return views


async def label(config: Settings, identity: str, said: str) -> str:
    """Publish an operator's label of an inspected part.

    Returns:
        What it did, in a sentence.

    Raises:
        ValueError: it names no class of the inspection's model.
        LookupError: the inspection is not among the newest.
        OSError: NATS does not answer.
    """
    nc = await connect(config, NAME)
    try:
        js = nc.jetstream()
        messages = await newest_messages(js, DECISIONS_STREAM, _LABELLED)
        event = label_event(identity, said, [message.data or b"" for _, message in messages])
        await js.publish(f"{LABEL}.{subject_token(event.label)}", event.model_dump_json().encode())
    except (NatsError, TimeoutError) as error:
        raise ConnectionError("the stream did not take the label: send it again") from error
    finally:
        await nc.close()
    return f"Labelled {event.label}: the label is in the stream."


def label_event(identity: str, said: str, inspections: list[bytes]) -> LabelEvent:
    """An operator's label, with a class of the model that inspected the part.

    Args:
        inspections: The newest, as the stream has them.

    Raises:
        ValueError: it names no such class.
        LookupError: the inspection is none of these.
    """
    for data in inspections:
        if identity.encode() in data:
            classes = parse_inspection(data).probabilities
            label = read_label(said, classes)
            return LabelEvent(inspection_id=identity, label=label, by="walkthrough")
    raise LookupError(f"inspection {identity} is not among the newest {_LABELLED}")


async def _inspected(
    config: Settings, inspected: Subscription, shot: Shot, begin: float
) -> AsyncIterator[Mark]:
    message = await _wait(inspected, lambda data: shot.key.encode() in data)
    if message is None:
        yield Mark("inspection-worker", "not inspected yet", _since(begin))
        return
    event = parse_inspection(message)
    detail = f"{event.decision}: {event.label}, P(defect) {event.defect:.4f} against "
    detail += f"{event.threshold:.4f}, by {event.model}; the simulator drew {shot.label}"
    yield Mark("inspection-worker", "decoded, inspected, decided", _since(begin), None, detail)
    results = Lake(config, config.results)
    stored = await asyncio.to_thread(results.exists, event.mask_key or "")
    yield Mark("store", "mask is stored" if stored else "no mask", _since(begin), None,
               event.mask_key or "")  # fmt: skip
    yield Mark("nats", "inspection is in the stream", _since(begin), None, event.inspection_id)
    yield Mark("inspection-worker", "money", _since(begin), None, money(event.stopped))
    yield Mark("camera", "label", _since(begin), None, label_of(event))


def money(stopped: bool) -> str:
    """What the decision costs if it is wrong. P(defect) is not calibrated: the threshold is chosen.

    >>> money(stopped=False), money(stopped=True)
    ('60.00 EUR if it has a defect', '1.50 EUR if it is good')
    """
    if stopped:
        return f"{REINSPECTION_COST_MINOR / 100:,.2f} EUR if it is good"
    return f"{ESCAPE_COST_MINOR / 100:,.2f} EUR if it has a defect"


def label_of(event: InspectionEvent) -> str:
    """Which label the part gets, and when."""
    if event.stopped:
        return "the operator's, who looks at a part that was stopped"
    if event.audit:
        times = 1.0 / (event.propensity or 1.0)
        return f"the operator's, an audit of a part that passes; it counts {times:,.0f} times"
    return "none: it passes, unless a customer sends a defect back"


async def _arrival(notified: Subscription, shot: Shot, begin: float) -> Mark:
    found = await _wait(notified, lambda data: shot.key.encode() in data)
    stage = "the store's notification is in the stream" if found else "no notification yet"
    return Mark("inspector", stage, _since(begin))


async def _wait(subscription: Subscription, wanted: Callable[[bytes], bool]) -> bytes | None:
    """The first message that is wanted; None if none came in time."""
    end = perf_counter() + _RESULT_S
    while (left := end - perf_counter()) > 0:
        try:
            message = await subscription.next_msg(timeout=left)
        except TimeoutError:
            break
        if wanted(message.data):
            return bytes(message.data)
    return None


async def _row(lake: Lake, known: set[str], shot: Shot, begin: float) -> Mark:
    """Wait until the inspection's row is in the lake."""
    wanted = pc.field("key") == shot.key
    end = perf_counter() + _LAKE_S
    while perf_counter() < end:
        files = await asyncio.to_thread(lake.files, INSPECTIONS_TABLE)
        unread = [file for file in files if file not in known]
        rows = await asyncio.to_thread(lake.read_files, unread, ["key"], wanted)
        known |= set(unread)
        if rows is not None and len(rows):
            stage = f"row in {INSPECTIONS_TABLE}"
            return Mark("cv-lake-writer", stage, _since(begin), None, unread[-1])
        await asyncio.sleep(0.25)
    return Mark("cv-lake-writer", f"no row in {INSPECTIONS_TABLE} yet", _since(begin))


def decision_view(event: InspectionEvent) -> DecisionView:
    """An inspection as the page shows it, to be labelled with a class of its own model."""
    facts = {
        "class": event.label,
        "audited": "yes: it passes, and a person looks at it" if event.audit else "no",
        "mask covers": f"{event.defect_share:.1%}",
        "brightness": f"{event.quality.brightness:.2f}",
        "contrast": f"{event.quality.contrast:.2f}",
        "sharpness": f"{event.quality.sharpness:.3f}",
        "clipped": f"{event.quality.clipped:.1%}",
        **{f"P({name})": f"{p:.4f}" for name, p in event.probabilities.items()},
    }
    place = event.place
    return DecisionView(
        id=event.inspection_id,
        at=event.at.isoformat(),
        title=f"{place.line}, {place.station}, {place.lot}, {place.frame}",
        decision=event.decision,
        stopped=event.stopped,
        score=event.defect,
        threshold=event.threshold,
        model=event.model,
        reason=event.reason,
        note=_note(event),
        facts=facts,
        image=event.key or "",
        maps=score_maps(event),
        labels=tuple(event.probabilities),
    )


def score_maps(event: InspectionEvent) -> list[ScoreMap]:
    """The maps that are stored of an inspection; from before maps, the mask alone."""
    key = event.map_key or event.mask_key
    if key is None:
        return []
    found = [ScoreMap("Defect score", key, DEFECT, DEFECT_THRESHOLD, "P(defect) of a pixel")]
    if event.max_novelty is not None:
        unit = "novelty of a patch, in standard deviations of the good parts"
        found.append(ScoreMap("Novelty", key, NOVELTY, event.max_novelty, unit))
    return found


def _note(event: InspectionEvent) -> str:
    if event.key is None:
        return _NOT_KEPT
    if event.map_key is None:
        return "It was inspected before maps were stored: its mask is shown."
    return "" if event.max_novelty is not None else _NO_NOVELTY


def _since(begin: float) -> float:
    return (perf_counter() - begin) * 1e3
