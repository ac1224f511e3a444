"""The random numbers of a training step: a function of seed, iteration and place in the batch.

What belongs to an example is drawn from a generator of its own, so that it is the same whichever
process computes the example, and in which part of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upscale.diffusion.noise import mix


@dataclass(frozen=True)
class Chance:
    """Numbers for the examples at `places` of an iteration's batch. device: of the numbers."""

    seed: int
    iteration: int
    places: Sequence[int]
    device: torch.device | str = "cpu"

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal (B,...) with B = len(places)."""
        return torch.stack([torch.randn(shape[1:], **self._own(place, 0)) for place in self.places])

    def uniform(self) -> Tensor:
        """In [0, 1), (B,)."""
        return torch.stack([torch.rand((), **self._own(place, 1)) for place in self.places])

    def _own(self, place: int, stream: int) -> dict:
        generator = torch.Generator(self.device)
        generator.manual_seed(mix(self.seed, self.iteration, place, stream))
        return {"generator": generator, "device": self.device}


def shared(seed: int, iteration: int) -> torch.Generator:
    """For what all examples of an iteration have in common."""
    return torch.Generator().manual_seed(seed * 1_000_003 + iteration)


def normal(shape: Sequence[int], source: torch.Generator | Chance) -> Tensor:
    """Standard normal numbers from either kind of source."""
    if isinstance(source, Chance):
        return source.normal(shape)
    return torch.randn(tuple(shape), generator=source)


def uniform(count: int, source: torch.Generator | Chance) -> Tensor:
    """Numbers in [0, 1) (count,) from either kind of source."""
    if isinstance(source, Chance):
        return source.uniform()
    return torch.rand(count, generator=source)


def antithetic(count: int, generator: torch.Generator) -> Tensor:
    """Pairs u, 1 - u, float64 (count,): their mean is 1/2 in every batch of even size, which
    takes most of the variance that the choice of noise levels has."""
    u = torch.rand((count + 1) // 2, generator=generator, dtype=torch.float64)
    return torch.stack([u, 1 - u], 1).flatten()[:count]
