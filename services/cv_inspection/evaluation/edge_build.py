"""What an edge build quantises, and what it is measured on.

The champion and the simulated line, or another model and a folder of labelled images. Of a folder,
the groups that training held out measure both models: of equal seeds and folders, they are the same
groups. The threshold of the FP32 model was chosen on them, so the bound is strict on the INT8 one.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.edge import quantisation
from services.cv_inspection.edge.quantisation import EdgeBuild
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.model import ImageModel, read_model
from services.cv_inspection.problem import CLASSES, DESIGN
from services.cv_inspection.retraining.training import folder_split
from services.cv_inspection.simulator.labelled_images import simulated_held_out, simulated_split
from services.platform.models.names import version_path
from services.platform.models.registry import ModelRegistry
from services.platform.models.served_file import get_served
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildRequest:
    """What is built.

    Attributes:
        candidate: Its newest registered version is quantised; empty for the champion.
        file: A model file to quantise in place of a registered one.
        folder: Labelled images to calibrate and measure on; None for the simulated line's.
        group_by: See `find_files`.
        seed: Of the images; that of the model's training.
    """

    candidate: str = ""
    file: Path | None = None
    folder: Path | None = None
    group_by: str = ""
    seed: int = 7


def build(settings: Settings, request: BuildRequest, bar: ProgressBar) -> tuple[bytes, EdgeBuild]:
    """The INT8 file of a model, and the measurements of both.

    Raises:
        KeyError: no such candidate.
        ValueError: it was never trained, or the images are of other classes; see `read_folder`.
        ModelRefused: the file is not a model of this design.
        OSError: the store does not answer, or there is no such file.
    """
    data = _model_file(settings, request)
    model = read_model(data)
    images = _simulated if request.folder is None else _of_folder
    calibration, validation, held_out = images(request, model, bar)
    with bar("quantising, measuring, timing") as step:
        return quantisation.build(data, calibration, validation, held_out, step)


def _model_file(settings: Settings, request: BuildRequest) -> bytes:
    if request.file is not None:
        if request.candidate:
            raise ValueError("either --candidate or --model names what is built")
        return request.file.read_bytes()
    if not request.candidate:
        try:
            return get_served(settings, DESIGN)
        except FileNotFoundError:
            raise ValueError(
                "no champion to build from: `whiteboard up`, or name another model with "
                "--candidate or --model"
            ) from None
    CANDIDATES.get(request.candidate)
    version = ModelRegistry(settings).newest_version(DESIGN, request.candidate)
    if version is None:
        raise ValueError(
            f"{request.candidate} was never trained here: "
            f"`whiteboard train {DESIGN} --candidate {request.candidate}`"
        )
    return Lake(settings).get(version_path(DESIGN, version))


# Images to calibrate on, to match the threshold on, and to measure on.
_Images = tuple[LabelledImages, LabelledImages, LabelledImages]


def _simulated(request: BuildRequest, model: ImageModel, bar: ProgressBar) -> _Images:
    if model.card.classes != CLASSES:
        raise ValueError(
            f"{model.card.label} knows {', '.join(model.card.classes)}, not the simulated line's "
            "classes: name the folder it was trained on with --data"
        )
    split = simulated_split(request.seed, model.size, math.inf, bar)
    with bar("simulating images to measure on") as step:
        held_out = simulated_held_out(request.seed, model.size, step)
    return split.train, split.validation, held_out


def _of_folder(request: BuildRequest, model: ImageModel, bar: ProgressBar) -> _Images:
    folder = request.folder
    assert folder is not None
    split = folder_split(
        folder, request.group_by, False, request.seed, model.size, model.max_reduction, bar
    )
    if model.card.classes != split.classes:
        raise ValueError(
            f"{model.card.label} knows {', '.join(model.card.classes)}, and {folder} has "
            f"{', '.join(split.classes)}: name the folder it was trained on, or train on this one"
        )
    if model.card.trained_on != split.fingerprint:
        log.warning(
            "%s was not trained on this split of %s (another --seed, --group-by or folder): images "
            "of its training may be measured, which flatters both models",
            model.card.label,
            folder,
        )
    # Calibration takes the first images, and a folder's are sorted by class.
    shuffled = np.random.default_rng(request.seed).permutation(len(split.train))
    # Matching the threshold reads no labels, so the same images serve for it.
    return split.train.select(shuffled), split.validation, split.validation
