"""Imports torch and filters the warnings that libraries built on it cause when they are imported.

Import it before torch_geometric or timm: torch's own filters would otherwise take precedence.
"""

import warnings

import torch  # noqa: F401

warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
