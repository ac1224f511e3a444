"""What a network is to the rest of the program: its sizes, its memory, what it reads, its calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from typing import Self


class Config:
    """The base of networks' configurations, which are frozen dataclasses of plain values."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`, also through JSON, which knows no tuples. TypeError, ValueError."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def fitted(self, largest: float) -> Self:
        """The same for training up to this magnification; itself where that changes nothing."""
        return self


class Net(nn.Module):
    """`encode(lr_up, scale, lr) -> cond` once a picture, then `forward(x, cond, c_noise) -> raw` at
    every call. A subclass states what differs from the defaults here.

    kind: its name in weights files. config_type: the class of its configuration. named: those
    configurations that `diffsr train --net` takes; "compact..." are ours, the others the papers'.
    bytes_per_pixel: of the output, while a call runs in float32 (measured: peak memory).
    cond_bytes_per_pixel: of the output, what `encode` keeps.
    align: windows of a picture must start at multiples of this to be computed alike.
    halo: a pixel of the output depends on nothing that is further away, in pixels of the output;
    None: it depends on all of the picture. With a halo a picture can be done in blocks and windows
    that give what the whole gives.
    wide: has hundreds of channels, for which `nets.winograd` is quicker.
    reads_lr: `encode` needs `lr`, the small picture (B,3,h,w), or B of (3,h,w) of any sizes.
    lr_margin: where above 0 it also takes `place`, where lr_up lies over lr, and a window's lr has
    so many pixels around it: as many as its layers there see.
    one_scale: a configuration is for one magnification.
    """

    kind: ClassVar[str]
    config_type: ClassVar[type[Config]]
    named: ClassVar[dict[str, Config]]
    bytes_per_pixel: int
    cond_bytes_per_pixel: int
    align: int = 1
    halo: int | None = None
    wide: bool = False
    reads_lr: bool = False
    lr_margin: int = 0
    one_scale: bool = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A network with fresh weights by its configuration's values. TypeError, ValueError."""
        return cls(cls.config_type.from_dict(values))

    @classmethod
    def sizes(cls, name: str, domain: str, largest: float) -> Config:
        """The configuration `named` so, for training on pictures of a domain up to this
        magnification."""
        return cls.named[name]

    def architecture(self) -> dict[str, Any]:
        """What a weights file records of the network, so that `methods.build` can make it again."""
        return {"kind": self.kind, **self.config.to_dict()}

    def encode(self, lr_up: Tensor, scale: Tensor, lr: Tensor | None = None) -> Any:
        """What the input says, at every call the same: lr_up (B,3,H,W) in [-1,1], the enlarged
        input, at magnification `scale` (B,)."""
        raise NotImplementedError

    def forward(self, x: Tensor, cond: Any, c_noise: Tensor) -> Tensor:
        """Raw output (B,3,H,W), or (B,6,H,W) of two heads, for the variance-preserved noisy target
        x (B,3,H,W) at sqrt(alpha_bar) `c_noise` (B,). Any H, W >= 1."""
        raise NotImplementedError

    def padded(self, x: Tensor) -> Tensor:
        """The last row and column repeated until both sides are multiples of `align`."""
        height, width = x.shape[-2:]
        pad = (0, -width % self.align, 0, -height % self.align)
        return F.pad(x, pad, mode="replicate") if any(pad) else x
