"""The tensors in files of torch.save, of which nothing else is read."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

from upscale.errors import DamagedWeights, UntrustedWeights

PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


def opened(path: Path) -> Any:
    """What is in a file of torch.save: tensors and containers. Raises UntrustedWeights for a file
    that could do more than that, DamagedWeights."""
    import torch

    try:
        with warnings.catch_warnings():  # of pickle's protocols: no user can do anything about them
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no family of errors for files that are none of its own
        message = str(error)
        wanted = ", ".join(sorted(set(re.findall(r"GLOBAL ([\w.]+)", message))))
        if not wanted and isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
            wanted = "more than tensors"  # in a newer form, whose names torch does not read
        if "TorchScript" in message:
            wanted = "a program (TorchScript)"
        if wanted:
            raise UntrustedWeights(
                f"{path} asks for {wanted} when it is opened, which can run code: it is not "
                "opened. Ask for a file of tensors alone (a state dict, or .safetensors)"
            ) from error
        # what torch says first is how to open it all the same: nobody should
        detail = message.rpartition("WeightsUnpickler error:")[2].strip().splitlines()
        line = next(iter(detail), type(error).__name__)
        raise DamagedWeights(f"{path}: damaged, or no checkpoint of PyTorch ({line})") from error


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(1) == pickle.PROTO
