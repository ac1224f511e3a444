"""3x3 convolutions with a quarter of the multiplications, for wide frozen networks on a CPU.

Winograd's F(4x4, 3x3) (Lavin & Gray 2016): a tile of 6x6 inputs gives 4x4 outputs by 36 products
in the place of 144. The transforms are sums over a tile, the products one batched matrix product
over the channels, so it pays where there are many of those. Twice as fast as the library's
convolution from 256 channels on (docs/performance.md), with errors of 4e-5 of the outputs'
deviation where the library has 1e-5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FEWEST_CHANNELS = 128  # measured: at 64 it is no faster
FEWEST_TILES = 16  # of 4x4 outputs; below, reading four times the weights takes longer
_TILE, _OUT = 6, 4

# the interpolation points 0, 1, -1, 2, -2, infinity
_INPUT = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
_WEIGHT = torch.tensor(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
    dtype=torch.float64,
) / torch.tensor([24.0], dtype=torch.float64)
_OUTPUT = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    dtype=torch.float64,
)


def transformed(weight: Tensor) -> Tensor:
    """(O,I,3,3) -> (36,I,O), the weights of `convolved`."""
    scale = _WEIGHT.to(weight.device)
    wide = torch.einsum("ia,ocab,jb->ijco", scale, weight.double(), scale)
    return wide.reshape(_TILE * _TILE, weight.shape[1], weight.shape[0]).to(weight.dtype)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv2d(x, padding=1) of x (B,I,H,W) with `transformed` weights; channels_last.

    In bands of rows where there are many tiles, so that a cache holds what is made of them.
    """
    batch, channels, height, width = x.shape
    down, across = -(-height // _OUT), -(-width // _OUT)
    padded = x.new_zeros(batch, _OUT * down + 2, _OUT * across + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    size = (batch, weight.shape[2], height, width)
    made = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    most = channels  # tiles at once: together they are about as large as the weights
    whole = batch * down * across <= most
    rows = _OUT * (down if whole else max(1, most // across))
    for images in [slice(None)] if whole else [slice(i, i + 1) for i in range(batch)]:
        for top in range(0, height, rows):
            band = _band(padded[images, top : top + rows + 2], weight)
            place = made[images, :, top : top + rows].permute(0, 2, 3, 1)
            band = band[:, : place.shape[1], :width]  # tiles may stand over
            if bias is None:
                place.copy_(band)
            else:
                torch.add(band, bias, out=place)
    return made


def _band(padded: Tensor, weight: Tensor) -> Tensor:
    """Rows (B,4h+2,4w+2,I), with the border that they need -> their convolution (B,4h,4w,O)."""
    batch, height, width, channels = padded.shape
    down, across = height // _OUT, width // _OUT
    image, row, column, last = padded.stride()
    tiles = padded.as_strided(
        (_TILE, _TILE, batch, down, across, channels),
        (row, column, image, _OUT * row, _OUT * column, last),
        padded.storage_offset(),
    )
    tiles = torch.kron(_INPUT, _INPUT).to(padded) @ tiles.reshape(_TILE * _TILE, -1)
    products = torch.bmm(tiles.view(_TILE * _TILE, -1, channels), weight)
    made = torch.kron(_OUTPUT, _OUTPUT).to(padded) @ products.view(_TILE * _TILE, -1)
    made = made.view(_OUT, _OUT, batch, down, across, -1).permute(2, 3, 0, 4, 1, 5)
    return made.reshape(batch, _OUT * down, _OUT * across, -1)


class _Frozen(torch.autograd.Function):
    """`convolved` with weights that do not learn: the gradient is the convolution with the same
    weights, turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: WinogradConv2d) -> Tensor:
        ctx.conv = conv
        return convolved(x, conv.wide(), conv.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return convolved(gradient, ctx.conv.turned(), None), None


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution whose weights do not learn: they are transformed once, at the first call
    that it pays for, and for the gradient once more. Other calls (few tiles, half types, weights
    that learn, GPUs) are as before."""

    _wide: Tensor | None = None
    _turned: Tensor | None = None

    @classmethod
    def of(cls, conv: nn.Conv2d) -> WinogradConv2d:
        made = cls.__new__(cls)
        made.__dict__.update(conv.__dict__)
        return made

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tiles = len(x) * -(-height // _OUT) * -(-width // _OUT)
        usable = x.dtype == self.weight.dtype == torch.float32 and x.device.type == "cpu"
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        if not usable or learns or torch.is_autocast_enabled("cpu") or tiles < FEWEST_TILES:
            return F.conv2d(x, self.weight, self.bias, padding=1)
        return _Frozen.apply(x, self)

    def wide(self) -> Tensor:
        if self._wide is None:
            self._wide = transformed(self.weight)
        return self._wide

    def turned(self) -> Tensor:
        if self._turned is None:
            self._turned = transformed(self.weight.transpose(0, 1).flip(2, 3))
        return self._turned


def _fits(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
        and (module.groups, module.dilation, module.padding_mode) == (1, (1, 1), "zeros")
        and min(module.in_channels, module.out_channels) >= FEWEST_CHANNELS
    )


def extra_bytes(net: nn.Module) -> int:
    """What `quicken` costs in memory, beyond the weights themselves."""
    fitting = (module for module in net.modules() if _fits(module))
    return sum(_TILE * _TILE * c.in_channels * c.out_channels * 4 for c in fitting)


def quicken(net: nn.Module) -> None:
    """Put `WinogradConv2d` in the place of every convolution that it is made for."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if _fits(child):
                setattr(module, name, WinogradConv2d.of(child))
