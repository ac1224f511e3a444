"""The account of one picture: as JSON, a line, a comment in the file, a map of deviations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from upscale import __version__
from upscale.document import counted, duration, finite

if TYPE_CHECKING:
    import numpy as np

WHITE = 0.25  # the standard deviation that is white in --uncertainty's map


def as_json(record: dict[str, Any]) -> str:
    """One line; JSON has no infinity, so null stands for it."""
    return json.dumps(finite(record))


def summarised(record: dict[str, Any]) -> str:
    if record["status"] == "skipped":
        return "exists, skipped"
    (h, w), (height, width) = record["size_in"], record["size_out"]
    sizes = f"{w}x{h} to {width}x{height}"
    if record.get("frames"):
        sizes = f"{counted(record['frames'], 'page' if 'pages' in record else 'frame')}, {sizes}"
    if record.get("taken_for") and record.get("weights"):
        mixed = record.get("denoise") not in (None, 0, 1)  # whose name says how much of each
        kind = "" if mixed else f" ({record['taken_for']} input)"
        sizes += f" by {record['weights']}{kind}"
    if record["status"] == "ok":
        return f"{sizes}, {record['seconds']:.1f} s"
    exists = ", exists already" if record["exists"] else ""
    seconds = record.get("seconds")
    took = "" if seconds is None else f" and {duration(seconds)}"
    if record["steps"] is None:
        calls = f"as many {record['sampler']} steps as it takes"
    elif record["nfe"]:
        calls = f"{counted(record['steps'], record['sampler'] + ' step')}, "
        calls += counted(record["nfe"], "network call")
    else:
        calls = "no network"
    return (
        f"{sizes}, {counted(len(record['stages']), 'stage')}, {calls}, "
        f"{counted(record['tiles'], 'tile')}, about "
        f"{record['memory'] / 2**20:.0f} MiB{took}{exists}"
    )


def comment(report: dict[str, Any]) -> str:
    """Provenance, for the picture's own metadata."""
    known = [
        f"{key}={report[key]}"
        for key in ("method", "weights", "sampler", "steps", "seed", "scale")
        if report.get(key) is not None
    ]
    return f"diffsr {__version__}; " + " ".join(known)


class Spread:
    """Standard deviation over samples, one at a time (Welford 1962), so that none is kept."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, None, None

    def add(self, rgb: np.ndarray) -> None:
        """rgb (H,W,3)."""
        self.count += 1
        if self.mean is None:
            self.mean, self.squares = rgb.copy(), rgb * 0
            return
        difference = rgb - self.mean
        self.mean += difference / self.count
        self.squares += difference * (rgb - self.mean)

    def map(self) -> np.ndarray:
        """float32 (H,W,3) grey: root of the colours' mean variance, WHITE or more being 1."""
        variance = self.squares.mean(2, keepdims=True) / (self.count - 1)
        grey = (variance.clip(0) ** 0.5 / WHITE).clip(0, 1)
        return grey.repeat(3, 2).astype("float32")
