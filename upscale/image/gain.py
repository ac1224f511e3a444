"""What cleaning a picture gains, seen by a small network in its pixels.

`estimate` measures what can be measured: white noise, the steps of a JPEG, the steepness of edges.
A WebP that was saved again, a picture that was shrunk after a compression, or noise below a JPEG
leave none of these, yet whether weights for clean or for real input make the better picture can be
seen. The network was taught by just that: by how much less LPIPS has where a known picture was
cleaned (benchmarks/cleaning.py makes it, docs/models/gain.md tells of it).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SIDE = 64  # of the parts that it looks at, in pixels, as in its training
LEAST = 24  # of a picture of which it can say anything
_PARTS = 8  # along each axis, at most
_FLAT = 0.5  # deviation in grey levels of a part that shows nothing
FILE = Path(__file__).with_name("gain.npz")


class GainNet(nn.Module):
    """Four convolutions, the mean and the deviation of each channel, and two layers: 38,000
    parameters. `outputs` other than 1 are for training."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        widths = (16, 24, 32, 48)
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, width, size, stride)
            for inputs, width, size, stride in zip(
                (5, *widths[:-1]), widths, (3, 4, 4, 3), (1, 2, 2, 2), strict=True
            )
        )
        self.hidden = nn.Linear(2 * widths[-1], 48)
        self.last = nn.Linear(48, outputs)

    def embedded(self, rgb: Tensor) -> Tensor:
        """(N,H,W,3) in grey levels -> (N,48)."""
        h = _differences(rgb)
        for conv in self.convs:
            h = conv(h).relu()
        mean = h.mean((2, 3))
        spread = (h - mean[:, :, None, None]).square().mean((2, 3)).add(1e-4).sqrt()
        return self.hidden(torch.cat([mean, spread], 1)).relu()

    def forward(self, rgb: Tensor) -> Tensor:
        """(N,H,W,3) in grey levels -> (N,outputs): the gain in LPIPS, mean of alex and vgg."""
        return self.last(self.embedded(rgb))


def _differences(rgb: Tensor) -> Tensor:
    """(N,H,W,3) -> (N,5,H-2,W-2): slopes of luma, and the Laplacians of luma and of two colour
    differences. By asinh, so that grain counts beside edges."""
    luma = rgb @ rgb.new_tensor([0.299, 0.587, 0.114])
    blue, red = rgb[..., 2] - luma, rgb[..., 0] - luma
    across = luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]
    down = luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]
    curved = (_laplacian(plane) / 2 for plane in (luma, blue, red))
    return torch.stack([torch.asinh(each / 2) for each in (across, down, *curved)], 1)


def _laplacian(plane: Tensor) -> Tensor:
    beside = plane[:, :-2, 1:-1] + plane[:, 2:, 1:-1] + plane[:, 1:-1, :-2] + plane[:, 1:-1, 2:]
    return 4 * plane[:, 1:-1, 1:-1] - beside


@functools.cache
def _network() -> GainNet:
    net = GainNet()
    with np.load(FILE) as stored:
        net.load_state_dict({key: torch.from_numpy(stored[key]).float() for key in stored.files})
    return net.eval().requires_grad_(False)


def gain_of(rgb: np.ndarray) -> float | None:
    """The gain that is seen in (H,W,3) in [0,1], by parts that are spread over it; None where it is
    too small or too flat."""
    if min(rgb.shape[:2]) < LEAST:
        return None
    side = [min(SIDE, length) for length in rgb.shape[:2]]
    rows, columns = (
        np.linspace(0, length - size, min(_PARTS, -(-length // size))).round().astype(int)
        for length, size in zip(rgb.shape[:2], side, strict=True)
    )
    parts = np.stack([rgb[i : i + side[0], j : j + side[1]] for i in rows for j in columns])
    parts = parts[parts.std((1, 2)).max(1) * 255 > _FLAT]
    if not len(parts):
        return None
    return float(_network()(torch.from_numpy(parts).float() * 255).mean())
