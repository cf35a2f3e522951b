"""What banks do together with boosted trees: bagging by rounds, or histograms summed.

Bagging: each round, every bank adds trees to the common model on its own rows, with the learning
rate divided by the number of banks, and the server keeps all of them. A tree is a bank's own and
tells its split points and leaf values to every other bank: such trees can neither be summed under
masks nor made private by clipping. Summed histograms: the banks grow one tree together and sum the
gradient histograms of each node, by XGBoost's own collective. The result is the model of the pooled
rows but for their order, and every node sees every histogram.
"""

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from xgboost.collective import CommunicatorContext
from xgboost.tracker import RabitTracker

from services.fraud.privacy.rows import TRAIN, Rows, check

_OURS = ("trees-per-round",)
_BYTES_PER_BIN, _MAX_BIN = 16, 256


def _parameters(config: Mapping[str, Any], eta: float, seed: int) -> dict[str, Any]:
    """XGBoost's parameters, from those that begin with `xgb-`."""
    chosen = {
        key.removeprefix("xgb-").replace("-", "_"): value
        for key, value in config.items()
        if key.startswith("xgb-") and key.removeprefix("xgb-") not in _OURS
    }
    fixed = {"objective": "binary:logistic", "tree_method": "hist", "base_score": 0.5, "nthread": 1}
    return {**fixed, **chosen, "eta": eta, "seed": seed}


def _trees_per_round(config: Mapping[str, Any]) -> int:
    return int(config["xgb-trees-per-round"])


def _matrix(rows: Rows) -> xgb.DMatrix:
    return xgb.DMatrix(rows.vectors, label=rows.fraud)


def add_trees(model: bytes, rows: Rows, config: Mapping[str, Any], seed: int) -> bytes:
    """Grow `xgb-trees-per-round` trees on a bank's rows, on top of the common model.

    Args:
        model: The common model as JSON; empty in the first round.
        config: XGBoost's parameters, and `banks`, which divides the learning rate.

    Returns:
        The new trees alone, as JSON.
    """
    eta, more = float(config["xgb-eta"]) / int(config["banks"]), _trees_per_round(config)
    common = xgb.Booster(model_file=_parallel_trees(model, 1)) if model else None
    booster = xgb.train(_parameters(config, eta, seed), _matrix(rows), more, xgb_model=common)
    grown = booster[booster.num_boosted_rounds() - more :]
    return bytes(_parallel_trees(grown.save_raw("json"), more))


def _parallel_trees(model: bytes, count: int) -> bytearray:
    """A model that says how many trees an iteration has.

    FedXgbBagging takes as many trees of a reply as it says; XGBoost would grow as many at once. The
    sum of the trees is the same.
    """
    content = json.loads(bytes(model))
    content["learner"]["gradient_booster"]["model"]["gbtree_model_param"]["num_parallel_tree"] = (
        str(count)
    )
    return bytearray(json.dumps(content).encode())


def sum_histograms(
    banks: Sequence[Path], names: tuple[str, ...], config: Mapping[str, Any], seed: int
) -> tuple[bytes, int]:
    """Grow one model over several banks, each in a process of its own.

    Returns:
        The model as JSON, and the bytes that leave one bank, computed from the model: a
        histogram for the root and for one child of each split.

    Raises:
        RuntimeError: a bank's process failed.
    """
    tracker = RabitTracker(n_workers=len(banks), host_ip="127.0.0.1", sortby="task")
    tracker.start()
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(banks)) as pool:
        jobs = [
            (number, bank, names, dict(config), seed, tracker.worker_args())
            for number, bank in enumerate(banks)
        ]
        models = pool.starmap(_grow_together, jobs, chunksize=1)
    if any(model != models[0] for model in models):
        raise RuntimeError("the banks' models differ")
    trees = json.loads(models[0])["learner"]["gradient_booster"]["model"]["trees"]
    histograms = sum(1 + int(tree["tree_param"]["num_nodes"]) // 2 for tree in trees)
    return models[0], histograms * len(names) * _MAX_BIN * _BYTES_PER_BIN


def _grow_together(
    number: int, bank: Path, names: tuple[str, ...], config: Mapping[str, Any], seed: int,
    tracker: Mapping[str, Any],
) -> bytes:  # fmt: skip
    """One bank's part of `sum_histograms`."""
    rows = Rows.load(bank / f"{TRAIN}.npz")
    check(rows, names)
    parameters = _parameters(config, float(config["xgb-eta"]), seed)
    rounds = int(config["rounds"]) * _trees_per_round(config)
    with CommunicatorContext(**tracker, dmlc_task_id=f"{number:03d}"):
        booster = xgb.train(parameters, _matrix(rows), rounds)
    return bytes(booster.save_raw("json"))


def score(model: bytes, vectors: np.ndarray) -> np.ndarray:
    """Probabilities (N,) of a model in JSON."""
    booster = xgb.Booster()
    booster.load_model(bytearray(model))
    return np.asarray(booster.predict(xgb.DMatrix(vectors)), dtype=np.float64)
