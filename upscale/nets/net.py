"""What a network is to the rest of the program: its sizes, its memory, what it reads, its calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_parameter_registration_hook

if TYPE_CHECKING:
    from typing import Self


_LARGEST = 1 << 16  # number in a network's configuration: channels, blocks, gains
_LONGEST = 64  # list in one


class Config:
    """The base of networks' configurations, which are frozen dataclasses of plain values."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`, also through JSON, which knows no tuples. Raises TypeError and
        ValueError, also for values of another type, or larger than in any network."""
        kinds = get_type_hints(cls)
        for name, value in values.items():
            if name in kinds and not _fits(value, kinds[name]):
                raise ValueError(f"{name} cannot be {str(value)[:60]}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def fitted(self, largest: float) -> Self:
        """The same for training up to this magnification; itself where that changes nothing."""
        return self


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of a configuration is of the type that its field is annotated with, with
    numbers between 0 and _LARGEST."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        short = isinstance(value, list | tuple) and len(value) <= _LONGEST
        return short and all(_fits(one, inner) for one in value)
    if kind is float:
        return type(value) in (int, float) and 0 <= value <= _LARGEST
    if kind is int:
        return type(value) is int and 0 <= value <= _LARGEST
    return isinstance(value, kind)


@contextmanager
def at_most(tensors: int) -> Iterator[None]:
    """Within it, this thread makes networks of no more parameters, and none that hold any memory:
    a look at what a description means. Raises ValueError."""
    made, thread = 0, threading.get_ident()

    def count(*_: Any) -> None:
        nonlocal made
        if threading.get_ident() == thread:
            made += 1
            if made > tensors:
                raise ValueError(f"it describes a network of more than {tensors} tensors")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            yield
    finally:
        hook.remove()


class Net(nn.Module):
    """`encode(lr_up, scale, lr) -> cond` once a picture, then `forward(x, cond, c_noise) -> raw` at
    every call. A subclass states what differs from the defaults here.

    kind: its name in weights files. config_type: the class of its configuration. named: those
    configurations that `diffsr train --net` takes; "compact..." are ours, the others the papers'.
    bytes_per_pixel: of the output, while a call runs in float32 (measured: peak memory).
    cond_bytes_per_pixel: of the output, what `encode` keeps.
    dense: how many times as much it holds of each pixel as its kind usually does.
    align: windows of a picture must start at multiples of this to be computed alike.
    halo: a pixel of the output depends on nothing that is further away, in pixels of the output;
    None: it depends on all of the picture. With a halo a picture can be done in blocks and windows
    that give what the whole gives.
    wide: has hundreds of channels, for which `nets.winograd` is quicker.
    reads_lr: `encode` needs `lr`, the small picture (B,3,h,w), or B of (3,h,w) of any sizes.
    lr_margin: where above 0 it also takes `place`, where lr_up lies over lr, and a window's lr has
    so many pixels around it: as many as its layers there see.
    one_scale: a configuration is for one magnification.
    layout: of its weights in memory.
    dtypes: the number formats that it can be called in.
    """

    kind: ClassVar[str]
    config_type: ClassVar[type[Config]]
    named: ClassVar[dict[str, Config]]
    bytes_per_pixel: int
    cond_bytes_per_pixel: int
    dense: int = 1
    align: int = 1
    halo: int | None = None
    wide: bool = False
    reads_lr: bool = False
    lr_margin: int = 0
    one_scale: bool = False
    layout: torch.memory_format = torch.channels_last
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)

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
        """What a weights file records of the network, so that `model.build` can make it again."""
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
