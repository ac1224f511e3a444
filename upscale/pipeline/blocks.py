"""A large picture block by block: so much memory, whatever its size.

Every block is enlarged on its own from a part of the input that is larger by a halo, with the noise
that belongs to its place, and only its core is kept. Networks that are local give there what the
whole picture would give, up to what still comes from beyond the halo (docs/performance.md).

Each stage of a cascade has blocks of its own: those of the first make rows of its result, and the
second takes its blocks' surroundings from these rows (`bands`).
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
SETTLED = 12  # of the picture's input: those three at the end, which come after all stages
AHEAD = 40  # more of the output around what a further stage enlarges, which magnifies differences
RESIZED = 2  # pixels of the output around that a bicubic resize to it reads
UNIT = 256  # pixels of the input: blocks start on no coarser grid than this


@dataclass(frozen=True)
class Block:
    """source: of what the stage enlarges. made: what that becomes, and core: what is kept of it.
    under: what of the picture's input lies below `made`, and below: what lies below `core`."""

    source: Box
    made: Box
    core: Box
    under: Box
    below: Box

    @property
    def inside(self) -> tuple[slice, slice]:
        """The core's rows and columns in what is made."""
        return self.core.within(self.made)

    @property
    def inside_under(self) -> tuple[slice, slice]:
        """`below`'s rows and columns in `under`."""
        return self.below.within(self.under)


def whole(size_in: tuple[int, int], size_out: tuple[int, int], input: tuple[int, int]) -> Block:
    """The one block that is all."""
    source, made, under = Box(0, 0, *size_in), Box(0, 0, *size_out), Box(0, 0, *input)
    return Block(source, made, made, under, under)


def blocks_of(
    size_in: tuple[int, int],
    size_out: tuple[int, int],
    align: int,
    side: int,
    stage: tuple[int, int] | None = None,
    halo: int = HALO,
    seen: int = 0,
    input: tuple[int, int] | None = None,
) -> tuple[tuple[Block, ...], ...]:
    """Rows of blocks, from the top, whose cores are all of the output.

    stage: the size at which the network draws, where its result is then resized to the output.
    There a block with its halo is about `side` wide and high, and starts at a multiple of `align`.
    All grids agree where a block starts. halo: the network's. seen: pixels of what it enlarges
    around that its layers at that size see. input: the size of the picture's input, where that is
    not what this stage enlarges. Empty where there is no such grid, as for an odd --size.
    """
    lengths = zip(size_in, size_out, stage or size_out, input or size_in, strict=True)
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
    small: int, large: int, drawn: int, input: int, align: int, side: int, halo: int, halo_in: int
) -> list[tuple[range, ...]]:
    """Along one axis: source, made, core, under, below of each block; empty where no grids meet.
    drawn: its length as the network draws it."""
    factor, own, first = (Fraction(length, small) for length in (large, drawn, input))
    # pixels after which all grids meet again
    unit = own.denominator * (align // math.gcd(own.numerator, align))
    unit = math.lcm(unit, factor.denominator, first.denominator)
    if drawn <= side:
        return [(range(small), range(large), range(large), range(input), range(input))]
    if unit > UNIT:
        return []
    resized = math.ceil(RESIZED / factor) if drawn != large else 0
    halo = max(halo_in, halo / own, SETTLED / first) + resized
    halo = -(-halo // unit) * unit
    room = max(side // own - 2 * halo, unit)
    count = -(-small // room)
    step = math.ceil(Fraction(small, count * unit)) * unit
    found = []
    for start in range(0, small, step):
        end = min(start + step, small)
        source, core = range(max(0, start - halo), min(small, end + halo)), range(start, end)
        places = (source, factor), (core, factor), (source, first), (core, first)
        found.append((source, *(_enlarged(*place) for place in places)))
    return found


def _enlarged(span: range, factor: Fraction) -> range:
    return range(int(span.start * factor), int(span.stop * factor))


def _box(down: range, across: range) -> Box:
    return Box(down.start, across.start, len(down), len(across))
