"""The frames of an animated PNG, as files of their own; and the other way round."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import png

from upscale.errors import InputError
from upscale.image.stored import Area, Stored

_DISPOSALS = ("keep", "clear", "restore")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def plays(file: BinaryIO) -> int | None:
    """How often the animation is shown, 0 for ever; None where there is none."""
    times = None
    for kind, body in chunks(file):
        if kind == b"acTL" and len(body) == 8:
            count, times = struct.unpack(">II", body)
            times = times if count else None
        elif kind == b"fcTL" and times is not None:
            return times
        elif kind == b"IDAT" and times is None:
            return None
    return None  # it was said that there is one, but there are no frames


def parts(file: BinaryIO) -> Iterator[Stored]:
    """Each frame as it is stored, a PNG of its own. A picture before the animation that is not part
    of it is no frame. InputError where the file ends too early."""
    shared: list[tuple[bytes, bytes]] = []
    header, control, data = b"", b"", b""
    for kind, body in chunks(file):
        if kind == b"IHDR":
            header = body
        elif kind in (b"PLTE", b"tRNS"):
            shared.append((kind, body))
        elif kind in (b"fcTL", b"IEND"):
            if data:
                yield _stored(header, shared, control, data)
            control, data = body, b""
            if kind == b"IEND":
                return
        elif control and kind == b"IDAT":
            data += body
        elif control and kind == b"fdAT":
            data += body[4:]
    raise InputError("the PNG is cut short")


def _stored(
    header: bytes, shared: list[tuple[bytes, bytes]], control: bytes, data: bytes
) -> Stored:
    """Of a frame by its control chunk. InputError for one that is damaged."""
    try:
        _, width, height, left, top, over, of, disposal, blend = struct.unpack(
            ">IIIIIHHBB", control
        )
        disposal = _DISPOSALS[disposal]
    except (struct.error, IndexError) as error:
        raise InputError("the PNG is damaged: it says of a frame what it cannot be") from error
    file = io.BytesIO()
    file.write(_SIGNATURE)
    size = struct.pack(">II", width, height)
    for kind, body in ((b"IHDR", size + header[8:]), *shared, (b"IDAT", data), (b"IEND", b"")):
        png.write_chunk(file, kind, body)
    return Stored(file.getvalue(), (top, left), over * 1000 / (of or 100), blend == 1, disposal)


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(kind, data) of each chunk that is all there; checksums are their readers' business."""
    file.seek(len(_SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        body = file.read(length)
        if len(body) < length:
            return
        file.seek(4, io.SEEK_CUR)
        yield kind, body


class Writer:
    """An animated PNG: `add` each frame, then `close`. count: of the frames; times: that all of
    them are shown, 0 for ever."""

    def __init__(self, file: BinaryIO, count: int, times: int) -> None:
        self._file, self._count, self._times, self._order = file, count, times, 0

    def add(self, data: bytes, area: Area, milliseconds: float) -> None:
        """data: of a PNG of the pixels that go to an area; they stay until others replace them. The
        first one, which is of the whole picture, brings the head of the file."""
        first, begun = self._order == 0, False
        if first:
            self._file.write(_SIGNATURE)
        for kind, body in chunks(io.BytesIO(data)):
            if kind == b"IDAT":
                if not begun:
                    self._control(area, milliseconds)
                    begun = True
                if first:
                    png.write_chunk(self._file, b"IDAT", body)
                else:
                    png.write_chunk(self._file, b"fdAT", self._next() + body)
            elif first and kind != b"IEND":
                png.write_chunk(self._file, kind, body)
                if kind == b"IHDR":
                    numbers = struct.pack(">II", self._count, self._times)
                    png.write_chunk(self._file, b"acTL", numbers)

    def close(self) -> None:
        png.write_chunk(self._file, b"IEND", b"")

    def _control(self, area: Area, milliseconds: float) -> None:
        delay = Fraction(milliseconds / 1000).limit_denominator(1000)
        if delay.numerator > 65535:
            delay = Fraction(min(65535, round(delay)))
        place = struct.pack(">IIII", area.width, area.height, area.left, area.top)
        times = struct.pack(">HHBB", delay.numerator, delay.denominator, 0, 0)
        png.write_chunk(self._file, b"fcTL", self._next() + place + times)

    def _next(self) -> bytes:
        self._order += 1
        return struct.pack(">I", self._order - 1)
