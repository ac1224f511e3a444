"""Means over pictures with their intervals, and differences of two runs, by the bootstrap."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)  # percentiles
_NORMAL = 1.959964  # the normal distribution's 97.5% point


@dataclass(frozen=True)
class Mean:
    """A mean over pictures with its 95% bootstrap interval (nan for a single picture)."""

    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return printed(self.value, digits)
        value, low, high = (printed(n, digits) for n in (self.value, self.low, self.high))
        return f"{value} ({low}..{high})"

    @property
    def sure(self) -> bool:
        """Whether the interval leaves 0 out; of a difference: it is significant at 5%."""
        return math.isfinite(self.low) and (self.low > 0 or self.high < 0)


def printed(value: float, digits: int) -> str:
    """A number of a table; none is "-0.00"."""
    return "-" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def mean_of(values: Sequence[float | None]) -> Mean:
    """Over the pictures that have the value."""
    known = np.array([v for v in values if v is not None and not math.isnan(v)])
    if not len(known):
        return Mean(math.nan, math.nan, math.nan)
    value = float(known.mean())
    if len(known) == 1 or not math.isfinite(value):
        return Mean(value, math.nan, math.nan)
    return Mean(value, *(float(end) for end in interval(known)))


def interval(values: np.ndarray) -> np.ndarray:
    """(..., n) -> the 95% interval's (low, high) of each mean over n: bootstrap by percentiles,
    Efron 1979, its ends moved away from the mean as far as `_widening` says."""
    count = values.shape[-1]
    draws = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    ends = np.percentile(values[..., draws].mean(axis=-1), _INTERVAL, axis=-1)
    mean = values.mean(axis=-1)
    return mean + (ends - mean) * _widening(count)


def paired(
    before: Sequence[float | None], after: Sequence[float | None]
) -> tuple[list[float], list[float]]:
    """The values of the pictures that have both as finite numbers."""
    both = [
        (a, b)
        for a, b in zip(before, after, strict=True)
        if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)
    ]
    return [a for a, _ in both], [b for _, b in both]


def difference(before: Sequence[float | None], after: Sequence[float | None]) -> Mean:
    """Mean of after - before over the `paired`, its interval by the paired bootstrap: pictures are
    drawn, and each keeps its two values together."""
    return mean_of([b - a for a, b in zip(*paired(before, after), strict=True)])


@functools.cache
def _widening(count: int) -> float:
    """What the bootstrap's ends lack with few pictures: draws vary by the sample's own variance,
    which divides by n and not by n - 1, and are as good as normal where Student's t is right."""
    return math.sqrt(count / (count - 1)) * _student(count - 1) / _NORMAL


def _student(freedom: int) -> float:
    """The 97.5% point of Student's t: sqrt(freedom) * tan(angle), by halving the angle's range."""
    low, high = 0.0, math.pi / 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) * tan(angle)), Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd, cosine = freedom % 2, math.cos(angle)
    k = np.arange(2 + odd, freedom - 1, 2)
    terms = cosine**odd * (1 + np.cumprod((k - 1) / k * cosine**2).sum()) if freedom > 1 else 0.0
    inside = float(math.sin(angle) * terms)
    return (angle + inside) * 2 / math.pi if odd else inside
