"""What the markers of a JPEG say, without decoding it; and those that are put into one."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from upscale.errors import InputError
from upscale.image import xmp
from upscale.image.picture import Extras

_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")  # of those that end or begin something
_SCAN, _END = b"\xda", b"\xd9"
END = b"\xff\xd9"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_PART = 65000  # of a long XMP
PHOTOSHOP = b"Photoshop 3.0\0"
IPTC_RESOURCE = 0x0404
MOST = 65533  # bytes in a segment
_NOT_PIXELS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_LOSSLESS, _HIERARCHICAL = {0xC3, 0xCB}, {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_ZEROS = bytes(64)
_OFF = 0.05  # most that a resolution may change by
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SCAN, EOI, LS, CUT = 0xDA, 0xD9, 0xF7, 0


def scans(file: BinaryIO) -> int:
    """How many scans the picture has, from where the file stands; those of thumbnails and of what
    lies behind the picture's end are not counted."""
    data = file.read()
    if (most := data.count(b"\xff" + _SCAN)) < 10:  # as nearly all files
        return most
    found, at = 0, 2
    while (marker := _MARKER.search(data, at)) and marker[1] != _END:
        found += marker[1] == _SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        at = marker.end() + max(2, length)
    return found


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, where its data begins, where they end), pixels being passed over, to the end of the
    picture (EOI). Where a segment is not all there, CUT and the place where it begins."""
    at = 2
    while found := _NOT_PIXELS.search(data, at):
        at, marker = found.start(), data[found.end() - 1]
        if marker == EOI:
            yield EOI, at + 2, at + 2
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or len(data) < at + 4:
            yield CUT, at, len(data)
            return
        yield marker, at + 4, end
        at = max(end, at + 4)


def _pixels(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the pixels of each scan begin and end."""
    begin = None
    for marker, start, end in segments(data):
        if begin is not None:
            yield begin, start - {EOI: 2, CUT: 0}.get(marker, 4)
        begin = end if marker == SCAN else None


def longer(data: bytes, more: bytes) -> bytes:
    """With more bytes wherever pixels end, at a restart too. Where none are missing, decoders pass
    over them. (Arithmetic coding leaves out bytes that are 0: such a file stays as it is.)"""
    made, last = b"", 0
    if any(marker in _ARITHMETIC for marker, *_ in segments(data)):
        return data
    for begin, end in _pixels(data):
        body = data[begin:end].rstrip(b"\xff")
        made += data[last:begin] + _RESTART.sub(lambda mark: more + mark[0], body) + more
        last = end
    return made + data[last:]


def restarts_in_order(data: bytes) -> bool:
    """Whether the restarts of every scan count from 0 to 7 and begin again."""
    return all(
        mark[0][-1] & 7 == index % 8
        for begin, end in _pixels(data)
        for index, mark in enumerate(_RESTART.finditer(data, begin, end))
    )


def behind_zeros(data: bytes) -> Iterator[int]:
    """Where the last byte that is not 0 ends of pixels in which zeros stand as a bad disk or a
    broken download leaves them: of each scan, or between two restarts. Of flat pictures they may be
    pixels. (The last bits of blocks' means have one place each.)"""
    if _ZEROS not in data or any(marker in _ARITHMETIC for marker, *_ in segments(data)):
        return
    for begin, end in _pixels(data):
        if data[begin - 3] == 0 and data[begin - 1] >> 4:
            continue
        for mark in [*_RESTART.finditer(data, begin, end), None]:
            body = data[begin : mark.start() if mark else end].rstrip(b"\0\xff")
            if _ZEROS in body:
                yield begin + len(body)
            begin = mark.end() if mark else end


def check_frame(marker: int, bits: int, channels: int) -> None:
    """InputError for the kinds of JPEG that are not read."""
    kind = "a hierarchical JPEG" if marker in _HIERARCHICAL else None
    kind = "a lossless JPEG (process 14)" if marker in _LOSSLESS else kind
    kind = "a JPEG-LS" if marker == LS else kind
    if kind is None and bits != 8:
        kind = f"a JPEG of {bits} bits a sample"
    if kind is None and channels not in (1, 3, 4):
        kind = f"a JPEG of {channels} channels"
    if kind:
        raise InputError(
            f"{kind}, which diffsr cannot read; save it as PNG or TIFF with another program first"
        )


