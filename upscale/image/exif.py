"""EXIF blocks: cleaned when read, brought up to date when written.

A block is what Pillow's `exif=` takes: b"Exif\\0\\0" and a small TIFF file.
"""

from __future__ import annotations

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_ORIENTATION = 0x0112
_SOFTWARE = 0x0131
_EXIF = 0x8769
_GPS = 0x8825
_INTEROP = 0xA005
_MAKER_NOTE = 0x927C
_PIXELS_X, _PIXELS_Y = 0xA002, 0xA003

# How a TIFF lays out and describes its own pixels: of no meaning once they are decoded. Includes
# the profile, XMP, IPTC and Photoshop blocks, which an EXIF block does not hold.
_LAYOUT = {
    254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 290, 291, 292,
    293, 301, 317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 347, 512, 513,
    514, 529, 530, 531, 532, 700, 33723, 34377, 34675,
}  # fmt: skip
# What a TIFF's own directory says about the picture rather than the file; the rest is private
# tags of scanners, maps and microscopes, some of them larger than the pixels.
_ABOUT = {
    270, 271, 272, _ORIENTATION, _SOFTWARE, 306, 315, 316, 18246, 18249, 33432, _EXIF, _GPS,
    40091, 40092, 40093, 40094, 40095,
}  # fmt: skip
_MARKER = 65533  # bytes in a JPEG marker


def taken(exif: Image.Exif, *, from_tiff: bool = False) -> tuple[bytes | None, int]:
    """What a file said -> (block with the orientation reset to 1 or None, orientation 1..8)."""
    orientation = exif.get(_ORIENTATION, 1)
    if orientation not in range(1, 9):
        orientation = 1
    for tag in list(exif):
        if tag in _LAYOUT or (from_tiff and tag not in _ABOUT):
            del exif[tag]
    if _ORIENTATION in exif:
        exif[_ORIENTATION] = 1
    return (exif.tobytes() if set(exif) - {_ORIENTATION} else None), orientation


def updated(
    block: bytes | None, size: tuple[int, int], software: str | None, *, for_jpeg: bool = False
) -> bytes | None:
    """The block for a picture of `size` (height, width), made by `software`; None if none is left.

    The embedded thumbnail went when the block was read: it shows the picture before the work.
    A block too long for a JPEG loses the maker's note, and if that is not enough, everything.
    """
    exif = _loaded(block)
    if software:
        exif[_SOFTWARE] = software
    if _EXIF in exif:
        details = exif.get_ifd(_EXIF)
        new = {_PIXELS_Y: size[0], _PIXELS_X: size[1]}
        details.update({tag: n for tag, n in new.items() if tag in details})
    if not len(exif):
        return None
    made = exif.tobytes()
    if for_jpeg and len(made) > _MARKER and _EXIF in exif:
        exif.get_ifd(_EXIF).pop(_MAKER_NOTE, None)
        made = exif.tobytes()
    return None if for_jpeg and len(made) > _MARKER else made


def directory(block: bytes | None) -> ImageFileDirectory_v2:
    """The start of a TIFF's own directory, little-endian, holding what the block says."""
    exif = _loaded(block)
    tags = ImageFileDirectory_v2()
    for tag in exif:
        if tag in _ABOUT and tag not in (_EXIF, _GPS):
            tags[tag] = exif[tag]
    for tag in (_EXIF, _GPS):
        if tag in exif:
            # an offset into the old file, which Pillow follows for the block but not for a TIFF
            tags[tag] = {t: v for t, v in exif.get_ifd(tag).items() if t != _INTEROP}
    return tags


def _loaded(block: bytes | None) -> Image.Exif:
    exif = Image.Exif()
    if block:
        exif.load(block)
    return exif
