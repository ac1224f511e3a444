"""BMPs that Pillow reads in part: channels behind masks, and pixels in runs."""

from __future__ import annotations

import struct
from functools import cached_property
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


def paletted(file: BinaryIO, head: bytes, bits: int) -> tuple[bytes, int]:
    """(what begins a plain BMP of `bits` a pixel with all 256 colours, where `file`'s pixels are).
    head: the file's first 54 bytes. Pillow takes black and white alone for a BMP of 1 bit."""
    start, size = struct.unpack("<II", head[10:18])
    used = struct.unpack("<I", head[46:50])[0] or 1 << head[28]
    start = start or 14 + size + 4 * used
    file.seek(14 + size)
    colours = file.read(min(4 * used, 1024, max(0, start - 14 - size)))
    made = head[:10] + struct.pack("<II", 54 + 1024, 40) + head[18:28] + struct.pack("<HI", bits, 0)
    made += head[34:46] + struct.pack("<II", 256, 0)
    return made + colours.ljust(1024, b"\0"), start


class Unpacked(View):
    """A BMP of runs (RLE8, RLE4) as a plain one of 8 bits a pixel. head: its first 54 bytes.

    Pillow fails where a file leaves out the rows above its picture, and loses rows that are empty.
    """

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file, self._four = file, head[28] == 4
        self._head, self._start = paletted(file, head, 8)
        self._across, down = struct.unpack("<ii", head[18:26])
        self._down, self._step = abs(down), (self._across + 3) // 4 * 4
        super().__init__(len(self._head) + self._step * self._down)

    def _made(self, at: int, most: int) -> bytes:
        if at < len(self._head):
            return self._head[at : at + most]
        at -= len(self._head)
        return self._pixels[at : at + most]

    @cached_property
    def _pixels(self) -> bytes:
        """The rows as far as they are there. What the runs leave out is of colour 0."""
        rows = np.zeros((self._down, self._step), np.uint8)
        self._file.seek(self._start)
        data, at, x, y = self._file.read(), 0, 0, 0
        while y < self._down and len(data) >= at + 2:
            count, value = data[at : at + 2]
            at += 2
            if (count, value) == (0, 0):  # the row ends
                x, y = 0, y + 1
            elif (count, value) == (0, 1):  # the picture ends
                return rows.tobytes()
            elif (count, value) == (0, 2):  # a leap
                right, up = data[at : at + 2].ljust(2, b"\0")
                x, y, at = x + right, y + up, at + 2
            else:
                length = 1 if count else (value + 1) // 2 if self._four else value
                run = np.frombuffer(
                    data[at - 1 : at] if count else data[at : at + length], np.uint8
                )
                at += 0 if count else length + length % 2
                run = np.stack([run >> 4, run & 15], 1).ravel() if self._four else run
                run = np.resize(run, count) if count else run[:value]
                run = run[: max(0, self._across - x)]
                rows[y, x : x + len(run)] = run
                x += len(run)
        return rows.tobytes()[: y * self._step + (x if x < self._across else self._step)]
