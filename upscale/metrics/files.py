"""Weights of the larger metric networks: the user's files, opened without trusting them."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from upscale.errors import WeightsError
from upscale.weights import store
from upscale.weights.pickles import opened


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
    """The tensors of a .safetensors file, or of a .pth that holds nothing but tensors. Raises
    WeightsError."""
    state = store.read(path)[0] if path.suffix == ".safetensors" else opened(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} is not a table of tensors")
    return state
