"""EXIF blocks and TIFF directories as bytes: every tag on its own.

A block is b"Exif\\0\\0" and a small TIFF file. It is taken apart into tags, whose values stay the
bytes that they are, and laid out anew; a tag that cannot be read costs only itself. Pillow's own
EXIF loses bytes of texts, and loses all tags where one is of an unexpected type.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, TypeAlias

from PIL import ExifTags

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
_X, _Y, _UNIT = 282, 283, 296  # resolution
_SOFTWARE = 0x0131
_EXIF, _GPS, _INTEROP = 0x8769, 0x8825, 0xA005
_POINTERS = (_EXIF, _GPS, _INTEROP)
_MAKER_NOTE = 0x927C
_PIXELS_X, _PIXELS_Y = 0xA002, 0xA003
# What counts pixels of the old size: the subject's place, and how many fit onto the sensor
_OLD_PIXELS = {0x9214, 0xA214, 0xA20E, 0xA20F, 0xA210}

# How a TIFF lays out and describes its own pixels: of no meaning once they are decoded. Includes
# the profile, XMP, IPTC and Photoshop blocks, which an EXIF block does not hold.
LAYOUT = {
    254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 290, 291, 292,
    293, 301, 317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 347, 512, 513,
    514, 529, 530, 531, 532, 700, 33723, 34377, 34675,
}  # fmt: skip
# What a TIFF's own directory says about the picture rather than the file; the rest is private
# tags of scanners, maps and microscopes, some of them larger than the pixels.
ABOUT = {
    269, 270, 271, 272, ORIENTATION, _SOFTWARE, 285, 306, 315, 316, _X, _Y, _UNIT, 18246, 18249,
    33432, _EXIF, _GPS, 40091, 40092, 40093, 40094, 40095,
}  # fmt: skip

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, IFD, UTF8 = 1, 2, 3, 4, 5, 7, 13, 129
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, UTF8: 1}
_BIG = {16: 8, 17: 8, 18: 8}  # types of BigTIFF alone
_TEXT, _WHOLE = (ASCII, UTF8, BYTE, UNDEFINED), (SHORT, LONG)
_TEXT_TAGS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, 0x9003, 0x9004)
_EXPECTED = dict.fromkeys(_TEXT_TAGS, _TEXT) | {
    ORIENTATION: _WHOLE, _X: (RATIONAL,), _Y: (RATIONAL,), _UNIT: _WHOLE,
    _PIXELS_X: _WHOLE, _PIXELS_Y: _WHOLE,
}  # fmt: skip

_ENTRIES, _VALUE_BYTES = 2000, 128 << 20  # no honest file has more
_BLOCKS = {700, 33723, 34377, 34675}  # XMP, IPTC, Photoshop's, ICC: of a TIFF
_NAMED = 10  # of the tags that are left out
_MARKER = 65533  # bytes in a JPEG marker


@dataclass(frozen=True)
class Value:
    """kind: TIFF's type; data: its bytes in the directory's order; at: where they lay, if moving
    them would spoil them."""

    kind: int
    data: bytes
    at: int | None = None


Tags: TypeAlias = "dict[int, Value | Tags]"


@dataclass
class Read:
    """order: "<" or ">"; lost: names of tags that could not be read; orientation 1..8."""

    order: str
    tags: Tags
    lost: list[str]
    orientation: int

    @property
    def notes(self) -> list[str]:
        if not self.lost:
            return []
        different = list(dict.fromkeys(self.lost))
        more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
        names = ", ".join(different[:_NAMED]) + more
        return [f"EXIF tags that are damaged or of an unexpected type were left out: {names}"]


# --- reading --------------------------------------------------------------------------------------


def parsed(file: BinaryIO, *, of_tiff: bool = False) -> Read | None:
    """The first directory of a TIFF, a BigTIFF or the inside of an EXIF block, and those below it
    that EXIF defines. Of a TIFF, only what is about the picture. None where there is no directory.
    """
    if (place := _place(file)) is None:
        return None
    order, big, at = place
    lost: list[str] = []
    reader = _Reader(file, order, big, lost)
    tags = reader.directory(at, ABOUT | _BLOCKS if of_tiff else None)
    return None if tags is None else Read(order, tags, lost, _orientation(file, at, order, big))


def _place(file: BinaryIO) -> tuple[str, bool, int] | None:
    """(byte order, whether it is a BigTIFF, where the first directory is)."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        return None
    if struct.unpack(f"{order}H", head[2:4])[0] == 43 and len(head) == 16:
        return order, True, struct.unpack(f"{order}Q", head[8:])[0]
    return order, False, struct.unpack(f"{order}I", head[4:8])[0]


