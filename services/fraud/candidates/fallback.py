"""The fallback: decides while the online store is away. It is no candidate of its own.

It travels in the champion's file (`services.fraud.model`), so it is promoted, shadowed and rolled
back with it. It reads the request, the cart's items by category, and whatever rows the scorer still
holds in memory (`serving.row_cache`). It is trained on vectors whose rows are lost as they would be
then: all of them in one of four, in the others those of entities that were not seen for a while. So
a missing row is evidence: a device that the scorer has not seen for weeks is probably new.

Scores are calibrated by a logistic function of the log-odds, fitted on the validation days.
Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
"""

import re

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.fraud.candidates.xgboost import XGBoost
from services.fraud.features.request import CATEGORY_BUCKETS
from services.fraud.features.states import CUSTOMER, DEVICE, FEATURE_SET, IP, MERCHANT, PAIR
from services.platform.models.candidates import Examples
from services.platform.models.onnx import INPUT, OUTPUT
from services.platform.progress import ProgressCallback
from services.platform.types import Booleans, Floats, Floats32

# One genuine transaction of five is fitted on; the calibration restores the rate of fraud.
_GENUINE_STEP = 5
_COLD_SHARE = 0.25
_JUST_SEEN_SHARE = 0.3
_MIN_DAYS, _MAX_DAYS = 0.02, 30.0
# A decayed count of each state, with its half-life in days: below 2^(-T / half-life), the entity
# was not seen for T days.
_COUNTS = {
    CUSTOMER.name: ("customer_transactions_1d", 1.0),
    MERCHANT.name: ("merchant_transactions_1d", 1.0),
    PAIR.name: ("customer_device_transactions_30d", 30.0),
    DEVICE.name: ("device_transactions_1d", 1.0),
    IP.name: ("ip_transactions_1d", 1.0),
}
_CLIP = 1e-6


def columns_of_states(features: tuple[str, ...]) -> dict[str, list[int]]:
    """By state name, the columns that are missing when its row is.

    >>> columns_of_states(("amount", "ip_risk_30d", "customer_risk_7d"))["ip_state"]
    [1]
    """
    found: dict[str, list[int]] = {name: [] for name in _COUNTS}
    for group in FEATURE_SET.groups:
        for feature in group.features:
            aliases = set(re.findall(r"(\w+)\.", getattr(feature, "value", "")))
            if feature.name in features:
                for alias in aliases:
                    found[group.states[alias].name].append(features.index(feature.name))
    return found


def lose_rows(vectors: Floats, features: tuple[str, ...], seed: int) -> Floats:
    """N vectors (N, F) as they would be without the online store.

    Args:
        features: (F,) names of the columns.
    """
    random = np.random.default_rng(seed)
    out = vectors.copy()
    is_cold = random.random(len(out)) < _COLD_SHARE
    days = np.exp(random.uniform(np.log(_MIN_DAYS), np.log(_MAX_DAYS), len(out)))
    for state, columns in columns_of_states(features).items():
        name, half_life = _COUNTS[state]
        count = vectors[:, features.index(name)]
        # The row of an entity that was first seen minutes before holds no events yet.
        is_just_seen = (count == 0.0) & (random.random(len(out)) < _JUST_SEEN_SHARE)
        is_unseen = (count < 2.0 ** (-days / half_life)) & ~is_just_seen
        out[np.ix_(is_cold | is_unseen, columns)] = np.nan
    return out


class Fallback(XGBoost):
    """Trees over the vector, as far as it is known, and the cart's items by category."""

    name = "fallback"
    role = "decides without the online store"
    sets = ("items",)

    _buckets: np.ndarray
    _scale, _shift = 1.0, 0.0

    def fit(self, train: Examples, validation: Examples, seed: int, step: ProgressCallback) -> None:
        """Fit the trees, then the calibration on the validation examples."""
        items = train.sets["items"]
        self._buckets = np.unique(items[..., 0][items[..., 0] >= 0]).astype(np.int64)
        chosen = train.positive | (np.arange(len(train)) % _GENUINE_STEP == 0)
        super().fit(self._degraded(train, chosen, seed), validation, seed, step)
        late = self._degraded(validation, np.ones(len(validation), bool), seed + 1)
        odds = _log_odds(super().score(late))
        self._scale, self._shift = platt(odds, validation.positive, weight=validation.weight)

    def score(self, examples: Examples) -> Floats:
        """Calibrated probabilities (N,) of vectors as they are."""
        odds = _log_odds(super().score(self._with_items(examples, examples.vectors)))
        return 1.0 / (1.0 + np.exp(-(self._scale * odds + self._shift)))

    def explanation(self) -> dict[str, np.ndarray]:
        """Nothing: its scores are explained by coalitions, because its trees see counted items."""
        return {}

    def export(self) -> bytes:
        """The trees' ONNX file, between the counting of items and the calibration."""
        model = onnx.load_model_from_string(super().export())
        for node in model.graph.node:
            node.input[:] = ["wide" if name == INPUT else name for name in node.input]
            node.output[:] = ["uncalibrated" if name == OUTPUT else name for name in node.output]
        nodes = [*_COUNTING, *model.graph.node, *_CALIBRATION]
        constants = {
            "item_bucket": np.int64(0), "one": np.int64(1), "axis": np.array([1], np.int64),
            "depth": np.int64(CATEGORY_BUCKETS + 1), "off_on": np.array([0, 1], np.float32),
            "buckets": self._buckets + 1, "sure": np.float32(1), "least": np.float32(_CLIP),
            "most": np.float32(1 - _CLIP), "scale": np.float32(self._scale),
            "shift": np.float32(self._shift),
        }  # fmt: skip
        made = helper.make_graph(
            nodes,
            "fallback",
            [
                helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, len(self.features)]),
                helper.make_tensor_value_info("items", TensorProto.FLOAT, [None, None, 2]),
            ],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None])],
            initializer=[
                *model.graph.initializer,
                *(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()),
            ],
        )
        file = helper.make_model(
            made, opset_imports=model.opset_import, ir_version=model.ir_version
        )
        onnx.checker.check_model(file)
        data: bytes = file.SerializeToString()
        return data

    def _degraded(self, examples: Examples, chosen: Booleans, seed: int) -> Examples:
        rows = {name: items[chosen] for name, items in examples.sets.items()}
        part = Examples(
            examples.vectors[chosen],
            examples.positive[chosen],
            examples.amount[chosen],
            rows,
            None if examples.weight is None else examples.weight[chosen],
        )
        return self._with_items(part, lose_rows(part.vectors, self.features, seed))

    def _with_items(self, examples: Examples, vectors: Floats) -> Examples:
        counts = item_counts(examples.sets["items"], self._buckets)
        wide = np.hstack([vectors.astype(np.float32), counts])
        return Examples(wide, examples.positive, examples.amount, weight=examples.weight)

    def _columns(self) -> list[str]:
        return [*self.features, *(f"items_{bucket}" for bucket in self._buckets)]


