"""Losses against the patterns that a network leaves where a camera leaves none.

Our own; a pixel_shuffle, and few calls, leave three: a fixed grid (`phase_loss`), a grid whose sign
changes from place to place (`grid_loss`), and a mesh at some period near the grid's
(`mesh_loss`). Each is 0 where the picture is like the truth.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from upscale.metrics.mesh import WINDOW, excess

PERIOD = 4  # of the grid that a pixel_shuffle leaves


def phase_loss(
    sr: Tensor, hr: Tensor, mean: Callable[[Tensor], Tensor] = lambda value: value
) -> Tensor:
    """How unlike the PERIOD^2 phases of a picture are, against the truth; 0 without a grid.

    A network that shuffles channels into pixels treats the phases differently, a camera does not:
    the mean error and the mean sharpness of each phase must agree. Scalar. mean: over processes
    that hold parts of the batch, differentiable; the root is of the whole batch.
    """
    error = sr - hr
    unlike = _phases(error).var(-1).mean()
    for dim in (2, 3):
        sharp = torch.diff(sr, dim=dim).abs() - torch.diff(hr, dim=dim).abs()
        unlike = unlike + _phases(sharp).var(-1).mean()
    return mean(unlike).clamp_min(0).sqrt() * 10


def _phases(x: Tensor) -> Tensor:
    """(B,3,H,W) -> mean of each phase over the picture, (B,3,PERIOD^2)."""
    height, width = (side // PERIOD * PERIOD for side in x.shape[-2:])
    return (
        F.pixel_unshuffle(x[..., :height, :width], PERIOD).mean((2, 3)).unflatten(1, (3, PERIOD**2))
    )


def grid_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """How much more lines (rows and columns) ring at PERIOD and half of it than the truth's.

    The patterns that `phase_loss` misses because their sign changes from place to place. Per
    picture: log of the power at these periods over that of the bins around, less the truth's, where
    positive. Scalar, 0 without a grid. The logs are of powers averaged over a picture's lines and
    colours, with one grey level of noise added as in `metrics.grid_harmonics`.
    """
    excess = [_ringing(sr, dim) - _ringing(hr, dim) for dim in (2, 3)]
    return torch.stack(excess).clamp_min(0).mean()


def _ringing(x: Tensor, dim: int) -> Tensor:
    """(B,3,H,W) in [-1,1] -> (B, PERIOD // 2) log ratios along `dim`; its length is cut to a
    multiple of PERIOD."""
    length = x.shape[dim] // PERIOD * PERIOD
    window = torch.hann_window(length, device=x.device)
    lines = x.float().narrow(dim, 0, length).movedim(dim, -1)
    power = torch.fft.rfft(lines * window).abs().square().mean((1, 2))
    floor = (2 / 255) ** 2 * window.square().sum() / 12
    found = []
    for k in range(1, PERIOD // 2 + 1):
        bin_ = k * length // PERIOD
        around = [b for d in range(3, 9) for b in (bin_ - d, bin_ + d) if b < power.shape[1]]
        found.append(((power[:, bin_] + floor) / (power[:, around].mean(1) + floor)).log())
    return torch.stack(found, 1)


def mesh_loss(
    sr: Tensor, hr: Tensor, mean: Callable[[Tensor], Tensor] = lambda value: value
) -> Tensor:
    """`metrics.mesh.excess` of a batch; 0 where a side is below its window. Scalar. mean: over
    processes that hold parts of the batch, differentiable."""
    if min(sr.shape[-2:]) < WINDOW:
        return sr.new_zeros(())
    return excess(sr.float(), hr.float(), 2 / 255, mean)
