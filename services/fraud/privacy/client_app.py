"""A bank's side of the federation, as a Flower ClientApp: its rows stay where they are.

What a bank is, its SuperNode's configuration says: `bank` (number), `data` (folder with
`train.npz`) and, for tests, `poison` and `seed`. Every message starts a process, so a function
imports torch, XGBoost and Opacus only where it needs them: they take 2, 1 and 2 seconds.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.compat.common.recorddict_compat import fitres_to_recorddict

from services.fraud.privacy.job import TREES
from services.fraud.privacy.rows import TRAIN, BadBank, Rows, check
from services.platform.types import Floats32

_POISON_SCALE = 5.0


def secure_aggregation(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Mask the update where the server asks for SecAgg+, which is a conversation of four stages."""
    if RECORD_KEY_CONFIGS in message.content.config_records:
        return secaggplus_mod(message, context, call_next)
    return call_next(message, context)


app = ClientApp(mods=[secure_aggregation])


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train the common model further on this bank's rows and reply with the result.

    Raises:
        BadBank: this bank's rows cannot be trained on; Flower replies with the message.
    """
    config = _config(message.content)
    arrays = next(iter(message.content.array_records.values())).to_numpy_ndarrays()
    bank, number = int(context.node_config["bank"]), int(config["server-round"])
    try:
        rows = Rows.load(Path(str(context.node_config["data"])) / f"{TRAIN}.npz")
        check(rows, tuple(str(config["names"]).split(",")))
    except BadBank as error:
        raise BadBank(f"bank-{bank}: {error}") from None
    seed = _seed(config["seed"], number, bank)
    metrics: dict[str, Any] = {"bank": bank, "num-examples": len(rows)}
    if config["kind"] == TREES:
        from services.fraud.privacy.trees import add_trees

        grown = add_trees(arrays[0].tobytes(), rows, config, seed)
        update: list[Any] = [np.frombuffer(grown, dtype=np.uint8)]
    else:
        rng = _private_rng(context, number, bank)
        update = _train_network(arrays, rows, config, seed, rng, metrics)
        update = _poisoned(arrays, update, str(context.node_config.get("poison", "")))
    return Message(_reply(config, update, metrics), reply_to=message)


def _seed(base: Any, number: int, bank: int) -> int:
    """The seed of a bank's round."""
    return int(base) * 10_000 + number * 100 + bank


def _private_rng(context: Context, number: int, bank: int) -> np.random.Generator:
    """The source of a bank's noise and of its sampled customers.

    A secret that is new for each message and never leaves the bank: who knows it can subtract the
    noise. The seed that the server sends must not determine it. A bank's own configuration has
    `seed` where everything runs in one process.
    """
    if (base := context.node_config.get("seed")) is not None:
        return np.random.default_rng(_seed(base, number, bank))
    return np.random.default_rng(secrets.randbits(128))


def _config(content: RecordDict) -> ConfigRecord:
    """The round's configuration, which is not that of secure aggregation."""
    return next(
        record for key, record in content.config_records.items() if key != RECORD_KEY_CONFIGS
    )


def _train_network(
    arrays: list[Floats32],
    rows: Rows,
    config: Mapping[str, Any],
    seed: int,
    rng: np.random.Generator,
    metrics: dict[str, Any],
) -> list[Floats32]:
    from services.fraud.privacy.local_training import set_weights, train, weights
    from services.fraud.privacy.model import network

    net = network(config)
    set_weights(net, arrays)
    if not float(config["epsilon"]):
        train(net, rows, config, seed)
        return weights(net)
    from services.fraud.privacy.private_training import PrivacyBudget, train_privately

    rounds = int(config["rounds"])
    budget = PrivacyBudget(
        float(config["epsilon"]), float(config["sample-rate"]), int(config["steps"]), rounds
    )
    train_privately(net, rows, config, budget.noise, rng)
    metrics["epsilon"] = budget.spent(int(config["server-round"]))
    return weights(net)


def _poisoned(before: list[Floats32], after: list[Floats32], poison: str) -> list[Floats32]:
    """A dishonest bank's update: the opposite of what it learned, or too much of it."""
    if not poison:
        return after
    scale = {"flip": -_POISON_SCALE, "scale": _POISON_SCALE}[poison]
    return [b + np.float32(scale) * (a - b) for b, a in zip(before, after, strict=True)]


def _reply(
    config: Mapping[str, Any], update: list[np.ndarray], metrics: dict[str, Any]
) -> RecordDict:
    """The reply's content; secure aggregation in Flower 1.42 reads the older format."""
    if not config["secure"]:
        return RecordDict({"arrays": ArrayRecord(update), "metrics": MetricRecord(metrics)})
    examples = metrics.pop("num-examples")
    parameters = ndarrays_to_parameters(update)
    return fitres_to_recorddict(FitRes(Status(Code.OK, ""), parameters, examples, metrics), False)
