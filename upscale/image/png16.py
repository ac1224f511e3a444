"""16-bit PNG, of which Pillow keeps only the high byte of each sample; PNGs row by row."""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import png

from upscale.image.picture import Extras

_BAND = 256  # rows filtered at a time
_PIECE = 1 << 20  # bytes that a thread compresses at a time
_WINDOW = 1 << 15  # of what lies before them, which deflate may refer to
_THREADS = min(8, os.cpu_count() or 1)
_AT_ONCE = 2 * _THREADS * _PIECE
# Measured on a photo with noise in the low bytes: 6 takes 30% longer for 0.05% fewer bytes.
_LEVEL = 4


def is_deep(head: bytes) -> bool:
    """Whether the first 25 bytes of a PNG declare 16 bits a sample."""
    return len(head) > 24 and head[24] == 16


def read(file: BinaryIO, *, allow_truncated: bool = False) -> np.ndarray:
    """The samples as declared, uint16 (H,W,1..4); a transparent colour becomes an alpha channel.

    Any of pypng's or zlib's errors may pass. With `allow_truncated`, missing rows are 0.
    """
    file.seek(0)
    file = _mended(file) if allow_truncated else file
    width, height, rows, info = png.Reader(file=file).read()
    samples = np.zeros((height, width * info["planes"]), np.uint16)
    try:
        for y, row in enumerate(islice(rows, height)):  # past the last one, pypng asks for IEND
            samples[y] = row
    except Exception:  # whatever a decoder stumbles over where the file ends
        if not allow_truncated:
            raise
    samples = samples.reshape(height, width, info["planes"])
    if "transparent" in info:
        hidden = (samples == np.array(info["transparent"], np.uint16)).all(2, keepdims=True)
        samples = np.concatenate([samples, np.where(hidden, 0, 65535).astype(np.uint16)], 2)
    return samples


def _mended(file: BinaryIO) -> BinaryIO:
    """The chunks that are there, the last as far as it goes: pypng takes no part of a chunk."""
    whole = io.BytesIO(file.read(8))
    whole.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        png.write_chunk(whole, kind, file.read(length))
        file.read(4)  # the checksum, which write_chunk has made anew
    png.write_chunk(whole, b"IEND")
    whole.seek(0)
    return whole


class Writer:
    """A PNG whose rows come some at a time: `add` them from the top, then `close`.

    size (height, width); channels 1 to 4, as in L, LA, RGB, RGBA; dtype uint8 or uint16. folder:
    for writers that need one.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        channels: int,
        dtype: np.dtype,
        extras: Extras,
        folder: Path | None = None,
    ) -> None:
        self._file, self._software, bits = file, extras.software, np.dtype(dtype).itemsize * 8
        self._rest = b""  # filtered, not yet compressed
        self._before = b""  # what was compressed last
        self._checksum = zlib.adler32(b"")
        self._above = np.zeros((1, size[1] * channels * bits // 8), np.uint8)
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, colour_type, 0, 0, 0))
        if extras.icc:
            self._chunk(b"iCCP", b"icc\0\0" + zlib.compress(extras.icc))
        if extras.dpi:
            per_metre = [round(n / 0.0254) for n in extras.dpi]
            self._chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
        if extras.exif:
            self._chunk(b"eXIf", extras.exif.removeprefix(b"Exif\0\0"))
        self._chunk(b"IDAT", b"\x78\x5e")  # zlib's header: a window of 32 KiB, a fast level

    def add(self, samples: np.ndarray) -> None:
        """uint8 or uint16 (h,W,C), whole rows.

        Their PNG filter is 2, "Up": one subtraction, and the only one pypng undoes quickly.
        """
        for y in range(0, len(samples), _BAND):
            band = samples[y : y + _BAND]
            big_endian = band.astype(band.dtype.newbyteorder(">"))
            rows = big_endian.reshape(len(band), -1).view(np.uint8)
            difference = rows - np.concatenate([self._above, rows[:-1]])  # modulo 256, as it is
            self._rest += np.insert(difference, 0, 2, axis=1).tobytes()
            self._above = rows[-1:]
            if len(self._rest) >= _AT_ONCE:
                self._squeeze(len(self._rest) // _PIECE * _PIECE)

    def _squeeze(self, length: int) -> None:
        """Compress the first `length` bytes, in pieces, each on a thread of its own (zlib leaves
        the interpreter free). What comes out does not depend on how many threads there are."""
        data, self._rest = self._rest[:length], self._rest[length:]
        self._checksum = zlib.adler32(data, self._checksum)
        known = self._before + data
        begin = len(self._before)

        def piece(start: int) -> bytes:
            there = begin + start
            squeeze = zlib.compressobj(
                _LEVEL, wbits=-15, zdict=known[max(0, there - _WINDOW) : there]
            )
            return squeeze.compress(known[there : there + _PIECE]) + squeeze.flush(
                zlib.Z_SYNC_FLUSH
            )

        with ThreadPoolExecutor(_THREADS) as pool:
            for compressed in pool.map(piece, range(0, length, _PIECE)):
                self._chunk(b"IDAT", compressed)
        self._before = known[-_WINDOW:]

    def close(self) -> None:
        """All rows are there."""
        software = self._software
        self._squeeze(len(self._rest))
        last = zlib.compressobj(wbits=-15).flush()
        self._chunk(b"IDAT", last + struct.pack(">I", self._checksum))
        if software and software.isascii():
            self._chunk(b"tEXt", b"Software\0" + software.encode())
        elif software:
            self._chunk(b"iTXt", b"Software\0\0\0\0\0" + software.encode())
        self._chunk(b"IEND", b"")

    def discard(self) -> None:
        """Nothing more will come, and nothing is left."""

    def _chunk(self, kind: bytes, data: bytes) -> None:
        png.write_chunk(self._file, kind, data)
