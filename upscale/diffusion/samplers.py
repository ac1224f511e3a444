"""Samplers: functions from (denoise, start state, noise levels) to a clean target.

All work on x = target + sigma * noise, so one code serves every process. `x` is the start state,
sigmas[0] times unit noise, (B,3,H,W); `sigmas` is float64, descending, ending in 0;
`on_step(i, n)` is called after each step. The step algebra is float64 scalars on float32 states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .denoiser import Denoiser

Noise = Callable[[int], Tensor]
OnStep = Callable[[int, int], None]


def _quiet(step: int, steps: int) -> None:
    """The progress callback of callers who gave none."""


def _call(denoise: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    return denoise(x, sigma.to(x).expand(len(x)))


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise,
    on_step: OnStep = _quiet,
    variance: str = "beta",
) -> Tensor:
    """Ancestral sampling, SR3 Alg. 2 and Ho et al. 2020 Alg. 2, in sigma coordinates.

    `noise(i)` gives unit noise shaped like x for step i; the last step adds none. `variance` is
    "beta" (1 - alpha_t, SR3's paper) or "posterior" (beta-tilde, the community's code).
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        now, after = sigmas[i], sigmas[i + 1]
        keep = (after / now) ** 2
        x = torch.lerp(_call(denoise, x, now), x, float(keep))
        if after > 0:
            added = after * (1 - keep).sqrt()  # posterior: standard deviation in sigma coordinates
            if variance == "beta":  # beta_t / alpha_bar_{t-1} instead of beta-tilde / the same
                added = (now**2 - after**2).sqrt() / (1 + now**2).sqrt() * (1 + after**2).sqrt()
            x = x + float(added) * noise(i)
        on_step(i + 1, steps)
    return x


def ddim(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """DDIM with eta 0 (Song et al. 2021, eq. 12) = Euler's method in sigma; first order."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x = torch.lerp(_call(denoise, x, sigmas[i]), x, float(sigmas[i + 1] / sigmas[i]))
        on_step(i + 1, steps)
    return x


def heun(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """Heun's method on the probability flow (Karras et al. 2022, Alg. 1 without churn).

    Second order; two network calls a step, one in the last.
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        now, after = sigmas[i], sigmas[i + 1]
        slope = (x - _call(denoise, x, now)) / float(now)
        guess = x + float(after - now) * slope
        if after > 0:
            slope = (slope + (guess - _call(denoise, guess, after)) / float(after)) / 2
            guess = x + float(after - now) * slope
        x = guess
        on_step(i + 1, steps)
    return x


def dpmpp2m(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, Alg. 2; second order, one call a step."""
    steps = len(sigmas) - 1
    before: Tensor | None = None
    for i in range(steps):
        now, after = sigmas[i], sigmas[i + 1]
        denoised = _call(denoise, x, now)
        ahead = denoised
        if before is not None and after > 0:
            ratio = (sigmas[i - 1] / now).log() / (now / after).log()
            ahead = torch.lerp(before, denoised, float(1 + 0.5 / ratio))
        x = torch.lerp(ahead, x, float(after / now))
        before = denoised
        on_step(i + 1, steps)
    return x


def once(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep = _quiet) -> Tensor:
    """One call at the highest noise level: the regression baselines."""
    x = _call(denoise, x, sigmas[0])
    on_step(1, 1)
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": ddpm,
    "ddpm-posterior": partial(ddpm, variance="posterior"),
    "ddim": ddim,
    "heun": heun,
    "dpmpp2m": dpmpp2m,
    "once": once,
}
STOCHASTIC = frozenset({"ddpm", "ddpm-posterior"})  # these take `noise`


def nfe(sampler: str, steps: int) -> int:
    """Network calls that a sampler spends on `steps` steps."""
    return {"once": 1, "heun": 2 * steps - 1}.get(sampler, steps)
