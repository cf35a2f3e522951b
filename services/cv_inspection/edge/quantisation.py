"""Quantise a model to INT8 for the edge, and compare its cost with the original's.

Static quantisation, calibrated on the line's images: weights per channel, activations per tensor.
Weights have seven bits: a processor without VNNI adds products of eight bits in sixteen bits, which
overflow, and the device is another machine than the one that builds. Those of depthwise
convolutions have eight: ONNX Runtime adds their products in 32 bits. The scores of the INT8 model
are distributed differently, so it has its own threshold, at which it stops as many images as the
FP32 model: minimising the cost again would fit the noise of another sample.

Accuracy alone does not decide: an INT8 model that lets one more scratch escape costs more than the
milliseconds it saves, so the build is refused where the cost on held-out images rises by more than
a bound. Why not dynamic quantisation? It leaves convolutions in float. Why not quantisation-aware
training? It is the next step where this one is refused. Why not OpenVINO? It ran the same file more
slowly on the processors measured: docs/inspection.md.

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
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from services.cv_inspection.edge.device import model_path
from services.cv_inspection.features.labelled_images import LabelledImages, mask_iou
from services.cv_inspection.model import IMAGE, ImageModel, read_model
from services.cv_inspection.problem import CostModel
from services.platform.evaluation.comparison import time_calls
from services.platform.models.onnx import ModelCard, write_card
from services.platform.progress import ProgressCallback
from services.platform.types import Floats, Floats32

if TYPE_CHECKING:
    import onnx

# The cost on held-out images may rise by this share.
MAX_COST_INCREASE = 0.10
_CALIBRATION_IMAGES = 200
# All activations of so many images are in memory at once: of Lite2 at 128 px, 200 took over 8 GB.
_CALIBRATED_AT_ONCE = 4
_TIMED_CALLS = 200
_WARM_UP_CALLS = 20


@dataclass(frozen=True)
class ModelMeasurements:
    """One model on the held-out images; times of one image a call on one thread.

    Attributes:
        auc: Area under the ROC curve of P(defect).
        iou: Mean over the defect classes, see `mask_iou`.
        recall: Share of the defects that are stopped.
        cost: Minor units.
        p50_ms: Median time of a call.
        p95_ms: 95th percentile.
        size_mb: Size of the file.
    """

    auc: float
    iou: float
    recall: float
    cost: float
    p50_ms: float
    p95_ms: float
    size_mb: float


@dataclass(frozen=True)
class EdgeBuild:
    """The measurements of both models.

    Attributes:
        model: Version label of the model that was quantised.
        images: How many images both were measured on.
        fp32: That model.
        int8: The quantised one.
        refused: Why the build was refused, empty if it was not.
    """

    model: str
    images: int
    fp32: ModelMeasurements
    int8: ModelMeasurements
    refused: str


def build(
    data: bytes,
    calibration: LabelledImages,
    validation: LabelledImages,
    held_out: LabelledImages,
    step: ProgressCallback,
    max_cost_increase: float = MAX_COST_INCREASE,
) -> tuple[bytes, EdgeBuild]:
    """Quantise a model and compare it with the original.

    Args:
        data: The FP32 file.
        calibration: Images at the model's size to calibrate on, in random order.
        validation: Images to choose the INT8 model's threshold on.
        held_out: Images to measure both models on.
        max_cost_increase: Share by which the cost may rise.

    Returns:
        The INT8 file, and both models' measurements.
    """
    fp32 = read_model(data)
    step(0, 4)
    quantised = _quantise(data, calibration.vectors[:_CALIBRATION_IMAGES])
    int8 = read_model(write_card(quantised, fp32.card))
    quantised = write_card(quantised, _with_matched_threshold(fp32, int8, validation))
    step(1, 4)
    models = {"fp32": fp32, "int8": read_model(quantised)}
    times = _time_calls(models, held_out.vectors)
    step(2, 4)
    files = {"fp32": data, "int8": quantised}
    measured = {}
    for number, (name, model) in enumerate(models.items()):
        measured[name] = _measure(model, held_out, times[name], len(files[name]) / 1e6)
        step(3 + number, 4)
    rise = measured["int8"].cost / max(measured["fp32"].cost, 1.0) - 1
    refused = ""
    if rise > max_cost_increase:
        refused = (
            f"cost: {measured['int8'].cost / 100:,.0f} EUR against "
            f"{measured['fp32'].cost / 100:,.0f} EUR, {rise:+.0%}; the maximum is "
            f"{max_cost_increase:+.0%}"
        )
    count = len(np.unique(held_out.source))
    made = EdgeBuild(fp32.card.label, count, measured["fp32"], measured["int8"], refused)
    return quantised, made


def _with_matched_threshold(
    fp32: ImageModel, int8: ImageModel, images: LabelledImages
) -> ModelCard:
    """The card with the threshold at which the INT8 model stops as many images as the FP32 one."""
    score = [_scores(model, images)[0] for model in (fp32, int8)]
    stopped = int((score[0] >= fp32.card.threshold).sum())
    threshold = float(np.sort(score[1])[-stopped]) if stopped else 1.0
    return fp32.card.model_copy(update={"threshold": threshold})


def _quantise(data: bytes, pixels: npt.NDArray[np.uint8]) -> bytes:
    # The onnx package is installed for training, not on edge devices.
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    at_once = min(_CALIBRATED_AT_ONCE, len(pixels))

    class Reader(CalibrationDataReader):
        """The images, of which the quantiser takes a range at a time."""

        def __len__(self) -> int:
            return len(pixels) // at_once * at_once

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left: Iterator[dict[str, Any]] = (
                {IMAGE: image[None]} for image in pixels[start_index:end_index]
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    # The tools print to stdout, where a command may print JSON.
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        before, ready, after = (Path(folder) / f"{n}.onnx" for n in ("fp32", "ready", "int8"))
        before.write_bytes(data)
        quant_pre_process(before, ready, skip_symbolic_shape=True)
        model = onnx.load(ready)
        quantize_static(
            ready,
            after,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            # A histogram of values that hardly differ cannot be made; its percentile was no better.
            calibrate_method=CalibrationMethod.MinMax,
            # The convolutions and what lies between them; the heads stay in float.
            op_types_to_quantize=["Conv", "Add", "Clip"],
            nodes_to_exclude=_after_convolutions(model),
            extra_options={
                "CalibStridedMinMax": at_once,
                "TensorQuantOverrides": {
                    name: [{"axis": 0, "quant_type": QuantType.QInt8, "reduce_range": False}]
                    for name in _depthwise_weights(model)
                },
            },
        )
        return after.read_bytes()


def _after_convolutions(model: "onnx.ModelProto") -> list[str]:
    """Names of the nodes after which no convolution comes: the heads and their probabilities.

    In eight bits a probability has 255 steps, and a threshold of .05 lies between two of them.
    """
    nodes = list(model.graph.node)
    read_by_convolutions: set[str] = set()
    for node in reversed(nodes):  # an ONNX graph is sorted
        if node.op_type == "Conv" or read_by_convolutions & set(node.output):
            read_by_convolutions |= set(node.input)
    return [
        node.name
        for node in nodes
        if node.op_type != "Conv" and not read_by_convolutions & set(node.output)
    ]


def _depthwise_weights(model: "onnx.ModelProto") -> list[str]:
    """Names of the weights of convolutions that see one channel each."""
    shape = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    weights = (node.input[1] for node in model.graph.node if node.op_type == "Conv")
    return [name for name in weights if shape.get(name, (0, 0))[1] == 1 and shape[name][0] > 1]


def _time_calls(
    models: dict[str, ImageModel], pixels: npt.NDArray[np.uint8]
) -> dict[str, list[float]]:
    """Seconds of calls of one image, by name of the model."""
    count = _TIMED_CALLS + _WARM_UP_CALLS
    images = (pixels[number % len(pixels)][None] for number in range(count))
    seconds = time_calls(models, ((image, {}) for image in images))
    return {name: of_model[_WARM_UP_CALLS:] for name, of_model in seconds.items()}


def _measure(
    model: ImageModel, images: LabelledImages, times: list[float], size_mb: float
) -> ModelMeasurements:
    from sklearn.metrics import roc_auc_score

    score, whole, masks = _scores(model, images)
    stopped = score >= model.card.threshold
    positive = whole.positive
    p50, p95 = np.percentile(times, [50, 95]) * 1e3
    return ModelMeasurements(
        auc=float(roc_auc_score(positive, score)),
        iou=mask_iou(masks, images),
        recall=float((stopped & positive).sum() / max(positive.sum(), 1)),
        cost=CostModel().total(stopped, positive, whole.amount),
        p50_ms=float(p50),
        p95_ms=float(p95),
        size_mb=size_mb,
    )


def _scores(model: ImageModel, images: LabelledImages) -> tuple[Floats, LabelledImages, Floats32]:
    """(M,) P(defect) of whole images, these, and (N, H, W) mask logits of their tiles."""
    found = model.inspect(images.vectors)
    score, whole = images.by_image(1.0 - found.probabilities[:, 0].astype(np.float64))
    return score, whole, found.masks[:, 0]


def save(folder: Path, data: bytes, measured: EdgeBuild) -> Path:
    """Write a built model and its measurements. Returns the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edge.json").write_text(json.dumps(asdict(measured), indent=2))
    path = model_path(folder)
    # A power cut leaves the model of before.
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)
    return path
