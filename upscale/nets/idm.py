"""IDM's network (Gao et al.): a U-Net for every magnification, led by features of the input.

Its encoder's features f(0), enlarged, stand beside the noise; a small CNN makes f(1) to f(N) of
them, one per level below, which are mixed into the way up in proportions that depend on the
magnification (eqs. 4 to 8); the upsamplers are implicit functions (eq. 9). All that depends on
neither noise nor step is made by `encode`, once per picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscale.nets.encoders import EDSR, each_size
from upscale.nets.implicit import ImplicitUpsampler, Place, PlainUpsampler, repeated, sampled
from upscale.nets.layers import Halving, Up
from upscale.nets.net import Config, Net
from upscale.nets.unet import Layer, UNet, UNetConfig

_SLOPE = 0.2  # of every leaky ReLU, StyleGAN2's
_DELTA = 1e-8  # eqs. 6 and 7
CONDITIONING = ("adaptive", "encoder", "input")
UPSAMPLERS = ("implicit", "nearest", "bilinear")
_MLP = 64  # hidden width of the MLP of the magnification, which the paper leaves out
Size: TypeAlias = tuple[int, int]
# what of the first convolution is the input's; per level from 1 down: what is added, and the gain
Cond: TypeAlias = tuple[Tensor, list[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class IDMConfig(Config):
    """Sizes of `IDMNet`; the defaults are those of the published code for 16 -> 128 faces.

    unet: of DDPM's form (no biggan), with two levels or more.
    encoder_blocks, encoder_features: of EDSR. hidden: of the upsamplers' MLPs.
    max_scale: the M of training's magnifications (1, M]; the network receives (s - 1) / (M - 1).
    local_ensemble, feature_unfold, cell_decode: LIIF's options, see ImplicitUpsampler.
    The paper's ablations: conditioning "encoder" (features beside the noise, no CNN) or "input" (as
    SR3, the enlarged input alone; Fig. 9); fixed_scale: the network receives this magnification
    whatever it is (Fig. 8), 0 for the true one; upsampler "nearest" or "bilinear", with a
    convolution, in the implicit ones' place.
    published: what the published checkpoints compute, where that is not what the paper says:
        - the encoder's features are enlarged by repetition and reduced to 3 channels,
        - the CNN's filter is a blur of [1,3,1] / 5, and one more convolution stands before it,
        - alpha is affine in the magnification, and keeps its sign,
        - features are mixed after a level's blocks, not before them, then biased and activated,
        - the upsamplers' MLPs have no activation.

    Raises ValueError for sizes that fit no network.
    """

    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(dropout=0.2, biggan=False, scale_shift=False)
    )
    encoder_blocks: int = 16
    encoder_features: int = 64
    hidden: int = 256
    max_scale: float = 8.0
    conditioning: str = "adaptive"
    fixed_scale: float = 0.0
    upsampler: str = "implicit"
    local_ensemble: bool = False
    feature_unfold: bool = False
    cell_decode: bool = False
    published: bool = False

    def __post_init__(self) -> None:
        for name in ("encoder_blocks", "encoder_features", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be 1 or more")
        check_form(self.conditioning, self.upsampler, self.max_scale)
        if self.published and (self.conditioning, self.upsampler) != ("adaptive", "implicit"):
            raise ValueError("the published form has no ablations")
        if self.unet.biggan or not self.unet.noisy_input or len(self.unet.mults) < 2:
            raise ValueError(f"unet: no biggan, with noisy_input, 2 mults or more: {self.unet}")

    @classmethod
    def from_dict(cls, values: dict) -> IDMConfig:
        return super().from_dict({**values, "unet": UNetConfig.from_dict(values["unet"])})

    def fitted(self, largest: float) -> IDMConfig:
        return replace(self, max_scale=largest)


def check_form(conditioning: str, upsampler: str, max_scale: float) -> None:
    """Raises ValueError for names that are not known, and where there is but one magnification."""
    if not max_scale > 1:
        raise ValueError(f"max_scale {max_scale} must be above 1")
    for what, name, known in (
        ("conditioning", conditioning, CONDITIONING),
        ("upsampler", upsampler, UPSAMPLERS),
    ):
        if name not in known:
            raise ValueError(f"no {what} {name!r}; choose from {', '.join(known)}")


_FACES = IDMConfig()
_TINY = IDMConfig(
    unet=UNetConfig(
        inner=16, mults=(1, 2, 4), res_blocks=1, attention=(2,), groups=8, biggan=False,
        scale_shift=False,
    ),
    encoder_blocks=2,
    encoder_features=16,
)  # fmt: skip


def _published(config: IDMConfig) -> IDMConfig:
    return replace(config, unet=replace(config.unet, noise_gain=1.0), published=True)


CONFIGS: dict[str, IDMConfig] = {
    "idm-16-128": _FACES,
    "idm-16-128-published": _published(_FACES),
    # for trying things out
    "idm-tiny": _TINY,
    "idm-tiny-published": _published(_TINY),
}


class _Shrink(nn.Module):
    """f(i) of f(i-1), eq. 4: bilinear filtering down to `size`, convolution, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        # torch has no antialiased resize of bfloat16 on CPUs
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        small = F.interpolate(wide, size, mode="bilinear", antialias=True)
        return F.leaky_relu(self.conv(small.to(x.dtype)), _SLOPE)


