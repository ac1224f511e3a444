"""Netpbm's greymaps and pixmaps (PGM, PPM) with all their bits, of which Pillow keeps 8, and takes
them pixel by pixel in Python; and their rows as they come."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from upscale.image.picture import Extras


def read(file: BinaryIO, im: Image.Image) -> tuple[np.ndarray, int, float]:
    """(float32 (H,W,1 or 3) in [0,1], bits a channel, the share of values that are not there).

    im: the opened file as Pillow gives it, not loaded, of which the header is taken. Values that
    are missing are 0. Raises ValueError for what is no number.
    """
    file.seek(0)
    digits = file.read(2) in (b"P2", b"P3")
    codec, _, start, args = im.tile[0]
    most = args[-1] if codec != "raw" else 65535 if im.mode == "I" else 255
    shape = (im.height, im.width, 3 if im.mode == "RGB" else 1)
    count = shape[0] * shape[1] * shape[2]
    file.seek(start)
    if digits:
        text = re.sub(rb"#[^\r\n]*", b"", file.read())
        found = np.array(text.split(None, count)[:count], bytes).astype(np.uint32)
    else:
        kind = np.dtype(">u2" if most > 255 else "u1")
        data = file.read(count * kind.itemsize)
        found = np.frombuffer(data, kind, len(data) // kind.itemsize)
    values = np.zeros(count, np.float32)
    np.minimum(found / np.float32(most), 1, out=values[: len(found)], casting="same_kind")
    return values.reshape(shape), 16 if most > 255 else 8, 1 - len(found) / count


class Writer:
    """Rows of uint8 or uint16 samples, as they come: P5 of one channel, P6 of three."""

    def __init__(
        self, file: BinaryIO, size: tuple[int, int], channels: int, dtype: np.dtype,
        extras: Extras, folder: Path | None = None,
    ) -> None:  # fmt: skip
        self._file, kind = file, 5 if channels == 1 else 6
        said = "".join(f"# {line}\n" for line in (extras.software or "").splitlines())
        head = f"P{kind}\n{said}{size[1]} {size[0]}\n{np.iinfo(dtype).max}\n"
        file.write(head.encode())

    def add(self, samples: np.ndarray) -> None:
        self._file.write(samples.astype(samples.dtype.newbyteorder(">")).tobytes())

    def close(self) -> None:
        pass

    discard = close
