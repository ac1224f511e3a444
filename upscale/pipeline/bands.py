"""From a plan to pixels, in bands of whole rows: one band, or one for each row of blocks.

Stages of a cascade are bands made of bands: each makes what the next one asks it for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from upscale.diffusion.tiling import Box
from upscale.errors import NumericalError
from upscale.image.picture import Picture, fill_transparent
from upscale.image.resize import Kernel, resize, resize_array
from upscale.machine import dtype_name
from upscale.model import Model
from upscale.pipeline import faces
from upscale.pipeline.blocks import Block, drawn, whole
from upscale.pipeline.consistency import doubts, finished, squared_error
from upscale.pipeline.faces import Drawn
from upscale.pipeline.plan import Plan
from upscale.pipeline.sampling import Call, OnStep, Sampling, sampled
from upscale.pipeline.tensors import entering

SLICE = 256  # rows of a large result that are given out at once: what a file needs of them is small
Part = Callable[[Box], Tensor]  # (1,3,h,w) in [-1,1] of what a stage enlarges


class Flow:
    """Parts of a picture that is made from the top, in bands (h,W,3) of all its columns. What lies
    above a part is forgotten, so that none may begin higher than the one before."""

    def __init__(self, bands: Iterator[Tensor]) -> None:
        self.bands, self.held, self.made = bands, [], 0

    def part(self, box: Box) -> Tensor:
        """The pixels of a box (1,3,h,w), once they are made."""
        end = box.top + box.height
        self.held = [(top, band) for top, band in self.held if top + len(band) > box.top]
        while self.made < end:
            band = next(self.bands)
            self.held.append((self.made, band))
            self.made += len(band)
        columns = box.at[1]
        cuts = [band[max(0, box.top - top) : end - top, columns] for top, band in self.held]
        return torch.cat(cuts).permute(2, 0, 1)[None]


@dataclass
class Enlarging:
    """One picture's work. model: None for a mere resize by `kernel`. tile, nfe, notes and error
    (mean squared, of the output shrunk against the input) are known once all bands are made.
    """

    plan: Plan
    model: Model | None
    kernel: Kernel
    sampling: Sampling
    device: torch.device
    on_step: OnStep | None
    call: Call
    tile: int = 0
    notes: list[str] = field(default_factory=list)
    error: float = 0.0
    artist: Model | None = None  # draws the plan's faces
    drawn: list[Drawn] = field(default_factory=list)
    calls: dict[int, int] = field(default_factory=dict)  # of the network, by stage
    steps: int = 0  # that are done, of all blocks

    @property
    def nfe(self) -> int:
        """Network calls that each pixel took."""
        return sum(self.calls.values())

    def bands(self, source: Picture) -> Iterator[Picture]:
        """The result from the top. Raises NumericalError, after the last band where all of it is
        nothing like the input; OutOfMemory."""
        self.notes = list(self.plan.notes)
        rgb, alpha = source.rgb, source.alpha
        rgb = rgb if alpha is None else fill_transparent(rgb, alpha)
        self._draw_faces(rgb)
        part, last = partial(self._input, rgb), len(self.plan.stages) - 1
        for index in range(last):
            part = Flow(self._between(index, part)).part
        for row in self._rows(last):
            made = (self._made(self._enlarged(last, part(block.source), block), rgb, block, source)
                    for block in row)  # fmt: skip
            band, opacity = _beside(made, row, self.plan.size_out[1]), self._alpha(alpha, row[0])
            step = SLICE if self.plan.blocks else len(band)
            for top in range(0, len(band), step):
                rows = slice(top, top + step)
                ready = None if opacity is None else opacity[rows]
                yield replace(source, rgb=band[rows].numpy(), alpha=ready, coded=None)
            del band  # before the next row's is made
        self.error /= rgb.size
        self.notes += doubts(self.error, rgb, self.plan.projection)

    def _rows(self, index: int) -> tuple[tuple[Block, ...], ...]:
        """The blocks of a stage, or the one that is all."""
        stage, plan = self.plan.stages[index], self.plan
        return stage.blocks or ((whole(stage.size_in, plan.end(index), plan.stages[0].size_in),),)

    def _input(self, rgb: np.ndarray, box: Box) -> Tensor:
        return entering(_extended(rgb, box), self.device)

    def _between(self, index: int, part: Part) -> Iterator[Tensor]:
        """What a stage makes for the next one, in bands (h,W,3)."""
        for row in self._rows(index):
            made = (
                _planes_last(self._enlarged(index, part(block.source), block))[block.inside]
                for block in row
            )
            yield _beside(made, row, self.plan.end(index)[1])

    def _enlarged(self, index: int, lr: Tensor, block: Block) -> Tensor:
        """What a stage makes of a block's source. Raises NumericalError, OutOfMemory."""
        before = self.steps
        sr = self._sampled(index, lr, block)
        if self.sampling.dtype != torch.float32 and not torch.isfinite(sr).all():
            # bf16: the one cause that was found is kept out (nets.layers.Halving)
            tried = dtype_name(self.sampling.dtype)
            self.sampling, self.steps = replace(self.sampling, dtype=torch.float32), before
            sr = self._sampled(index, lr, block)
            self.notes.append(f"{tried} gave what is not finite: done again in fp32")
        if not torch.isfinite(sr).all():
            raise NumericalError("the result is not finite: no picture is written (--dtype fp32)")
        return sr

    def _sampled(self, index: int, lr: Tensor, block: Block) -> Tensor:
        size, stage = (block.made.height, block.made.width), self.plan.stages[index]
        if self.model is None:
            return resize(lr, size, self.kernel)
        box = drawn(block.source, stage.size_in, stage.size_out)
        here = (box.height, box.width)
        tile = stage.tile if stage.tile < max(here) else 0
        stage = replace(stage, size_in=tuple(lr.shape[-2:]), size_out=here, tile=tile)
        seed, before = (*self.sampling.seed, index), self.steps
        sampling = replace(self.sampling, seed=seed, origin=(box.top, box.left))
        total = sum(len(one.parts) * one.steps for one in self.plan.stages)

        def on_step(done: int, _: int) -> None:
            self.steps = before + done
            if self.on_step:
                self.on_step(self.steps, total)

        made = sampled(self.model, stage, size, lr, sampling, on_step, self.call)
        self.tile, self.calls[index] = made.tile, made.nfe
        self.notes += [note for note in made.notes if note not in self.notes]
        return made.picture

    def _made(self, sr: Tensor, rgb: np.ndarray, block: Block, source: Picture) -> Tensor:
        """float32 (h,w,3) in [0,1]: the core of a block, held to the input (H,W,3)."""
        sr, lr = self._with_faces(sr, block), self._input(rgb, block.under)
        if self.model is not None:
            sr = finished(sr, lr, self.plan.consistency)
        sr = sr.clamp_(-1, 1).float().add_(1).div_(2)
        made = _planes_last(sr).cpu().numpy()
        if source.grey:
            made = np.repeat(made.mean(2, keepdims=True), 3, 2)
        errors = squared_error(made, _extended(rgb, block.under))[block.inside_under]
        self.error += float(_cut(errors, block.below, rgb.shape[:2]).sum(dtype=np.float64))
        return torch.from_numpy(_cut(made[block.inside], block.core, self.plan.size_out))

    def _draw_faces(self, rgb: np.ndarray) -> None:
        """Sets `drawn`, once for all blocks: a face may lie in several."""
        if self.artist is None:
            return
        for number, face in enumerate(self.plan.faces or ()):
            one = faces.drawn(self.artist, face, number, rgb, self.sampling, self.call)
            self.drawn.append(one)

    def _with_faces(self, sr: Tensor, block: Block) -> Tensor:
        sizes = zip(self.plan.size_out, self.plan.size_in, strict=True)
        down, across = (large / small for large, small in sizes)
        return faces.blended(sr, self.drawn, block.made, (down, across))

    def _alpha(self, alpha: np.ndarray | None, block: Block) -> np.ndarray | None:
        """The opacity of all columns of a row of blocks."""
        if alpha is None:
            return None
        across = Box(block.under.top, 0, block.under.height, alpha.shape[1])
        size = (block.made.height, self.plan.size_out[1])
        large = resize_array(_extended(alpha, across), size)[block.inside[0]]
        return np.clip(_cut(large, block.core, self.plan.size_out), 0, 1)


