"""What will be done for a picture, decided once and before any pixel is touched: sizes, stages,
noise, and how it is cut so that it fits into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from upscale.diffusion.table import SAMPLERS
from upscale.diffusion.tiling import Box, cores, windows
from upscale.errors import UsageError
from upscale.machine import available_memory
from upscale.pipeline.blocks import (
    AHEAD,
    FROM_PIXELS,
    FROM_PIXELS_CUDA,
    HALO,
    PART_BYTES,
    RESIZED_BYTES,
    blocks_of,
    drawn,
)
from upscale.pipeline.request import SCALE, SCALES, SMALLEST_TILE, Request
from upscale.weights.registry import Entry

if TYPE_CHECKING:
    from upscale.image.estimate import Degradation
    from upscale.image.faces import Face
    from upscale.methods import Method
    from upscale.pipeline.blocks import Block

WHOLE_BYTES = 4 << 30  # what a network may take for a picture that is not cut into windows
LARGEST_TILE = 1024
# A cascade's input may be extended by this part of its side, so that all of its grids meet and it
# can be cut into blocks; the surplus is cut off at the end.
SURPLUS = Fraction(1, 32)
STATE_BYTES = 120  # per output pixel: state, noise, estimate, enlarged input, accumulator
RESIZE_BYTES = 48  # the same where there is no network
_SHORT = "little memory is free: done in blocks"


@dataclass(frozen=True)
class Stage:
    """One run of a network: from a size to a size, in so many steps.

    temperature: factor of the noise. levels: sigmas that a search found for just these steps, in
    the place of a spacing. tile: side of the windows, 0 for the whole picture at once. blocks: rows
    of them, where it is not done as one.
    """

    size_in: tuple[int, int]
    size_out: tuple[int, int]
    steps: int
    temperature: float = 1.0
    levels: tuple[float, ...] = ()
    tile: int = 0
    blocks: tuple[tuple[Block, ...], ...] = ()

    @property
    def parts(self) -> list[Box]:
        """What its network draws of its output: one box for each block."""
        blocks = (block for row in self.blocks for block in row)
        cut = [drawn(block.source, self.size_in, self.size_out) for block in blocks]
        return cut or [Box(0, 0, *self.size_out)]


@dataclass(frozen=True)
class Plan:
    """What will be done for a picture, and all that it takes besides its pixels."""

    request: Request
    size_in: tuple[int, int]
    size_out: tuple[int, int]
    scale: float
    stages: tuple[Stage, ...]
    sampler: str
    spacing: str
    consistency: str  # mode
    projection: float = 0.0  # share of the input's own error that each step puts back
    nfe: int = 0  # network calls
    tiles: int = 1  # windows of the last stage
    memory: int = 0  # bytes, an estimate
    notes: tuple[str, ...] = ()
    entry: Entry | None = None  # the weights; None for a mere resize
    taken_for: str | None = None  # clean or real input, where weights were chosen by that
    degradation: Degradation | None = None  # the estimate, where it was made
    denoise: float | None = None  # share of weights for real input, where there are two to mix
    faces: tuple[Face, ...] | None = None  # drawn by weights for faces; None: not looked for

    @property
    def tile(self) -> int:
        """Side of the last stage's windows; 0: the whole picture at once."""
        return self.stages[-1].tile

    @property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """The last stage's."""
        return self.stages[-1].blocks

    def end(self, index: int) -> tuple[int, int]:
        """What a stage's result is resized to: what the next one enlarges, or the output, which is
        extended as the input is."""
        if index + 1 < len(self.stages):
            return self.stages[index + 1].size_in
        sides = zip(self.size_out, self.size_in, self.stages[0].size_in, strict=True)
        return tuple(large * extended // small for large, small, extended in sides)

    @property
    def weights(self) -> str | None:
        """The name of the weights."""
        return self.entry.name if self.entry else None


def output_size(
    size: tuple[int, int],
    scale: float | None = None,
    exact: tuple[int, int] | None = None,
    max_side: int | None = None,
) -> tuple[int, int]:
    """(height, width) of the output: exactly `exact`, or round(scale * side), or the longer side
    made `max_side`. Raises UsageError for more than one of them, or a scale outside SCALES."""
    if sum(x is not None for x in (scale, exact, max_side)) > 1:
        raise UsageError("give only one of --scale, --size and --max-side")
    least, most = SCALES
    if exact is not None:
        target = exact
    else:
        if max_side is not None:
            scale = max_side / max(size)
        factor = SCALE if scale is None else scale
        if not (math.isfinite(factor) and least <= factor <= most):
            raise UsageError(f"a scale of {factor:g} is outside {least} to {most}")
        # half up, not to even: 1.5 x 3 is 5 as anyone would expect
        target = tuple(max(1, math.floor(side * factor + 0.5)) for side in size)
    if min(target) < 1:
        raise UsageError(f"an output of {target[1]}x{target[0]} has no pixels")
    for new, old in zip(target, size, strict=True):
        if not old <= new <= max(most * old, most):
            raise UsageError(
                f"{size[1]}x{size[0]} to {target[1]}x{target[0]} is not an enlargement "
                f"by {least} to {most} on both sides"
            )
    return target


def stages(
    size_in: tuple[int, int],
    target: tuple[int, int],
    factor: float,
    steps: int,
    entry: Entry,
    *,
    continuous: bool = False,
    one_stage: bool = False,
    given: bool = False,
) -> tuple[tuple[Stage, ...], list[str]]:
    """How to reach `target`: at once, by a cascade (SR3 section 4.7: more steps at the low
    resolution, fewer at the high one), or at the weights' own scale and then a resize.

    continuous: the method is made for every magnification, and goes past its weights' own at once;
    one_stage: so do all. given: the steps are the user's; else what is shrunk to half of its sides
    or less is drawn in half as many: a little nearer by PSNR, a little further by LPIPS
    (docs/results.md, "Half the steps").

    A stage may start from another size than the one before ended at: a resize lies between them.
    The first may start from a size that is a little larger than the input, and the output then has
    as much more (SURPLUS).
    """
    past, known = entry.stages_past, f"{entry.name}'s x{max(entry.scales, default=0):g}"
    if past is not None and factor > past and not one_stage:
        entry, continuous = replace(entry, scales=(SCALE,), any_scale=False), False
        known = f"the x{SCALE:g} that {entry.name} does best"
    if entry.covers(factor) or not entry.scales:
        return (Stage(size_in, target, steps),), []
    largest = max(entry.scales)
    if one_stage or (continuous and factor > largest):
        note = f"x{factor:.3g} is not what {entry.name} was trained for ({entry.scales_text()})"
        return (Stage(size_in, target, steps),), [note]
    # (a part of a face is no face, and weights for 1x enlarge nothing)
    if factor > largest and (entry.any_scale or (largest > 1 and entry.domain == "photo")):
        if entry.any_scale:
            root = math.sqrt(factor)  # whole, where it can be: blocks need grids that meet
            root = math.ceil(root) if math.ceil(root) <= largest else root
            between, last = output_size(size_in, root), target
            middle = between
        else:
            own = math.ceil(largest)
            sides = [_extended(*pair, own) for pair in zip(size_in, target, strict=True)]
            size_in, middle = ((down, across) for down, across in zip(*sides, strict=True))
            between, last = output_size(size_in, largest), (middle[0] * own, middle[1] * own)
        note = f"x{factor:.3g} is past {known}: two stages"
        later = max(1, round(steps / 2))
        return (Stage(size_in, between, steps), Stage(middle, last, later)), [note]
    nearest = min(entry.scales, key=lambda own: abs(math.log(own / factor)))
    note = f"no {entry.method} weights at x{factor:.3g}: {entry.name} at x{nearest:g}, then resized"
    notes = [] if entry.serves(factor) else [note]
    if nearest >= 2 * factor and not given:
        steps = max(1, steps // 2)
    return (Stage(size_in, output_size(size_in, nearest), steps),), notes


def _extended(small: int, large: int, own: int) -> tuple[int, int]:
    """The side that a cascade enlarges instead of `small`, to `large` and a surplus; and the side
    between its stages, of which the second enlarges by `own`."""
    factor = Fraction(large, small * own)
    side = -(-small // factor.denominator) * factor.denominator
    if side - small > small * SURPLUS:
        return small, math.ceil(Fraction(large, own))
    return side, int(side * factor)


def warmed(stage: Stage, law: Method, sampler: str, request: Request) -> Stage:
    """The stage with its temperature, and the levels that were searched for its steps, if they were
    and the user names no spacing."""
    schedule = law.tuned(sampler, stage.steps) if request.spacing is None else None
    # a weights file's temperature was chosen for samplers that add no noise of their own
    own = 1.0 if SAMPLERS[sampler].stochastic else law.temperature
    if schedule is not None:
        own = schedule.temperature
    return replace(
        stage,
        temperature=own if request.temperature is None else request.temperature,
        levels=schedule.sigmas if schedule else (),
    )


# --- memory ---------------------------------------------------------------------------------------


def windows_of(size: tuple[int, int], side: int, overlap: int, align: int) -> list[Box]:
    """Windows that overlap by at most half, so that smaller tiles than planned still fit."""
    return windows(size, side, min(overlap, side // 2), align)


def parts_of(size: tuple[int, int], side: int, net: torch.nn.Module) -> list[tuple[Box, Box]]:
    """The tiles of a network with a halo, each with the window that it is computed in."""
    return cores(size, side, -(-net.halo // net.align) * net.align, net.align)


def tile_side(
    size: tuple[int, int], tile: str | int, net: torch.nn.Module, device: torch.device
) -> tuple[int, bool]:
    """Side of the square tiles for an output, 0 where it is done at once; and whether it is less
    than it would be if more memory were free. A network's halo comes around each."""
    if tile != "auto":
        side = int(tile)
        return 0 if side == 0 or side >= max(size) else side // net.align * net.align, False
    around = 2 * (net.halo or 0)
    free = max(0, available_memory(device) // 2 - size[0] * size[1] * STATE_BYTES)

    def side_for(memory: int) -> int:
        if size[0] * size[1] * net.bytes_per_pixel <= memory:
            return 0
        side = min(math.isqrt(memory // net.bytes_per_pixel) - around, LARGEST_TILE)
        side = max(SMALLEST_TILE * 2, side) // net.align * net.align
        return 0 if side >= max(size) else side

    side, fitting = side_for(WHOLE_BYTES), side_for(min(free, WHOLE_BYTES))
    return fitting, fitting != side


def fitted(plan: Plan, net: torch.nn.Module | None, device: torch.device) -> Plan:
    """The plan with its blocks, tiles and bytes. net: None for a mere resize."""
    state = STATE_BYTES if net else RESIZE_BYTES
    notes, found, sides, tiles, memory = plan.notes, [], [], 1, 0
    for index, stage in enumerate(plan.stages):
        stage = replace(stage, blocks=_blocks(plan, index, net, state, device))
        few = math.prod(stage.size_out) <= _whole_pixels(net, device)
        if stage.blocks and few and _SHORT not in notes:
            notes = (*notes, _SHORT)
        parts = stage.parts
        size = max(box.height for box in parts), max(box.width for box in parts)
        bytes_here = size[0] * size[1] * state
        if net is not None:
            side, less = tile_side(size, plan.request.tile, net, device)
            sides += [side] if less else []
            boxes = _windows(size, side, plan.request.overlap, net)
            tiles = len(boxes) * len(parts)
            bytes_here += max(box.height * box.width for box in boxes) * net.bytes_per_pixel
            stage = replace(stage, tile=side)
        memory = max(memory, bytes_here)
        found.append(stage)
    if sides:
        notes = (*notes, f"little memory is free: done in tiles of {min(sides)}")
    plan = replace(plan, notes=notes, stages=tuple(found), tiles=tiles)
    return replace(plan, memory=memory + _rows_bytes(plan))


def _windows(size: tuple[int, int], side: int, overlap: int, net: torch.nn.Module) -> list[Box]:
    """What the network is called with at once, of a part of this size."""
    if not side:
        return [Box(0, 0, *size)]
    if net.halo is None:
        return windows_of(size, side, overlap, net.align)
    return [window for _, window in parts_of(size, side, net)]


def _rows_bytes(plan: Plan) -> int:
    """Beside the block in work: the input, the rows that are ready between stages, and those of
    the output."""
    if not plan.blocks:
        return 0
    total = plan.size_in[0] * plan.size_in[1] * 24
    for index, stage in enumerate(plan.stages):
        height, width = plan.end(index)
        ready = max((row[0].core.height for row in stage.blocks), default=height)
        if index + 1 < len(plan.stages):
            below = (row[0].source.height for row in plan.stages[index + 1].blocks)
            ready = min(height, ready + max(below, default=height))
        total += ready * width * 12
    return total


def _whole_pixels(net: torch.nn.Module | None, device: torch.device) -> int:
    """Pixels of the largest output that is made at once where there is memory."""
    pixels = FROM_PIXELS_CUDA if device.type == "cuda" else FROM_PIXELS
    return pixels // net.dense if net else pixels


def _blocks(
    plan: Plan, index: int, net: torch.nn.Module | None, state: int, device: torch.device
) -> tuple[tuple[Block, ...], ...]:
    """A stage's rows of blocks, or none: for small pictures, and networks that look at all of the
    picture."""
    size_in, stage = plan.stages[index].size_in, plan.stages[index].size_out
    pixels = stage[0] * stage[1]
    large = pixels > _whole_pixels(net, device) or pixels * state > available_memory(device) // 2
    if SAMPLERS[plan.sampler].adaptive:  # it would choose other steps for every block
        return ()
    if plan.request.tile == 0 or not large or (net and net.halo is None):
        return ()
    if net is None:
        side = math.isqrt(RESIZED_BYTES // state)
        return blocks_of(size_in, plan.end(index), 1, side, stage)
    side = math.isqrt(PART_BYTES // (state + net.bytes_per_pixel))
    last = index + 1 == len(plan.stages)
    halo, below = max(HALO, net.halo), plan.stages[0].size_in if last else size_in
    halo, seen = halo + (0 if last else AHEAD), net.lr_margin
    return blocks_of(size_in, plan.end(index), net.align, side, stage, halo, seen, below)
