"""Batch: inspect the images of a manifest in parallel; a run that was killed can be resumed.

The manifest has the format of S3 Batch Operations: CSV rows of bucket, key and optional version,
keys URL-encoded (https://docs.aws.amazon.com/AmazonS3/latest/userguide/batch-ops-create-job.html).
The report has a row for each object: bucket, key, status (succeeded or failed), decision, label,
defect, model, error and version. It is written during the run: the next run skips what it lists as
succeeded, and tries again what failed.
"""

import csv
import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote_plus, urlsplit

from services.cv_inspection.ingestion.events import ImageRef
from services.cv_inspection.ingestion.images import READ_BYTES
from services.cv_inspection.model import ImageModel, ModelFailed, read_model
from services.cv_inspection.problem import DESIGN
from services.cv_inspection.serving.inspect import inspect
from services.platform.models.served_file import get_served
from services.platform.progress import ProgressCallback
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.signed import get_version

COLUMNS = ("bucket", "key", "status", "decision", "label", "defect", "model", "error", "version")
# Reports of earlier versions lack the last column.
_REQUIRED_COLUMNS = COLUMNS[:-1]
_HEADER = ["bucket", "key"]
SUCCEEDED, FAILED = "succeeded", "failed"


@dataclass(frozen=True)
class ManifestRow:
    """One row of a manifest.

    Attributes:
        bucket: Bucket of the object.
        key: Its key, decoded.
        version: Its version, empty for the newest.
    """

    bucket: str
    key: str
    version: str = ""


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
    rows: list[ManifestRow] = []
    for number, row in _rows(location, data):
        if len(row) not in (2, 3) or not row[0].strip() or not row[1].strip():
            text = ",".join(row)[:80]
            raise ValueError(f"{location}, line {number}: not Bucket,Key[,VersionId]: {text!r}")
        if not rows and [cell.strip().lower() for cell in row[:2]] == _HEADER:
            continue
        try:
            rows.append(_manifest_row(*(cell.strip() for cell in row)))
        except UnicodeDecodeError:
            raise ValueError(
                f"{location}, line {number}: the key is not URL-encoded UTF-8: {row[1][:80]!r}"
            ) from None
    return rows


def _manifest_row(bucket: str, key: str, version: str = "") -> ManifestRow:
    """UnicodeDecodeError if the key is not URL-encoded UTF-8."""
    return ManifestRow(bucket, unquote_plus(key, errors="strict"), version)


def _rows(location: str, data: bytes) -> list[tuple[int, list[str]]]:
    """The rows that have cells, each with the number of its last line."""
    try:
        # Spreadsheet programs write a byte order mark.
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        return [(reader.line_num, row) for row in reader if row]
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
        OSError: S3 does not answer.
        ValueError: there is no champion yet, or the report's path is a file of another kind.
    """
    model = _champion(settings)
    known = _read_report(report)
    done = {row for row, entry in known.items() if entry["status"] == SUCCEEDED}
    remaining = [row for row in dict.fromkeys(manifest) if row not in done]
    resumed = len(set(manifest)) - len(remaining)
    again = set(remaining)
    _write_report(report, [entry for row, entry in known.items() if row not in again])
    counts = {SUCCEEDED: 0, FAILED: 0}
    lock = threading.Lock()
    stores = {bucket: Lake(settings, bucket) for bucket in {row.bucket for row in remaining}}
    with (
        report.open("a", newline="", encoding="utf-8") as file,
        ThreadPoolExecutor(workers) as pool,
    ):
        writer = csv.DictWriter(file, COLUMNS)

        def inspect_and_report(row: ManifestRow) -> None:
            entry = _inspect_row(settings, model, stores[row.bucket], row)
            with lock:
                writer.writerow(entry)
                file.flush()
                counts[entry["status"]] += 1
                step(resumed + sum(counts.values()), resumed + len(remaining))

        list(pool.map(inspect_and_report, remaining))
    return BatchSummary(counts[SUCCEEDED], counts[FAILED], resumed, report)


def _champion(settings: Settings) -> ImageModel:
    try:
        return read_model(get_served(settings, DESIGN))
    except FileNotFoundError:
        raise ValueError(
            "no champion to inspect with: `whiteboard up`, or `whiteboard train cv --promote`"
        ) from None


def _inspect_row(
    settings: Settings, model: ImageModel, store: Lake, row: ManifestRow
) -> dict[str, str]:
    entry = {"bucket": row.bucket, "key": row.key, "version": row.version}
    try:
        data = _fetch(settings, store, row)
        event = inspect(model, data, _image_ref(row), datetime.now(UTC), None).event
    except FileNotFoundError:
        return {**entry, "status": FAILED, "error": _missing(row)}
    except (OSError, ValueError, ModelFailed, MemoryError) as error:
        text = str(error) or type(error).__name__
        return {**entry, "status": FAILED, "error": " ".join(text.split())[:300]}
    return {
        **entry,
        "status": SUCCEEDED,
        "decision": event.decision,
        "label": event.label,
        "defect": f"{event.defect:.6f}",
        "model": event.model,
        "error": "",
    }


def _fetch(settings: Settings, store: Lake, row: ManifestRow) -> bytes:
    if row.version:
        return get_version(settings, row.bucket, row.key, row.version, READ_BYTES)
    return store.get(row.key, READ_BYTES)


def _missing(row: ManifestRow) -> str:
    return f"no such object, or not version {row.version}" if row.version else "no such object"


def _image_ref(row: ManifestRow) -> ImageRef:
    """An object's reference; a manifest may name keys of any form."""
    try:
        return ImageRef.from_key(row.key)
    except ValueError:
        digest = hashlib.sha256(row.key.encode()).hexdigest()[:32]
        return ImageRef(line="batch", station="batch", lot="batch", frame=digest)


def _read_report(report: Path) -> dict[ManifestRow, dict[str, str]]:
    """The rows of a report by object, the last of each; a row that a crash cut off is left out.

    ValueError if the file is not a report.
    """
    data = report.read_bytes() if report.exists() else b""
    header, old = (",".join(names).encode() for names in (COLUMNS, _REQUIRED_COLUMNS))
    complete = data[: data.rfind(b"\n") + 1]
    is_report = complete.splitlines()[0] in (header, old) if complete else header.startswith(data)
    if not is_report:
        raise ValueError(f"{report} exists and is not a batch report: --report another file")
    lines = io.StringIO(complete.decode("utf-8", errors="replace"), newline="")
    entries = ({"version": "", **entry} for entry in csv.DictReader(lines))
    return {
        ManifestRow(entry["bucket"], entry["key"], entry["version"]): entry for entry in entries
    }


def _write_report(report: Path, entries: list[dict[str, str]]) -> None:
    """Replace a report by some of its rows; a crash leaves the old report or the new one."""
    new = report.with_name(f"{report.name}.new")
    with new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(entries)
    new.replace(report)
