"""XMP packets as bytes: what they say of the pixels is brought up to date, the rest stays."""

from __future__ import annotations

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
_GONE = (
    "GCamera:MicroVideo", "GCamera:MicroVideoVersion", "GCamera:MicroVideoOffset",
    "GCamera:MicroVideoPresentationTimestampUs", "GCamera:MotionPhoto",
    "GCamera:MotionPhotoVersion", "GCamera:MotionPhotoPresentationTimestampUs",
    "xmpNote:HasExtendedXMP",
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
    return packet


def alone(packet: bytes) -> bytes:
    """Without thumbnails, and without what points to further pictures in the same file."""
    for name in _GONE_ELEMENTS:
        tag = re.escape(name.encode())
        packet = _without(packet, rb"<%s\b[^>]*/>|<%s\b.*?</%s\s*>" % (tag, tag, tag))
    names = [re.escape(name.encode()) for name in _GONE]
    names += [rb"%s:\w+" % prefix.encode() for prefix in _GONE_PREFIXES]
    for tag in names:
        packet = _without(packet, rb"\s%s\s*=\s*(\"[^\"]*\"|'[^']*')" % tag)
        packet = _without(packet, rb"<(%s)\b[^>]*/>|<(%s)\b[^>]*>.*?</\2\s*>" % (tag, tag))
    return packet


def _without(packet: bytes, pattern: bytes) -> bytes:
    return re.sub(pattern, b"", packet, flags=re.DOTALL)


def _pattern(name: str) -> re.Pattern[bytes]:
    """A whole number as an attribute or an element."""
    tag = re.escape(name.encode())
    return re.compile(rb"(\b%s\s*=\s*[\"']|<%s\s*>)\s*(\d{1,12})\s*(?=[\"'<])" % (tag, tag))


def _number(packet: bytes, name: str) -> int | None:
    found = _pattern(name).search(packet)
    return int(found[2]) if found else None


def _changed(packet: bytes, name: str, new: Callable[[int], bytes]) -> bytes:
    return _pattern(name).sub(lambda found: found[1] + new(int(found[2])), packet)
