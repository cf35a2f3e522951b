"""An encoder's initial weights: from the model hub, a package, a file, or at random.

`weights: auto` tries hub, package and random weights in this order. How many images a candidate
needs depends on its initial weights, so their origin is logged with the training run.
"""

import logging
import socket
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from services.platform.torch import timm_guard  # noqa: F401

# isort: split
import timm
from huggingface_hub import constants

log = logging.getLogger(__name__)

HUB, SCRATCH = "hub", "from scratch"
_PROBE_S = 2.0

StateDict = Mapping[str, Tensor]


def initialise(encoder: nn.Module, name: str, weights: str, package: str = "") -> str:
    """Load an encoder's initial weights.

    Args:
        name: The encoder's name in timm.
        weights: "auto", "scratch", or the path of a file with a state dict.
        package: A module that contains weights for it, if any.

    Returns:
        Where the weights came from.

    Raises:
        FileNotFoundError: there is no file `weights`.
        ValueError: a file's weights do not fit the encoder.
    """
    if weights == "scratch":
        return SCRATCH
    if weights != "auto":
        return _from_file(encoder, Path(weights))
    if _hub_reachable():
        try:
            _load_by_name(encoder, timm.create_model(name, pretrained=True).state_dict())
            return HUB
        except (OSError, RuntimeError, ValueError) as error:
            log.warning("no weights of %s from the hub: %s", name, error)
    return from_package(encoder, package) if package else SCRATCH


def _hub_reachable() -> bool:
    """Whether the model hub is reachable; a download without it takes minutes to fail."""
    url = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((url.hostname or "", url.port or 443), _PROBE_S).close()
    except OSError:
        return False
    return True


def from_package(encoder: nn.Module, package: str) -> str:
    """Load the weights of an installed package; random weights if it is not installed.

    Such a package has one class, whose name ends in ModelFile, that knows the file's path.
    """
    try:
        module = import_module(package)
    except ModuleNotFoundError:
        log.warning("package %s is not installed", package)
        return SCRATCH
    [kind] = [value for name, value in vars(module).items() if name.endswith("ModelFile")]
    path: str = kind.get_model_file_path()
    _load_in_order(encoder, torch.load(path, map_location="cpu", weights_only=True))
    return f"package {package}"


def _from_file(encoder: nn.Module, file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"no weights at {file}")
    _load_by_name(encoder, torch.load(file, map_location="cpu", weights_only=True))
    return f"file {file.name}"


def _load_by_name(encoder: nn.Module, state: StateDict) -> None:
    """Load the weights whose names match. ValueError if fewer than nine in ten fit."""
    wanted = encoder.state_dict()
    present = {k: v for k, v in _with_encoder_names(state, wanted).items() if k in wanted}
    fitting = {k: v for k, v in present.items() if v.shape == wanted[k].shape}
    if len(fitting) < 0.9 * len(wanted):
        raise ValueError(f"{len(fitting)} of the encoder's {len(wanted)} weights fit")
    encoder.load_state_dict(fitting, strict=False)


def _with_encoder_names(state: StateDict, wanted: StateDict) -> StateDict:
    """With the encoder's names: feature extractors flatten `stages.0` to `stages_0`."""
    flat = {k.replace("stages.", "stages_", 1): v for k, v in state.items()}
    return flat if len(flat.keys() & wanted.keys()) > len(state.keys() & wanted.keys()) else state


def _load_in_order(encoder: nn.Module, state: StateDict) -> None:
    """Load weights of another implementation, with the same tensors in the same order.

    Raises:
        ValueError: a shape differs, or there are too few tensors.
    """
    wanted = {
        k: v for k, v in encoder.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    given = [v for k, v in state.items() if not k.endswith("num_batches_tracked")]
    for (name, mine), theirs in zip(wanted.items(), given, strict=False):
        if mine.shape != theirs.shape:
            raise ValueError(
                f"{name}: the encoder has {tuple(mine.shape)}, the file {tuple(theirs.shape)}"
            )
    if len(given) < len(wanted):
        raise ValueError(f"the file has {len(given)} weights, the encoder {len(wanted)}")
    named = dict(zip(wanted, given, strict=False))
    encoder.load_state_dict(named, strict=False)
