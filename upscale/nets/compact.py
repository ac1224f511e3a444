"""A small U-Net that works on a quarter of the output's resolution, for CPUs.

Ours, not a paper's. Both the noisy target and the enlarged input enter through pixel_unshuffle(4),
so that a call has 16 times fewer positions than SR3's network (by configuration through
pixel_unshuffle(2) or as they are, which docs/experiments.md compares). Three decisions follow:

- The features of the input depend on neither the noise nor the step: `encode` computes them once
  per picture, `forward` only reads them.
- Normalisation is per position over channels (no GroupNorm): the network is purely local, so a
  window of a picture gives what the whole picture gives, and tiles leave no seams.
- A bare pixel_shuffle leaves a regular grid. The output is made in steps of 2 with a
  convolution after each, and every convolution before a shuffle starts as nearest-neighbour
  enlargement (ICNR, Aitken et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscale.nets.layers import Halving, activated, added, zeroed
from upscale.nets.net import Config, Net

_STEMS = (1, 2, 4)
_STRIP = 1 << 14  # positions of the stem that the head draws at once, where no gradient is wanted
_HALO = 72  # pixels of the output around that its U-Net depends on, with ten blocks
_BLOCK_HALO = 8  # with each block more
HEAD = ("head3.weight", "head3.bias")  # what is there once for each head
_REACH = 2  # rows of the stem's resolution that the head's convolutions look past their own
# features, embedding, injections; of `CompactIDM`, what is mixed in per level and with what gain
Cond: TypeAlias = tuple[Tensor, Tensor, list[Tensor | None], list[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class CompactConfig(Config):
    """Sizes of `CompactNet`; the defaults are those of the bundled weights (2.0M parameters).

    stem: pixel_unshuffle factor of what enters: 4, or 2 or 1.
    channels: width at 1/4, 1/8 and 1/16 of the output's resolution (1/stem, and so on).
    down, up: residual blocks per level on the way down and up (the lowest level has only `down`).
    encoder: residual blocks on the enlarged input. head: channels at 1/2 (where stem is 4)
    and at 1/1.
    noisy_input: False gives the regression baseline: no noise input, one call.
    heads: 2 gives ECDP's two answers, noise and clean target, for the hybrid parametrisation.
    inject: residual blocks of the encoder whose outputs, concatenated, every block of the U-Net
    receives (ECDP's conditioning, with these blocks in the place of RRDBs, which cost as much
    here as all the rest of the network).
    ValueError: a field has the wrong number of numbers, injects a block that is not there, or
    another stem.
    """

    channels: tuple[int, int, int] = (64, 96, 128)
    down: tuple[int, int, int] = (3, 1, 1)
    up: tuple[int, int] = (3, 2)
    encoder: int = 3
    head: tuple[int, int] = (32, 12)
    embedding: int = 96
    noisy_input: bool = True
    heads: int = 1
    inject: tuple[int, ...] = ()
    stem: int = 4

    def __post_init__(self) -> None:
        if self.stem not in _STEMS:
            raise ValueError(f"stem is {', '.join(map(str, _STEMS))}, not {self.stem}")
        for name, wanted in (("channels", 3), ("down", 3), ("up", 2), ("head", 2)):
            if len(getattr(self, name)) != wanted:
                raise ValueError(f"{name} has {wanted} numbers, not {getattr(self, name)}")
        if any(not 0 <= index < self.encoder for index in self.inject):
            raise ValueError(f"inject {self.inject}: the encoder has {self.encoder} blocks")


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
    """norm, scale-shift by the embedding, then two 3x3 convolutions, added to the input.

    `extra` (B,C,H,W), where given, is added between the two.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.film = zeroed(nn.Linear(embedding, 2 * channels))
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor, extra: Tensor | None = None) -> Tensor:
        gain, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        h = self.conv1(activated(torch.addcmul(shift, _channel_norm(x), 1 + gain)))
        return added(x, self.conv2(activated(h if extra is None else added(extra, h))))


