"""A large picture block by block: so much memory, whatever its size.

Every block is enlarged on its own from a part of the input that is larger by a halo, with the noise
that belongs to its place, and only its core is kept. Networks that are local give there what the
whole picture would give, up to what still comes from beyond the halo (docs/performance.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from upscale.diffusion.tiling import Box

# Of the output: larger ones are done in blocks. On a CPU early, for activations of a whole picture
# cost more in pages than the halos do in arithmetic.
FROM_PIXELS = 6_000_000
FROM_PIXELS_CUDA = 24_000_000
PART_BYTES = 2_000_000_000  # what a block may take with its halo
RESIZED_BYTES = 64_000_000  # the same of a mere resize, whose halo is small
HALO = 96  # pixels of the output around a block, where no network says more
# Of the input. A projection reads 4 pixels around (down and up, 2 each), and there is one per step
# and three at the end; past the first their influence is hundredths of the last one's.
HALO_IN = 24
RESIZED = 2  # pixels of the output around that a bicubic resize to it reads
UNIT = 256  # pixels of the input: blocks start on no coarser grid than this


@dataclass(frozen=True)
class Block:
    """source: of the input. made: what that becomes. core: what of the output is kept of it, and
    below: what of the input lies there."""

    source: Box
    made: Box
    core: Box
    below: Box

    @property
    def inside(self) -> tuple[slice, slice]:
        """The core's rows and columns in what is made."""
        return self.core.within(self.made)

    @property
    def inside_source(self) -> tuple[slice, slice]:
        """`below`'s rows and columns in the source."""
        return self.below.within(self.source)


def whole(size_in: tuple[int, int], size_out: tuple[int, int]) -> Block:
    """The one block that is all."""
    source, made = Box(0, 0, *size_in), Box(0, 0, *size_out)
    return Block(source, made, made, source)


def blocks_of(
    size_in: tuple[int, int],
    size_out: tuple[int, int],
    align: int,
    side: int,
    stage: tuple[int, int] | None = None,
    halo: int = HALO,
    seen: int = 0,
) -> tuple[tuple[Block, ...], ...]:
    """Rows of blocks, from the top, whose cores are all of the output.

    stage: the size at which the network draws, where its result is then resized to the output.
    There a block with its halo is about `side` wide and high, and starts at a multiple of `align`.
    All grids agree where a block starts. halo: the network's. seen: pixels of the input around
    that its layers at that size see. Empty where there is no such grid, as for an odd --size.
    """
    lengths = zip(size_in, size_out, stage or size_out, strict=True)
    axes = [_cuts(*along, align, side, halo, max(HALO_IN, seen)) for along in lengths]
    return tuple(
        tuple(Block(*map(_box, down, across)) for across in axes[1]) for down in axes[0] if axes[1]
    )


def drawn(source: Box, size_in: tuple[int, int], stage: tuple[int, int]) -> Box:
    """Where a network that draws all of the input at size `stage` draws a block's source. Whole
    numbers, for a block starts where all grids meet."""
    down, across = (Fraction(*lengths) for lengths in zip(stage, size_in, strict=True))
    top, height = int(source.top * down), int(source.height * down)
    return Box(top, int(source.left * across), height, int(source.width * across))


def _cuts(
    small: int, large: int, drawn: int, align: int, side: int, halo: int, halo_in: int
) -> list[tuple[range, ...]]:
    """Along one axis: source, made, core, below of each block; empty where no grids meet.
    drawn: its length as the network draws it."""
    factor, own = Fraction(large, small), Fraction(drawn, small)
    # input pixels after which all grids meet again
    unit = own.denominator * (align // math.gcd(own.numerator, align))
    unit = math.lcm(unit, factor.denominator)
    if drawn <= side:
        return [(range(small), range(large), range(large), range(small))]
    if unit > UNIT:
        return []
    halo = max(halo_in, halo / own) + (math.ceil(RESIZED / factor) if drawn != large else 0)
    halo = -(-halo // unit) * unit
    room = max(side // own - 2 * halo, unit)
    count = -(-small // room)
    step = math.ceil(Fraction(small, count * unit)) * unit
    found = []
    for start in range(0, small, step):
        end = min(start + step, small)
        source, below = range(max(0, start - halo), min(small, end + halo)), range(start, end)
        found.append((source, _enlarged(source, factor), _enlarged(below, factor), below))
    return found


def _enlarged(span: range, factor: Fraction) -> range:
    return range(int(span.start * factor), int(span.stop * factor))


def _box(down: range, across: range) -> Box:
    return Box(down.start, across.start, len(down), len(across))
