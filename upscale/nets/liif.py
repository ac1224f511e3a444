"""The regression baselines that IDM is compared with, in one pass each: EDSR (Lim et al. 2017),
for one magnification, and LIIF (Chen et al. 2021), for any.

Both read the small picture and predict what is missing from its enlargement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from upscale.nets.encoders import EDSR, each_size, reach
from upscale.nets.implicit import ImplicitUpsampler, Place, sampled
from upscale.nets.layers import zeroed
from upscale.nets.net import Config, Net

Pictures = Tensor | Sequence[Tensor]  # (B,3,h,w), or B of (3,h,w)


@dataclass(frozen=True)
class LIIFConfig(Config):
    """Sizes of `LIIFNet`; the defaults are those of the bundled weights.

    blocks, features: of EDSR. hidden, layers: of the MLP; the paper's are 256 and 5.
    """

    blocks: int = 10
    features: int = 56
    hidden: int = 64
    layers: int = 3
    local_ensemble: bool = True
    feature_unfold: bool = True
    cell_decode: bool = True


@dataclass(frozen=True)
class EDSRConfig(Config):
    """Sizes of `EDSRNet`; the defaults are the paper's baseline. factor: a product of 2s and 3s."""

    factor: int = 4
    blocks: int = 16
    features: int = 64

    def __post_init__(self) -> None:
        _steps(self.factor)


def _steps(factor: int) -> list[int]:
    """2s and 3s whose product is `factor`. Raises ValueError."""
    steps, rest = [], factor
    for step in (2, 3):
        while rest % step == 0 and rest > 1:
            steps.append(step)
            rest //= step
    if rest != 1 or factor < 2:
        raise ValueError(f"EDSR enlarges by products of 2 and 3, not by {factor}")
    return steps


class OneCall(Net):
    """A network without noise: `encode` does everything, `forward` hands it out. A subclass has
    `answer(lr, size, place)` for small pictures of one size."""

    halo = 0  # its layers all look around in the small picture
    reads_lr = True
    cond_bytes_per_pixel = 12

    def encode(
        self,
        lr_up: Tensor,
        scale: Tensor,
        lr: Pictures | None = None,
        place: Place | None = None,
    ) -> Tensor:
        """What is missing in lr_up (B,3,H,W), by the small pictures lr (B,3,h,w) or B of (3,h,w),
        all in [-1,1], at `place`, or over all of them. Raises ValueError without `lr`."""
        if lr is None:
            raise ValueError(f"{self.kind} reads the low-resolution picture itself: give lr")
        size = tuple(lr_up.shape[-2:])

        def one_size(lr: Tensor) -> Tensor:
            return self.answer(lr, size, place or Place.whole(tuple(lr.shape[-2:]), size))

        return each_size(lr, one_size)

    def forward(self, x: Tensor, cond: Tensor, c_noise: Tensor) -> Tensor:
        """(B,3,H,W); neither x nor c_noise matters."""
        return cond


def cut(sr: Tensor, size: tuple[int, int], place: Place, factor: int) -> Tensor:
    """The window at `place` of what a network for just this magnification made; at another one
    (B,3,*size) is interpolated."""
    own = place._replace(down=place.down / factor, across=place.across / factor)
    return sampled(sr, size, own)


class LIIFNet(OneCall):
    """EDSR's features, decoded at any coordinate by an MLP of the feature and where it is asked."""

    kind = "liif"
    config_type = LIIFConfig
    named: ClassVar = {"compact": LIIFConfig(), "liif-baseline": LIIFConfig(16, 64, 256, 5)}
    bytes_per_pixel = 1900  # 1165 at 4x, more at 1x

    def __init__(self, config: LIIFConfig | None = None) -> None:
        c = config or LIIFConfig()
        super().__init__(c)
        self.encoder = EDSR(c.blocks, c.features)
        self.lr_margin = reach(c.blocks) + 3  # unfolding and the local ensemble
        self.decoder = ImplicitUpsampler(
            c.features,
            3,
            hidden=c.hidden,
            layers=c.layers,
            ensemble=c.local_ensemble,
            unfold=c.feature_unfold,
            cell=c.cell_decode,
        )
        zeroed(self.decoder.second)

    def answer(self, lr: Tensor, size: tuple[int, int], place: Place) -> Tensor:
        return self.decoder(self.encoder(lr), size, place)


class EDSRNet(OneCall):
    """EDSR's features, enlarged by convolutions and pixel_shuffle, at one magnification."""

    kind = "edsr"
    config_type = EDSRConfig
    named: ClassVar = {
        "compact": EDSRConfig(blocks=10, features=56),
        **{f"edsr-baseline-x{factor}": EDSRConfig(factor) for factor in (2, 3, 4, 8)},
    }
    one_scale = True
    bytes_per_pixel = 800  # 605 measured

    def __init__(self, config: EDSRConfig | None = None) -> None:
        c = config or EDSRConfig()
        super().__init__(c)
        self.encoder = EDSR(c.blocks, c.features)
        self.lr_margin = reach(c.blocks) + 4  # the convolutions of `grow` and `last`
        self.steps = _steps(c.factor)
        self.grow = nn.ModuleList(
            nn.Conv2d(c.features, c.features * step**2, 3, padding=1) for step in self.steps
        )
        self.last = zeroed(nn.Conv2d(c.features, 3, 3, padding=1))

    @classmethod
    def sizes(cls, name: str, domain: str, largest: float) -> EDSRConfig:
        own = cls.named[name]  # the papers' have their magnification in their names
        return replace(own, factor=round(largest)) if name == "compact" else own

    def answer(self, lr: Tensor, size: tuple[int, int], place: Place) -> Tensor:
        h = self.encoder(lr)
        for conv, step in zip(self.grow, self.steps, strict=True):
            h = F.pixel_shuffle(conv(h), step)
        return cut(self.last(h), size, place, self.config.factor)
