"""How a picture is measured: what its small version is, and what it is compared with.

A picture is cut at the bottom and right so that the scale divides it, shrunk by `image.resize`'s
bicubic in float, rounded to 8 bits, enlarged, rounded to 8 bits, and measured. A set that has its
small pictures itself (HR/ and LRx4/) is measured with those.

With another degradation than none it is made by the steps of `columns.DEGRADATIONS`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from upscale.bench.columns import DEGRADATIONS
from upscale.bench.testsets import Pair
from upscale.errors import InputError
from upscale.image.compress import lossy_file
from upscale.image.decode import read
from upscale.image.folders import fitting
from upscale.image.picture import Picture, quantised
from upscale.image.resize import blurred, resize_area, resize_array

KERNEL = "bicubic (a=-0.5, antialiased, float), rounded to 8 bits"


def make_lr(
    hr: np.ndarray, scale: float, degradation: str = "none", name: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """float32 (H,W,3) in [0,1] -> (lr, hr cut to lr's size times scale, halves up).

    name: of the picture, which the noise of a degradation depends on."""
    lr, hr = degraded(hr, scale, degradation, name)
    return lr.rgb, hr


def degraded(
    hr: np.ndarray, scale: float, degradation: str, name: str, grey: bool = False
) -> tuple[Picture, np.ndarray]:
    """As `make_lr`, but lr knows which file it comes from. grey: the three channels are equal, and
    go through the steps as one."""
    small = tuple(math.floor(side / scale) for side in hr.shape[:2])
    if min(small) < 1:
        raise InputError(f"{hr.shape[1]}x{hr.shape[0]} is too small for a scale of {scale:g}")
    hr = _cut(hr, small, scale)
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    lr, own = Picture(hr), slice(1 if grey else 3)
    for step, *numbers in DEGRADATIONS[degradation]:
        made = STEPS[step][1](lr.rgb[..., own], small, rng, *numbers)
        lr = made if isinstance(made, Picture) else Picture(_three(made))
    return replace(lr, rgb=_three(in_8_bits(lr.rgb[..., own]))), hr


def _three(x: np.ndarray) -> np.ndarray:
    """(H,W,1 or 3) -> (H,W,3)"""
    return np.repeat(x, 3 // x.shape[2], axis=2)


def _noise(x: np.ndarray, rng: np.random.Generator, sigma: float, grain: float = 0) -> np.ndarray:
    drawn = rng.standard_normal(x.shape, np.float32)
    if grain:
        drawn = blurred(drawn, grain)
        drawn /= drawn.std()
    return x + drawn * np.float32(sigma / 255)


def _lossy(x: np.ndarray, codec: str, quality: int) -> Picture:
    pixels = quantised(x, 8)
    return read(lossy_file(pixels[..., 0] if x.shape[2] == 1 else pixels, codec, quality))


# step -> (its words, what it does to (H,W,1 or 3) on the way to a small picture of that size)
STEPS: dict[str, tuple[str, Callable[..., np.ndarray | Picture]]] = {
    "bicubic": ("bicubic", lambda x, size, rng: resize_array(x, size)),
    "twice": ("bicubic to twice the size",
              lambda x, size, rng: resize_array(x, (2 * size[0], 2 * size[1]))),
    "area": ("area", lambda x, size, rng: resize_area(x, size)),
    "blur": ("blur {:g} px", lambda x, size, rng, sigma: blurred(x, sigma)),
    "sharpen": ("unsharp mask {:g} of {:g} px",
                lambda x, size, rng, share, sigma: x + np.float32(share) * (x - blurred(x, sigma))),
    "noise": ("noise {:g}/255", lambda x, size, rng, sigma: _noise(x, rng, sigma)),
    "grain": ("noise {:g}/255 blurred by {:g} px",
              lambda x, size, rng, sigma, grain: _noise(x, rng, sigma, grain)),
    "JPEG": ("JPEG {}", lambda x, size, rng, quality: _lossy(x, "JPEG", quality)),
    "WEBP": ("WebP {}", lambda x, size, rng, quality: _lossy(x, "WEBP", quality)),
}  # fmt: skip


def kernel_of(pair: Pair, degradation: str) -> str:
    """In words: how the small picture was made."""
    if degradation != "none":
        steps = DEGRADATIONS[degradation]
        return ", ".join(STEPS[step][0].format(*numbers) for step, *numbers in steps)
    return KERNEL if pair.lr is None else f"the set's maker ({pair.lr.parent.name})"


def treatment(source: Picture) -> tuple[str, ...]:
    """What is done to an original that is no plain 8-bit RGB, after what reading it did."""
    done = {
        "grey: enlarged as grey, compared as R, G and B": source.grey,
        "transparency: ignored, in the input and in the comparison": source.alpha is not None,
        "16 bits: kept in the original, rounded to 8 in input and result": source.bits == 16,
    }
    return (*source.notes, *(text for text, is_so in done.items() if is_so))


def open_pair(pair: Pair, scale: float, degradation: str = "none") -> tuple[Picture, np.ndarray]:
    """(the small picture, the large one cut to it); grey if the original is, as with upscale, with
    its profile, and with its treatment as notes. One with a degradation is always made of the large
    one."""
    source = read(pair.hr)
    kept = {"grey": source.grey, "icc": source.icc, "notes": treatment(source)}
    if pair.lr is None or degradation != "none":
        lr, hr = degraded(source.rgb, scale, degradation, pair.hr.stem, source.grey)
        return replace(lr, **kept), hr
    small = read(pair.lr)
    fitting(pair.lr, small.size, pair.hr, source.size, scale)
    lr = Picture(in_8_bits(small.rgb), coded=small.coded, **kept)
    return lr, _cut(source.rgb, small.size, scale)


def result_of_others(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Another program's picture, (H,W,3), which must have the size of what it is compared with."""
    sr = read(path)
    if sr.size != size:
        raise InputError(
            f"{path}: {sr.size[1]}x{sr.size[0]} pixels, where {size[1]}x{size[0]} are compared: "
            "the picture cut to a multiple of the scale"
        )
    return in_8_bits(sr.rgb)


def in_8_bits(rgb: np.ndarray) -> np.ndarray:
    """What a file of 8 bits would hold, in [0,1] again."""
    return quantised(rgb, 8).astype(np.float32) / np.float32(255)


def _cut(hr: np.ndarray, small: tuple[int, int], scale: float) -> np.ndarray:
    height, width = (math.floor(side * scale + 0.5) for side in small)
    return np.ascontiguousarray(hr[:height, :width])
