"""3x3 convolutions with a quarter of the multiplications, for wide networks on a CPU.

Winograd's F(4x4, 3x3) (Lavin & Gray 2016): a tile of 6x6 inputs gives 4x4 outputs by 36 products
in the place of 144. The transforms are sums over a tile, the products one batched matrix product
over the channels, so it pays where there are many of those. Twice as fast as the library's
convolution from 256 channels on (docs/performance.md), with errors of 4e-5 of the outputs'
deviation where the library has 1e-5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
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
    """conv2d(x, padding=1) of x (B,I,H,W) with `transformed` weights; channels_last."""
    batch, channels, height, width = x.shape
    down, across, outputs = -(-height // _OUT), -(-width // _OUT), weight.shape[2]
    padded = x.new_zeros(batch, _OUT * down + 2, _OUT * across + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    image, row, column, last = padded.stride()
    tiles = padded.as_strided(
        (_TILE, _TILE, batch, down, across, channels),
        (row, column, image, _OUT * row, _OUT * column, last),
    )
    tiles = torch.kron(_INPUT, _INPUT).to(x) @ tiles.reshape(_TILE * _TILE, -1)
    products = torch.bmm(tiles.view(_TILE * _TILE, -1, channels), weight)
    made = torch.kron(_OUTPUT, _OUTPUT).to(x) @ products.view(_TILE * _TILE, -1)
    made = made.view(_OUT, _OUT, batch, down, across, outputs).permute(2, 3, 0, 4, 1, 5)
    made = made.reshape(batch, _OUT * down, _OUT * across, outputs)[:, :height, :width]
    made = made.contiguous()  # a copy where tiles stand over
    made = made if bias is None else made.add_(bias)
    return made.permute(0, 3, 1, 2)


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution for inference only: its weights are transformed once, at the first call
    that it pays for. Other calls (few tiles, half types, gradients, GPUs) are as before."""

    _wide: Tensor | None = None

    @classmethod
    def of(cls, conv: nn.Conv2d) -> WinogradConv2d:
        made = cls.__new__(cls)
        made.__dict__.update(conv.__dict__)
        return made

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tiles = len(x) * -(-height // _OUT) * -(-width // _OUT)
        usable = x.dtype == self.weight.dtype == torch.float32 and x.device.type == "cpu"
        usable = usable and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
        if not usable or tiles < FEWEST_TILES:
            return F.conv2d(x, self.weight, self.bias, padding=1)
        if self._wide is None:
            self._wide = transformed(self.weight)
        return convolved(x, self._wide, self.bias)


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
