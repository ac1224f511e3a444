"""Pairs: batches of (hr, lr_up, scale) cut from a folder of pictures.

A batch is a function of (pictures, config, iteration) and of nothing else, so a resumed run sees
exactly the examples that an uninterrupted one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DiffsrError, InputError
from ..image.io import SUFFIXES, read
from ..image.resize import resize
from .config import TrainConfig


@dataclass(frozen=True)
class Batch:
    """hr and lr_up (B,3,P,P) in [-1,1]; scale (B,); lr: the B small inputs (3,h,w) in [-1,1].

    P is the config's patch, or its lr_side times the batch's magnification.
    """

    hr: Tensor
    lr_up: Tensor
    scale: Tensor
    lr: list[Tensor]


def load_folder(
    folder: Path, names: Sequence[str] | None = None, on_skip: Callable[[str], None] | None = None
) -> list[np.ndarray]:
    """All pictures below a folder, sorted by path, as uint8 (H,W,3) in memory.

    names: only these file names. Broken files are named through `on_skip` and left out. Raises
    InputError where nothing is left.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of training pictures")
    wanted = set(names) if names is not None else None
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    paths = [p for p in paths if wanted is None or p.name in wanted]

    def decode(path: Path) -> np.ndarray | None:
        try:
            return np.round(read(path).rgb * 255).astype(np.uint8)
        except DiffsrError as error:
            if on_skip:
                on_skip(f"skipped: {error}")
            return None

    with ThreadPoolExecutor() as pool:
        pictures = [p for p in pool.map(decode, paths) if p is not None]
    if not pictures:
        raise InputError(f"{folder}: no readable picture in it (searched for {len(paths)} files)")
    return pictures


def _tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H,W,3) -> float32 (3,H,W) in [-1,1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 127.5 - 1


def _crop(picture: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    top = rng.integers(picture.shape[0] - side + 1)
    left = rng.integers(picture.shape[1] - side + 1)
    return picture[top : top + side, left : left + side]


def _example(
    picture: np.ndarray, config: TrainConfig, side: int, rng: np.random.Generator
) -> Tensor:
    """One HR patch (3,side,side) in [-1,1]."""
    short = min(picture.shape[:2])
    if config.whole:
        cut = min(short, round(short / rng.uniform(1.0, 1.15)))
    else:
        # now and then a larger cut, shrunk: sharper detail than the file's own pixels
        cut = side * 2 if rng.random() < 0.3 and short >= side * 2 else min(side, short)
    hr = _tensor(_crop(picture, cut, rng))
    if cut != side:
        hr = resize(hr[None], (side, side))[0].clamp(-1, 1)
    if rng.random() < 0.5:
        hr = hr.flip(2)
    if not config.whole and rng.random() < 0.5:
        hr = hr.transpose(1, 2)
    if rng.random() < 0.2:  # brightness and contrast: faces and photos are exposed alike
        hr = (hr * rng.uniform(0.7, 1.1) + rng.uniform(-0.15, 0.15)).clamp(-1, 1)
    return hr


def _scale(config: TrainConfig, rng: np.random.Generator) -> float:
    """A magnification by the config's law."""
    if config.scale_law == "uniform":
        scale = config.scale_max - rng.random() * (config.scale_max - config.scale_min)
    elif config.scale_law == "log" or rng.random() < 0.5:
        scale = math.exp(rng.uniform(math.log(config.scale_min), math.log(config.scale_max)))
    else:
        scale = config.scale_focus
    return scale


def quantised(x: Tensor) -> Tensor:
    """[-1,1] rounded to the 256 values of an 8-bit file."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


class Pairs:
    """The examples of a run: `batch(iteration)`."""

    def __init__(self, pictures: list[np.ndarray], config: TrainConfig) -> None:
        self.pictures, self.config = pictures, config
        area = np.array([p.shape[0] * p.shape[1] for p in pictures], dtype=np.float64)
        self.chance = np.full(len(area), 1 / len(area)) if config.whole else area / area.sum()

    def batch(self, iteration: int, count: int | None = None) -> Batch:
        """Bicubic antialiased LR rounded to 8 bits, as the papers make it."""
        rng = np.random.default_rng((self.config.seed, iteration))
        chosen = rng.choice(len(self.pictures), count or self.config.batch, p=self.chance)
        config, patch, fixed = self.config, self.config.patch, 0
        if config.lr_side and rng.random() < config.lr_side_share:
            fixed = config.lr_side
            patch = max(fixed, round(fixed * _scale(config, rng)))
        hr, lr, lr_up, scale = [], [], [], []
        for index in chosen:
            example = _example(self.pictures[index], config, patch, rng)
            side = fixed or max(1, round(patch / _scale(config, rng)))
            small = quantised(resize(example[None], (side, side)))
            hr.append(example)
            lr.append(small[0])
            lr_up.append(resize(small, (patch, patch))[0])
            scale.append(patch / side)
        return Batch(torch.stack(hr), torch.stack(lr_up), torch.tensor(scale), lr)
