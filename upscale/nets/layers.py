"""What several networks are made of: resampling, and sums and activations that take no memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def zeroed(layer: nn.Module) -> Any:
    """The layer with weights and biases at zero: what it is added to starts as if it were not."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def activated(fresh: Tensor) -> Tensor:
    """SiLU of a tensor without other readers, computed in place where no gradient is needed."""
    return F.silu(fresh, inplace=not torch.is_grad_enabled())


def added(x: Tensor, fresh: Tensor) -> Tensor:
    """x + fresh, in the place of `fresh`, which nobody else reads, where no gradient is wanted."""
    if torch.is_grad_enabled() or torch.result_type(x, fresh) != fresh.dtype:
        return x + fresh
    return fresh.add_(x)


class Halving(nn.Conv2d):
    """3x3 convolution with stride 2 and a padding of 1: (B,C,H,W) -> (B,C',ceil(H/2),ceil(W/2)).

    The library's own, in native bf16 on a CPU (AMX), reads past the picture where the result is a
    single column (torch 2.13: all values wrong, some not finite). One more column, of zeros, gives
    two, of which the first is the one wanted.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 2:
            return super().forward(x)
        return super().forward(F.pad(x, (0, 3 - x.shape[-1])))[..., :1]


class Down(nn.Module):
    """Half the size by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Halving(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    """Twice the size by repetition, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))
