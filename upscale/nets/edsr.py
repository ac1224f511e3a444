"""EDSR's body (Lim et al. 2017): features of a low-resolution picture, at its own size."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """Convolution, ReLU, convolution, added to the input; no norm."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


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
