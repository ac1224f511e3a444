"""Training state on disk: one safetensors file and one JSON file per checkpoint, both atomic."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

KEEP = 2  # the newest may be damaged by a crash of the machine: keep one before it


def save(folder: Path, iteration: int, state: dict[str, Tensor], record: dict) -> None:
    """Write checkpoint `iteration`; older ones than the last KEEP are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"checkpoint-{iteration:08d}"
    temporary = folder / f".{name}.tmp"
    save_file(state, temporary, metadata={"record": json.dumps(record)})
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    temporary.replace(folder / f"{name}.safetensors")
    for old in sorted(folder.glob("checkpoint-*.safetensors"))[:-KEEP]:
        old.unlink()


def newest(
    folder: Path, on_skip: Callable[[str], None]
) -> tuple[int, dict[str, Tensor], dict] | None:
    """(iteration, state, record) of the newest whole checkpoint; damaged ones are named."""
    from safetensors import safe_open

    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            state = load_file(path)
            with safe_open(path, "pt") as file:
                record = json.loads(file.metadata()["record"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            on_skip(f"{path.name} is damaged ({error}); trying the one before it")
            continue
        return int(path.stem.split("-")[1]), state, record
    return None


def pack(net: torch.nn.Module, ema: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> dict:
    """All tensors of a run in one flat dict."""
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    state |= {f"ema.{k}": v for k, v in ema.items()}
    for index, values in optimiser.state_dict()["state"].items():
        state |= {f"opt.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
    return {k: v.detach().contiguous().clone() for k, v in state.items()}


def unpack(
    state: dict[str, Tensor],
    net: torch.nn.Module,
    ema: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Inverse of `pack`, in place; KeyError or RuntimeError where the shapes are others."""
    net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
    for key in ema:
        ema[key].copy_(state[f"ema.{key}"])
    values: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("opt."):
            _, index, name = key.split(".")
            values.setdefault(int(index), {})[name] = value
    packed = optimiser.state_dict()
    optimiser.load_state_dict({**packed, "state": values})
