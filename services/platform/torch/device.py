"""Where networks are trained, and in which precision."""

import torch


def training_device() -> torch.device:
    """The first GPU that torch sees, else the CPU. Networks return to the CPU after training."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context in which layers compute in 16 bits on a GPU that has bfloat16; as they are else.

    Source: Micikevicius et al., "Mixed Precision Training", 2018; Kalamkar et al., "A Study of
    BFLOAT16 for Deep Learning Training", 2019.
    """
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
