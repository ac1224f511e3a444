"""Subjects with a known bias take part in a study, through the same steps as people.

Whether a subject takes method m for real is drawn with logit(p) = a_m + u + v: u and v normal, of
the subject and of the picture. a_m is such that the mean of p over all subjects and pictures is
the fool rate asked for: the number that the report's interval should cover.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import numpy as np

from upscale.errors import UsageError
from upscale.humaneval import analysis
from upscale.humaneval.design import CHECK, TRUTH
from upscale.humaneval.session import Sessions
from upscale.humaneval.store import Store, blank

_FRAME = 1000 / 60
_BOOTSTRAP = 500  # draws in each of many studies


@dataclass(frozen=True)
class Bias:
    """How subjects decide.

    rates       true fool rate of each method; of a pair of methods the first one's share
    subject_sd  of u, in logits; picture_sd of v
    left        logits added where the model stands left
    careless    share of subjects who press anything
    """

    rates: dict[str, float]
    subject_sd: float = 0.5
    picture_sd: float = 0.5
    left: float = 0.0
    careless: float = 0.0
    seed: int = 0


def rates_of(text: str, store: Store) -> dict[str, float]:
    """`0.4` or `0.4,ecdp=0.3` -> method -> rate. Raises UsageError."""
    methods = store.meta["methods"]
    rates: dict[str, float] = {}
    named: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = -1.0
        if not 0 < rate < 1 or (equals and name not in methods):
            raise UsageError(
                f"--simulate {part.strip()}: give a rate between 0 and 1, or NAME=RATE with one "
                f"of {', '.join(methods)}"
            )
        if equals:
            named[name] = rate
        else:
            rates = dict.fromkeys(methods, rate)
    rates |= named
    if missing := set(methods) - set(rates):
        raise UsageError(f"--simulate: no rate for {', '.join(sorted(missing))}")
    return rates


def simulated(store: Store, bias: Bias, seed: int) -> Store:
    """A copy in memory, without its answers, in which every planned subject took part."""
    clock = _Clock()
    copy = blank(store, clock)
    copy.db.execute("PRAGMA synchronous = OFF")
    rng = np.random.default_rng((bias.seed, seed))
    (count,) = copy.row("SELECT count(*) FROM picture")
    easy = rng.normal(0, bias.picture_sd, count)  # v
    sessions = Sessions(copy)
    for _ in range(copy.meta["subjects"]):
        subject, _key = sessions.enrol()
        _take_part(sessions, subject, bias, easy, rng, clock)
    return copy


def coverage(
    store: Store,
    bias: Bias,
    studies: int,
    *,
    on_study: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict]:
    """How often each interval covers the true rate: a row for each task and method."""
    kept: dict[tuple[int, str], list[dict]] = {}
    for study in range(studies):
        copy = simulated(store, bias, study)
        found = analysis.analyse(copy, analysis.Rules(), seed=study, draws=_BOOTSTRAP)
        copy.close()
        for rate in found["rates"]:
            true = bias.rates[rate["method"]]
            covers = {name: rate[name][0] <= true <= rate[name][1] for name in analysis.INTERVALS}
            one = {"mean": rate["rate"], **covers}
            kept.setdefault((rate["task"], rate["method"]), []).append(one)
        on_study(study + 1, studies)
    rows = []
    for (task, method), own in sorted(kept.items()):
        row = {"task": task, "method": method, "true": bias.rates[method], "studies": len(own)}
        rows.append(row | {name: fmean(one[name] for one in own) for name in own[0]})
    return rows


@dataclass
class _Clock:
    """Time that passes only where the simulation says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _take_part(
    sessions: Sessions,
    subject: int,
    bias: Bias,
    easy: np.ndarray,
    rng: np.random.Generator,
    clock: _Clock,
) -> None:
    """One subject, from first trial to last."""
    tab = sessions.claim(subject)
    taste = rng.normal(0, bias.subject_sd)  # u
    careless = rng.random() < bias.careless
    seconds = sessions.store.meta["seconds"]
    rows = sessions.store.db.execute(
        "SELECT * FROM trial WHERE subject = ? ORDER BY position", (subject,)
    ).fetchall()
    for row in rows:
        trial = sessions.trial_id(row)
        sessions.begin(subject, tab, trial)
        clock.now += seconds
        sessions.shown(subject, tab, trial, seconds * 1000, _FRAME)
        chance = 0.5 if careless else _chance_of_left(row, bias, taste + easy[row["picture"]])
        side = "left" if rng.random() < chance else "right"
        rt = 200 + rng.lognormal(6.3, 0.5)
        clock.now += rt / 1000
        sessions.answer(subject, tab, trial, side, rt)


def _chance_of_left(row: dict, bias: Bias, effect: float) -> float:
    """That the left one is chosen; checks are always seen through."""
    left, right = row["left_role"], row["right_role"]
    if CHECK in (left, right):
        return float(left == TRUTH)
    if TRUTH in (left, right):
        model = left if right == TRUTH else right
        spread = math.hypot(bias.subject_sd, bias.picture_sd)
        chance = intercept(bias.rates[model], spread) + effect
    else:  # against another method: its share of the two
        model = min(left, right)
        other = max(left, right)
        chance = math.log(bias.rates[model] / bias.rates[other])
    chance += bias.left if model == left else -bias.left
    wins = 1 / (1 + math.exp(-chance))
    return wins if model == left else 1 - wins


@cache
def intercept(rate: float, spread: float) -> float:
    """a with E[1 / (1 + exp(-(a + w)))] = rate for w of this deviation; Gauss-Hermite."""
    from scipy.optimize import brentq

    points, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    return brentq(
        lambda a: float(weights @ (1 / (1 + np.exp(-(a + spread * points))))) - rate, -40, 40
    )
