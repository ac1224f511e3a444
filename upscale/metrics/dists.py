"""DISTS, structure and texture of VGG-16's features (Ding, Ma, Wang, Simoncelli 2020).

The trunk is LPIPS's (`perceptual.weights_file("vgg")`); the channels' weights are the authors', in
data/dists.npz.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upscale.errors import WeightsError
from upscale.metrics.perceptual import SMALLEST, weights_file
from upscale.weights import store

_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # convolutions of VGG-16
_CHANNELS = (3, 64, 128, 256, 512, 512)  # the picture itself is a stage
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_TINY = 1e-6  # c1 and c2 of eq. 5 and 6


class Dists:
    """DISTS on `device`. Raises WeightsError."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.path = path = weights_file("vgg")
        state, _ = store.read(path)
        numbers = [n for stage in _STAGES for n in stage]
        try:
            self.convolutions = {
                n: tuple(
                    state[f"features.{n}.{part}"].float().to(device) for part in ("weight", "bias")
                )
                for n in numbers
            }
        except KeyError as error:
            raise WeightsError(f"{path} is not a file of LPIPS vgg: it lacks {error}") from error
        with np.load(Path(__file__).parent / "data" / "dists.npz", allow_pickle=False) as file:
            alpha, beta = (torch.from_numpy(file[name]).to(device) for name in ("alpha", "beta"))
        total = alpha.sum() + beta.sum()
        self.texture = (alpha / total).split(_CHANNELS)  # weights of the means
        self.structure = (beta / total).split(_CHANNELS)  # weights of the correlations
        self.mean = torch.tensor(_MEAN, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(_STD, device=device).view(1, 3, 1, 1)
        window = torch.tensor([0.5, 1.0, 0.5], device=device)  # Hann
        self.window = window[:, None] * window / window.sum() ** 2

    @torch.no_grad()
    def distance(self, sr: np.ndarray, hr: np.ndarray) -> float:
        """Two (H,W,3) pictures in [0,1] -> 0 for equal ones, up to 1; nan below 16 pixels."""
        if min(hr.shape[:2]) < SMALLEST["vgg"]:
            return math.nan
        alike = 0.0
        pairs = zip(self._features(sr), self._features(hr), strict=True)
        for (a, b), texture, structure in zip(pairs, self.texture, self.structure, strict=True):
            mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
            var_a, var_b = a.var((2, 3), correction=0), b.var((2, 3), correction=0)
            covariance = (a * b).mean((2, 3)) - mean_a * mean_b
            means = (2 * mean_a * mean_b + _TINY) / (mean_a**2 + mean_b**2 + _TINY)
            shapes = (2 * covariance + _TINY) / (var_a + var_b + _TINY)
            alike += float((texture * means + structure * shapes).sum())
        return max(1 - alike, 0.0)  # rounding takes equal ones a little below 0

    def _features(self, picture: np.ndarray) -> list[Tensor]:
        """(H,W,3) -> six (1,C,h,w): the picture and the last layer of each stage."""
        x = torch.as_tensor(picture).to(self.mean.device, torch.float32)
        x = x.permute(2, 0, 1)[None]
        found, x = [x], (x - self.mean) / self.std
        for stage in _STAGES:
            if stage[0]:
                x = self._pooled(x)
            for number in stage:
                x = F.relu(F.conv2d(x, *self.convolutions[number], padding=1))
            found.append(x)
        return found

    def _pooled(self, x: Tensor) -> Tensor:
        """L2 pooling instead of VGG's max pooling: eq. 2, no aliasing."""
        kernel = self.window.expand(x.shape[1], 1, 3, 3)
        square = F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1])
        return (square + 1e-12).sqrt()
