"""What a picture has gone through, guessed from its pixels alone: noise, JPEG's blocks, blur.

Three numbers, each with a limit above which the picture is taken for real input: one of a camera,
the web, a scanner, and no clean picture made small. The limits were chosen on training pictures;
`benchmarks/degradation.py` measures how often they err, docs/upscale.md tells what came out.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from upscale.image.picture import Picture, fill_transparent

SIDE = 1024  # of the cut from the centre that is looked at, in pixels
WINDOW = 8  # side of the blocks that noise is measured in; JPEG's blocks are as large
NOISE, BLOCKING, BLUR = 1.25, 0.65, 0.75  # the limits

_LUMA = np.array([0.299, 0.587, 0.114], np.float32) * 255
_QUIET, _FEW = 0.04, 4  # share of the windows that are taken for without texture, and at least
_SPREAD = 1.8  # noise is as strong in three times as many of them, but for this factor
_QUIET_BIAS = 0.64  # what is found so of white noise's standard deviation
_RANGE = 12, 243  # of a window's mean: noise is cut off near black and white
_SMOOTH, _STEP = 3.0, 12.0  # of the differences beside a step, and of the step across a border
_FEWEST = 32  # differences in a column of the grid
_EDGE, _EDGES, _STEEP = 16.0, 0.02, 0.9  # least contrast, share of differences, quantile


@dataclass(frozen=True)
class Degradation:
    """noise: standard deviation in grey levels of 255. blocking: what steps across the borders of
    8x8 blocks have over others in smooth places, in grey levels. blur: sigma of the Gaussian that
    the sharpest edges look blurred by, in pixels; 0 where there is no edge.
    """

    noise: float
    blocking: float
    blur: float

    @property
    def real(self) -> bool:
        """Whether weights for real input are the better ones."""
        return self.noise > NOISE or self.blocking > BLOCKING or self.blur > BLUR

    def report(self) -> dict[str, float | bool]:
        """The three numbers and the verdict, for JSON."""
        return {**asdict(self), "real": self.real}


def estimate(picture: Picture) -> Degradation:
    """The estimate for a picture of any size; what is too small to tell from counts as clean."""
    at = tuple(slice(first := max(0, side - SIDE) // 2, first + SIDE) for side in picture.size)
    rgb = picture.rgb[at]
    if picture.alpha is not None:
        rgb = fill_transparent(rgb, picture.alpha[at])
    y = rgb @ _LUMA
    noise = _noise(y, y)
    if not picture.grey:  # details are grey, noise has colours
        warm, cold = ((rgb[..., i] - rgb[..., 1]) * np.float32(255 / 2**0.5) for i in (0, 2))
        noise = max(noise, _noise(warm, y), _noise(cold, y))
    blocking = min(_blocking(y), _blocking(y.T))  # it has two directions; stripes have one
    return Degradation(round(noise, 2), round(blocking, 2), round(_blur(y), 2))


def _noise(plane: np.ndarray, y: np.ndarray) -> float:
    """Immerkaer's difference of Laplacians (1996), in the quietest windows instead of all, for
    a small picture is nowhere without details. Noise is white: made half as large by means of four
    it has a quarter of its power, where details have as much or more, so that is taken off. Where
    the next quiet windows have far more, as on line art, it is details that were measured.
    """
    rows, columns = (side // WINDOW * WINDOW for side in plane.shape)
    if not rows or not columns:
        return 0.0
    plane, y = plane[:rows, :columns], y[:rows, :columns]
    mean = _windows(y, WINDOW)
    usable = (mean > _RANGE[0]) & (mean < _RANGE[1])
    high = _windows(_details(plane), WINDOW)[usable]
    low = _windows(_details(_windows(plane, 2)), WINDOW // 2)[usable]
    count = max(_FEW, math.ceil(_QUIET * high.size))
    if high.size < count:
        return 0.0
    order = np.argsort(high)
    quiet, next_ones = high[order[:count]].mean(), high[order[min(3 * count, high.size - 1)]]
    if next_ones > _SPREAD**2 * quiet:
        return 0.0
    return math.sqrt(max(0.0, quiet - low[order[:count]].mean()) * 4 / 3) / _QUIET_BIAS


def _details(plane: np.ndarray) -> np.ndarray:
    """The square of what passes a high pass of unit gain for white noise."""
    wide = np.pad(plane, 1, mode="edge")
    down = wide[:-2] - 2 * wide[1:-1] + wide[2:]
    return np.square((down[:, :-2] - 2 * down[:, 1:-1] + down[:, 2:]) / 6)


def _windows(plane: np.ndarray, side: int) -> np.ndarray:
    """Means of the windows that it consists of."""
    rows, columns = plane.shape
    return plane.reshape(rows // side, side, columns // side, side).mean((1, 3))


def _blocking(y: np.ndarray) -> float:
    """How strong vertical borders of blocks are, in grey levels. Each place's difference to the
    next less those beside it; their mean by place in the period of 8: the largest against the next
    that is no neighbour of it. So a pattern of 2 or 4 pixels is no blocking, wherever the blocks
    begin."""
    step = np.abs(np.diff(y, axis=1))
    if step.shape[1] < 3 * WINDOW or step.shape[0] < WINDOW:
        return 0.0
    before, here, after = step[:, :-2], step[:, 1:-1], step[:, 2:]
    beside = np.maximum(before, after)
    usable = (beside <= _SMOOTH) & (here <= _STEP) & (here + beside > 0)
    excess = np.where(usable, here - (before + after) / 2, 0).sum(0)
    place = np.arange(here.shape[1]) % WINDOW
    count = np.bincount(place, usable.sum(0), WINDOW)
    if count.min() < _FEWEST:
        return 0.0
    mean = np.bincount(place, excess, WINDOW) / count
    largest = int(mean.argmax())
    others = np.delete(mean, [(largest + i) % WINDOW for i in (-1, 0, 1)])
    return float(mean[largest] - max(others.max(), 0.0))


def _blur(y: np.ndarray) -> float:
    """Sigma of the blur in pixels. At a blurred edge the difference over one pixel is erf(1/2) to
    erf(3/2) of that over three (in units of sqrt(2) sigma). The steep ones of the strongest edges
    count."""
    ratios = np.concatenate([_steepness(y), _steepness(y.T)])
    if len(ratios) < _FEWEST:
        return 0.0
    steep = float(np.quantile(ratios, _STEEP))
    return float(np.interp(-steep, -_STEEPNESS, _SIGMAS))


def _steepness(y: np.ndarray) -> np.ndarray:
    wide = np.abs(y[:, 3:] - y[:, :-3])
    if not wide.size:
        return np.empty(0, np.float32)
    strong = wide >= max(_EDGE, np.quantile(wide, 1 - _EDGES))
    return np.abs(y[:, 2:-1] - y[:, 1:-2])[strong] / wide[strong]


_SIGMAS = np.linspace(0.3, 3.0, 55)
_STEEPNESS = np.array([math.erf(0.5 / s / 2**0.5) / math.erf(1.5 / s / 2**0.5) for s in _SIGMAS])
