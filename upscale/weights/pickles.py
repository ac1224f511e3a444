"""The tensors in files of torch.save, of which nothing else is read."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscale.errors import DamagedWeights, UntrustedWeights

if TYPE_CHECKING:
    import torch

_PACKED = 8  # times its own size that an archive may unpack to
_SMALL = 1 << 20  # bytes of a tensor that may repeat its numbers
PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


def opened(path: Path) -> Any:
    """What is in a file of torch.save: tensors and containers. Raises UntrustedWeights for a file
    that could do more than that, or that would fill the memory, DamagedWeights."""
    import torch

    _check_packing(path)
    try:
        with warnings.catch_warnings():  # of pickle's protocols: no user can do anything about them
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
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
    for tensor in _tensors(found):
        if not _plain(tensor):
            raise UntrustedWeights(
                f"{path} holds a tensor of {tuple(tensor.shape)} whose numbers are not in the file "
                "one by one: it is not used. Ask for a file of plain tensors (.safetensors)"
            )
    return found


def _check_packing(path: Path) -> None:
    """Raises UntrustedWeights for an archive of few bytes that stand for many: torch packs none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return  # torch says what is wrong
    if size > _PACKED * path.stat().st_size:
        raise UntrustedWeights(f"{path} would unpack to {size} bytes: it is not opened")


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    """All in these containers, which may hold themselves."""
    import torch

    seen: set[int] = set()
    waiting = [found]
    while waiting:
        one = waiting.pop()
        if isinstance(one, torch.Tensor):
            yield one
        elif id(one) not in seen:
            seen.add(id(one))
            waiting += one.values() if isinstance(one, dict) else ()
            waiting += one if isinstance(one, list | tuple | set) else ()


def _plain(tensor: torch.Tensor) -> bool:
    """Whether it is neither sparse nor empty of numbers, nor large by repeating a few of them."""
    import torch

    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    size = tensor.numel() * tensor.element_size()
    return size <= max(_SMALL, tensor.untyped_storage().nbytes())


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(1) == pickle.PROTO
