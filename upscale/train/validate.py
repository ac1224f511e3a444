"""What a run's moving average makes of pictures that it does not train on, in a few steps; of a
network that needs no input, its loss on fixed noise and what it draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscale import methods
from upscale.diffusion.denoiser import bind
from upscale.diffusion.run import run_sampler
from upscale.errors import DiffsrError, InputError
from upscale.image.encode import write
from upscale.image.folders import Size
from upscale.image.picture import Picture
from upscale.image.resize import resize
from upscale.metrics import pixel
from upscale.metrics.perceptual import SMALLEST, Lpips
from upscale.model import Model, build
from upscale.pipeline.consistency import settle
from upscale.pipeline.plan import Stage
from upscale.pipeline.sampling import Sampling, run_stage
from upscale.pipeline.tensors import leaving
from upscale.train.config import TrainConfig
from upscale.train.crops import aligned, plain, smallest_side
from upscale.train.data import Batch, Pairs, exact, quantised
from upscale.train.degrade import small_version
from upscale.train.log import METRICS, Log
from upscale.train.loss import Spec, score_loss
from upscale.train.pictures import Pair, decode
from upscale.train.sources import Items, Say
from upscale.train.state import Run
from upscale.weights import store

COUNT = 8  # pictures
STEPS = 8  # network calls at most
ON_SHEET = 4
LEVELS = 8  # noise levels of a loss, the middles of equal parts of the training law
DRAWN = (2, 4)  # pictures on the sheet of a network without a condition, rows and columns


def examples(items: Items, config: TrainConfig, say: Say) -> list[tuple[Tensor, Tensor]]:
    """Up to COUNT truths (3,P,P) in [-1,1] with their small versions (3,h,h), evenly spread over
    the items. InputError if none."""
    step, found = max(1, len(items) // COUNT), []
    for index in range(0, min(len(items), step * COUNT), step):
        try:
            picture = decode(items, index, smallest_side(config))
            found.append(_example(picture, config, len(found)))
        except DiffsrError as error:
            say(f"not used for validation: {error}")
    if not found:
        raise InputError("none of the pictures to validate on can be read")
    return found


def trained_on(pairs: Pairs) -> list[tuple[Tensor, Tensor]]:
    """The same of a run's own pictures."""
    pictures = pairs.pictures
    indices = range(0, len(pictures), max(1, len(pictures) // COUNT))[:COUNT]
    return [_example(pictures[i], pairs.config, number) for number, i in enumerate(indices)]


def _example(picture: np.ndarray | Pair, config: TrainConfig, index: int) -> tuple[Tensor, Tensor]:
    """(truth, small version): the picture's own, or as the run makes them."""
    if isinstance(picture, Pair):
        return aligned(picture, config.patch, None)
    truth = plain(picture, config, config.patch)
    side = max(1, round(config.patch / config.focus))
    if config.degradation == "bicubic":
        return truth, quantised(resize(truth[None], (side, side)))[0]
    rng = np.random.default_rng((config.seed, index))
    return truth, small_version(truth, side, rng, config)


@dataclass
class Validator:
    """`validator(run, log)` measures LPIPS, PSNR and Consistency, writes a sheet of samples
    (input, result, truth) and keeps the weights that are best so far in LPIPS. Of a network without
    a condition: the loss, and pictures that it draws.

    best: the file of these weights; None: of pictures that are trained on none are best. describe:
    a run's metadata. Every process must call it.
    """

    pairs: Sequence[tuple[Tensor, Tensor]]
    config: TrainConfig
    folder: Path
    best: Path | None
    describe: Callable[[Run], dict[str, Any]]
    say: Say

    def __post_init__(self) -> None:
        config = self.config
        self.unpaired = methods.get(config.method).unconditional
        judged = config.patch >= SMALLEST["alex"] and not self.unpaired
        self.lpips = Lpips("alex") if judged else None

    def __call__(self, run: Run, log: Log) -> None:
        state = run.weights()
        if run.world.first:
            values, pictures = self.measure(run, state)
            log.validation(run.iteration, run.images_seen, values)
            sheet = self._sheet(run.images_seen, pictures)
            numbers = ", ".join(f"{METRICS[name]} {value:.4g}" for name, value in values.items())
            self.say(f"validation at iteration {run.iteration}: {numbers}; see {sheet}")
            if self.best and _better(values, run.best):
                run.best = {"iteration": run.iteration, **values}
                store.save(self.best, run.exported(state), self.describe(run), half=True)
        run.best = run.world.agreed(run.best)

    @torch.no_grad()
    def measure(
        self, run: Run, state: dict[str, Tensor]
    ) -> tuple[dict[str, float], list[list[Tensor]]]:
        """(means over the pictures, [enlarged input, result, truth] of each, or what is drawn)."""
        model = build(dict(state), self.describe(run))
        model.net.to(run.device).to(memory_format=torch.channels_last)
        if self.unpaired:
            return _unconditional(run, model, [truth for truth, _ in self.pairs])
        model = replace(model, law=_quick(model.law))
        rows, sums = [], {"lpips": 0.0, "psnr": 0.0, "consistency": 0.0}
        for index, (truth, small) in enumerate(self.pairs):
            result = self._enlarged(model, small, tuple(truth.shape[-2:]), index, run)
            lr, sr, hr = (leaving(x) for x in (small, result, truth))
            if self.lpips:
                sums["lpips"] += self.lpips.distance(sr, hr)
            sums["psnr"] += pixel.psnr(sr, hr)
            sums["consistency"] += pixel.consistency(lr, sr)
            enlarged = resize(small[None], tuple(truth.shape[-2:]))[0].clamp(-1, 1)
            rows.append([enlarged, result, truth])
        means = {name: round(value / len(rows), 6) for name, value in sums.items()}
        if not self.lpips:
            del means["lpips"]
        return means, rows

    def _enlarged(self, model: Model, small: Tensor, size: Size, index: int, run: Run) -> Tensor:
        """The result (3,P,P) in [-1,1], on the CPU."""
        law, lr, true = model.law, small[None], exact(self.config, run.paired)
        stage = Stage(tuple(small.shape[-2:]), size, law.steps, law.temperature)
        projection, seed = 1.0 if true else 0.0, (self.config.seed, index)
        sampling = Sampling(
            law.sampler,
            law.spacing,
            projection,
            seed,
            dtype=torch.bfloat16 if run.autocast else torch.float32,
        )
        sr = run_stage(model, lr.to(run.device), stage, sampling)[0].float().cpu()
        return (settle(sr, lr) if true else sr.clamp(-1, 1))[0]

    def _sheet(self, images_seen: int, rows: list[list[Tensor]]) -> Path:
        """A line per picture: input, result, truth."""
        sheet = torch.cat([torch.cat(row, 2) for row in rows[:ON_SHEET]], 1)
        path = self.folder / "samples" / f"{images_seen:010d}.png"
        write(Picture(leaving(sheet).numpy()), path, overwrite=True)
        return path


@torch.no_grad()
def _unconditional(
    run: Run, model: Model, truths: Sequence[Tensor]
) -> tuple[dict[str, float], list[list[Tensor]]]:
    """({"loss": mean over truths and levels}, rows of samples (3,P,P) in [-1,1]).

    Noise and levels are the same at every validation, so that two can be compared.
    """
    hr = torch.stack(truths).to(run.device)
    batch = Batch(hr, hr, torch.ones(len(hr), device=run.device), [])
    generator = torch.Generator().manual_seed(run.config.seed)
    spec = Spec(model.law.parametrisation, None, model.law.process, run.spec.squared)
    losses = []
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.autocast):
        for index in range(LEVELS):
            u = torch.full((len(hr),), (index + 0.5) / LEVELS, dtype=torch.float64)
            sigma = run.law.sigma_at(u).to(run.device)
            losses.append(score_loss(model.net, spec, batch, sigma, generator).mean())
        rows, columns = DRAWN
        noise = torch.randn((rows * columns, *hr.shape[1:]), generator=generator).to(run.device)
        sampler, steps = model.law.ladder["best"]
        inner = bind(model.net, None, spec.parametrisation)
        x = run_sampler(
            sampler, lambda x, sigma: inner(x, sigma).clamp(-1, 1), lambda step: noise,
            spec.process, steps, model.law.spacing,
        ).float().cpu()  # fmt: skip
    loss = round(float(torch.stack(losses).mean()), 6)
    return {"loss": loss}, [list(row) for row in x.split(columns)]


def _quick(law: methods.Method) -> methods.Method:
    """The weights' own way to sample, or its few-step sibling."""
    own, quick = (methods.sampler_of(name) for name in (law.sampler, law.deterministic))
    if not (own.adaptive or own.stochastic):
        return replace(law, steps=min(law.steps, STEPS))
    steps = max(steps for steps in range(1, STEPS + 1) if quick.calls(steps) <= STEPS)
    return replace(law, sampler=law.deterministic, spacing="phi", steps=steps)


def _better(values: dict[str, float], best: dict[str, float]) -> bool:
    """By LPIPS, or by PSNR where the pictures are too small for it; by the loss of a network that
    has no input."""
    if "loss" in values:
        return values["loss"] < best.get("loss", math.inf)
    if "lpips" in values:
        return values["lpips"] < best.get("lpips", math.inf)
    return values["psnr"] > best.get("psnr", -math.inf)
