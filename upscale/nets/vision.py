"""The door to torchvision, for the libraries of networks that import it."""

from __future__ import annotations

import functools
import sys
import warnings
from types import ModuleType

import torch

_schemas: list[torch.library.Library] = []  # torch forgets a definition with its Library object


@functools.cache
def mended() -> ModuleType:
    """`import torchvision`, also where its C++ library cannot be loaded (a CUDA wheel beside a CPU
    torch): such a one stops at an undefined operator. Networks are all that is needed of it, so a
    bare definition is enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[name]  # half-made modules
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(
                    f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
            _schemas.append(library)
            import torchvision
    return torchvision
