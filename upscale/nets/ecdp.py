"""ECDP's network (Yuan et al.): a U-Net on the noisy residual, led by RRDB features of the input.

Its two heads share one output: channels 0-2 are the noise, 3-5 the clean residual.

Every block adds a 1x1 convolution of the features, resized to its level. Neither depends on noise
or step, and a 1x1 convolution commutes with a bilinear resize (whose weights sum to 1, so the bias
too): `encode` projects at the input's size, once per picture, and resizes the projections.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscale.nets.encoders import RRDBEncoder
from upscale.nets.layers import Down, Up, activated, added
from upscale.nets.net import Config, Net

RESIZES = ("antialias", "plain")
# Output pixels up to which `encode` also stores what is larger than the input: together 2.4 kB a
# pixel with the paper's sizes, 0.6 GB here, for calls 6 % faster. Beyond, each call enlarges it
# anew, with equal results.
STORE_PIXELS = 512 * 512
_OUT_GROUPS = 16  # of the last norm, whatever its width; the others have a quarter of theirs


@dataclass(frozen=True)
class ECDPConfig(Config):
    """Sizes of `ECDPNet`; the defaults are the paper's for DF2K, 4x.

    in_conv: channels of the first convolution. channels, blocks: per level, from full resolution
        (a level is half the last) down; a level has one block more on the way up.
    time_channels, time_hidden: sinusoids of the time, and width of what is made of them.
    encoder_*: number of RRDBs, which of them are read, their features and growth.
    scale: the magnification it is for, an integer.
    t_max: the network's time at tau = 1. beta_min, beta_max: of the variance-preserving process
        that relates tau to c_noise, see `time_of`.
    resize: how features reach a level's size. "antialias" low-passes what shrinks; "plain" does
        not (torchvision from 0.17 on and before it: the published code runs on both).

    Raises ValueError for sizes that fit no network.
    """

    in_conv: int = 64
    channels: tuple[int, ...] = (64, 128, 256, 256)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    time_channels: int = 128
    time_hidden: int = 512
    encoder_blocks: int = 23
    encoder_selection: tuple[int, ...] = (1, 8, 15, 22)
    encoder_features: int = 64
    encoder_growth: int = 32
    scale: int = 4
    t_max: float = 300.0
    beta_min: float = 0.1
    beta_max: float = 20.0
    resize: str = "antialias"

    def __post_init__(self) -> None:
        if not self.channels or len(self.channels) != len(self.blocks):
            raise ValueError(f"channels {self.channels} and blocks {self.blocks} need equal length")
        for name in ("blocks", "time_hidden", "encoder_features", "encoder_growth", "scale"):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"{name} {value} must be 1 or more")
        if min(self.in_conv, *self.channels) < 4:
            raise ValueError(f"in_conv {self.in_conv} and channels {self.channels}: 4 or more")
        if self.channels[0] % _OUT_GROUPS:
            raise ValueError(f"channels {self.channels}: the first, a multiple of {_OUT_GROUPS}")
        if self.time_channels < 4 or self.time_channels % 2:
            raise ValueError(f"time_channels {self.time_channels} must be even, 4 or more")
        known = range(self.encoder_blocks)
        if not self.encoder_selection or any(i not in known for i in self.encoder_selection):
            raise ValueError(
                f"encoder_selection {self.encoder_selection} must name some of "
                f"{self.encoder_blocks} encoder_blocks, from 0"
            )
        if not 0 < self.beta_min < self.beta_max or not self.t_max > 0:
            raise ValueError(f"beta_min must be above 0, below beta_max, t_max above 0: {self}")
        if self.resize not in RESIZES:
            raise ValueError(f"resize {self.resize!r}; choose from {', '.join(RESIZES)}")


# the paper's three; its appendix gives CelebA 3 blocks a level, the published code always has 2
CONFIGS: dict[str, ECDPConfig] = {
    "ecdp-df2k": ECDPConfig(),
    "ecdp-imagenet": ECDPConfig(encoder_blocks=16, encoder_selection=(1, 5, 10, 15)),
    "ecdp-celeba": ECDPConfig(
        blocks=(3, 3, 3, 3), encoder_blocks=8, encoder_selection=(1, 3, 5, 7), scale=8
    ),
}


def time_of(c_noise: Tensor, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """Process time tau in [0,1], float64, at which sqrt(alpha_bar) is `c_noise`, in (0,1].

    Inverse of alpha_bar = exp(-(beta_min tau + (beta_max - beta_min) tau^2 / 2)). The quadratic's
    root is in the form without cancellation. Near 1 float32 has lost most of the time (0.4 % of it
    at tau = 1/3000): callers who have float64 should pass that.
    """
    area = -2 * c_noise.double().clamp(max=1).log()
    root = (beta_min**2 + 2 * (beta_max - beta_min) * area).sqrt()
    return 2 * area / (beta_min + root)


def _sinusoids(t: Tensor, channels: int) -> Tensor:
    """(B,) -> (B,channels): sines, then cosines, of frequencies from 1 down to 1e-4."""
    count = channels // 2
    steps = torch.arange(count, dtype=t.dtype, device=t.device) / (count - 1)
    angles = t[:, None] * torch.exp(-math.log(1e4) * steps)
    return torch.cat([angles.sin(), angles.cos()], 1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels)


class _Block(nn.Module):
    """GroupNorm-SiLU-conv, plus time and features, GroupNorm-SiLU-conv, plus the input."""

    def __init__(self, inputs: int, outputs: int, *, time: int, features: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.project = nn.Conv2d(features, outputs, 1)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv2.weight.data.mul_(1e-3)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        if inputs != outputs:
            self.skip.weight.data.mul_(0.1)

    def forward(self, x: Tensor, time: Tensor, projected: Tensor) -> Tensor:
        h = self.conv1(activated(self.norm1(x)))
        h = added(projected, added(self.time(time)[:, :, None, None], h))
        return added(self.skip(x), self.conv2(activated(self.norm2(h))))


class ECDPNet(Net):
    """The U-Net on the noisy residual, with the features in every block."""

    kind = "ecdp"
    config_type = ECDPConfig
    named: ClassVar = CONFIGS
    wide = True
    reads_lr = True
    one_scale = True
    # with the paper's sizes and stored shares: 8000 to 9200 at 160x160, 7200 at 320x320
    bytes_per_pixel = 8500
    cond_bytes_per_pixel = 2400

    def __init__(self, config: ECDPConfig | None = None) -> None:
        c = config or CONFIGS["ecdp-df2k"]
        super().__init__(c)
        levels = len(c.channels)
        # a window starts on a pixel of the lowest level and on one of the input
        self.align = math.lcm(2 ** (levels - 1), c.scale)
        self.encoder = RRDBEncoder(
            c.encoder_blocks, c.encoder_selection, c.encoder_features, c.encoder_growth
        )
        self.time = nn.Sequential(
            nn.Linear(c.time_channels, c.time_hidden),
            nn.SiLU(),
            nn.Linear(c.time_hidden, c.time_hidden),
            nn.SiLU(),
        )
        self.in_conv = nn.Conv2d(3, c.in_conv, 3, padding=1)
        here, saved = c.in_conv, [c.in_conv]
        downs: list[nn.Module] = []
        for level, (width, count) in enumerate(zip(c.channels, c.blocks, strict=True)):
            for _ in range(count):
                downs.append(self._block(here, width))
                here = width
                saved.append(here)
            if level < levels - 1:
                downs.append(Down(here))
                saved.append(here)
        middle = [self._block(here, here), self._block(here, here)]
        ups: list[nn.Module] = []
        for level in reversed(range(levels)):
            for _ in range(c.blocks[level] + 1):
                ups.append(self._block(here + saved.pop(), c.channels[level]))
                here = c.channels[level]
            if level:
                ups.append(Up(here))
        self.downs, self.ups = nn.ModuleList(downs), nn.ModuleList(ups)
        self.middle = nn.ModuleList(middle)
        self.out = nn.Sequential(
            nn.GroupNorm(_OUT_GROUPS, here), nn.SiLU(), nn.Conv2d(here, 6, 3, padding=1)
        )

    def _block(self, inputs: int, outputs: int) -> _Block:
        c = self.config
        features = c.encoder_features * len(c.encoder_selection)
        return _Block(inputs, outputs, time=c.time_hidden, features=features)

    def encode(self, lr_up: Tensor, scale: Tensor, lr: Tensor | None = None) -> tuple[Tensor, ...]:
        """Every block's share of the features of `lr` (B,3,h,w) in [-1,1], in order of use.

        lr_up (B,3,H,W) gives only the size; `scale` says nothing to a net of fixed scale. Shares
        are at their level's size, except large ones of large pictures (STORE_PIXELS).
        Raises ValueError without `lr`.
        """
        if lr is None:
            raise ValueError("ECDP reads the low-resolution picture itself: give lr")
        height, width = lr_up.shape[-2:]
        features = self.encoder((lr + 1) / 2)  # published weights are of [0,1]
        stored = height * width <= STORE_PIXELS
        shares = []
        for block, level in self._levels():
            share = block.project(features)
            size = (-(-height // 2**level), -(-width // 2**level))
            smaller = size[0] * size[1] <= lr.shape[-2] * lr.shape[-1]
            shares.append(self._resized(share, size) if stored or smaller else share)
        return tuple(shares)

    def forward(self, x: Tensor, cond: tuple[Tensor, ...], c_noise: Tensor) -> Tensor:
        """Raw output (B,6,H,W), noise and clean residual, of the residual x (B,3,H,W).

        x is variance-preserved, sqrt(alpha_bar) * residual + sqrt(1 - alpha_bar) * noise, and
        c_noise (B,) is sqrt(alpha_bar), best in float64 (see `time_of`). Any H, W >= 1.
        """
        c, shares = self.config, iter(cond)
        t = time_of(c_noise, c.beta_min, c.beta_max) * c.t_max
        time = self.time(_sinusoids(t, c.time_channels).to(self.time[0].weight))
        h = self.in_conv(x)
        saved = [h]
        for module in self.downs:
            h = self._called(module, h, time, shares) if _is_block(module) else module(h)
            saved.append(h)
        for module in self.middle:
            h = self._called(module, h, time, shares)
        for module in self.ups:
            if _is_block(module):
                h = self._called(module, torch.cat([h, saved.pop()], 1), time, shares)
            else:  # an odd side was rounded up on the way down
                h = module(h)[..., : saved[-1].shape[-2], : saved[-1].shape[-1]]
        return self.out(h)

    def _called(self, block: nn.Module, x: Tensor, time: Tensor, shares: Iterator) -> Tensor:
        return block(x, time, self._resized(next(shares), tuple(x.shape[-2:])))

    def _levels(self) -> Iterator[tuple[_Block, int]]:
        """Every block in order of use, with how often its level's size is halved."""
        level = 0
        for module in [*self.downs, *self.middle, *self.ups]:
            if _is_block(module):
                yield module, level
            else:
                level += 1 if isinstance(module, Down) else -1

    def _resized(self, share: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(share.shape[-2:]) == size:
            return share
        # torch has no antialiased resize of half precision on CPUs
        wide = share.float() if share.dtype.itemsize < 4 else share
        antialias = self.config.resize == "antialias"
        return F.interpolate(wide, size, mode="bilinear", antialias=antialias).to(share.dtype)


def _is_block(module: nn.Module) -> bool:
    return isinstance(module, _Block)
