"""Files of tensors that describe themselves: read with a look at their digest, written whole.

The door to safetensors outside training. Pickles are never opened here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscale import atomic
from upscale.errors import DamagedWeights, UntrustedWeights, WeightsError
from upscale.weights.pickles import PICKLES

if TYPE_CHECKING:
    import torch

DISCRIMINATOR = "discriminator."  # how the names of its tensors begin, beside the network's
_MOST_TEXT = 4 << 20  # characters of description; bundled files have 2000
_DEEPEST = 32  # levels of tables and lists in it; bundled files have 5


def read(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict, metadata) of any .safetensors file; metadata is {} if diffsr did not save it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header, meta = header_of(path), metadata_of(path)
    try:
        state = load_file(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from error
    if "digest" in header and header["digest"] != _digest(state, header.get("diffsr", "")):
        raise _broken(path, "its content is not what was saved")
    return state, meta


def save(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any],
    half: bool = False,
) -> None:
    """Write a .safetensors file at once or not at all. half: floats as fp16.

    `metadata` (JSON-able) needs "method"; "scales", "domain", "net", "licence" are read by `find`.
    Raises WeightsError for values that fp16 (or anything) cannot hold, OutputError, DiskFull.
    """
    import torch
    from safetensors.torch import save as to_bytes

    path = Path(path)
    out = {}
    for key, value in state.items():
        stored = value.detach().cpu()
        stored = stored.to(torch.float16) if half and stored.is_floating_point() else stored
        if not torch.isfinite(stored).all():
            what = "as fp16" if torch.isfinite(value).all() else ""
            raise WeightsError(f"{path}: {key} is not finite {what}".rstrip() + "; not saved")
        out[key] = stored.contiguous().clone()  # tied tensors are stored twice
    text = json.dumps(dict(metadata), sort_keys=True)
    header = {"format": "pt", "diffsr": text, "digest": _digest(out, text)}
    write_whole(path, to_bytes(out, metadata=header))


def write_whole(path: Path, content: bytes) -> None:
    """A file in a folder that is there, whole or not at all. Raises OutputError, DiskFull."""
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(content)


def header_of(path: str | Path) -> dict[str, str]:
    """The texts in a .safetensors file's header. Raises WeightsError."""
    from safetensors import SafetensorError, safe_open

    if Path(path).suffix.lower() in PICKLES:
        raise UntrustedWeights(
            f"{path}: pickled weights are never opened; diffsr reads .safetensors"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise _broken(path, error) from error


def metadata_of(path: str | Path) -> dict[str, Any]:
    """What `save` was given, read from the header alone; {} for other programs' files."""
    text = header_of(path).get("diffsr", "{}")
    if len(text) > _MOST_TEXT:
        raise _broken(path, f"its header holds {len(text)} characters of description")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, error) from error
    if not isinstance(meta, dict):
        raise _broken(path, "its header is not a table")
    if not _shallow(meta, _DEEPEST):
        raise _broken(path, f"its header is nested in more than {_DEEPEST} levels")
    return meta


def _shallow(value: Any, levels: int) -> bool:
    """Whether tables and lists lie in each other at most so deep."""
    if not isinstance(value, dict | list):
        return True
    inside = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_shallow(one, levels - 1) for one in inside)


def _broken(path: str | Path, why: object) -> WeightsError:
    if not Path(path).is_file():
        return WeightsError(f"{path}: there is no such file")
    return DamagedWeights(
        f"{path}: damaged, or not a safetensors file ({why}); fetch or make it again"
    )


def _digest(state: Mapping[str, torch.Tensor], text: str) -> str:
    """sha256 over metadata, names, dtypes, shapes and bytes."""
    import torch

    digest = hashlib.sha256(text.encode())
    for key in sorted(state):
        value = state[key].cpu().contiguous()
        digest.update(f"\n{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
