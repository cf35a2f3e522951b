"""From a champion to what fits beside the camera: INT8, held to the model it came from.

Static quantisation with the line's pictures to calibrate on: weights a channel, activations a
tensor. Weights have seven bits: a processor without VNNI adds products of eight in sixteen bits,
which overflow, and the device is not the machine that builds. The scores of the small model lie
elsewhere, so it has a threshold of its own, where it stops as many pictures as the whole model:
looking for the least cost again would find another sample's luck.

It is not judged by accuracy alone: an INT8 model that lets one more scratch escape has cost more
than the milliseconds were worth, so the build is refused where the cost on held-out pictures rises
by more than a bound. Why not dynamic quantisation? It leaves convolutions in float. Why not train
with quantisation in mind? It is the next step where this one is refused. Why not OpenVINO? Of the
same file it was the slower runtime on the processors measured: docs/inspection.md.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018.
"""

import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from services.cv_inspection.edge.device import model_path
from services.cv_inspection.features.labelled_images import Pictures
from services.cv_inspection.problem import Kpi
from services.cv_inspection.serving.model import IMAGE, ImageModel, read_model
from services.platform.models.onnx import ModelCard, stamp
from services.platform.progress import Step

# The cost on held-out pictures may rise by this share.
MOST_DEARER = 0.10
_CALIBRATED_ON = 200
_TIMED = 200
_WARM_UP = 20


@dataclass(frozen=True)
class Figures:
    """One model on the same pictures: one thread, one picture a call; cost in minor units."""

    auc: float
    iou: float
    recall: float
    cost: float
    p50_ms: float
    p95_ms: float
    size_mb: float


@dataclass(frozen=True)
class Build:
    """Both models, and why the INT8 one was refused, empty if it was not."""

    fp32: Figures
    int8: Figures
    refused: str


def build(
    data: bytes,
    calibration: Pictures,
    choosing: Pictures,
    held_out: Pictures,
    step: Step,
    bound: float = MOST_DEARER,
) -> tuple[bytes, Build]:
    """Quantise a model and hold it to the one it came from.

    Args:
        data: The FP32 file. calibration, choosing, held_out: Pictures at the model's size, to
            calibrate on, to choose the small model's threshold on, and to judge both on.
        bound: Share by which the cost may rise.

    Returns:
        The INT8 file, and both models' figures.
    """
    whole = read_model(data)
    step(0, 4)
    small = _quantised(data, calibration.vectors[:_CALIBRATED_ON])
    small = stamp(small, _with_own_threshold(whole, read_model(stamp(small, whole.card)), choosing))
    step(1, 4)
    models = {"fp32": whole, "int8": read_model(small)}
    times = _timed(models, held_out.vectors)
    step(2, 4)
    files = {"fp32": data, "int8": small}
    found = {}
    for number, (name, model) in enumerate(models.items()):
        found[name] = _judged(model, held_out, times[name], len(files[name]) / 1e6)
        step(3 + number, 4)
    rise = found["int8"].cost / max(found["fp32"].cost, 1.0) - 1
    refused = ""
    if rise > bound:
        refused = (
            f"cost: {found['int8'].cost / 100:,.0f} against {found['fp32'].cost / 100:,.0f}, "
            f"{rise:+.0%}; {bound:+.0%} is the most"
        )
    return small, Build(found["fp32"], found["int8"], refused)


def _with_own_threshold(whole: ImageModel, small: ImageModel, pictures: Pictures) -> ModelCard:
    """The card with the threshold at which the small model stops as many as the whole one."""
    score = [1.0 - _answers(model, pictures.vectors)[0][:, 0] for model in (whole, small)]
    stopped = int((score[0] >= whole.card.threshold).sum())
    threshold = float(np.sort(score[1])[-stopped]) if stopped else 1.0
    return whole.card.model_copy(update={"threshold": threshold})


def _quantised(data: bytes, pictures: npt.NDArray[np.uint8]) -> bytes:
    # The onnx package and its tools are training's, not the edge's.
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[dict[str, Any]] = ({IMAGE: p[None]} for p in pictures)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    # The tools print what they do, where figures for machines are to stand.
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        before, ready, after = (Path(folder) / f"{n}.onnx" for n in ("fp32", "ready", "int8"))
        before.write_bytes(data)
        quant_pre_process(before, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            after,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod.Percentile,
            # What convolutions pass on to each other; the heads decide, and stay in float.
            op_types_to_quantize=["Conv", "Add", "Clip"],
        )
        return after.read_bytes()


def _timed(
    models: dict[str, ImageModel], pictures: npt.NDArray[np.uint8]
) -> dict[str, list[float]]:
    """Seconds of calls for one picture, the models in turn: a busy moment strikes both."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(_TIMED + _WARM_UP):
        picture = pictures[number % len(pictures)][None]
        for name, model in models.items():
            begin = perf_counter()
            model.inspect(picture)
            if number >= _WARM_UP:
                times[name].append(perf_counter() - begin)
    return times


def _judged(model: ImageModel, pictures: Pictures, times: list[float], size_mb: float) -> Figures:
    from sklearn.metrics import roc_auc_score

    from services.cv_inspection.retraining.training import mask_iou

    kinds, masks = _answers(model, pictures.vectors)
    score = 1.0 - kinds[:, 0].astype(np.float64)
    stopped = score >= model.card.threshold
    positive = pictures.positive
    p50, p95 = np.percentile(times, [50, 95]) * 1e3
    return Figures(
        auc=float(roc_auc_score(positive, score)),
        iou=mask_iou(masks[:, 0], pictures),
        recall=float((stopped & positive).sum() / max(positive.sum(), 1)),
        cost=Kpi().total(stopped, positive, pictures.amount),
        p50_ms=float(p50),
        p95_ms=float(p95),
        size_mb=size_mb,
    )


def _answers(model: ImageModel, pixels: npt.NDArray[np.uint8]) -> tuple[Any, Any]:
    parts = [model.inspect(pixels[i : i + 32]) for i in range(0, len(pixels), 32)]
    kinds, masks = zip(*parts, strict=True)
    return np.concatenate(kinds), np.concatenate(masks)


def save(folder: Path, data: bytes, made: Build) -> Path:
    """Keep a built model and its figures. Returns the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edge.json").write_text(json.dumps(asdict(made), indent=2))
    path = model_path(folder)
    path.write_bytes(data)
    return path
