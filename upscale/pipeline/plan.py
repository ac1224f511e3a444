"""What will be done for a picture, decided before any pixel is touched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upscale.errors import UsageError
from upscale.weights.registry import Entry

if TYPE_CHECKING:
    from upscale.image.estimate import Degradation
    from upscale.pipeline.blocks import Block

SCALES = (1.0, 16.0)


@dataclass(frozen=True)
class Stage:
    """One run of a network: from a size to a size, in so many steps."""

    size_in: tuple[int, int]
    size_out: tuple[int, int]
    steps: int


@dataclass(frozen=True)
class Plan:
    """What will be done for a picture, before any pixel is touched."""

    size_in: tuple[int, int]
    size_out: tuple[int, int]
    scale: float
    stages: tuple[Stage, ...]
    sampler: str
    nfe: int
    tile: int  # 0: the whole picture at once
    tiles: int  # windows of the last stage
    memory: int  # bytes, an estimate
    notes: tuple[str, ...]
    blocks: tuple[tuple[Block, ...], ...] = ()  # rows of them, where it is not done as one
    weights: str | None = None  # their name
    taken_for: str | None = None  # clean or real input, where weights were chosen by that
    degradation: Degradation | None = None  # the estimate, where it was made


def output_size(
    size: tuple[int, int],
    scale: float | None = None,
    exact: tuple[int, int] | None = None,
    max_side: int | None = None,
) -> tuple[int, int]:
    """(height, width) of the output: exactly `exact`, or round(scale * side), or the longer side
    made `max_side`. Raises UsageError for more than one of them, or a scale outside 1 to 16."""
    if sum(x is not None for x in (scale, exact, max_side)) > 1:
        raise UsageError("give only one of --scale, --size and --max-side")
    if exact is not None:
        target = exact
    else:
        if max_side is not None:
            scale = max_side / max(size)
        factor = 4.0 if scale is None else scale
        if not (math.isfinite(factor) and SCALES[0] <= factor <= SCALES[1]):
            raise UsageError(f"a scale of {factor:g} is outside 1 to 16")
        # half up, not to even: 1.5 x 3 is 5 as anyone would expect
        target = tuple(max(1, math.floor(side * factor + 0.5)) for side in size)
    if min(target) < 1:
        raise UsageError(f"an output of {target[1]}x{target[0]} has no pixels")
    for new, old in zip(target, size, strict=True):
        if not old <= new <= max(16 * old, 16):
            raise UsageError(
                f"{size[1]}x{size[0]} to {target[1]}x{target[0]} is not an enlargement "
                "by 1 to 16 on both sides"
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
) -> tuple[tuple[Stage, ...], list[str]]:
    """How to reach `target`: at once, by a cascade (SR3 section 4.7: more steps at the low
    resolution, fewer at the high one), or at the weights' own scale and then a resize.

    continuous: the method is made for every magnification, and goes past its weights' own at once;
    one_stage: so do all.

    A stage may start from another size than the one before ended at: a resize lies between them.
    """
    if entry.covers(factor) or not entry.scales:
        return (Stage(size_in, target, steps),), []
    largest = max(entry.scales)
    if one_stage or (continuous and factor > largest):
        note = f"x{factor:.3g} is not what {entry.name} was trained for ({entry.scales_text()})"
        return (Stage(size_in, target, steps),), [note]
    if factor > largest and entry.any_scale:
        middle = output_size(size_in, math.sqrt(factor))
        note = f"x{factor:.3g} is past {entry.name}'s x{largest:g}: two stages"
        later = max(1, round(steps / 2))
        return (Stage(size_in, middle, steps), Stage(middle, target, later)), [note]
    if factor > largest and entry.domain == "photo":  # (a part of a face is no face)
        own = math.ceil(largest)
        middle = tuple(-(-side // own) for side in target)
        last = (middle[0] * own, middle[1] * own)
        note = f"x{factor:.3g} is past {entry.name}'s x{largest:g}: two stages"
        later = max(1, round(steps / 2))
        first = Stage(size_in, output_size(size_in, largest), steps)
        return (first, Stage(middle, last, later)), [note]
    nearest = min(entry.scales, key=lambda own: abs(math.log(own / factor)))
    note = f"no {entry.method} weights at x{factor:.3g}: {entry.name} at x{nearest:g}, then resized"
    notes = [] if entry.serves(factor) else [note]
    return (Stage(size_in, output_size(size_in, nearest), steps),), notes
