"""NIQE, a quality measure that needs no original (Mittal, Soundararajan, Bovik 2013).

The statistics of natural pictures that it compares with are the authors', in data/niqe.npz.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from upscale.image.resize import resize_array
from upscale.metrics.pixel import luma, smoothed

if TYPE_CHECKING:
    from upscale.metrics.pixel import Image

BLOCK = 96  # pixels; the authors' size, for which the natural statistics were made
_RADIUS, _SIGMA = 3, 7 / 6  # local mean: a 7x7 Gaussian window
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbours: right, below, the two diagonals


def niqe(sr: Image) -> float:
    """(H,W,3) in [0,1] -> NIQE, less is better; natural photographs lie around 3.

    Luma in whole grey levels, as the authors' code has it, in blocks of 96x96 from the top left;
    what is left at the edges does not count. nan for fewer than two blocks (a covariance needs
    them) or a picture without any texture.
    """
    grey = np.round(luma(sr) * 255.0)
    rows, columns = grey.shape[0] // BLOCK, grey.shape[1] // BLOCK
    if rows * columns < 2:
        return math.nan
    grey = grey[: rows * BLOCK, : columns * BLOCK]
    scales = []
    for side in (BLOCK, BLOCK // 2):
        plane = _normalised(grey)
        blocks = plane.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
        scales.append(np.array([_features(block) for block in blocks]))
        grey = _halved(grey)
    found = np.concatenate(scales, axis=1)  # (blocks, 36)
    usable = found[np.isfinite(found).all(axis=1)]
    if len(usable) < 2:
        return math.nan
    mean, covariance = _natural()
    off = mean - usable.mean(axis=0)
    pooled = np.linalg.pinv((covariance + np.cov(usable, rowvar=False)) / 2)
    return float(np.sqrt(off @ pooled @ off))  # eq. 10


def _normalised(grey: np.ndarray) -> np.ndarray:
    """Subtract the local mean, divide by the local deviation: eq. 1."""
    mean = _smoothed(grey)
    deviation = np.sqrt(np.abs(_smoothed(grey**2) - mean**2))
    return (grey - mean) / (deviation + 1)


def _halved(grey: np.ndarray) -> np.ndarray:
    """Half the size by MATLAB's bicubic, which mirrors at the edges; sides must be even."""
    margin = 4  # pixels that the kernel reaches, and even
    wide = np.pad(grey / 255.0, margin, "symmetric").astype(np.float32)
    half = resize_array(wide, (wide.shape[0] // 2, wide.shape[1] // 2))
    cut = np.s_[margin // 2 : -(margin // 2)]
    return half[cut, cut].astype(np.float64) * 255.0


def _smoothed(plane: np.ndarray) -> np.ndarray:
    return smoothed(np.pad(plane, _RADIUS, "edge"), _SIGMA, _RADIUS)


def _features(block: np.ndarray) -> list[float]:
    """18 numbers for a normalised block (n,n): shape and spread of its distribution, then shape,
    mean and the two spreads of its products with each of four neighbours (wrapping round)."""
    shape, left, right = _asymmetric_fit(block)
    found = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right = _asymmetric_fit(block * np.roll(block, shift, (0, 1)))
        mean = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)  # eq. 8
        found += [shape, mean, left, right]
    return found


def _asymmetric_fit(values: np.ndarray) -> tuple[float, float, float]:
    """Shape, left and right scale of an asymmetric generalised Gaussian, by moments (eq. 4-7);
    the scales are nan where one side has no values."""
    negative, positive = values[values < 0], values[values > 0]
    if not len(negative) or not len(positive):
        return 1.0, math.nan, math.nan
    left, right = math.sqrt(np.mean(negative**2)), math.sqrt(np.mean(positive**2))
    skew = left / right
    ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes, ratios = _shapes()
    shape = float(shapes[np.argmin((ratios - ratio) ** 2)])
    scale = math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
    return shape, left * scale, right * scale


@functools.cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    """The shapes that are tried, and the moment ratio each of them has."""
    shapes = np.arange(0.2, 10.001, 0.001)
    gamma = np.vectorize(math.gamma)
    inverse = 1 / shapes
    return shapes, gamma(2 * inverse) ** 2 / (gamma(inverse) * gamma(3 * inverse))


@functools.cache
def _natural() -> tuple[np.ndarray, np.ndarray]:
    """Mean (36,) and covariance (36,36) of the features of the authors' natural pictures."""
    with np.load(Path(__file__).parent / "data" / "niqe.npz", allow_pickle=False) as file:
        return file["mean"], file["covariance"]
