"""One run of a network: from a small picture to a sample of the wanted size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from upscale.diffusion.denoiser import Denoiser, bind, consistent
from upscale.diffusion.noise import noise_at
from upscale.diffusion.process import sigmas
from upscale.diffusion.table import SAMPLERS
from upscale.diffusion.tiling import Box, tiled
from upscale.image.resize import resize
from upscale.machine import available_memory
from upscale.methods import Model
from upscale.nets.implicit import Place
from upscale.pipeline.consistency import IN_STEPS, towards
from upscale.pipeline.plan import Stage
from upscale.pipeline.sizing import windows_of

OnStep = Callable[[int, int], None]
# makes each call of a network, `function(*args, **named)`: a batch of pictures, a clock
Call = Callable[..., Any]


def directly(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """The `Call` of a picture on its own."""
    return function(*args, **named)


@dataclass(frozen=True)
class Settings:
    """What a stage's sampler is told; rtol and atol are for samplers that choose their steps."""

    sampler: str
    spacing: str
    temperature: float
    consistency: str
    overlap: int
    seed: tuple[int, ...]
    rtol: float = 1e-3
    atol: float = 1e-3
    bf16: bool = False
    levels: tuple[float, ...] = ()  # sigmas that a search found, in the place of `spacing`
    origin: tuple[int, int] = (0, 0)  # of the stage's output in a larger one, for its noise


def run_stage(
    model: Model,
    lr: Tensor,
    stage: Stage,
    settings: Settings,
    side: int,
    on_step: OnStep,
    call: Call = directly,
) -> tuple[Tensor, int]:
    """A sample (1,3,H,W) in [-1,1] for lr (1,3,h,w), and the network calls it took.

    side: of the windows, 0 for the whole picture at once. Raises FloatingPointError where an
    adaptive sampler fails.
    """
    lr_up = resize(lr, stage.size_out, model.kernel)
    calls = 0

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return network(x, sigma)

    network, denoise = _network(model, lr, lr_up, side, settings, call), counted
    if strength := IN_STEPS.get(settings.consistency):

        def project(target: Tensor) -> Tensor:
            picture = towards(model.decode(target, lr_up), lr, strength)
            return model.encode(picture, lr_up)

        denoise = consistent(counted, project)

    def noise(step: int) -> Tensor:
        place = settings.origin, stage.size_out
        return noise_at((*settings.seed, step), *place).to(lr_up.device)

    process = model.law.process
    levels = sigmas(process, stage.steps, settings.spacing)
    if settings.levels:
        levels = torch.tensor([*settings.levels, 0.0], dtype=torch.float64)
    x = noise(-1) * float(levels[0]) * settings.temperature
    x = SAMPLERS[settings.sampler](
        denoise, x, levels, noise=lambda step: noise(step) * settings.temperature,
        process=process, rtol=settings.rtol, atol=settings.atol, on_step=on_step,
    )  # fmt: skip
    return model.decode(x, lr_up), calls


def _network(
    model: Model, lr: Tensor, lr_up: Tensor, side: int, settings: Settings, call: Call
) -> Denoiser:
    """The network bound to its input, whole or in windows; all of it under the chosen dtype."""
    net = model.net
    factor = math.sqrt(lr_up[0, 0].numel() / lr[0, 0].numel())
    scale = torch.full((1,), factor, device=lr.device)

    def autocast() -> torch.autocast:
        return torch.autocast(lr.device.type, torch.bfloat16, enabled=settings.bf16)

    def bound(small: Tensor, place: Place | None, enlarged: Tensor) -> Denoiser:
        small, enlarged = (
            x.contiguous(memory_format=torch.channels_last) for x in (small, enlarged)
        )
        at = {} if place is None else {"place": place}
        with autocast():
            cond = call(net.encode, enlarged, scale, small, **at)
            inner = bind(partial(call, net), cond, model.law.parametrisation)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            with autocast():
                raw = inner(x, sigma)
            if model.std is None and model.law.clamped:
                raw = raw.clamp(-1, 1)
            return raw

        return denoise

    size = tuple(lr_up.shape[-2:])
    if not side:
        return bound(lr, None, lr_up)

    def part(box: Box) -> Denoiser:
        rows = slice(box.top, box.top + box.height)
        columns = slice(box.left, box.left + box.width)
        enlarged = lr_up[..., rows, columns]
        if net.lr_margin:
            return bound(*_around(lr, box, size, net.lr_margin), enlarged)
        return bound(_below(lr, box, factor), None, enlarged)

    if lr_up[0, 0].numel() * net.cond_bytes_per_pixel < available_memory(lr.device) // 4:
        part = cache(part)  # the windows' features are kept from step to step
    boxes = windows_of(size, side, settings.overlap, net.align)
    blend = min(settings.overlap, side // 2)
    return tiled(lambda x, sigma, box: part(box)(x, sigma), size, boxes, blend)


def _below(lr: Tensor, box: Box, factor: float) -> Tensor:
    """The part of the small picture that a window of the large one covers.

    Exact for whole magnifications that divide the window's place, which networks that read it
    and know no `place` are for; others get it only as a shape.
    """
    top, left = round(box.top / factor), round(box.left / factor)
    height, width = max(1, round(box.height / factor)), max(1, round(box.width / factor))
    return lr[..., top : top + height, left : left + width]


def _around(lr: Tensor, box: Box, size: tuple[int, int], margin: int) -> tuple[Tensor, Place]:
    """The part of the small picture below a window of the large one of `size`, with `margin` of its
    pixels around where there are any, and where the window lies over it; for any magnification."""
    cuts, origin = [], []
    for first, length, small, large in (
        (box.top, box.height, lr.shape[2], size[0]),
        (box.left, box.width, lr.shape[3], size[1]),
    ):
        factor = large / small
        begin = max(0, math.floor(first / factor) - margin)
        end = min(small, math.ceil((first + length) / factor) + margin)
        cuts.append(slice(begin, end))
        origin.append((first - begin * factor, factor))
    (top, down), (left, across) = origin
    return lr[..., cuts[0], cuts[1]], Place(top, left, down, across)
