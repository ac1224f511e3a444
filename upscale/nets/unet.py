"""The U-Net skeleton of SR3, in its paper's form and in that of the published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from upscale.nets.layers import Attention, Down, NoiseEmbedding, ResBlock, Up
from upscale.nets.net import Config


@dataclass(frozen=True)
class UNetConfig(Config):
    """Everything that distinguishes one network of this family from another.

    inner: channels at full resolution, times `mults` at each level (a level is half the last).
    res_blocks: of every level on the way down; one more on the way up.
    attention: levels (0 is full resolution) with attention after every block, whatever size the
        picture has; the middle always has one. heads: of each attention.
    groups: of every GroupNorm. dropout: before each block's second convolution, in training.
    noise_gain: what multiplies the noise level before its sinusoids, see NoiseEmbedding.
    biggan: the paper's residual blocks (resampling inside them, residual sums over sqrt(2), second
        convolutions that start at 0); False is the published code's DDPM form.
    scale_shift: the noise level gives a block gain and shift (FiLM); False: it is added.
    noisy_input: False is the regression baseline, which sees neither noise nor its level.

    Raises ValueError for sizes that fit no network.
    """

    inner: int = 64
    mults: tuple[int, ...] = (1, 2, 4, 8, 8)
    res_blocks: int = 2
    attention: tuple[int, ...] = (3,)
    heads: int = 1
    groups: int = 32
    dropout: float = 0.0
    noise_gain: float = 5000.0
    biggan: bool = True
    scale_shift: bool = True
    noisy_input: bool = True

    def __post_init__(self) -> None:
        if not self.mults or min(*self.mults, self.res_blocks, self.groups, self.heads) < 1:
            raise ValueError(f"mults, res_blocks, groups and heads must be 1 or more: {self}")
        if self.inner < 2 or self.inner % 2 or self.inner % self.groups:
            raise ValueError(
                f"inner {self.inner} must be even and a multiple of groups {self.groups}"
            )
        levels = len(self.mults)
        if any(not 0 <= level < levels for level in self.attention):
            raise ValueError(f"attention {self.attention} names levels outside 0 to {levels - 1}")
        if any(self.inner * self.mults[i] % self.heads for i in (*self.attention, levels - 1)):
            raise ValueError(f"heads {self.heads} must divide the channels where attention is")


class Layer(nn.Module):
    """A residual block, with attention after it or without."""

    def __init__(self, block: ResBlock, attention: Attention | None = None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x)


class UNet(nn.Module):
    """(B,inputs,H,W), noise level (B,) -> (B,outputs,H,W); H and W multiples of
    2**(levels - 1)."""

    def __init__(self, config: UNetConfig, inputs: int, outputs: int = 3) -> None:
        super().__init__()
        c = config
        self.embed = NoiseEmbedding(c.inner, c.noise_gain) if c.noisy_input else None
        here, saved = c.inner, [c.inner]
        downs: list[nn.Module] = [nn.Conv2d(inputs, here, 3, padding=1)]
        for level, mult in enumerate(c.mults):
            for _ in range(c.res_blocks):
                downs.append(self._layer(c, here, c.inner * mult, level in c.attention))
                here = c.inner * mult
                saved.append(here)
            if level < len(c.mults) - 1:
                downs.append(self._resampler(c, here, "down"))
                saved.append(here)
        middle = [self._layer(c, here, here, True), self._layer(c, here, here, False)]
        ups: list[nn.Module] = []
        for level, mult in reversed(list(enumerate(c.mults))):
            for _ in range(c.res_blocks + 1):
                inputs_here = here + saved.pop()
                ups.append(self._layer(c, inputs_here, c.inner * mult, level in c.attention))
                here = c.inner * mult
            if level:
                ups.append(self._resampler(c, here, "up"))
        self.downs, self.ups = nn.ModuleList(downs), nn.ModuleList(ups)
        self.middle = nn.ModuleList(middle)
        self.out = nn.Sequential(
            nn.GroupNorm(c.groups, here), nn.SiLU(), nn.Conv2d(here, outputs, 3, padding=1)
        )
        if c.biggan:
            nn.init.zeros_(self.out[2].weight)
            nn.init.zeros_(self.out[2].bias)

    @staticmethod
    def _block(c: UNetConfig, inputs: int, outputs: int, resample: str = "") -> ResBlock:
        return ResBlock(
            inputs,
            outputs,
            embedding=c.inner if c.noisy_input else 0,
            groups=c.groups,
            dropout=c.dropout,
            scale_shift=c.scale_shift,
            rescale=c.biggan,
            resample=resample,
        )

    @classmethod
    def _layer(cls, c: UNetConfig, inputs: int, outputs: int, attention: bool) -> Layer:
        looks = Attention(outputs, c.groups, c.heads, c.biggan) if attention else None
        return Layer(cls._block(c, inputs, outputs), looks)

    @classmethod
    def _resampler(cls, c: UNetConfig, channels: int, way: str) -> nn.Module:
        if c.biggan:
            return Layer(cls._block(c, channels, channels, way))
        return Down(channels) if way == "down" else Up(channels)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        embedding = None if self.embed is None else self.embed(level)
        saved = []
        for module in self.downs:
            x = module(x, embedding) if isinstance(module, Layer) else module(x)
            saved.append(x)
        for module in self.middle:
            x = module(x, embedding)
        for module in self.ups:
            # a layer that keeps the size takes the way down's features; a resampler takes none
            if isinstance(module, Layer) and not module.block.resample:
                x = module(torch.cat([x, saved.pop()], 1), embedding)
            else:
                x = module(x, embedding) if isinstance(module, Layer) else module(x)
        return self.out(x)
