"""Upsampling by an implicit function: an MLP of the nearest feature and where it is queried.

IDM eq. 9, with the options of LIIF (Chen et al. 2021). Both maps, whatever their sizes, cover the
same square from -1 to 1, so nothing needs to be a multiple of anything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Cells(NamedTuple):
    """Along one axis: for each of m target positions, the source cell that answers for it.

    index: (m,) of the cell. offset: (m,) from the cell's centre to the target, in half cells.
    share: (m,) of this answer among those of all the cells that are asked.
    """

    index: Tensor
    offset: Tensor
    share: Tensor


def centres(length: int, device: torch.device | None = None) -> Tensor:
    """(length,) float32 coordinates of equal cells that cover -1 to 1."""
    half = 1 / length
    return -1 + half + 2 * half * torch.arange(length, device=device).float()


def nearest(source: int, target: int, device: torch.device | None = None) -> list[Cells]:
    """The cell whose centre is nearest.

    Between two it is the even one: float32 rounding included, this is what the published code's
    grid_sample picks, where an odd target has its centre on the edge of two cells.
    """
    position = _position(source, target, device)
    index = position.round().clamp(0, source - 1)
    return [Cells(index.long(), 2 * (position - index), torch.ones_like(position))]


def surrounding(source: int, target: int, device: torch.device | None = None) -> list[Cells]:
    """LIIF's local ensemble: the two cells around, each with the distance to the other as share.

    Over both axes this is LIIF's weighting by the area opposite. Past the last centre both are
    the last cell.
    """
    position = _position(source, target, device)
    low = position.floor()
    indices = [low.clamp(0, source - 1), (low + 1).clamp(0, source - 1)]
    offsets = [2 * (position - index) for index in indices]
    # as LIIF: a target right on the last centre has no distance to share by
    below, above = (offset.abs() + 1e-9 for offset in offsets)
    shares = [above / (below + above), below / (below + above)]
    return [Cells(i.long(), o, s) for i, o, s in zip(indices, offsets, shares, strict=True)]


def _position(source: int, target: int, device: torch.device | None) -> Tensor:
    """Target centres in units of source cells: k is the centre of cell k."""
    return ((centres(target, device) + 1) * source - 1) / 2


class ImplicitUpsampler(nn.Module):
    """(B,channels,h,w) -> (B,outputs,*size) by a 2-layer MLP of [feature, offset y, offset x].

    linear: no activation between the layers, as in the published IDM code: one affine map, done
        wholly at the source's size.
    ensemble, unfold, cell: LIIF's local ensemble; feature unfolding (a feature is the 3x3 around);
        cell decoding (two more inputs, the target's cell in units of the source's half cells).

    The first layer is split into what it makes of the feature, which is done at the source's
    size, and of the offsets, which are one number per row and one per column.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        hidden: int = 256,
        linear: bool = False,
        ensemble: bool = False,
        unfold: bool = False,
        cell: bool = False,
    ) -> None:
        super().__init__()
        self.linear, self.ensemble, self.unfold, self.cell = linear, ensemble, unfold, cell
        self.features = channels * (9 if unfold else 1)
        self.first = nn.Linear(self.features + (4 if cell else 2), hidden)
        self.second = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        kernel = 3 if self.unfold else 1
        weight, place = self.first.weight.split([self.features, 4 if self.cell else 2], 1)
        weight = weight.reshape(len(weight), -1, kernel, kernel)
        h = F.conv2d(x, weight, self.first.bias, padding=kernel // 2)
        h = h.permute(0, 2, 3, 1)  # so that whole features are picked
        if self.linear:
            h, place = self.second(h), self.second.weight @ place
        h = self._queried(h, place, size)
        return (h if self.linear else self.second(h)).permute(0, 3, 1, 2)

    def _queried(self, h: Tensor, place: Tensor, size: tuple[int, int]) -> Tensor:
        """(B,h,w,C) picked at the nearest cells, with what the offsets add; then the activation."""
        cells = surrounding if self.ensemble else nearest
        rows, columns = (cells(h.shape[i], size[i - 1], h.device) for i in (1, 2))
        total: Tensor | None = None
        for row in rows:
            added = row.offset[:, None] * place[:, 0]
            if self.cell:
                sides = [2 * h.shape[i] / size[i - 1] for i in (1, 2)]
                added = added + place[:, 2] * sides[0] + place[:, 3] * sides[1]
            strip = h.index_select(1, row.index) + added[:, None].to(h.dtype)
            for column in columns:
                added = column.offset[:, None] * place[:, 1]
                part = strip.index_select(2, column.index) + added.to(h.dtype)
                part = part if self.linear else F.relu(part, inplace=True)
                if self.ensemble:  # the second layer is affine: answers may be mixed before it
                    part = part * (row.share[:, None] * column.share)[..., None].to(h.dtype)
                total = part if total is None else total + part
        return total
