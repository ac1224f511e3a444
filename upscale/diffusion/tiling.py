"""A denoiser that calls another one on overlapping windows.

The state, the noise and the schedule stay those of the whole picture; only the estimate of each
step is assembled from windows. So a picture has one trajectory, whatever its tiles. Where a
network sees no further than a halo, only what lies a halo inside each window is kept, and the
estimate is that of the whole picture (`joined`); elsewhere windows are blended (`tiled`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from upscale.diffusion.denoiser import Denoiser

MARGIN = 4  # the outer 1/MARGIN of an overlap has weight 0: a window's padding shows there


class Box(NamedTuple):
    """A window of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def at(self) -> tuple[slice, slice]:
        """The slices of its rows and columns."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )

    def within(self, outer: Box) -> tuple[slice, slice]:
        """The slices of its rows and columns in a window that contains it."""
        return self._replace(top=self.top - outer.top, left=self.left - outer.left).at


def starts(length: int, window: int, overlap: int, align: int) -> list[int]:
    """First pixels, multiples of `align`, of windows that cover `length` and share `overlap`."""
    if window >= length:
        return [0]
    stride = (window - overlap) // align * align
    if stride < align or overlap < 0:  # a negative overlap would leave gaps
        raise ValueError(f"windows of {window} cannot overlap by {overlap} (alignment {align})")
    found = [0]
    while found[-1] + window < length:
        found.append(found[-1] + stride)
    last = -(-(length - window) // align) * align  # shifted inwards: as large as the others
    if len(found) > 1:
        found[-1] = min(found[-1], last)
    return found


def windows(size: tuple[int, int], window: int, overlap: int, align: int) -> list[Box]:
    """Boxes that cover (height, width) as a full grid of rows and columns; one if the picture fits.
    Raises ValueError for an overlap that is negative or too large for the window."""
    (height, width), boxes = size, []
    for top in starts(height, window, overlap, align):
        for left in starts(width, window, overlap, align):
            boxes.append(Box(top, left, min(window, height - top), min(window, width - left)))
    return boxes


def cores(size: tuple[int, int], side: int, halo: int, align: int) -> list[tuple[Box, Box]]:
    """Pairs (core, window). The cores, of at most `side` a side, cover (height, width) without
    overlap; a window is its core with up to `halo` around it, as far as the picture goes. All start
    at multiples of `align`. Raises ValueError where side or halo is not such a multiple."""
    if side < align or side % align or halo % align:
        raise ValueError(f"a core of {side} with {halo} around it is not aligned to {align}")
    axes = []
    for length in size:
        spans = [(a, min(a + side, length)) for a in range(0, length, side)]
        axes.append([(a, b, max(0, a - halo), min(length, b + halo)) for a, b in spans])
    return [
        (Box(a, c, b - a, d - c), Box(top, left, bottom - top, right - left))
        for a, b, top, bottom in axes[0]
        for c, d, left, right in axes[1]
    ]


def joined(
    denoise_window: Callable[[Tensor, Tensor, Box], Tensor], parts: list[tuple[Box, Box]]
) -> Denoiser:
    """A denoiser that calls `denoise_window(x of the window, sigma, window)` on the windows of
    `cores` and keeps only the cores. An error in a window ends the call."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        whole = torch.empty_like(x)
        for core, window in parts:
            made = denoise_window(x[(..., *window.at)], sigma, window)
            whole[(..., *core.at)] = made[(..., *core.within(window))]
        return whole

    return denoise


def _ramp(length: int, overlap: int, before: bool, after: bool, like: Tensor) -> Tensor:
    """Weights along one side of a window: 0 in the margin, then linear up to 1."""
    weight = torch.ones(length, dtype=like.dtype, device=like.device)
    overlap = min(overlap, length)
    margin = overlap // MARGIN
    inner = overlap - 2 * margin
    rise = torch.zeros(overlap, dtype=like.dtype, device=like.device)
    rise[margin:] = 1
    rise[margin : margin + inner] = (torch.arange(inner).to(like) + 0.5) / max(inner, 1)
    if before:
        weight[:overlap] *= rise
    if after:
        weight[length - overlap :] *= rise.flip(0)
    return weight


def tiled(
    denoise_window: Callable[[Tensor, Tensor, Box], Tensor],
    size: tuple[int, int],
    boxes: list[Box],
    overlap: int,
) -> Denoiser:
    """A denoiser that calls `denoise_window(x of the box, sigma, box)` and blends the overlaps.

    `boxes` are those of `windows(size, ...)`. The weights and their sum are separable, and the sum
    is divided out along each axis: an identity stays an identity, and the estimate is the only map
    of the whole picture. An error in a window ends the call.
    """
    height, width = size

    def ramps(box: Box, like: Tensor) -> tuple[Tensor, Tensor]:
        rows = _ramp(box.height, overlap, box.top > 0, box.top + box.height < height, like)
        columns = _ramp(box.width, overlap, box.left > 0, box.left + box.width < width, like)
        return rows[:, None], columns

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        row_sum, column_sum = x.new_zeros(height, 1), x.new_zeros(width)
        for box in boxes:
            rows, columns = ramps(box, x)
            if box.left == 0:
                row_sum[box.top : box.top + box.height] += rows
            if box.top == 0:
                column_sum[box.left : box.left + box.width] += columns
            at = (..., *box.at)
            total[at].addcmul_(denoise_window(x[at], sigma, box), rows * columns)
        return total.div_(row_sum).div_(column_sum)

    return denoise
