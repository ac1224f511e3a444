"""What a file carries besides its pixels, read from its bytes: each format's segments, chunks or
boxes, and each of them on its own, so that a damaged one costs only itself."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from upscale.errors import InputError
from upscale.image import bmp, boxes, exif, jpeg, xmp
from upscale.image.coded import Coded, jpeg_tables, of_jpeg, of_webp
from upscale.image.formats import alien, sniff
from upscale.image.views import Spliced

XMP_KEYWORD = b"XML:com.adobe.xmp"
_UNPACKED_BYTES = 64 << 20  # of all texts that must be read; others go through as they are
_CHUNK_BYTES = 256 << 20  # of a chunk besides pixels that is kept
_FRAME_HEAD = 256  # bytes of a WebP's pixels that say how they are coded
_TAIL = 4096  # bytes behind the picture that are looked at
# Of a PNG, what its pixels need
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_CHECKED = {b"tRNS", b"acTL", b"fcTL"}  # which a picture can do without, if they are damaged
_TRANSPARENT = {b"\0": range(2, 3), b"\2": range(6, 7), b"\3": range(1, 257)}  # by type of colour
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
# What says the colours, and how long it is. Not sBIT: enlarged samples have other bits.
_COLOURS = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"mDCV": 24, b"cLLI": 8}


_CALLED = {"exif": "EXIF block", "xmp": "XMP packet", "iptc": "IPTC block", "icc": "colour profile"}


@dataclass
class Carried:
    """exif: a block, with or without prefix; comments: of JPEG and GIF; texts and colours: chunks
    of a PNG (kind, data); bits: of a sample, as declared; dpi and aspect: (across, down) as
    stored."""

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    icc: bytes | None = None
    comments: list[bytes] = field(default_factory=list)
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)
    colours: list[tuple[bytes, bytes]] = field(default_factory=list)
    dpi: tuple[float, float] | None = None
    aspect: tuple[float, float] | None = None
    bits: int = 8
    coded: Coded | None = None
    notes: list[str] = field(default_factory=list)
    room: int = _UNPACKED_BYTES  # that is left

    def take(self, field: str, block: bytes) -> None:
        """exif, xmp, iptc or icc: the first block counts, and another is told."""
        block = block.removeprefix(exif.PREFIX)
        if getattr(self, field) is None:
            setattr(self, field, block)
        elif block != getattr(self, field):
            self.notes.append(f"a second {_CALLED[field]} in the file was left out")


def carried(file: BinaryIO, format: str) -> tuple[Carried, BinaryIO]:
    """(what the file carries, a file with the pixels alone where the rest could disturb their
    decoder, else the same file). InputError for a variant that is not supported."""
    found = Carried()
    reader = _READERS.get(format)
    try:
        pixels = reader(file, found) if reader else None
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, struct.error, zlib.error):
        pixels = None
        found.notes.append("metadata of the file are damaged: some were left out")
    file.seek(0)
    return found, pixels or file


# --- JPEG -----------------------------------------------------------------------------------------


def _jpeg(file: BinaryIO, found: Carried) -> None:
    file.seek(0)
    data = file.read()
    parts: dict[int, bytes] = {}
    more_xmp: dict[bytes, dict[int, bytes]] = {}
    tables: dict[int, float] = {}
    layers: list[tuple[int, int, int]] = []
    resources: list[bytes] = []
    seconds, end = 0, None
    for marker, start, stop in jpeg.segments(data):
        body = data[start:stop]
        if marker == jpeg.EOI:
            end = start
        elif marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 12:
            _density(found, body[7], struct.unpack(">HH", body[8:12]))
        elif marker == 0xE1 and body.startswith(b"Exif\0"):
            found.take("exif", body[6:])
        elif marker == 0xE1 and body.startswith(jpeg.XMP):
            found.take("xmp", body[len(jpeg.XMP) :])
        elif marker == 0xE1 and body.startswith(jpeg.MORE_XMP):
            rest = body[len(jpeg.MORE_XMP) :]  # GUID, length of the whole, offset, part
            more_xmp.setdefault(rest[:32], {})[int.from_bytes(rest[36:40], "big")] = rest[40:]
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            parts.setdefault(body[12], body[14:])
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            seconds = _pictures(body[4:]) - 1
        elif marker == 0xED and body.startswith(jpeg.PHOTOSHOP):
            resources.append(body[len(jpeg.PHOTOSHOP) :])
        elif marker == 0xFE:
            found.comments.append(body)
        elif marker == 0xEB and b"jumb" in body[:32] and b"c2pa" in body[:96]:
            found.notes.append(boxes.CREDENTIALS)
        elif (marker in jpeg.FRAMES or marker == jpeg.LS) and len(body) > 5:
            jpeg.check_frame(marker, body[0], body[5])
            layers = [(s >> 4, s & 15, t) for s, t in zip(body[7::3], body[8::3], strict=False)]
        elif marker == 0xDB:
            tables = {**jpeg_tables(body), **tables}
    found.coded = of_jpeg(tables, layers)
    found.icc = b"".join(parts[number] for number in sorted(parts)) or None
    # One resource may run over several segments, and a segment may end in what is none
    found.iptc = next(filter(None, map(_iptc, [b"".join(resources), *resources])), None)
    for guid, pieces in more_xmp.items():
        if found.xmp and guid in found.xmp:
            found.xmp = xmp.joined(found.xmp, b"".join(pieces[at] for at in sorted(pieces)))
    if seconds > 0:
        found.notes.append(
            f"the first of {seconds + 1} pictures in the file (a stereo pair, a gain map or a "
            "preview): the others were left out"
        )
    elif end is not None:
        after(data[end : end + _TAIL], found)


def _density(found: Carried, unit: int, pair: tuple[int, int]) -> None:
    if 0 in pair:
        return
    if unit in (1, 2):
        scale = 1.0 if unit == 1 else 2.54
        found.dpi = (pair[0] * scale, pair[1] * scale)
    elif pair[0] != pair[1]:
        found.aspect = (float(pair[0]), float(pair[1]))


def _pictures(mpf: bytes) -> int:
    """How many pictures a Multi-Picture Format index declares (CIPA DC-007)."""
    read = exif.parsed(io.BytesIO(mpf))
    value = read.tags.get(0xB001) if read else None
    if not isinstance(value, exif.Value) or len(value.data) != 4:
        return 1
    return struct.unpack(f"{read.order}I", value.data)[0]


def _iptc(resources: bytes) -> bytes | None:
    """IPTC's records among Photoshop's resources, between which others' may stand."""
    at = 0
    while (signature := resources[at : at + 4]).isalnum() and at + 12 <= len(resources):
        (kind,) = struct.unpack(">H", resources[at + 4 : at + 6])
        at += 6 + (resources[at + 6] + 2) // 2 * 2  # a name, padded to be even
        (length,) = struct.unpack(">I", resources[at : at + 4].ljust(4, b"\0"))
        if signature == b"8BIM" and kind == jpeg.IPTC_RESOURCE:
            return resources[at + 4 : at + 4 + length] or None
        at += 4 + length + length % 2
    return None


