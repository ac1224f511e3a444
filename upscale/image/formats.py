"""The picture formats diffsr knows: names, suffixes, signatures and limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePath

from upscale.errors import OutputError


@dataclass(frozen=True)
class Format:
    suffixes: tuple[str, ...]
    max_side: int = 2**31 - 1
    max_bytes: int | None = None  # of the pixels, uncompressed
    alpha: bool = False
    deep: bool = False  # holds 16 bits a channel
    holds: frozenset[str] = frozenset()  # fields of a Picture besides pixels
    plugin: str = ""  # Pillow's class
    writable: bool = True
    several: frozenset[str] = frozenset()  # it holds several "frames", with timing, or "pages"


_TAGS = frozenset({"exif", "icc", "xmp", "dpi", "aspect"})

FORMATS: dict[str, Format] = {
    "PNG": Format(
        (".png", ".apng"),
        alpha=True,
        deep=True,
        holds=_TAGS | {"iptc", "comments", "texts", "colours"},
        plugin="PngImagePlugin.PngImageFile",
        several=frozenset({"frames"}),
    ),
    # The marker could say 65535; libjpeg's JPEG_MAX_DIMENSION is "a tad under 64K".
    "JPEG": Format(
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        max_side=65500,
        holds=_TAGS | {"iptc", "comments"},
        plugin="JpegImagePlugin.JpegImageFile",
    ),
    # 14 bits each in the VP8 header
    "WEBP": Format(
        (".webp",),
        max_side=16383,
        alpha=True,
        holds=_TAGS,
        plugin="WebPImagePlugin.WebPImageFile",
        several=frozenset({"frames"}),
    ),
    # Offsets are 32 bits; the margin is for the tags.
    "TIFF": Format(
        (".tif", ".tiff"),
        max_bytes=2**32 - 2**24,
        alpha=True,
        deep=True,
        holds=_TAGS | {"iptc"},
        plugin="TiffImagePlugin.TiffImageFile",
        several=frozenset({"frames", "pages"}),
    ),
    "BMP": Format(
        (".bmp", ".dib"),
        max_bytes=2**32 - 2**16,
        holds=frozenset({"dpi"}),
        plugin="BmpImagePlugin.BmpImageFile",
    ),
    # AV1 could hold 65536, but libavif, and so nearly every reader, refuses above 32768.
    "AVIF": Format(
        (".avif",), max_side=32768, alpha=True, holds=_TAGS, plugin="AvifImagePlugin.AvifImageFile"
    ),
    "GIF": Format(
        (".gif",),
        max_side=65535,
        alpha=True,
        holds=frozenset({"xmp", "comments", "aspect"}),
        plugin="GifImagePlugin.GifImageFile",
        several=frozenset({"frames"}),
    ),
    # Netpbm's; the first bytes of a file say which of them it is, whatever its name
    "PPM": Format(
        (".ppm", ".pgm", ".pbm", ".pnm"), deep=True, plugin="PpmImagePlugin.PpmImageFile"
    ),
    # 16 bits each in the header; the textures of games
    "TGA": Format((".tga",), max_side=65535, alpha=True, plugin="TgaImagePlugin.TgaImageFile"),
    "HEIC": Format((".heic", ".heif", ".hif"), writable=False),
}

# formats of which all frames or pages can be read
SEVERAL = frozenset({"AVIF", *(name for name, known in FORMATS.items() if known.several)})

SUFFIXES: frozenset[str] = frozenset(s for known in FORMATS.values() for s in known.suffixes)

# Pictures, videos and documents that are not read: those in a folder are counted and named
OTHER_SUFFIXES = {
    ".mpo", ".jps", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".jxr", ".psd", ".psb", ".xcf",
    ".kra", ".exr", ".hdr", ".svg", ".eps", ".ico", ".icns", ".pcx", ".pam",
    ".qoi", ".dds", ".fits", ".bpg", ".heics", ".heifs", ".avifs", ".jng", ".mng", ".dng",
    ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw",
    ".x3f", ".3fr", ".iiq", ".erf", ".raw", ".rwl", ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm",
    ".mpg", ".mpeg", ".3gp", ".mts", ".wmv", ".pdf", ".ai", ".djvu", ".hif", ".insp", ".kdc",
    ".mrw", ".dcr", ".ogv", ".flv", ".m2ts", ".vob", ".j2c", ".jpc", ".jpm", ".jls", ".pfm", ".sgi",
    ".ras", ".dcm", ".xbm", ".xpm", ".wbmp", ".cur", ".emf", ".wmf", ".dpx", ".fit", ".svgz",
    ".3g2", ".srf", ".fff", ".mef", ".mos", ".cap",
}  # fmt: skip

_ALIASES = {"JPG": "JPEG", "TIF": "TIFF", "PGM": "PPM", "PNM": "PPM"}

_ALIEN = (
    (b"%PDF", "a PDF"),
    (b"P7\n", "a PAM picture"),
    (b"8BPS", "a Photoshop document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"\x1a\x45\xdf\xa3", "a Matroska video"),
    (b"%!PS", "PostScript"),
    (b"qoif", "a QOI picture"),
    (b"DDS ", "a DirectDraw texture (DDS)"),
    (b"gimp xcf", "a GIMP document (XCF)"),
    (b"II\xbc\1", "a JPEG XR"),
    (b"\x8aMNG", "an MNG animation"),
    (b"SIMPLE  =", "a FITS picture"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"#?RADIANCE", "a Radiance picture (HDR)"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (b"IIRO", "a camera's raw file"),
    (b"IIU\0", "a camera's raw file"),
)
_BMP_HEADERS = tuple(bytes([n, 0, 0, 0]) for n in (12, 16, 40, 52, 56, 64, 108, 124))
# Netpbm's, in digits (P1 to P3) and in bytes: most pixels of a byte
_PNM = {b"P1": 1, b"P2": 1 / 2, b"P3": 1 / 6, b"P4": 8, b"P5": 1, b"P6": 1 / 3}
# TGA's kinds of pictures (palette, colour, grey), to which run lengths add 8, and bits of a pixel
_TGA = {(1, 8), (2, 16), (2, 24), (2, 32), (3, 1), (3, 8), (3, 16)}
_TGA_PACKED = 8
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def sniff(head: bytes) -> str | None:
    """The format whose signature starts `head` (64 bytes are enough), whatever the file's name."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # a Canon CR2 is a TIFF whose first picture is a thumbnail
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and head[8:10] != b"CR":
        return "TIFF"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    # two letters alone start many a text: the size of the second header follows
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:
        return "BMP"
    if head[:2] in _PNM and head[2:3].isspace():
        return "PPM"
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, len(head), 4))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if any(brand in _HEIF_BRANDS for brand in brands):
            return "HEIC"
    return "TGA" if _is_tga(head) else None


