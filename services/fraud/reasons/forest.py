"""Exact TreeSHAP of a forest, without the library that trained it.

A leaf with the conditions on its path is a product: it adds its value if every condition holds.
With features removed, each of their conditions counts by the share of training rows that satisfied
it. A forest is the sum over its leaves; the result is that of XGBoost's `pred_contribs`.

The Shapley value of a feature is an integral over q, the probability with which each of the others
is known (Owen's multilinear extension). For a product of d conditions the integrand is a polynomial
of degree d - 1 in q, which Gauss-Legendre quadrature with d / 2 nodes integrates exactly.

Sources: Lundberg et al., "From Local Explanations to Global Understanding with Explainable AI for
Trees", Nature Machine Intelligence 2020, algorithm 1 (path-dependent); Owen, "Multilinear
Extensions of Games", Management Science 1972.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.jit import jit
from services.platform.types import Floats

# Distinct features on one path; leaf-wise trees without a depth limit could have more.
MAX_PATH = 24


def _quadrature() -> tuple[Floats, Floats]:
    """Nodes and weights on (0, 1), a row for each number of nodes up to MAX_PATH / 2."""
    nodes, weights = np.zeros((2, MAX_PATH // 2 + 1, MAX_PATH // 2))
    for count in range(1, len(nodes)):
        x, w = np.polynomial.legendre.leggauss(count)
        nodes[count, :count], weights[count, :count] = (x + 1) / 2, w / 2
    return nodes, weights


_NODES, _WEIGHTS = _quadrature()


def leaf_paths(model: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The leaves of an XGBoost model's JSON with their paths, the arrays of `Forest`.

    Raises:
        ValueError: a path has more than `MAX_PATH` features, or a split is on a category.
    """
    learner = model["learner"]
    probability = float(str(learner["learner_model_param"]["base_score"]).strip("[]"))
    value, begin, rows = [], [0], []
    for tree in learner["gradient_booster"]["model"]["trees"]:
        if any(tree["split_type"]):
            raise ValueError("categorical splits are not explained")
        for leaf, path in _walk(tree, 0, {}):
            if len(path) > MAX_PATH:
                raise ValueError(f"a path has {len(path)} features, at most {MAX_PATH}")
            value.append(leaf)
            rows += [(feature, *condition) for feature, condition in path.items()]
            begin.append(len(rows))
    columns = list(zip(*rows, strict=True)) or [()] * 5
    return {
        "bias": np.array([np.log(probability / (1.0 - probability))]),
        "value": np.array(value, np.float32),
        "begin": np.array(begin, np.int32),
        "feature": np.array(columns[0], np.int16),
        "low": np.array(columns[1], np.float32),
        "high": np.array(columns[2], np.float32),
        "missing": np.array(columns[3], np.bool_),
        "share": np.array(columns[4], np.float32),
    }


_Path = dict[int, tuple[float, float, bool, float]]


def _walk(tree: Mapping[str, Any], node: int, path: _Path) -> Iterator[tuple[float, _Path]]:
    """(value, path) of each leaf below a node; a path is (low, high, missing, share) by feature."""
    left, right = tree["left_children"][node], tree["right_children"][node]
    if left < 0:
        yield tree["base_weights"][node], path
        return
    feature, at = tree["split_indices"][node], tree["split_conditions"][node]
    low, high, missing, share = path.get(feature, (-np.inf, np.inf, True, 1.0))
    cover = tree["sum_hessian"]
    to_left = bool(tree["default_left"][node])
    sides = (
        (left, low, min(high, at), missing and to_left),
        (right, max(low, at), high, missing and not to_left),
    )
    for child, below, above, passes in sides:
        narrowed = (below, above, passes, share * cover[child] / cover[node])
        yield from _walk(tree, child, {**path, feature: narrowed})


@dataclass(frozen=True)
class Forest:
    """A forest as its L leaves, with P conditions in all.

    Attributes:
        bias: Log-odds before the first tree, (1,).
        value: (L,) log-odds that a leaf adds.
        begin: (L + 1,) first condition of each leaf.
        feature: (P,) column of a condition.
        low: (P,) the value is at least this,
        high: (P,) and below that.
        missing: (P,) whether a missing value satisfies it.
        share: (P,) share of training rows, by their weight, that satisfied it.
    """

    bias: npt.NDArray[np.float64]
    value: npt.NDArray[np.float32]
    begin: npt.NDArray[np.int32]
    feature: npt.NDArray[np.int16]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    missing: npt.NDArray[np.bool_]
    share: npt.NDArray[np.float32]

    def contributions(self, vector: Floats) -> tuple[Floats, float, float]:
        """Contributions of the features to the log-odds of one vector (F,).

        Returns:
            Contributions (F,); the mean log-odds of training, to which they are added; and the
            log-odds of the vector, summed leaf by leaf.
        """
        out = np.zeros(len(vector))
        base, margin = _contributions(  # type: ignore[no-untyped-call]
            vector.astype(np.float32), self.value, self.begin, self.feature,
            self.low, self.high, self.missing, self.share, _NODES, _WEIGHTS, out,
        )  # fmt: skip
        bias = float(self.bias[0])
        return out, base + bias, margin + bias


def warm_up() -> None:
    """Load the compiled kernel before the first request."""
    empty = np.zeros(0, np.float32)
    flags, columns = np.zeros(0, np.bool_), np.zeros(0, np.int16)
    first = np.zeros(1, np.int32)
    Forest(np.zeros(1), empty, first, columns, empty, empty, flags, empty).contributions(
        np.zeros(1)
    )


@jit
def _contributions(x, value, begin, feature, low, high, missing, share, nodes, weights, out):  # type: ignore[no-untyped-def]
    base, margin = 0.0, 0.0
    inside = np.empty(len(feature))
    for p in range(len(feature)):
        v = x[feature[p]]
        # Without a branch, which the processor would mispredict every other time.
        inside[p] = np.float64((low[p] <= v) & (v < high[p])) if v == v else np.float64(missing[p])
    known = np.empty(MAX_PATH)
    for leaf in range(len(value)):
        first, last = begin[leaf], begin[leaf + 1]
        without, with_all = 1.0, 1.0
        for p in range(first, last):
            without *= share[p]
            with_all *= inside[p]
        base += value[leaf] * without
        margin += value[leaf] * with_all
        count = (last - first + 1) // 2
        for node in range(count):
            q = nodes[count, node]
            product = value[leaf] * weights[count, node]
            for p in range(first, last):
                known[p - first] = share[p] + q * (inside[p] - share[p])
                product *= known[p - first]
            for p in range(first, last):
                out[feature[p]] += (inside[p] - share[p]) * product / known[p - first]
    return base, margin
