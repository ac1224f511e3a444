"""XMP packets as bytes: what they say of the pixels is brought up to date, the rest stays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from fractions import Fraction

_ACROSS = ("GPano:FullPanoWidthPixels", "GPano:CroppedAreaLeftPixels")
_DOWN = ("GPano:FullPanoHeightPixels", "GPano:CroppedAreaTopPixels")
_WIDTH = (
    "GPano:CroppedAreaImageWidthPixels", "exif:PixelXDimension", "tiff:ImageWidth",
)  # fmt: skip
_HEIGHT = (
    "GPano:CroppedAreaImageHeightPixels", "exif:PixelYDimension", "tiff:ImageLength",
)  # fmt: skip
# Small pictures of the old pixels, and lists of further pictures behind the first
_GONE_ELEMENTS = (
    "xmp:Thumbnails", "xap:Thumbnails", "Container:Directory", "GContainer:Directory",
)  # fmt: skip
_GONE_PREFIXES = ("hdrgm", "HDRGainMap")
_MOST_NAMES = 50
_GONE = (
    "GCamera:MicroVideo", "GCamera:MicroVideoVersion", "GCamera:MicroVideoOffset",
    "GCamera:MicroVideoPresentationTimestampUs", "GCamera:MotionPhoto",
    "GCamera:MotionPhotoVersion", "GCamera:MotionPhotoPresentationTimestampUs",
    "xmpNote:HasExtendedXMP", "exif:FocalPlaneXResolution", "exif:FocalPlaneYResolution",
    "exif:FocalPlaneResolutionUnit",
)  # fmt: skip


def turned(packet: bytes) -> bytes:
    """For pixels that were turned upright: tiff:Orientation is 1."""
    return _changed(packet, "tiff:Orientation", lambda _: b"1")


def updated(packet: bytes, size: tuple[int, int]) -> bytes:
    """For a picture of `size` (height, width). The sizes and the place of a panorama (GPano) are
    scaled by how much larger the picture is than the part of the panorama that it was."""
    height, width = size
    for names, own, new in ((_ACROSS, _WIDTH[0], width), (_DOWN, _HEIGHT[0], height)):
        if (old := _number(packet, own)) is not None and old > 0:
            factor = Fraction(new, old)
            for name in names:
                packet = _changed(packet, name, lambda n, f=factor: b"%d" % round(n * f))
    for names, new in ((_WIDTH, width), (_HEIGHT, height)):
        for name in names:
            packet = _changed(packet, name, lambda _, new=new: b"%d" % new)

    def of_faces(element: bytes) -> bytes:
        for name, side in (("stDim:h", height), ("stDim:w", width)):
            element = _changed(element, name, lambda _, side=side: b"%d" % side)
        return element

    return _elements(packet, b"mwg-rs:AppliedToDimensions", of_faces)


def joined(packet: bytes, more: bytes) -> bytes:
    """A long XMP that a JPEG holds in two parts, as one."""
    start = more.find(b">", more.find(b"<rdf:RDF")) + 1
    end, place = more.rfind(b"</rdf:RDF"), packet.rfind(b"</rdf:RDF")
    if not 0 < start <= end or place < 0:
        return packet
    return packet[:place] + more[start:end] + packet[place:]


def parted(packet: bytes) -> tuple[bytes, bytes, bytes]:
    """(a short packet that points to the rest, the rest's GUID, the rest): XMP, part 3, 1.1.3.1."""
    start, end = packet.find(b"<x:xmpmeta"), packet.rfind(b"</x:xmpmeta>")
    rest = packet[start : end + 12] if 0 <= start < end else packet
    guid = hashlib.md5(rest, usedforsecurity=False).hexdigest().upper().encode()
    short = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        b'syntax-ns#"><rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
        b'xmpNote:HasExtendedXMP="' + guid + b'"/></rdf:RDF></x:xmpmeta>'
    )
    return short, guid, rest


def alone(packet: bytes) -> bytes:
    """Without thumbnails, what points to further pictures in the same file, and how many of the old
    pixels fit onto the sensor."""
    names = [name.encode() for name in _GONE]
    for prefix in _GONE_PREFIXES:
        found = set(re.findall(rb"\b%s:\w+" % prefix.encode(), packet))
        names += sorted(found)[:_MOST_NAMES]
    for name in names:
        attribute = rb"\s%s\s*=\s*(\"[^\"]*\"|'[^']*')" % re.escape(name)
        packet = re.sub(attribute, b"", packet)
    for name in (*(name.encode() for name in _GONE_ELEMENTS), *names):
        packet = _elements(packet, name, lambda _: b"")
    return packet


def _elements(packet: bytes, name: bytes, new: Callable[[bytes], bytes]) -> bytes:
    """The packet with all elements of a name exchanged; in linear time, whatever is in it."""
    parts, done, at = [], 0, 0
    while (start := packet.find(b"<" + name, at)) >= 0:
        at = start + 1
        end = packet.find(b">", start)
        if end < 0:
            break
        if packet[at + len(name)] not in b" \t\r\n/>":
            continue  # a longer name
        if packet[end - 1 : end] != b"/":
            close = packet.find(b"</" + name, end)
            end = packet.find(b">", close) if close >= 0 else -1
        if end < 0:
            break
        parts += [packet[done:start], new(packet[start : end + 1])]
        done = at = end + 1
    return b"".join([*parts, packet[done:]])


def _pattern(name: str) -> re.Pattern[bytes]:
    """A whole number as an attribute or an element."""
    tag = re.escape(name.encode())
    return re.compile(rb"(\b%s\s*=\s*[\"']|<%s\s*>)\s*(\d{1,12})\s*(?=[\"'<])" % (tag, tag))


def _number(packet: bytes, name: str) -> int | None:
    found = _pattern(name).search(packet)
    return int(found[2]) if found else None


def _changed(packet: bytes, name: str, new: Callable[[int], bytes]) -> bytes:
    return _pattern(name).sub(lambda found: found[1] + new(int(found[2])), packet)
