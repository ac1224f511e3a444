"""Weights of the larger metric networks: the user's files, opened without trusting them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from upscale.errors import WeightsError
from upscale.weights import store


def metric_file(
    name: str, title: str, how: str, variable: str | None, path: str | Path | None = None
) -> Path:
    """`path`, else the file that the environment's `variable` names, else the entry `name` of
    weights.toml, which is fetched where neither the package nor the cache has it. Raises
    WeightsError, which says `how` to get one."""
    source = path or (variable and os.environ.get(variable))
    if source and str(source).startswith("hf:"):
        return store.locate(store.find(source), offline=True)
    if source:
        if not Path(source).is_file():
            raise WeightsError(f"no weights for {title} at {source}: there is no such file")
        return Path(source)
    listed = store.entries().get(name)
    if listed is None:
        raise WeightsError(f"no weights for {title}. {how}")
    return store.locate(listed)


def state_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth that holds nothing but tensors: torch's
    weights_only reader runs no code of the file. Raises WeightsError."""
    if path.suffix == ".safetensors":
        return store.read(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{path}: damaged, or it holds more than tensors ({reason})") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} is not a table of tensors")
    return state
