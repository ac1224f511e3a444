"""Small pictures as the world makes them: blurred, resized, noisy and compressed, twice over.

The second-order model of Real-ESRGAN (Wang et al. 2021, section 3 and its released settings), with
WebP beside JPEG. It runs on one example, in the data workers, and takes every random number from
the generator it is given.

That model is made for the worst of the web. `second_order` sets what share of the examples it
makes; the rest pass once through blur, resize, noise and one compression. Most photographs are
better than both: `mildly` makes what phones, messengers and web sites make of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from upscale.image.compress import CODECS, compressed
from upscale.image.resize import resize
from upscale.train.config import TrainConfig

SIZES = range(7, 22, 2)  # of blur kernels, in pixels
SINC_SHARE = 0.1  # of blurs
MODES = ("area", "bilinear", "bicubic")
GREY_SHARE = 0.4  # of noise: the same in all channels


@dataclass(frozen=True)
class Order:
    """One pass. blur: how often, and the range of its sigma in pixels. larger, smaller: how often
    the picture is resized so, within `factors`. noise: the range of Gaussian sigma in grey levels,
    used as often as Poisson's, whose range is in multiples of the photon noise of 8 bits."""

    blur: float
    sigma: tuple[float, float]
    larger: float
    smaller: float
    factors: tuple[float, float]
    noise: tuple[float, float]
    poisson: tuple[float, float]
    quality: tuple[int, int] = (30, 95)


FIRST = Order(1.0, (0.2, 3.0), 0.2, 0.7, (0.15, 1.5), (1, 30), (0.05, 3.0))
SECOND = Order(0.8, (0.2, 1.5), 0.3, 0.4, (0.3, 1.2), (1, 25), (0.05, 2.5))
LAST_SINC = 0.8  # how often a sinc filter ends it: ringing and overshoot


# the one pass of pictures that were not edited and saved again: a lens, a sensor, a compression
SINGLE = Order(0.9, (0.2, 2.4), 0.0, 0.0, (1.0, 1.0), (1, 14), (0.05, 1.2), (35, 95))
BLOCK = 8  # side of JPEG's and WebP's blocks

# a compression that is hardly seen; a picture that is shrunk after one; and the one after that
MILD, BEFORE, AGAIN = (60, 98), (70, 95), (65, 95)
UNCOMPRESSED, SHRUNK, TWICE = 0.1, 0.35, 0.7  # shares: of all, of the others, of the shrunk
LARGER = (1.15, 2.5)  # how much larger it was before
WEBP_SHARE = 0.2
SUBSAMPLINGS = ("4:2:0", "4:2:0", "4:2:2", "4:4:4")  # of JPEG's colours, equally likely
SOFT_SHARE, SOFT = 0.3, (0.2, 1.6)  # of lenses: sigma in pixels of the target
GRAIN_SHARE, GRAIN = 0.4, (0.5, 5.0)  # of sensors: standard deviation in grey levels
COARSE_SHARE, COARSE = 0.5, (0.4, 0.9)  # of grain that a camera has smoothed: sigma in pixels
SHARP_SHARE, SHARP, RADIUS = 0.3, (0.2, 1.0), (0.6, 1.5)  # unsharp masks: amount, sigma


def degraded(hr: Tensor, side: int, rng: np.random.Generator, second_order: float = 1.0) -> Tensor:
    """hr (3,P,P) in [-1,1] -> (3,side,side) in [-1,1], of 8-bit values.

    second_order: the share of examples that take both passes; the others take one, milder.
    """
    x = (hr[None] + 1) / 2
    full = hr.shape[-1]
    if second_order < 1 and rng.random() >= second_order:
        x = _compress(_noise(_to(_blur(x, SINGLE, rng), side, rng), SINGLE, rng), SINGLE, rng)
        return in_8_bits(x)
    x = _compress(_noise(_resize(_blur(x, FIRST, rng), FIRST, full, rng), FIRST, rng), FIRST, rng)
    # the second pass is relative to the wanted size
    x = _noise(_resize(_blur(x, SECOND, rng), SECOND, side, rng), SECOND, rng)
    last = sinc_kernel(rng) if rng.random() < LAST_SINC else None
    if rng.random() < 0.5:  # the last resize and ringing before the compression or after it
        x = _compress(_filtered(_to(x, side, rng), last), SECOND, rng)
    else:
        x = _filtered(_to(_compress(x, SECOND, rng), side, rng), last)
    return in_8_bits(x)


