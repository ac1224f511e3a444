"""Unit noise that belongs to places of a picture, so that any part of it can be drawn alone."""

from __future__ import annotations

from operator import index

import torch
from torch import Tensor

BLOCK = 256  # pixels a side; each block has its own seed and is always drawn whole


def noise_at(seed: tuple[int, ...], origin: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Unit noise (1,3,*size) for the part of a picture that begins at `origin`, on the CPU.

    origin: (top, left). The same seed gives the same noise at the same place, whatever the part.
    """
    (top, left), (height, width) = origin, size
    field = torch.empty((1, 3, height, width))
    generator = torch.Generator()
    for row in range(top // BLOCK, -(-(top + height) // BLOCK)):
        y, rows = _shared(row, top, height)
        for column in range(left // BLOCK, -(-(left + width) // BLOCK)):
            x, columns = _shared(column, left, width)
            generator.manual_seed(mix(*seed, row, column))
            block = torch.randn((1, 3, BLOCK, BLOCK), generator=generator)
            field[..., y, x] = block[..., rows, columns]
    return field


def _shared(index: int, start: int, length: int) -> tuple[slice, slice]:
    """Along one axis: the pixels of the part that block `index` covers, and those of the block."""
    first, last = max(index * BLOCK, start), min((index + 1) * BLOCK, start + length)
    return slice(first - start, last - start), slice(first - index * BLOCK, last - index * BLOCK)


def mix(*parts: int) -> int:
    """A 63-bit seed from numbers (splitmix64's finaliser over a running sum)."""
    state = 0x9E3779B97F4A7C15
    for part in map(index, parts):  # numpy's would overflow
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        state = (state ^ (state >> 29)) * 0x94D049BB133111EB % (1 << 64)
        state ^= state >> 32
    return state >> 1
