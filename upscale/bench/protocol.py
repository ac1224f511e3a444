"""How a picture is measured: what its small version is, and what it is compared with.

A picture is cut at the bottom and right so that the scale divides it, shrunk by `image.resize`'s
bicubic in float, rounded to 8 bits, enlarged, rounded to 8 bits, and measured. A set that has its
small pictures itself (HR/ and LRx4/) is measured with those.

With a degradation the small version is one of what was blurred, and gets noise and JPEG's blocks.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np

from upscale.bench.testsets import Pair
from upscale.errors import InputError
from upscale.image.compress import compressed
from upscale.image.decode import read
from upscale.image.picture import Picture, quantised
from upscale.image.resize import blurred, resize_array

KERNEL = "bicubic (a=-0.5, antialiased, float), rounded to 8 bits"
# Sigma of the blur in pixels of hr, of the noise in grey levels; JPEG's quality. The tables to be
# compared with call their blur 1.5 px: 1.1 is the sigma that gives their bicubic's numbers.
PEERS = (1.1, 4.0, 60)
_PEERS_KERNEL = "blur {:g} px, bicubic, noise {:g}/255, JPEG {}".format(*PEERS)


def make_lr(
    hr: np.ndarray, scale: float, degradation: str = "none", name: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """float32 (H,W,3) in [0,1] -> (lr, hr cut to lr's size times scale, halves up).

    name: of the picture, which the noise of a degradation depends on."""
    small = tuple(math.floor(side / scale) for side in hr.shape[:2])
    if min(small) < 1:
        raise InputError(f"{hr.shape[1]}x{hr.shape[0]} is too small for a scale of {scale:g}")
    hr = _cut(hr, small, scale)
    if degradation == "none":
        return in_8_bits(resize_array(hr, small)), hr
    sigma, noise, quality = PEERS
    lr = resize_array(blurred(hr, sigma), small)
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    lr = lr + rng.standard_normal(lr.shape, np.float32) * np.float32(noise / 255)
    return compressed(quantised(lr, 8), "JPEG", quality) / np.float32(255), hr


def kernel_of(pair: Pair, degradation: str) -> str:
    """In words: how the small picture was made."""
    if degradation != "none":
        return _PEERS_KERNEL
    return KERNEL if pair.lr is None else f"the set's maker ({pair.lr.parent.name})"


def open_pair(pair: Pair, scale: float, degradation: str = "none") -> tuple[Picture, np.ndarray]:
    """(the small picture, the large one cut to it); grey if the original is, as with upscale. One
    with a degradation is always made of the large one."""
    source = read(pair.hr)
    if pair.lr is None or degradation != "none":
        lr, hr = make_lr(source.rgb, scale, degradation, pair.hr.stem)
        return Picture(lr, grey=source.grey), hr
    small = read(pair.lr)
    height, width = (math.floor(side * scale + 0.5) for side in small.size)
    spare = (source.size[0] - height, source.size[1] - width)
    if min(spare) < 0 or max(spare) >= math.ceil(scale):
        raise InputError(
            f"{pair.lr}: {small.size[1]}x{small.size[0]}, which times {scale:g} is not "
            f"{pair.hr.name}'s {source.size[1]}x{source.size[0]}"
        )
    return Picture(in_8_bits(small.rgb), grey=source.grey), _cut(source.rgb, small.size, scale)


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
