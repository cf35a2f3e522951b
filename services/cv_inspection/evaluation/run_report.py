"""The metrics of a run of the stations, and a contact sheet of inspected images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from services.cv_inspection.ingestion.events import InspectionEvent
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.problem import ESCAPE_COST_MINOR, GOOD, CostModel
from services.cv_inspection.simulator.station import StationReport
from services.platform.evaluation.cost import COST_UNIT
from services.platform.evaluation.latency import percentiles_ms
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

_TILE, _ACROSS, _MAX_TILES = 180, 6, 24
_COLOURS = {"pass": (60, 160, 80), "reject": (210, 50, 50), "review": (220, 160, 30)}


def run_report(report: StationReport, post_rate: float) -> dict[str, Any]:
    """The metrics of a run: latencies, losses, labels, decisions and their cost.

    Defects, escapes, false alarms and costs are by the simulator's truth, of all images.

    Args:
        post_rate: Images posted a second.
    """
    stopped, defect = np.array(report.stopped, bool), np.array(report.defect, bool)
    amount = np.full(len(defect), float(ESCAPE_COST_MINOR))
    costs = CostModel()
    return {
        **percentiles_ms(report.posted_ms),
        **percentiles_ms(report.delay_ms, (50, 95), "delay_"),
        "landed": report.landed,
        "posted": len(report.posted_ms),
        "post_rate": post_rate,
        "lost": report.lost,
        "duplicates": report.duplicates,
        "failures": sum(report.failures.values()),
        "errors": report.failures,
        "verdicts": report.labels,
        "audits": report.audits,
        "returned": report.returned,
        "defects": int(defect.sum()),
        "escapes": int((defect & ~stopped).sum()),
        "false_alarms": int((stopped & ~defect).sum()),
        "reviews": report.reviews,
        "cost_unit": COST_UNIT,
        "cost": costs.total(stopped, defect, amount),
        "cost_pass_all": costs.total(np.zeros_like(stopped), defect, amount),
    }


def contact_sheet(config: Settings, keys: list[str], path: Path) -> Path:
    """Draw inspected images with their masks and decisions: the stopped ones, then passed ones.

    Raises:
        OSError: S3 does not answer.
    """
    results = Lake(config, config.results)
    inspected = [event for key in keys if (event := _event(results, key)) is not None]
    chosen = select_for_sheet(inspected)
    rows = max(-(-len(chosen) // _ACROSS), 1)
    sheet = Image.new("RGB", (_ACROSS * (_TILE + 8) + 8, rows * (_TILE + 28) + 8), (24, 24, 28))
    inbox = Lake(config, config.inbox)
    for number, event in enumerate(chosen):
        x = 8 + number % _ACROSS * (_TILE + 8)
        y = 8 + number // _ACROSS * (_TILE + 28)
        _draw(sheet, x, y, event, inbox, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def select_for_sheet(events: list[InspectionEvent]) -> list[InspectionEvent]:
    """The most probable defects, and at least one row of passed parts, by P(defect)."""
    ranked = sorted(events, key=lambda event: -event.defect)
    stopped = [event for event in ranked if event.decision != "pass"]
    passed = [event for event in ranked if event.decision == "pass"]
    shown = stopped[: _MAX_TILES - min(len(passed), _ACROSS)]
    left = _MAX_TILES - len(shown)
    every = max(len(passed) // max(left, 1), 1)
    return [*shown, *passed[::every][:left]]


def _event(results: Lake, key: str) -> InspectionEvent | None:
    try:
        return InspectionEvent.model_validate_json(results.get(f"{key.rpartition('.')[0]}.json"))
    except (FileNotFoundError, ValueError):
        return None


def _draw(
    sheet: Image.Image, x: int, y: int, event: InspectionEvent, inbox: Lake, results: Lake
) -> None:
    image = decode(inbox.get(event.key or "")).resize((_TILE, _TILE))
    mask = Image.open(io.BytesIO(results.get(event.mask_key or ""))).convert("L")
    red = Image.new("RGB", image.size, (255, 40, 40))
    strength = mask.resize(image.size).point(lambda v: v * 0.55)
    sheet.paste(Image.composite(red, image, strength), (x, y))
    draw = ImageDraw.Draw(sheet)
    colour = _COLOURS[event.decision]
    draw.rectangle((x - 2, y - 2, x + _TILE + 1, y + _TILE + 1), outline=colour, width=2)
    # Stopped although good is the most probable class: an escape costs forty re-inspections.
    unsure = event.stopped and event.label == GOOD
    text = "unsure" if unsure else event.label if event.stopped else "pass"
    draw.text((x, y + _TILE + 4), f"{text}  {event.defect:.2f}", fill=colour, font_size=14)
