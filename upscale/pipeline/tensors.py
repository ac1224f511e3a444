"""Pictures as tensors: users' (C,H,W) or (B,C,H,W) of floats in [0,1], and networks' in [-1,1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from upscale.errors import InputError
from upscale.image.picture import Picture
from upscale.image.pillow import picture_of


def pictures_of(tensor: Tensor) -> list[Picture]:
    """Those in a tensor of one (grey), two (with transparency), three or four channels.

    Raises InputError for other shapes, other numbers and values outside of [0,1]."""
    whole = tensor if tensor.ndim == 4 else tensor[None]
    if whole.ndim != 4 or whole.shape[1] not in (1, 2, 3, 4) or 0 in whole.shape:
        raise InputError(f"a tensor of {tuple(tensor.shape)} is not (C,H,W) or (B,C,H,W)")
    if not tensor.is_floating_point():
        raise InputError(f"a tensor of {tensor.dtype}: give floats in [0,1]")
    return [picture_of(one) for one in whole.detach().float().cpu().permute(0, 2, 3, 1).numpy()]


def tensor_of(pictures: Sequence[Picture], like: Tensor) -> Tensor:
    """Pictures of one size with the channels, the type of number and the device of a tensor."""
    channels = like.shape[-3]
    made = torch.stack([_planes(picture, channels) for picture in pictures])
    return (made if like.ndim == 4 else made[0]).to(like)


def entering(rgb: np.ndarray, device: torch.device) -> Tensor:
    """(h,w,3) in [0,1] -> (1,3,h,w) in [-1,1], for networks."""
    whole = torch.from_numpy(np.ascontiguousarray(rgb))
    return (whole.permute(2, 0, 1)[None] * 2 - 1).to(device)


def leaving(x: Tensor) -> Tensor:
    """(3,H,W) in [-1,1] -> (H,W,3) in [0,1]."""
    return ((x.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).contiguous()


def _planes(picture: Picture, channels: int) -> Tensor:
    rgb, alpha = picture.rgb, picture.alpha
    planes = [rgb.mean(2, keepdims=True) if channels < 3 else rgb]
    if channels in (2, 4):
        planes.append((np.ones(picture.size, np.float32) if alpha is None else alpha)[..., None])
    return torch.from_numpy(np.concatenate(planes, 2)).permute(2, 0, 1).contiguous()
