"""BMPs whose channels lie behind masks, of which Pillow knows some."""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np

from upscale.image.views import View


class Unmasked(View):
    """A BMP of 16 or 32 bits a pixel as one of 8 bits a channel that Pillow knows. head: its first
    54 bytes; masks: of red, green, blue and alpha, 0 for none."""

    def __init__(self, file: BinaryIO, head: bytes, masks: tuple[int, ...]) -> None:
        self._file, self._masks = file, masks
        self._start, self._across = struct.unpack("<I4xI", head[10:22])
        down, bits = struct.unpack("<i2xH", head[22:30])
        self._kind = np.dtype(f"<u{bits // 8}")
        self._step = (self._across * bits + 31) // 32 * 4  # from row to row
        self._head = head[:10] + struct.pack("<II", 70, 56) + head[18:28]
        usual = (0xFF0000, 0xFF00, 0xFF, 0xFF000000 if masks[3] else 0)
        self._head += struct.pack("<HI", 32, 3) + head[34:54] + struct.pack("<4I", *usual)
        super().__init__(len(self._head) + 4 * self._across * abs(down))

    def _made(self, at: int, most: int) -> bytes:
        if at < len(self._head):
            return self._head[at : at + most]
        row, place = divmod(at - len(self._head), 4 * self._across)
        column, inside = divmod(place, 4)
        size, count = self._kind.itemsize, min(self._across - column, most // 4 + 1)
        self._file.seek(self._start + row * self._step + column * size)
        data = self._file.read(count * size)
        values = np.frombuffer(data, self._kind, len(data) // size).astype(np.uint32)
        made = np.zeros((len(values), 4), np.uint8)
        for channel, mask in zip((2, 1, 0, 3), self._masks, strict=True):
            if lowest := mask & -mask:
                made[:, channel] = np.rint((values & mask) // lowest * (255 / (mask // lowest)))
        return made.tobytes()[inside : inside + most]
