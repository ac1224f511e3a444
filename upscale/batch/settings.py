"""What a batch is told, by the names of the command line, and what of it a result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upscale.batch.ledger import settings_hash

_GEOMETRY = ("scale", "size", "max_side")
PLANNED = (*_GEOMETRY, "steps", "sampler", "preset", "spacing", "tile", "overlap", "one_stage")
SAMPLED = ("seed", "temperature", "parametrisation", "rtol", "atol", "consistency")
READING = ("frames", "allow_truncated", "max_pixels")
MAKING = ("method", "weights", "domain", "input", "device", "dtype", "offline", "compile")
# what of the options a result depends on, besides the weights themselves
_TELLING = (
    *PLANNED, *SAMPLED, "method", "domain", "input", "dtype", "samples", "uncertainty", "format",
    "quality", "strip", "frames", "allow_truncated", "batch",
)  # fmt: skip
DEFAULTS: dict[str, Any] = {  # the command line's, for those who come another way
    **dict.fromkeys((*PLANNED, *SAMPLED, *MAKING)), "scale": 4.0, "seed": 0, "tile": "auto",
    "overlap": 64, "one_stage": False, "rtol": 1e-3, "atol": 1e-3,
    "domain": "photo", "input": "auto", "device": "auto", "dtype": "auto", "offline": False,
    "compile": False, "frames": "error",
    "allow_truncated": False, "max_pixels": 250_000_000, "samples": 1, "uncertainty": False,
    "format": None, "quality": None, "strip": False, "overwrite": False, "skip_existing": False,
    "batch": 1,
}  # fmt: skip


def settings_of(options: Mapping[str, Any]) -> str:
    """The hash of everything that the results depend on. Raises WeightsError."""
    from upscale.weights import store

    named = ("method", "weights", "scale", "domain", "input", "offline")
    made_by = store.hashes(**{name: options[name] for name in named})
    return settings_hash({name: options[name] for name in _TELLING} | {"made by": made_by})
