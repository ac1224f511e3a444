"""Files of other programs: which network their tensors are, and those tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upscale.errors import WeightsError
from upscale.methods import foreign
from upscale.weights import file
from upscale.weights.pickles import PICKLES, opened

# sha256 -> metadata. To know what network it is, it must be made: once in a process.
_known: dict[str, dict[str, Any]] = {}


def is_foreign(path: Path) -> bool:
    """Whether a file was written by another program. Raises WeightsError."""
    return path.suffix.lower() in PICKLES or "diffsr" not in file.header_of(path)


def metadata_of(path: Path, sha256: str) -> dict[str, Any]:
    """What `file.metadata_of` says of files of our own: method, net, scales, domain and the
    architecture by its name. Raises WeightsError."""
    if sha256 not in _known:
        _known[sha256] = _described(path, _state(path))
    return _known[sha256]


def read(path: Path, sha256: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state dict as the file has it, metadata). Raises WeightsError."""
    state = _state(path)
    if sha256 not in _known:
        _known[sha256] = _described(path, state)
    return state, _known[sha256]


def _state(path: Path) -> dict[str, Any]:
    state = opened(path) if path.suffix.lower() in PICKLES else file.read(path)[0]
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds no state dict, but a {type(state).__name__}")
    return state


def _described(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    from upscale.nets.others import described  # imports torch

    try:
        found = described(state)
    except ImportError as error:
        raise WeightsError(
            f"{path} is not of diffsr, and networks of other programs need an extra ({error}): "
            'pip install "diffsr[spandrel]"'
        ) from error
    except LookupError as error:
        raise WeightsError(
            f"{path}: {error}. Published checkpoints of SR3, IDM and ECDP must be converted first: "
            f"diffsr weights import {path}"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    named = ", ".join([found["name"], *found["tags"]])
    return {
        "method": foreign(),
        "net": f"{named}, {found['parameters']} parameters",
        "scales": [float(found["scale"])],
        "domain": "face" if found["purpose"] == "FaceSR" else "photo",
        "consistency": "off",  # what it gives is left as it is: many take noise out
        "licence": "not stated",
        "architecture": {"kind": found["name"], **found},
    }
