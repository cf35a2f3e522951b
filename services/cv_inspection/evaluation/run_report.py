"""The metrics of a run of the stations, and a contact sheet of inspected images."""

from pathlib import Path
from typing import Any

import numpy as np

from services.cv_inspection.evaluation.map_sheet import Tile, draw_tiles
from services.cv_inspection.features.score_map import DEFECT, NOVELTY
from services.cv_inspection.ingestion.events import InspectionEvent
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.problem import ESCAPE_COST_MINOR, GOOD, CostModel
from services.cv_inspection.simulator.station import StationReport
from services.platform.colour_scale import Levels, read_levels
from services.platform.evaluation.cost import COST_UNIT
from services.platform.evaluation.latency import percentiles_ms
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

_SIDE, _ACROSS, _MAX_TILES = 180, 6, 24
_COLOURS = {"pass": (110, 190, 230), "reject": (240, 130, 40), "review": (240, 220, 90)}


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
    inbox = Lake(config, config.inbox)
    tiles = [_tile(event, inbox, results) for event in chosen]
    limits = sorted({f"{event.max_novelty:.1f}" for event in chosen if event.max_novelty})
    legend = (
        "left: P(defect) of a pixel, threshold 0.5, where the mask begins",
        "right: novelty of a patch in standard deviations of the good parts, "
        f"threshold {' or '.join(limits) or 'not known'}, the model's limit",
    )
    return draw_tiles(tiles, legend, _SIDE, path)


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


def _tile(event: InspectionEvent, inbox: Lake, results: Lake) -> Tile:
    image = decode(inbox.get(event.key or ""))
    # Stopped although good is the most probable class: an escape costs forty re-inspections.
    unsure = event.stopped and event.label == GOOD
    text = "unsure" if unsure else event.label if event.stopped else "pass"
    line = f"{text}  {event.defect:.2f}"
    return Tile(image, stored_maps(event, results), (line,), _COLOURS[event.decision])


def stored_maps(event: InspectionEvent, results: Lake) -> tuple[Levels, Levels | None]:
    """Levels of the defect score and of novelty; of an inspection from before maps, its mask.

    Raises:
        OSError: S3 does not answer, or has neither.
    """
    png = results.get(event.map_key or event.mask_key or "")
    novelty = None if event.max_novelty is None else read_levels(png, NOVELTY)
    return read_levels(png, DEFECT), novelty
