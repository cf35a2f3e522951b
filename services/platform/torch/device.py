"""Where networks are trained."""

import torch


def training_device() -> torch.device:
    """The first GPU that torch sees, else the CPU. Networks return to the CPU after training."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
