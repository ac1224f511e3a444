"""An animated WebP, out of still ones."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from upscale.image.stored import ONE, Area

_SPOOL_BYTES = 64 << 20  # of frames that wait in memory; more of them wait on the disk
_ANIMATED, _ALPHA = 0x02, 0x10
_PIXELS = (b"ALPH", b"VP8 ", b"VP8L")
_CARRIED = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}
_REPLACING = 0x02  # of a frame: its pixels are not blended, and stay


class Writer:
    """An animated WebP: `add` each frame, then `close`. The head needs the length of all, so the
    frames wait in a file without a name."""

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        alpha: bool,
        times: int,
        folder: Path | None = None,
    ) -> None:
        self._file, self._size, self._times = file, size, times
        self._flags = _ANIMATED | (_ALPHA if alpha else 0)
        self._late = 0.0
        self._carried: dict[bytes, bytes] = {}
        self._frames = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=folder)  # noqa: SIM115 (closed by `discard`)

    def add(self, data: bytes, area: Area, milliseconds: float) -> None:
        """data: of a WebP of the pixels that go to an area, which starts at even numbers; they stay
        until others replace them. What the first one carries is carried."""
        if not self._frames.tell():
            self._carried = {kind: body for kind, body in _chunks(data) if kind in _CARRIED}
        self._add(data, area, milliseconds, _REPLACING)

    def add_nothing(self, clear: bytes, milliseconds: float) -> None:
        """A frame in which nothing changes. clear: of a WebP of one transparent pixel, for the
        colour of another would be rounded anew."""
        self._flags |= _ALPHA
        self._add(clear, ONE, milliseconds, 0)

    def _add(self, data: bytes, area: Area, milliseconds: float, flags: int) -> None:
        pixels = b"".join(_chunk(kind, body) for kind, body in _chunks(data) if kind in _PIXELS)
        numbers = (area.left // 2, area.top // 2, area.width - 1, area.height - 1)
        time = min(2**24 - 1, max(0, round(milliseconds + self._late)))
        self._late += milliseconds - time  # what rounding took is given to the next
        head = b"".join(number.to_bytes(3, "little") for number in (*numbers, time))
        self._frames.write(_chunk(b"ANMF", head + bytes([flags]) + pixels))

    def close(self) -> None:
        flags = self._flags | sum(_CARRIED[kind] for kind in self._carried)
        height, width = ((side - 1).to_bytes(3, "little") for side in self._size)
        before = _chunk(b"VP8X", struct.pack("<I", flags) + width + height)
        carried = {kind: _chunk(kind, body) for kind, body in self._carried.items()}
        before += carried.pop(b"ICCP", b"")
        before += _chunk(b"ANIM", struct.pack("<IH", 0, min(65535, self._times)))
        after = b"".join(carried.values())
        length = 4 + len(before) + self._frames.tell() + len(after)
        self._file.write(b"RIFF" + struct.pack("<I", length) + b"WEBP" + before)
        self._frames.seek(0)
        shutil.copyfileobj(self._frames, self._file, 1 << 20)
        self._file.write(after)
        self.discard()

    def discard(self) -> None:
        """Nothing more will come: the frames are dropped."""
        self._frames.close()


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(body)) + body + bytes(len(body) % 2)
