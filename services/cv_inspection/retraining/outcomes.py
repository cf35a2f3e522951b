"""Inspected pictures with a person's verdict: what gate and retraining work with."""

import io
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from services.cv_inspection.features.image import QUALITY, figures, scaled, scaled_mask
from services.cv_inspection.features.labelled_images import Pictures, index_of
from services.cv_inspection.ingestion.events import Place, decode, inspection_id
from services.cv_inspection.ingestion.lake_writer import INSPECTIONS_TABLE, VERDICTS_TABLE
from services.cv_inspection.problem import ESCAPE_COST_MINOR, GOOD
from services.platform.progress import Step
from services.platform.settings import Settings
from services.platform.storage.lake import Lake


@dataclass(frozen=True)
class Labelled:
    """N inspections in order of time, each once, with their verdict as column `verdict`."""

    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def positive(self) -> npt.NDArray[np.bool_]:
        """(N,) whether a person found a defect."""
        return np.asarray(self.rows["verdict"].to_numpy() != GOOD, dtype=bool)

    @property
    def day(self) -> str:
        """The newest moment among them: a line's day has no night between two shifts."""
        newest: datetime = self.rows["event_time"].max().to_pydatetime()
        return f"{newest.astimezone(UTC):%Y-%m-%dT%H-%M-%S}"


def labelled(lake: Lake, since: float) -> Labelled:
    """Inspections of pictures in the store since `since` (seconds) that a person judged.

    Raises:
        OSError: S3 does not answer.
    """
    wanted = ["inspection_id", "event_time", "key", "line", "station", "lot", "decision"]
    inspections = lake.read(INSPECTIONS_TABLE, wanted, since=since)
    verdicts = lake.read(VERDICTS_TABLE, ["inspection_id", "label"], since=since)
    if inspections is None or verdicts is None:
        return Labelled(pd.DataFrame({name: [] for name in (*wanted, "verdict")}))
    # Told twice is one inspection; the newest verdict counts.
    seen = inspections.to_pandas().drop_duplicates("inspection_id")
    told = verdicts.to_pandas().drop_duplicates("inspection_id", keep="last")
    told = told.rename(columns={"label": "verdict"})[["inspection_id", "verdict"]]
    rows = seen.merge(told, on="inspection_id").dropna(subset=["key"])
    rows = rows[rows["event_time"] > pd.Timestamp(since, unit="s", tz="UTC")]
    return Labelled(rows.sort_values("event_time").reset_index(drop=True))


def pictures(
    settings: Settings, found: Labelled, classes: tuple[str, ...], size: int, step: Step
) -> Pictures:
    """Their pictures out of the store; a verdict of an unknown class is any defect.

    Nobody outlines a defect on the line: the mask is the one that was found where the verdict
    agrees that there is something, and none otherwise. A picture that is gone from the store, or
    another by now, is left out: the verdict was on the one that was inspected.
    """
    inbox, results = Lake(settings, settings.inbox), Lake(settings, settings.results)
    count = len(found)
    pixels = np.zeros((count, size, size, 3), dtype=np.uint8)
    mask = np.zeros((count, size, size), dtype=bool)
    quality = np.zeros((count, len(QUALITY)))
    kept = np.zeros(count, dtype=bool)
    label = np.array([index_of(v, classes) for v in found.rows["verdict"]], dtype=np.int64)
    told = zip(found.rows["key"], found.rows["inspection_id"], strict=True)
    for i, (key, identity) in enumerate(told):
        step(i + 1, count)
        place = Place.of(key)
        try:
            data = inbox.get(key)
            drawn = results.get(f"{place.stem}.mask.png") if label[i] else None
        except FileNotFoundError:
            continue
        if inspection_id(place, data) != identity:
            continue
        kept[i] = True
        image = decode(data)
        pixels[i], quality[i] = scaled(image, size), figures(image)
        if drawn is not None:
            mask[i] = scaled_mask(Image.open(io.BytesIO(drawn)), size)
    rows = found.rows[kept]
    unit = pd.factorize(rows["line"] + rows["station"] + rows["lot"])[0].astype(np.int64)
    return Pictures.of(
        pixels[kept], label[kept], mask[kept], unit, quality[kept], ESCAPE_COST_MINOR
    )
