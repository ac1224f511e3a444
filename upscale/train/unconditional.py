"""Validation of a network that needs no input: its loss on fixed noise, and what it draws."""

from __future__ import annotations

import torch
from torch import Tensor

from upscale.diffusion.denoiser import bind
from upscale.diffusion.run import run_sampler
from upscale.methods import Model
from upscale.train.data import Batch
from upscale.train.loss import Spec, score_loss
from upscale.train.state import Run

LEVELS = 8  # noise levels, the middles of equal parts of the training law
DRAWN = (2, 4)  # pictures on the sheet, rows and columns


@torch.no_grad()
def measure(
    run: Run, model: Model, truths: list[Tensor]
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
        rows = _drawn(run, model, tuple(hr.shape[-2:]), generator)
    return {"loss": round(float(torch.stack(losses).mean()), 6)}, rows


def _drawn(
    run: Run, model: Model, size: tuple[int, int], generator: torch.Generator
) -> list[list[Tensor]]:
    rows, columns = DRAWN
    noise = torch.randn((rows * columns, 3, *size), generator=generator).to(run.device)
    law = model.law
    sampler, steps = law.ladder["best"]
    inner = bind(model.net, None, law.parametrisation)
    x = run_sampler(
        sampler, lambda x, sigma: inner(x, sigma).clamp(-1, 1), lambda step: noise,
        law.process, steps, law.spacing,
    ).float().cpu()  # fmt: skip
    return [list(x[row * columns : (row + 1) * columns]) for row in range(rows)]
