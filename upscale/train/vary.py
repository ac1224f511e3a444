"""Examples made more varied than their pictures are: turned, scaled, in other colours and light.

Aligned portraits are upright, of one size and lit alike: a network that saw no others expects it.
What is changed is the target, before its small version is made of it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from upscale.train.config import TrainConfig

# at a strength of 1: the largest change of the exponent, of contrast, of a channel's gain and of
# saturation, as logarithms; and of the light from one side to the other
_GAMMA, _CONTRAST, _GAIN, _SATURATION, _LIGHT = 0.5, 0.4, 0.25, 0.7, 0.6
_LUMA = (0.299, 0.587, 0.114)


def placed(hr: Tensor, config: TrainConfig, rng: np.random.Generator) -> Tensor:
    """(3,S,S) turned by up to `config.turn` degrees either way and scaled by up to 1 +
    `config.zoom`, larger or smaller. Past the edge it is mirrored, as aligned faces are."""
    if not (config.turn or config.zoom):
        return hr
    angle = math.radians(rng.uniform(-1, 1) * config.turn)
    factor = (1 + config.zoom) ** rng.uniform(-1, 1)
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    way = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]])
    grid = F.affine_grid(way, [1, *hr.shape], align_corners=False)
    made = F.grid_sample(hr[None], grid, "bicubic", "reflection", align_corners=False)
    return made[0].clamp(-1, 1)


def coloured(hr: Tensor, config: TrainConfig, rng: np.random.Generator) -> Tensor:
    """(3,H,W) in [-1,1] in other colours and another light, by up to `config.colour`."""
    if not config.colour:
        return hr
    most = config.colour
    gamma, contrast, saturation = (
        math.exp(rng.uniform(-1, 1) * most * each) for each in (_GAMMA, _CONTRAST, _SATURATION)
    )
    gains = torch.from_numpy(np.exp(rng.uniform(-1, 1, 3) * most * _GAIN)).float()
    angle, slope = rng.uniform(0, 2 * math.pi), rng.random() * most * _LIGHT
    down, across = (torch.linspace(-1, 1, length) for length in hr.shape[1:])
    along = down[:, None] * math.sin(angle) + across * math.cos(angle)
    light = 1 + slope * along / math.sqrt(2)
    x = ((hr + 1) / 2).clamp(0, 1) ** gamma
    grey = (x * torch.tensor(_LUMA)[:, None, None]).sum(0)
    x = grey + (x - grey) * saturation
    x = x.mean() + (x - x.mean()) * contrast
    return (x * gains[:, None, None] * light * 2 - 1).clamp(-1, 1)