def layout_alone(file: BinaryIO) -> tuple[int, bytes] | None:
    """(where the entries of the first directory begin, what to read there instead), so that all
    tags but those of the layout are zeros in their places; None if none of them is odd."""
    if (place := _place(file)) is None:
        return None
    order, big, at = place
    fields = _fields(file, at, order, big) or []
    form, wide = (f"{order}HHQ8s", 8) if big else (f"{order}HHI4s", 4)
    end, odd, entries = file.seek(0, io.SEEK_END), False, b""
    for tag, kind, count, field in fields:
        if tag in LAYOUT - _BLOCKS:
            entries += struct.pack(form, tag, kind, count, field)
            continue
        size = count * (_BYTES.get(kind) or _BIG.get(kind) or end + 1)
        start = int.from_bytes(field, "little" if order == "<" else "big") if size > wide else 0
        expected = _EXPECTED.get(tag)
        odd |= start + size > end or (expected is not None and kind not in expected)
        entries += struct.pack(form, tag, BYTE, 1, bytes(wide))
    return (at + (8 if big else 2), entries) if odd else None


def classic_layout(file: BinaryIO) -> tuple[bytes, bytes] | None:
    """Of a BigTIFF that begins with its most significant bytes, which Pillow does not open: (the
    head, what comes behind its end) to make a classic one of it, with the layout's tags alone."""
    place = _place(file)
    if place is None or place[:2] != (">", True):
        return None
    order, big, at = place
    fields, reader = _fields(file, at, order, big) or [], _Reader(file, order, big, [])
    tags: Tags = {}
    for tag, *field in fields:
        if tag in LAYOUT - _BLOCKS and (value := reader._value(tag, *field)) is not None:
            tags[tag] = value
    end = file.seek(0, io.SEEK_END)
    root = end + end % 2
    head = b"MM" + struct.pack(f"{order}HI", 42, root)
    return head, bytes(end % 2) + laid_out(order, tags, root)


def _orientation(file: BinaryIO, at: int, order: str, big: bool) -> int:
    """1..8, whatever integer type it has, and whatever else is in the directory."""
    for tag, kind, count, field in _fields(file, at, order, big) or ():
        if tag == ORIENTATION and count == 1 and kind in (1, 3, 4, 6, 8, 9):
            size = _BYTES[kind]
            number = int.from_bytes(field[:size], "little" if order == "<" else "big")
            return number if 1 <= number <= 8 else 1
    return 1


