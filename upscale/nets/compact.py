"""A small U-Net that works on a quarter of the output's resolution, for CPUs.

Ours, not a paper's. Both the noisy target and the enlarged input enter through pixel_unshuffle(4),
so that a call has 16 times fewer positions than SR3's network. Three decisions follow:

- The features of the input depend on neither the noise nor the step: `encode` computes them once
  per picture, `forward` only reads them.
- Normalisation is per position over channels (no GroupNorm): the network is purely local, so a
  window of a picture gives what the whole picture gives, and tiles leave no seams.
- A bare pixel_shuffle leaves a regular grid. The output is made in two steps of 2 with a
  convolution after each, and every convolution before a shuffle starts as nearest-neighbour
  enlargement (ICNR, Aitken et al. 2017).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 4  # pixel_unshuffle factor of the stem


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of `CompactNet`; the defaults are those of the bundled weights (2.0M parameters).

    channels: width at 1/4, 1/8 and 1/16 of the output's resolution.
    down, up: residual blocks per level on the way down and up (the lowest level has only `down`).
    encoder: residual blocks on the enlarged input. head: channels at 1/2 and 1/1.
    noisy_input: False gives the regression baseline: no noise input, one call.
    """

    channels: tuple[int, int, int] = (64, 96, 128)
    down: tuple[int, int, int] = (3, 1, 1)
    up: tuple[int, int] = (3, 2)
    encoder: int = 3
    head: tuple[int, int] = (32, 12)
    embedding: int = 96
    noisy_input: bool = True

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> CompactConfig:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _channel_norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the channels of each position, (B,C,H,W)."""
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)


def _icnr_(conv: nn.Conv2d, factor: int) -> None:
    """Start a convolution before pixel_shuffle(factor) as nearest-neighbour enlargement."""
    with torch.no_grad():
        base = conv.weight[:: factor * factor].clone()
        conv.weight.copy_(base.repeat_interleave(factor * factor, 0))
        conv.bias.zero_()


class _Block(nn.Module):
    """norm, scale-shift by the embedding, then two 3x3 convolutions, added to the input."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.film = nn.Linear(embedding, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        h = torch.addcmul(shift, _channel_norm(x), 1 + gain)
        return x + self.conv2(F.silu(self.conv1(F.silu(h))))


class CompactNet(nn.Module):
    """`encode(lr_up, scale) -> cond`, then `forward(x, cond, c_noise) -> raw` at every call."""

    kind = "compact"  # its name in methods.NETS and in weights files
    align = 16  # windows of a picture must start at multiples of this to be computed alike
    bytes_per_pixel = 400  # of the output, while a call runs in float32 (measured: peak memory)

    def __init__(self, config: CompactConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or CompactConfig()
        stem, width, emb = 3 * PATCH**2, c.channels, c.embedding
        self.scale_mlp = nn.Sequential(nn.Linear(1, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.enc_in = nn.Conv2d(stem, width[0], 3, padding=1)
        self.enc = nn.ModuleList(_Block(width[0], emb) for _ in range(c.encoder))
        inputs = width[0] + (stem if c.noisy_input else 0)
        self.stem = nn.Conv2d(inputs, width[0], 3, padding=1)
        if c.noisy_input:
            self.noise_mlp = nn.Sequential(nn.Linear(64, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.down = nn.ModuleList(
            nn.ModuleList(_Block(w, emb) for _ in range(n))
            for w, n in zip(width, c.down, strict=True)
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1)
            for a, b in zip(width[:-1], width[1:], strict=True)
        )
        self.grow = nn.ModuleList(
            nn.Conv2d(b, a, 1) for a, b in zip(width[:-1], width[1:], strict=True)
        )
        self.up = nn.ModuleList(
            nn.ModuleList(_Block(w, emb) for _ in range(n))
            for w, n in zip(width[:-1], c.up, strict=True)
        )
        self.head1 = nn.Conv2d(width[0], 4 * c.head[0], 3, padding=1)
        self.head2 = nn.Conv2d(c.head[0], 4 * c.head[1], 3, padding=1)
        self.head3 = nn.Conv2d(c.head[1], 3, 3, padding=1)
        _icnr_(self.head1, 2)
        _icnr_(self.head2, 2)
        nn.init.zeros_(self.head3.weight)
        nn.init.zeros_(self.head3.bias)

    def encode(self, lr_up: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the enlarged input (B,3,H,W) in [-1,1] at magnification `scale` (B,)."""
        embedding = self.scale_mlp(torch.log2(scale.to(lr_up.dtype))[:, None])
        h = self.enc_in(F.pixel_unshuffle(_pad(lr_up, self.align), PATCH))
        for block in self.enc:
            h = block(h, embedding)
        return h, embedding

    def forward(self, x: Tensor, cond: tuple[Tensor, Tensor], c_noise: Tensor) -> Tensor:
        """Raw output (B,3,H,W) for the variance-preserved noisy target x (B,3,H,W).

        c_noise (B,) is sqrt(alpha_bar), SR3's continuous noise level. Without `noisy_input`, x
        gives only the size.
        """
        features, embedding = cond
        height, width = x.shape[-2:]
        if self.config.noisy_input:
            noisy = F.pixel_unshuffle(_pad(x, self.align), PATCH)
            embedding = embedding + self.noise_mlp(_noise_features(c_noise))
            h = self.stem(torch.cat([noisy, features], 1))
        else:
            h = self.stem(features)
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                h = block(h, embedding)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.up))):
            h = F.interpolate(self.grow[level](h), scale_factor=2, mode="nearest") + skips[level]
            for block in self.up[level]:
                h = block(h, embedding)
        h = F.silu(F.pixel_shuffle(self.head1(h), 2))
        h = F.silu(F.pixel_shuffle(self.head2(h), 2))
        return self.head3(h)[..., :height, :width]


def _pad(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples."""
    height, width = x.shape[-2:]
    pad = (0, -width % multiple, 0, -height % multiple)
    return F.pad(x, pad, mode="replicate") if any(pad) else x


def _noise_features(c_noise: Tensor) -> Tensor:
    """(B,) sqrt(alpha_bar) -> (B,64) sinusoids of the log-SNR, wavelengths from 1 to 64."""
    power = c_noise.double().square().clamp(1e-6, 1 - 1e-6)
    log_snr = (power / (1 - power)).log()
    frequencies = 2 * math.pi * torch.logspace(0, -6, 32, base=2.0, dtype=torch.float64)
    angles = log_snr[:, None] * frequencies.to(c_noise.device)
    return torch.cat([angles.sin(), angles.cos()], 1).to(c_noise.dtype)
