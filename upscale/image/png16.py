"""16-bit PNG, of which Pillow keeps only the high byte of each sample; PNGs row by row."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import png
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from upscale.image.colour import bands
from upscale.image.picture import Extras

_HEADER = 33  # bytes of the signature and the first chunk
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


def read(file: BinaryIO, high: Image.Image) -> np.ndarray:
    """The samples as declared, uint16 (H,W,1..4); a transparent colour becomes an alpha channel.

    high: the decoded file as Pillow gives it, with the high bytes of colours. A second look at the
    file takes the low ones. Where the first ended too early, missing rows are 0 in both.
    """
    if high.mode == "I;16":  # grey: nothing is lost
        samples = np.asarray(high)[..., None]
    else:
        file.seek(0)
        low = PngImageFile(file)
        two = low.tile[0].args == "LA;16B"  # of the same size as four samples of 8 bits
        raw = "RGBA" if two else f"{low.mode};16L"  # 16L: what comes first is the low byte
        low.tile = [tile._replace(args=raw) for tile in low.tile]
        with suppress(OSError, SyntaxError, EOFError):  # `high` has ended there too
            low.load()
        low.tile = []
        if two:
            samples = np.asarray(low).view(">u2")
        else:
            samples = np.empty((high.height, high.width, len(high.getbands())), np.uint16)
            for (rows, band), (_, fine) in zip(bands(high), bands(low), strict=True):
                samples[rows] = band
                samples[rows] <<= 8
                samples[rows] |= fine
    return transparent(samples, high.info.get("transparency"))


def transparent(samples: np.ndarray, hidden: int | tuple[int, ...] | None) -> np.ndarray:
    """uint16 (H,W,C), of which one colour may be transparent, with an alpha channel for it."""
    if hidden is None:
        return samples
    seen = (samples != np.array(hidden, np.uint16)).any(2, keepdims=True)
    return np.concatenate([samples, seen * np.uint16(65535)], 2)


def chunks(extras: Extras) -> Iterator[tuple[bytes, bytes]]:
    """What goes along, to stand before the pixels: (kind, data)."""
    yield from extras.colours
    if extras.icc:
        yield b"iCCP", b"icc\0\0" + zlib.compress(extras.icc)
    if densities := extras.dpi or extras.aspect:
        # pixels without a unit have a ratio alone
        scale = 1 / 0.0254 if extras.dpi else 1 if min(densities) >= 1 else 1000 / max(densities)
        whole = [min(2**31 - 1, max(1, round(n * scale))) for n in densities]
        yield b"pHYs", struct.pack(">IIB", *whole, extras.dpi is not None)
    if extras.exif:
        yield b"eXIf", extras.exif.removeprefix(b"Exif\0\0")
    if extras.xmp:
        yield b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + extras.xmp
    if extras.iptc:  # as ImageMagick and exiftool do it: PNG has no place of its own for it
        hexadecimal = extras.iptc.hex().encode()
        lines = b"\n".join(hexadecimal[i : i + 72] for i in range(0, len(hexadecimal), 72))
        profile = b"\niptc\n%8d\n%s\n" % (len(extras.iptc), lines)
        yield b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(profile)
    for comment in extras.comments:
        yield _text(b"Comment", comment)
    yield from extras.texts
    if extras.software:
        yield _text(b"Software", extras.software.encode())


def _text(keyword: bytes, words: bytes) -> tuple[bytes, bytes]:
    """In UTF-8 where it is that, else in Latin-1."""
    words = words.rstrip(b"\0").replace(b"\0", b" ")
    try:
        words.decode()
    except UnicodeDecodeError:
        return b"tEXt", keyword + b"\0" + words
    if words.isascii():
        return b"tEXt", keyword + b"\0" + words
    return b"iTXt", keyword + b"\0\0\0\0\0" + words


def head_of(data: memoryview, extras: Extras) -> tuple[bytes, int]:
    """(the beginning of a PNG, with what goes along, where in `data` it goes on)."""
    head = io.BytesIO()
    head.write(data[:_HEADER])
    for kind, body in chunks(extras):
        png.write_chunk(head, kind, body)
    return head.getvalue(), _HEADER


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
        self._file, bits = file, np.dtype(dtype).itemsize * 8
        self._rest = b""  # filtered, not yet compressed
        self._before = b""  # what was compressed last
        self._checksum = zlib.adler32(b"")
        self._above = np.zeros((1, size[1] * channels * bits // 8), np.uint8)
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, colour_type, 0, 0, 0))
        for kind, data in chunks(extras):
            self._chunk(kind, data)
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
        self._squeeze(len(self._rest))
        last = zlib.compressobj(wbits=-15).flush()
        self._chunk(b"IDAT", last + struct.pack(">I", self._checksum))
        self._chunk(b"IEND", b"")

    def discard(self) -> None:
        """Nothing more will come, and nothing is left."""

    def _chunk(self, kind: bytes, data: bytes) -> None:
        png.write_chunk(self._file, kind, data)
