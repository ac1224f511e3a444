"""The table of metrics that a benchmark knows, applied to one picture."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from upscale.device import pick_device
from upscale.errors import UsageError
from upscale.metrics import pixel
from upscale.metrics.perceptual import Lpips

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]  # of sr, hr, lr

METRICS = {
    "psnr_y": "PSNR of BT.601 luma in dB, a border as wide as the scale left out",
    "ssim_y": "SSIM of BT.601 luma, the same border left out",
    "psnr": "PSNR over R, G, B of the whole picture in dB",
    "ssim": "SSIM over R, G, B of the whole picture",
    "lpips": "LPIPS v0.1 with AlexNet",
    "lpips_vgg": "LPIPS v0.1 with VGG-16",
    "consistency": "MSE x 1e5 between the input and the result shrunk to its size",
    "lr_psnr": "the same as PSNR in dB",
    "grid_ratio": "energy of a pattern as wide as the scale over its surroundings; 1 is none",
}


class Scorer:
    """The metrics asked for, their networks loaded once. Raises UsageError for an unknown name
    and WeightsError for a network without weights: both before any picture is touched."""

    def __init__(self, names: tuple[str, ...], scale: float, device: str = "auto") -> None:
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise UsageError(f"no metric {', '.join(unknown)}; have {', '.join(METRICS)}")
        border, period = math.ceil(scale), max(2, round(scale))
        self.metrics: dict[str, Metric] = {}
        for name in names:
            if name in ("psnr_y", "ssim_y"):
                self.metrics[name] = _shaved(getattr(pixel, name), border)
            elif name in ("psnr", "ssim"):
                self.metrics[name] = _shaved(getattr(pixel, name), 0)
            elif name in ("lpips", "lpips_vgg"):
                self.metrics[name] = _lpips("vgg" if name == "lpips_vgg" else "alex", device)
            elif name == "grid_ratio":
                self.metrics[name] = functools.partial(_grid, period=period)
            else:
                self.metrics[name] = _against_input(getattr(pixel, name))

    def __call__(self, sr: np.ndarray, hr: np.ndarray, lr: np.ndarray) -> dict[str, float]:
        """Pictures (H,W,3) in [0,1] -> value by name; nan where a picture is too small for one."""
        return {name: metric(sr, hr, lr) for name, metric in self.metrics.items()}


def _shaved(function: Callable[..., float], border: int) -> Metric:
    def metric(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray) -> float:
        return function(sr, hr, border) if min(hr.shape[:2]) > 2 * border else math.nan

    return metric


def _against_input(function: Callable[..., float]) -> Metric:
    return lambda sr, hr, lr: function(lr, sr)


def _lpips(net: str, device: str) -> Metric:
    network = Lpips(net, pick_device(device))
    return lambda sr, hr, lr: network.distance(sr, hr)


def _grid(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray, period: int) -> float:
    return pixel.grid_ratio(sr, period)
