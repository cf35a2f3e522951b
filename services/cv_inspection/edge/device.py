"""Inspection beside the camera: a folder of images, results kept until the network is back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.cv_inspection.ingestion.events import (
    INSPECTION,
    BadImage,
    InspectionEvent,
    Place,
    inspection_id,
    parse_inspection,
)
from services.cv_inspection.serving.inspect import inspect
from services.cv_inspection.serving.model import DESIGN, ImageModel
from services.platform.progress import Step
from services.platform.settings import Settings
from services.platform.streaming.consumer import connect

_SUFFIXES = (".jpg", ".jpeg", ".png")
# Another process of the device may be writing.
_PATIENCE_S = 30.0


class Store:
    """A device's inspections, each once, until and after they are forwarded."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS inspections "
            "(id TEXT PRIMARY KEY, event BLOB NOT NULL, forwarded INTEGER NOT NULL DEFAULT 0)"
        )

    def __contains__(self, identity: str) -> bool:
        found = self._db.execute("SELECT 1 FROM inspections WHERE id = ?", [identity])
        return found.fetchone() is not None

    def add(self, event: InspectionEvent) -> None:
        """Keep an inspection; one that is known changes nothing."""
        with self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO inspections (id, event) VALUES (?, ?)",
                [event.inspection_id, event.model_dump_json().encode()],
            )

    def waiting(self) -> list[InspectionEvent]:
        """What is to be forwarded, in the order it was seen."""
        found = self._db.execute("SELECT event FROM inspections WHERE NOT forwarded ORDER BY rowid")
        return [parse_inspection(event) for (event,) in found]

    def forwarded(self, event: InspectionEvent) -> None:
        """The stack has it."""
        with self._db:
            self._db.execute(
                "UPDATE inspections SET forwarded = 1 WHERE id = ?", [event.inspection_id]
            )


@contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """A device's store in a folder, made if it is not there. OSError if it can't be."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(folder / "inspections.sqlite", _PATIENCE_S)) as db:
            yield Store(db)
    except sqlite3.Error as error:
        raise OSError(f"store in {folder}: {error}") from error


def model_path(folder: Path) -> Path:
    """Where a device's model is."""
    return folder / f"{DESIGN}-int8.onnx"


@dataclass(frozen=True)
class Run:
    """What an edge run did.

    Attributes:
        known: Pictures that an earlier run had seen. bad: Why, by file that is no picture.
        waiting: Inspections that are still to be forwarded.
    """

    inspected: int
    stopped: int
    known: int
    bad: dict[str, str]
    waiting: int


def run(model: ImageModel, folder: Path, store: Path, step: Step) -> Run:
    """Inspect a folder of pictures with no network, and keep what was seen.

    What is kept already is not looked at again.

    Args:
        store: A folder; inspections wait in it until `forward`.

    Raises:
        OSError: the folder can't be read, or the store not be written.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    bad: dict[str, str] = {}
    inspected = stopped = known = 0
    with open_store(store) as kept:
        for number, path in enumerate(files, start=1):
            step(number, len(files))
            data, place = path.read_bytes(), _place(path, folder)
            if inspection_id(place, data) in kept:
                known += 1
                continue
            try:
                event = inspect(model, data, place, datetime.now(UTC)).event
            except BadImage as error:
                bad[str(path)] = str(error)
                continue
            kept.add(event)
            inspected += 1
            stopped += event.stopped
        return Run(inspected, stopped, known, bad, len(kept.waiting()))


async def forward(settings: Settings, store: Path, step: Step) -> int:
    """Publish what waits. Returns how many; what the stream did not take goes on waiting.

    Raises:
        ConnectionError, nats.errors.Error: the stack is away; nothing is lost.
        OSError: the store can't be read.
    """
    with open_store(store) as kept:
        waiting = kept.waiting()
        if not waiting:
            return 0
        nc = await connect(settings, "edge")
        try:
            js = nc.jetstream()
            for number, event in enumerate(waiting, start=1):
                await js.publish(
                    f"{INSPECTION}.{event.place.line}",
                    event.model_dump_json().encode(),
                    headers={"Nats-Msg-Id": event.inspection_id},
                )
                # Only now: dying before this line sends it twice, and its identity bears it.
                kept.forwarded(event)
                step(number, len(waiting))
        finally:
            await nc.close()
        return len(waiting)


def _place(path: Path, folder: Path) -> Place:
    """A file's place: its own path where that has the parts, the folder's name otherwise."""
    relative = path.relative_to(folder)
    try:
        return Place.of(str(relative))
    except ValueError:
        frame = "".join(
            c if c.isalnum() or c in "_-" else "-" for c in str(relative.with_suffix(""))
        )
        return Place(line="edge", station="edge", lot="edge", frame=frame[-80:])
