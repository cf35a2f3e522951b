"""The protocols of labelled images: the magnetic tiles, and folders of one's own.

Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2018.
Consecutive frames show one tile under several lights, so a random split would leak: folds are split
by group. Few groups a class (8 of Fray, 11 of Crack) make every metric uncertain, as the intervals
show.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.cv_inspection.evaluation.cross_validation.fold_metrics import Interval, intervals
from services.cv_inspection.evaluation.cross_validation.fold_sheet import draw_sheet, worst_errors
from services.cv_inspection.evaluation.cross_validation.folds import (
    FOLDS,
    Fold,
    FoldResult,
    Folds,
    evaluate_folds,
)
from services.cv_inspection.evaluation.cross_validation.unseen import unseen_table
from services.cv_inspection.features.image import parse_size
from services.cv_inspection.problem import CONF
from services.cv_inspection.retraining.folders import FolderDataset, read_folder
from services.cv_inspection.retraining.layouts import has_magnetic_tiles
from services.cv_inspection.retraining.recipe import recipe
from services.cv_inspection.retraining.training import new_candidate, warn_of_leaks
from services.platform.hooks import Evaluation, EvaluationRequest, Table
from services.platform.progress import ProgressBar
from services.platform.retraining.training import hyperparameters
from services.platform.settings import settings

MAGNETIC_TILE, GROUPED = "magnetic_tile", "grouped"


def read_for_folds(
    folder: Path, candidate: str, overrides: Mapping[str, object], group_by: str, bar: ProgressBar
) -> FolderDataset:
    """A folder at a candidate's size. ValueError: see `read_folder`. KeyError: no candidate."""
    new_candidate(candidate)
    conf = {**hyperparameters(CONF, candidate), **overrides}
    with bar(f"reading {folder.name}") as step:
        size, reduction = parse_size(conf["size"]), float(str(conf["max_reduction"]))
        data = read_folder(folder, size, step, reduction, group_by)
    warn_of_leaks(folder, data)
    return data


def evaluation(request: EvaluationRequest, bar: ProgressBar) -> Evaluation:
    """Run a protocol for tables and machines.

    Raises:
        KeyError: no such candidate.
        ValueError: the folder is not what is expected.
    """
    published = request.protocol != GROUPED and has_magnetic_tiles(request.file)
    if request.protocol == MAGNETIC_TILE and not published:
        raise ValueError(
            f"{request.file} is not the magnetic tiles, folders MT_<class>/Imgs and their "
            f"groups.csv; for a folder of your own: --protocol {GROUPED}"
        )
    overrides = recipe(request.candidate, request.epochs, request.image_size)
    if request.unseen:
        overrides["novelty_weight"] = 0.0  # the table adds it to the classes' own probability
    data = read_for_folds(request.file, request.candidate, overrides, request.group_by, bar)
    plan = Folds(data, request.candidate, overrides, choose_threshold=not published)
    seeds = range(request.seed, request.seed + request.seeds)
    plan.check(seeds)
    if request.unseen:
        return _unseen(plan, list(seeds), bar)
    runs = [Fold(seed, number) for seed in seeds for number in range(FOLDS)]
    # One fold a seed tells enough, and it is trained where a second core would wait.
    leaks = [Fold(seed, 0, leaking=True) for seed in seeds] if published else []
    with bar(f"{FOLDS} folds, {len(seeds)} seeds") as step:
        every = evaluate_folds(plan, [*runs, *leaks], settings().home, step)
    results, leaking = every[: len(runs)], every[len(runs) :]
    found = intervals(results)
    rows = [(name, *_shown(one)) for name, one in found.items()]
    footer = []
    figures: dict[str, Any] = {
        "protocol": MAGNETIC_TILE if published else GROUPED,
        "seeds": len(seeds),
        "grouped": data.grouped,
    }
    if not published:
        sheet = settings().home / "evaluations" / f"{request.file.resolve().name}-worst.png"
        draw_sheet(plan, results, worst_errors(results), sheet)
        figures["contact_sheet"] = str(sheet)
        footer.append(f"worst errors: {sheet}")
    if not data.grouped:
        footer.append("[red]groups are not known: these figures are too good if parts repeat[/]")
    figures["weights_from"] = sorted({result.origin for result in results} - {""})
    if len(figures["weights_from"]) > 1:
        footer.append(
            f"[red]folds began from different weights, {' and '.join(figures['weights_from'])}: "
            f"remove {plan.folder(settings().home)} to train them anew[/]"
        )
    figures |= {name: asdict(one) for name, one in found.items()}
    if leaking:
        figures["random_split_leaks"] = leaked = _leaked(leaking)
        rows += [
            (f"[red]LEAKS: random split, {name}[/]", f"{leaked[name]:.3f}", f"{len(leaks)} fold(s)")
            for name in leaked
        ]
        footer.append(
            "[red]LEAKS: a tile is in training and in test, as in most published figures[/]"
        )
    name = "Magnetic tile (real images)" if published else request.file.resolve().name
    title = f"{name}, {request.candidate}, whole groups held out"
    return Evaluation(figures, Table(title, ("", "mean", "95 % interval"), rows, footer))


def _shown(one: Interval) -> tuple[str, str]:
    """Mean and interval; dashes without a value, such as mIoU without masks."""
    if math.isnan(one.mean):
        return "-", "-"
    return f"{one.mean:.3f}", f"{one.low:.3f} to {one.high:.3f}"


def _leaked(results: list[FoldResult]) -> dict[str, float]:
    """AUC and mIoU of folds that were split by image; the mean over them."""
    found = intervals(results)
    return {name: found[name].mean for name in ("auc", "miou")}


def _unseen(plan: Folds, seeds: list[int], bar: ProgressBar) -> Evaluation:
    kinds = range(1, len(plan.data.classes))
    runs = [Fold(seed, n, kind) for kind in kinds for seed in seeds for n in range(FOLDS)]
    with bar(f"{len(kinds)} classes left out, {FOLDS} folds") as step:
        results = evaluate_folds(plan, runs, settings().home, step)
    return unseen_table(plan.data.classes, runs, results)