def _planes_last(x: Tensor) -> Tensor:
    """(1,3,h,w) -> (h,w,3)."""
    return x[0].permute(1, 2, 0)


def _beside(made: Iterator[Tensor], row: tuple[Block, ...], width: int) -> Tensor:
    """The cores (h,w,3) of a row of blocks in one, (h,width,3)."""
    band = None
    for core, block in zip(made, row, strict=True):
        if len(row) == 1:
            return core.contiguous()
        if band is None:
            band = core.new_empty((len(core), width, 3))
        band[:, block.core.left : block.core.left + core.shape[1]] = core
    return band


def _extended(a: np.ndarray, box: Box) -> np.ndarray:
    """A box of (H,W,...), with the last row and column repeated where it goes beyond them."""
    part = a[box.at]
    more = (box.height - part.shape[0], box.width - part.shape[1])
    if not any(more):
        return part
    return np.pad(part, [(0, more[0]), (0, more[1]), *[(0, 0)] * (a.ndim - 2)], "edge")


def _cut(a: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """What lies at a box of a picture, without what is beyond that picture's size."""
    return a[: size[0] - box.top, : size[1] - box.left]


def joined(bands: Iterator[Picture], size: tuple[int, int]) -> Picture:
    """All bands in one picture of `size`."""
    whole, row = None, 0
    for band in bands:
        if band.size == size:
            whole = band  # and no copy
            continue
        if whole is None:
            alpha = None if band.alpha is None else np.empty(size, np.float32)
            whole = replace(band, rgb=np.empty((*size, 3), np.float32), alpha=alpha)
        rows = slice(row, row + band.size[0])
        whole.rgb[rows] = band.rgb
        if whole.alpha is not None:
            whole.alpha[rows] = band.alpha
        row = rows.stop
    return whole
