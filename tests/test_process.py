"""Noising laws and schedules."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upscale.diffusion.process import (
    SPACINGS,
    LogSNRLaw,
    VPDiscrete,
    alpha_bar_of,
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
    assert grid[0].item() == pytest.approx(PROCESS.sigma_max, rel=1e-11)


@given(
    length=st.integers(100, 3000),
    first=st.floats(1e-6, 1e-3),
    total=st.floats(3, 14),  # -log alpha_bar at the end, about: sigma_max from 4 to 1000 and more
    steps=st.integers(1, 200),
    spacing=st.sampled_from(sorted(SPACINGS)),
)
@settings(max_examples=60, deadline=None)
def test_schedules_of_any_process_descend(length, first, total, steps, spacing) -> None:
    process = VPDiscrete(length, first, 2 * total / length)
    grid = sigmas(process, steps, spacing)
    assert grid.isfinite().all() and (grid.diff() < 0).all()
    assert grid[0].item() == pytest.approx(process.sigma_max, rel=1e-6)


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
    assert float(PROCESS.sigma_of_t(torch.tensor(1.0))) == pytest.approx(PROCESS.sigma_max)
    assert float(PROCESS.sigma_of_t(torch.tensor(1 / 2000))) == pytest.approx(PROCESS.sigma_min)
    beyond = torch.tensor([0, 2 * PROCESS.sigma_max], dtype=torch.float64)
    assert PROCESS.t_of_sigma(beyond).tolist() == [0, 1]
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


def test_training_law_of_the_published_table() -> None:
    """Kolmogorov-Smirnov: through the law's distribution function, alpha_bar becomes uniform."""
    count, table = 20_000, PROCESS.alpha_bar.flip(0)  # ascending; each cell has chance 1 / 2000
    drawn = alpha_bar_of(PROCESS.sample_sigma(count, torch.Generator().manual_seed(1)))
    cell = torch.searchsorted(table, drawn).clamp(1, 2000)
    part = (drawn - table[cell - 1]) / (table[cell] - table[cell - 1])
    uniform = ((cell - 1 + part) / 2000).sort().values
    ranks = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    distance = float((uniform - ranks).abs().max()) + 0.5 / count
    assert distance * math.sqrt(count) < 1.95  # passed by 99.9 % of all seeds


def test_training_laws_are_drawn_by_their_generator_alone() -> None:
    for law in (PROCESS, LogSNRLaw()):
        a, b = (law.sample_sigma(9, torch.Generator().manual_seed(5)) for _ in range(2))
        assert a.dtype == torch.float64 and a.shape == (9,)
        assert torch.equal(a, b) and len(a.unique()) == 9
        assert not torch.equal(a, law.sample_sigma(9, torch.Generator().manual_seed(6)))


def test_log_snr_law_keeps_to_its_range() -> None:
    law = LogSNRLaw()
    log_snr = -2 * law.sample_sigma(4000, torch.Generator().manual_seed(0)).log()
    assert -6 <= log_snr.min() < -5.9 and 9.9 < log_snr.max() <= 10
    # E[u ** p] = 1 / (1 + p)
    assert float(log_snr.mean()) == pytest.approx(10 - 16 / 1.7, abs=0.01)


def test_log_snr_law_is_stratified_over_its_range() -> None:
    law = LogSNRLaw(-6, 10, 1.0)
    for seed in range(5):
        log_snr = -2 * law.sample_sigma(16, torch.Generator().manual_seed(seed)).log()
        cells = ((log_snr + 6) - 1e-9).floor().long().sort().values
        assert cells.tolist() == list(range(16))
