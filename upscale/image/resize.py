"""The one door for resampling and its blur, so that every report can say which kernel made
its pictures.

The two kernels that make pictures are antialiased (the kernel widens when shrinking), sample at
pixel centres and agree with Pillow's float mode "F". Pillow's 8-bit modes round between the two
passes and differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Kernel: TypeAlias = Literal["bicubic", "lanczos", "bicubic-plain"]


def resize(x: Tensor, size: tuple[int, int], kernel: Kernel = "bicubic") -> Tensor:
    """(B,C,H,W) -> (B,C,*size), size = (height, width); dtype and device kept, nothing clipped.

    bicubic: Keys' cubic with a = -0.5, support 2; differentiable; computed in x's dtype, or in
    float32 for a half type. lanczos: windowed sinc, support 3, by Pillow on the CPU in float32;
    no gradient. bicubic-plain: a = -0.75, not antialiased, as torchvision resized tensors before
    0.17; only for weights that were trained on it. All overshoot at edges: clip where a picture
    is meant.
    """
    if kernel not in KERNELS:
        raise ValueError(f"no kernel named {kernel}; choose from {', '.join(KERNELS)}")
    if x.ndim != 4 or 0 in x.shape or min(size) < 1:
        raise ValueError(f"cannot resize {tuple(x.shape)} to {tuple(size)}: want (B,C,H,W), >= 1")
    if tuple(x.shape[2:]) == tuple(size):
        return x.clone()  # all kernels are interpolating: the same size is the same picture
    return KERNELS[kernel](x, size)


def resize_array(a: np.ndarray, size: tuple[int, int], kernel: Kernel = "bicubic") -> np.ndarray:
    """`resize` for float32 numpy (H,W) or (H,W,C) -> (*size) or (*size, C)."""
    if a.ndim == 2:
        return resize_array(a[..., None], size, kernel)[..., 0]
    return _array(lambda x: resize(x, size, kernel), a)


def part_resized(
    a: np.ndarray, size: tuple[int, int], window: tuple[slice, slice], *, nearest: bool = False
) -> np.ndarray:
    """What `a` (H,W,C), enlarged to `size` by bicubic or nearest neighbour, has at a window (rows,
    columns) of it: made of what lies below the window only. float32."""
    ratios = [small / large for small, large in zip(a.shape, size, strict=False)]
    if nearest:
        rows, columns = (
            ((np.arange(part.start, part.stop) + 0.5) * ratio).astype(int)
            for part, ratio in zip(window, ratios, strict=True)
        )
        return a[rows[:, None], columns[None]]
    below, box = [], []
    for part, ratio, side in zip(window, ratios, a.shape, strict=False):
        reach = math.ceil(2 * max(1.0, ratio)) + 1  # the kernel's support, and rounding
        first = max(0, math.floor(part.start * ratio) - reach)
        below.append(slice(first, min(side, math.ceil(part.stop * ratio) + reach)))
        box.append((part.start * ratio - first, part.stop * ratio - first))
    (top, bottom), (left, right) = box
    whole = tuple(part.stop - part.start for part in reversed(window))
    planes = [
        Image.fromarray(np.ascontiguousarray(plane)).resize(
            whole, Image.Resampling.BICUBIC, box=(left, top, right, bottom)
        )
        for plane in np.moveaxis(a[tuple(below)], 2, 0).astype(np.float32, copy=False)
    ]
    return np.stack([np.asarray(plane) for plane in planes], 2)


def resize_area(a: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H,W,C) shrunk to `size` by the mean over the area that each pixel covers."""
    return _array(lambda x: F.interpolate(x, size, mode="area"), a)


def _array(function: Callable[[Tensor], Tensor], a: np.ndarray) -> np.ndarray:
    """A function of (1,C,H,W) applied to numpy (H,W,C)."""
    x = torch.from_numpy(np.array(a.transpose(2, 0, 1)))  # a copy: torch warns of read-only
    return function(x[None])[0].permute(1, 2, 0).contiguous().numpy()


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """(B,C,H,W) blurred by a Gaussian of `sigma` pixels, cut off at 4 sigma, edges repeated; any
    size, dtype and device kept."""
    radius = math.ceil(4 * sigma)
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(x)[None, None]
    planes = x.flatten(0, 1)[:, None]
    for shape, pad in (((1, -1), (radius, radius, 0, 0)), ((-1, 1), (0, 0, radius, radius))):
        wide = F.pad(planes, pad, mode="replicate")
        planes = F.conv2d(wide, kernel.reshape(1, 1, *shape))
    return planes.reshape(x.shape)


def blurred(a: np.ndarray, sigma: float) -> np.ndarray:
    """`gaussian` for float32 numpy (H,W,C)."""
    return _array(lambda x: gaussian(x, sigma), a)


def _bicubic(x: Tensor, size: tuple[int, int], antialias: bool = True) -> Tensor:
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if antialias and size[1] == 1 and size[0] > 1:
        # torch 2.13 on a CPU mixes up the rows of a result that is one column wide, in either
        # order of memory; a single row it makes as it should
        return _bicubic(x.transpose(2, 3), size[::-1]).transpose(2, 3).contiguous()
    made = F.interpolate(
        wide, tuple(size), mode="bicubic", antialias=antialias, align_corners=False
    )
    return made.to(x.dtype)


def _lanczos(x: Tensor, size: tuple[int, int]) -> Tensor:
    planes = x.detach().float().cpu().flatten(0, 1).numpy()
    height, width = size
    done = [
        np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.LANCZOS))
        for p in planes
    ]
    y = torch.from_numpy(np.stack(done)).unflatten(0, x.shape[:2])
    return y.to(dtype=x.dtype, device=x.device)


_plain = partial(_bicubic, antialias=False)
KERNELS = {"bicubic": _bicubic, "lanczos": _lanczos, "bicubic-plain": _plain}
