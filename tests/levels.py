"""Noise levels as the papers write them."""

from __future__ import annotations

from torch import Tensor


def alpha_bar_of(sigma: Tensor) -> Tensor:
    """The cumulative signal power at a noise-to-signal ratio: inverse of `process.sigma_of`."""
    return 1 / (1 + sigma.square())
