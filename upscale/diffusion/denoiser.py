"""The one interface between networks and samplers: `denoise(x, sigma) -> denoised`.

x = target + sigma * noise (the convention of Karras et al. 2022). A network sees the
variance-preserved x / sqrt(1 + sigma^2) and sqrt(alpha_bar) = 1 / sqrt(1 + sigma^2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Denoiser(Protocol):
    """Best guess of the clean target, given x = target + sigma * noise."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(B,3,H,W), (B,) -> (B,3,H,W)."""
        ...


class Eps:
    """The network tells the noise (SR3, IDM): denoised = x - sigma * raw."""

    @staticmethod
    def denoised(raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma * raw

    @staticmethod
    def raw(target: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return noise


class X0:
    """The network tells the clean target."""

    @staticmethod
    def denoised(raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return raw

    @staticmethod
    def raw(target: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return target


class V:
    """The network tells v = sqrt(abar) noise - sqrt(1 - abar) target (Salimans & Ho 2022)."""

    @staticmethod
    def denoised(raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        c = torch.rsqrt(1 + sigma.square())
        return c * c * x - c * sigma * raw

    @staticmethod
    def raw(target: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        c = torch.rsqrt(1 + sigma.square())
        return c * noise - c * sigma * target


PARAMETRISATIONS: dict[str, type[Eps] | type[X0] | type[V]] = {"eps": Eps, "x0": X0, "v": V}


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B,1,1,1) in the dtype and on the device of `like`."""
    return values.to(like)[:, None, None, None]


def bind(net: Callable, cond: object, parametrisation: str) -> Denoiser:
    """The denoiser of one picture (or batch): the network with its condition, computed once."""
    law = PARAMETRISATIONS[parametrisation]

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        c_noise = torch.rsqrt(1 + sigma.square())
        raw = net(x * per_example(c_noise, x), cond, c_noise)
        return law.denoised(raw.to(x.dtype), x, per_example(sigma, x))

    return denoise


def consistent(denoise: Denoiser, project: Callable[[Tensor], Tensor]) -> Denoiser:
    """A denoiser whose estimates are moved by `project` onto the pictures that fit the input."""

    def projected(x: Tensor, sigma: Tensor) -> Tensor:
        return project(denoise(x, sigma))

    return projected
