"""What an AVIF or HEIC carries besides its pixels: the boxes of ISO/IEC 14496-12 and 23008-12."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from upscale.image import profile

if TYPE_CHECKING:
    from upscale.image.carried import Carried

CREDENTIALS = "content credentials (C2PA), which hold only for the file that they sign: left out"
_GAIN_MAP = "a gain map, which makes highlights brighter on some screens, was left out"
_BESIDE = "a depth map, a matte or the like, of the same scene as the picture, was left out"
_TRANSPARENCY = (b":alpha", b":auxid:1")  # of the names of what is beside a picture
_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_PARTS = 16  # of an item
# boxes whose content is behind a version; of infe the version is read too
_FULL = {b"meta", b"iinf", b"iloc", b"ipma", b"pitm", b"pixi"}


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, where it ends) of boxes in a row."""
    at = start
    while at + 8 <= end:
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        begin = at + 8
        if length == 1 and at + 16 <= end:
            (length,) = struct.unpack(">Q", data[at + 8 : at + 16])
            begin = at + 16
        length = length or end - at
        if length < begin - at or at + length > end:
            return
        yield kind, begin + (4 if kind in _FULL else 0), at + length
        at += length


def read(file: BinaryIO, found: Carried) -> BinaryIO:
    """Add what is carried to `found`; returns the file with its EXIF item hidden: decoders turn by
    other boxes, and their readers of EXIF fail on odd tags."""
    file.seek(0)
    data = bytearray(file.read())
    try:
        _items(data, found)
    except (struct.error, IndexError, OverflowError):
        found.notes.append("metadata of the file are damaged: they were left out")
    return io.BytesIO(data)


def _items(data: bytearray, found: Carried) -> None:
    if [kind for kind, _, _ in _boxes(data, 0, len(data))].count(b"ftyp") > 1:
        found.notes.append("another picture follows the first: it was left out")
    for kind, b, _ in _boxes(data, 0, len(data)):
        if kind == b"uuid" and data[b : b + 16] == _C2PA:
            found.notes.append(CREDENTIALS)
    meta = next(((b, e) for kind, b, e in _boxes(data, 0, len(data)) if kind == b"meta"), None)
    if meta is None:
        return
    inside = {kind: (b, e) for kind, b, e in _boxes(data, *meta)}
    idat = inside.get(b"idat", (0, 0))[0]
    places = _places(data, *inside[b"iloc"]) if b"iloc" in inside else {}
    if b"iinf" in inside:
        start, end = inside[b"iinf"]
        wide = data[start - 4]  # version
        for kind, b, e in _boxes(data, start + (4 if wide else 2), end):
            if kind != b"infe" or data[b] < 2:
                continue
            size = 2 if data[b] == 2 else 4
            number = int.from_bytes(data[b + 4 : b + 4 + size], "big")
            at = b + 4 + size + 2
            what = bytes(data[at : at + 4])
            content = b""
            if what in (b"Exif", b"mime"):
                for how, where, length in places.get(number, [])[:_PARTS]:
                    start = where + (idat if how == 1 else 0)
                    content += bytes(data[start : start + length])
            if what == b"Exif" and len(content) > 4:
                skip = int.from_bytes(content[:4], "big")
                found.exif = found.exif or content[4 + skip :]
                data[at : at + 4] = b"xExf"
            elif what == b"tmap":
                found.notes.append(_GAIN_MAP)
            elif what == b"mime" and b"application/rdf+xml" in data[at + 4 : e]:
                found.xmp = found.xmp or content
    properties = inside.get(b"iprp")
    if properties:
        _properties(data, inside, *properties, found)


def _places(data: bytearray, start: int, end: int) -> dict[int, list[tuple[int, int, int]]]:
    """iloc: item -> (construction method, offset, length) of its parts."""
    version, at = data[start - 4], start + 2
    sizes = [data[start] >> 4, data[start] & 15, data[start + 1] >> 4, data[start + 1] & 15]
    if version == 0:
        sizes[3] = 0

    def take(size: int) -> int:
        nonlocal at
        if at + size > end:
            raise IndexError("iloc is too short")
        at += size
        return int.from_bytes(data[at - size : at], "big")

    places: dict[int, list[tuple[int, int, int]]] = {}
    for _ in range(take(2 if version < 2 else 4)):
        number = take(2 if version < 2 else 4)
        how = take(2) & 15 if version else 0
        take(2)
        base = take(sizes[2])
        places[number] = []
        for _ in range(take(2) if any(sizes) else 0):
            take(sizes[3])
            where, length = take(sizes[0]), take(sizes[1])
            places[number].append((how, base + where, length))
    return places


def _properties(
    data: bytearray, inside: dict[bytes, tuple[int, int]], start: int, end: int, found: Carried
) -> None:
    """Depth and colour of the main picture."""
    listed: list[tuple[bytes, int, int]] = []
    mine: set[int] | None = None
    pitm = inside.get(b"pitm")
    for kind, b, e in _boxes(data, start, end):
        if kind == b"ipco":
            listed = list(_boxes(data, b, e))
        elif kind == b"ipma" and pitm:
            size = 2 if data[pitm[0] - 4] == 0 else 4
            main = int.from_bytes(data[pitm[0] : pitm[0] + size], "big")
            mine = _associated(data, b, main)
    for kind, b, e in listed:
        if kind == b"auxC" and not any(end in data[b:e] for end in _TRANSPARENCY):
            gain = b"gainmap" in data[b:e].lower()
            found.notes.append(_GAIN_MAP if gain else _BESIDE)
    for index, (kind, b, e) in enumerate(listed, 1):
        if mine is not None and index not in mine:
            continue
        if kind == b"pixi" and e > b + 1:
            found.bits = max(data[b + 1 : b + 1 + data[b]], default=8)
        elif kind == b"av1C" and e >= b + 3:
            high, twelve = data[b + 2] >> 6 & 1, data[b + 2] >> 5 & 1
            found.bits = max(found.bits, 8 + 2 * high + 2 * (high & twelve))
        elif kind == b"hvcC" and e >= b + 19:
            found.bits = max(found.bits, 8 + (data[b + 17] & 7))
        elif kind == b"colr":
            if data[b : b + 4] in (b"prof", b"rICC"):
                found.icc = bytes(data[b + 4 : e])
            elif data[b : b + 4] == b"nclx" and e >= b + 10:
                primaries, transfer = struct.unpack(">HH", data[b + 4 : b + 8])
                if primaries < 256 and transfer < 256:
                    found.colours = [(b"cICP", bytes([primaries, transfer, 0, 1]))]
    if found.icc or profile.of_chunks(found.colours, grey=False) == (None, None):
        found.colours = []  # a profile overrides them, and sRGB is what is assumed without any


def _associated(data: bytearray, at: int, item: int) -> set[int] | None:
    """ipma: the numbers of an item's properties."""
    version, wide = data[at - 4], data[at - 1] & 1
    (count,) = struct.unpack(">I", data[at : at + 4])
    at += 4
    for _ in range(count):
        size = 2 if version == 0 else 4
        number, many = int.from_bytes(data[at : at + size], "big"), data[at + size]
        at += size + 1
        step = 2 if wide else 1
        mask = 0x7FFF if wide else 0x7F
        if number == item:
            return {
                int.from_bytes(data[at + i * step : at + (i + 1) * step], "big") & mask
                for i in range(many)
            }
        at += many * step
    return None
