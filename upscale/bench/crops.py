"""The part of a picture that a report shows: where bicubic enlargement fails most."""

from __future__ import annotations

import math

import numpy as np

from upscale.image.crops import Window, starts, sums
from upscale.image.picture import quantised
from upscale.image.resize import resize_array


def cuts(
    sr: np.ndarray, hr: np.ndarray, lr: np.ndarray, scale: float, side: int
) -> dict[str, np.ndarray]:
    """uint8 cuts of a result, the original and the input (H,W,3), the first two `side` wide.

    The place depends on the original alone, so that every method is shown at the same one.
    """
    box = busiest(hr, lr, side, scale)
    small = tuple(
        slice(math.floor(part.start / scale), math.ceil(part.stop / scale)) for part in box
    )
    found = {"sr": sr[box], "hr": hr[box], "lr": lr[small]}
    return {name: quantised(picture, 8) for name, picture in found.items()}


def busiest(hr: np.ndarray, lr: np.ndarray, side: int, scale: float) -> Window:
    """The square window, at most `side` wide, in which bicubic enlargement
    differs most from the original; at a whole scale it begins where a pixel of the input does."""
    error = ((resize_array(lr, hr.shape[:2]) - hr) ** 2).mean(2)
    height, width = (min(side, n) for n in hr.shape[:2])
    tops, lefts = (starts(n, m, scale) for n, m in zip(hr.shape, (height, width), strict=False))
    inside = sums(error, tops, lefts, height, width)
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return slice(int(tops[y]), int(tops[y]) + height), slice(int(lefts[x]), int(lefts[x]) + width)
