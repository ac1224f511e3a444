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


class Place(NamedTuple):
    """Where a window of an enlarged picture lies over a part of the small one.

    top, left: from the part's first edge to the window's, in pixels of the large picture.
    down, across: large pixels per small pixel along each axis; any numbers above 0.
    """

    top: float
    left: float
    down: float
    across: float

    @classmethod
    def whole(cls, source: tuple[int, int], target: tuple[int, int]) -> Place:
        """All of the large picture over all of the small one."""
        return cls(0.0, 0.0, target[0] / source[0], target[1] / source[1])

    def positions(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Centres of the window's rows and columns in units of small pixels; k is the centre of
        pixel k. In float64, which not every device has, so on the CPU: far from the origin a
        window must agree with the whole picture."""
        rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in size)
        rows = (rows + self.top) / self.down - 0.5
        return rows, (columns + self.left) / self.across - 0.5


def sampled(x: Tensor, size: tuple[int, int], place: Place) -> Tensor:
    """(B,C,h,w) -> (B,C,*size) by bilinear interpolation at `place`; past the outer centres the
    outer pixels."""
    for dim, position in zip((2, 3), place.positions(size), strict=True):
        position = position.clamp(0, x.shape[dim] - 1)
        low = position.floor().clamp(max=max(0, x.shape[dim] - 2))
        shape = (1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1)
        part = (position - low).to(x).view(shape)
        low = low.long().to(x.device)
        high = (low + 1).clamp(max=x.shape[dim] - 1)
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, high), part)
    return x


def centres(length: int, device: torch.device | None = None) -> Tensor:
    """(length,) float32 coordinates of equal cells that cover -1 to 1."""
    half = 1 / length
    return -1 + half + 2 * half * torch.arange(length, device=device).float()


def nearest(
    source: int, target: int, device: torch.device | None = None, position: Tensor | None = None
) -> list[Cells]:
    """The cell whose centre is nearest to each target centre, or to `position`.

    Between two it is the even one: float32 rounding included, this is what the published code's
    grid_sample picks, where an odd target has its centre on the edge of two cells.
    """
    position = _position(source, target, device) if position is None else position
    index = position.round().clamp(0, source - 1)
    return [Cells(index.long(), 2 * (position - index), torch.ones_like(position))]


def surrounding(
    source: int, target: int, device: torch.device | None = None, position: Tensor | None = None
) -> list[Cells]:
    """LIIF's local ensemble: the two cells around, each with the distance to the other as share.

    Over both axes this is LIIF's weighting by the area opposite. Past the last centre both are
    the last cell.
    """
    position = _position(source, target, device) if position is None else position
    low = position.floor()
    indices = [low.clamp(0, source - 1), (low + 1).clamp(0, source - 1)]
    offsets = [2 * (position - index) for index in indices]
    # as LIIF: a target right on the last centre has no distance to share by. LIIF adds 1e-9, which
    # ONNX's optimiser takes for nothing
    below, above = (offset.abs().clamp(min=1e-9) for offset in offsets)
    shares = [above / (below + above), below / (below + above)]
    return [Cells(i.long(), o, s) for i, o, s in zip(indices, offsets, shares, strict=True)]


def _position(source: int, target: int, device: torch.device | None) -> Tensor:
    """Target centres in units of source cells: k is the centre of cell k."""
    return ((centres(target, device) + 1) * source - 1) / 2


def repeated(x: Tensor, size: tuple[int, int], place: Place) -> Tensor:
    """As `sampled`, but the small pixel that each target pixel's upper left corner is in."""
    origin = (place.top, place.down), (place.left, place.across)
    for dim, (start, factor) in zip((2, 3), origin, strict=True):
        steps = torch.arange(size[dim - 2], dtype=torch.float64)
        index = ((steps + start) / factor).floor().clamp(0, x.shape[dim] - 1)
        x = x.index_select(dim, index.long().to(x.device))
    return x


class PlainUpsampler(nn.Module):
    """What stands in an implicit one's place for comparison: interpolation, a 3x3 convolution.

    mode: "nearest" or "bilinear".
    """

    def __init__(self, channels: int, outputs: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.second = nn.Conv2d(channels, outputs, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.second(F.interpolate(x, size, mode=self.mode))


class ImplicitUpsampler(nn.Module):
    """(B,channels,h,w) -> (B,outputs,*size) by an MLP of [feature, offset y, offset x].

    layers: of the MLP, 2 in IDM and 5 in LIIF.
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
        layers: int = 2,
        linear: bool = False,
        ensemble: bool = False,
        unfold: bool = False,
        cell: bool = False,
    ) -> None:
        super().__init__()
        self.linear, self.ensemble, self.unfold, self.cell = linear, ensemble, unfold, cell
        self.features = channels * (9 if unfold else 1)
        self.first = nn.Linear(self.features + (4 if cell else 2), hidden)
        self.between = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 2))
        self.second = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, size: tuple[int, int], place: Place | None = None) -> Tensor:
        """At the centres of `size` cells over all of x or, with `place`, over a part of it."""
        return self.answer(self.learn(x), size, place)

    def learn(self, x: Tensor) -> Tensor:
        """What the first layer makes of the features alone, (B,h,w,hidden), at their own size."""
        kernel = 3 if self.unfold else 1
        weight = self.first.weight[:, : self.features]
        weight = weight.reshape(len(weight), -1, kernel, kernel)
        h = F.conv2d(x, weight, self.first.bias, padding=kernel // 2)
        return h.permute(0, 2, 3, 1)  # so that whole features are picked

    def answer(self, h: Tensor, size: tuple[int, int], place: Place | None = None) -> Tensor:
        """`learn`'s result asked at the target's cells, (B,outputs,*size)."""
        offsets = self.first.weight[:, self.features :]
        if self.linear:
            h, offsets = self.second(h), self.second.weight @ offsets
        h = self._queried(h, offsets, size, place)
        return (h if self.linear else self.second(h)).permute(0, 3, 1, 2)

    def _queried(
        self, h: Tensor, offsets: Tensor, size: tuple[int, int], place: Place | None
    ) -> Tensor:
        """(B,h,w,C) picked at the nearest cells, with what the offsets add; then the activation."""
        plain = place is None and not (self.ensemble or self.linear or self.cell)
        if plain and not (size[0] % h.shape[1] or size[1] % h.shape[2]):
            return self._repeated(h, offsets, size)
        cells = surrounding if self.ensemble else nearest
        at = (None, None) if place is None else place.positions(size)
        rows, columns = (cells(h.shape[i], size[i - 1], h.device, at[i - 1]) for i in (1, 2))
        sides = [h.shape[1] / size[0], h.shape[2] / size[1]]
        if place is not None:
            sides = [1 / place.down, 1 / place.across]
        total: Tensor | None = None
        for row in rows:
            added = row.offset.to(h)[:, None] * offsets[:, 0]
            if self.cell:
                added = added + 2 * (offsets[:, 2] * sides[0] + offsets[:, 3] * sides[1])
            strip = h.index_select(1, row.index.to(h.device)) + added[:, None].to(h.dtype)
            for column in columns:
                added = column.offset.to(h)[:, None] * offsets[:, 1]
                part = strip.index_select(2, column.index.to(h.device)) + added.to(h.dtype)
                part = part if self.linear else self._between(F.relu(part, inplace=True))
                if self.ensemble:  # the last layer is affine: answers may be mixed before it
                    share = row.share[:, None] * column.share
                    part = part * share[..., None].to(h)
                total = part if total is None else total + part
        return total

    def _repeated(self, h: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
        """`_queried` where every cell answers for as many targets: nothing need be picked."""
        batch, height, width, channels = h.shape
        down, across = size[0] // height, size[1] // width
        rows = centres(down, h.device).to(h.dtype)[:, None] * offsets[:, 0]
        columns = centres(across, h.device).to(h.dtype)[:, None] * offsets[:, 1]
        h = h[:, :, None, :, None] + rows.to(h.dtype)[:, None, None]
        h = self._between(F.relu(h + columns.to(h.dtype), inplace=True))
        return h.reshape(batch, *size, channels)

    def _between(self, h: Tensor) -> Tensor:
        for layer in self.between:
            h = F.relu(layer(h), inplace=True)
        return h
