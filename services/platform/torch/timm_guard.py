"""Make timm importable where torch is the CPU build and torchvision is PyPI's.

timm imports torchvision, whose Python code declares fake versions of operators that its CUDA-built
library defines; beside a CPU torch that library does not load, and the import fails. Declaring the
two operators first makes the import succeed. Nothing here calls them.
"""

import torch

from services.platform.torch import warnings_filter  # noqa: F401

_OPERATORS = ("nms", "qnms")
# Kept alive, because the declarations end with the library object.
_declared: list[torch.library.Library] = []


def declare_operators() -> None:
    """Declare torchvision's operators where its own library does not load."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)


declare_operators()
