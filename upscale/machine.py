"""The machine: its device, number format, free memory and peak memory."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

import torch

from upscale import __version__
from upscale.errors import UsageError

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "fp32", "bf16")


def pick_device(name: str = "auto") -> torch.device:
    """The device of this name; auto is CUDA where it is usable, else the CPU. UsageError."""
    if name not in DEVICES:
        raise UsageError(f"no device {name!r}; choose from {', '.join(DEVICES)}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here (--device cpu works)")
    return torch.device(name)


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 convolutions are faster than fp32 here.

    Without the processor's own bf16 instructions they are emulated: measured 10 times slower.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(probe())


def pick_bf16(name: str, device: torch.device) -> bool:
    """Whether networks run under bf16 autocast. Raises UsageError for an unknown name."""
    if name not in DTYPES:
        raise UsageError(f"no dtype {name!r}; choose from {', '.join(DTYPES)}")
    return name == "bf16" or (name == "auto" and fast_bf16(device))


def keep_pages() -> bool:
    """Make glibc's malloc keep freed memory for later use, in the whole process; False where there
    is another malloc.

    Without it every activation above 32 MiB is mapped and unmapped, and the kernel clears each of
    its pages anew (docs/performance.md has what that costs).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
    return all(mallopt(option, value) for option, value in ((-8, 1), (-4, 0), (-1, -1)))


def available_memory(device: torch.device) -> int:
    """Free memory in bytes: the GPU's, or the smaller of this machine's and its cgroup's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [_proc("/proc/meminfo", "MemAvailable") or _physical()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue  # no such cgroup, or "max", which is no limit
    return max(64 << 20, min(found))


def _physical() -> int:
    """Half of the physical memory in bytes, where there is no /proc."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 4 << 30  # Windows without /proc: an assumption that any machine with torch meets


def _proc(path: str, key: str) -> int | None:
    """The value of a line of a memory file in /proc, in bytes; None where there is none."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def reset_peak() -> None:
    """Restart the peak of `peak_memory`; only Linux can, elsewhere it is the process's so far."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # another system, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Peak memory in bytes: the GPU's if one is in use, else the process's; None if unknown."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    found = _proc("/proc/self/status", "VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@functools.cache
def versions() -> str:
    """The versions of diffsr and of what its numbers depend on."""
    found = [f"diffsr {__version__}", f"Python {platform.python_version()}"]
    for name in ("torch", "numpy", "pillow"):
        found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


@functools.cache
def processor(device: str) -> str:
    """The name of the graphics card, or of the processor with torch's number of threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; torch reports that in three ways."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )
