"""One run of a sampler: from noise to a clean target, whatever the network and the process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from upscale.diffusion.denoiser import Denoiser
from upscale.diffusion.process import Process, sigmas
from upscale.diffusion.samplers import Noise, OnStep
from upscale.diffusion.table import SAMPLERS


def run_sampler(
    sampler: str,
    denoise: Denoiser,
    noise: Noise,
    process: Process,
    steps: int,
    spacing: str,
    *,
    levels: Sequence[float] = (),
    temperature: float = 1.0,
    tolerances: tuple[float, float] | None = None,
    on_step: OnStep = lambda done, steps: None,
) -> Tensor:
    """Run a sampler and return the clean target (B,3,H,W).

    noise(i) is unit noise (B,3,H,W) for step i; i is -1 for the start. levels: descending
    sigmas above 0, one per step, instead of `spacing`. temperature: factor of all noise.
    tolerances: rtol and atol of samplers that choose their steps; None takes the sampler's own.
    Raises FloatingPointError where an adaptive sampler fails.
    """
    grid = sigmas(process, steps, spacing)
    if levels:
        grid = torch.tensor([*levels, 0.0], dtype=torch.float64)
    x = noise(-1) * float(grid[0]) * temperature
    own = {} if tolerances is None else dict(zip(("rtol", "atol"), tolerances, strict=True))
    return SAMPLERS[sampler](
        denoise, x, grid, process=process, on_step=on_step,
        noise=lambda step: noise(step) * temperature, **own,
    )  # fmt: skip
