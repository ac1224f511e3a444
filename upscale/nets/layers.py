"""The parts of a diffusion U-Net: residual block, attention, noise-level embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    scale_shift: the embedding gives gain and shift of the second norm; else it is added before it.
    rescale: the sum is divided by sqrt(2) (SR3 section 2.5) and the second convolution starts at 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        embedding: int,
        groups: int,
        dropout: float,
        scale_shift: bool,
        rescale: bool,
        resample: str = "",
    ) -> None:
        super().__init__()
        self.resample, self.rescale, self.scale_shift = resample, rescale, scale_shift
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.film = nn.Linear(embedding, outputs * (2 if scale_shift else 1)) if embedding else None
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        if rescale:
            nn.init.zeros_(self.conv2.weight)
            nn.init.zeros_(self.conv2.bias)

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

    def __init__(self, channels: int, groups: int, heads: int, rescale: bool) -> None:
        super().__init__()
        self.heads, self.rescale = heads, rescale
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, self.heads, 3, channels // self.heads, -1)
        q, k, v = qkv.transpose(3, 4).unbind(2)  # (B,heads,HW,d) each
        h = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(h.transpose(2, 3).reshape(batch, channels, height, width))
        return x * math.sqrt(0.5) if self.rescale else x


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
