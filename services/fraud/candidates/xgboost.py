"""XGBoost: gradient-boosted trees over the tabular features. The fastest candidate.

Source: Chen and Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost as xgb
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from services.fraud.candidates import CANDIDATES
from services.fraud.reasons.forest import leaf_paths
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.export import positive_only
from services.platform.progress import ProgressCallback
from services.platform.types import Floats

# TreeEnsembleClassifier is in ai.onnx.ml 1; the rest of the graph is one Gather.
_OPSET = 15
_FILE = "xgboost.json"
_NOT_FOR_XGBOOST = ("rounds", "more_rounds")


class _Progress(xgb.callback.TrainingCallback):
    """Reports XGBoost's rounds as progress."""

    def __init__(self, step: ProgressCallback, rounds: int) -> None:
        super().__init__()
        self._step = step
        self._rounds = rounds

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        self._step(epoch + 1, self._rounds)
        return False


@CANDIDATES.register
class XGBoost(Candidate):
    """Shallow trees on histograms; each split learns which side missing values take."""

    name = "xgboost"
    role = "fastest; tabular"

    _booster: xgb.Booster

    def fit(self, train: Examples, validation: Examples, seed: int, step: ProgressCallback) -> None:
        """Boost for a fixed number of rounds; the validation set is not used here."""
        self._booster = self._boost(train, seed, step, int(self.parameters["rounds"]), None)

    def fit_more(self, train: Examples, seed: int, step: ProgressCallback) -> None:
        """Add `more_rounds` trees to the present ones."""
        rounds = int(self.parameters["more_rounds"])
        self._booster = self._boost(train, seed, step, rounds, self._booster)

    def score(self, examples: Examples) -> Floats:
        """Probabilities (N,) by the booster."""
        return np.asarray(self._booster.inplace_predict(examples.vectors), dtype=np.float64)

    def export(self) -> bytes:
        """Convert the trees to ONNX with P(fraud) as the only output."""
        booster = self._booster.copy()
        booster.feature_names = None  # the converter expects f0, f1, ...
        types = [("features", FloatTensorType([None, len(self.features)]))]
        graph = convert_xgboost(booster, initial_types=types, target_opset=_OPSET).graph
        return positive_only(graph, {"": _OPSET, "ai.onnx.ml": 1})

    def explanation(self) -> Mapping[str, npt.NDArray[Any]]:
        """The leaves of the forest with the conditions on their paths: see `forest.leaf_paths`."""
        return leaf_paths(json.loads(self._booster.save_raw("json")))

    def save(self, folder: Path) -> None:
        """Write the booster as JSON."""
        self._booster.save_model(folder / _FILE)

    def load(self, folder: Path) -> None:
        """Read a booster that `save` wrote."""
        self._booster = xgb.Booster(model_file=folder / _FILE)

    def _boost(
        self,
        train: Examples,
        seed: int,
        step: ProgressCallback,
        rounds: int,
        start_from: xgb.Booster | None,
    ) -> xgb.Booster:
        parameters = {k: v for k, v in self.parameters.items() if k not in _NOT_FOR_XGBOOST}
        return xgb.train(
            {
                "objective": "binary:logistic",
                "tree_method": "hist",
                "base_score": 0.5,
                "seed": seed,
                **parameters,
            },
            # The same trees with less memory. Training further needs the scores of the trees that
            # are there, and scores need whole values.
            self._matrix(train, xgb.QuantileDMatrix if start_from is None else xgb.DMatrix),
            num_boost_round=rounds,
            callbacks=[_Progress(step, rounds)],
            xgb_model=start_from,
        )

    def _matrix(self, train: Examples, kind: type[xgb.DMatrix]) -> xgb.DMatrix:
        # XGBoost rounds to float32, as the ONNX graph does: both take the same side of a split.
        return kind(
            train.vectors,
            label=train.positive,
            weight=train.weight,
            feature_names=self._columns(),
        )

    def _columns(self) -> list[str]:
        """Names of the columns that the trees see."""
        return list(self.features)
