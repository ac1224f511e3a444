"""A picture through a lossy codec and back, in memory."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

CODECS = ("JPEG", "WEBP")


def compressed(
    pixels: np.ndarray, codec: str, quality: int, subsampling: str = "4:2:0"
) -> np.ndarray:
    """uint8 (H,W,3) -> the same out of such a file."""
    with Image.open(lossy_file(pixels, codec, quality, subsampling)) as im:
        return np.asarray(im.convert("RGB"))


def lossy_file(
    pixels: np.ndarray, codec: str, quality: int, subsampling: str = "4:2:0"
) -> io.BytesIO:
    """uint8 (H,W,3), or (H,W) in grey, -> a file of `codec` at `quality` (0 to 100). subsampling:
    of JPEG's colours; as files usually are, at half resolution."""
    if codec not in CODECS:
        raise ValueError(f"no codec {codec}; choose from {', '.join(CODECS)}")
    file = io.BytesIO()
    options = {"subsampling": subsampling} if codec == "JPEG" else {}
    Image.fromarray(pixels).save(file, codec, quality=quality, **options)
    file.seek(0)
    return file