def _is_tga(head: bytes) -> bool:
    """TGA has no signature: all that its header can be."""
    if len(head) < 18 or (head[2] & ~_TGA_PACKED, head[16]) not in _TGA or head[17] & 0xC0:
        return False
    palette = head[1] == 1 and any(head[5:7]) and head[7] in (16, 24, 32)
    none = not any(head[3:8]) and head[1] == 0
    return (palette if head[2] & 3 == 1 else none) and any(head[12:14]) and any(head[14:16])


def most_pixels(format: str, head: bytes) -> float:
    """Of a byte of a file that starts with `head` (64 bytes), at the best of its compression."""
    head = head.ljust(64, b"\0")
    if format == "PNG":  # Deflate's best
        return 1032 * 8 / max(1, head[24] * {2: 3, 4: 2, 6: 4}.get(head[25], 1))
    if format == "JPEG":  # a bit for each block of 8x8
        return 8 * 64
    if format == "GIF":  # LZW's best is a tenth; but a frame need not fill the picture
        return 27_310
    if format == "PPM":
        return _PNM[head[:2]]
    if format == "TGA":  # 128 pixels of one colour
        return 128 / (1 + head[16] / 8) if head[2] & _TGA_PACKED else 8 / head[16]
    if format == "BMP":
        bits = head[24] if head[14] == 12 else head[28]
        packed = head[14] != 12 and head[30] in (1, 2)  # by run lengths
        return (128 if packed else 1) * 8 / max(1, bits)
    return math.inf


