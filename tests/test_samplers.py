"""Samplers against closed forms, a slow oracle, and diffusers' schedulers."""

from __future__ import annotations

import functools
import itertools
import math
import warnings

import pytest
import torch
from levels import alpha_bar_of
from torch import Tensor

from upscale.diffusion import samplers
from upscale.diffusion.process import VPDiscrete, VPLinear, sigma_of, sigmas
from upscale.diffusion.samplers import (
    ddim,
    ddpm,
    dpmpp2m,
    heun,
    heun_phi,
    midpoint,
    once,
    rk45,
)
from upscale.diffusion.table import SAMPLERS

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
    "sampler, order",
    # midpoint is of second order; where all is Gaussian its leading error cancels
    [(ddim, 1), (heun, 2), (dpmpp2m, 2), (midpoint, 3), (heun_phi, 2)],
)
def test_order_of_convergence(sampler, order) -> None:
    generator = torch.Generator().manual_seed(0)
    counts, errors = [64, 128, 256], []
    for steps in counts:
        # uniform in log sigma from 5 to 0.02; what is left below 0.02 is one exact jump
        grid = torch.logspace(math.log10(5), math.log10(0.02), steps + 1, dtype=torch.float64)
        x = torch.randn(1, 3, 5, 7, generator=generator.manual_seed(0), dtype=torch.float64) * 5
        states: dict[float, Tensor] = {}

        def denoise(x: Tensor, sigma: Tensor, keep: dict = states) -> Tensor:
            keep[float(sigma[0])] = x
            return gaussian(x, sigma)

        sampler(denoise, x, torch.cat([grid, torch.zeros(1, dtype=torch.float64)]))
        reached = states[float(grid[-1])]  # the state at 0.02, which the last step starts from
        wanted = MEAN + (x - MEAN) * math.sqrt((STD**2 + 0.02**2) / (STD**2 + 25))
        errors.append(float((reached - wanted).abs().max()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([order] * 2, abs=0.1)


def two_peaks(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser where the target is N(1, STD^2) or N(-1, STD^2), each with chance 1/2."""
    s2 = sigma[:, None, None, None] ** 2
    return (STD**2 * x + s2 * torch.tanh(x / (STD**2 + s2))) / (STD**2 + s2)


@functools.cache
def reached(sampler, steps: int) -> Tensor:
    """The state at sigma 0.2 of a curved flow from 5."""
    x = torch.linspace(-9, 9, 35, dtype=torch.float64).view(1, 1, 5, 7)
    grid = torch.tan(torch.linspace(math.atan(5), math.atan(0.2), steps + 1, dtype=torch.float64))
    states: dict[float, Tensor] = {}

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        states[float(sigma[0])] = x
        return two_peaks(x, sigma)

    sampler(denoise, x, torch.cat([grid, torch.zeros(1, dtype=torch.float64)]))
    return states[float(grid[-1])]


@pytest.mark.parametrize("sampler", [heun, midpoint, heun_phi])
def test_order_of_convergence_on_a_curved_flow(sampler) -> None:
    wanted = reached(heun, 2048)
    errors = [float((reached(sampler, n) - wanted).abs().max()) for n in (64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([2, 2], abs=0.15)


def ancestral(steps: int, variance: str) -> tuple[float, float]:
    """Mean and standard deviation that ddpm leaves, exactly.

    With the Gaussian denoiser the result is linear in the start and in each step's noise: where
    each of them lives in a pixel of its own, that pixel tells its coefficient, and the last pixel,
    which none touches, the mean.
    """
    grid = sigmas(PROCESS, steps, "logsnr")
    pixels = torch.eye(steps + 2, dtype=torch.float64)[:, None, None, None]
    made = ddpm(
        gaussian, pixels[0] * grid[0], grid, noise=lambda i: pixels[i + 1], variance=variance
    ).flatten()
    return float(made[-1]), float((made - made[-1]).norm())


def test_ancestral_variance_comes_right_from_both_sides() -> None:
    errors = {}
    for variance in ("posterior", "beta"):
        left = [ancestral(n, variance) for n in (5, 10, 40, 160, 640)]
        assert [mean for mean, _ in left] == pytest.approx([MEAN] * 5, abs=1e-5)
        errors[variance] = [std / STD - 1 for _, std in left]
    assert all(a < b < 0 for a, b in itertools.pairwise(errors["posterior"]))
    assert all(a > b > 0 for a, b in itertools.pairwise(errors["beta"]))
    for found in errors.values():
        assert abs(found[-1]) < 0.01
        assert found[-2] / found[-1] == pytest.approx(4, abs=0.3)  # first order in the step


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


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_step_equals_the_posterior_of_the_forward_process(variance) -> None:
    """Ho et al. 2020, eq. 6-7: the same step from x0 and x_t instead of from the noise."""
    generator = torch.Generator().manual_seed(0)
    z, state = torch.randn(2, 2, 3, 4, 6, generator=generator, dtype=torch.float64)
    for now, after in [(1932, 1800), (900, 20), (2, 1)]:
        a, b = float(PROCESS.alpha_bar[now]), float(PROCESS.alpha_bar[after])
        grid = sigma_of(PROCESS.alpha_bar[[now, after, 0]])
        x0 = gaussian(state / math.sqrt(a), grid[:1].expand(2))
        beta = 1 - a / b
        mean = math.sqrt(b) * beta * x0 + math.sqrt(a / b) * (1 - b) * state
        std = math.sqrt(beta if variance == "beta" else beta * (1 - b) / (1 - a))
        wanted = mean / (1 - a) + std * z
        reached: list[Tensor] = []

        def denoise(x: Tensor, sigma: Tensor, keep: list = reached) -> Tensor:
            keep.append(x)
            return gaussian(x, sigma)

        ddpm(denoise, state / math.sqrt(a), grid, noise=lambda i: z, variance=variance)
        torch.testing.assert_close(reached[1] * math.sqrt(b), wanted, atol=1e-9, rtol=1e-9)


def predicted(x: Tensor) -> Tensor:
    """A stand-in for a network's eps: any smooth function of the state."""
    return torch.tanh(x) * 0.8


def diffusers_scheduler(kind: str, process: VPDiscrete, steps: int):
    """diffusers' own scheduler on the process's table, in float64 where it lets us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        common = {"num_train_timesteps": process.steps, "timestep_spacing": "leading"}
        if kind.startswith("ddpm"):
            law = "fixed_small" if kind == "ddpm-posterior" else "fixed_large"
            made = diffusers.DDPMScheduler(clip_sample=False, variance_type=law, **common)
        elif kind == "ddim":
            made = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **common)
        else:
            made = diffusers.DPMSolverMultistepScheduler(
                algorithm_type="dpmsolver++", final_sigmas_type="zero",
                lower_order_final=False, euler_at_final=True, **common,
            )  # fmt: skip
        made.alphas_cumprod = process.alpha_bar[1:]
        made.set_timesteps(steps)
    return made


@pytest.mark.parametrize(
    "kind, rounding",
    # the multistep scheduler casts its state to float32
    [("ddpm", 1e-10), ("ddpm-posterior", 1e-10), ("ddim", 1e-10), ("dpmpp2m", 2e-5)],
)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_every_step_equals_diffusers(kind, rounding, steps) -> None:
    process = VPDiscrete(1000, 1e-4, 2e-2)
    scheduler = diffusers_scheduler(kind, process, steps)
    abar = process.alpha_bar[scheduler.timesteps + 1]  # theirs has no entry for the clean picture
    grid = torch.cat([sigma_of(abar), torch.zeros(1, dtype=torch.float64)])
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64)

    wanted, draws = [y], []
    for t in scheduler.timesteps:
        extra = (
            {"generator": torch.Generator().manual_seed(int(t))}
            if SAMPLERS[kind].stochastic
            else {}
        )
        y = scheduler.step(predicted(y), t, y, **extra).prev_sample
        seeded = torch.Generator().manual_seed(int(t))
        draws.append(torch.randn(y.shape, generator=seeded, dtype=y.dtype))
        wanted.append(y)

    made: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None, None, None]
        made.append(x / (1 + s**2).sqrt())
        return x - s * predicted(made[-1])

    start = wanted[0] * (1 + grid[0] ** 2).sqrt()
    made.append(SAMPLERS[kind](denoise, start, grid, noise=draws.__getitem__))
    assert len(made) == len(wanted)
    for ours, theirs in zip(made, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=rounding, rtol=rounding)


@pytest.mark.parametrize("name", [n for n, row in SAMPLERS.items() if not row.adaptive])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_calls_are_counted_and_steps_are_told(name, steps) -> None:
    calls, told = [], []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (2,) and sigma.dtype == x.dtype
        calls.append(float(sigma[0]))
        return gaussian(x, sigma)

    grid = sigmas(PROCESS, steps)
    x = torch.ones(2, 3, 4, 6) * float(grid[0])
    made = SAMPLERS[name](
        denoise, x, grid, on_step=lambda i, n: told.append((i, n)),
        noise=lambda i: torch.zeros(2, 3, 4, 6),
    )  # fmt: skip
    assert made.dtype == torch.float32 and made.isfinite().all()
    assert len(calls) == SAMPLERS[name].calls(steps)
    assert told == [(i + 1, len(told)) for i in range(1 if SAMPLERS[name].single else steps)]


def test_once_is_the_estimate_at_the_highest_noise() -> None:
    grid = sigmas(PROCESS, 1)
    x = torch.randn(1, 3, 4, 6) * float(grid[0])
    torch.testing.assert_close(once(gaussian, x, grid), gaussian(x, grid[:1].float()))


@pytest.mark.parametrize("sampler", [ddim, heun, midpoint, heun_phi])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_an_answer_that_stays_what_it_is_leaves_no_error(sampler, steps) -> None:
    """x = target + sigma noise throughout: for the rotation samplers the arc of a circle."""
    generator = torch.Generator().manual_seed(0)
    target, noise, x = torch.randn(3, 2, 3, 4, 6, generator=generator, dtype=torch.float64)
    for process in (PROCESS, VPLinear()):
        for spacing in ("phi", "logsnr"):
            grid = sigmas(process, steps, spacing)
            made = sampler(lambda x, sigma: target, x * grid[0], grid)
            torch.testing.assert_close(made, target, atol=1e-10, rtol=0)
            frozen = x * grid[0]
            made = sampler(lambda x, s: x - s[:, None, None, None] * noise, frozen, grid)
            rounding = 1e-10 * float(grid[0])
            torch.testing.assert_close(made, frozen - grid[0] * noise, atol=rounding, rtol=0)


# --- rk45 ---------------------------------------------------------------------------------------

LINEAR = VPLinear()


def solve(process, tolerance: float, denoise=gaussian, dtype=torch.float64, **settings) -> tuple:
    """Result, start and sigmas of rk45 on (2,3,4,6) pixels."""
    grid = sigmas(process, 50)
    unit = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x = unit * float(grid[0])
    made = rk45(
        denoise, x, grid, process=process, **{"rtol": tolerance, "atol": tolerance, **settings}
    )
    return made, x, grid


def error_of(process, tolerance: float) -> float:
    """Against the closed form, which also stops at the process's smallest noise."""
    made, x, _ = solve(process, tolerance)
    scale = math.sqrt((STD**2 + process.sigma_min**2) / (STD**2 + process.sigma_max**2))
    return float((made - MEAN - (x - MEAN) * scale).abs().max())


def test_adaptive_error_falls_with_the_tolerance() -> None:
    errors = [error_of(LINEAR, tolerance) for tolerance in (1e-2, 1e-4, 1e-6, 1e-8)]
    assert all(b < a / 10 for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-6


def test_adaptive_error_falls_on_a_process_of_discrete_steps() -> None:
    errors = [error_of(PROCESS, tolerance) for tolerance in (1e-2, 1e-3, 1e-5)]
    assert errors[1] < errors[0] and errors[2] < errors[1] / 10 and errors[2] < 2e-3


@pytest.mark.parametrize("process", [PROCESS, LINEAR])
def test_adaptive_calls_stay_inside_the_process_and_progress_goes_on(process) -> None:
    seen, told = [], []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (2,) and sigma.dtype == x.dtype == torch.float32
        seen.append(float(sigma[0]))
        return gaussian(x, sigma)

    made, _, _ = solve(
        process, 1e-3, denoise, torch.float32, on_step=lambda i, n: told.append((i, n))
    )
    assert made.dtype == torch.float32 and made.isfinite().all()
    assert SAMPLERS["rk45"].calls(50) == 0 and 20 < len(seen) < 60  # only known afterwards
    assert min(seen) >= process.sigma_min * (1 - 1e-3)  # time is float32 in there
    assert max(seen) <= process.sigma_max * (1 + 1e-3)
    done = [i for i, _ in told]
    assert done == sorted(done) and done[0] >= 0 and told[-1] == (50, 50)
    assert len(set(done)) > 3 and {n for _, n in told} == {50}


def test_adaptive_sampling_stops_at_a_flow_that_is_not_finite() -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        return gaussian(x, sigma) * (math.nan if sigma[0] < 1 else 1)

    with pytest.raises(FloatingPointError, match=r"flow is not finite at time 0\.[0-9]+"):
        solve(LINEAR, 1e-3, broken)
    with pytest.raises(FloatingPointError, match="flow is not finite at time 1"):
        solve(LINEAR, 1e-3, lambda x, sigma: x * math.inf)


def test_tolerances_that_cannot_be_met_end_the_sampling(monkeypatch) -> None:
    with pytest.raises(FloatingPointError, match="rtol 1e-30, atol 1e-30 cannot be met in float32"):
        solve(LINEAR, 1e-30, dtype=torch.float32)
    monkeypatch.setattr(samplers, "MOST_CALLS", 60)
    solve(LINEAR, 1e-3)
    for tolerance in (1e-9, 1e-30):
        with pytest.raises(FloatingPointError, match=f"{tolerance:g} .*within 60 network calls"):
            solve(LINEAR, tolerance)


@pytest.mark.parametrize("wrong", [0.0, -1e-3, math.nan])
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_tolerances_that_are_none_are_refused(name, wrong) -> None:
    with pytest.raises(ValueError, match="tolerances must be above 0"):
        solve(LINEAR, 1e-3, **{name: wrong})
