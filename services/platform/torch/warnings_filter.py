"""Imports torch, and silences what its parts say of each other as the libraries on it are imported.

Import it before torch_geometric or timm: torch itself sets filters that would come first.
"""

import warnings

import torch  # noqa: F401

warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