def alien(head: bytes) -> str:
    """In words, what a file that is none of ours looks like."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, probably an error message saved in place of the picture"
    if text.startswith((b"<svg", b"<?xml")):
        return "SVG or other XML"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "a camera's raw file"
    if head[4:8] == b"ftyp":
        return "a camera's raw file" if head[8:12] == b"crx " else "a video"
    for signature, words in _ALIEN:
        if head.startswith(signature):
            return words
    return "not a picture of a kind diffsr knows"


def canonical(name: str) -> str:
    """'jpg' -> 'JPEG'; OutputError for a format that cannot be written."""
    upper = _ALIASES.get(name.upper(), name.upper())
    if upper in FORMATS and FORMATS[upper].writable:
        return upper
    raise OutputError(f"no format named {name} can be written; use {', '.join(_writable())}")


def format_of(path: str | PurePath) -> str:
    """The output format that the suffix asks for; OutputError names the valid ones."""
    suffix = PurePath(path).suffix.lower()
    for name, known in FORMATS.items():
        if suffix in known.suffixes and known.writable:
            return name
    valid = ", ".join(s for name in _writable() for s in FORMATS[name].suffixes)
    if suffix in FORMATS["HEIC"].suffixes:
        raise OutputError(f"{path}: HEIC is read, not written; use one of {valid}")
    what = f"{suffix} is no picture format to write" if suffix else "the name has no suffix"
    raise OutputError(f"{path}: {what}; use one of {valid}")


def check_format(
    format: str, size: tuple[int, int], bits: int = 8, *, alpha: bool = False
) -> list[str]:
    """Whether `format` can hold a picture of `size` (height, width): cheap, so ask before the work.

    Raises OutputError where it cannot. Returns what it can hold only in part, for the user.
    """
    name = canonical(format)
    known = FORMATS[name]
    height, width = size
    others = " or ".join(n for n in ("PNG", "TIFF") if n != name)
    if max(size) > known.max_side:
        raise OutputError(
            f"{name} holds at most {known.max_side} pixels a side, and the result is {width} wide "
            f"and {height} high; write {others}, or a smaller size"
        )
    planes = 4 if alpha and known.alpha else 3
    if known.max_bytes and height * width * planes * (bits // 8 if known.deep else 1) > (
        known.max_bytes
    ):
        raise OutputError(
            f"{name} ends at 4 GiB of pixels, and the result is {width} wide and {height} high; "
            "write PNG, or a smaller size"
        )
    notes = []
    if bits == 16 and not known.deep:
        notes.append(f"{name} holds 8 bits a channel: the source's 16 are rounded")
    if alpha and not known.alpha:
        notes.append(f"{name} has no transparency: the picture is laid on white")
    if name == "GIF":
        notes.append("GIF holds 256 colours: the others are mapped to them")
    return notes


def check_several(format: str, kind: str) -> list[str]:
    """The same for several "frames" or "pages" in one file."""
    name = canonical(format)
    if kind not in FORMATS[name].several:
        others = [other for other, known in FORMATS.items() if kind in known.several]
        raise OutputError(
            f"{name} cannot hold several {kind}: write {' or '.join(others)} (--format "
            f"{others[0].lower()}), or enlarge the first alone (--frames first)"
        )
    if name == "TIFF" and kind == "frames":
        return ["TIFF holds no timing: the frames are pages"]
    return []


def _writable() -> list[str]:
    return [name for name, known in FORMATS.items() if known.writable]
