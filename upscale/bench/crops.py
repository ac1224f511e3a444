"""The part of a picture that a report shows: where bicubic enlargement fails most."""

from __future__ import annotations

import math

import numpy as np

from upscale.image.picture import quantised
from upscale.image.resize import resize_array

_STRIDE = 8  # pixels between the windows that are tried


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


def busiest(hr: np.ndarray, lr: np.ndarray, side: int, scale: float) -> tuple[slice, slice]:
    """(rows, columns) of the square window, at most `side` wide, in which bicubic enlargement
    differs most from the original; at a whole scale it begins where a pixel of the input does."""
    error = ((resize_array(lr, hr.shape[:2]) - hr) ** 2).mean(2)
    sums = np.pad(error, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    height, width = (min(side, n) for n in hr.shape[:2])
    step = math.ceil(_STRIDE / scale) * scale
    tops = np.unique((np.arange(0, hr.shape[0] - height + 1, step)).astype(int))
    lefts = np.unique((np.arange(0, hr.shape[1] - width + 1, step)).astype(int))
    rows, columns = tops[:, None], lefts[None]
    below, right = rows + height, columns + width
    inside = sums[below, right] - sums[rows, right] - sums[below, columns] + sums[rows, columns]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return slice(int(tops[y]), int(tops[y]) + height), slice(int(lefts[x]), int(lefts[x]) + width)
