"""How a picture becomes an example of the papers: exact crops and nothing invented.

`patch` is a random part at the picture's own size, mirrored and turned (DIV2K in ECDP and its
predecessors); `square` the largest central square, area-resized and mirrored (SR3 section 4.1);
`stretch` the whole picture resized to a square (CelebA in SRFlow and ECDP). `augmented`, ours, is
in data.py.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from upscale.image.resize import resize
from upscale.train.config import TrainConfig
from upscale.train.pictures import Pair

AREA_WEIGHED = ("augmented", "patch")  # a picture's chance is its area: every pixel's is the same


def tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H,W,3) -> float32 (3,H,W) in [-1,1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 127.5 - 1


def smallest_side(config: TrainConfig) -> int:
    """Pictures whose shorter side is less are left out (SR3 section 4.1): enlarged, they would be
    taught as truth."""
    return config.patch


def random_part(picture: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """(H,W,3) -> any (side,side,3) of it."""
    top, left = (rng.integers(length - side + 1) for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def central(picture: np.ndarray, side: int) -> np.ndarray:
    """The middle (side,side,3) of a picture."""
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def aligned(pair: Pair, patch: int, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
    """The same part of both, (3,patch,patch) and the small (3,h,h) in [-1,1], as they are: at any
    place, or without chance in the middle."""
    scale = pair.hr.shape[0] // pair.lr.shape[0]
    side = patch // scale
    spare = [length - side for length in pair.lr.shape[:2]]
    top, left = (int(rng.integers(n + 1)) if rng else n // 2 for n in spare)
    hr = pair.hr[top * scale :, left * scale :][:patch, :patch]
    return tensor(hr), tensor(pair.lr[top : top + side, left : left + side])


def mirrored_pair(
    pair: Pair, config: TrainConfig, patch: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """`aligned`, both mirrored alike and, unless the pictures are aligned themselves, transposed.
    Nothing else: the small one is what somebody made of the large one."""
    both = aligned(pair, patch, rng)
    if rng.random() < 0.5:
        both = tuple(x.flip(2) for x in both)
    if config.crop in AREA_WEIGHED and not config.whole and rng.random() < 0.5:
        both = tuple(x.transpose(1, 2) for x in both)
    return both


def shrunk_by_area(hr: Tensor, side: int) -> Tensor:
    """(3,H,W) -> (3,side,side) by the mean over the area that each pixel covers."""
    return F.interpolate(hr[None], (side, side), mode="area")[0]


def example(
    picture: np.ndarray, config: TrainConfig, side: int, rng: np.random.Generator
) -> Tensor:
    """One example (3,side,side) in [-1,1] by `config.crop`; side is at most `config.patch`."""
    if config.crop == "patch":
        hr = tensor(random_part(picture, side, rng))
        hr = torch.rot90(hr, int(rng.integers(4)), (1, 2))
    else:
        hr = plain(picture, config, side)
    return hr.flip(2) if rng.random() < 0.5 else hr


def plain(picture: np.ndarray, config: TrainConfig, side: int) -> Tensor:
    """The example (3,side,side) in [-1,1] of a picture with no chance in it, for validation."""
    short = min(picture.shape[:2])
    if config.crop == "stretch":
        return resize(tensor(picture)[None], (side, side))[0].clamp(-1, 1)
    if config.crop == "square":
        return shrunk_by_area(tensor(central(picture, short)), side)
    cut = short if config.whole or short < side else side
    hr = tensor(central(picture, cut))
    return hr if cut == side else resize(hr[None], (side, side))[0].clamp(-1, 1)
