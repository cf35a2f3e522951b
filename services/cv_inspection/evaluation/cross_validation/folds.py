"""Grouped cross-validation: every image is predicted by a model that saw nothing of its group.

A fold is a process on one core, because threads wait for each other in every layer: two folds at a
time take two thirds of the time of one after the other. Where there is a GPU, folds share it. A
finished fold is kept in a file, so a run that was stopped goes on where it was.
"""

import hashlib
import io
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from services.cv_inspection.candidates.image_candidate import ImageCandidate, Prediction
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.features.score_map import defect_levels, novelty_levels
from services.cv_inspection.features.tiling import merge_masks, tile_boxes
from services.cv_inspection.problem import CONF
from services.cv_inspection.retraining.folders import FolderDataset, read_labelled
from services.cv_inspection.retraining.threshold import choose_threshold
from services.cv_inspection.retraining.training import (
    hold_out_units,
    new_candidate,
    novelty_limit,
)
from services.platform.colour_scale import ABOVE, Levels
from services.platform.progress import ProgressCallback
from services.platform.retraining.training import hyperparameters
from services.platform.runtime.worker import training_threads
from services.platform.types import Booleans, Floats, Integers

FOLDS = 5
# Side at which masks are kept for contact sheets, pixels.
SHEET_SIDE = 160
_THRESHOLD_SHARE = 0.2
# Good parts that the limit of novelty is chosen on: two of them reach it. 10 s of a processor.
_LIMIT_IMAGES = 400
# Memory of a GPU for a fold's training: 3.4 GiB for Lite2 at 256 px and batches of 32 on an H100.
_GPU_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Fold:
    """Which part is tested.

    Attributes:
        seed: Of the split and of training.
        number: Of the fold.
        left_out: A class that training sees nothing of, 0 for none.
        leaking: Split images, not groups, as papers do: only to show by how much that flatters.
    """

    seed: int
    number: int
    left_out: int = 0
    leaking: bool = False

    @property
    def name(self) -> str:
        """Name of its file."""
        split = "-leaking" if self.leaking else ""
        return f"{self.seed}-{self.number}-{self.left_out}{split}.npz"