def item_counts(items: Floats32, buckets: np.ndarray) -> Floats32:
    """(N, B): how many items of N carts (N, M, 2) are of each of B category buckets.

    >>> item_counts(np.array([[[3, 9.5], [3, 1], [-1, 0]]], "f4"), np.array([2, 3])).tolist()
    [[0.0, 2.0]]
    """
    column = np.full(CATEGORY_BUCKETS + 1, -1)
    column[buckets + 1] = np.arange(len(buckets))
    owner, position = np.nonzero(items[..., 0] >= 0)
    of = column[items[owner, position, 0].astype(np.int64) + 1]
    known = of >= 0
    out = np.zeros((len(items), len(buckets)), np.float32)
    np.add.at(out, (owner[known], of[known]), 1.0)
    return out


def platt(
    log_odds: Floats, positive: Booleans, rounds: int = 25, weight: Floats | None = None
) -> tuple[float, float]:
    """Scale and shift of log-odds (N,) that maximise the likelihood of labels (N,), by Newton.

    Args:
        weight: (N,) how often each label counts; None: once.

    Examples:
        >>> odds = np.array([-2.0, -2.0, -2.0, 2.0, 2.0, 2.0])
        >>> scale, shift = platt(odds, np.array([0, 0, 1, 0, 1, 1], bool))
        >>> float(round(1 / (1 + np.exp(-(2 * scale + shift))), 3))
        0.667
    """
    inputs, weights = np.column_stack([log_odds, np.ones(len(log_odds))]), np.array([1.0, 0.0])
    counted = np.ones(len(log_odds)) if weight is None else weight
    for _ in range(rounds):
        p = 1.0 / (1.0 + np.exp(-inputs @ weights))
        hessian = (inputs * (counted * p * (1.0 - p))[:, None]).T @ inputs + 1e-6 * np.eye(2)
        weights = weights + np.linalg.solve(hessian, inputs.T @ (counted * (positive - p)))
    return float(weights[0]), float(weights[1])


def _log_odds(score: Floats) -> Floats:
    clipped = np.clip(score, _CLIP, 1.0 - _CLIP)
    return np.log(clipped / (1.0 - clipped))


_COUNTING = (
    helper.make_node("Gather", ["items", "item_bucket"], ["bucket"], axis=2),
    helper.make_node("Cast", ["bucket"], ["whole_bucket"], to=TensorProto.INT64),
    # Padding has bucket -1, which OneHot would count from the end.
    helper.make_node("Add", ["whole_bucket", "one"], ["hot_bucket"]),
    helper.make_node("OneHot", ["hot_bucket", "depth", "off_on"], ["hot"], axis=-1),
    helper.make_node("ReduceSum", ["hot", "axis"], ["all_counts"], keepdims=0),
    helper.make_node("Gather", ["all_counts", "buckets"], ["counts"], axis=1),
    helper.make_node("Concat", [INPUT, "counts"], ["wide"], axis=1),
)
_CALIBRATION = (
    helper.make_node("Clip", ["uncalibrated", "least", "most"], ["clipped"]),
    helper.make_node("Sub", ["sure", "clipped"], ["rest"]),
    helper.make_node("Div", ["clipped", "rest"], ["odds"]),
    helper.make_node("Log", ["odds"], ["log_odds"]),
    helper.make_node("Mul", ["log_odds", "scale"], ["scaled"]),
    helper.make_node("Add", ["scaled", "shift"], ["shifted"]),
    helper.make_node("Sigmoid", ["shifted"], [OUTPUT]),
)
