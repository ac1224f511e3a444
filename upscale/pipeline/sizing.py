"""How a picture is cut so that it fits into memory."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from upscale.diffusion.samplers import ADAPTIVE
from upscale.diffusion.tiling import Box, windows
from upscale.errors import UsageError
from upscale.machine import available_memory
from upscale.pipeline.blocks import FROM_PIXELS, FROM_PIXELS_CUDA, PART_BYTES, blocks_of, drawn
from upscale.pipeline.plan import Plan

SMALLEST_TILE = 128
STATE_BYTES = 120  # per output pixel: state, noise, estimate, enlarged input, accumulator
RESIZE_BYTES = 48  # the same where there is no network


def windows_of(size: tuple[int, int], side: int, overlap: int, align: int) -> list[Box]:
    """Windows that overlap by at most half, so that smaller tiles than planned still fit."""
    return windows(size, side, min(overlap, side // 2), align)


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


def with_memory(
    plan: Plan, net: torch.nn.Module | None, tile: str | int, overlap: int, device: torch.device
) -> Plan:
    """The plan with its blocks, tiles and bytes. Raises UsageError for tiles that are too small."""
    size, known = plan.stages[-1].size_out, 0
    state = STATE_BYTES if net else RESIZE_BYTES
    blocks = _blocks(plan, net, tile, state, device)
    if blocks:
        stage = plan.stages[0].size_out
        parts = [drawn(b.source, plan.size_in, stage) for row in blocks for b in row]
        size = max(box.height for box in parts), max(box.width for box in parts)
        # the input, the rows that are ready, as floats and as they are written
        rows = max(row[0].core.height for row in blocks) * plan.size_out[1]
        known = plan.size_in[0] * plan.size_in[1] * 24 + rows * 18
    pixels = size[0] * size[1]
    if net is None:
        return replace(plan, memory=known + pixels * state, blocks=blocks)
    side = tile_side(size, tile, net, device)
    boxes = windows_of(size, side, overlap, net.align) if side else [None]
    area = min(pixels, side * side) if side else pixels
    memory = known + pixels * state + area * net.bytes_per_pixel
    tiles = len(boxes) * (sum(map(len, blocks)) or 1)
    return replace(plan, tile=side, tiles=tiles, memory=memory, blocks=blocks)


def _blocks(
    plan: Plan, net: torch.nn.Module | None, tile: str | int, state: int, device: torch.device
) -> tuple:
    """Rows of blocks, or none: for small pictures, several stages, and networks that look at all of
    the picture."""
    stage = plan.stages[0].size_out
    pixels = stage[0] * stage[1]
    most = FROM_PIXELS_CUDA if device.type == "cuda" else FROM_PIXELS
    large = pixels > most or pixels * state > available_memory(device) // 2
    if plan.sampler in ADAPTIVE:  # it would choose other steps for every block
        return ()
    if tile == 0 or not large or len(plan.stages) > 1 or (net and not net.local):
        return ()
    align, needed = (net.align, net.bytes_per_pixel) if net else (1, 0)
    side = math.isqrt(PART_BYTES // (state + needed))
    return blocks_of(plan.size_in, plan.size_out, align, side, stage)