def after(tail: bytes, found: Carried) -> None:
    """What follows a picture in the same stream."""
    rest = tail.lstrip(b"\0\r\n")[:64]
    format = sniff(rest) if len(rest) > 8 else None
    boxes = tail.find(b"ftyp", 0, 64) - 4
    if format:
        found.notes.append(f"another picture ({format}) follows the first: it was left out")
    elif boxes >= 0 and alien(tail[boxes:][:64]) == "a video":
        found.notes.append("a video follows the picture: it was left out")


# --- PNG ------------------------------------------------------------------------------------------


def _png(file: BinaryIO, found: Carried) -> BinaryIO:
    """Of a PNG, and the chunks that its pixels need as a file of their own."""
    parts, at, bad, colour = [(0, 8)], 8, [], b""
    lengths = {b"acTL": range(8, 9)}  # of chunks that are checked
    moving: tuple[int, int] | None = None  # what says so, before there is a frame
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            parts.append((at, at + len(head)))
            break
        length, kind = struct.unpack(">I4s", head)
        if kind == b"CgBI":
            raise InputError(
                "a PNG in the form that Apple packs into apps (CgBI), which diffsr cannot read; "
                "save it as an ordinary PNG first"
            )
        if kind == b"fdAT" and b"fcTL" not in lengths:
            bad.append("fdAT")
        elif kind in _PIXELS - _CHECKED or not _ancillary(kind):
            parts.append((at, at + 12 + length))
            if kind == b"IHDR":
                colour = file.read(10)[9:]
                lengths[b"tRNS"] = _TRANSPARENT.get(colour, range(0))
            elif kind == b"PLTE" and colour == b"\3":
                lengths[b"tRNS"] = range(1, length // 3 + 1)
            elif kind == b"IDAT":
                lengths.pop(b"acTL", None)
        elif length <= _CHUNK_BYTES:
            data, tail = file.read(length), file.read(4)
            if len(tail) < 4:
                parts.append((at, at + 12 + length))  # the file ends here
                break
            whole = zlib.crc32(kind + data) == struct.unpack(">I", tail)[0]
            if not whole or (kind in _CHECKED and length not in lengths.get(kind, ())):
                bad.append(kind.decode("latin-1"))
                if kind == b"fcTL":  # no frame from here on is in its order
                    lengths.pop(kind, None)
            elif kind in _CHECKED:
                parts.append((at, at + 12 + length))
                if kind == b"acTL":
                    lengths[b"fcTL"], moving = range(26, 27), parts[-1]
                elif kind == b"fcTL":
                    moving = None
            else:
                _png_chunk(kind, data, found)
        else:
            bad.append(kind.decode("latin-1"))
        at += 12 + length
        if kind == b"IEND":
            file.seek(at)
            after(file.read(_TAIL), found)
            break
    if moving:
        parts.remove(moving)
        bad.append("acTL")
    if bad:
        kinds = ", ".join(dict.fromkeys(bad))
        found.notes.append(f"damaged chunks of the PNG were left out: {kinds}")
    return _spliced(file, parts)


def _spliced(file: BinaryIO, parts: list[tuple[int, int]]) -> BinaryIO:
    """Parts (start, end) of a file as one."""
    joined: list[tuple[int, int]] = []
    for start, end in parts:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    spliced = Spliced([(file, start, end) for start, end in joined])
    return io.BufferedReader(spliced, 1 << 16)


def _ancillary(kind: bytes) -> bool:
    return kind.isalpha() and bool(kind[0] & 0x20)


def _png_chunk(kind: bytes, data: bytes, found: Carried) -> None:
    if kind == b"eXIf":
        found.take("exif", data)
    elif kind == b"iCCP":
        try:
            found.take("icc", _unpacked(data.split(b"\0", 1)[1][1:], found))
        except (IndexError, zlib.error, ValueError):
            found.notes.append("a damaged colour profile was left out")
    elif kind == b"pHYs" and len(data) == 9:
        across, down, unit = struct.unpack(">IIB", data)
        if across and down and unit == 1:
            found.dpi = (across * 0.0254, down * 0.0254)
        elif across and down and across != down:
            found.aspect = (float(across), float(down))
    elif len(data) == _COLOURS.get(kind):
        found.colours.append((kind, data))
    elif kind in _COLOURS:
        found.notes.append(f"a damaged chunk of the PNG was left out: {kind.decode()}")
    elif kind == b"caBX":
        found.notes.append(boxes.CREDENTIALS)
    elif kind in _TEXTS:
        _png_text(kind, data, found)


def _png_text(kind: bytes, data: bytes, found: Carried) -> None:
    """XMP and what other programs hide in texts (as hexadecimal numbers) goes to its place; other
    texts are kept as they are."""
    keyword = data.split(b"\0", 1)[0]
    place = {
        XMP_KEYWORD: "xmp",
        b"Raw profile type exif": "exif", b"Raw profile type APP1": "exif",
        b"Raw profile type xmp": "xmp", b"Raw profile type iptc": "iptc",
    }.get(keyword)  # fmt: skip
    if place:
        try:
            content = _png_words(kind, data, found)
            if keyword != XMP_KEYWORD:
                content = bytes.fromhex(content.split(None, 2)[2].decode("ascii"))
        except (IndexError, ValueError, zlib.error):
            content = None
        if content and place == "iptc" and content[:4].isalnum():
            content = _iptc(content)
        if content and content.startswith(jpeg.XMP):
            place, content = "xmp", content[len(jpeg.XMP) :]
        if content:
            found.take(place, content)
            return
    found.texts.append((kind, data))


def _png_words(kind: bytes, data: bytes, found: Carried) -> bytes:
    """The words of a text chunk, unpacked. ValueError, IndexError or zlib.error if damaged."""
    _, rest = data.split(b"\0", 1)
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _unpacked(rest[1:], found)
    language_and_on = rest[2:].split(b"\0", 2)
    words = language_and_on[2]
    return _unpacked(words, found) if rest[0] else words


def _unpacked(data: bytes, found: Carried) -> bytes:
    if found.room < 1:
        raise ValueError("too long")
    unpacker = zlib.decompressobj()
    made = unpacker.decompress(data, found.room)
    found.room -= len(made)
    if unpacker.unconsumed_tail:
        raise ValueError("too long")
    return made


# --- WebP, GIF, BMP -------------------------------------------------------------------------------


def _webp(file: BinaryIO, found: Carried) -> None:
    file.seek(4)
    (length,) = struct.unpack("<I", file.read(4).ljust(4, b"\0"))
    end = 8 + length + length % 2
    file.seek(end)
    after(file.read(_TAIL), found)
    file.seek(12)
    while file.tell() < end and len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        name = {b"EXIF": "exif", b"XMP ": "xmp", b"ICCP": "icc"}.get(kind)
        if name and length <= _CHUNK_BYTES:
            data = file.read(length)
            if len(data) == length:
                found.take(name, data)
            file.seek(length % 2, 1)
        elif kind == b"VP8 " and found.coded is None:
            data = file.read(min(length, _FRAME_HEAD))
            found.coded = of_webp(data)
            file.seek(length + length % 2 - len(data), 1)
        else:
            if kind == b"C2PA":
                found.notes.append(boxes.CREDENTIALS)
            file.seek(length + length % 2, 1)


def _gif(file: BinaryIO, found: Carried) -> None:
    file.seek(0)
    data = file.read()
    if len(data) < 13:
        return
    if data[12]:  # the pixels' width to height is (this + 15) / 64
        found.aspect = (64.0, data[12] + 15.0)
    at = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while at < len(data) and (kind := data[at : at + 1]) != b";":
        if kind == b",":  # pixels, behind a table of colours of their own
            flags = data[at + 9 : at + 10] or b"\0"
            at += 10 + (3 * 2 ** ((flags[0] & 7) + 1) if flags[0] & 0x80 else 0) + 1
            _, at = _gif_blocks(data, at)
        elif kind == b"!":  # words, which some programs put behind the pixels
            label, start = data[at + 1 : at + 2], at + 3 + len(b"XMP DataXMP")
            blocks, at = _gif_blocks(data, at + 2)
            if label == b"\xfe":
                found.comments.append(b"".join(blocks))
            elif label == b"\xff" and blocks[:1] == [b"XMP DataXMP"] and found.xmp is None:
                # a packet that no reader of blocks understands, and then a ramp that all do
                end = data.find(b"\x01\xff\xfe", start)
                found.xmp = data[start:end] if end > 0 else None
        else:
            at += 1
    after(data[at + 1 : at + 1 + _TAIL], found)


def _gif_blocks(data: bytes, at: int) -> tuple[list[bytes], int]:
    blocks = []
    while at < len(data) and data[at]:
        blocks.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return blocks, at + 1


def _bmp(file: BinaryIO, found: Carried) -> BinaryIO | None:
    file.seek(0)
    head = file.read(54)
    if len(head) < 54 or (size := struct.unpack("<I", head[14:18])[0]) < 40:
        return None
    bits, packing = struct.unpack("<HI", head[28:34])
    if packing in (4, 5):
        kind = {4: "JPEG", 5: "PNG"}[packing]
        raise InputError(
            f"a BMP that holds a {kind}, which diffsr cannot read; save it as PNG first"
        )
    if bits not in (1, 4, 8, 16, 24, 32):
        raise InputError(
            f"a BMP of {bits} bits a pixel, which diffsr cannot read; save it as PNG first"
        )
    across, down = struct.unpack("<ii", head[38:46])
    if across > 0 and down > 0:
        found.dpi = (across * 0.0254, down * 0.0254)
    more = file.read(84)
    if size == 124 and more[16:20] == b"DEBM" and len(more) == 84:  # a profile is embedded
        place, length = struct.unpack("<II", more[72:80])
        file.seek(14 + place)
        found.icc = file.read(min(length, _CHUNK_BYTES))
    (whole,) = struct.unpack("<I", head[2:6])
    if whole > 54:
        file.seek(whole)
        after(file.read(_TAIL), found)
    if (packing, bits) in ((1, 8), (2, 4)):
        return io.BufferedReader(bmp.Unpacked(file, head), 1 << 16)
    if packing == 0 and bits in (4, 8) and head[46:50] == b"\2\0\0\0":
        top, start = bmp.paletted(file, head, bits)
        parts = [(io.BytesIO(top), 0, len(top)), (file, start, file.seek(0, io.SEEK_END))]
        return io.BufferedReader(Spliced(parts), 1 << 16)
    masks = struct.unpack("<4I", more[:16].ljust(16, b"\0"))
    if packing not in (3, 6) or bits not in (16, 32) or size == 64 or not any(masks[:3]):
        return None
    if not any(head[10:14]):  # which Pillow takes for pixels behind the head
        return None
    if size < 56 and packing == 3:  # what stands there belongs to the pixels
        masks = (*masks[:3], 0)
    if (most := max((mask // (mask & -mask or 1)).bit_length() for mask in masks)) > 8:
        found.notes.append(f"{most} bits a channel were reduced to 8")
    return io.BufferedReader(bmp.Unmasked(file, head, masks), 1 << 16)


# --- TIFF -----------------------------------------------------------------------------------------

_XMP, _IPTC, _PHOTOSHOP, _ICC = 700, 33723, 34377, 34675


def of_tiff(read: exif.Read) -> Carried:
    """The blocks in a TIFF's own directory."""

    def block(tag: int) -> bytes | None:
        value = read.tags.get(tag)
        return value.data if isinstance(value, exif.Value) and value.data else None

    data = block(_IPTC)
    if data is None and (resources := block(_PHOTOSHOP)):
        data = _iptc(resources)
    return Carried(xmp=block(_XMP), iptc=data, icc=block(_ICC))


_READERS: dict[str, Callable[[BinaryIO, Carried], BinaryIO | None]] = {
    "JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "BMP": _bmp,
    "AVIF": boxes.read, "HEIC": boxes.read,
}  # fmt: skip
