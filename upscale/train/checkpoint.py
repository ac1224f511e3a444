"""Training state on disk: one safetensors file per checkpoint with a JSON record in its header,
written at once or not at all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from upscale import atomic
from upscale.errors import DiskFull, InputError, OutputError
from upscale.train.dist import full, like

KEEP = 2  # the newest may be damaged by a crash of the machine: keep one before it


def save(folder: Path, iteration: int, state: dict[str, Tensor], record: dict) -> None:
    """Write checkpoint `iteration`; those before it but for the last KEEP are removed.

    Raises DiskFull or OutputError; the checkpoints before it are then still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"checkpoint-{iteration:08d}.safetensors"
    write(path, state, {**record, "iteration": iteration})
    before = [found for found in _numbered(folder) if found <= path]
    for old in before[:-KEEP]:
        old.unlink()
    atomic.remove_unfinished(folder)


def write(path: Path, state: dict[str, Tensor], record: dict) -> None:
    """One safetensors file with `record` and a digest of both in its header."""
    text = json.dumps(record)
    header = {"record": text, "sha256": _digest(state, text)}
    try:
        with atomic.replacing(path) as temporary:
            save_file(state, temporary, metadata=header)
    except (DiskFull, OutputError, SafetensorError) as error:
        before = _numbered(path.parent)
        kept = f"{before[-1].name} is kept" if before else "there is none before it"
        if isinstance(error, DiskFull) or "No space left" in str(error):
            raise DiskFull(
                f"{path}: no room for this checkpoint; {kept}. Make room and run the same command "
                "again"
            ) from error
        raise OutputError(f"{path} cannot be written ({error}); {kept}") from error


def newest(
    folder: Path, on_skip: Callable[[str], None]
) -> tuple[int, dict[str, Tensor], dict] | None:
    """(iteration, state, record) of the newest whole checkpoint; None where there is none at all.
    Damaged ones, and those whose names are not what they were saved under, are named. InputError
    where no other is left: a new run would take the place of theirs."""
    numbered = _numbered(folder)
    for path in sorted(set(folder.glob("checkpoint-*.safetensors")) - set(numbered)):
        on_skip(f"{path.name} has no name of a checkpoint (checkpoint-00001000.safetensors): "
                "it is passed over")  # fmt: skip
    for path in reversed(numbered):
        try:
            state = load_file(path)
            with safe_open(path, "pt") as file:
                header = file.metadata()
            record = json.loads(header["record"])
            # formerly the digest was of the tensors alone, and at first there was none
            known = ("", _digest(state), _digest(state, header["record"]))
            if header.get("sha256", "") not in known:
                raise ValueError("its content is not what was saved")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            on_skip(f"{path.name} is damaged ({error}): it is passed over")
            continue
        iteration = int(path.stem.removeprefix("checkpoint-"))
        saved = record.get("iteration", iteration)
        if saved != iteration:
            on_skip(f"{path.name} was renamed, for it is of iteration {saved}: it is passed over")
            continue
        return iteration, state, record
    if numbered:
        raise InputError(
            f"{folder}: none of its checkpoints can be used; bring one back, or remove them to "
            "begin anew there"
        )
    return None


def _numbered(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    names = re.compile(r"checkpoint-\d{8,}\.safetensors")
    found = [path for path in folder.glob("checkpoint-*") if names.fullmatch(path.name)]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def record_of(folder: Path) -> dict[str, Any]:
    """The newest record in a folder that can be read, without its tensors; {} where none can."""
    for path in reversed(_numbered(folder)):
        try:
            with safe_open(path, "pt") as file:
                record = json.loads(file.metadata()["record"])
            if isinstance(record["config"], dict):
                return record
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            continue  # `newest` names it
    return {}


def _digest(state: dict[str, Tensor], record: str = "") -> str:
    """sha256 over a record, names and bytes."""
    digest = hashlib.sha256(record.encode())
    for key in sorted(state):
        digest.update(key.encode())
        value = state[key].detach().cpu().contiguous()
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pack(
    net: torch.nn.Module,
    ema: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    keep: bool = True,
) -> dict[str, Tensor]:
    """All tensors of a run in one flat dict on the CPU, whole: every process must call it, and
    those that do not write need not `keep` what comes."""
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    state |= {f"ema.{k}": v for k, v in ema.items()} | moments(optimiser, "opt.")
    packed = {}
    for key, value in state.items():
        whole = full(value.detach())  # one after the other: together they may not fit
        if keep:  # laid out plainly: safetensors keeps no strides
            packed[key] = whole.to("cpu", copy=True).contiguous()
    return packed


def unpack(
    state: dict[str, Tensor],
    net: torch.nn.Module,
    ema: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Inverse of `pack`, in place; KeyError or RuntimeError where the shapes are others."""
    own = net.state_dict()
    saved = under("net.", state)
    net.load_state_dict({k: like(v, own[k]) if k in own else v for k, v in saved.items()})
    for key in ema:
        ema[key].copy_(like(state[f"ema.{key}"], ema[key]))
    set_moments(optimiser, under("opt.", state))


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def moments(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """What an optimiser knows of each parameter, as PREFIX + INDEX.NAME."""
    found = optimiser.state_dict()["state"].items()
    return {f"{prefix}{i}.{k}": torch.as_tensor(v) for i, own in found for k, v in own.items()}


def set_moments(optimiser: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Inverse of `moments`, of names without the prefix; a sharded parameter's are sharded."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    values: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        index, name = key.split(".")
        values.setdefault(int(index), {})[name] = like(value, parameters[int(index)])
    optimiser.load_state_dict({**optimiser.state_dict(), "state": values})
