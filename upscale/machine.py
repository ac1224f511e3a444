"""The machine: its device, number format, free memory and peak memory."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from upscale import __version__
from upscale.errors import OUT_OF_MEMORY, UsageError, check_known

GPUS = {"cuda": "CUDA", "xpu": "XPU", "mps": "MPS"}  # in the order in which auto takes them
DEVICES = ("auto", "cpu", *GPUS)
_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPES = ("auto", *_FORMATS)
TRAINABLE = ("cuda",)  # the kinds that training uses: its losses need float64 on the device


def usable(kind: str) -> int:
    """How many graphics processors of this kind (a key of GPUS) torch can use here."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = torch.cuda if kind == "cuda" else torch.xpu
    return module.device_count() if module.is_available() else 0


def pick_device(
    name: str | torch.device = "auto", among: Sequence[str] = tuple(GPUS)
) -> torch.device:
    """The device of this name ("cuda:1" is the second), or torch's own. auto is the first usable
    kind of `among`, else the CPU. UsageError for what is unknown, not in `among` or not usable
    here."""
    name = str(name)
    kind, _, index = name.partition(":")
    numbered = re.fullmatch(r"(cuda|xpu):[0-9]{1,4}|mps:0", name)
    if name not in DEVICES and not numbered:
        raise UsageError(
            f"no device {name!r}; choose from {', '.join(DEVICES)}; "
            "cuda:1 is the second of its kind"
        )
    if name == "auto":
        return torch.device(next((kind for kind in among if usable(kind)), "cpu"))
    if kind == "cpu":
        return torch.device(name)
    if kind not in among:
        choice = " or ".join(("cpu", *among))
        raise UsageError(f"--device {name} does not work for this command; take {choice}")
    count = usable(kind)
    if not count:
        raise UsageError(
            f"--device {name}: torch sees no {GPUS[kind]} device here (--device cpu works)"
        )
    if numbered and int(index) >= count:
        raise UsageError(
            f"--device {name}: the last {GPUS[kind]} device here is {kind}:{count - 1}"
        )
    return torch.device(name)


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 convolutions are faster than fp32 here.

    Without the processor's own bf16 instructions they are emulated: measured 10 times slower.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "xpu":
        return bool(getattr(torch.xpu, "is_bf16_supported", lambda: True)())
    if device.type == "mps":
        return False  # not before macOS 14, and torch does not say how fast it is
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(probe())


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of networks there: auto is bf16 where it is fast, else fp16 on a graphics
    processor and fp32 on a CPU. Raises UsageError for an unknown name."""
    check_known(name, DTYPES, "dtype")
    if name != "auto":
        return _FORMATS[name]
    if fast_bf16(device):
        return torch.bfloat16
    return torch.float32 if device.type == "cpu" else torch.float16


def dtype_name(dtype: torch.dtype) -> str:
    """fp32, bf16 or fp16."""
    return next(name for name, known in _FORMATS.items() if known == dtype)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which networks run in this number format; float32 changes nothing."""
    narrow = dtype != torch.float32
    return torch.autocast(device.type, dtype if narrow else None, enabled=narrow)


def pick_bf16(name: str, device: torch.device) -> bool:
    """Whether training runs under bf16 autocast. UsageError for fp16, in which small gradients
    vanish, and for an unknown name."""
    if name == "fp16":
        raise UsageError("--dtype fp16 is for making pictures; train with bf16 or fp32")
    return pick_dtype(name, device) == torch.bfloat16


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
    """Free memory in bytes: the GPU's, or the smaller of this machine's and its cgroup's. MPS
    shares the machine's, of which the system grants it a part."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "xpu":
        if hasattr(torch.xpu, "mem_get_info"):
            with suppress(RuntimeError):  # a driver that does not tell
                return torch.xpu.mem_get_info(device)[0]
        total = torch.xpu.get_device_properties(device).total_memory
        return total - torch.xpu.memory_reserved(device)
    if device.type == "mps":
        granted = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return max(64 << 20, min(granted, available_memory(torch.device("cpu"))))
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


def _in_use() -> list[Any]:
    """torch's modules of the graphics processors with memory of their own that are in use."""
    return [module for module in (torch.cuda, torch.xpu) if module.is_initialized()]


def reset_peak() -> None:
    """Restart the peak of `peak_memory`; only Linux can, elsewhere it is the process's so far."""
    for module in _in_use():
        for index in range(module.device_count()):
            module.reset_peak_memory_stats(index)
    with suppress(OSError):  # another system, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Peak memory in bytes: the GPU's if one is in use, else the process's; None if unknown."""
    for module in _in_use():
        return max(module.max_memory_allocated(i) for i in range(module.device_count()))
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
    place = torch.device(device)
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    if place.type == "xpu":
        return torch.xpu.get_device_name(place)
    names = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    if place.type == "mps":
        return f"{name}, MPS"
    return f"{name}, {torch.get_num_threads()} threads"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; torch reports that in several ways."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)
