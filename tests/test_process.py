"""Noising laws, schedules and parametrisations."""

from __future__ import annotations

import pytest
import torch

from upscale.diffusion.denoiser import PARAMETRISATIONS, bind, per_example
from upscale.diffusion.process import (
    SPACINGS,
    LogSNRLaw,
    VPDiscrete,
    alpha_bar_of,
    sigma_of,
    sigmas,
)

PROCESS = VPDiscrete()


def test_table_is_the_product_of_linear_betas() -> None:
    value, wanted = 1.0, [1.0]
    for i in range(2000):
        value *= 1 - (1e-6 + (1e-2 - 1e-6) * i / 1999)
        wanted.append(value)
    expected = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(PROCESS.alpha_bar, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 100, 1000])
def test_schedules_descend_from_pure_noise_to_zero(spacing, steps) -> None:
    grid = sigmas(PROCESS, steps, spacing)
    assert grid.dtype == torch.float64 and grid.shape == (steps + 1,)
    assert (grid.diff() < 0).all() and grid[-1] == 0
    assert grid[0].item() == pytest.approx(PROCESS.sigma_max, rel=1e-6)


def test_schedules_are_spaced_as_they_are_called() -> None:
    def gaps(spacing, f):
        return f(sigmas(PROCESS, 7, spacing)[:-1]).diff()

    for spacing, f in (("logsnr", torch.log), ("phi", torch.atan), ("t", PROCESS.t_of_sigma)):
        steps = gaps(spacing, f)
        torch.testing.assert_close(steps, steps.mean().expand(6), rtol=1e-6, atol=1e-9)
    grid = sigmas(PROCESS, 50, "beta").flip(0)
    betas = 1 - alpha_bar_of(grid[1:]) / alpha_bar_of(grid[:-1])
    torch.testing.assert_close(betas.diff(), betas.diff().mean().expand(49), rtol=1e-5, atol=1e-9)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        sigmas(PROCESS, 0)


def test_time_and_noise_level_invert_each_other() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(PROCESS.t_of_sigma(PROCESS.sigma_of_t(t)), t, atol=1e-9, rtol=0)
    whole = torch.arange(0, 2001, 400)
    abar = alpha_bar_of(PROCESS.sigma_of_t(whole.double() / 2000))
    torch.testing.assert_close(abar, PROCESS.alpha_bar[whole], rtol=1e-9, atol=0)


def test_training_law_is_piecewise_uniform() -> None:
    process = VPDiscrete(4, 0.1, 0.4)
    drawn = alpha_bar_of(process.sample_sigma(40_000, torch.Generator().manual_seed(0)))
    for high, low in zip(process.alpha_bar[:-1], process.alpha_bar[1:], strict=True):
        inside = drawn[(drawn <= high) & (drawn > low)]
        assert len(inside) == pytest.approx(10_000, rel=0.05)  # each step equally often
        middle = float((inside - low).mean() / (high - low))
        assert middle == pytest.approx(0.5, abs=0.01)  # and evenly inside it


def test_log_snr_law_is_stratified_over_its_range() -> None:
    law = LogSNRLaw(-6, 10, 1.0)
    for seed in range(5):
        log_snr = -2 * law.sample_sigma(16, torch.Generator().manual_seed(seed)).log()
        cells = ((log_snr + 6) - 1e-9).floor().long().sort().values
        assert cells.tolist() == list(range(16))


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_what_a_network_is_trained_to_tell_gives_the_target_back(name) -> None:
    generator = torch.Generator().manual_seed(0)
    target, noise = torch.randn(2, 3, 3, 5, 4, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.01, 1.0, 80.0], dtype=torch.float64)
    s = per_example(sigma, target)
    law = PARAMETRISATIONS[name]
    made = law.denoised(law.raw(target, noise, s), target + s * noise, s)
    torch.testing.assert_close(made, target, atol=1e-10, rtol=1e-10)


def test_networks_see_the_variance_preserved_state() -> None:
    seen = {}

    def net(x, cond, c_noise):
        seen.update(x=x, cond=cond, c_noise=c_noise)
        return torch.zeros_like(x)

    sigma = torch.tensor([0.5, 20.0])
    x = torch.randn(2, 3, 4, 6)
    bind(net, "cond", "eps")(x, sigma)
    torch.testing.assert_close(seen["c_noise"], alpha_bar_of(sigma).sqrt())
    torch.testing.assert_close(seen["x"], x * seen["c_noise"][:, None, None, None])
    assert seen["cond"] == "cond"
    torch.testing.assert_close(sigma_of(alpha_bar_of(sigma)), sigma)
