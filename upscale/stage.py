"""One run of a network: from a small picture to a sample of the wanted size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from .consistency import towards
from .device import available_memory
from .diffusion.denoiser import Denoiser, bind, consistent
from .diffusion.process import sigmas
from .diffusion.samplers import ADAPTIVE, SAMPLERS, STOCHASTIC
from .diffusion.tiling import Box, tiled, windows
from .errors import UsageError
from .image.resize import resize
from .methods import Model
from .nets.implicit import Place
from .plan import Stage

OnStep = Callable[[int, int], None]
# makes each call of a network, `function(*args, **named)`: a batch of pictures, a clock
Call = Callable[..., Any]

SMALLEST_TILE = 128
STATE_BYTES = 120  # per output pixel: state, noise, estimate, enlarged input, accumulator


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
    if settings.consistency != "off":
        strength = 1.0 if settings.consistency == "project" else 0.5

        def project(target: Tensor) -> Tensor:
            picture = towards(model.decode(target, lr_up), lr, strength)
            return model.encode(picture, lr_up)

        denoise = consistent(counted, project)

    def noise(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(_mix(*settings.seed, step))
        return torch.randn(lr_up.shape, generator=generator).to(lr_up.device)

    process = model.law.process
    levels = sigmas(process, stage.steps, settings.spacing)
    if settings.levels:
        levels = torch.tensor([*settings.levels, 0.0], dtype=torch.float64)
    x = noise(-1) * float(levels[0]) * settings.temperature
    extra = {}
    if settings.sampler in STOCHASTIC:
        extra["noise"] = lambda step: noise(step) * settings.temperature
    if settings.sampler in ADAPTIVE:
        extra |= {"process": process, "rtol": settings.rtol, "atol": settings.atol}
    x = SAMPLERS[settings.sampler](denoise, x, levels, on_step=on_step, **extra)
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
            if model.std is None and model.method == "sr3":
                raw = raw.clamp(-1, 1)  # as the published samplers do: pictures end at white
            return raw

        return denoise

    size = tuple(lr_up.shape[-2:])
    if not side:
        return bound(lr, None, lr_up)

    def part(box: Box) -> Denoiser:
        rows = slice(box.top, box.top + box.height)
        columns = slice(box.left, box.left + box.width)
        enlarged = lr_up[..., rows, columns]
        if getattr(net, "lr_margin", 0):
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


def windows_of(size: tuple[int, int], side: int, overlap: int, align: int) -> list[Box]:
    """Windows that overlap by at most half, so that smaller tiles than planned still fit."""
    return windows(size, side, min(overlap, side // 2), align)


def _mix(*parts: int) -> int:
    """A 63-bit seed from numbers (splitmix64's finaliser over a running sum)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        state = (state ^ (state >> 29)) * 0x94D049BB133111EB % (1 << 64)
        state ^= state >> 32
    return state >> 1


# --- memory -------------------------------------------------------------------------------------


def tile_side(
    size: tuple[int, int], tile: str | int, net: torch.nn.Module, device: torch.device
) -> int:
    """Side of the square windows for an output; 0 where it is done at once."""
    if tile != "auto":
        side = int(tile)
        if side and side < SMALLEST_TILE:
            raise UsageError(f"--tile must be 0, or at least {SMALLEST_TILE}, not {side}")
        return 0 if side == 0 or side >= max(size) else side // net.align * net.align
    budget = available_memory(device) // 2 - size[0] * size[1] * STATE_BYTES
    if size[0] * size[1] * net.bytes_per_pixel <= min(max(budget, 0), 4 << 30):
        return 0
    side = int(math.sqrt(max(budget, 0) / net.bytes_per_pixel))
    side = max(SMALLEST_TILE * 2, min(side, 1024)) // net.align * net.align
    return 0 if side >= max(size) else side