@dataclass(frozen=True)
class FoldResult:
    """M images, each predicted by a model that saw nothing of its group.

    Attributes:
        image: (M,) numbers of the images.
        label: (M,) their classes.
        probabilities: (M, C).
        novelty: (M,).
        overlap: (M, 2, 2) pixels of intersection and union of mask and truth: at the network's
            size, at the image's own size. Zeros without an outline.
        levels: (M, S, S) levels of the predicted defect score, for contact sheets.
        threshold: Chosen on a part of the training images; NaN where none was kept for it.
        max_novelty: The limit of novelty, the threshold of its maps; infinite for a candidate that
            does not measure it, NaN in a file of an earlier version.
        novelty_levels: (M, S, S) levels of the novelty of patches, for contact sheets; empty
            without a limit.
        origin: Where the encoder's initial weights came from; empty in a file from before it.
    """

    image: Integers
    label: Integers
    probabilities: Floats
    novelty: Floats
    overlap: Integers
    levels: Levels
    threshold: float
    max_novelty: float = float("nan")
    novelty_levels: Levels = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))
    origin: str = ""

    @property
    def defect(self) -> Floats:
        """(M,) P(defect)."""
        return np.asarray(1.0 - self.probabilities[:, 0])

    def maps(self, row: int) -> tuple[Levels, Levels | None]:
        """Levels of an image's defect score, and of its novelty where it is known."""
        known = len(self.novelty_levels) > 0
        return self.levels[row], self.novelty_levels[row] if known else None

    def to_bytes(self) -> bytes:
        """As an npz file."""
        out = io.BytesIO()
        np.savez_compressed(out, allow_pickle=False, **vars(self))
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "FoldResult":
        """Read `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if "mask" in arrays:  # of a fold from before levels
            arrays["levels"] = np.where(arrays.pop("mask"), ABOVE, 0).astype(np.uint8)
        for name in {"threshold", "max_novelty"} & set(arrays):
            arrays[name] = float(arrays[name])
        if "origin" in arrays:
            arrays["origin"] = str(arrays["origin"])
        return cls(**arrays)


@dataclass(frozen=True)
class Folds:
    """What each process needs to evaluate folds.

    Attributes:
        data: The images.
        candidate: Name of the candidate.
        overrides: Hyperparameters in place of the conf's.
        count: How many folds.
        choose_threshold: Keep a part of the training images to choose the threshold on.
    """

    data: FolderDataset
    candidate: str
    overrides: Mapping[str, object]
    count: int = FOLDS
    choose_threshold: bool = False

    @property
    def key(self) -> str:
        """Hash of all that a fold's result depends on, but initial weights, code and libraries."""
        parameters = {**hyperparameters(CONF, self.candidate), **self.overrides}
        digest = hashlib.sha256(
            repr((self.candidate, sorted(parameters.items()), self.count)).encode()
        )
        digest.update(repr((self.choose_threshold, self.data.classes)).encode())
        images = self.data.images
        for array in (images.vectors, images.mask, images.label, images.unit):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def folder(self, home: Path) -> Path:
        """Where finished folds and their contact sheets are kept."""
        return home / "evaluations" / self.key

    def check(self, seeds: Iterable[int]) -> None:
        """ValueError if a class has too few groups for the folds of these seeds."""
        images = self.data.images
        if len(np.unique(images.unit)) == 1:
            [group] = {file.group for file in self.data.files} or {""}
            raise ValueError(
                f"all images are of one group ({group}): nothing is left to test on; correct "
                "groups.csv or --group-by"
            )
        for number, name in enumerate(self.data.classes):
            groups = len(np.unique(images.unit[images.label == number]))
            if groups < self.count:
                raise ValueError(
                    f"{name} has {groups} groups (tiles, parts), and each of {self.count} folds "
                    "needs one: add images of other parts, or move the class into another"
                )

        for fold in (Fold(seed, number) for seed in seeds for number in range(self.count)):
            _, test = self._split(fold)
            positive = images.positive[test]
            if positive.all() or not positive.any():
                lacking = "good parts" if positive.all() else "defects"
                raise ValueError(
                    f"fold {fold.number} of seed {fold.seed} would be tested on no {lacking}: a "
                    "few groups have most of the images; try another --seed, or add other parts"
                )

    def _split(self, fold: Fold) -> tuple[Integers, Integers]:
        """Rows to train on, and to test."""
        images = self.data.images
        if not fold.leaking:
            grouped = StratifiedGroupKFold(self.count, shuffle=True, random_state=fold.seed)
            return list(grouped.split(images.label, images.label, images.unit))[fold.number]
        # Tiles of one image stay together, or it could not be put together again.
        _, whole = images.by_image(images.label.astype(np.float64))
        random = StratifiedKFold(self.count, shuffle=True, random_state=fold.seed)
        _, test = list(random.split(whole.label, whole.label))[fold.number]
        tested = np.isin(images.source, whole.source[test])
        return np.flatnonzero(~tested), np.flatnonzero(tested)

    def evaluate(self, fold: Fold, step: ProgressCallback) -> FoldResult:
        """Train on all folds but one, and predict that one."""
        images = self.data.images
        fit, test = self._split(fold)
        if fold.left_out:
            # Also its images in training groups' folds are tested, where their group is not.
            fit = fit[images.label[fit] != fold.left_out]
            unseen = (images.label == fold.left_out) & ~np.isin(images.unit, images.unit[fit])
            test = np.union1d(test, np.flatnonzero(unseen))
        train, threshold_images = images.select(fit), None
        if self.choose_threshold:
            held = hold_out_units(train, _THRESHOLD_SHARE, fold.seed)
            train, threshold_images = train.select(~held), train.select(held)
        # Balanced validation images, so that priors are not adjusted: all classes weigh alike.
        validation = train.select(train.balanced(np.random.default_rng(fold.seed)))
        candidate = new_candidate(self.candidate, self.data.classes, self.overrides)
        candidate.fit(train, validation, fold.seed, step)
        threshold = float("nan")
        if threshold_images is not None:
            score, whole = threshold_images.by_image(candidate.score(threshold_images))
            threshold = choose_threshold(score, whole.positive, whole.amount)
        limit = _max_novelty(candidate, train if threshold_images is None else threshold_images)
        reduction = float(str(candidate.parameters["max_reduction"]))
        tested = images.select(test)
        found = candidate.predict(tested.vectors)
        result = _result(self.data, tested, found, reduction, threshold, limit)
        return replace(result, origin=candidate.origin)


def _max_novelty(candidate: ImageCandidate, images: LabelledImages) -> float:
    """The limit of novelty, on good parts; infinite if the candidate does not measure it.

    Not on the tested images: a part that is wrongly labelled good would raise the limit over its
    own novelty, and its map would look normal.
    """
    rows = images.good(np.random.default_rng(0), _LIMIT_IMAGES)
    found = candidate.predict(images.vectors[rows])
    limit = novelty_limit(found.novelty.astype(np.float64)) if found.patches.size else 0.0
    return limit if limit > 0.0 else math.inf


