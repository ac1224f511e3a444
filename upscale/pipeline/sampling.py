"""One stage of a picture, or a part of it, from what it enlarges to a sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from upscale.diffusion.denoiser import Denoiser, bind, consistent
from upscale.diffusion.noise import noise_at
from upscale.diffusion.run import run_sampler
from upscale.diffusion.tiling import Box, joined, tiled
from upscale.errors import DiffsrError, NumericalError, OutOfMemory
from upscale.image.resize import resize
from upscale.machine import autocast, available_memory, is_out_of_memory
from upscale.model import Model
from upscale.nets.implicit import Place
from upscale.pipeline.consistency import in_steps, towards
from upscale.pipeline.plan import Stage, parts_of, windows_of
from upscale.pipeline.request import SMALLEST_TILE, Request

OnStep = Callable[[int, int], None]
# makes each call of a network, `function(*args, **named)`: a batch of pictures, a clock
Call = Callable[..., Any]


def directly(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """The `Call` of a picture on its own."""
    return function(*args, **named)


@dataclass(frozen=True)
class Sampling:
    """What all stages of a picture have in common.

    projection: share of the input's own error that each step puts back; None: as each of mixed
    weights has it. seed: of all noise, or of a stage's. origin: where the stage's output begins in
    a larger one, for its noise.
    """

    sampler: str
    spacing: str
    projection: float | None
    seed: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    overlap: int = Request.overlap
    tolerances: tuple[float, float] = (Request.rtol, Request.atol)
    origin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Sample:
    """(1,3,H,W) in [-1,1] and how it came about: the tile, the network calls."""

    picture: Tensor
    tile: int
    nfe: int
    notes: tuple[str, ...]


def sampled(
    model: Model,
    stage: Stage,
    size: tuple[int, int],
    lr: Tensor,
    sampling: Sampling,
    on_step: OnStep,
    call: Call = directly,
) -> Sample:
    """`run_stage` for lr (1,3,h,w), and its result resized to `size`. After an out-of-memory all of
    it again with a tile half as large, which a note tells. Raises OutOfMemory, NumericalError."""
    notes: list[str] = []
    while True:
        try:
            sr, calls = run_stage(model, lr, stage, sampling, on_step, call)
            sr = resize(sr, size) if tuple(sr.shape[-2:]) != size else sr
            return Sample(sr, stage.tile, calls, tuple(notes))
        except FloatingPointError as error:
            raise NumericalError(f"{error}: no picture is written") from error
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, DiffsrError) or not is_out_of_memory(error):
                raise
            largest = stage.tile or max(stage.size_out)
            side = max(SMALLEST_TILE, largest // 2 // model.net.align * model.net.align)
            if largest <= SMALLEST_TILE:
                raise OutOfMemory(
                    f"{stage.size_out[1]}x{stage.size_out[0]} does not fit into memory even "
                    f"in tiles of {SMALLEST_TILE}: try a smaller --scale"
                ) from error
        stage = replace(stage, tile=side)
        if lr.device.type != "cpu":
            torch.get_device_module(lr.device).empty_cache()
        notes.append(f"memory ran out: done again in tiles of {side}")


def run_stage(
    model: Model,
    lr: Tensor,
    stage: Stage,
    sampling: Sampling,
    on_step: OnStep = lambda done, steps: None,
    call: Call = directly,
) -> tuple[Tensor, int]:
    """A sample (1,3,H,W) in [-1,1] for lr (1,3,h,w), and the network calls it took.

    Raises FloatingPointError where an adaptive sampler fails.
    """
    if model.parts:
        return _mixed(model, lr, stage, sampling, on_step, call)
    lr_up = resize(lr, stage.size_out, model.kernel)
    calls = 0
    network = _network(model, lr, lr_up, stage.tile, sampling, call)

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return network(x, sigma)

    denoise = counted
    if sampling.projection:
        denoise = consistent(counted, lambda x: held(model, x, lr, lr_up, sampling.projection))

    def noise(step: int) -> Tensor:
        seed = (*sampling.seed, step)
        return noise_at(seed, sampling.origin, stage.size_out).to(lr_up.device)

    x = run_sampler(
        sampling.sampler, denoise, noise, model.law.process, stage.steps, sampling.spacing,
        levels=stage.levels, temperature=stage.temperature, tolerances=sampling.tolerances,
        on_step=on_step,
    )  # fmt: skip
    return model.decode(x, lr_up), calls


def _mixed(
    model: Model, lr: Tensor, stage: Stage, sampling: Sampling, on_step: OnStep, call: Call
) -> tuple[Tensor, int]:
    """`run_stage` of each of the model's parts, from the same noise, and the mean of it."""
    mean, calls = 0.0, 0
    for number, (part, share) in enumerate(model.parts):
        projection = sampling.projection
        own = in_steps(part, None) if projection is None else projection

        def step(done: int, steps: int, before: int = number) -> None:
            on_step((before * steps + done) // len(model.parts), steps)

        sr, nfe = run_stage(part, lr, stage, replace(sampling, projection=own), step, call)
        mean, calls = mean + share * sr.clamp(-1, 1), calls + nfe
    return mean, calls


def held(model: Model, target: Tensor, lr: Tensor, lr_up: Tensor, strength: float) -> Tensor:
    """A clean target moved so that its picture, shrunk, comes nearer to lr."""
    return model.encode(towards(model.decode(target, lr_up), lr, strength), lr_up)


def _network(
    model: Model, lr: Tensor, lr_up: Tensor, side: int, sampling: Sampling, call: Call
) -> Denoiser:
    """The network bound to its input, whole or in windows; all of it under the chosen dtype."""
    net = model.net
    factor = math.sqrt(lr_up[0, 0].numel() / lr[0, 0].numel())
    scale = torch.full((1,), factor, device=lr.device)

    def narrow() -> torch.autocast:
        return autocast(lr.device, sampling.dtype)

    def bound(small: Tensor, place: Place | None, enlarged: Tensor) -> Denoiser:
        small, enlarged = (
            x.contiguous(memory_format=torch.channels_last) for x in (small, enlarged)
        )
        at = {} if place is None else {"place": place}
        with narrow():
            cond = call(net.encode, enlarged, scale, small, **at)
            inner = bind(partial(call, net), cond, model.law.parametrisation)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            with narrow():
                raw = inner(x, sigma)
            if model.std is None and model.law.clamped:
                raw = raw.clamp(-1, 1)
            return raw

        return denoise

    size = tuple(lr_up.shape[-2:])
    if not side:
        return bound(lr, None, lr_up)

    def part(box: Box) -> Denoiser:
        enlarged = lr_up[(..., *box.at)]
        if net.lr_margin:
            return bound(*_around(lr, box, size, net.lr_margin), enlarged)
        return bound(_below(lr, box, factor), None, enlarged)

    if lr_up[0, 0].numel() * net.cond_bytes_per_pixel < available_memory(lr.device) // 4:
        part = cache(part)  # the windows' features are kept from step to step

    def denoise_window(x: Tensor, sigma: Tensor, box: Box) -> Tensor:
        return part(box)(x, sigma)

    if net.halo is not None:
        return joined(denoise_window, parts_of(size, side, net))
    boxes = windows_of(size, side, sampling.overlap, net.align)
    return tiled(denoise_window, size, boxes, min(sampling.overlap, side // 2))


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
