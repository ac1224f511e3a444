"""IDM on the compact network: one small network for every magnification (Gao et al.).

What makes IDM continuous is kept: an EDSR encoder at the input's own resolution, whose features
are interpolated to the target and stand beside the noise; a small CNN that makes features for
every level of them (eq. 4), mixed into the way up in proportions that depend on the magnification
(eqs. 5 to 8); coordinate MLPs in every enlargement (eq. 9). The U-Net between is `CompactNet`'s.
Each MLP stands beside the plain enlargement that `CompactNet` has there, so that its weights are a
start for these; the first of the two that draw has LIIF's local ensemble, whose answers are
continuous from cell to cell, and convolutions at full resolution smooth what is left of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscale.nets.compact import CompactConfig, CompactNet, Cond
from upscale.nets.encoders import EDSR, each_size, reach
from upscale.nets.idm import check_form
from upscale.nets.implicit import ImplicitUpsampler, Place, PlainUpsampler, sampled
from upscale.nets.layers import zeroed

_SLOPE = 0.2
_DELTA = 1e-8  # eqs. 6 and 7


@dataclass(frozen=True)
class CompactIDMConfig(CompactConfig):
    """Sizes of `CompactIDM`, and the paper's ablations; the defaults are `idm-photo`'s.

    encoder_blocks, encoder_features: of EDSR. initial: channels of its features at the target's
    resolution. branch: width of the conditioning CNN. hidden: of the MLPs between levels;
    head_hidden: of the two that draw. max_scale: the M of training's magnifications (1, M].
    conditioning: "adaptive" as in the paper; "encoder", features beside the noise and no CNN;
    "input", as SR3, the enlarged input alone (Fig. 9). fixed_scale: the network receives this
    magnification whatever it is (Fig. 8); 0: the true one. upsampler: what stands in the
    MLPs' places.

    Raises ValueError for names it does not know, another stem than 4, and no magnification above 1.
    """

    encoder_blocks: int = 6
    encoder_features: int = 48
    initial: int = 16
    branch: int = 64
    hidden: int = 192
    head_hidden: tuple[int, int] = (48, 32)
    max_scale: float = 8.0
    conditioning: str = "adaptive"
    fixed_scale: float = 0.0
    upsampler: str = "implicit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stem != 4:
            raise ValueError(f"IDM draws in two steps of 2: stem is 4, not {self.stem}")
        check_form(self.conditioning, self.upsampler, self.max_scale)

    def fitted(self, largest: float) -> CompactIDMConfig:
        return replace(self, max_scale=largest)


CONFIGS = {
    "photo": CompactIDMConfig(),
    # 16x16 faces: below 4 MiB in half precision
    "face": CompactIDMConfig(
        encoder=1, encoder_blocks=4, encoder_features=24, initial=12, branch=32, hidden=64
    ),
}


class _Proportions(nn.Module):
    """Eq. 5's MLP: (B,1) -> alpha1 (the input's) and alpha2 (the U-Net's), (B,C,1,1), whose
    squares sum to 1 (eqs. 6 and 7). They start where the U-Net's is nearly all."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 2 * outputs))
        with torch.no_grad():
            self.mlp[2].bias[:outputs].fill_(0.25)
            self.mlp[2].bias[outputs:].fill_(1.0)

    def forward(self, relative: Tensor) -> tuple[Tensor, Tensor]:
        alpha1, alpha2 = self.mlp(relative)[:, :, None, None].abs().chunk(2, 1)
        norm = (alpha1.square() + alpha2.square() + _DELTA).sqrt()
        return alpha1 / norm, alpha2 / norm


class CompactIDM(CompactNet):
    """The compact U-Net with what makes IDM continuous."""

    kind = "compact-idm"
    config_type = CompactIDMConfig
    named: ClassVar = {"compact": CONFIGS["photo"]}
    strips = False  # its head interpolates over coordinates of the whole
    reads_lr = True
    bytes_per_pixel = 900  # 541 at 4x, more at 1x
    cond_bytes_per_pixel = 60

    def __init__(self, config: CompactIDMConfig | None = None) -> None:
        c = config or CONFIGS["photo"]
        super().__init__(c)
        self.lr_margin = reach(c.encoder_blocks) + 2  # the convolution and interpolation after it
        width, levels = c.channels, len(c.channels)
        if c.conditioning != "input":
            self.edsr = EDSR(c.encoder_blocks, c.encoder_features)
            self.tail = nn.Conv2d(c.encoder_features, c.initial, 3, padding=1)
            self.enter = zeroed(nn.Conv2d(c.initial * c.stem**2, width[0], 1))
        self.rise = nn.ModuleList(self._upsampler(b, a, c.hidden) for a, b in pairwise(width))
        for layer in (*self.rise, *self.draw):  # beside them is the plain enlargement
            zeroed(layer.second)
        if c.conditioning == "adaptive":
            self.cnn = nn.ModuleList(
                nn.Conv2d(a, c.branch, 3, padding=1) for a in (width[0], *[c.branch] * (levels - 1))
            )
            self.project = zeroed(nn.ModuleList(nn.Conv2d(c.branch, n, 1) for n in width))
            self.proportions = nn.ModuleList(_Proportions(n) for n in width)

    @classmethod
    def sizes(cls, name: str, domain: str, largest: float) -> CompactIDMConfig:
        return CONFIGS[domain]

    def _build_head(self) -> None:
        c = self.config
        super()._build_head()
        widths = (c.channels[0], *c.head)
        self.draw = nn.ModuleList(
            self._upsampler(widths[i], widths[i + 1], c.head_hidden[i], ensemble=i == 0)
            for i in range(2)
        )
        self.refine = nn.ModuleList(
            [nn.Conv2d(c.head[1], 16, 3, padding=1), nn.Conv2d(16, c.head[1], 3, padding=1)]
        )
        zeroed(self.refine[1])

    def _upsampler(self, inputs: int, outputs: int, hidden: int, **options: bool) -> nn.Module:
        if self.config.upsampler != "implicit":
            return PlainUpsampler(inputs, outputs, self.config.upsampler)
        return ImplicitUpsampler(inputs, outputs, hidden=hidden, **options)

    def encode(
        self,
        lr_up: Tensor,
        scale: Tensor,
        lr: Tensor | Sequence[Tensor] | None = None,
        place: Place | None = None,
    ) -> Cond:
        """What the input says at magnification `scale` (B,).

        lr_up (B,3,H,W) and lr (B,3,h,w), or B tensors (3,h,w) of any sizes, in [-1,1]. place:
        where lr_up lies over lr; None: over all of it. Raises ValueError without `lr`.
        """
        c = self.config
        if c.fixed_scale:
            scale = torch.full_like(scale, c.fixed_scale)
        features, embedding, injections, _ = super().encode(lr_up, scale)
        if c.conditioning != "input":
            if lr is None:
                raise ValueError("IDM reads the low-resolution picture itself: give lr")
            initial = self._initial(lr, tuple(lr_up.shape[-2:]), place)
            initial = F.pixel_unshuffle(self.padded(initial), c.stem)
            features = features + self.enter(initial)
        mixed = []
        if c.conditioning == "adaptive":
            relative = ((scale - 1) / (c.max_scale - 1)).to(lr_up.dtype)[:, None]
            h = features
            for level, conv in enumerate(self.cnn):
                h = F.avg_pool2d(h, 2) if level else h  # bilinear filtering at exactly a half
                h = F.leaky_relu(conv(h), _SLOPE)
                alpha1, alpha2 = self.proportions[level](relative)
                mixed.append((self.project[level](h) * alpha1, alpha2))
        return features, embedding, injections, mixed

    def _initial(
        self, lr: Tensor | Sequence[Tensor], size: tuple[int, int], place: Place | None
    ) -> Tensor:
        """f(0): EDSR's features at the target's size, (B,initial,*size)."""

        def one_size(lr: Tensor) -> Tensor:
            at = place or Place.whole(tuple(lr.shape[-2:]), size)
            return sampled(self.tail(self.edsr(lr)), size, at)

        return each_size(lr, one_size)

    def _rise(self, level: int, h: Tensor) -> Tensor:
        size = (2 * h.shape[2], 2 * h.shape[3])
        return super()._rise(level, h) + self.rise[level](h, size)

    def _draw(self, h: Tensor) -> Tensor:
        for convolution, layer in zip((self.head1, self.head2), self.draw, strict=True):
            size = (2 * h.shape[2], 2 * h.shape[3])
            h = F.silu(F.pixel_shuffle(convolution(h), 2) + layer(h, size))
        return h + self.refine[1](F.silu(self.refine[0](h)))
