"""What a measurement was made on: the versions of what computes, and the processor."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from pathlib import Path

import torch

from upscale import __version__


@functools.cache
def versions() -> str:
    """Of diffsr and of what its numbers depend on."""
    found = [f"diffsr {__version__}", f"Python {platform.python_version()}"]
    for name in ("torch", "numpy", "pillow"):
        found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


@functools.cache
def machine(device: str) -> str:
    """The graphics card, or the processor with the threads that torch takes."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
