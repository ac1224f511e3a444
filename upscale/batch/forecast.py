"""How long pictures will take: by the time that a small part of one takes on this machine, and by
the pixels of those that are done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from upscale.batch import remote
from upscale.batch.names import Item
from upscale.batch.workers import Workers
from upscale.diffusion.table import SAMPLERS
from upscale.document import duration
from upscale.errors import DiffsrError
from upscale.pipeline.request import SCALES

if TYPE_CHECKING:
    from upscale.image.picture import Picture
    from upscale.pipeline.plan import Plan
    from upscale.pipeline.upscaler import Upscaler

PART = 48  # pixels of the input, a side: a tenth of a second, and most of it is the network's
LOOKED_AT = 500  # headers that are read: more would delay the work that they are to foretell
_LOOKING = 1.0  # seconds that this may take in all


class Forecast:
    """Seconds that a plan will take. Each network is timed once, with its own steps."""

    def __init__(self) -> None:
        self._rates: dict[tuple[Any, ...], float | None] = {}  # seconds per pixel and call

    def seconds(self, upscaler: Upscaler, plan: Plan, picture: Picture) -> float | None:
        """None where the part itself cannot be enlarged."""
        key = (plan.weights, plan.sampler, len(plan.stages))
        if key not in self._rates:
            self._rates[key] = _timed(upscaler, plan, picture)
        rate = self._rates[key]
        return None if rate is None else round(rate * _work(plan), 2)


def _work(plan: Plan) -> float:
    """Pixels times network calls; what blocks compute beyond their cores counts."""
    calls = SAMPLERS[plan.sampler].calls
    return sum(box.height * box.width * max(1, calls(stage.steps))
               for stage in plan.stages for box in stage.parts)  # fmt: skip


def _timed(upscaler: Upscaler, plan: Plan, picture: Picture) -> float | None:
    height, width = (min(PART, side) for side in picture.size)
    part = replace(picture, rgb=picture.rgb[:height, :width], alpha=None)
    wish = plan.request
    if wish.scale is None:  # of an exact size, a part has the same magnification
        wish = replace(
            wish, size=None, max_side=None, scale=min(max(plan.scale, SCALES[0]), SCALES[1])
        )
    with suppress(DiffsrError, RuntimeError):
        small = upscaler.plan(part, wish)
        for _ in range(2):  # the first one pays for what is made once
            begun = time.perf_counter()
            upscaler.run(small, part, on_step=lambda done, of: None)
        return (time.perf_counter() - begun) / _work(small)
    return None


def sizes_of(items: Iterable[Item]) -> dict[str, int]:
    """Name -> pixels, of some local files, evenly spread over all: of those that are read in time,
    for a file or a drive that hangs must not hold the batch."""
    from upscale.image.decode import size_of

    found, items, until = {}, list(items), time.monotonic() + _LOOKING

    def look() -> None:
        for item in items[:: max(1, len(items) // LOOKED_AT)]:
            if time.monotonic() > until:
                return
            source = item.source
            with suppress(DiffsrError):
                if source.data is None and not remote.is_url(source.name):
                    found[source.name] = math.prod(size_of(source.name))

    worker = Workers(1, "diffsr-look")
    looking = worker.submit(look)
    worker.end()
    with suppress(TimeoutError):
        looking.result(_LOOKING)
    return dict(found)


class Remaining:
    """The time that is left of `count` pictures, from the first that is done on. sizes: pixels of
    some of them by name; the others are taken for as large as these on the mean."""

    def __init__(
        self, count: int, sizes: Mapping[str, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sizes, self.clock = sizes, clock
        self.mean = sum(sizes.values()) / len(sizes) if sizes else 1.0
        self.left = sum(sizes.values()) + self.mean * (count - len(sizes))
        self.worked, self.begun = 0.0, 0.0

    def after(self, name: str, seconds: float | None) -> str:
        """In words, once a picture is over that took so many seconds; None: it was not made."""
        pixels = self.sizes.get(name, self.mean)
        self.left -= pixels
        if seconds is not None:
            self.begun = self.begun or self.clock() - seconds
            self.worked += pixels
        if not self.worked or self.left < 0.5:
            return ""
        return f"about {duration(self.left * (self.clock() - self.begun) / self.worked)} left"
