"""The U-Net of SR3, in its paper's form and in that of the published checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscale.nets.layers import Down, Up, activated, added, zeroed
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


class NoiseEmbedding(nn.Module):
    """Continuous noise level (B,) -> (B,C): sinusoids (WaveGrad, Chen et al. 2021, eq. 13), MLP.

    gain multiplies the level first: WaveGrad's is 5000, the published SR3 code's is 1, at which
    most sinusoids hardly vary.
    """

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.channels, self.gain = channels, gain
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, level: Tensor) -> Tensor:
        count = self.channels // 2
        steps = torch.arange(count, dtype=level.dtype, device=level.device) / count
        angles = self.gain * level[:, None] * torch.exp(-math.log(1e4) * steps)
        return self.mlp(torch.cat([angles.sin(), angles.cos()], 1))


class ResBlock(nn.Module):
    """GroupNorm-SiLU-conv, noise embedding, GroupNorm-SiLU-dropout-conv, plus the input.

    resample "down" or "up" changes the size inside, on both ways (BigGAN, Brock et al. 2019).
    With scale_shift the embedding gives gain and shift of the second norm; else it is added before
    it. With biggan the sum is divided by sqrt(2) (SR3 section 2.5).
    """

    def __init__(self, c: UNetConfig, inputs: int, outputs: int, resample: str = "") -> None:
        super().__init__()
        self.resample, self.rescale, self.scale_shift = resample, c.biggan, c.scale_shift
        self.norm1 = nn.GroupNorm(c.groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        width = outputs * (2 if c.scale_shift else 1)
        self.film = nn.Linear(c.inner, width) if c.noisy_input else None
        self.norm2 = nn.GroupNorm(c.groups, outputs)
        self.dropout = nn.Dropout(c.dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        if c.biggan:
            zeroed(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        h = self.conv1(self._resized(activated(self.norm1(x))))
        if self.film is None or embedding is None:
            h = self.norm2(h)
        elif self.scale_shift:
            gain, shift = self.film(F.silu(embedding))[:, :, None, None].chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h), 1 + gain)
        else:
            h = self.norm2(added(self.film(embedding)[:, :, None, None], h))
        h = added(self.skip(self._resized(x)), self.conv2(self.dropout(activated(h))))
        return h * math.sqrt(0.5) if self.rescale else h

    def _resized(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0) if self.resample == "up" else x


class Attention(nn.Module):
    """Self-attention over all positions, any height and width; fused, no N x N matrix kept."""

    def __init__(self, c: UNetConfig, channels: int) -> None:
        super().__init__()
        self.heads, self.rescale = c.heads, c.biggan
        self.norm = nn.GroupNorm(c.groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, self.heads, 3, channels // self.heads, -1)
        q, k, v = qkv.transpose(3, 4).unbind(2)  # (B,heads,HW,d) each
        h = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(h.transpose(2, 3).reshape(batch, channels, height, width))
        return x * math.sqrt(0.5) if self.rescale else x


class Layer(nn.Module):
    """A residual block, with attention after it or without."""

    def __init__(
        self,
        c: UNetConfig,
        inputs: int,
        outputs: int,
        *,
        attention: bool = False,
        resample: str = "",
    ) -> None:
        super().__init__()
        after = Attention(c, outputs) if attention else None  # its weights are drawn first
        self.block = ResBlock(c, inputs, outputs, resample)
        self.attention = after

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x)


class UNet(nn.Module):
    """(B,inputs,H,W), noise level (B,) -> (B,outputs,H,W); H and W multiples of
    2**(levels - 1)."""

    def __init__(self, c: UNetConfig, inputs: int, outputs: int = 3) -> None:
        super().__init__()
        self.embed = NoiseEmbedding(c.inner, c.noise_gain) if c.noisy_input else None
        here, saved = c.inner, [c.inner]
        downs: list[nn.Module] = [nn.Conv2d(inputs, here, 3, padding=1)]
        for level, mult in enumerate(c.mults):
            for _ in range(c.res_blocks):
                downs.append(Layer(c, here, c.inner * mult, attention=level in c.attention))
                here = c.inner * mult
                saved.append(here)
            if level < len(c.mults) - 1:
                downs.append(self._resampler(c, here, "down"))
                saved.append(here)
        middle = [Layer(c, here, here, attention=True), Layer(c, here, here)]
        ups: list[nn.Module] = []
        for level, mult in reversed(list(enumerate(c.mults))):
            for _ in range(c.res_blocks + 1):
                both, looks = here + saved.pop(), level in c.attention
                ups.append(Layer(c, both, c.inner * mult, attention=looks))
                here = c.inner * mult
            if level:
                ups.append(self._resampler(c, here, "up"))
        self.downs, self.ups = nn.ModuleList(downs), nn.ModuleList(ups)
        self.middle = nn.ModuleList(middle)
        self.out = nn.Sequential(
            nn.GroupNorm(c.groups, here), nn.SiLU(), nn.Conv2d(here, outputs, 3, padding=1)
        )
        if c.biggan:
            zeroed(self.out[2])

    @staticmethod
    def _resampler(c: UNetConfig, channels: int, way: str) -> nn.Module:
        if c.biggan:
            return Layer(c, channels, channels, resample=way)
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
