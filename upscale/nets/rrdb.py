"""RRDB, the residual-in-residual dense encoder of a low-resolution picture (Wang et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_RESIDUAL = 0.2  # both of the paper's residual scalings
_SLOPE = 0.2  # of LeakyReLU
_START = 0.1  # the paper's "smaller initialization"


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
    """(B,in_channels,h,w) -> (B,features*len(selection),h,w), as ECDP uses it.

    blocks: how many RRDBs there are. selection: which of them (0 is the first) to concatenate, in
    this order; nothing follows the blocks. Raises ValueError where it names one that is not there.
    """

    def __init__(
        self,
        blocks: int,
        selection: tuple[int, ...],
        *,
        features: int = 64,
        growth: int = 32,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not selection or not all(0 <= index < blocks for index in selection):
            raise ValueError(f"selection {selection} must name some of the {blocks} encoder blocks")
        self.selection = selection
        self.conv_first = nn.Conv2d(in_channels, features, 3, padding=1)
        self.blocks = nn.ModuleList(_RRDB(features, growth) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_first(x)
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            h = block(h)
            if index in self.selection:
                kept[index] = h
        return torch.cat([kept[index] for index in self.selection], 1)