def mended(data: bytes) -> bytes | None:
    """What is whole of a file that was cut short, with an end; None if there are no pixels."""
    cut, pixels = len(data), False
    for marker, start, _ in segments(data):
        if marker == CUT:
            cut = start
        pixels |= marker == SCAN
    return data[:cut].rstrip(b"\xff") + END if pixels else None


def lacks_only_end(data: bytes) -> bool:
    """Whether no end is marked, and every coefficient has a scan with its last bit. (A scan may
    still be cut short.)"""
    components: dict[int, list[int]] = {}
    for marker, start, end in segments(data):
        body = data[start:end]
        if marker in (CUT, EOI):
            return False
        if marker in FRAMES and len(body) >= 6:
            components = {number: [99] * 64 for number in body[6 : 6 + 3 * body[5] : 3]}
        elif marker == SCAN and len(body) >= 4 + 2 * body[0]:
            first, last, place = body[1 + 2 * body[0] :][:3]
            for i in range(body[0]):
                bits = components.get(body[1 + 2 * i], [])
                bits[first : last + 1] = [place & 15] * len(bits[first : last + 1])
    return bool(components) and not any(any(bits) for bits in components.values())


def _photoshop(iptc: bytes) -> Iterator[bytes]:
    """The segments of IPTC's records, which readers join."""
    resource = b"8BIM" + struct.pack(">HHI", IPTC_RESOURCE, 0, len(iptc)) + iptc
    resource += bytes(len(iptc) % 2)
    step = MOST - len(PHOTOSHOP)
    for start in range(0, len(resource), step):
        yield _segment(0xED, PHOTOSHOP + resource[start : start + step])


def density(dpi: tuple[float, float]) -> tuple[int, int, int] | None:
    """(unit, across, down) in JFIF's whole numbers, of inches or centimetres, whichever are nearer;
    None where both are far off."""
    ways = []
    for unit, inches in ((1, 1.0), (2, 1 / 2.54)):
        exact = [n * inches for n in dpi]
        whole = [min(65535, max(1, round(n))) for n in exact]
        off = max(abs(w / n - 1) for w, n in zip(whole, exact, strict=True))
        ways.append((off, (unit, whole[0], whole[1])))
    off, best = min(ways)
    return best if off < _OFF else None


def head_of(data: memoryview, extras: Extras) -> tuple[bytes, int]:
    """(the beginning of a JPEG, with what goes along behind JFIF's segment, where in `data` it
    goes on)."""
    (length,) = struct.unpack(">H", data[4:6])
    jfif = bytearray(data[2 : 4 + length])
    if extras.dpi:
        jfif[11:16] = struct.pack(">BHH", *(density(extras.dpi) or (0, 1, 1)))
    elif extras.aspect:  # pixels without a unit have a ratio alone
        whole = [max(1, round(n * 1000 / max(extras.aspect))) for n in extras.aspect]
        jfif[11:16] = struct.pack(">BHH", 0, *whole)
    added, more = bytes(jfif), []
    if extras.exif:
        added += _segment(0xE1, extras.exif)
    if extras.xmp:
        packet = extras.xmp
        if len(XMP + packet) > MOST:
            packet, guid, rest = xmp.parted(packet)
            for start in range(0, len(rest), _PART):
                place = struct.pack(">II", len(rest), start)
                part = rest[start : start + _PART]
                more.append(_segment(0xE1, MORE_XMP + guid + place + part))
        added += _segment(0xE1, XMP + packet) + b"".join(more)
    if extras.icc:
        step = MOST - 14
        parts = [extras.icc[i : i + step] for i in range(0, len(extras.icc), step)]
        for number, part in enumerate(parts, 1):
            added += _segment(0xE2, b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part)
    if extras.iptc:
        added += b"".join(_photoshop(extras.iptc))
    for comment in extras.comments:
        added += _segment(0xFE, comment)
    return bytes(data[:2]) + added, 4 + length


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body