class _BlurShrink(nn.Module):
    """The published form of `_Shrink`: blur, convolution with stride 2, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Halving(inputs, outputs)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        tap = torch.tensor([1.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 5
        kernel = (tap[:, None] * tap).expand(x.shape[1], 1, 3, 3)
        x = F.conv2d(x, kernel, padding=1, groups=x.shape[1])
        return F.leaky_relu(self.conv(x), _SLOPE)


class IDMNet(Net):
    """The U-Net for every magnification."""

    kind = "idm"
    config_type = IDMConfig
    named: ClassVar = CONFIGS
    wide = True
    reads_lr = True
    lr_margin = 8
    bytes_per_pixel = 6500  # with the default sizes
    cond_bytes_per_pixel = 912

    def __init__(self, config: IDMConfig | None = None) -> None:
        c = config or CONFIGS["idm-16-128"]
        super().__init__(c)
        self.align = 2 ** (len(c.unet.mults) - 1)
        colours = c.published or c.conditioning == "input"
        if c.conditioning != "input":
            self.encoder = EDSR(c.encoder_blocks, c.encoder_features)
        self.tail = nn.Conv2d(c.encoder_features, 3, 3, padding=1) if c.published else None
        self.unet = UNet(c.unet, 3 + (3 if colours else c.encoder_features))
        ups = [i for i, module in enumerate(self.unet.ups) if isinstance(module, Up)]
        for i in ups:
            self.unet.ups[i] = self._upsampler(self.unet.ups[i].conv.in_channels)
        # before which of the way up's modules each level's features are mixed in, from level 1 down
        self.sites = tuple(reversed(ups if c.published else [0, *(i + 1 for i in ups[:-1])]))
        mixed = [self._inputs(self.unet.ups[i]) for i in self.sites]
        if c.conditioning == "adaptive":
            self._build_branch(mixed)
            self._build_proportions(mixed)

    def _upsampler(self, channels: int) -> nn.Module:
        c = self.config
        if c.upsampler != "implicit":
            return PlainUpsampler(channels, channels, c.upsampler)
        return ImplicitUpsampler(
            channels,
            channels,
            hidden=c.hidden,
            linear=c.published,
            ensemble=c.local_ensemble,
            unfold=c.feature_unfold,
            cell=c.cell_decode,
        )

    @staticmethod
    def _inputs(module: nn.Module) -> int:
        """Channels that a module of the way up takes."""
        if isinstance(module, Layer):
            return module.block.norm1.num_channels
        return module.second.out_features

    def _build_branch(self, mixed: list[int]) -> None:
        """The CNN; `project` brings its features, level by level, to the `mixed` channels."""
        c, project = self.config, 3 if self.config.published else 1
        widths = [c.unet.inner * mult for mult in c.unet.mults]
        if c.published:  # one level behind, and its first convolution is at full resolution
            self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
            widths = [widths[0], *widths[:-1]]
            self.offset = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in mixed)
        else:
            widths[0] = c.encoder_features
        shrink = _BlurShrink if c.published else _Shrink
        self.shrink = nn.ModuleList(shrink(a, b) for a, b in pairwise(widths))
        self.project = nn.ModuleList(
            nn.Conv2d(a, b, project, padding=project // 2)
            for a, b in zip(widths[1:], mixed, strict=True)
        )

    def _build_proportions(self, mixed: list[int]) -> None:
        """Eq. 5's MLP, its last layer in parts: alpha1 (the input's) and alpha2 (the U-Net's)."""
        inputs, layers = 1, []
        if not self.config.published:
            inputs, layers = _MLP, [nn.Linear(1, _MLP), nn.SiLU(), nn.Linear(_MLP, _MLP), nn.SiLU()]
        self.mlp = nn.Sequential(*layers)
        self.alpha1 = nn.ModuleList(nn.Linear(inputs, n) for n in mixed)
        self.alpha2 = nn.ModuleList(nn.Linear(inputs, n) for n in mixed)
        for layer in (*self.alpha1, *self.alpha2):
            nn.init.ones_(layer.bias)  # equal parts at the start

    def proportions(self, scale: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Magnification (B,) -> alpha1, alpha2 (B,C), per level from 1 down; eqs. 5 to 7.

        alpha1^2 + alpha2^2 = 1 (up to delta). Beyond max_scale it extrapolates.
        """
        h = self.mlp(((scale - 1) / (self.config.max_scale - 1))[:, None])
        found = []
        for first, second in zip(self.alpha1, self.alpha2, strict=True):
            alpha1, alpha2 = first(h), second(h)
            if not self.config.published:
                alpha1, alpha2 = alpha1.abs(), alpha2.abs()
            norm = (alpha1.square() + alpha2.square() + _DELTA).sqrt()
            found.append((alpha1 / norm, alpha2 / norm))
        return found

    def initial(self, lr: Tensor, size: Size, place: Place | None = None) -> Tensor:
        """f(0): the encoder's features of lr (B,3,h,w) in [-1,1], at the target's `size`; `place`
        is where that lies over lr, None: over all of it."""
        features = self.encoder(lr)
        place = place or Place.whole(tuple(lr.shape[-2:]), size)
        if self.tail is None:
            return sampled(features, size, place)
        return self.tail(repeated(features, size, place))

    def encode(
        self,
        lr_up: Tensor,
        scale: Tensor,
        lr: Tensor | Sequence[Tensor] | None = None,
        place: Place | None = None,
    ) -> Cond:
        """What the input `lr` (B,3,h,w), or B of (3,h,w), in [-1,1] says at magnification `scale`
        (B,).

        lr_up (B,3,H,W) gives only the size (and, with conditioning "input", all). place: where it
        lies over lr; None: over all of it. Raises ValueError without `lr`.
        """
        c = self.config
        if lr is None and c.conditioning != "input":
            raise ValueError("IDM reads the low-resolution picture itself: give lr")
        size: Size = tuple(lr_up.shape[-2:])
        if c.conditioning == "input":
            h = lr_up
        else:
            h = each_size(lr, lambda lr: self.initial(lr, size, place))
        if c.fixed_scale:
            scale = torch.full_like(scale, c.fixed_scale)
        conv = self.unet.downs[0]
        first = F.conv2d(h, conv.weight[:, : h.shape[1]], conv.bias, padding=1)
        if c.published:
            h = F.leaky_relu(self.stem(h), _SLOPE)
        mixed = []
        proportions = self.proportions(scale.to(h.dtype)) if c.conditioning == "adaptive" else []
        for level, (alpha1, alpha2) in enumerate(proportions):
            size = (-(-size[0] // 2), -(-size[1] // 2))
            h = self.shrink[level](h, size)
            part = self.project[level](h)
            alpha1, alpha2 = (alpha[:, :, None, None].to(part) for alpha in (alpha1, alpha2))
            part = part * alpha1
            if c.published:
                part = part + self.offset[level][:, None, None].to(part)
            mixed.append((part, alpha2))
        return first, mixed

    def forward(self, x: Tensor, cond: Cond, c_noise: Tensor) -> Tensor:
        """The noise in x (B,3,H,W), the variance-preserved noisy target; (B,3,H,W).

        c_noise (B,) is sqrt(alpha_bar). Any H, W >= 1: a level's sides are half the last's,
        rounded up.
        """
        first, mixed = cond
        unet, at = self.unet, dict(zip(self.sites, mixed, strict=False))
        embedding = unet.embed(c_noise.to(x))
        h = first + F.conv2d(x, unet.downs[0].weight[:, -3:], padding=1)
        saved = [h]
        for module in unet.downs[1:]:
            h = module(h, embedding) if isinstance(module, Layer) else module(h)
            saved.append(h)
        for module in unet.middle:
            h = module(h, embedding)
        for index, module in enumerate(unet.ups):
            if isinstance(module, Layer):
                h = torch.cat([h, saved.pop()], 1)
            if index in at:
                part, alpha2 = at[index]
                h = part + alpha2 * h  # eq. 8
                h = F.leaky_relu(h, _SLOPE) if self.config.published else h
            if isinstance(module, Layer):
                h = module(h, embedding)
            else:
                h = module(h, tuple(saved[-1].shape[-2:]))
        return unet.out(h)
