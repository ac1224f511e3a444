"""Truth to the input: the pictures that, shrunk, are what was given."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from upscale.image.resize import gaussian, resize, resize_array

IN_STEPS = {"project": 1.0, "blend": 0.5}  # mode -> strength of each step's projection
COARSE = 4.0  # sigma in pixels of the input: noise and blocks are finer, colours are not


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


def squared_error(sr: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """(h,w,C): the output, shrunk, against the input."""
    return (resize_array(sr, lr.shape[:2]) - lr) ** 2


def report(error: float) -> dict[str, float]:
    """For JSON: Consistency (the mean squared error x1e5) and the same in dB."""
    decibel = 99.0 if error < 1e-10 else -10 * math.log10(error)
    return {"consistency": round(error * 1e5, 4), "lr_psnr": round(decibel, 2)}
