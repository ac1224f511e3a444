"""Measures computed from the pixels alone: PSNR, SSIM, consistency, regular patterns.

Pictures are (H,W,3) in [0,1]: float numpy arrays or torch tensors (moved to the CPU here).
Everything is computed in float64 and nothing is clipped or rounded: do that first if a file does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

    Image: TypeAlias = np.ndarray | torch.Tensor

_BT601 = np.array([65.481, 128.553, 24.966]) / 255.0  # studio range: black 16/255, white 235/255
_LUMA = np.array([0.299, 0.587, 0.114])  # the same weights, full range
_SSIM_SIGMA = 1.5
_SSIM_RADIUS = 5  # 11x11 window, Wang et al. 2004
# grid neighbours in bins; a Hann window leaks into +-1 (its zeros: +-2)
_NEAREST, _FARTHEST = 3, 10
_GREY_LEVEL = 1.0 / 255.0


def psnr(sr: Image, hr: Image, shave: int = 0) -> float:
    """Peak signal-to-noise ratio over R, G and B in dB; inf for equal pictures."""
    return _db(_mse(*_pair(sr, hr, shave)))


def psnr_y(sr: Image, hr: Image, shave: int = 0) -> float:
    """PSNR in dB of BT.601 luma in 16..235, `shave` pixels cut from every border (usually the
    scale): the number super-resolution papers print."""
    sr, hr = _pair(sr, hr, shave)
    return _db(_mse(luma(sr), luma(hr)))


def ssim(sr: Image, hr: Image, shave: int = 0) -> float:
    """Structural similarity, Wang et al. 2004, mean over R, G and B; nan under 11x11 pixels."""
    sr, hr = _pair(sr, hr, shave)
    return float(np.mean([_ssim(sr[..., c], hr[..., c]) for c in range(sr.shape[-1])]))


def ssim_y(sr: Image, hr: Image, shave: int = 0) -> float:
    """SSIM of BT.601 luma in 16..235 with `shave` pixels cut; nan under 11x11 pixels."""
    sr, hr = _pair(sr, hr, shave)
    return _ssim(luma(sr), luma(hr))


def consistency(lr: Image, sr: Image) -> float:
    """MSE x 1e5 between `lr` and `sr` shrunk to its size by our bicubic (SR3, section 4.1).

    0 means that the enlarged picture, shrunk again, is the input. 8-bit rounding alone of
    either picture costs up to about 0.1.
    """
    return 1e5 * _mse_lr(lr, sr)


def lr_psnr(lr: Image, sr: Image) -> float:
    """The same comparison as `consistency`, as a PSNR over R, G and B in dB (NTIRE's LR-PSNR)."""
    return _db(_mse_lr(lr, sr))


def grid_ratio(sr: Image, period: int = 4) -> float:
    """How much stronger a pattern of `period` pixels is than the picture around it: the mean of
    `grid_harmonics`. 1 is none; photos lie in 0.8..1.2, and a visible pixel-shuffle grid above 1.5.
    nan where a side is shorter than 12 periods."""
    return float(np.mean(grid_harmonics(sr, period)))


def grid_harmonics(sr: Image, period: int = 4) -> np.ndarray:
    """Energy at k/period cycles per pixel over that of its neighbours, k = 1..period//2.

    Along each axis: luma, Hann window over a length that is a multiple of the period (so that
    every harmonic is one bin), power spectrum averaged over the lines; then that bin over the
    median of the bins 3 to 10 away on either side (a photo's spectrum is smooth there). The two
    axes are averaged. One grey level of white noise is added to both, so that what 8-bit
    rounding makes of a clean ramp does not count as a pattern. For period 4 the first entry is
    the base frequency 1/4, the second (1/2) a checkerboard.

    Returns float64 (period//2,), all nan where a side is shorter than 12 periods.
    """
    if period < 2:
        raise ValueError(f"period must be at least 2 pixels, not {period}")
    rgb = _array(sr)
    if min(rgb.shape[:2]) < 12 * period:
        return np.full(period // 2, np.nan)
    y = rgb @ _LUMA
    return (_harmonics(y, period) + _harmonics(y.T, period)) / 2


def luma(rgb: Image) -> np.ndarray:
    """BT.601 luma of (H,W,3) in [0,1] -> float64 (H,W) in [16/255, 235/255], not rounded."""
    return _array(rgb) @ _BT601 + 16.0 / 255.0


def _array(image: Image) -> np.ndarray:
    if hasattr(image, "detach"):
        image = image.detach().cpu().double().numpy()
    array = np.asarray(image, dtype=np.float64)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"a picture must be (H,W,3), not {tuple(array.shape)}")
    if np.asarray(image).dtype.kind != "f":
        raise ValueError("a picture must be floats in [0,1], not integers")
    return array


def _pair(sr: Image, hr: Image, shave: int) -> tuple[np.ndarray, np.ndarray]:
    sr, hr = _array(sr), _array(hr)
    if sr.shape != hr.shape:
        raise ValueError(f"sizes differ: {sr.shape[:2]} and {hr.shape[:2]} (height, width)")
    height, width = sr.shape[:2]
    if shave < 0 or 2 * shave >= min(height, width):
        raise ValueError(f"a border of {shave} leaves nothing of {height}x{width} pixels")
    cut = np.s_[shave : height - shave, shave : width - shave]
    return sr[cut], hr[cut]


def _mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean((a - b) ** 2))


def _db(mse: float) -> float:
    return math.inf if mse == 0 else -10.0 * math.log10(mse)


def _mse_lr(lr: Image, sr: Image) -> float:
    from upscale.image.resize import resize_array  # brings torch; PSNR and SSIM do without

    lr, sr = _array(lr), _array(sr)
    return _mse(lr, resize_array(sr.astype(np.float32), lr.shape[:2]))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    """(H,W) planes with data range 1; only whole windows count, as in the authors' code."""
    if min(x.shape) <= 2 * _SSIM_RADIUS:
        return math.nan
    mu_x, mu_y, xx, yy, xy = (
        smoothed(plane, _SSIM_SIGMA, _SSIM_RADIUS) for plane in (x, y, x * x, y * y, x * y)
    )
    var_x, var_y, cov = xx - mu_x**2, yy - mu_y**2, xy - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mu_x * mu_y + c1) * (2 * cov + c2)
    return float(np.mean(top / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))))


def smoothed(plane: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """Gaussian-weighted mean over whole windows: (H,W) -> (H - 2 radius, W - 2 radius)."""
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for _ in range(2):  # along the rows' axis, then, transposed, along the other
        rows = plane.shape[0] - 2 * radius
        plane = sum(t * plane[i : i + rows] for i, t in enumerate(taps)).T
    return plane


def _harmonics(y: np.ndarray, period: int) -> np.ndarray:
    """`grid_harmonics` of luma (L,N) along its last axis."""
    n = y.shape[1] // period * period
    lines = y[:, :n] - y[:, :n].mean(axis=1, keepdims=True)
    window = np.hanning(n + 1)[:n]  # periodic: exactly three bins wide
    power = (np.abs(np.fft.fft(lines * window)) ** 2).mean(axis=0)
    power += _GREY_LEVEL**2 * (window**2).sum()
    steps = np.arange(_NEAREST, _FARTHEST + 1)
    around = np.concatenate([-steps, steps])
    bins = [k * n // period for k in range(1, period // 2 + 1)]
    return np.array([power[b] / np.median(power[(b + around) % n]) for b in bins])
