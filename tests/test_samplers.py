"""Samplers against closed forms, a slow oracle, and diffusers' schedulers."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from upscale.diffusion.process import VPDiscrete, alpha_bar_of, sigma_of, sigmas
from upscale.diffusion.samplers import SAMPLERS, STOCHASTIC, ddim, ddpm, dpmpp2m, heun, nfe, once

MEAN, STD = 0.3, 0.2
PROCESS = VPDiscrete()


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser where the target is N(MEAN, STD^2)."""
    s2 = sigma[:, None, None, None] ** 2
    return (STD**2 * x + s2 * MEAN) / (STD**2 + s2)


def exact(x: Tensor, sigma: Tensor) -> Tensor:
    """Where the probability flow ends: quantiles are kept."""
    return MEAN + (x - MEAN) * STD / (STD**2 + sigma**2).sqrt()


@pytest.mark.parametrize(
    "sampler, order", [(ddim, 1.0), (heun, 2.0), (dpmpp2m, 2.0)], ids=["ddim", "heun", "dpmpp2m"]
)
def test_order_of_convergence(sampler, order) -> None:
    generator = torch.Generator().manual_seed(0)
    counts, errors = [64, 128, 256], []
    for steps in counts:
        # uniform in log sigma from 5 to 0.02; what is left below 0.02 is one exact jump
        grid = torch.logspace(math.log10(5), math.log10(0.02), steps + 1, dtype=torch.float64)
        x = torch.randn(1, 3, 5, 7, generator=generator.manual_seed(0), dtype=torch.float64) * 5
        states: list[Tensor] = []

        def denoise(x: Tensor, sigma: Tensor, keep: list = states) -> Tensor:
            keep.append(x)
            return gaussian(x, sigma)

        sampler(denoise, x, torch.cat([grid, torch.zeros(1, dtype=torch.float64)]))
        reached = states[-1]  # the state at 0.02, which the last step starts from
        wanted = MEAN + (x - MEAN) * math.sqrt((STD**2 + 0.02**2) / (STD**2 + 25))
        errors.append(float((reached - wanted).abs().max()))
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert slopes == pytest.approx([order] * 2, abs=0.12)


def test_ancestral_variance_comes_right_from_both_sides() -> None:
    def spread(steps: int, variance: str) -> float:
        generator = torch.Generator().manual_seed(1)
        shape = (1, 3, 200, 300)

        def noise(step: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        grid = sigmas(PROCESS, steps, "logsnr")
        x = ddpm(gaussian, noise(-1) * grid[0], grid, noise=noise, variance=variance)
        assert float(x.mean()) == pytest.approx(MEAN, abs=0.01)
        return float(x.std()) / STD - 1

    posterior = [spread(n, "posterior") for n in (10, 40, 160)]
    beta = [spread(n, "beta") for n in (10, 40, 160)]
    assert posterior[0] < posterior[1] < posterior[2] < 0.003
    assert beta[0] > beta[1] > beta[2] > -0.003
    assert abs(posterior[2]) < 0.05 and abs(beta[2]) < 0.1


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_step_equals_the_paper_in_its_own_coordinates(variance) -> None:
    """SR3 Alg. 2 on y_t, with eps from the denoiser: y = sqrt(alpha_bar) x."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 4, 6)
    grid = sigmas(PROCESS, 12, "t")
    draws = {i: torch.randn(shape, generator=generator, dtype=torch.float64) for i in range(13)}
    x = draws[12] * grid[0]
    made = ddpm(gaussian, x, grid, noise=draws.__getitem__, variance=variance)

    abar = alpha_bar_of(grid)
    y = x * abar[0].sqrt()
    for i in range(12):
        now, after = abar[i], abar[i + 1]
        alpha = now / after
        sigma = sigma_of(now)
        at = y / now.sqrt()
        eps = (at - gaussian(at, sigma.expand(2))) / sigma
        y = (y - (1 - alpha) / (1 - now).sqrt() * eps) / alpha.sqrt()
        var = 1 - alpha if variance == "beta" else (1 - alpha) * (1 - after) / (1 - now)
        if after < 1:
            y = y + var.sqrt() * draws[i]
    torch.testing.assert_close(made, y, atol=1e-12, rtol=1e-12)


def predicted(x: Tensor) -> Tensor:
    """A stand-in for a network's eps: any smooth function of the state."""
    return torch.tanh(x) * 0.8


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "dpmpp2m"])
def test_samplers_equal_diffusers(kind) -> None:
    diffusers = pytest.importorskip("diffusers")
    steps = 10
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float32).numpy()
    common = {"trained_betas": betas, "timestep_spacing": "leading"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "ddpm":
            scheduler = diffusers.DDPMScheduler(clip_sample=False, **common)
        elif kind == "ddim":
            scheduler = diffusers.DDIMScheduler(
                clip_sample=False, set_alpha_to_one=True, **common
            )
        else:
            scheduler = diffusers.DPMSolverMultistepScheduler(
                algorithm_type="dpmsolver++", final_sigmas_type="zero",
                lower_order_final=False, euler_at_final=True, **common,
            )  # fmt: skip
        scheduler.set_timesteps(steps)
    abar = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    grid = torch.cat([sigma_of(abar), torch.zeros(1, dtype=torch.float64)])
    start = torch.randn(1, 3, 5, 8, generator=torch.Generator().manual_seed(0))

    y, draws = start.clone(), []
    for t in scheduler.timesteps:
        state = torch.Generator().manual_seed(int(t))
        if kind == "ddpm":
            y = scheduler.step(predicted(y), t, y, generator=state).prev_sample
            draws.append(torch.randn(y.shape, generator=torch.Generator().manual_seed(int(t))))
        else:
            y = scheduler.step(predicted(y), t, y).prev_sample

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None, None, None]
        return x - s * predicted(x / (1 + s**2).sqrt())

    x = start.double() * (1 + grid[0] ** 2).sqrt()
    if kind == "ddpm":
        made = ddpm(denoise, x, grid, noise=lambda i: draws[i].double(), variance="posterior")
    else:
        made = {"ddim": ddim, "dpmpp2m": dpmpp2m}[kind](denoise, x, grid)
    torch.testing.assert_close(made.float(), y, atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_calls_are_counted_and_steps_are_told(name, steps) -> None:
    calls, told = [], []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (2,) and sigma.dtype == x.dtype
        calls.append(float(sigma[0]))
        return gaussian(x, sigma)

    extra = {"noise": lambda i: torch.zeros(2, 3, 4, 6)} if name in STOCHASTIC else {}
    grid = sigmas(PROCESS, steps)
    x = torch.ones(2, 3, 4, 6) * float(grid[0])
    made = SAMPLERS[name](denoise, x, grid, on_step=lambda i, n: told.append((i, n)), **extra)
    assert made.dtype == torch.float32 and made.isfinite().all()
    assert len(calls) == nfe(name, steps)
    assert told == [(i + 1, len(told)) for i in range(1 if name == "once" else steps)]


def test_once_is_the_estimate_at_the_highest_noise() -> None:
    grid = sigmas(PROCESS, 1)
    x = torch.randn(1, 3, 4, 6) * float(grid[0])
    torch.testing.assert_close(once(gaussian, x, grid), gaussian(x, grid[:1].float()))
