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
    published = _is_published(request)
    seeds = list(range(request.seed, request.seed + request.seeds))
    plan = _plan(request, published, seeds, bar)
    if request.unseen:
        return _unseen(plan, seeds, bar)
    results, leaking = _evaluate(plan, seeds, published, bar)
    found, leaked = intervals(results), _leaked(leaking)
    origins = sorted({result.origin for result in results} - {""})
    figures: dict[str, Any] = {
        "protocol": MAGNETIC_TILE if published else GROUPED,
        "seeds": len(seeds),
        "grouped": plan.data.grouped,
        "weights_from": origins,
        **{name: asdict(one) for name, one in found.items()},
    }
    footer = _warnings(plan, origins)
    if published:
        figures["random_split_leaks"] = leaked
        footer.append(
            "[red]LEAKS: a tile is in training and in test, as in most published figures[/]"
        )
    else:
        sheet = plan.folder(settings().home) / "worst.png"
        draw_sheet(plan, results, worst_errors(results), sheet)
        figures["contact_sheet"] = str(sheet)
        footer.insert(0, f"worst errors: {sheet}")
    rows = [(name, *_shown(one)) for name, one in found.items()]
    rows += [
        (f"[red]LEAKS: random split, {name}[/]", f"{mean:.3f}", f"{len(leaking)} fold(s)")
        for name, mean in leaked.items()
    ]
    name = "Magnetic tile (real images)" if published else request.file.resolve().name
    title = f"{name}, {request.candidate}, whole groups held out"
    return Evaluation(figures, Table(title, ("", "mean", "95 % interval"), rows, footer))


def _is_published(request: EvaluationRequest) -> bool:
    """Whether the magnetic tiles' protocol is meant. ValueError if it is, and they are not."""
    tiles = has_magnetic_tiles(request.file)
    if request.protocol == MAGNETIC_TILE and not tiles:
        raise ValueError(
            f"{request.file} is not the magnetic tiles, folders MT_<class>/Imgs and their "
            f"groups.csv; for a folder of your own: --protocol {GROUPED}"
        )
    return tiles and request.protocol != GROUPED


def _plan(request: EvaluationRequest, published: bool, seeds: list[int], bar: ProgressBar) -> Folds:
    """What is evaluated, and how. ValueError: see `evaluation`."""
    overrides = recipe(request.candidate, request.epochs, request.image_size)
    if request.unseen:
        overrides["novelty_weight"] = 0.0  # the table adds it to the classes' own probability
    data = read_for_folds(request.file, request.candidate, overrides, request.group_by, bar)
    plan = Folds(data, request.candidate, overrides, choose_threshold=not published)
    plan.check(seeds)
    return plan


def _evaluate(
    plan: Folds, seeds: list[int], leaking: bool, bar: ProgressBar
) -> tuple[list[FoldResult], list[FoldResult]]:
    """All folds of the seeds; with `leaking` also those that are split by image."""
    runs = [Fold(seed, number) for seed in seeds for number in range(FOLDS)]
    # One fold a seed tells enough, and it is trained where a second core would wait.
    leaks = [Fold(seed, 0, leaking=True) for seed in seeds] if leaking else []
    with bar(f"{FOLDS} folds, {len(seeds)} seeds") as step:
        every = evaluate_folds(plan, [*runs, *leaks], settings().home, step)
    return every[: len(runs)], every[len(runs) :]


def _warnings(plan: Folds, origins: list[str]) -> list[str]:
    """What makes the figures doubtful."""
    found = []
    if not plan.data.grouped:
        found.append("[red]groups are not known: these figures are too good if parts repeat[/]")
    if len(origins) > 1:
        found.append(
            f"[red]folds began from different weights, {' and '.join(origins)}: "
            f"remove {plan.folder(settings().home)} to train them anew[/]"
        )
    return found


def _shown(one: Interval) -> tuple[str, str]:
    """Mean and interval; dashes without a value, such as mIoU without masks."""
    if math.isnan(one.mean):
        return "-", "-"
    return f"{one.mean:.3f}", f"{one.low:.3f} to {one.high:.3f}"


def _leaked(results: list[FoldResult]) -> dict[str, float]:
    """AUC and mIoU of folds that were split by image; the mean over them, empty without any."""
    if not results:
        return {}
    found = intervals(results)
    return {name: found[name].mean for name in ("auc", "miou")}


def _unseen(plan: Folds, seeds: list[int], bar: ProgressBar) -> Evaluation:
    kinds = range(1, len(plan.data.classes))
    runs = [Fold(seed, n, kind) for kind in kinds for seed in seeds for n in range(FOLDS)]
    with bar(f"{len(kinds)} classes left out, {FOLDS} folds") as step:
        results = evaluate_folds(plan, runs, settings().home, step)
    return unseen_table(plan.data.classes, runs, results)
