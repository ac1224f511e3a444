"""A frame of an animation as a file stores it: pixels for a part of what was seen before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stored:
    """data: a file of these pixels alone. at: (row, column) of their first one. over: transparent
    ones show what was there; else they replace it. disposal: what is there once the frame is over:
    "keep" it, "clear" its place, or "restore" what was there before it."""

    data: bytes
    at: tuple[int, int]
    milliseconds: float
    over: bool
    disposal: str


@dataclass(frozen=True)
class Area:
    """A part of a picture."""

    top: int
    left: int
    height: int
    width: int

    def of(self, samples: np.ndarray) -> np.ndarray:
        """The part of (H,W,...)."""
        return samples[self.top : self.top + self.height, self.left : self.left + self.width]


ONE = Area(0, 0, 1, 1)  # what is written where nothing changed


def whole(samples: np.ndarray) -> Area:
    return Area(0, 0, *samples.shape[:2])


def changed(before: np.ndarray, after: np.ndarray, even: bool = False) -> Area | None:
    """The smallest part of (H,W,...) outside of which nothing differs; None where all is equal.
    even: it starts at an even row and column."""
    differs = before != after
    if differs.ndim == 3:
        differs = differs.any(2)
    rows, columns = (np.flatnonzero(differs.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    if even:
        top, left = top - top % 2, left - left % 2
    return Area(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)
