"""Labelled inspections and their images, for gate and retraining."""

import io
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from services.cv_inspection.features.image import ImageSize
from services.cv_inspection.features.labelled_images import (
    ImageArrays,
    LabelledImages,
    NoOutline,
    class_index,
)
from services.cv_inspection.ingestion.audit import DRAWN_BY, WEIGHT
from services.cv_inspection.ingestion.events import ImageRef, inspection_id, result_stem
from services.cv_inspection.ingestion.images import InvalidImage, decode
from services.cv_inspection.ingestion.outcomes import with_labels
from services.cv_inspection.ingestion.tables import (
    INSPECTIONS,
    INSPECTIONS_TABLE,
    LABELS,
    LABELS_TABLE,
)
from services.cv_inspection.problem import GOOD
from services.platform.progress import ProgressCallback
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Booleans, Integers

_DAY_S = 86_400.0
# Customers send a part back within these days of its inspection.
RETURN_DAYS = 90
# A day of labels at five images a second, of which a quarter have one.
MAX_LABELS = 100_000
_RANGE = 100_000
_COLUMNS = ["inspection_id", "event_time", "key", "line", "station", "lot", *DRAWN_BY]


@dataclass(frozen=True)
class LabelledInspections:
    """N inspections in order of time, without duplicates, with their label and its weight.

    Attributes:
        rows: (N, columns) a row for each inspection.
    """

    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def positive(self) -> Booleans:
        """(N,) whether the operator found a defect."""
        return np.asarray(self.rows["label"].to_numpy() != GOOD, dtype=bool)

    @property
    def counted(self) -> "LabelledInspections":
        """Those that an estimate counts: of passed parts, the audited ones alone."""
        return LabelledInspections(self.rows[self.rows[WEIGHT] > 0].reset_index(drop=True))

    @property
    def day(self) -> str:
        """Time of the newest inspection; a line labels all day, so a date would be too coarse."""
        newest: datetime = self.rows["event_time"].max().to_pydatetime()
        return f"{newest.astimezone(UTC):%Y-%m-%dT%H-%M-%S}"


def labelled_inspections(lake: Lake, since: float) -> LabelledInspections:
    """Labelled inspections of images in the store, since an event time `since` (seconds).

    Of earlier parts, those that customers sent back since then: no training has had them yet. At
    most the newest `MAX_LABELS` labels count; training and the gate take a few thousand of them.

    Raises:
        OSError: S3 does not answer.
    """
    given = SequenceReader(lake, LABELS_TABLE, ["inspection_id", "label"], LABELS, since=since)
    labels = given.newest(MAX_LABELS)
    if labels is None:
        return LabelledInspections(pd.DataFrame({n: [] for n in (*_COLUMNS, "label", WEIGHT)}))
    shipped = max(since - RETURN_DAYS * _DAY_S, 0.0)
    reader = SequenceReader(lake, INSPECTIONS_TABLE, _COLUMNS, INSPECTIONS, since=shipped)
    parts = [
        part.filter(pc.is_in(part["inspection_id"], labels["inspection_id"]))
        for part in reader.parts(_RANGE)
    ]
    none = INSPECTIONS.empty_table().select(["seq", *_COLUMNS])
    inspections = pa.concat_tables([none, *(part.select(none.column_names) for part in parts)])
    rows = with_labels(inspections, labels).dropna(subset=["key"])
    # A float of seconds is off by a quarter of a microsecond: the newest part would be new again.
    new = rows["event_time"] > pd.Timestamp(since, unit="s", tz="UTC").round("us")
    rows = rows[new | (rows[WEIGHT] == 0)]
    return LabelledInspections(rows.sort_values("event_time").reset_index(drop=True))


def fetch_images(
    settings: Settings,
    inspections: LabelledInspections,
    classes: tuple[str, ...],
    size: ImageSize,
    step: ProgressCallback,
    max_reduction: float = math.inf,
    all_defects: bool = False,
) -> LabelledImages:
    """Fetch the images of labelled inspections, with the labels' weights.

    A label of an unknown class is any defect.

    Operators do not outline defects: the mask is the model's where the label is a defect, and empty
    otherwise. An image that was deleted or overwritten is left out, because its label belongs to
    the content that was inspected.

    Args:
        classes: Names of the classes, `good` first.
        size: The model's input.
        max_reduction: See `tile_boxes`.
        all_defects: Also those that are cut into tiles and have no mask, with all their tiles: to
            evaluate whole images. Training leaves them out.

    Returns:
        The images; `source` is the number of the inspection.

    Raises:
        OSError: S3 does not answer.
    """
    inbox, results = Lake(settings, settings.inbox), Lake(settings, settings.results)
    count = len(inspections)
    arrays = ImageArrays(size, max_reduction)
    unit = lot_numbers(inspections.rows)
    label = np.array([class_index(v, classes) for v in inspections.rows["label"]], dtype=np.int64)
    kept: list[int] = []
    keys = zip(inspections.rows["key"], inspections.rows["inspection_id"], strict=True)
    for i, (key, identity) in enumerate(keys):
        step(i + 1, count)
        image_ref = ImageRef.from_key(key)
        try:
            data = inbox.get(key)
            mask_png = results.get(f"{result_stem(key)}.mask.png") if label[i] else None
        except FileNotFoundError:
            continue
        if inspection_id(image_ref, data) != identity:
            continue
        try:
            image = decode(data)
        except InvalidImage:
            continue  # it was inspected before such images were refused
        mask = None if mask_png is None else _mask(mask_png)
        try:
            arrays.add(image, mask, int(label[i]), int(unit[i]))
        except NoOutline:
            if not all_defects:
                continue
            arrays.add(image, Image.new("L", image.size, 255), int(label[i]), int(unit[i]))
        kept.append(i)
    images = arrays.labelled()
    source = np.array(kept, dtype=np.int64)[images.source]
    weight = inspections.rows[WEIGHT].to_numpy(dtype=np.float64)[source]
    return replace(images, source=source, weight=weight)


def lot_numbers(rows: pd.DataFrame) -> Integers:
    """(N,) number of each row's lot, which is one of a line's station.

    >>> lines, stations, lots = ["a", "a1", "a1"], ["12", "2", "2"], ["7", "7", "7"]
    >>> lot_numbers(pd.DataFrame({"line": lines, "station": stations, "lot": lots})).tolist()
    [0, 1, 1]
    """
    # No part of a key has a slash.
    lots = rows["line"] + "/" + rows["station"] + "/" + rows["lot"]
    return np.asarray(pd.factorize(lots)[0])


def _mask(png: bytes) -> Image.Image | None:
    mask = Image.open(io.BytesIO(png)).convert("L")
    return mask if mask.getbbox() else None
