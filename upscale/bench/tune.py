"""The noise levels that a few steps do best with, by search (SR3, section 4.6).

SR3 fixes a step budget and searches its inference schedule. Here a schedule is a curve in the
angle phi = atan(sigma): where it starts, where its last step is, how it bends, and how warm the
noise is. Half of the pictures choose, the other half decide whether the choice is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from upscale.bench.columns import COLUMNS
from upscale.bench.protocol import in_8_bits, open_pair
from upscale.bench.score import Case, Scorer
from upscale.bench.stats import Mean, difference, mean_of
from upscale.bench.testsets import pairs_of
from upscale.diffusion.process import sigmas
from upscale.diffusion.table import SPACINGS
from upscale.errors import InputError, UsageError
from upscale.image.picture import Picture
from upscale.methods import Method, Schedule, sampler_of
from upscale.pipeline.upscaler import Upscaler
from upscale.weights import store

_LOW, _HIGH = (0.5, 0.02, 0.4, 0.0), (1.0, 0.6, 3.0, 1.0)  # of start, end, bend, temperature
_SPREAD = 0.25  # of the box: the first steps of the local search
Values = dict[str, list[float]]  # metric -> value per picture
Opened = tuple[Picture, np.ndarray]  # lr, hr


@dataclass(frozen=True)
class Tuned:
    """What a search found. before, after: means over the pictures that did not choose; change:
    of each metric there, paired; kept: whether the schedule is better on them too."""

    schedule: Schedule
    before: dict[str, float]
    after: dict[str, float]
    change: dict[str, Mean]
    kept: bool
    tried: int


def tune(
    dataset: Path,
    weights: str,
    steps: int,
    *,
    metrics: tuple[str, ...],
    scale: float = 4.0,
    sampler: str | None = None,
    candidates: int = 40,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    degradation: str = "none",
    on_step: Callable[[int, int, float], None] = lambda done, of, best: None,
) -> Tuned:
    """Search for `steps` steps of `sampler` (None: the weights' own) with `candidates` schedules.

    What is made small is the mean over `metrics` of the value against the weights' present way's,
    1 for no change. on_step(done, of, best so far). Raises UsageError, InputError, WeightsError.
    """
    _check(metrics)
    upscaler = Upscaler(weights=weights, device=device, dtype=dtype, offline=offline)
    law = upscaler.models.law_at(scale)
    name = sampler or law.sampler
    if not sampler_of(name).stepped:
        raise UsageError(f"--tune-schedule: {name} has no noise levels to choose")
    pairs = pairs_of(dataset, scale)[:limit]
    if len(pairs) < 2:
        raise InputError(f"{dataset}: one picture to choose by and one to check are needed")
    scorer = Scorer(metrics, scale, device)

    def measure(schedule: Schedule | None, which: Sequence[Opened]) -> Values:
        if schedule is not None:
            upscaler.models.use_schedule(schedule, scale)
        found: Values = {metric: [] for metric in metrics}
        for lr, hr in which:
            made = upscaler(lr, scale=scale, steps=steps, sampler=name, seed=seed).picture.rgb
            for metric, value in scorer(Case(in_8_bits(made), hr, lr.rgb)).items():
                found[metric].append(value)
        return found

    opened = [open_pair(pair, scale, degradation) for pair in pairs]
    choosing, checking = opened[::2], opened[1::2]
    before = {"choose": measure(None, choosing), "check": measure(None, checking)}
    best = _search(
        _grids(law, name, steps),
        candidates,
        seed,
        on_step,
        cost=lambda schedule: _cost(measure(schedule, choosing), before["choose"]),
        make=lambda point: _schedule(law, name, steps, point),
    )
    after = measure(best, checking)
    means = ({m: mean_of(v[m]).value for m in metrics} for v in (before["check"], after))
    change = {m: difference(before["check"][m], after[m]) for m in metrics}
    return Tuned(best, *means, change, _cost(after, before["check"]) < 1, candidates)


def keep(tuned: Tuned, weights: str, output: Path | None = None) -> Path:
    """Write the schedule into the metadata of the weights, at `place_of`. Raises as that, and as
    `weights.save`."""
    path, entry = place_of(weights, output), store.find(weights)
    state, metadata = store.load(entry, offline=True)
    defaults = dict(metadata.get("defaults", {}))
    new = tuned.schedule
    way = new.sampler, new.steps
    others = [s for s in defaults.get("schedules", ()) if (s["sampler"], s["steps"]) != way]
    defaults["schedules"] = [*others, {**asdict(new), "sigmas": list(new.sigmas)}]
    store.save(path, state, {**metadata, "defaults": defaults})
    return path


def place_of(weights: str, output: Path | None) -> Path:
    """Where a schedule is stored: `output`, or the file of the weights. Raises UsageError where
    that is of a list or of the Hub, which know its sha256."""
    entry = store.find(weights)
    if output is None and not entry.loose:
        raise UsageError(
            f"{weights} is known by its sha256 and stays as it is: name the file to write with "
            "--output"
        )
    return output or entry.path


def _check(metrics: tuple[str, ...]) -> None:
    for name in metrics:
        if not COLUMNS[name].better or COLUMNS[name].whole:
            raise UsageError(
                f"--tune-schedule cannot make {name} better; take lpips, lpips_vgg, "
                "dists, psnr_y, ..."
            )


def _search(
    first: Sequence[Schedule],
    candidates: int,
    seed: int,
    on_step: Callable[[int, int, float], None],
    *,
    cost: Callable[[Schedule], float],
    make: Callable[[np.ndarray], Schedule],
) -> Schedule:
    """The cheapest of `candidates` schedules: the usual grids, then points spread over the
    whole box (Sobol), then steps from the best one that shrink (a (1+1) evolution strategy)."""
    rng = np.random.default_rng(seed)
    spread = torch.quasirandom.SobolEngine(len(_LOW), scramble=True, seed=seed)
    low, high = np.array(_LOW), np.array(_HIGH)
    best, least, centre, width = first[0], math.inf, (low + high) / 2, _SPREAD
    wide = len(first) + (candidates - len(first)) // 2
    for index in range(candidates):
        point = None
        if index < len(first):
            schedule = first[index]
        else:
            if index < wide:
                point = low + (high - low) * spread.draw(1)[0].numpy()
            else:
                point = centre + rng.normal(0, width, len(low)) * (high - low)
            point = np.clip(point, low, high)
            schedule = make(point)
        value = cost(schedule)
        better = value < least
        if better:
            best, least = schedule, value
            centre = centre if point is None else point
        elif index >= wide:
            width *= 0.93
        on_step(index + 1, candidates, least)
    return best


def _grids(law: Method, sampler: str, steps: int) -> list[Schedule]:
    """Every named spacing, at the weights' own temperature and without their cooling."""
    found = {}
    for spacing in (law.spacing, *SPACINGS):
        levels = tuple(float(v) for v in sigmas(law.process, steps, spacing)[:-1])
        for warmth in dict.fromkeys((law.temperature, 1.0)):
            found[levels, warmth] = Schedule(sampler, steps, levels, warmth)
    return list(found.values())


def _schedule(law: Method, sampler: str, steps: int, point: np.ndarray) -> Schedule:
    """A point of the box -> noise levels: phi falls from `start` to `end` of the largest angle, a
    power `bend` of the way."""
    start, end, bend, warmth = (float(v) for v in point)
    top = math.atan(law.process.sigma_max)
    end = min(end, start * 0.95)
    way = [1 - i / max(1, steps - 1) for i in range(steps)]
    angles = [top * (end + (start - end) * part**bend) for part in way]
    return Schedule(sampler, steps, tuple(math.tan(angle) for angle in angles), warmth)


def _cost(values: Values, before: Values) -> float:
    """The mean over metrics of the value relative to `before`; below 1 is better."""
    ratios = []
    for name, new in values.items():
        one, two = mean_of(before[name]).value, mean_of(new).value
        ratio = two / one if COLUMNS[name].better < 0 else one / two
        ratios.append(ratio if math.isfinite(ratio) else math.inf)
    return sum(ratios) / len(ratios)
