"""Truth to the input: the pictures that, shrunk, are what was given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from upscale.errors import NumericalError
from upscale.image.resize import gaussian, resize, resize_array

if TYPE_CHECKING:
    from upscale.model import Model

IN_STEPS = {"project": 1.0, "blend": 0.5}  # mode -> share of the error that each step puts back
# What the shrunk result's mean squared error against the input is measured by: the variance of the
# input's pixels, which an even grey would have for an error, and noise that may have been taken
# out. Over 3 x 160 crops of photographs, shrunk, cut out, compressed, noisy, black and white and
# dithered, at six scales, it stayed below 0.26 of that where results are held to the input and 0.48
# where not; a chessboard of single pixels, the hardest there is, has 0.40 and 0.73.
HELD = 0.5  # projection from which on a result counts as held to the input
NOISE, NOISE_FREE = 1e-3, 1e-2  # variance
DOUBTFUL, DOUBTFUL_FREE = 0.5, 0.8
NONSENSE = 1.0
COARSE = 4.0  # sigma in pixels of the input: noise and blocks are finer, colours are not


def in_steps(model: Model, asked: str | None) -> float:
    """The share of the input's own error that each step puts back: by the mode that is asked for,
    else by the weights' own; of mixed weights the mean."""
    if asked is None and model.parts:
        return sum(share * in_steps(part, None) for part, share in model.parts)
    return IN_STEPS.get(asked or model.consistency, 0.0)


def towards(picture: Tensor, lr: Tensor, strength: float = 1.0) -> Tensor:
    """One back-projection: the picture moved so that, shrunk, it comes nearer to lr."""
    error = lr - resize(picture, tuple(lr.shape[-2:]))
    return torch.add(picture, resize(error, tuple(picture.shape[-2:])), alpha=strength)


def settle(sr: Tensor, lr: Tensor) -> Tensor:
    """Back-projection with the range kept, to where 8-bit rounding hides the rest."""
    for _ in range(3):
        sr = towards(sr, lr).clamp_(-1, 1)
    return sr


def tinge(sr: Tensor, lr: Tensor) -> Tensor:
    """The result's low frequencies made the input's, its details left: no colour shift, and no
    noise or block of the input brought back."""
    for _ in range(2):  # the second for what clipping at black and white took of the first
        error = gaussian(lr - resize(sr, tuple(lr.shape[-2:])), COARSE)
        sr = (sr + resize(error, tuple(sr.shape[-2:]))).clamp_(-1, 1)
    return sr


def finished(sr: Tensor, lr: Tensor, mode: str) -> Tensor:
    """The last touch that a mode gives a result (1,3,H,W), both in [-1,1]."""
    ends = {"project": settle, "colour": tinge}
    return ends[mode](sr, lr) if mode in ends else sr


def squared_error(sr: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """(h,w,C): the output, shrunk, against the input."""
    return (resize_array(sr, lr.shape[:2]) - lr) ** 2


def doubts(error: float, rgb: np.ndarray, projection: float) -> list[str]:
    """What a user must know of a result whose mean squared error, shrunk, against the input rgb
    (h,w,3) contradicts the projection that it was made with. Raises NumericalError where an even
    grey would be nearer to the input."""
    held = projection >= HELD
    doubtful, noise = (DOUBTFUL, NOISE) if held else (DOUBTFUL_FREE, NOISE_FREE)
    if error <= doubtful * noise:
        return []  # and no look at the pixels of all the others
    share = error / (variance(rgb) + noise)
    if share <= doubtful:
        return []
    decibel = report(error)["lr_psnr"]
    if share > NONSENSE:
        raise NumericalError(
            f"the result is nothing like the picture (lr_psnr {decibel:g} dB), so none is written: "
            "try other weights or --consistency project"
        )
    return [f"shrunk, the result is far from the input (lr_psnr {decibel:g} dB): look at it"]


def variance(rgb: np.ndarray) -> float:
    """The mean over the channels of (h,w,3)'s variance, row by row, so that no copy is made."""
    total, squares = np.zeros(3), np.zeros(3)
    for row in rgb:
        row = row.astype(np.float64)
        total, squares = total + row.sum(0), squares + (row * row).sum(0)
    count = rgb.shape[0] * rgb.shape[1]
    return float((squares / count - (total / count) ** 2).mean())


def report(error: float) -> dict[str, float]:
    """For JSON: Consistency (the mean squared error x1e5) and the same in dB."""
    decibel = 99.0 if error < 1e-10 else -10 * math.log10(error)
    return {"consistency": round(error * 1e5, 4), "lr_psnr": round(decibel, 2)}
