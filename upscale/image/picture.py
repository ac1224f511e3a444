"""A picture in memory: its pixels, its transparency and what its file said about them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from upscale.image.coded import Coded

GAP = 2  # white pixels between the pictures of a sheet
_BAND = 256  # rows quantised at a time, so that a large picture needs no second float copy


@dataclass(frozen=True, eq=False, repr=False)
class Picture:
    """A decoded picture, upright.

    rgb    float32 (H,W,3) in [0,1]; the three channels of a grey picture are equal
    alpha  float32 (H,W) in [0,1], straight (not multiplied into rgb), or None
    bits   8 or 16: the depth the source declared, however dark its pixels are
    grey   the source had one colour channel; the mean of the three is written back
    icc    colour profile of rgb; None means sRGB
    exif   an Exif block without orientation, which is applied, and without resolution
    dpi    (horizontal, vertical)
    aspect (horizontal, vertical) density of pixels that are not square, where no unit is known
    xmp    a packet
    iptc   IPTC's records (IIM)
    comments  those of a JPEG or GIF
    texts  chunks of a PNG: (tEXt, zTXt or iTXt; data)
    colours  chunks of a PNG that say what its colours are, besides a profile: (kind, data)
    format Pillow's name of the source's format
    notes  what reading changed or left out, for the user
    coded  how coarsely the source's pixels were rounded, where it is a lossy file that tells
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    bits: int = 8
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str = "PNG"
    notes: tuple[str, ...] = ()
    aspect: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comments: tuple[bytes, ...] = ()
    texts: tuple[tuple[bytes, bytes], ...] = ()
    colours: tuple[tuple[bytes, bytes], ...] = ()
    coded: Coded | None = None

    def __post_init__(self) -> None:
        if self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or self.rgb.dtype != np.float32:
            raise ValueError(f"rgb is {self.rgb.dtype} {self.rgb.shape}, not float32 (H,W,3)")
        if 0 in self.rgb.shape:
            raise ValueError(f"a picture of {self.rgb.shape} has no pixels")
        if self.alpha is not None and (
            self.alpha.shape != self.rgb.shape[:2] or self.alpha.dtype != np.float32
        ):
            raise ValueError(
                f"alpha is {self.alpha.dtype} {self.alpha.shape}, not float32 {self.rgb.shape[:2]}"
            )
        if self.bits not in (8, 16):
            raise ValueError(f"bits is {self.bits}, not 8 or 16")

    def __repr__(self) -> str:
        kind = "grey" if self.grey else "colour"
        alpha = "" if self.alpha is None else ", alpha"
        return f"<Picture (H,W)={self.size}, {self.bits} bits, {kind}{alpha}, {self.format}>"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.rgb.shape[0], self.rgb.shape[1]

    def fingerprint(self) -> int:
        """A hash below 2**63 of the size and the pixels, so that a seed may depend on the content.

        Metadata does not enter, nor does the file format: a PNG and its lossless WebP agree.
        """
        digest = hashlib.blake2b(repr((self.size, self.alpha is not None)).encode(), digest_size=8)
        for plane in (self.rgb, self.alpha):
            for y in range(0, 0 if plane is None else len(plane), _BAND):
                # byte order named: the same picture has the same seed on every machine
                whole = quantised(plane[y : y + _BAND], self.bits)
                digest.update(whole.astype(f"<u{self.bits // 8}", copy=False))
        return int.from_bytes(digest.digest(), "big") >> 1


@dataclass(frozen=True)
class Extras:
    """What goes into a file along with the pixels, as in Picture; none of what the format or the
    user wants none of. software: a text of that name."""

    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    software: str | None = None
    aspect: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comments: tuple[bytes, ...] = ()
    texts: tuple[tuple[bytes, bytes], ...] = ()
    colours: tuple[tuple[bytes, bytes], ...] = ()


def quantised(plane: np.ndarray, bits: int) -> np.ndarray:
    """[0,1] of any shape (H,...) -> uint8 or uint16, to the nearest (a half rounds up), clipped."""
    top = 2**bits - 1
    whole = np.empty(plane.shape, np.uint8 if bits == 8 else np.uint16)
    for y in range(0, len(plane), _BAND):
        whole[y : y + _BAND] = np.clip(plane[y : y + _BAND], 0, 1) * np.float32(top) + 0.5
    return whole


def sheet(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one size, row by row, as many across as down."""
    height, width = pictures[0].size
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    whole = np.ones(((height + GAP) * rows - GAP, (width + GAP) * columns - GAP, 3), np.float32)
    for index, picture in enumerate(pictures):
        top, left = (height + GAP) * (index // columns), (width + GAP) * (index % columns)
        whole[top : top + height, left : left + width] = picture.rgb
    return Picture(whole)


def fill_transparent(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Spread the visible colours into what is wholly transparent.

    (H,W,3), (H,W) -> (H,W,3). Editors leave any colour under alpha 0; enlarged as it is, it would
    show as a fringe. Pixels with alpha > 0 keep their colour exactly, so enlarging the filled rgb
    and, on its own, alpha gives straight alpha again. A picture with nothing visible is unchanged.
    Push-pull pyramid (Gortler et al. 1996, section 3.4): linear time, any size of hole.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return rgb
    filled = _spread(rgb * alpha[..., None], alpha)
    return np.where(visible[..., None], rgb, np.clip(filled, 0, 1)).astype(np.float32)


def _spread(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted colour (h,w,3) and weight (h,w), somewhere positive -> colour everywhere."""
    known = weight[..., None] > 0
    own = np.divide(colour, weight[..., None], out=np.zeros_like(colour), where=known)
    if known.all():
        return own
    coarse = _spread(_halved(colour), _halved(weight))
    return np.where(known, own, _doubled(coarse)[: len(own), : own.shape[1]])


def _halved(plane: np.ndarray) -> np.ndarray:
    """(h,w,...) -> (ceil(h/2), ceil(w/2), ...): the sums of 2x2 blocks, zeros beyond the edge."""
    pad = [(0, n % 2) for n in plane.shape[:2]] + [(0, 0)] * (plane.ndim - 2)
    even = np.pad(plane, pad)
    return even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]


def _doubled(plane: np.ndarray) -> np.ndarray:
    """(h,w,3) -> (2h,2w,3), bilinear: repeated pixels, then (1 2 1)/4 along both axes."""
    for axis in (0, 1):
        twice = np.repeat(plane, 2, axis)
        ends = [(1, 1) if i == axis else (0, 0) for i in range(3)]
        p = np.moveaxis(np.pad(twice, ends, "edge"), axis, 0)
        plane = np.moveaxis((p[:-2] + 2 * p[1:-1] + p[2:]) / 4, 0, axis)
    return plane
