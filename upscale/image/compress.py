"""A picture through a lossy codec and back, in memory."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

CODECS = ("JPEG", "WEBP")


def compressed(pixels: np.ndarray, codec: str, quality: int) -> np.ndarray:
    """uint8 (H,W,3) -> the same after `codec` at `quality` (0 to 100), as files usually are: with
    its colours at half resolution."""
    if codec not in CODECS:
        raise ValueError(f"no codec {codec}; choose from {', '.join(CODECS)}")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, codec, quality=quality)
    file.seek(0)
    with Image.open(file) as im:
        return np.asarray(im.convert("RGB"))
