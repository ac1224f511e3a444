"""Pairs: batches of (hr, lr_up, scale) cut from a folder of pictures.

A batch is a function of (pictures, config, iteration) and of nothing else, so a resumed run sees
exactly the examples that an uninterrupted one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from upscale.image.resize import resize
from upscale.train import crops, vary
from upscale.train.config import TrainConfig
from upscale.train.degrade import BLOCK, small_version
from upscale.train.drawings import drawing
from upscale.train.pictures import Pair, Streamed, paired
from upscale.train.sources import Mixed


@dataclass(frozen=True)
class Batch:
    """hr and lr_up (B,3,P,P) in [-1,1]; scale (B,); lr: the B small inputs (3,h,w) in [-1,1].

    P is the config's patch, or its lr_side times the batch's magnification.
    places: of the examples in the whole batch of all processes. skipped: what was wrong with
    pictures that could not be read.
    """

    hr: Tensor
    lr_up: Tensor
    scale: Tensor
    lr: list[Tensor]
    places: Sequence[int] = ()
    skipped: tuple[str, ...] = ()


def _example(
    picture: np.ndarray, config: TrainConfig, side: int, rng: np.random.Generator
) -> Tensor:
    """One HR patch (3,side,side) in [-1,1]: a part of the picture, or a drawing."""
    hr = _part(picture, config, side, rng)
    drawn = config.drawings and rng.random() < config.drawings
    return drawing(hr, rng) if drawn else hr


def _part(picture: np.ndarray, config: TrainConfig, side: int, rng: np.random.Generator) -> Tensor:
    """A part of the picture, (3,side,side) in [-1,1]."""
    if config.crop != "augmented":
        return crops.example(picture, config, side, rng)
    short = min(picture.shape[:2])
    if config.whole:
        cut = min(short, round(short / rng.uniform(1.0, 1.15)))
    else:
        # now and then a larger cut, shrunk: sharper detail than the file's own pixels
        cut = side * 2 if rng.random() < 0.3 and short >= side * 2 else min(side, short)
    hr = crops.tensor(crops.random_part(picture, cut, rng))
    hr = vary.placed(hr, config, rng)
    if cut != side:
        hr = resize(hr[None], (side, side))[0].clamp(-1, 1)
    if rng.random() < 0.5:
        hr = hr.flip(2)
    if not config.whole and rng.random() < 0.5:
        hr = hr.transpose(1, 2)
    if rng.random() < 0.2:  # brightness and contrast: faces and photos are exposed alike
        hr = (hr * rng.uniform(0.7, 1.1) + rng.uniform(-0.15, 0.15)).clamp(-1, 1)
    return vary.coloured(hr, config, rng)


def _scale(config: TrainConfig, rng: np.random.Generator) -> float:
    """A magnification by the config's law."""
    if config.scale_law == "uniform":
        scale = config.scale_max - rng.random() * (config.scale_max - config.scale_min)
    elif config.scale_law == "log" or rng.random() < 0.5:
        scale = math.exp(rng.uniform(math.log(config.scale_min), math.log(config.scale_max)))
    else:
        scale = config.focus
    return scale


def exact(config: TrainConfig, pairs: int) -> bool:
    """Whether every small picture is what its truth shrinks to, so that results may be projected
    onto it. pairs: how many brought their own."""
    return config.degradation == "bicubic" and not pairs


def quantised(x: Tensor) -> Tensor:
    """[-1,1] rounded to the 256 values of an 8-bit file."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


class Pairs:
    """The examples of a run: `batch(iteration)`. paired: how many of the pictures bring their own
    small versions."""

    def __init__(
        self, pictures: Sequence[np.ndarray | Pair] | Streamed | Mixed, config: TrainConfig
    ) -> None:
        self.pictures, self.config = pictures, config
        self.parts = pictures.datasets if isinstance(pictures, Mixed) else [pictures]
        self.streamed = [part for part in self.parts if isinstance(part, Streamed)]
        self.paired = sum(len(part) for part in self.parts if paired(part))
        self.chance = self._chance()

    def _chance(self) -> np.ndarray | None:
        """How likely each picture is to be drawn; None: all alike."""
        if len(self.parts) == 1:
            return self._chance_within(self.parts[0])
        each = []
        for part, share in zip(self.parts, self.config.shares(len(self.parts)), strict=True):
            own = self._chance_within(part)
            each.append(share * (np.full(len(part), 1 / len(part)) if own is None else own))
        return np.concatenate(each)

    def _chance_within(self, part: Sequence[np.ndarray | Pair] | Streamed) -> np.ndarray | None:
        cut = self.config.crop in crops.AREA_WEIGHED and not self.config.whole
        if not cut and not paired(part):
            return None
        if isinstance(part, Streamed):
            area = part.areas
        else:
            area = np.array([p.shape[0] * p.shape[1] for p in part])
        return None if area is None else area / area.sum(dtype=np.float64)

    def batch(
        self, iteration: int, count: int | None = None, places: Sequence[int] | None = None
    ) -> Batch:
        """Bicubic antialiased LR rounded to 8 bits, as the papers make it, or a degraded one.

        count: examples of the whole batch. places: those of them that are wanted; each has random
        numbers of its own, so that a batch may be made in parts.
        """
        config, seed, patch, fixed = self.config, self.config.seed, self.config.patch, 0
        count = count or config.batch
        rng = np.random.default_rng((seed, iteration))
        chosen = rng.choice(len(self.pictures), count, p=self.chance)
        if config.lr_side and rng.random() < config.lr_side_share:
            fixed = config.lr_side
            patch = max(fixed, round(fixed * _scale(config, rng)))
        places = range(count) if places is None else places
        hr, lr, lr_up, scale = [], [], [], []
        for place in places:
            # numpy takes (seed, iteration, 0) for (seed, iteration), the batch's own
            rng = np.random.default_rng((seed, iteration, place + 1))
            example, small = self._pair(self.pictures[chosen[place]], patch, fixed, rng)
            hr.append(example)
            lr.append(small)
            lr_up.append(resize(small[None], (patch, patch))[0])
            scale.append(patch / small.shape[-1])
        skipped = tuple(line for part in self.streamed for line in part.take_skipped())
        hr, lr_up = torch.stack(hr), torch.stack(lr_up)
        return Batch(hr, lr_up, torch.tensor(scale), lr, tuple(places), skipped)

    def _pair(
        self, picture: np.ndarray | Pair, patch: int, fixed: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """(3,patch,patch) and (3,side,side); side is `fixed`, or where that is 0 by the law of
        scales.

        The blocks of a compression begin anywhere in a real example: where the magnification is
        whole, it is cut out of a degraded picture that is a block larger.
        """
        config = self.config
        if isinstance(picture, Pair):
            return crops.mirrored_pair(picture, config, patch, rng)
        if config.degradation == "bicubic":
            example = _example(picture, config, patch, rng)
            side = fixed or max(1, round(patch / _scale(config, rng)))
            return example, quantised(resize(example[None], (side, side)))[0]
        side = fixed or max(1, round(patch / _scale(config, rng)))
        factor = patch // side
        spare = 0 if patch % side or config.crop != "augmented" else BLOCK
        if not config.whole:  # of a picture that is hardly larger than the example, less
            spare = max(0, min(spare, (min(picture.shape[:2]) - patch) // factor))
        example = _example(picture, config, patch + spare * factor, rng)
        small = small_version(example, side + spare, rng, config)
        top, left = rng.integers(spare + 1, size=2)
        cut = example[:, top * factor :, left * factor :][:, :patch, :patch]
        return cut, small[:, top : top + side, left : left + side]
