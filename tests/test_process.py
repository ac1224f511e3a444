"""Noising laws and schedules."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from levels import alpha_bar_of

from upscale.diffusion.process import (
    SPACINGS,
    LogSNRLaw,
    VPDiscrete,
    VPLinear,
    describe,
    process_from,
    sigmas,
)
from upscale.train.loss import Spec

PROCESS, LINEAR = VPDiscrete(), VPLinear()


def test_table_is_the_product_of_linear_betas() -> None:
    value, wanted = 1.0, [1.0]
    for i in range(2000):
        value *= 1 - (1e-6 + (1e-2 - 1e-6) * i / 1999)
        wanted.append(value)
    expected = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(PROCESS.alpha_bar, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("process", [PROCESS, LINEAR])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 100, 1000])
def test_schedules_descend_from_pure_noise_to_zero(process, spacing, steps) -> None:
    grid = sigmas(process, steps, spacing)
    assert grid.dtype == torch.float64 and grid.shape == (steps + 1,)
    assert (grid.diff() < 0).all() and grid[-1] == 0
    assert grid[0].item() == pytest.approx(process.sigma_max, rel=1e-11)


@given(
    first=st.floats(1e-3, 5),
    more=st.floats(3, 40),
    steps=st.integers(1, 200),
    spacing=st.sampled_from(sorted(SPACINGS)),
)
def test_schedules_of_any_linear_process_descend(first, more, steps, spacing) -> None:
    process = VPLinear(first, first + more)
    grid = sigmas(process, steps, spacing)
    assert grid.isfinite().all() and (grid.diff() < 0).all() and grid[-1] == 0
    assert grid[0].item() == pytest.approx(process.sigma_max, rel=1e-6)


@given(
    length=st.integers(100, 3000),
    first=st.floats(1e-6, 1e-3),
    total=st.floats(3, 14),  # -log alpha_bar at the end, about: sigma_max from 4 to 1000 and more
    steps=st.integers(1, 200),
    spacing=st.sampled_from(sorted(SPACINGS)),
)
def test_schedules_of_any_process_descend(length, first, total, steps, spacing) -> None:
    process = VPDiscrete(length, first, 2 * total / length)
    grid = sigmas(process, steps, spacing)
    assert grid.isfinite().all() and (grid.diff() < 0).all()
    assert grid[0].item() == pytest.approx(process.sigma_max, rel=1e-6)


@pytest.mark.parametrize("process", [PROCESS, LINEAR])
def test_schedules_are_spaced_as_they_are_called(process) -> None:
    def gaps(spacing, f):
        return f(sigmas(process, 7, spacing)[:-1]).diff()

    for spacing, f in (("logsnr", torch.log), ("phi", torch.atan), ("t", process.t_of_sigma)):
        steps = gaps(spacing, f)
        torch.testing.assert_close(steps, steps.mean().expand(6), rtol=1e-6, atol=1e-9)
    grid = sigmas(process, 50, "beta").flip(0)
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


def test_linear_time_and_noise_level_invert_each_other() -> None:
    t = torch.cat([torch.zeros(1), torch.logspace(-6, 0, 100)]).double()
    torch.testing.assert_close(LINEAR.t_of_sigma(LINEAR.sigma_of_t(t)), t, rtol=1e-12, atol=0)
    # PAPERS C.1: abar = exp(-(b_min tau + (b_max - b_min) tau^2 / 2)), 4.3e-5 at 1
    abar = alpha_bar_of(LINEAR.sigma_of_t(t))
    torch.testing.assert_close(abar, torch.exp(-(0.1 * t + 19.9 * t**2 / 2)), rtol=1e-12, atol=0)
    assert float(abar[-1]) == pytest.approx(4.3e-5, rel=0.01)
    assert LINEAR.sigma_of_t(torch.tensor(0.5)).dtype == torch.float64
    assert LINEAR.sigma_max == float(LINEAR.sigma_of_t(t[-1]))
    assert LINEAR.t_of_sigma(torch.tensor(LINEAR.sigma_min)).item() == pytest.approx(1 / 3000)
    assert math.atan(LINEAR.sigma_max) == pytest.approx(1.56422, abs=1e-5)
    assert math.atan(LINEAR.sigma_min) == pytest.approx(0.0058684, abs=1e-6)


@pytest.mark.parametrize("process", [PROCESS, LINEAR, VPLinear(2.0, 5.0)])
def test_rate_is_the_growth_of_log_one_plus_sigma_squared(process) -> None:
    def log_power(t: float) -> float:
        return float(torch.log1p(process.sigma_of_t(torch.tensor(t, dtype=torch.float64)) ** 2))

    for step in (0, 1, 500, 1234, 1999):  # inside of a step of the discrete process
        t = (step + 0.5) / 2000
        slope = (log_power(t + 1e-4) - log_power(t - 1e-4)) / 2e-4
        assert process.rate(t) == pytest.approx(slope, rel=1e-6)
    assert process.rate(1.0) >= process.rate(0.0) > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta_min": 20.0},
        {"beta_min": 0.0},
        {"beta_min": -0.1},
        {"beta_max": 0.05},
        {"beta_max": math.inf},
        {"beta_max": math.nan},
        {"beta_min": math.nan},
        {"t_end": 0.0},
        {"t_end": 1.0},
    ],
)
def test_betas_that_make_no_process_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="no noising process"):
        VPLinear(**wrong)


def test_linear_training_law_is_uniform_in_time() -> None:
    count = 20_000
    drawn = LINEAR.sample_sigma(count, torch.Generator().manual_seed(1))
    t = LINEAR.t_of_sigma(drawn).sort().values
    ranks = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    distance = float((t - ranks).abs().max()) + 0.5 / count
    assert distance * math.sqrt(count) < 1.95  # Kolmogorov-Smirnov, as above


@pytest.mark.parametrize(
    "process", [PROCESS, LINEAR, VPDiscrete(1000, 1e-4, 0.02), VPLinear(0.2, 9.0, 0.01)]
)
def test_a_process_is_described_and_made_again(process) -> None:
    told = describe(process)
    assert json.loads(json.dumps(told)) == told
    assert process_from(told) == process
    assert told["kind"] == ("vp-linear" if isinstance(process, VPLinear) else "vp-discrete")


def test_old_metadata_without_a_kind_is_sr3s() -> None:
    assert process_from({"steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}) == VPDiscrete(
        1000, 1e-4, 0.02
    )
    told = {"kind": "vp-linear", "beta_min": 0.3}
    assert process_from(told) == VPLinear(0.3) and told["kind"]  # what is given stays whole
    for wrong, error in (({"kind": "ve"}, KeyError), ({"betas": 3}, TypeError),
                         ({"kind": "vp-linear", "beta_min": 30.0}, ValueError)):  # fmt: skip
        with pytest.raises(error):
            process_from(wrong)


# --- ECDP, Proposition 1 ------------------------------------------------------------------------

TIMES = [0.0, 1 / 3000, 0.05, 0.3, 0.7, 1.0]


def noised(t: float, std: float, count: int = 400_000) -> tuple[float, float]:
    """Mean of x_t - mu and variance of x_t, of pictures spread by 0.4 about their mean mu.

    By the code that trains and samples: (x0 - mu) / std is noised, scaled to unit variance, and
    put back into the picture (eq. 9-11).
    """
    generator = torch.Generator().manual_seed(3)
    mu = torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1
    detail = torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1  # not Gaussian
    x0 = mu + 0.4 * detail * math.sqrt(3)
    spec = Spec("hybrid", std, LINEAR)
    sigma = LINEAR.sigma_of_t(torch.tensor(t))
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    state = (spec.encode(x0, mu) + sigma * noise) * alpha_bar_of(sigma).sqrt()
    apart = spec.decode(state, mu) - mu
    return float(apart.mean()), float(apart.var())


@pytest.mark.parametrize("t", TIMES)
def test_noise_keeps_mean_and_variance_of_the_picture(t) -> None:
    mean, variance = noised(t, 0.4)
    assert abs(mean) < 5 * 0.4 / math.sqrt(400_000)  # eq. 6
    assert variance == pytest.approx(0.16, rel=5 * math.sqrt(2 / 400_000))  # eq. 7


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("std", [0.2, 0.8])
def test_a_wrong_std_keeps_the_mean_alone(t, std) -> None:
    mean, variance = noised(t, std)
    assert abs(mean) < 5 * 0.8 / math.sqrt(400_000)
    abar = float(alpha_bar_of(LINEAR.sigma_of_t(torch.tensor(t))))
    wanted = abar * 0.16 + (1 - abar) * std**2
    assert variance == pytest.approx(wanted, rel=5 * math.sqrt(2 / 400_000))
    if t >= 0.3:
        assert abs(variance / 0.16 - 1) > 0.3


def test_the_equation_itself_noises_as_its_closed_form_says() -> None:
    """Eq. 5, dr = -1/2 beta r dt + sqrt(beta) dw, by Euler and Maruyama, from r = 1.5."""
    generator, steps, count = torch.Generator().manual_seed(0), 400, 20_000
    r = torch.full((count,), 1.5)
    for i in range(steps):
        step = LINEAR.rate((i + 0.5) / steps) / steps
        r = r * (1 - step / 2) + math.sqrt(step) * torch.randn(count, generator=generator)
        if (i + 1) % 100 == 0:
            abar = alpha_bar_of(LINEAR.sigma_of_t(torch.tensor((i + 1) / steps)))
            assert float(r.mean()) == pytest.approx(1.5 * float(abar.sqrt()), abs=0.04)
            assert float(r.var()) == pytest.approx(float(1 - abar), rel=0.06)


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
    for law in (PROCESS, LINEAR, LogSNRLaw()):
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
