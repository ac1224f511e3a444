"""Losses: denoising score matching, and the image quality loss through a few sampler steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.denoiser import PARAMETRISATIONS, bind, per_example
from ..diffusion.process import VPDiscrete, sigmas
from ..diffusion.samplers import ddim
from ..image.resize import resize
from .data import Batch

PERIOD = 4  # of the grid that a pixel_shuffle leaves


@dataclass(frozen=True)
class Spec:
    """What a network is trained to tell: mirrors `methods.Method`, without file or device."""

    parametrisation: str
    std: float | None  # residual target (hr - lr_up) / std; None: the picture itself

    def encode(self, hr: Tensor, lr_up: Tensor) -> Tensor:
        return hr if self.std is None else (hr - lr_up) / self.std

    def decode(self, target: Tensor, lr_up: Tensor) -> Tensor:
        return target if self.std is None else lr_up + self.std * target


def score_loss(
    net: nn.Module, spec: Spec, batch: Batch, sigma: Tensor, generator: torch.Generator
) -> Tensor:
    """L1 between raw output and what the parametrisation should tell, per example (B,).

    SR3 eq. 6 with p = 1 for Eps. sigma (B,) is drawn by the caller from its training law.
    """
    target = spec.encode(batch.hr, batch.lr_up)
    noise = torch.randn(target.shape, generator=generator).to(target)
    s = per_example(sigma, target)
    cond = net.encode(batch.lr_up, batch.scale)
    c_noise = torch.rsqrt(1 + sigma.square()).to(target)
    raw = net((target + s * noise) * per_example(c_noise, target), cond, c_noise)
    wanted = PARAMETRISATIONS[spec.parametrisation].raw(target, noise, s)
    return (raw.float() - wanted).abs().mean((1, 2, 3))


def sample(
    net: nn.Module,
    spec: Spec,
    batch: Batch,
    calls: int,
    generator: torch.Generator,
    cool: float = 0.0,
) -> Tensor:
    """A picture (B,3,H,W) by `calls` DDIM steps; the gradient flows through the last two.

    The start noise of each example has temperature u ** cool, u uniform in [0, 1].
    """
    levels = sigmas(VPDiscrete(), calls, "phi")
    cond = net.encode(batch.lr_up, batch.scale)
    denoise = bind(net, cond, spec.parametrisation)
    x = torch.randn(batch.hr.shape, generator=generator).to(batch.hr) * float(levels[0])
    if cool:
        x = x * per_example(torch.rand(len(x), generator=generator) ** cool, x)
    if calls > 2:
        with torch.no_grad():  # all but the last two steps: run to their end, then stop before 0
            for i in range(calls - 2):
                d = denoise(x, levels[i].to(x).expand(len(x)))
                x = torch.lerp(d, x, float(levels[i + 1] / levels[i]))
        levels = levels[calls - 2 :]
    return spec.decode(ddim(denoise, x, levels), batch.lr_up)


def project(sr: Tensor, batch: Batch) -> Tensor:
    """One step towards the pictures that shrink to the input, as inference does it."""
    moved = []
    for picture, lr in zip(sr, batch.lr, strict=True):
        error = lr[None] - resize(picture[None], tuple(lr.shape[-2:]))
        moved.append(picture[None] + resize(error, tuple(picture.shape[-2:])))
    return torch.cat(moved)


def phase_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """How unlike the PERIOD^2 phases of a picture are, against the truth; 0 without a grid.

    A network that shuffles channels into pixels treats the phases differently, a camera does not:
    the mean error and the mean sharpness of each phase must agree. Scalar.
    """
    error = sr - hr
    unlike = _phases(error).var(-1).mean()
    for dim in (2, 3):
        sharp = torch.diff(sr, dim=dim).abs() - torch.diff(hr, dim=dim).abs()
        unlike = unlike + _phases(sharp).var(-1).mean()
    return unlike.clamp_min(0).sqrt() * 10


def _phases(x: Tensor) -> Tensor:
    """(B,3,H,W) -> mean of each phase over the picture, (B,3,PERIOD^2)."""
    height, width = (side // PERIOD * PERIOD for side in x.shape[-2:])
    return (
        F.pixel_unshuffle(x[..., :height, :width], PERIOD).mean((2, 3)).unflatten(1, (3, PERIOD**2))
    )


def shifted(sr: Tensor, hr: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same random corner cut off both, so that no feature network's stride can learn to fit
    the generator's grid."""
    top, left = torch.randint(0, 2 * PERIOD, (2,), generator=generator).tolist()
    return sr[..., top:, left:], hr[..., top:, left:]


@dataclass(frozen=True)
class QualityLoss:
    """weights and distances of the image quality loss (ECDP section 3.4, with our additions)."""

    l1: float
    phase: float
    distances: tuple[tuple[float, Callable[[Tensor, Tensor], Tensor]], ...]

    def __call__(self, sr: Tensor, hr: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        parts = {"l1": self.l1 * (sr - hr).abs().mean(), "phase": self.phase * phase_loss(sr, hr)}
        for index, (weight, distance) in enumerate(self.distances):
            parts[f"feature{index}"] = weight * distance(*shifted(sr, hr, generator)).mean()
        return parts