class CompactNet(Net):
    """The U-Net of this file's first lines."""

    kind = "compact"
    config_type = CompactConfig
    named: ClassVar = {
        "compact": CompactConfig(),
        # for trying things out: 0.08M parameters
        "compact-tiny": CompactConfig(
            channels=(16, 16, 24), down=(1, 1, 1), up=(1, 1), encoder=2, head=(8, 4), embedding=32
        ),
    }
    strips = True  # the head sees no further than its convolutions
    bytes_per_pixel = 320  # at a stem of 4
    cond_bytes_per_pixel = 160  # at a stem of 4, injections and all

    def __init__(self, config: CompactConfig | None = None) -> None:
        c = config or CompactConfig()
        super().__init__(c)
        stem, width, emb = 3 * c.stem**2, c.channels, c.embedding
        self.align = c.stem * 2 ** (len(width) - 1)
        # Not all that its layers see, but what counts. Measured with the bundled weights over whole
        # samplings: what comes from further away changes 1 sample of 10,000 by 1 of 255 at most.
        self.halo = _HALO + 2 * c.stem * c.encoder
        self.halo += _BLOCK_HALO * max(0, sum(c.down) + sum(c.up) - 10)
        self.dense = (max(_STEMS) // c.stem) ** 2
        self.bytes_per_pixel *= self.dense
        self.cond_bytes_per_pixel *= self.dense
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
        self.shrink = nn.ModuleList(Halving(a, b) for a, b in pairwise(width))
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(width))
        self.up = nn.ModuleList(
            nn.ModuleList(_Block(w, emb) for _ in range(n))
            for w, n in zip(width[:-1], c.up, strict=True)
        )
        self._build_head()
        self.head3 = zeroed(nn.Conv2d(c.head[1], 3 * c.heads, 3, padding=1))
        if c.inject:
            # a 1x1 convolution per block of the U-Net
            self.inject = nn.ModuleList(
                nn.Conv2d(len(c.inject) * width[0], width[level], 1) for level in self._levels()
            )
            zeroed(self.inject)

    def _build_head(self) -> None:
        c = self.config
        inputs, factor = c.channels[0], min(c.stem, 2)
        if c.stem == 4:
            self.head1 = nn.Conv2d(inputs, 4 * c.head[0], 3, padding=1)
            _icnr_(self.head1, 2)
            inputs = c.head[0]
        self.head2 = nn.Conv2d(inputs, factor**2 * c.head[1], 3, padding=1)
        _icnr_(self.head2, factor)

    def encode(self, lr_up: Tensor, scale: Tensor, lr: Tensor | None = None) -> Cond:
        """Features of the enlarged input (B,3,H,W) in [-1,1] at magnification `scale` (B,);
        `lr` is not needed."""
        embedding = self.scale_mlp(torch.log2(scale.to(lr_up.dtype))[:, None])
        h = self.enc_in(F.pixel_unshuffle(self.padded(lr_up), self.config.stem))
        outputs = {}
        for index, block in enumerate(self.enc):
            h = block(h, embedding)
            if index in self.config.inject:
                outputs[index] = h
        return h, embedding, self._injections(outputs), []

    def _injections(self, outputs: dict[int, Tensor]) -> list[Tensor | None]:
        """What each block of the U-Net receives of the input, in the order of their calls; empties
        `outputs`, for they are large."""
        levels = self._levels()
        if not outputs:
            return [None] * len(levels)
        pyramid = [torch.cat([outputs[index] for index in self.config.inject], 1)]
        outputs.clear()
        while len(pyramid) < len(self.config.down):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        return [conv(pyramid[level]) for conv, level in zip(self.inject, levels, strict=True)]

    def _levels(self) -> list[int]:
        """The level of each block, in the order of their calls."""
        return [level for _, level, _ in blocks(self.config.to_dict())]

    def forward(self, x: Tensor, cond: Cond, c_noise: Tensor) -> Tensor:
        """Raw output (B,3,H,W) for the variance-preserved noisy target x (B,3,H,W); (B,6,H,W)
        with two heads.

        c_noise (B,) is sqrt(alpha_bar), SR3's continuous noise level. Without `noisy_input`, x
        gives only the size.
        """
        features, embedding, injections, mixed = cond
        extras = iter(injections)
        height, width = x.shape[-2:]
        if self.config.noisy_input:
            noisy = F.pixel_unshuffle(self.padded(x), self.config.stem)
            embedding = embedding + self.noise_mlp(_noise_features(c_noise).to(x))
            h = self.stem(torch.cat([noisy, features], 1))
        else:
            h = self.stem(features)
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                h = block(h, embedding, next(extras))
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        h = _mix(h, mixed, len(skips))
        for level in reversed(range(len(self.up))):
            h = self._rise(level, h) + skips[level]
            h = _mix(h, mixed, level)
            for block in self.up[level]:
                h = block(h, embedding, next(extras))
        raw = self._drawn(h)[..., :height, :width]
        return raw if self.config.heads == 1 else _two_heads(raw, x, c_noise)

    def _rise(self, level: int, h: Tensor) -> Tensor:
        """From level + 1 to `level`, twice the size."""
        return F.interpolate(self.grow[level](h), scale_factor=2, mode="nearest")

    def _drawn(self, h: Tensor) -> Tensor:
        """(B,channels[0],H/stem,W/stem) -> raw (B,3 heads,H,W).

        On a CPU in strips of rows: the widest activations of all, which for 3840x2160 would take
        1.1 GB, are made one after another in the same pages of memory.
        """
        stem, rows, strip = self.config.stem, h.shape[2], max(4 * _REACH, _STRIP // h.shape[3])
        if torch.is_grad_enabled() or h.device.type != "cpu" or rows <= strip or not self.strips:
            return self.head3(self._draw(h))
        raw = None
        for top in range(0, rows, strip):
            begin, end = max(0, top - _REACH), min(rows, top + strip)
            part = self.head3(self._draw(h[:, :, begin : end + _REACH]))
            if raw is None:
                size = (len(h), part.shape[1], stem * rows, part.shape[3])
                raw = torch.empty(size, dtype=part.dtype, memory_format=torch.channels_last)
            part = part[:, :, stem * (top - begin) : stem * (end - begin)]
            raw[:, :, stem * top : stem * end] = part
        return raw

    def _draw(self, h: Tensor) -> Tensor:
        """(B,channels[0],H/stem,W/stem) -> (B,head[1],H,W)."""
        if self.config.stem == 4:
            h = activated(F.pixel_shuffle(self.head1(h), 2))
        return activated(F.pixel_shuffle(self.head2(h), min(self.config.stem, 2)))


def _mix(h: Tensor, mixed: list[tuple[Tensor, Tensor]], level: int) -> Tensor:
    """What the input says at this level, and h by its gain (IDM eq. 8); h where nothing is."""
    return mixed[level][0] + mixed[level][1] * h if mixed else h


def _two_heads(raw: Tensor, x: Tensor, c_noise: Tensor) -> Tensor:
    """Noise and clean target (B,6,H,W) from what each head adds to the part of x that is it.

    Both heads predict a velocity; written as noise it counts little at high noise, written as clean
    target little at low noise, so the two losses share out the levels (ECDP section 3.3).
    """
    cos = c_noise[:, None, None, None]
    sin = (1 - cos.square()).clamp_min(0).sqrt()
    cos, sin = cos.to(x), sin.to(x)
    first, second = raw.to(x.dtype).chunk(2, 1)
    return torch.cat([sin * x + cos * first, cos * x - sin * second], 1)


def second_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a network with two heads as that of one with the second alone."""
    return {k: v.chunk(2)[1].clone() if k in HEAD else v for k, v in state.items()}


def _noise_features(c_noise: Tensor) -> Tensor:
    """(B,) sqrt(alpha_bar) -> (B,64) float64: sinusoids of the log-SNR, wavelengths 1 to 64."""
    power = c_noise.double().square().clamp(1e-6, 1 - 1e-6)
    log_snr = (power / (1 - power)).log()
    frequencies = 2 * math.pi * torch.logspace(0, -6, 32, base=2.0, dtype=torch.float64)
    angles = log_snr[:, None] * frequencies.to(c_noise.device)
    return torch.cat([angles.sin(), angles.cos()], 1)


def placed(
    state: Mapping[str, Tensor], theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> dict[str, Tensor]:
    """A state with its injections by the places that its blocks have in another network; those of
    blocks that are not there are left out. theirs, ours: of `Net.architecture`."""
    places = {block: str(place) for place, block in enumerate(blocks(ours))}
    known = {str(place): places.get(block) for place, block in enumerate(blocks(theirs))}

    def moved(key: str) -> str | None:
        first, _, rest = key.partition(".")
        place, _, name = rest.partition(".")
        if first != "inject" or place not in known:
            return key
        return known[place] and f"inject.{known[place]}.{name}"

    return {new: value for key, value in state.items() if (new := moved(key))}


def at_stem(state: Mapping[str, Tensor], stem: int, ours: int) -> dict[str, Tensor]:
    """A state of a network of a larger stem for one of `ours`. What it read of stem^2 pixels is
    read of the ours^2 that they were enlarged from; of its head only the step to twice the
    resolution is left, where that is all of ours."""
    merged = {key: value for key, value in state.items() if not key.startswith("head")}
    if ours == 2:
        merged |= {f"head2.{kind}": state[f"head1.{kind}"] for kind in ("weight", "bias")}
    for key, features in (("enc_in.weight", 0), ("stem.weight", len(state["enc_in.weight"]))):
        count, inputs, *kernel = state[key].shape
        pixels, rest = state[key].split((inputs - features, features), 1)
        share, planes = stem // ours, (inputs - features) // stem**2  # none of a regression's noise
        cells = pixels.reshape(count, planes, ours, share, ours, share, *kernel).sum((3, 5))
        merged[key] = torch.cat([cells.flatten(1, 3), rest], 1)
    return merged


def blocks(architecture: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """The blocks of a U-Net in the order of their calls: way, level, number."""
    down, up = architecture.get("down", ()), architecture.get("up", ())
    for level, count in enumerate(down):
        yield from (("down", level, number) for number in range(count))
    for level in reversed(range(len(up))):
        yield from (("up", level, number) for number in range(up[level]))
