"""EDSR's body (Lim et al. 2017): features of a low-resolution picture, at its own size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def each_size(lr: Tensor | Sequence[Tensor], encode: Callable[[Tensor], Tensor]) -> Tensor:
    """`encode` of a batch (B,3,h,w), or of B pictures (3,h,w) of any sizes, those of one size
    together; its results must have one size."""
    if isinstance(lr, Tensor):
        return encode(lr)
    by_size: dict[torch.Size, list[int]] = {}
    for index, small in enumerate(lr):
        by_size.setdefault(small.shape, []).append(index)
    stacks = (torch.stack([lr[i] for i in indices]) for indices in by_size.values())
    parts = [encode(x.contiguous(memory_format=torch.channels_last)) for x in stacks]
    order = torch.tensor([i for indices in by_size.values() for i in indices])
    return torch.cat(parts)[order.argsort().to(parts[0].device)]


class _Block(nn.Module):
    """Convolution, ReLU, convolution, added to the input; no norm."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


def reach(blocks: int) -> int:
    """How many pixels to each side a feature of an `EDSR` with so many blocks depends on."""
    return 2 * blocks + 2


class EDSR(nn.Module):
    """(B,3,h,w) -> (B,features,h,w): the paper's baseline without its upsampling.

    Its residual scaling is for the wide model only (256 features), and its subtraction of the
    training set's mean colour is what the first bias can learn: neither is here.
    """

    def __init__(self, blocks: int = 16, features: int = 64) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(features) for _ in range(blocks)))
        self.last = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return x + self.last(self.blocks(x))
