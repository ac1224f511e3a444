"""Losses: denoising score matching, and the image quality loss through a few sampler steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..diffusion.denoiser import bind, parametrisation, per_example
from ..diffusion.process import Process, VPDiscrete, sigmas
from ..diffusion.samplers import ddim, rk45
from ..image.resize import resize
from .chance import Chance, normal, uniform
from .data import Batch

PERIOD = 4  # of the grid that a pixel_shuffle leaves


@dataclass(frozen=True)
class Spec:
    """What a network is trained to tell: mirrors `methods.Method`, without file or device."""

    parametrisation: str
    std: float | None  # residual target (hr - lr_up) / std; None: the picture itself
    process: Process = field(default_factory=VPDiscrete)
    squared: bool = False  # the score loss: L2 in place of L1

    def encode(self, hr: Tensor, lr_up: Tensor) -> Tensor:
        return hr if self.std is None else (hr - lr_up) / self.std

    def decode(self, target: Tensor, lr_up: Tensor) -> Tensor:
        return target if self.std is None else lr_up + self.std * target


def score_loss(
    net: nn.Module,
    spec: Spec,
    batch: Batch,
    sigma: Tensor,
    generator: torch.Generator | Chance,
    cond: Any = None,
) -> Tensor:
    """L1 or L2 between raw output and what the parametrisation should tell, per example (B,).

    SR3 eq. 6 with p = 1 or 2 for Eps; of two heads (ECDP eq. 8 and 16) the sum. Per value of the
    picture: neither its size nor its channels matter. sigma (B,) is drawn by the caller. cond: the
    features of the inputs, where they are there already.
    """
    target = spec.encode(batch.hr, batch.lr_up)
    noise = normal(target.shape, generator).to(target)
    s = per_example(sigma, target)
    cond = encode(net, batch) if cond is None else cond
    c_noise = torch.rsqrt(1 + sigma.double().square())
    raw = net((target + s * noise) * per_example(c_noise, target), cond, c_noise)
    wanted = parametrisation(spec.parametrisation).raw(target, noise, s)
    heads = raw.shape[1] // target.shape[1]
    error = raw.float() - wanted
    return heads * (error.square() if spec.squared else error.abs()).mean((1, 2, 3))


def encode(net: nn.Module, batch: Batch) -> Any:
    """The network's features of the inputs; networks that read the small inputs themselves get
    them as one tensor, or as a list where their sizes differ."""
    if not getattr(net, "reads_lr", False):
        return net.encode(batch.lr_up, batch.scale)
    lr = batch.lr
    if len({small.shape for small in lr}) == 1:
        lr = torch.stack(lr)
    return net.encode(batch.lr_up, batch.scale, lr)


def start_noise(batch: Batch, cool: float, generator: torch.Generator | Chance) -> Tensor:
    """Start noise (B,3,H,W), each example at temperature u ** cool, u uniform; 0: at 1."""
    noise = normal(batch.hr.shape, generator).to(batch.hr)
    if not cool:
        return noise
    return noise * per_example(uniform(len(noise), generator).to(noise) ** cool, noise)


def sample(
    net: nn.Module,
    spec: Spec,
    batch: Batch,
    start: Tensor,
    calls: int,
    depth: int = 2,
    cond: Any = None,
) -> Tensor:
    """A picture (B,3,H,W) by `calls` DDIM steps from start noise of variance one; the gradient
    flows through the last `depth` of them."""
    levels = sigmas(spec.process, calls, "phi")
    cond = encode(net, batch) if cond is None else cond
    denoise = bind(net, cond, spec.parametrisation)
    x = start * float(levels[0])
    if calls > depth:
        with torch.no_grad():  # run to their end, and stop before 0
            for i in range(calls - depth):
                d = denoise(x, levels[i].to(x).expand(len(x)))
                x = torch.lerp(d, x, float(levels[i + 1] / levels[i]))
        levels = levels[calls - depth :]
    return spec.decode(ddim(denoise, x, levels), batch.lr_up)


def flow(
    net: nn.Module,
    spec: Spec,
    batch: Batch,
    start: Tensor,
    tolerance: float,
    cond: Any = None,
) -> Tensor:
    """A picture (B,3,H,W) by the probability flow (ECDP eq. 12-13, section 3.4), with the
    gradient by the adjoint method: memory does not grow with the number of calls.

    The features of the input are parameters of the flow, so that the encoder learns too (in the
    published code no gradient reaches it).
    """
    # views: in the tensors themselves the gradients of features that are made of them, or of other
    # features, would meet, and count twice when the flow hands each of them back
    cond = viewed(encode(net, batch) if cond is None else cond)
    views = {name: p.view_as(p) for name, p in net.named_parameters()}

    def call(x: Tensor, cond: Any, c_noise: Tensor) -> Tensor:
        return functional_call(net, views, (x, cond, c_noise))

    denoise = bind(call, cond, spec.parametrisation)
    levels = sigmas(spec.process, 1)
    learnt = (*views.values(), *(t for t in tensors_of(cond) if t.requires_grad))
    target = rk45(
        denoise,
        start * float(levels[0]),
        levels,
        process=spec.process,
        rtol=tolerance,
        atol=tolerance,
        learnt=learnt,
    )
    return spec.decode(target, batch.lr_up)


def tensors_of(cond: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples and lists."""
    if isinstance(cond, Tensor):
        yield cond
    elif isinstance(cond, tuple | list):
        for part in cond:
            yield from tensors_of(part)


def viewed(cond: Any) -> Any:
    """The same structure with a view of every tensor."""
    if isinstance(cond, Tensor):
        return cond.view_as(cond)
    return type(cond)(map(viewed, cond)) if isinstance(cond, tuple | list) else cond


def project(sr: Tensor, batch: Batch) -> Tensor:
    """One step towards the pictures that shrink to the input, as inference does it."""
    moved = []
    for picture, lr in zip(sr, batch.lr, strict=True):
        error = lr[None] - resize(picture[None], tuple(lr.shape[-2:]))
        moved.append(picture[None] + resize(error, tuple(picture.shape[-2:])))
    return torch.cat(moved)


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
    grid: float
    distances: tuple[tuple[float, Callable[[Tensor, Tensor], Tensor]], ...]
    mean: Callable[[Tensor], Tensor] = lambda value: value  # over processes

    def __call__(self, sr: Tensor, hr: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        parts = {"l1": self.l1 * (sr - hr).abs().mean()}
        parts["phase"] = self.phase * phase_loss(sr, hr, self.mean)
        if self.grid:
            parts["grid"] = self.grid * grid_loss(sr, hr)
        for index, (weight, distance) in enumerate(self.distances):
            parts[f"feature{index}"] = weight * distance(*shifted(sr, hr, generator)).mean()
        return parts
