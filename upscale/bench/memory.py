"""How much memory a piece of work takes at its worst."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch


def reset_peak() -> None:
    """Start anew. Where the system cannot (only Linux can), the peak is the process's so far."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # another system, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Bytes: of the GPU if one is in use, else of the whole process; None where unknown."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
