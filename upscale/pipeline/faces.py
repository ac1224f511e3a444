"""Faces in a photograph: weights for faces draw each, and it is laid over the photograph's result.

A face is turned upright, enlarged at its own size, turned back and blended in by a soft
mask. What follows holds all of the result to the input again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upscale.diffusion.tiling import Box
from upscale.image import faces
from upscale.image.faces import Face
from upscale.image.picture import Picture, fill_transparent
from upscale.image.resize import resize
from upscale.model import Model
from upscale.pipeline.plan import Stage, warmed
from upscale.pipeline.request import Request
from upscale.pipeline.sampling import Call, Sampling, sampled
from upscale.pipeline.tensors import entering

DOMAIN = "face"
SMALL, SCALE = 16, 8  # side of the faces that the weights were trained on, and how they enlarge
LARGEST = 32  # side in pixels of the input: larger faces gain nothing in LPIPS (docs/faces.md)
EDGE = 0.2  # of a face's side: over so much it fades into the photograph
_FACES = 1 << 20  # a part of the seed, past the number of any stage


@dataclass(frozen=True)
class Drawn:
    """A face's place, and its picture (1,3,S,S) in [-1,1], upright."""

    face: Face
    picture: Tensor


def found(picture: Picture) -> tuple[tuple[Face, ...], list[str]]:
    """The faces that are to be drawn, and notes. Raises WeightsError without the packages."""
    rgb = picture.rgb
    rgb = rgb if picture.alpha is None else fill_transparent(rgb, picture.alpha)
    every = faces.find(rgb)
    small = tuple(face for face in every if face.side <= LARGEST)
    large, notes = len(every) - len(small), []
    if not every:
        notes.append("--faces: no face was found, so nothing is different")
    if large:
        which = "1 face is" if large == 1 else f"{large} faces are"
        notes.append(f"--faces: {which} larger than {LARGEST} pixels and left to the photo weights")
    return small, notes


def doubts(picture: Picture) -> list[str]:
    """What a user must know who takes a picture for an aligned face that shows none; nothing where
    the packages that find faces are not installed."""
    if not faces.installed() or faces.is_aligned_face(picture.rgb):
        return []
    return [
        "no aligned face was found, and --domain face is for pictures of one face that fills them: "
        "for a photograph with people in it, use --faces instead"
    ]


def drawn(
    model: Model, face: Face, number: int, rgb: np.ndarray, how: Sampling, call: Call
) -> Drawn:
    """The face of that number in the input (H,W,3). Raises as `sampling.sampled`."""
    device = next(model.net.parameters()).device
    part, within = around(rgb, face)
    lr = entering(part, device)
    law, side = model.law, max(SMALL, round(face.side))
    large = (side * SCALE, side * SCALE)
    stage = warmed(Stage((side, side), large, law.steps), law, law.sampler, Request())
    sampling = replace(
        how, sampler=law.sampler, spacing=law.spacing, projection=1.0, dtype=torch.float32,
        seed=(*how.seed, _FACES + number, 0),
    )  # fmt: skip
    small = aligned(lr, within, side)
    made = sampled(model, stage, large, small, sampling, lambda done, of: None, call)
    return Drawn(face, made.picture.float().clamp(-1, 1))


def around(rgb: np.ndarray, face: Face) -> tuple[np.ndarray, Face]:
    """The part of (H,W,3) that a face is cut out of, and the face in it."""
    reach, (row, column) = face.side, face.centre
    top, left = (max(0, math.floor(at - reach)) for at in face.centre)
    part = rgb[top : math.ceil(row + reach), left : math.ceil(column + reach)]
    return np.ascontiguousarray(part), replace(face, centre=(row - top, column - left))


def aligned(lr: Tensor, face: Face, side: int) -> Tensor:
    """The face of lr (1,3,h,w), upright, (1,3,side,side). Past the edge the picture is mirrored,
    as the training faces were."""
    at = (torch.arange(side, device=lr.device) + 0.5) / side - 0.5
    down, across = torch.meshgrid(at, at, indexing="ij")
    cos, sin = math.cos(face.angle) * face.side, math.sin(face.angle) * face.side
    row = face.centre[0] + across * sin + down * cos
    column = face.centre[1] + across * cos - down * sin
    return _sampled(lr, row, column, "reflection")


def blended(sr: Tensor, every: Sequence[Drawn], made: Box, scale: tuple[float, float]) -> Tensor:
    """sr (1,3,H,W), which is what lies at `made` of the output, with the faces laid over it.
    scale: of the output to the input, (down, across)."""
    for one in every:
        place = _touched(one.face, made, scale)
        if place is None:
            continue
        row = (torch.arange(place.top, place.top + place.height, device=sr.device) + 0.5) / scale[0]
        column = torch.arange(place.left, place.left + place.width, device=sr.device) + 0.5
        y, x = torch.meshgrid(
            row - one.face.centre[0], column / scale[1] - one.face.centre[1], indexing="ij"
        )
        cos, sin = (f(one.face.angle) / one.face.side for f in (math.cos, math.sin))
        down, across = y * cos - x * sin + 0.5, x * cos + y * sin + 0.5  # of the face, 0 to 1
        picture = _at_size(one.picture, round(one.face.side * math.sqrt(scale[0] * scale[1])))
        side = picture.shape[-1]
        face = _sampled(picture, down * side, across * side, "border")
        at = (..., *place.within(made))
        sr[at] = torch.lerp(sr[at], face.to(sr), _fading(down) * _fading(across))
    return sr


def _at_size(picture: Tensor, side: int) -> Tensor:
    """A face shrunk to about the size that it has in the result, or as it is."""
    return resize(picture, (side, side)) if side < picture.shape[-1] else picture


def _fading(at: Tensor) -> Tensor:
    """1 inside, 0 at both ends of 0 to 1, and a half cosine over EDGE."""
    inside = (torch.minimum(at, 1 - at) / EDGE).clamp(0, 1)
    return 0.5 - 0.5 * torch.cos(math.pi * inside)


def _touched(face: Face, made: Box, scale: tuple[float, float]) -> Box | None:
    """The part of `made` that a face may cover, in pixels of the output."""
    reach = face.side * math.sqrt(0.5)
    bounds = []
    for middle, factor, first, length in (
        (face.centre[0], scale[0], made.top, made.height),
        (face.centre[1], scale[1], made.left, made.width),
    ):
        begin = max(first, math.floor((middle - reach) * factor))
        end = min(first + length, math.ceil((middle + reach) * factor))
        bounds.append((begin, end - begin))
    (top, height), (left, width) = bounds
    return Box(top, left, height, width) if height > 0 and width > 0 else None


def _sampled(x: Tensor, row: Tensor, column: Tensor, beyond: str) -> Tensor:
    """(1,C,h,w) at real coordinates (H,W), where a pixel's centre is at .5, by bicubic."""
    grid = torch.stack([column * 2 / x.shape[3] - 1, row * 2 / x.shape[2] - 1], -1)[None]
    return F.grid_sample(x.float(), grid.float(), "bicubic", beyond, align_corners=False)


def report(every: Sequence[Face]) -> list[dict[str, object]]:
    """For JSON: the faces that are drawn, from the top."""
    return [face.report() for face in every]
