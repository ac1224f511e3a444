"""What goes along with the picture of a GIF; its frames as files of their own, and back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import GifImagePlugin, Image

from upscale.errors import InputError
from upscale.image.picture import Extras
from upscale.image.stored import Area, Stored

# so that readers of blocks, wherever in the packet they get out of step, find the end
_RAMP = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
_DISPOSALS = {2: "clear", 3: "restore", 4: "restore"}  # 4: as some programs wrote 3
_TICK = 10  # milliseconds


def head_of(data: memoryview, extras: Extras) -> tuple[bytes, int]:
    """(the beginning of a GIF, with comments, XMP and the ratio of its pixels behind its table of
    colours, where in `data` it goes on)."""
    at = 13 + _table(data[10])
    head = bytearray(data[:at])
    if extras.aspect:
        head[12] = min(255, max(1, round(64 * extras.aspect[1] / extras.aspect[0] - 15)))
    added = b""
    for comment in (*extras.comments, *([extras.software.encode()] if extras.software else [])):
        added += b"!\xfe" + _blocks(comment)
    if extras.xmp:
        added += b"!\xff\x0bXMP DataXMP" + extras.xmp + _RAMP
    # comments and applications are of version 89a
    return b"GIF89a" + bytes(head[6:]) + added, at


def _blocks(data: bytes) -> bytes:
    parts = [data[i : i + 255] for i in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _table(flags: int) -> int:
    """The bytes of a table of colours."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


# --- reading --------------------------------------------------------------------------------------


def plays(file: BinaryIO) -> int:
    """How often the frames are shown, 0 for ever. A file says how often they are repeated."""
    for kind, body in _walk(file):
        if kind == b"!\xff" and body[:12] in (b"NETSCAPE2.0\1", b"ANIMEXTS1.0\1"):
            repeated = int.from_bytes(body[12:14], "little")
            return repeated + 1 if repeated else 0
        if kind == b",":
            break
    return 1


def parts(file: BinaryIO) -> Iterator[Stored]:
    """Each frame as it is stored, a GIF of its own. InputError where the file ends too early."""
    head, control = b"", bytes(4)
    for kind, body in _walk(file):
        if kind == b"G":
            head = body
        elif kind == b"!\xf9" and len(body) == 4:
            control = body
        elif kind == b",":
            left, top, width, height = struct.unpack("<4H", body[:8])
            size = struct.pack("<2H", width, height)
            own = b"GIF89a" + size + head[10:] + b"!\xf9\x04" + control + b"\0"
            own += b"," + bytes(4) + size + body[8:] + b";"
            time = int.from_bytes(control[1:3], "little") * _TICK
            disposal = _DISPOSALS.get(control[0] >> 2 & 7, "keep")
            yield Stored(own, (top, left), time, True, disposal)
            control = bytes(4)


def _walk(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(b"G", the head with its table), (b"!" and a label, the data of an extension), and (b",", a
    picture from its place to the end of its data). A file may lack its last byte."""
    file.seek(0)
    head = _read(file, 13)
    yield b"G", head + _read(file, _table(head[10]))
    while (kind := file.read(1)) not in (b"", b";"):
        if kind == b"!":
            label = _read(file, 1)
            yield kind + label, b"".join(part[1:] for part in _parts(file))
        elif kind == b",":
            place = _read(file, 9)
            place += _read(file, _table(place[8]) + 1)
            yield kind, place + b"".join(_parts(file)) + b"\0"
        elif kind != b"\0":  # which some programs put between blocks
            raise InputError("the GIF is damaged: a block is of no known kind")


def _parts(file: BinaryIO) -> Iterator[bytes]:
    """The parts of a block, each with its length before it."""
    while length := _read(file, 1)[0]:
        yield bytes([length]) + _read(file, length)


def _read(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise InputError("the GIF is cut short")
    return data


# --- writing --------------------------------------------------------------------------------------


class Writer:
    """A GIF of several frames, of one palette: `add` each, then `close`. alpha: some pixels are
    transparent, so each frame clears its place."""

    def __init__(
        self, file: BinaryIO, extras: Extras, first: Image.Image, alpha: bool, times: int
    ) -> None:
        self._file, self._alpha, self._late = file, alpha, 0.0
        lines, _ = GifImagePlugin.getheader(first.copy(), info={"optimize": False})
        head, _ = head_of(memoryview(b"".join(lines)), extras)
        file.write(head)
        if times != 1:
            repeated = min(65535, max(0, times - 1))
            file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", repeated, 0))

    def add(self, indices: np.ndarray, area: Area, milliseconds: float) -> None:
        """uint8 (H,W) of a picture, of which an area is written; it stays until others replace it,
        or is cleared."""
        ticks = min(65535, max(0, round((milliseconds + self._late) / _TICK)))
        # what rounding, or the format's eleven minutes, took is given to the next
        self._late += milliseconds - ticks * _TICK
        image = Image.fromarray(np.ascontiguousarray(area.of(indices)))
        how = {"transparency": TRANSPARENT, "disposal": 2} if self._alpha else {"disposal": 1}
        offset = (area.left, area.top)
        for data in GifImagePlugin.getdata(image, offset, duration=ticks * _TICK, **how):
            self._file.write(data)

    def close(self) -> None:
        self._file.write(b";")


TRANSPARENT = 255  # the index of what is
# Pixels that a palette is made of. On a photograph and a fractal k-means gives 2 and 4 dB more than
# the median cut alone. With four times as many pixels it takes ten times as long for 0.6 dB more.
SAMPLED = 1 << 16


def palette_of(frames: list[np.ndarray], colours: int) -> Image.Image:
    """A palette for uint8 (n,3) of all frames, as an image."""
    every = np.concatenate(frames)
    if not len(every):  # all of it is transparent
        every = np.zeros((1, 3), np.uint8)
    return Image.fromarray(every[None]).quantize(colours, kmeans=1)