def _result(
    data: FolderDataset,
    tested: LabelledImages,
    found: Prediction,
    max_reduction: float,
    threshold: float,
    max_novelty: float,
) -> FoldResult:
    """Merge tiles to images, and measure each mask at both sizes."""
    _, whole = tested.by_image(1.0 - found.probabilities[:, 0].astype(np.float64))
    # The row that decides for an image is its worst tile.
    order = np.lexsort((1.0 - found.probabilities[:, 0].astype(np.float64), tested.source))
    worst = order[np.append(tested.source[order][1:] != tested.source[order][:-1], True)]
    novelty, _ = tested.by_image(found.novelty.astype(np.float64))
    overlap = np.zeros((len(whole), 2, 2), dtype=np.int64)
    levels = np.zeros((len(whole), SHEET_SIDE, SHEET_SIDE), dtype=np.uint8)
    novel = np.zeros_like(levels if max_novelty < math.inf else levels[:0])
    size = (tested.vectors.shape[1], tested.vectors.shape[2])
    for row, source in enumerate(whole.source):
        tiles = np.flatnonzero(tested.source == source)
        logits, truth = found.masks[tiles], tested.mask[tiles]
        outlined = bool(tested.has_mask[tiles].all()) and whole.label[row] > 0
        if outlined:
            overlap[row, 0] = _overlap(logits > 0, truth)
        if data.files:
            image, true = read_labelled(data.files[source])
            boxes = tile_boxes(*image.size, size, max_reduction)
            merged = merge_masks(logits, boxes, *image.size)
            levels[row] = _for_sheet(defect_levels(logits, boxes, *image.size))
            if len(novel):
                patches = found.patches[tiles]
                novel[row] = _for_sheet(novelty_levels(patches, boxes, *image.size, max_novelty))
            if outlined and true is not None:
                own = np.asarray(true.resize(image.size)) > 127
                overlap[row, 1] = _overlap(merged, own)
    return FoldResult(
        whole.source, whole.label, found.probabilities[worst].astype(np.float64), novelty,
        overlap, levels, threshold, max_novelty, novel,
    )  # fmt: skip


def _for_sheet(levels: Levels) -> Levels:
    return np.asarray(Image.fromarray(levels).resize((SHEET_SIDE, SHEET_SIDE)))


def _overlap(mask: Booleans, truth: Booleans) -> tuple[int, int]:
    return int((mask & truth).sum()), int((mask | truth).sum())


def evaluate_folds(
    folds: Folds, runs: list[Fold], home: Path, step: ProgressCallback
) -> list[FoldResult]:
    """The results of some folds; those that an earlier run finished are read from `home`."""
    folder = folds.folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    open_runs = [run for run in runs if not (folder / run.name).exists()]
    if open_runs:
        _train(folds, open_runs, folder, len(runs) - len(open_runs), step)
    return [FoldResult.from_bytes((folder / run.name).read_bytes()) for run in runs]


def _train(
    folds: Folds, runs: list[Fold], folder: Path, finished: int, step: ProgressCallback
) -> None:
    context = get_context("spawn")
    done: Any = context.Array("d", len(runs))
    cores = training_threads()
    processes = _processes(cores, len(runs))
    pool = ProcessPoolExecutor(
        processes, context, _initialise_process, (folds, done, cores // processes)
    )
    try:
        futures = [pool.submit(_evaluate, row, run, folder) for row, run in enumerate(runs)]
        while (state := wait(futures, 1.0, FIRST_EXCEPTION)).not_done:
            for future in state.done:
                future.result()
            step(round(100 * (finished + sum(done[:]))), 100 * (finished + len(runs)))
        for future in futures:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _processes(cores: int, runs: int) -> int:
    """How many folds are trained at a time: one per core, on a GPU as many as its memory holds."""
    count = min(cores, runs)
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        count = min(count, free // _GPU_BYTES)
    return max(count, 1)


# State of a worker process, set by `_initialise_process`.
_process_state: list[tuple[Folds, Any]] = []


def _initialise_process(folds: Folds, done: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    _process_state.append((folds, done))


def _evaluate(row: int, run: Fold, folder: Path) -> None:
    [(folds, done)] = _process_state

    def report(step: int, total: int) -> None:
        done[row] = step / total

    data = folds.evaluate(run, report).to_bytes()
    # A crash leaves no half a file.
    new = folder / f"{run.name}.new"
    new.write_bytes(data)
    new.replace(folder / run.name)
