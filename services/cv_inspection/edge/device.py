"""Inspection beside the camera: inspect a folder, keep the results, forward them later."""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.cv_inspection.ingestion.events import (
    ImageRef,
    InspectionEvent,
    inspection_id,
    inspection_subject,
    parse_inspection,
)
from services.cv_inspection.ingestion.images import READ_BYTES, InvalidImage
from services.cv_inspection.model import ImageModel, ModelFailed
from services.cv_inspection.problem import DESIGN
from services.cv_inspection.serving.inspect import inspect
from services.platform.progress import ProgressCallback
from services.platform.settings import Settings
from services.platform.streaming.connection import connect

log = logging.getLogger(__name__)

_SUFFIXES = (".jpg", ".jpeg", ".png")
# Seconds to wait for another process of the device that is writing.
_LOCK_TIMEOUT_S = 30.0


class InspectionStore:
    """A device's inspections, each stored once, with the state of their forwarding."""

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
        """Store an inspection; a known one is ignored."""
        with self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO inspections (id, event) VALUES (?, ?)",
                [event.inspection_id, event.model_dump_json().encode()],
            )

    def waiting(self) -> int:
        """How many inspections are to be forwarded."""
        found = self._db.execute("SELECT COUNT(*) FROM inspections WHERE NOT forwarded")
        return int(found.fetchone()[0])

    def pending(self) -> list[InspectionEvent]:
        """Inspections to forward, in the order of inspection.

        Those that another version stored, and that this one can't read, are logged and stay.
        """
        rows = self._db.execute(
            "SELECT id, event FROM inspections WHERE NOT forwarded ORDER BY rowid"
        )
        found = []
        for identity, event in rows:
            try:
                found.append(parse_inspection(event))
            except ValueError as error:
                log.warning("inspection %s stays on the device: %s", identity, error)
        return found

    def mark_forwarded(self, event: InspectionEvent) -> None:
        """Note that the stack has the inspection; of it, only the id is kept."""
        with self._db:
            self._db.execute(
                "UPDATE inspections SET forwarded = 1, event = x'' WHERE id = ?",
                [event.inspection_id],
            )


@contextmanager
def open_store(folder: Path) -> Iterator[InspectionStore]:
    """Open a device's store in a folder, creating it if needed. OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(folder / "inspections.sqlite", _LOCK_TIMEOUT_S)) as db:
            yield InspectionStore(db)
    except sqlite3.Error as error:
        raise OSError(f"store in {folder}: {error}") from error


def model_path(folder: Path) -> Path:
    """Path of a device's model."""
    return folder / f"{DESIGN}-int8.onnx"


@dataclass(frozen=True)
class EdgeRun:
    """The counts of one run.

    Attributes:
        inspected: Images inspected now.
        stopped: How many of them were rejected or need a review.
        known: Images that an earlier run inspected.
        bad: Why a file was not inspected, by path.
        waiting: Inspections that are still to be forwarded.
    """

    inspected: int
    stopped: int
    known: int
    bad: dict[str, str]
    waiting: int


def run(
    model: ImageModel,
    folder: Path,
    store: Path,
    step: ProgressCallback,
    audit_share: float = 0.0,
) -> EdgeRun:
    """Inspect a folder of images without a network, and store the inspections.

    Images that are in the store are not inspected again. A file that can't be read or is no image
    is named in the result, and the others are inspected.

    Args:
        folder: Its images, at any depth.
        store: Folder that keeps the inspections until `forward`.
        audit_share: Share of passed parts that a person looks at.

    Raises:
        OSError: the store can't be written.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    bad: dict[str, str] = {}
    inspected = stopped = known = 0
    with open_store(store) as inspections:
        for number, path in enumerate(files, start=1):
            step(number, len(files))
            image_ref = _image_ref(path, folder)
            try:
                data = _read(path)
                if inspection_id(image_ref, data) in inspections:
                    known += 1
                    continue
                at = datetime.now(UTC)
                event = inspect(model, data, image_ref, at, None, audit_share).event
            except (OSError, InvalidImage, ModelFailed, MemoryError) as error:
                bad[_text(path)] = str(error) or type(error).__name__
                continue
            inspections.add(event)
            inspected += 1
            stopped += event.stopped
        return EdgeRun(inspected, stopped, known, bad, inspections.waiting())


async def forward(settings: Settings, store: Path, step: ProgressCallback) -> int:
    """Publish the pending inspections. Returns how many; the others stay pending.

    Raises:
        ConnectionError, nats.errors.Error: the stack is not reachable; nothing is lost.
        OSError: the store can't be read.
    """
    with open_store(store) as inspections:
        pending = inspections.pending()
        if not pending:
            return 0
        nc = await connect(settings, "edge")
        try:
            js = nc.jetstream()
            for number, event in enumerate(pending, start=1):
                await js.publish(
                    inspection_subject(event),
                    event.model_dump_json().encode(),
                    headers={"Nats-Msg-Id": event.inspection_id},
                )
                # Last: a crash before this line sends it twice. The stream drops the second within
                # its duplicate window of two minutes; of later ones, readers count the first.
                inspections.mark_forwarded(event)
                step(number, len(pending))
        finally:
            await nc.close()
        return len(pending)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(READ_BYTES)


def _text(path: Path) -> str:
    """A path that can be printed; Linux allows names that are not UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def _image_ref(path: Path, folder: Path) -> ImageRef:
    """A file's reference: from its path where that has the form of a key."""
    relative = path.relative_to(folder)
    try:
        return ImageRef.from_key(relative.as_posix())
    except ValueError:
        frame = "".join(
            c if c.isalnum() or c in "_-" else "-" for c in str(relative.with_suffix(""))
        )
        return ImageRef(line="edge", station="edge", lot="edge", frame=frame[-80:])
