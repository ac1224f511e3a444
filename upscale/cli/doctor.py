"""`diffsr doctor`: what a bug report needs, about this machine and this installation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import click

from upscale import __version__
from upscale.cli.environment import settings
from upscale.cli.help import GENERAL, Command
from upscale.cli.options import DEBUG, option
from upscale.errors import DiffsrError, HubError

_PACKAGES = (
    "torch", "torchvision", "numpy", "pillow", "pillow-heif", "pypng", "tifffile", "click", "rich",
    "huggingface-hub", "safetensors", "lpips", "starlette", "uvicorn", "scipy", "matplotlib",
)  # fmt: skip
_SECRET = ("TOKEN", "KEY", "PASSWORD", "SECRET")


@click.command(name="doctor", cls=Command)
@option("--json", "as_json", is_flag=True, group=GENERAL, help="Print a JSON object.")
@DEBUG
def command(as_json: bool, debug: bool) -> int:
    """Print what a bug report needs: versions, devices, memory, weights and settings.

    Uses no network. The exit code is 5 if bundled weights are damaged, or a list of weights cannot
    be read.
    """
    weights, damaged = _weights()
    report = {
        "versions": _versions(),
        "pictures": _pictures(),
        "device": _device(),
        "weights": weights,
        "environment": _environment(),
    }
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        for title, lines in report.items():
            click.echo(f"{title}")
            for key, value in lines.items():
                click.echo(f"  {key:<24} {value}")
    return 5 if damaged else 0


def _versions() -> dict[str, str]:
    found = {
        "diffsr": __version__,
        "from": str(Path(__file__).parents[1]),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
    }
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _pictures() -> dict[str, str]:
    from upscale.image.formats import FORMATS

    found = {}
    for name, known in FORMATS.items():
        found[name] = "read and written" if known.writable else "read"
    if importlib.util.find_spec("pillow_heif") is None:
        found["HEIC"] = "not read; pip install 'diffsr[heic]'"
    return found


def _device() -> dict[str, Any]:
    import torch

    from upscale.machine import (
        GPUS,
        available_memory,
        dtype_name,
        fast_bf16,
        pick_dtype,
        processor,
        usable,
    )

    cpu = torch.device("cpu")
    found = {
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "cpu bf16": "fast" if fast_bf16(cpu) else "slow; --dtype auto takes fp32",
        "memory available": f"{available_memory(cpu) / 2**30:.1f} GiB",
        "cuda": torch.version.cuda or "torch is built without it",
    }
    for kind in GPUS:
        for index in range(usable(kind)):
            place = torch.device("mps" if kind == "mps" else f"{kind}:{index}")
            free = available_memory(place) / 2**30
            dtype = dtype_name(pick_dtype("auto", place))
            found[str(place)] = (
                f"{processor(str(place))}, {free:.1f} GiB free, --dtype auto takes {dtype}"
            )
    if torch.version.cuda and not usable("cuda"):
        found["cuda:0"] = "none usable"
    return found


def _weights() -> tuple[dict[str, str], bool]:
    """The state of every listed file, and whether a bundled one is damaged, or a list."""
    from upscale.weights.store import entries, locate

    found, damaged = {}, False
    try:
        known = entries()
    except DiffsrError as error:
        return {"lists": str(error)}, True
    for name, entry in known.items():
        try:
            path = locate(entry, offline=True)
            scales = f" {entry.scales_text()}" if entry.scales else ""
            found[name] = f"{entry.method}{scales}, checked: {path}"
        except DiffsrError as error:
            found[name] = str(error)
            damaged |= entry.path is None and not isinstance(error, HubError)
    return found, damaged


def _environment() -> dict[str, str]:
    """Variables that change what diffsr does, and the file of settings as if it were some; the
    values of secrets are not shown."""
    prefixes = ("DIFFSR_", "HF_", "TORCH_", "OMP_", "MKL_", "CUDA_")
    single = ("NO_COLOR", "FORCE_COLOR", "TERM", "LANG", "XDG_CACHE_HOME")
    set_to = {**settings(), **os.environ}
    return {
        name: "(set)" if any(word in name for word in _SECRET) else value
        for name, value in sorted(set_to.items())
        if name.startswith(prefixes) or name in single
    }
