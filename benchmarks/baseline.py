"""The published graphs as their code runs them, with our networks' weights: what is compared with.

Eager float32, contiguous, the library's convolutions, attention that makes its whole matrix; and of
the work that depends on the picture alone, what each published code does again at every call:

- SR3: nothing but the first convolution's half.
- ECDP: 22 blocks each resize the 256 features to their level and project them there; the RRDB
  encoder is run once per picture, there as here.
- IDM: the branch of features and proportions below EDSR; coordinates, picked cells, and an MLP
  without activation at the large size. EDSR is run once per picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscale.nets.implicit import ImplicitUpsampler, nearest
from upscale.nets.unet import Attention

if TYPE_CHECKING:
    from speed import Call

PUBLISHED = ("sr3-16-128-published", "ecdp-df2k", "idm-16-128-published")


def _whole_matrix(self: Attention, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    qkv = self.qkv(self.norm(x)).view(batch, self.heads, -1, height, width)
    q, k, v = qkv.chunk(3, 2)
    scores = torch.einsum("bnchw,bncyx->bnhwyx", q, k).contiguous() / channels**0.5
    scores = scores.view(batch, self.heads, height, width, -1).softmax(-1)
    scores = scores.view(batch, self.heads, height, width, height, width)
    h = torch.einsum("bnhwyx,bncyx->bnchw", scores, v).contiguous()
    return x + self.out(h.view(batch, channels, height, width))


def _at_the_large_size(
    self: ImplicitUpsampler, x: Tensor, size: tuple[int, int], place: None = None
) -> Tensor:
    """Feature and offsets of every target cell side by side, then both layers."""
    rows, columns = (nearest(n, m)[0] for n, m in zip(x.shape[-2:], size, strict=True))
    picked = x.index_select(2, rows.index).index_select(3, columns.index).permute(0, 2, 3, 1)
    shape = (len(x), *size, 1)
    offsets = (rows.offset[:, None, None].expand(shape), columns.offset[:, None].expand(shape))
    h = torch.cat([picked, *offsets], -1)
    return self.second(self.first(h)).permute(0, 3, 1, 2).contiguous()


def _ecdp(call: Call) -> Callable[[], Tensor]:
    net = call.net
    features = net.encoder((call.lr + 1) / 2)

    def projected() -> tuple[Tensor, ...]:
        height, width = call.x.shape[-2:]
        sizes = ((block, -(-height // 2**n), -(-width // 2**n)) for block, n in net._levels())
        return tuple(
            block.project(F.interpolate(features, (h, w), mode="bilinear", antialias=True))
            for block, h, w in sizes
        )

    return lambda: net(call.x, projected(), call.level)


class _Known(nn.Module):
    """In an encoder's place: what it said the first time."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, lr: Tensor) -> Tensor:
        return self.features


def _idm(call: Call) -> Callable[[], Tensor]:
    net = call.net
    net.encoder = _Known(net.encoder(call.lr))
    return lambda: net(call.x, net.encode(call.lr_up, call.scale, call.lr), call.level)


def as_published(call: Call, name: str) -> Callable[[], Tensor]:
    """One denoiser call of `call`'s network, of which only the weights stay as they are."""
    for module in call.net.modules():
        if isinstance(module, Attention):
            module.forward = _whole_matrix.__get__(module)
        if isinstance(module, ImplicitUpsampler):
            module.forward = _at_the_large_size.__get__(module)
    for key in ("lr", "lr_up", "x"):
        setattr(call, key, getattr(call, key).contiguous())
    call.cond = call.encode()
    makers = {"ecdp-df2k": _ecdp, "idm-16-128-published": _idm}
    return makers[name](call) if name in makers else call
