"""The one interface between networks and samplers: `denoise(x, sigma) -> denoised`.

x = target + sigma * noise (the convention of Karras et al. 2022). A network sees the
variance-preserved x / sqrt(1 + sigma^2) and sqrt(alpha_bar) = 1 / sqrt(1 + sigma^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor


class Denoiser(Protocol):
    """Best guess of the clean target, given x = target + sigma * noise."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(B,3,H,W), (B,) -> (B,3,H,W)."""
        ...


class Eps:
    """The network predicts the noise (SR3, IDM): denoised = x - sigma * raw."""

    @staticmethod
    def denoised(raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma * raw

    @staticmethod
    def raw(target: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return noise


class X0:
    """The network predicts the clean target."""

    @staticmethod
    def denoised(raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return raw

    @staticmethod
    def raw(target: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return target


class V:
    """The network predicts v = sqrt(abar) noise - sqrt(1 - abar) target (Salimans & Ho 2022)."""

    @staticmethod
    def denoised(raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        c = torch.rsqrt(1 + sigma.square())
        return c * c * x - c * sigma * raw

    @staticmethod
    def raw(target: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        c = torch.rsqrt(1 + sigma.square())
        return c * noise - c * sigma * target


@dataclass(frozen=True)
class Hybrid:
    """The network has two heads, raw (B,6,H,W) = noise and clean target (ECDP eq. 18).

    denoised = w D_eps + (1 - w) D_x0 with w = alpha_bar ** power: the noise head counts where
    there is little noise, the target head where there is much. The paper has power 1; 0
    uses the noise head alone, infinity the target head alone.
    """

    power: float = 1.0

    def denoised(self, raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        eps, x0 = raw.chunk(2, 1)
        weight = (1 + sigma.square()) ** -self.power
        return x0 + weight * (x - sigma * eps - x0)

    @staticmethod
    def raw(target: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return torch.cat([noise, target], 1)


Parametrisation: TypeAlias = type[Eps] | type[X0] | type[V] | Hybrid
PARAMETRISATIONS: dict[str, Parametrisation] = {
    "eps": Eps,
    "x0": X0,
    "v": V,
    "hybrid": Hybrid(),
    "hybrid-eps": Hybrid(0.0),
    "hybrid-x0": Hybrid(math.inf),
}


def parametrisation(name: str) -> Parametrisation:
    """The parametrisation of this name; "hybrid:0.5" is the hybrid with that power.

    Raises ValueError with the valid names.
    """
    kind, colon, power = name.partition(":")
    if colon and kind == "hybrid":
        try:
            if (value := float(power)) >= 0:
                return Hybrid(value)
        except ValueError:
            pass
        raise ValueError(f"the power of hybrid:{power} is not a number from 0 on")
    if name not in PARAMETRISATIONS:
        have = ", ".join(PARAMETRISATIONS)
        raise ValueError(f"no parametrisation {name!r}; choose from {have}, hybrid:POWER")
    return PARAMETRISATIONS[name]


# MPS has no float64 at all, nor have some of Intel's: their few such numbers are made on the CPU
WITHOUT_FLOAT64 = ("mps", "xpu")


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B,1,1,1) in the dtype and on the device of `like`."""
    return values.to(like)[:, None, None, None]


def bind(net: Callable, cond: object, name: str) -> Denoiser:
    """The denoiser of one picture (or batch): the network with its condition, computed once.

    name: the parametrisation, what the network predicts.
    """
    law = parametrisation(name)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        # in float64: a network that derives its time from it must distinguish the last steps
        exact = sigma.cpu() if sigma.device.type in WITHOUT_FLOAT64 else sigma
        c_noise = torch.rsqrt(1 + exact.double().square())
        raw = net(x * per_example(c_noise, x), cond, c_noise)
        return law.denoised(raw.to(x.dtype), x, per_example(sigma, x))

    return denoise


def consistent(denoise: Denoiser, project: Callable[[Tensor], Tensor]) -> Denoiser:
    """A denoiser whose estimates are moved by `project` onto the pictures that fit the input."""

    def projected(x: Tensor, sigma: Tensor) -> Tensor:
        return project(denoise(x, sigma))

    return projected
