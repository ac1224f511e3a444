"""Single waves that stand out of a picture's spectrum more than of the truth's: hatching, meshes.

Our own. A network that is unsure of a texture paints the few waves it knows: fine hatching in skies
and on walls, at any period and in any direction. LPIPS does not mind it (with AlexNet it likes it),
and the grid ratio looks at one period along rows and columns alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    import numpy as np

WINDOW = 32  # side of the windows, pixels; they overlap by half
NEAR, FAR = 1, 3  # bins from a frequency: what a Hann window leaks into, and what it is compared to


def mesh(sr: np.ndarray | Tensor, hr: np.ndarray | Tensor) -> float:
    """`excess` of two pictures (H,W,3) in [0,1]; nan where a side is below WINDOW.
    0 means none; grain as strong as visible hatching has a tenth of the hatching's value.

    Float64, nothing is clipped or rounded: do that first if a file does.
    """
    x, y = (torch.as_tensor(p).double().movedim(-1, 0)[None] for p in (sr, hr))
    return float(excess(x, y, grey_level=1 / 255)) if min(x.shape[-2:]) >= WINDOW else float("nan")


def excess(
    sr: Tensor,
    hr: Tensor,
    grey_level: float,
    mean: Callable[[Tensor], Tensor] = lambda value: value,
) -> Tensor:
    """Two (B,3,H,W), sides of WINDOW or more -> scalar: how much further each frequency stands out
    of those around it in sr than in hr, where positive, squared, as a mean over frequencies.

    In squared nepers of power. grey_level: one grey level in the pictures' units; noise of that
    size is added. mean: a differentiable mean over processes that hold parts of the batch.
    """
    more = _standing_out(mean(_spectrum(sr, grey_level)))
    return (more - _standing_out(mean(_spectrum(hr, grey_level)))).clamp_min(0).square().mean()


def _spectrum(x: Tensor, grey_level: float) -> Tensor:
    """(B,3,H,W) -> (WINDOW, WINDOW / 2 + 1), the mean over windows and channels of log power.

    The mean of logs: a smooth window counts as much as one with an edge in it.
    """
    hann = torch.hann_window(WINDOW, dtype=x.dtype, device=x.device)
    window = hann[:, None] * hann
    step = WINDOW // 2
    parts = x.unfold(2, WINDOW, step).unfold(3, WINDOW, step)
    parts = parts - parts.mean((-2, -1), keepdim=True)
    power = torch.fft.rfft2(parts * window).abs().square()
    floor = grey_level**2 * window.square().sum() / 12
    return (power + floor).log().mean((0, 1, 2, 3))


def _standing_out(spectrum: Tensor) -> Tensor:
    """Each bin minus the mean of those FAR around it, without NEAR. Rows wrap, columns reflect."""
    wide = F.pad(spectrum[None, None], (0, 0, FAR, FAR), mode="circular")
    wide = F.pad(wide, (FAR, FAR, 0, 0), mode="reflect")
    side = 2 * FAR + 1
    ring = spectrum.new_ones(side, side)
    ring[FAR - NEAR : FAR + NEAR + 1, FAR - NEAR : FAR + NEAR + 1] = 0
    return spectrum - F.conv2d(wide, (ring / ring.sum())[None, None])[0, 0]
