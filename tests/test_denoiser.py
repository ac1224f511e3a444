"""Parametrisations, and the binding of a network to its condition."""

from __future__ import annotations

import math

import pytest
import torch
from levels import alpha_bar_of
from torch import Tensor

from upscale.diffusion.denoiser import (
    PARAMETRISATIONS,
    Hybrid,
    bind,
    consistent,
    parametrisation,
    per_example,
)

LEVELS = [1e-3, 0.01, 1.0, 150.0]


def draw(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Target, noise (4,3,5,7) and sigma (4,)."""
    generator = torch.Generator().manual_seed(0)
    target, noise = torch.randn(2, 4, 3, 5, 7, generator=generator, dtype=torch.float64).to(dtype)
    return target, noise, torch.tensor(LEVELS, dtype=dtype)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
@pytest.mark.parametrize("dtype, rounding", [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_what_a_network_is_trained_to_tell_gives_the_target_back(name, dtype, rounding) -> None:
    target, noise, sigma = draw(dtype)
    s = per_example(sigma, target)
    law = PARAMETRISATIONS[name]
    made = law.denoised(law.raw(target, noise, s), target + s * noise, s)
    assert made.dtype == dtype
    # x and sigma * raw are rounded at their own size, which grows with sigma
    error = (made - target).abs() / (1 + s)
    assert float(error.max()) < 5 * rounding


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_a_perfect_network_is_a_perfect_denoiser(name) -> None:
    target, noise, sigma = draw()

    def net(x: Tensor, cond: Tensor, c_noise: Tensor) -> Tensor:
        level = (1 - c_noise.square()).sqrt() / c_noise
        return PARAMETRISATIONS[name].raw(cond, noise, per_example(level, x))

    x = target + per_example(sigma, target) * noise
    made = bind(net, target, name)(x, sigma)
    torch.testing.assert_close(made, target, atol=1e-7, rtol=0)


def test_networks_see_the_variance_preserved_state_of_each_example() -> None:
    seen = {}

    def net(x: Tensor, cond: object, c_noise: Tensor) -> Tensor:
        seen.update(x=x, cond=cond, c_noise=c_noise)
        return torch.zeros_like(x)

    target, noise, sigma = draw()
    x, abar = target + per_example(sigma, target) * noise, alpha_bar_of(sigma)
    cond = (object(), object())
    made = bind(net, cond, "eps")(x, sigma)
    torch.testing.assert_close(made, x, rtol=0, atol=0)  # no noise told: nothing taken away
    assert seen["cond"] is cond and seen["c_noise"].shape == (4,)
    torch.testing.assert_close(seen["c_noise"], abar.sqrt())
    # Ho et al. 2020, eq. 4: sqrt(alpha_bar) target + sqrt(1 - alpha_bar) noise
    power = per_example(abar, x)
    torch.testing.assert_close(seen["x"], power.sqrt() * target + (1 - power).sqrt() * noise)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_a_network_in_half_precision_leaves_the_state_its_own(name) -> None:
    def net(x: Tensor, cond: object, c_noise: Tensor) -> Tensor:
        return PARAMETRISATIONS[name].raw(x, x, per_example(c_noise, x)).bfloat16()

    target, _, sigma = draw(torch.float32)
    assert bind(net, None, name)(target, sigma).dtype == torch.float32


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5, math.inf])
def test_the_hybrid_is_ecdps_equation_18(power) -> None:
    """Its own coordinates: r = sqrt(abar) x, and what it predicts is the noise."""
    eps, r0, sigma = draw()
    x = torch.randn(eps.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    s = per_example(sigma, x)
    abar, r = alpha_bar_of(s), x * alpha_bar_of(s).sqrt()
    weight = abar**power
    by_target = (r - abar.sqrt() * r0) / (1 - abar).sqrt()
    told = weight * eps + (1 - weight) * by_target  # eq. 14, 15 and 18
    wanted = (r - (1 - abar).sqrt() * told) / abar.sqrt()
    made = Hybrid(power).denoised(torch.cat([eps, r0], 1), x, s)
    # what is wanted is a difference of terms as large as sigma
    assert float(((made - wanted) / (1 + s)).abs().max()) < 1e-12
    if power == 1:  # as the published code has it, by v
        v = abar.sqrt() * eps - (1 - abar).sqrt() * r0
        torch.testing.assert_close((1 - abar).sqrt() * r + abar.sqrt() * v, told)


def test_the_hybrids_ends_are_one_head_each() -> None:
    eps, r0, sigma = draw()
    raw, x, s = torch.cat([eps, r0], 1), eps + r0, per_example(sigma, eps)
    of_eps, of_x0 = (PARAMETRISATIONS[n].denoised(raw, x, s) for n in ("hybrid-eps", "hybrid-x0"))
    torch.testing.assert_close(of_eps, PARAMETRISATIONS["eps"].denoised(eps, x, s))
    assert torch.equal(of_x0, r0)


def test_parametrisations_are_found_by_name_and_power() -> None:
    for name, law in PARAMETRISATIONS.items():
        assert parametrisation(name) == law
    assert parametrisation("hybrid") == parametrisation("hybrid:1") == Hybrid(1.0)
    assert parametrisation("hybrid:2.5") == Hybrid(2.5)
    assert parametrisation("hybrid:inf") == parametrisation("hybrid-x0")


@pytest.mark.parametrize(
    "name, told",
    [
        ("score", "no parametrisation 'score'; choose from eps, x0, v, hybrid, .*hybrid:POWER"),
        ("eps:2", "no parametrisation 'eps:2'"),
        ("", "no parametrisation ''"),
        ("hybrid:-1", "power of hybrid:-1 is not a number from 0 on"),
        ("hybrid:x", "power of hybrid:x "),
        ("hybrid:nan", "power of hybrid:nan "),
        ("hybrid:", "power of hybrid: "),
    ],
)
def test_names_of_no_parametrisation_are_refused_with_those_there_are(name, told) -> None:
    with pytest.raises(ValueError, match=told):
        parametrisation(name)
    with pytest.raises(ValueError, match=told):
        bind(lambda x, cond, c_noise: x, None, name)


def test_networks_are_told_the_noise_in_float64() -> None:
    seen = []

    def net(x: Tensor, cond: object, c_noise: Tensor) -> Tensor:
        seen.append((x.dtype, c_noise))
        return x

    _, noise, sigma = draw(torch.float32)
    bind(net, None, "x0")(noise, sigma)
    ((dtype, c_noise),) = seen
    assert dtype == torch.float32 and c_noise.dtype == torch.float64
    # in float32 the first of these levels would be told from no noise by one bit
    torch.testing.assert_close(c_noise, torch.rsqrt(1 + sigma.double() ** 2), rtol=1e-14, atol=0)


def test_a_consistent_denoiser_moves_every_estimate() -> None:
    _, noise, sigma = draw()
    denoise = consistent(lambda x, sigma: x - per_example(sigma, x), lambda x: x.round())
    expected = (noise - per_example(sigma, noise)).round()
    torch.testing.assert_close(denoise(noise, sigma), expected, rtol=0, atol=0)
