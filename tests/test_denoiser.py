"""Parametrisations, and the binding of a network to its condition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upscale.diffusion.denoiser import PARAMETRISATIONS, bind, consistent, per_example
from upscale.diffusion.process import alpha_bar_of

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
        return x.bfloat16()

    target, _, sigma = draw(torch.float32)
    assert bind(net, None, name)(target, sigma).dtype == torch.float32


def test_a_consistent_denoiser_moves_every_estimate() -> None:
    _, noise, sigma = draw()
    denoise = consistent(lambda x, sigma: x - per_example(sigma, x), lambda x: x.round())
    expected = (noise - per_example(sigma, noise)).round()
    torch.testing.assert_close(denoise(noise, sigma), expected, rtol=0, atol=0)
