"""Batch: a manifest of pictures, inspected in parallel; killed, it goes on where it stopped.

The manifest is S3 Batch Operations': CSV rows of bucket and key, keys URL-encoded
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/batch-ops-create-job.html). The report has a
row for each object: bucket, key, status (succeeded or failed), decision, label, defect, and why
not. It is written as the work goes on and says by itself what is done.
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

from services.cv_inspection.ingestion.events import Place
from services.cv_inspection.serving.inspect import inspect
from services.cv_inspection.serving.model import DESIGN, ImageModel, read_model
from services.platform.models.served_model import champion_path
from services.platform.progress import Step
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

COLUMNS = ("bucket", "key", "status", "decision", "label", "defect", "model", "error")
SUCCEEDED, FAILED = "succeeded", "failed"


@dataclass(frozen=True)
class Item:
    """One row of a manifest."""

    bucket: str
    key: str


@dataclass(frozen=True)
class Done:
    """How a batch ended. `resumed` were in the report already."""

    succeeded: int
    failed: int
    resumed: int
    report: Path


def read_manifest(settings: Settings, where: str) -> list[Item]:
    """Rows of a manifest, a file or `s3://bucket/key`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no CSV, or names the line that is no row.
    """
    url = urlsplit(where)
    if url.scheme == "s3":
        data = Lake(settings, url.netloc).get(url.path.lstrip("/"))
    else:
        data = Path(where).read_bytes()
    items = []
    for number, row in enumerate(_rows(where, data), start=1):
        if not row:
            continue
        if len(row) not in (2, 3) or not row[0].strip() or not row[1].strip():
            raise ValueError(f"{where}, line {number}: not Bucket,Key: {','.join(row)[:80]!r}")
        if number == 1 and row[0].strip().lower() == "bucket":
            continue
        items.append(Item(row[0].strip(), unquote_plus(row[1].strip())))
    return items


def _rows(where: str, data: bytes) -> list[list[str]]:
    try:
        # Spreadsheets put a mark at the beginning of a CSV.
        return list(csv.reader(data.decode("utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{where} is no CSV in UTF-8: {error}") from None


def run(settings: Settings, items: list[Item], report: Path, workers: int, step: Step) -> Done:
    """Inspect what the report does not list as succeeded.

    Raises:
        FileNotFoundError: there is no champion yet. OSError: S3 does not answer.
        ValueError: the file for the report is something else.
    """
    model = read_model(Lake(settings).get(champion_path(DESIGN)))
    begun = _mend(report)
    known = set(_succeeded(report)) if begun else set()
    wanted = [item for item in dict.fromkeys(items) if item not in known]
    resumed = len(set(items)) - len(wanted)
    counts = {SUCCEEDED: 0, FAILED: 0}
    lock = threading.Lock()
    stores = {bucket: Lake(settings, bucket) for bucket in {item.bucket for item in wanted}}
    with report.open("a", newline="") as file, ThreadPoolExecutor(workers) as pool:
        rows = csv.DictWriter(file, COLUMNS)
        if not begun:
            rows.writeheader()

        def one(item: Item) -> None:
            row = _inspected(model, stores[item.bucket], item)
            with lock:
                rows.writerow(row)
                file.flush()
                counts[row["status"]] += 1
                step(resumed + sum(counts.values()), resumed + len(wanted))

        list(pool.map(one, wanted))
    return Done(counts[SUCCEEDED], counts[FAILED], resumed, report)


def _inspected(model: ImageModel, store: Lake, item: Item) -> dict[str, str]:
    row = {"bucket": item.bucket, "key": item.key}
    try:
        data = store.get(item.key)
        seen = inspect(model, data, _place(item), datetime.now(UTC), item.key).event
    except FileNotFoundError:
        return {**row, "status": FAILED, "error": "no such object"}
    except (OSError, ValueError) as error:
        return {**row, "status": FAILED, "error": " ".join(str(error).split())[:300]}
    return {
        **row,
        "status": SUCCEEDED,
        "decision": seen.decision,
        "label": seen.label,
        "defect": f"{seen.defect:.6f}",
        "model": seen.model,
        "error": "",
    }


def _place(item: Item) -> Place:
    """A place for an object wherever it lies: a manifest may name any key."""
    try:
        return Place.of(item.key)
    except ValueError:
        digest = hashlib.sha256(item.key.encode()).hexdigest()[:32]
        return Place(line="batch", station="batch", lot="batch", frame=digest)


def _mend(report: Path) -> bool:
    """Drop a row that a crash cut short, or the next would be written behind it.

    Returns whether there is a report. ValueError if the file is something else.
    """
    data = report.read_bytes() if report.exists() else b""
    header = ",".join(COLUMNS).encode()
    if not data.startswith(header[: len(data)]):
        raise ValueError(f"{report} is there and no report of a batch: --report another file")
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        report.write_bytes(whole)
    return bool(whole)


def _succeeded(report: Path) -> Iterator[Item]:
    """What a report lists as done."""
    with report.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] == SUCCEEDED:
                yield Item(row["bucket"], row["key"])
