"""Means over pictures with their intervals, and differences of two runs, by the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Mean:
    """A mean over pictures with its 95% bootstrap interval (nan for a single picture)."""

    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        if math.isnan(self.value):
            return "-"
        alone = not (math.isfinite(self.low) and math.isfinite(self.high))
        interval = "" if alone else f" ({self.low:.{digits}f}..{self.high:.{digits}f})"
        return f"{self.value:.{digits}f}{interval}"

    @property
    def sure(self) -> bool:
        """Whether the interval leaves 0 out; of a difference: it is significant at 5%."""
        return math.isfinite(self.low) and (self.low > 0 or self.high < 0)


def mean_of(values: Sequence[float | None]) -> Mean:
    """Over the pictures that have the value: bootstrap by percentiles, Efron 1979."""
    known = np.array([v for v in values if v is not None and not math.isnan(v)])
    if not len(known):
        return Mean(math.nan, math.nan, math.nan)
    value = float(known.mean())
    if len(known) == 1 or not math.isfinite(value):
        return Mean(value, math.nan, math.nan)
    draws = np.random.default_rng(0).integers(0, len(known), (_RESAMPLES, len(known)))
    low, high = np.percentile(known[draws].mean(axis=1), _INTERVAL)
    return Mean(value, float(low), float(high))


def difference(before: Sequence[float | None], after: Sequence[float | None]) -> Mean:
    """Mean of after - before over the pictures that have both, its interval by the paired
    bootstrap: pictures are drawn, and each keeps its two values together."""
    both = [
        b - a
        for a, b in zip(before, after, strict=True)
        if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)
    ]
    return mean_of(both)
