"""Batch: inspect the images of a manifest in parallel; a run that was killed can be resumed.

The manifest has the format of S3 Batch Operations: CSV rows of bucket and key, keys URL-encoded
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/batch-ops-create-job.html). The report has a
row for each object: bucket, key, status (succeeded or failed), decision, label, defect, model and
error. It is written during the run, so the next run skips what it lists as succeeded.
"""

import csv
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote_plus, urlsplit

from services.cv_inspection.ingestion.events import ImageRef
from services.cv_inspection.serving.inspect import inspect
from services.cv_inspection.serving.model import DESIGN, ImageModel, read_model
from services.platform.models.names import served_path
from services.platform.progress import ProgressCallback
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

COLUMNS = ("bucket", "key", "status", "decision", "label", "defect", "model", "error")
SUCCEEDED, FAILED = "succeeded", "failed"


@dataclass(frozen=True)
class ManifestRow:
    """One row of a manifest."""

    bucket: str
    key: str


@dataclass(frozen=True)
class BatchSummary:
    """How a batch ended.

    Attributes:
        succeeded: Objects inspected now.
        failed: Objects that could not be inspected; the report says why.
        resumed: Objects that the report listed as succeeded before.
        report: Path of the report.
    """

    succeeded: int
    failed: int
    resumed: int
    report: Path


def read_manifest(settings: Settings, location: str) -> list[ManifestRow]:
    """Rows of a manifest, a file or `s3://bucket/key`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a CSV, or a line is not a row; the message names the line.
    """
    url = urlsplit(location)
    if url.scheme == "s3":
        data = Lake(settings, url.netloc).get(url.path.lstrip("/"))
    else:
        data = Path(location).read_bytes()
    rows = []
    for number, row in enumerate(_rows(location, data), start=1):
        if not row:
            continue
        if len(row) not in (2, 3) or not row[0].strip() or not row[1].strip():
            raise ValueError(f"{location}, line {number}: not Bucket,Key: {','.join(row)[:80]!r}")
        if number == 1 and row[0].strip().lower() == "bucket":
            continue
        rows.append(ManifestRow(row[0].strip(), unquote_plus(row[1].strip())))
    return rows


def _rows(location: str, data: bytes) -> list[list[str]]:
    try:
        # Spreadsheet programs write a byte order mark.
        return list(csv.reader(data.decode("utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{location} is not a CSV in UTF-8: {error}") from None


def run(
    settings: Settings,
    manifest: list[ManifestRow],
    report: Path,
    workers: int,
    step: ProgressCallback,
) -> BatchSummary:
    """Inspect the objects that the report does not list as succeeded.

    Args:
        workers: Images inspected at the same time.

    Raises:
        FileNotFoundError: there is no champion yet.
        OSError: S3 does not answer.
        ValueError: the report's path is a file of another kind.
    """
    model = read_model(Lake(settings).get(served_path(DESIGN)))
    has_rows = _drop_partial_row(report)
    done = set(_succeeded(report)) if has_rows else set()
    remaining = [row for row in dict.fromkeys(manifest) if row not in done]
    resumed = len(set(manifest)) - len(remaining)
    counts = {SUCCEEDED: 0, FAILED: 0}
    lock = threading.Lock()
    stores = {bucket: Lake(settings, bucket) for bucket in {row.bucket for row in remaining}}
    with report.open("a", newline="") as file, ThreadPoolExecutor(workers) as pool:
        writer = csv.DictWriter(file, COLUMNS)
        if not has_rows:
            writer.writeheader()

        def inspect_and_report(row: ManifestRow) -> None:
            entry = _inspect_row(model, stores[row.bucket], row)
            with lock:
                writer.writerow(entry)
                file.flush()
                counts[entry["status"]] += 1
                step(resumed + sum(counts.values()), resumed + len(remaining))

        list(pool.map(inspect_and_report, remaining))
    return BatchSummary(counts[SUCCEEDED], counts[FAILED], resumed, report)


def _inspect_row(model: ImageModel, store: Lake, row: ManifestRow) -> dict[str, str]:
    entry = {"bucket": row.bucket, "key": row.key}
    try:
        data = store.get(row.key)
        event = inspect(model, data, _image_ref(row), datetime.now(UTC), row.key).event
    except FileNotFoundError:
        return {**entry, "status": FAILED, "error": "no such object"}
    except (OSError, ValueError) as error:
        return {**entry, "status": FAILED, "error": " ".join(str(error).split())[:300]}
    return {
        **entry,
        "status": SUCCEEDED,
        "decision": event.decision,
        "label": event.label,
        "defect": f"{event.defect:.6f}",
        "model": event.model,
        "error": "",
    }


def _image_ref(row: ManifestRow) -> ImageRef:
    """An object's reference; a manifest may name keys of any form."""
    try:
        return ImageRef.from_key(row.key)
    except ValueError:
        digest = hashlib.sha256(row.key.encode()).hexdigest()[:32]
        return ImageRef(line="batch", station="batch", lot="batch", frame=digest)


def _drop_partial_row(report: Path) -> bool:
    """Remove a last row that a crash left incomplete. Returns whether the report has rows.

    ValueError if the file is not a report.
    """
    data = report.read_bytes() if report.exists() else b""
    header = ",".join(COLUMNS).encode()
    if not data.startswith(header[: len(data)]):
        raise ValueError(f"{report} exists and is not a batch report: --report another file")
    complete = data[: data.rfind(b"\n") + 1]
    if complete != data:
        report.write_bytes(complete)
    return bool(complete)


def _succeeded(report: Path) -> Iterator[ManifestRow]:
    """Objects that a report lists as succeeded."""
    with report.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] == SUCCEEDED:
                yield ManifestRow(row["bucket"], row["key"])
