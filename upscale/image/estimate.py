"""What a picture has gone through, by what its file says and its pixels show: noise, JPEG, blur.

Three numbers that are measured, one that a network sees where nothing can be measured, and
`strength`, which is how much of a cleaning they ask for. The limits were chosen on training
pictures; `benchmarks/degradation.py` and `cleaning.py` measure how often they err, docs/upscale.md
tells what came out.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from upscale.image.gain import gain_of
from upscale.image.grid import FREQUENCY, SIDE, blocks, coefficients, origin_of, quality_in
from upscale.image.picture import Picture, fill_transparent

CENTRE = 1024  # side of the part that is looked at, in pixels
# What is measured -> how much cleaning it needs, linear between: docs/upscale.md
NOISE = (0.8, 1.1, 1.5, 2.2, 3.2, 4.0), (0.0, 0.25, 0.5, 0.75, 0.75, 1.0)
QUALITY = (86.0, 90.0, 92.0, 95.5, 98.5, 100.0), (1.0, 0.75, 0.75, 0.5, 0.25, 0.0)
BLUR = (0.5, 0.56), (0.0, 1.0)
GAIN = (-0.015, 0.0, 0.02, 0.035), (0.0, 0.4, 0.75, 1.0)
# white noise that is light, as NOISE has it, and nothing else -> as much of a gain as is believed
LIGHT = (0.9, 1.1, 2.3, 4.0), (1.0, 0.5, 0.5, 1.0)
DOUBTED = (-0.03, -0.02), (0.0, 1.0)  # gain -> how much of what noise and blur ask for counts
REAL = 0.5  # strength from which on the picture is called real input
_WIDER = 2.0  # the way past the first limit beside what a file says, which albums share
_HIDES = 95.0  # quality below which a file may have rounded noise away
_OLDER = 5.0  # how much coarser an earlier JPEG must be to count more than the file

_LUMA = np.array([0.299, 0.587, 0.114], np.float32) * 255
_QUIET, _FEW = 0.04, 4  # share of the blocks that are taken for without texture, and at least
_RANGE = 12, 243  # of a block's mean: noise is cut off near black and white
_EVEN = FREQUENCY % 2 == 0
_LOW, _HIGH = (FREQUENCY >= 4) & (FREQUENCY <= 5), (FREQUENCY >= 7) & (FREQUENCY <= 10)
_DETAIL = 0.5  # power of details at the high ones, of that at the low ones, at most
# Power of the next quiet blocks -> how much is noise, not details
_SPREAD = (2.0, 3.0), (1.0, 0.0)
_FEWEST = 32  # edges
_EDGE, _EDGES, _STEEP = 16.0, 0.02, 0.9  # least contrast, share of differences, quantile
_LONG, _MIDDLE = (FREQUENCY >= 1) & (FREQUENCY <= 5), (FREQUENCY >= 6) & (FREQUENCY <= 7)
_FINE = (FREQUENCY >= 11) & (FREQUENCY <= 13)
_BUSY = 0.2  # share of the blocks with most waves
_ROUNDING = 1 / 12  # power of what 8 bits round away


@dataclass(frozen=True)
class Degradation:
    """noise: standard deviation in grey levels of 255; None where there is little in a file so
    coarse that it may have hidden more. quality: of the coarsest lossy file that the
    picture is known to have been, by libjpeg's measure; None where none is known. blur: sigma of
    the Gaussian that the sharpest edges look blurred by, in pixels, if fine waves are missing too;
    0 where there is no edge.
    told: whether the picture's own file says the quality. gain: how much less LPIPS is expected to
    have where the picture is cleaned; None where nothing is to be seen.
    """

    noise: float | None
    quality: float | None
    blur: float
    told: bool = False
    gain: float | None = None

    @property
    def strength(self) -> float:
        """From 0, for what was rendered or shrunk, to 1, for what needs all of the cleaning. It has
        no steps, so that pictures that are alike get what is alike. What noise and blur ask for
        counts less where the network sees nothing of them: fine texture and soft things are like
        them. What it sees does not count beside a file's own word: it cannot tell the finest JPEGs
        from others."""
        width = _WIDER if self.told else 1.0
        lossy = 0.0 if self.quality is None else _cleaning(self.quality, QUALITY)
        noise, blur = _cleaning(self.noise or 0.0, NOISE, width), _cleaning(self.blur, BLUR, width)
        measured, seen = 1 - (1 - noise) * (1 - blur), 0.0
        if self.gain is not None:
            measured *= _cleaning(self.gain, DOUBTED)
            seen = 0.0 if self.told else _cleaning(self.gain, GAIN)
        if self.noise and self.quality is None:
            seen = min(seen, _cleaning(self.noise, LIGHT))
        return round(1 - (1 - lossy) * (1 - max(measured, seen)), 3)

    @property
    def real(self) -> bool:
        """Whether weights for real input are the better ones, of two."""
        return self.strength >= REAL

    def report(self) -> dict[str, float | bool | None]:
        """All of it, for JSON."""
        return {**asdict(self), "strength": self.strength, "real": self.real}


def _cleaning(
    value: float, limits: tuple[tuple[float, ...], tuple[float, ...]], width: float = 1.0
) -> float:
    first = limits[0][0]
    return float(np.interp(first + (value - first) / width, *limits))


def estimate(picture: Picture) -> Degradation:
    """The estimate for a picture of any size; what is too small to tell from counts as clean."""
    starts = (max(0, side - CENTRE) // 2 // SIDE * SIDE for side in picture.size)
    at = tuple(slice(first, first + CENTRE) for first in starts)
    rgb = picture.rgb[at]
    if picture.alpha is not None:
        rgb = fill_transparent(rgb, picture.alpha[at])
    y = rgb @ _LUMA
    planes = [y]
    if not picture.grey:  # details are grey, noise has colours
        planes += [(rgb[..., i] - rgb[..., 1]) * np.float32(255 / 2**0.5) for i in (0, 2)]
    origin = origin_of(y)
    quality, told = quality_in(y, origin), picture.coded is not None
    if told and (quality is None or quality > picture.coded.quality - _OLDER):
        quality = picture.coded.quality
    origin = (0, 0) if quality is None else origin
    luma = blocks(y, origin)
    noise = max(_noise(blocks(plane, origin), luma) for plane in planes)
    blur = min(_blur(y), _faded(luma, noise))
    hidden = quality is not None and quality < _HIDES and noise < NOISE[0][0]
    seen = None if hidden else round(noise, 2)
    gain = gain_of(rgb)
    gain = None if gain is None else round(gain, 4)
    return Degradation(seen, quality, round(blur, 2), told, gain)


def _noise(made: np.ndarray, y: np.ndarray) -> float:
    """The high frequencies of the quietest blocks: a small picture is nowhere without details. Half
    of the coefficients chooses blocks and the other half is measured, for what noise is quiet in
    one half is not in the other. Noise is white, details have less power the higher the
    frequency, so their share is taken off. Where the next quiet blocks have far more, as in line
    art, it is details that were measured.
    """
    mean = y.mean((1, 2))
    power = np.square(coefficients(made[(mean > _RANGE[0]) & (mean < _RANGE[1])]))
    if len(power) < 2 * _FEW:
        return 0.0
    count, low, high, beyond = max(_FEW, math.ceil(_QUIET * len(power))), 0.0, 0.0, 0.0
    for half in (_EVEN, ~_EVEN):
        order = np.argsort(power[:, half & (_LOW | _HIGH)].mean(1))
        quiet, beside = power[order[:count]], power[order[count : 3 * count]]
        low += quiet[:, ~half & _LOW].mean() / 2
        high += quiet[:, ~half & _HIGH].mean() / 2
        beyond += beside[:, ~half & _HIGH].mean() / 2
    white = max(0.0, high - _DETAIL * low) / (1 - _DETAIL)
    return math.sqrt(white * float(np.interp(beyond / max(high, 1e-6), *_SPREAD)))


def _blur(y: np.ndarray) -> float:
    """Sigma of the blur in pixels. At a blurred edge the difference over one pixel is erf(1/2) to
    erf(3/2) of that over three (in units of sqrt(2) sigma). The steep ones of the strongest edges
    count."""
    ratios = np.concatenate([_steepness(y), _steepness(y.T)])
    if len(ratios) < _FEWEST:
        return 0.0
    steep = float(np.quantile(ratios, _STEEP))
    return float(np.interp(-steep, -_STEEPNESS, _SIGMAS))


def _faded(luma: np.ndarray, noise: float) -> float:
    """Sigma of the blur in pixels by how much weaker fine waves are than longer ones in the blocks
    that have most: a picture of soft things alone has soft edges, but grain on them."""
    power = np.square(coefficients(luma))
    if len(power) < 2 * _FEW:
        return 0.0
    order = np.argsort(power[:, _LONG].mean(1))
    busy = power[order[-max(_FEW, round(_BUSY * len(power))) :]]
    long, middle, fine = (
        math.log(max(float(busy[:, band].mean()) - noise**2, _ROUNDING))
        for band in (_LONG, _MIDDLE, _FINE)
    )
    return float(max(np.interp(middle - fine, *_FADED), np.interp(long - fine, *_GONE)))


def _steepness(y: np.ndarray) -> np.ndarray:
    wide = np.abs(y[:, 3:] - y[:, :-3])
    if not wide.size:
        return np.empty(0, np.float32)
    strong = wide >= max(_EDGE, np.quantile(wide, 1 - _EDGES))
    return np.abs(y[:, 2:-1] - y[:, 1:-2])[strong] / wide[strong]


# Logarithm -> sigma: the median of 144 photographs shrunk by four; past 0.6 fine waves are as good
# as gone, and edges alone tell. Past 1, middle ones are too.
_FADED = (2.1, 2.4, 3.1, 3.9, 4.5), (0.3, 0.4, 0.5, 0.6, 3.0)
_GONE = (8.0, 9.0), (0.3, 3.0)
_SIGMAS = np.linspace(0.3, 3.0, 55)
_STEEPNESS = np.array([math.erf(0.5 / s / 2**0.5) / math.erf(1.5 / s / 2**0.5) for s in _SIGMAS])
