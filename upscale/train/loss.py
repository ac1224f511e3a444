"""Losses: denoising score matching, and the image quality loss through a few sampler steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from upscale.diffusion.denoiser import bind, parametrisation, per_example
from upscale.diffusion.process import Process, VPDiscrete, sigmas
from upscale.diffusion.samplers import ddim, rk45
from upscale.metrics.perceptual import Features
from upscale.model import Diffused
from upscale.pipeline.consistency import towards
from upscale.train.adversary import Adversary
from upscale.train.chance import Chance, normal, uniform
from upscale.train.data import Batch
from upscale.train.grid import PERIOD, grid_loss, mesh_loss, phase_loss


@dataclass(frozen=True)
class Spec(Diffused):
    """What a network is trained to answer: a `model.Model` without network or file."""

    parametrisation: str
    std: float | None  # residual target (hr - lr_up) / std; None: the picture itself
    process: Process = field(default_factory=VPDiscrete)
    squared: bool = False  # the score loss: L2 in place of L1

    def decode(self, target: Tensor, lr_up: Tensor) -> Tensor:
        """As `Diffused.decode`, rounded twice: a run that is resumed stays the same to the bit."""
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
    if not net.reads_lr:
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
        with torch.no_grad():
            x = ddim(denoise, x, levels[: calls - depth + 1])
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
    pairs = zip(sr, batch.lr, strict=True)
    return torch.cat([towards(picture[None], lr[None]) for picture, lr in pairs])


def shifted(sr: Tensor, hr: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same random corner cut off both, so that no feature network's stride can learn to fit
    the generator's grid."""
    top, left = torch.randint(0, 2 * PERIOD, (2,), generator=generator).tolist()
    return sr[..., top:, left:], hr[..., top:, left:]


@dataclass(frozen=True)
class Judge:
    """A feature network, (B,3,H,W) in [-1,1] -> features, and the named, weighted distances (B,)
    that are taken between two pictures' features."""

    trunk: Callable[[Tensor], Features]
    distances: dict[str, tuple[float, Callable[[Features, Features], Tensor]]]
    adversary: Adversary | None = None  # one that looks at the same features
    adversarial: float = 0.0  # its weight


@dataclass(frozen=True)
class QualityLoss:
    """weights and distances of the image quality loss (ECDP section 3.4, with our additions)."""

    l1: float
    phase: float
    grid: float
    mesh: float
    judges: tuple[Judge, ...]
    mean: Callable[[Tensor], Tensor] = lambda value: value  # over processes

    def __call__(
        self, sr: Tensor, hr: Tensor, generator: torch.Generator, chance: Chance | None = None
    ) -> dict[str, Tensor]:
        """The parts by their names. sr, hr: (B,3,H,W) in [-1,1]; generator: of what is the same
        for all examples; chance: of what is not, `generator` by itself."""
        parts = {"l1": self.l1 * (sr - hr).abs().mean()}
        parts["phase"] = self.phase * phase_loss(sr, hr, self.mean)
        if self.grid:
            parts["grid"] = self.grid * grid_loss(sr, hr)
        if self.mesh:
            parts["mesh"] = self.mesh * mesh_loss(sr, hr, self.mean)
        for judge in self.judges:
            cut, truth = shifted(sr, hr, generator)
            made = judge.trunk(cut)
            with torch.no_grad():
                true = judge.trunk(truth)
            for name, (weight, distance) in judge.distances.items():
                parts[name] = weight * distance(made, true).mean()
            if judge.adversary:
                # it learns of this batch once the network's loss is made, so that both are of one
                # discriminator
                parts["adversarial"] = judge.adversarial * judge.adversary.loss(made, true).mean()
                judge.adversary.learn(made, true, chance or generator)
        return parts

    @property
    def adversary(self) -> Adversary | None:
        """The one that learns beside the network, if there is one."""
        return next((judge.adversary for judge in self.judges if judge.adversary), None)
