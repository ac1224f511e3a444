"""From a plan to pixels, in bands of whole rows: one band, or one for each row of blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from upscale.diffusion.tiling import Box
from upscale.errors import NumericalError
from upscale.image.picture import Picture, fill_transparent
from upscale.image.resize import Kernel, resize, resize_array
from upscale.machine import dtype_name
from upscale.methods import Model
from upscale.pipeline import faces
from upscale.pipeline.blocks import Block, drawn, whole
from upscale.pipeline.consistency import doubts, settle, squared_error, tinge
from upscale.pipeline.faces import Drawn
from upscale.pipeline.plan import Plan
from upscale.pipeline.sampling import Call, OnStep, Sampling, sampled


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
    nfe: int = 0
    notes: list[str] = field(default_factory=list)
    error: float = 0.0
    artist: Model | None = None  # draws the plan's faces
    drawn: list[Drawn] = field(default_factory=list)

    def bands(self, source: Picture) -> Iterator[Picture]:
        """The result from the top. Raises NumericalError, after the last band where all of it is
        nothing like the input; OutOfMemory."""
        self.notes = list(self.plan.notes)
        rgb, alpha = source.rgb, source.alpha
        rgb = rgb if alpha is None else fill_transparent(rgb, alpha)
        self._draw_faces(rgb)
        rows = self.plan.blocks or ((whole(source.size, self.plan.size_out),),)
        many, count = sum(map(len, rows)), 0
        for row in rows:
            band = None
            for block in row:
                made = self._made(rgb, block, source.grey, count, many)
                count += 1
                if len(row) == 1:
                    band = np.ascontiguousarray(made)
                    continue
                if band is None:
                    size = (block.core.height, self.plan.size_out[1], 3)
                    band = np.empty(size, np.float32)
                band[:, block.core.left : block.core.left + block.core.width] = made
            yield replace(source, rgb=band, alpha=self._alpha(alpha, row[0]), coded=None)
        self.error /= rgb.size
        self.notes += doubts(self.error, rgb, self.plan.projection)

    def _made(self, rgb: np.ndarray, block: Block, grey: bool, index: int, many: int) -> np.ndarray:
        """float32 (h,w,3) in [0,1]: the core of a block."""
        part = np.ascontiguousarray(rgb[block.source.at])
        lr = (torch.from_numpy(part).permute(2, 0, 1)[None] * 2 - 1).to(self.device)
        sr = self._sampled(lr, block, index, many)
        if self.sampling.dtype != torch.float32 and not torch.isfinite(sr).all():
            # bf16: the one cause that was found is kept out (nets.layers.Halving)
            tried = dtype_name(self.sampling.dtype)
            self.sampling = replace(self.sampling, dtype=torch.float32)
            sr = self._sampled(lr, block, index, many)
            self.notes.append(f"{tried} gave what is not finite: done again in fp32")
        if not torch.isfinite(sr).all():
            raise NumericalError("the result is not finite: no picture is written (--dtype fp32)")
        sr = sr.clamp_(-1, 1).float().add_(1).div_(2)
        made = sr[0].permute(1, 2, 0).cpu().numpy()
        if grey:
            made = np.repeat(made.mean(2, keepdims=True), 3, 2)
        self.error += float(squared_error(made, part)[block.inside_source].sum(dtype=np.float64))
        return made[block.inside]

    def _sampled(self, lr: Tensor, block: Block, index: int, many: int) -> Tensor:
        size = (block.made.height, block.made.width)
        if self.model is None:
            return self._with_faces(resize(lr, size, self.kernel), block)
        stages, sampling = self.plan.stages, self.sampling
        if self.plan.blocks:  # then there is but one
            box = drawn(block.source, self.plan.size_in, stages[0].size_out)
            here = (box.height, box.width)
            tile = stages[0].tile if stages[0].tile < max(here) else 0
            stages = (replace(stages[0], size_in=tuple(lr.shape[-2:]), size_out=here, tile=tile),)
            sampling = replace(sampling, origin=(box.top, box.left))

        def on_step(done: int, steps: int) -> None:
            if self.on_step:
                self.on_step(index * steps + done, many * steps)

        made = sampled(self.model, stages, size, lr, sampling, on_step, self.call)
        self.tile, self.nfe = made.tile, made.nfe
        self.notes += [note for note in made.notes if note not in self.notes]
        ends = {"project": settle, "colour": tinge}
        sr = self._with_faces(made.picture, block)
        return ends.get(self.plan.consistency, lambda sr, lr: sr)(sr, lr)

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
        across = Box(block.source.top, 0, block.source.height, alpha.shape[1])
        large = resize_array(alpha[across.at], (block.made.height, self.plan.size_out[1]))
        return np.clip(large[block.inside[0]], 0, 1)


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