def small_version(hr: Tensor, side: int, rng: np.random.Generator, config: TrainConfig) -> Tensor:
    """By the config's law, "real" or "mixed": `degraded`, and of the mixed ones a share `mildly`
    and another clean, shrunk by bicubic and nothing else."""
    chance = rng.random() if config.degradation == "mixed" else 1.0
    if chance < config.clean_share:
        return in_8_bits(resize((hr[None] + 1) / 2, (side, side)))
    if chance < config.clean_share + config.mild_share:
        return mildly(hr, side, rng)
    return degraded(hr, side, rng, config.second_order)


def mildly(hr: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """hr (3,P,P) in [-1,1] -> (3,side,side) in [-1,1], of 8-bit values: a picture of a good camera,
    sharpened and compressed, now and then shrunk after that and compressed again."""
    x = (hr[None] + 1) / 2
    if rng.random() < SOFT_SHARE:
        x = _filtered(x, gaussian(rng.uniform(*SOFT)))
    if rng.random() < UNCOMPRESSED:
        return in_8_bits(_developed(shrunk(x, side, rng), rng))
    if rng.random() >= SHRUNK:
        return in_8_bits(_saved(_developed(shrunk(x, side, rng), rng), MILD, rng))
    before = min(x.shape[-1], round(side * rng.uniform(*LARGER)))
    x = _saved(_developed(shrunk(x, before, rng), rng), BEFORE, rng)
    x = shrunk(x, side, rng)
    return in_8_bits(_saved(x, AGAIN, rng) if rng.random() < TWICE else x)


def in_8_bits(x: Tensor) -> Tensor:
    """(1,3,H,W) in [0,1] -> (3,H,W) in [-1,1], rounded to the values of an 8-bit file."""
    return ((x.clamp(0, 1) * 255).round() / 127.5 - 1)[0]


def shrunk(x: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """(1,3,P,P) in [0,1] by a kernel that a careful program takes: all look at every pixel."""
    mode = MODES[rng.integers(len(MODES))]
    if mode == "bicubic":
        return resize(x, (side, side)).clamp(0, 1)
    if mode == "bilinear":
        return F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    return F.interpolate(x, (side, side), mode="area")


def _developed(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Grain and sharpening, each now and then."""
    if rng.random() < GRAIN_SHARE:
        shape = (1, 1 if rng.random() < GREY_SHARE else 3, *x.shape[-2:])
        grain = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        if rng.random() < COARSE_SHARE:
            grain = _filtered(grain, gaussian(rng.uniform(*COARSE)))
        x = (x + grain * float(rng.uniform(*GRAIN) / 255)).clamp(0, 1)
    if rng.random() < SHARP_SHARE:
        amount = float(rng.uniform(*SHARP))
        x = (x + amount * (x - _filtered(x, gaussian(rng.uniform(*RADIUS))))).clamp(0, 1)
    return x


def _saved(x: Tensor, quality: tuple[int, int], rng: np.random.Generator) -> Tensor:
    if rng.random() < WEBP_SHARE:
        return through(x, "WEBP", int(rng.integers(quality[0], quality[1] + 1)))
    subsampling = SUBSAMPLINGS[rng.integers(len(SUBSAMPLINGS))]
    return through(x, "JPEG", int(rng.integers(quality[0], quality[1] + 1)), subsampling)


# --- blur ---------------------------------------------------------------------------------------


def _blur(x: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    if rng.random() >= order.blur:
        return x
    sinc = rng.random() < SINC_SHARE
    return _filtered(x, sinc_kernel(rng) if sinc else gaussian_kernel(order.sigma, rng))


def _filtered(x: Tensor, kernel: Tensor | None) -> Tensor:
    if kernel is None:
        return x
    pad = len(kernel) // 2
    wide = F.pad(x, (pad,) * 4, mode="replicate")
    # by FFT: a direct convolution of single channels takes ten times as long. Its circle spoils
    # what the padding added, and nothing else
    size, (height, width) = wide.shape[-2:], x.shape[-2:]
    spectrum = torch.fft.rfft2(wide) * torch.fft.rfft2(kernel, s=size).conj()
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


def _grid(size: int) -> tuple[Tensor, Tensor]:
    at = torch.arange(size, dtype=torch.float32) - size // 2
    return torch.meshgrid(at, at, indexing="ij")


def gaussian(sigma: float) -> Tensor:
    """The plain kernel of sum 1, three sigma wide."""
    y, x = _grid(2 * math.ceil(3 * sigma) + 1)
    kernel = torch.exp(-(x.square() + y.square()) / (2 * sigma**2))
    return kernel / kernel.sum()


def gaussian_kernel(sigma: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """A kernel of sum 1: isotropic or not; Gaussian, generalised or of plateau shape.

    exp(-q^beta / 2) and 1 / (1 + q^beta) with q the squared distance in units of sigma.
    """
    size, first = int(rng.choice(SIZES)), rng.uniform(*sigma)
    second = rng.uniform(*sigma) if rng.random() < 0.35 else first
    angle = rng.uniform(-math.pi, math.pi)
    y, x = _grid(size)
    along = (x * math.cos(angle) + y * math.sin(angle)) / first
    across = (y * math.cos(angle) - x * math.sin(angle)) / second
    q, shape = along.square() + across.square(), rng.random()
    if shape < 0.70:
        kernel = torch.exp(-q / 2)
    elif shape < 0.85:
        kernel = torch.exp(-(q ** rng.uniform(0.5, 4.0)) / 2)
    else:
        kernel = 1 / (1 + q ** rng.uniform(1.0, 2.0))
    return kernel / kernel.sum()


def sinc_kernel(rng: np.random.Generator) -> Tensor:
    """The ideal circular low-pass filter, cut off: cutoff J1(cutoff r) / (2 pi r), of sum 1."""
    size = int(rng.choice(SIZES))
    cutoff = rng.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi)
    y, x = _grid(size)
    r = (x.square() + y.square()).sqrt()
    kernel = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


# --- size ---------------------------------------------------------------------------------------


def _resize(x: Tensor, order: Order, base: int, rng: np.random.Generator) -> Tensor:
    """To `base` times a random factor; larger, smaller or as it is."""
    chance, factor = rng.random(), 1.0
    if chance < order.larger:
        factor = rng.uniform(1, order.factors[1])
    elif chance < order.larger + order.smaller:
        factor = rng.uniform(order.factors[0], 1)
    return _to(x, max(4, round(base * factor)), rng)


def _to(x: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Resized by a random kernel; bilinear is not antialiased, as in many a program."""
    mode = MODES[rng.integers(len(MODES))]
    if x.shape[-1] == side:
        return x
    if mode == "bicubic":
        return resize(x, (side, side)).clamp(0, 1)
    if mode == "bilinear":
        return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    return F.interpolate(x, (side, side), mode="area")


# --- noise and compression ----------------------------------------------------------------------


def _noise(x: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    grey = rng.random() < GREY_SHARE
    if rng.random() < 0.5:
        shape = (1, 1 if grey else 3, *x.shape[-2:])
        drawn = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        return (x + drawn * float(rng.uniform(*order.noise) / 255)).clamp(0, 1)
    base = x.mean(1, keepdim=True) if grey else x
    base = (base.clamp(0, 1) * 255).round() / 255
    counts = rng.poisson(base.numpy() * 255.0).astype(np.float32) / 255
    drawn = (torch.from_numpy(counts) - base) * float(rng.uniform(*order.poisson))
    return (x + drawn).clamp(0, 1)


def _compress(x: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    codec = CODECS[rng.integers(len(CODECS))]
    return through(x, codec, int(rng.integers(order.quality[0], order.quality[1] + 1)))


def through(x: Tensor, codec: str, quality: int, subsampling: str = "4:2:0") -> Tensor:
    """(1,3,H,W) in [0,1], saved as a lossy file and read again; of 8 bits."""
    pixels = (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    lossy = compressed(pixels, codec, quality, subsampling)
    return torch.from_numpy(lossy.copy()).permute(2, 0, 1)[None].float() / 255