def _fields(
    file: BinaryIO, at: int, order: str, big: bool
) -> list[tuple[int, int, int, bytes]] | None:
    """(tag, type, count, what stands in place of the value) of a directory, as far as it goes."""
    try:
        file.seek(at)
        head = file.read(8 if big else 2)
    except (OSError, OverflowError, ValueError):
        return None
    if len(head) < (8 if big else 2):
        return None
    (count,) = struct.unpack(order + ("Q" if big else "H"), head)
    form, size = (f"{order}HHQ8s", 20) if big else (f"{order}HHI4s", 12)
    data = file.read(min(count, _ENTRIES) * size)
    return list(struct.iter_unpack(form, data[: len(data) // size * size]))


class _Reader:
    """Directories of one file. lost: collects names; a directory is read once, and of values no
    more than _VALUE_BYTES in all."""

    def __init__(self, file: BinaryIO, order: str, big: bool, lost: list[str]) -> None:
        self._file, self._order, self._big, self._lost = file, order, big, lost
        self._seen: set[int] = {0}
        self._room = _VALUE_BYTES

    def directory(self, at: int, only: set[int] | None = None) -> Tags | None:
        fields = _fields(self._file, at, self._order, self._big)
        if fields is None or at in self._seen:
            return None
        self._seen.add(at)
        tags: Tags = {}
        for tag, kind, count, field in fields:
            if tag in tags or tag in LAYOUT - _BLOCKS or (only and tag not in only):
                continue
            value: Value | Tags | None = self._value(tag, kind, count, field)
            if isinstance(value, Value) and tag in _POINTERS:
                value = self.directory(_number(value, self._order))
            if value is None:
                self._lost.append(_name(tag))
            else:
                tags[tag] = value
        return tags

    def _value(self, tag: int, kind: int, count: int, field: bytes) -> Value | None:
        """None where the type is unknown or unexpected, or where the bytes are not all there."""
        size = _BYTES.get(kind) or (_BIG.get(kind) if self._big else None)
        expected = (LONG, IFD, 16, 18) if tag in _POINTERS else _EXPECTED.get(tag)
        if size is None or (expected and kind not in expected):
            return None
        if (tag in _POINTERS or tag == ORIENTATION) and count != 1:
            return None
        length, at = count * size, None
        if length > self._room:
            return None
        self._room -= length
        data = field[:length]
        if length > len(field):
            (at,) = struct.unpack(self._order + ("Q" if self._big else "I"), field)
            try:
                self._file.seek(at)
            except (OSError, OverflowError, ValueError):
                return None
            data = self._file.read(length)
        if len(data) < length:
            return None
        if kind in _BIG and tag not in _POINTERS:  # a directory of 32 bits has no such numbers
            numbers = struct.unpack(f"{self._order}{count}Q", data)
            if kind == 17 or max(numbers, default=0) >= 2**32:
                return None
            kind, data = LONG, struct.pack(f"{self._order}{count}I", *numbers)
        fixed = at if tag == _MAKER_NOTE and at is not None and at + length <= _MARKER else None
        return Value(kind, data, fixed)


def _number(value: Value | Tags, order: str) -> int:
    assert isinstance(value, Value)
    return int.from_bytes(value.data, "little" if order == "<" else "big")


def _name(tag: int) -> str:
    return ExifTags.TAGS.get(tag) or ExifTags.GPSTAGS.get(tag) or f"{tag:#06x}"


@dataclass(frozen=True)
class Taken:
    """What a file said: block without orientation and resolution, or None; orientation 1..8; dpi
    (across, down) as stored; aspect: the same where no unit is named."""

    block: bytes | None = None
    orientation: int = 1
    dpi: tuple[float, float] | None = None
    aspect: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def taken(block: bytes | None) -> Taken:
    """Of a block, with its prefix or without."""
    if not block:
        return Taken()
    read = parsed(io.BytesIO(block.removeprefix(PREFIX)))
    if read is None:
        return Taken(notes=("the EXIF block is damaged: it was left out",))
    return taken_of(read)


def taken_of(read: Read) -> Taken:
    tags = {tag: value for tag, value in read.tags.items() if tag not in LAYOUT}
    dpi, aspect = _resolution(tags, read.order)
    for tag in (ORIENTATION, _X, _Y, _UNIT):
        tags.pop(tag, None)
    block = PREFIX + laid_out(read.order, tags) if tags else None
    return Taken(block, read.orientation, dpi, aspect, tuple(read.notes))


def _resolution(
    tags: Tags, order: str
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    found = []
    for tag in (_X, _Y):
        value = tags.get(tag)
        if not isinstance(value, Value) or len(value.data) != 8:
            return None, None
        above, below = struct.unpack(f"{order}II", value.data)
        if not above or not below:
            return None, None
        found.append(above / below)
    unit = _number(tags[_UNIT], order) if _UNIT in tags else 2
    per_inch = {2: 1.0, 3: 2.54}.get(unit)  # 3: per centimetre; 1: no unit
    if per_inch is None:
        return None, (found[0], found[1]) if unit == 1 and found[0] != found[1] else None
    return (found[0] * per_inch, found[1] * per_inch), None


# --- writing --------------------------------------------------------------------------------------


def laid_out(order: str, tags: Tags, base: int = 0, next: int = 0) -> bytes:
    """A TIFF file of tags alone. Values that must not move stay where they were. base: not the
    start of a file, but what stands there in one for a page that is not its first; next: where the
    page after this one begins."""
    fixed = [v for v in _values(tags) if v.at is not None and v.at >= 8 and not base]
    room = _Room(fixed[0].at, len(fixed[0].data)) if fixed else _Room(base=base)
    if fixed:
        room.put(fixed[0].at, fixed[0].data)
    root = room.free(2 + 12 * len(tags) + 4)
    _lay(order, tags, root, room, next)
    if not base:
        room.put(0, {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, root))
    return bytes(room.data)


def _values(tags: Tags) -> Iterable[Value]:
    for value in tags.values():
        if isinstance(value, Value):
            yield value
        else:
            yield from _values(value)


class _Room:
    """Where the parts of a file, or of it from `base` on, lie: one of them may be fixed, the
    others go around it."""

    def __init__(self, fixed: int | None = None, length: int = 0, base: int = 0) -> None:
        self._base, self.data, self._next = base, bytearray(0 if base else 8), base or 8
        self._fixed = (fixed, fixed + length) if fixed is not None else None

    def free(self, length: int) -> int:
        """The place of a part of a length; even, as TIFF wants it."""
        at = self._next
        if self._fixed and at < self._fixed[1] and at + length > self._fixed[0]:
            at = self._fixed[1] + self._fixed[1] % 2
        self._next = at + length + length % 2
        return at

    def put(self, at: int, data: bytes) -> None:
        at -= self._base
        self.data.extend(bytes(max(0, at + len(data) + len(data) % 2 - len(self.data))))
        self.data[at : at + len(data)] = data

    def has(self, at: int | None, data: bytes) -> bool:
        """Whether it is there already."""
        at = -1 if at is None else at - self._base
        return at >= 0 and self.data[at : at + len(data)] == data


def _lay(order: str, tags: Tags, at: int, room: _Room, next: int = 0) -> None:
    entries = b""
    for tag in sorted(tags):
        value = tags[tag]
        if not isinstance(value, Value):
            place = room.free(2 + 12 * len(value) + 4)
            _lay(order, value, place, room)
            value = Value(LONG, struct.pack(f"{order}I", place))
        count = len(value.data) // _BYTES[value.kind]
        field = value.data.ljust(4, b"\0")
        if len(value.data) > 4:
            place = value.at
            if not room.has(place, value.data):
                place = room.free(len(value.data))
                room.put(place, value.data)
            field = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, value.kind, count) + field
    room.put(at, struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", next))


def text(words: str) -> Value:
    """In UTF-8, which most readers of ASCII take as it is."""
    return Value(ASCII, words.encode() + b"\0")


def whole(order: str, kind: int, *numbers: int) -> Value:
    """RATIONAL takes two numbers, the others one each."""
    form = "H" if kind == SHORT else "I"
    return Value(kind, struct.pack(f"{order}{len(numbers)}{form}", *numbers))


def resolution(order: str, densities: tuple[float, float], unit: int) -> Tags:
    """Tags of a resolution; unit 1 (none), 2 (inches)."""
    made: Tags = {_UNIT: whole(order, SHORT, unit)}
    for tag, density in zip((_X, _Y), densities, strict=True):
        made[tag] = whole(order, RATIONAL, *_ratio(density))
    return made


def _ratio(number: float) -> tuple[int, int]:
    """A positive number as two of 32 bits, as near as these can be."""
    if number < 1:
        return _ratio(1 / number)[::-1]
    most = min(number, 2**32 - 1)
    fraction = Fraction(most).limit_denominator(min(10000, int((2**32 - 1) / most)))
    return fraction.numerator, fraction.denominator


def tags_of(block: bytes | None) -> tuple[str, Tags]:
    """(byte order, tags) of a block; none of what cannot be read."""
    read = parsed(io.BytesIO(block.removeprefix(PREFIX))) if block else None
    return (read.order, read.tags) if read else ("<", {})


def has_makers_note(block: bytes | None) -> bool:
    details = tags_of(block)[1].get(_EXIF)
    return isinstance(details, dict) and _MAKER_NOTE in details


def reordered(block: bytes, order: str) -> bytes:
    """The block with its numbers in a byte order, "<" or ">"."""
    own, tags = tags_of(block)
    return block if own == order else PREFIX + laid_out(order, _swapped(tags))


def _swapped(tags: Tags) -> Tags:
    made: Tags = {}
    for tag, value in tags.items():
        if isinstance(value, Value):
            pair = value.kind in (RATIONAL, 10)  # of two numbers
            unit, data = _BYTES[value.kind] // (2 if pair else 1), value.data
            data = b"".join(data[i : i + unit][::-1] for i in range(0, len(data), unit))
            made[tag] = Value(value.kind, data)
        else:
            made[tag] = _swapped(value)
    return made


def updated(
    block: bytes | None,
    size: tuple[int, int],
    software: str | None,
    *,
    dpi: tuple[float, float] | None = None,
    aspect: tuple[float, float] | None = None,
    needed: bool = False,
    for_jpeg: bool = False,
    turned_tag: bool = True,
) -> bytes | None:
    """The block for a picture of `size` (height, width), made by `software`; None if none is left.

    The embedded thumbnail went when the block was read: it shows the picture before the work.
    turned_tag: the orientation 1 is written, for formats that have no other field for it. needed:
    resolution goes into the block although there is none, for formats without a field for
    it. A block too long for a JPEG loses the maker's note, and if that is not enough, everything.
    """
    order, tags = tags_of(block)
    if tags and turned_tag:
        tags[ORIENTATION] = whole(order, SHORT, 1)
    if software:
        tags[_SOFTWARE] = text(software)
    details = tags.get(_EXIF)
    if isinstance(details, dict):
        for tag, side in ((_PIXELS_Y, size[0]), (_PIXELS_X, size[1])):
            if tag in details:
                details[tag] = whole(order, LONG, side)
        for tag in _OLD_PIXELS:
            details.pop(tag, None)
    densities = dpi or aspect
    if densities and (tags or needed) and all(math.isfinite(n) and n > 0 for n in densities):
        tags |= resolution(order, densities, 2 if dpi else 1)
    if not tags:
        return None
    made = PREFIX + laid_out(order, tags)
    if for_jpeg and len(made) > _MARKER and isinstance(details, dict):
        details.pop(_MAKER_NOTE, None)
        made = PREFIX + laid_out(order, tags)
    return None if for_jpeg and len(made) > _MARKER else made
