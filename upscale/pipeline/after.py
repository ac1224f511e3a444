"""The stages after the first network of `generate`: which weights, what sizes, how many steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from upscale.diffusion.samplers import ADAPTIVE
from upscale.errors import UsageError
from upscale.image.picture import Picture
from upscale.pipeline.upscaler import Upscaler
from upscale.weights import store

CASCADE = {"face": ("sr3-face-64-256",)}  # by domain, where these are listed
STEP = 4.0  # magnification of a stage
MOST = 16.0  # of all, as SR3's 64 -> 1024


@dataclass(frozen=True)
class Level:
    """A stage of the cascade: an upscaler, the size that it makes, and its steps (None: its sampler
    chooses them)."""

    upscaler: Upscaler
    name: str
    size: tuple[int, int]
    steps: int | None


def cascade(
    base: tuple[int, int],
    side: int | None,
    first: int,
    domain: str,
    names: Sequence[str],
    counts: Sequence[int],
    common: dict[str, Any],
) -> list[Level]:
    """The stages from `base`, which took `first` steps, to a size whose longer side is `side`.

    names: weights of each stage, the last for all that follow; without them `CASCADE`'s where they
    are listed, else those that `diffsr upscale` takes for the domain. counts: steps of each stage;
    the others take the weights' own, but at most half as many as the stage before (SR3 section 4.7:
    more at the low resolution, fewer at the high one). common: arguments of `Upscaler`.
    Raises UsageError, WeightsError.
    """
    stages, here, found = sizes(base, side), base, []
    for given, flag in ((names, "--upscale-weights"), (counts, "--upscale-steps")):
        if len(given) > len(stages):
            raise UsageError(f"{flag} is given for {len(given)} stages, and there are "
                             f"{len(stages)}: see --size")  # fmt: skip
    for index, size in enumerate(stages):
        scale = math.sqrt(size[0] * size[1] / (here[0] * here[1]))
        name = names[min(index, len(names) - 1)] if names else _usual(domain, scale)
        upscaler = Upscaler(weights=name, domain=domain, input="clean", **common)
        law, steps = upscaler.law_at(scale), counts[index] if index < len(counts) else None
        if law.sampler not in ADAPTIVE:
            first = steps = steps or max(1, min(law.steps, first // 2))
        found.append(Level(upscaler, upscaler.models.entry(scale).name, size, steps))
        here = size
    return found


def _usual(domain: str, scale: float) -> str | None:
    """Weights that were made for just this, if there are some."""
    listed = store.entries()
    able = (n for n in CASCADE.get(domain, ()) if n in listed and listed[n].covers(scale))
    return next(able, None)


def sizes(base: tuple[int, int], side: int | None) -> list[tuple[int, int]]:
    """What each stage makes: steps of 4 while they fit, then the rest. UsageError."""
    longest = max(base)
    if side is None or side == longest:
        return []
    if not longest <= side <= MOST * longest:
        raise UsageError(f"--size {side}: these weights make {base[1]}x{base[0]}, and the cascade "
                         f"goes up to {round(MOST * longest)}")  # fmt: skip
    factors = [STEP] if side / longest > STEP else []
    return [tuple(round(one * factor) for one in base) for factor in (*factors, side / longest)]


def enlarged(
    level: Level, picture: Picture, seed: int, on_step: Callable[[int, int], None]
) -> tuple[Picture, dict[str, Any]]:
    """A stage's picture, and its account. The noise depends on the picture too, as in upscale."""
    result = level.upscaler(picture, size=level.size, steps=level.steps, seed=seed, on_step=on_step)
    told = ("weights", "weights_sha256", "sampler", "steps", "nfe", "spacing", "temperature")
    account = {key: result.report.get(key) for key in told}
    return result.picture, {"size": list(level.size), **account}
