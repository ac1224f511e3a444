"""Encoders of the small picture, at its own size: EDSR (Lim et al. 2017), which IDM and LIIF read,
and ECDP's of residual-in-residual dense blocks, RRDB (Wang et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_RESIDUAL = 0.2  # both of RRDB's residual scalings
_SLOPE = 0.2  # of its LeakyReLU
_START = 0.1  # its "smaller initialization"


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


class _EDSRBlock(nn.Module):
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
        self.blocks = nn.Sequential(*(_EDSRBlock(features) for _ in range(blocks)))
        self.last = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return x + self.last(self.blocks(x))


class _DenseBlock(nn.Module):
    """Five 3x3 convolutions, each reading everything before it; the last is the residual."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(features + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(features + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(features + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, padding=1)
        for conv in self.children():
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(_START)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat([seen, F.leaky_relu(conv(seen), _SLOPE)], 1)
        return torch.add(x, self.conv5(seen), alpha=_RESIDUAL)


class _RRDB(nn.Module):
    """Three dense blocks, with a scaled residual around them."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.block1 = _DenseBlock(features, growth)
        self.block2 = _DenseBlock(features, growth)
        self.block3 = _DenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.block3(self.block2(self.block1(x))), alpha=_RESIDUAL)


class RRDBEncoder(nn.Module):
    """(B,3,h,w) -> (B,features*len(selection),h,w), as ECDP uses it.

    blocks: how many RRDBs there are. selection: which of them (0 is the first) to concatenate, in
    this order; nothing follows the blocks.
    """

    def __init__(self, blocks: int, selection: tuple[int, ...], features: int, growth: int) -> None:
        super().__init__()
        self.selection = selection
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.blocks = nn.ModuleList(_RRDB(features, growth) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_first(x)
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            h = block(h)
            if index in self.selection:
                kept[index] = h
        return torch.cat([kept[index] for index in self.selection], 1)
