"""Intervals for rates whose answers come in clusters: subjects times pictures.

A subject answers many trials and a picture is judged by many subjects, so answers are not
independent. The variance of a rate is that of a bootstrap over subjects, plus that of one over
pictures, less that of independent answers, which both contain (Cameron, Gelbach and Miller 2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, t

LEVEL = 0.95
Interval = tuple[float, float]


def wilson(chosen: int, n: int) -> Interval:
    """Wilson's score interval for independent answers (1927); 0 to 1 for none."""
    if n == 0:
        return 0.0, 1.0
    found = binomtest(chosen, n).proportion_ci(LEVEL, "wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Answers:
    """One row for each answer. chosen: bool (n,); subject, picture: int (n,), any numbers."""

    chosen: np.ndarray
    subject: np.ndarray
    picture: np.ndarray

    def sums(self, cluster: str) -> tuple[np.ndarray, np.ndarray]:
        """(chosen, n) of each cluster, "subject" or "picture"."""
        _, index = np.unique(getattr(self, cluster), return_inverse=True)
        return np.bincount(index, self.chosen), np.bincount(index)


@dataclass(frozen=True)
class Estimate:
    """A rate, or a difference of two, with what is known of its error.

    interval: over subjects and pictures; by_subjects, by_pictures: bootstrap percentiles over one
    of them; p: of a difference of zero.
    """

    value: float
    interval: Interval
    by_subjects: Interval
    by_pictures: Interval
    p: float | None = None


def rate(answers: Answers, rng: np.random.Generator, draws: int = 2000) -> Estimate:
    """The share of `chosen`. Wilson's interval where all or none are, or the data are one cluster.

    The interval is made on the logit scale, so that it stays within 0 and 1, from t with one degree
    of freedom less than there are clusters.
    """
    n, value = len(answers.chosen), float(answers.chosen.mean())
    boots = {name: _boot(answers, name, rng, draws) for name in ("subject", "picture")}
    single = value * (1 - value) / n
    variance = _two_way(boots, answers, single)
    clusters = _fewest(answers)
    if not 0 < value < 1 or clusters < 2:
        interval = wilson(int(answers.chosen.sum()), n)
    else:
        slope = 1 / (value * (1 - value))
        half = t.ppf((1 + LEVEL) / 2, clusters - 1) * np.sqrt(variance) * slope
        centre = np.log(value / (1 - value))
        low, high = 1 / (1 + np.exp(-(centre + np.array([-half, half]))))
        interval = float(low), float(high)
    return Estimate(value, interval, _percentiles(boots["subject"]), _percentiles(boots["picture"]))


def difference(
    first: Answers, second: Answers, rng: np.random.Generator, draws: int = 2000
) -> Estimate:
    """Rate of `first` less that of `second`; paired: both by the same subjects and pictures.

    Their subjects and pictures have the same numbers, so that a draw takes a subject's answers to
    both.
    """
    value = float(first.chosen.mean() - second.chosen.mean())
    boots, single = {}, 0.0
    for name in ("subject", "picture"):
        everybody = np.unique(np.concatenate([getattr(a, name) for a in (first, second)]))
        weights = _weights(len(everybody), rng, draws)
        columns = [np.searchsorted(everybody, np.unique(getattr(a, name))) for a in (first, second)]
        boots[name] = _weighted(first, name, weights[:, columns[0]]) - _weighted(
            second, name, weights[:, columns[1]]
        )
    for answers in (first, second):
        mean = float(answers.chosen.mean())
        single += mean * (1 - mean) / len(answers.chosen)
    variance = _two_way(boots, first, single)
    clusters = max(2, min(_fewest(first), _fewest(second)))
    error = np.sqrt(variance)
    half = float(t.ppf((1 + LEVEL) / 2, clusters - 1) * error)
    p = float(2 * t.sf(abs(value) / error, clusters - 1)) if error > 0 else float(value == 0)
    interval = max(-1.0, value - half), min(1.0, value + half)
    return Estimate(
        value, interval, _percentiles(boots["subject"]), _percentiles(boots["picture"]), p
    )


def holm(p_values: list[float]) -> list[float]:
    """Adjusted for their number (Holm 1979)."""
    order, adjusted = np.argsort(p_values), np.empty(len(p_values))
    scaled = np.arange(len(order), 0, -1) * np.array(p_values)[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def agreement(answers: Answers) -> tuple[float | None, float | None]:
    """How far subjects agree on a picture: (share of equal pairs, Krippendorff's alpha).

    Pictures are the units and subjects the observers, of whom any may be absent; nominal values.
    Alpha is 1 for agreement, 0 for chance. None where no picture has two answers, or for alpha
    where all are alike.
    """
    chosen, n = answers.sums("picture")
    chosen, n = chosen[n > 1], n[n > 1]
    if not len(n):
        return None, None
    unequal = 2 * chosen * (n - chosen)  # ordered pairs within a picture
    share = 1 - float(unequal.sum() / (n * (n - 1)).sum())
    total, ones = n.sum(), chosen.sum()
    expected = 2 * ones * (total - ones) / (total * (total - 1))
    if expected == 0:
        return share, None
    observed = (unequal / (n - 1)).sum() / total
    return share, float(1 - observed / expected)


def _weights(size: int, rng: np.random.Generator, draws: int) -> np.ndarray:
    """(draws, size): how often each cluster is drawn, with replacement."""
    return rng.multinomial(size, np.full(size, 1 / size), draws)


def _weighted(answers: Answers, cluster: str, weights: np.ndarray) -> np.ndarray:
    """(draws,): the rate of each draw; that of all answers where a draw has none."""
    chosen, n = answers.sums(cluster)
    drawn = weights @ n
    whole = answers.chosen.mean()
    return np.where(drawn > 0, weights @ chosen / np.maximum(drawn, 1), whole)


def _boot(answers: Answers, cluster: str, rng: np.random.Generator, draws: int) -> np.ndarray:
    size = len(np.unique(getattr(answers, cluster)))
    return _weighted(answers, cluster, _weights(size, rng, draws))


def _two_way(boots: dict[str, np.ndarray], answers: Answers, single: float) -> float:
    """Variance over both clusters; never below `single`, that of independent answers."""
    parts = []
    for name, draws in boots.items():
        clusters = len(np.unique(getattr(answers, name)))
        # a bootstrap of few clusters is too narrow by this factor
        parts.append(float(draws.var()) * clusters / max(1, clusters - 1))
    return max(sum(parts) - single, single)


def _fewest(answers: Answers) -> int:
    return min(len(np.unique(answers.subject)), len(np.unique(answers.picture)))


def _percentiles(draws: np.ndarray) -> Interval:
    low, high = np.percentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
