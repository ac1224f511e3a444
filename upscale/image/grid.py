"""The blocks and the rounding steps of a JPEG, found in the pixels that it left.

The coefficients of an 8x8 block that was a JPEG's are whole multiples of its steps, but for the
rounding of pixels, wherever the picture went without being resized. So a PNG tells the quality of
the JPEG that it was, to about one (Fan and de Queiroz 2003).
"""

from __future__ import annotations

import math

import numpy as np

from upscale.image.coded import quality_of

SIDE = 8  # of a block
_K = np.arange(SIDE)
_DCT = np.cos((2 * _K + 1) * _K[:, None] * np.pi / 16) * np.where(_K[:, None], 0.5, 8**-0.5)
_DCT = _DCT.astype(np.float32)
FREQUENCY = np.add.outer(_K, _K)  # of each coefficient, across and down together
_SEARCHED = 264  # side of the part whose blocks are searched for
_ROUGH = (FREQUENCY >= 2) & (FREQUENCY <= 6)  # coefficients that a JPEG makes 0 in many blocks
_NOTHING = 0.5  # what the rounding of pixels leaves of a 0
# steps of ITU T.81's example table (K.1) for the coefficients that still have values at 60
_TABLE = {
    (0, 1): 11, (0, 2): 10, (0, 3): 16, (0, 4): 24, (1, 0): 12, (1, 1): 12, (1, 2): 14, (1, 3): 19,
    (2, 0): 14, (2, 1): 13, (2, 2): 16, (3, 0): 14, (3, 1): 17, (4, 0): 18,
}  # fmt: skip
_LARGEST_STEP, _BLOCKS = 60, 2000  # that are looked at
_VALUES, _FEWEST = 12, 3  # values that tell a step; steps that tell a quality
_MULTIPLES = 0.55  # mean cosine of values in periods of the step: 1 if all are multiples, 0 if none


def blocks(plane: np.ndarray, origin: tuple[int, int]) -> np.ndarray:
    """(N,8,8): the whole blocks of a plane (H,W), the first of which begins at `origin`."""
    rows, columns = (
        (side - first) // SIDE for side, first in zip(plane.shape, origin, strict=True)
    )
    part = plane[origin[0] :, origin[1] :][: rows * SIDE, : columns * SIDE]
    return part.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)


def coefficients(made: np.ndarray) -> np.ndarray:
    """(N,8,8) -> the orthonormal DCT of each block."""
    return _DCT @ made @ _DCT.T


def origin_of(y: np.ndarray) -> tuple[int, int]:
    """Where blocks begin if luma (H,W), in grey levels, was a JPEG; anywhere if not."""
    if min(y.shape) < 2 * SIDE:
        return 0, 0
    top, left = (max(0, side - _SEARCHED) // 2 // SIDE * SIDE for side in y.shape)
    part = y[top : top + _SEARCHED, left : left + _SEARCHED]

    def nothing(origin: tuple[int, int]) -> float:
        found = coefficients(blocks(part, origin))[:, _ROUGH]
        return float((np.abs(found) < _NOTHING).mean())

    return max(((i, j) for i in range(SIDE) for j in range(SIDE)), key=nothing)


def quality_in(y: np.ndarray, origin: tuple[int, int]) -> float | None:
    """libjpeg's quality of the JPEG that luma (H,W), in grey levels, was; None if it was none, of a
    quality above about 92, or is too small or too flat to tell."""
    made = blocks(y, origin)
    made = made[(made.min((1, 2)) > 2) & (made.max((1, 2)) < 253)]  # nothing cut off
    rough = np.argsort(made.std((1, 2)))[-_BLOCKS:]
    found = np.abs(coefficients(made[rough]))
    parts = [step / _TABLE[at] for at in _TABLE if (step := _step(found[:, at[0], at[1]]))]
    return quality_of(float(np.median(parts))) if len(parts) >= _FEWEST else None


def _step(values: np.ndarray) -> int | None:
    """The largest number that absolute values are multiples of, those below its half left out."""
    for step in range(_LARGEST_STEP, 1, -1):
        some = values[values > step / 2]
        enough = _MULTIPLES + 1.5 / math.sqrt(max(1, len(some)))
        if len(some) >= _VALUES and np.cos(2 * np.pi / step * some).mean() > enough:
            return step
    return None
