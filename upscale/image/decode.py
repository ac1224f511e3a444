"""A file or stream becomes a Picture, or an InputError that says what is wrong with it."""

from __future__ import annotations

import errno
import importlib
import io
import itertools
import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from upscale.errors import DiffsrError, InputError, OutOfMemory, UsageError
from upscale.image import colour, exif, jpeg, png16, pnm, profile, tiff, xmp
from upscale.image.carried import Carried, after, carried
from upscale.image.formats import FORMATS, SEVERAL, alien, most_pixels, sniff
from upscale.image.picture import Picture

Frames: TypeAlias = Literal["error", "first"]

_HEAD = 64  # bytes that tell the format
_MOST_SCANS = 100
_MOST_STRETCHES = 8  # of zeros among a JPEG's pixels that are looked at
_LAST = 8  # bytes of such pixels, not all of which can belong to one code
_quiet_lock = threading.Lock()
_quiet: list[ExitStack] = []  # what the first of several threads put aside, for the last to restore
_decoding = 0


def read(
    source: str | Path | BinaryIO,
    *,
    frames: Frames = "error",
    allow_truncated: bool = False,
    max_pixels: int = 250_000_000,
) -> Picture:
    """Decode one picture, upright; the content decides the format, not the name.

    frames           "first" takes the first of several frames or pages, "error" refuses them;
                     `frames_in.read_frames` takes all
    allow_truncated  reads what is there of a file cut short (JPEG: the rest is grey; else black,
                     or transparent); WebP, AVIF and HEIC can't be read in part
    max_pixels       compared with the header before anything is decoded
    A stream is read from where it stands and need not be seekable. Raises InputError, which names
    the source, or OutOfMemory. Safe to call from several threads.
    """
    if frames not in ("error", "first"):
        raise UsageError(f"frames is {frames!r}; choose from error, first")
    with opened(source) as file, explained(source):
        return advised(file, frames, allow_truncated, max_pixels)


def advised(
    file: BinaryIO, frames: Frames | None, allow_truncated: bool, max_pixels: int
) -> Picture:
    """`decoded`, and of a file cut short the error says what can be done."""
    try:
        return decoded(file, frames, allow_truncated, max_pixels)
    except _CutShort as error:
        advice = "get it again"
        with suppress(Exception):  # advice that would fail is not given
            file.seek(0)
            decoded(file, frames, True, max_pixels)
            advice += ", or take what is there with --allow-truncated"
        raise InputError(f"{error}; {advice}") from error.__cause__


class _CutShort(InputError):
    """Part of a picture may be there."""


def size_of(source: str | Path | BinaryIO) -> tuple[int, int]:
    """(height, width) from the header alone, as stored, not turned by EXIF. Raises InputError."""
    with opened(source) as file, explained(source):
        format, _ = format_in(file)
        if format == "TIFF":
            return tiff.header(file).size
        pixels = file if format == "JPEG" else carried(file, format)[1]
        with plugin(format)(pixels) as im:
            return im.height, im.width


def orientation_of(source: str | Path | BinaryIO) -> int:
    """How `read` turns what is stored, as a number of EXIF's (1..8), from the header alone. Raises
    InputError."""
    with opened(source) as file, explained(source):
        format, _ = format_in(file)
        if format == "TIFF":
            return tiff.header(file).taken.orientation
        found, pixels = carried(file, format)
        with plugin(format)(pixels) as im:
            return turned_by(format, exif.taken(found.exif), im)


def turned_by(format: str, taken: exif.Taken, im: Image.Image) -> int:
    """The orientation of an opened file of these tags. AVIF and HEIC are turned by boxes, whatever
    EXIF says; HEIC is turned already."""
    if format == "AVIF":
        return exif.taken(im.info.get("exif")).orientation  # Pillow puts there what boxes say
    return 1 if format == "HEIC" else taken.orientation


@contextmanager
def explained(source: str | Path | BinaryIO) -> Iterator[None]:
    """Decoders are kept quiet, and whatever goes wrong in them becomes an error that names the
    source."""
    name = source if isinstance(source, (str, Path)) else getattr(source, "name", "the stream")
    with _quietly():
        try:
            yield
        except DiffsrError as error:
            raise type(error)(f"{name}: {error}") from error.__cause__
        except Image.DecompressionBombError as error:  # a limit of Pillow's own, of some formats
            raise InputError(f"{name}: too many pixels for its format's decoder") from error
        except MemoryError as error:
            raise OutOfMemory(f"{name}: not enough memory to decode it") from error
        except ImportError as error:
            raise InputError(
                f"{name}: a variant whose decoder is not installed; save it as PNG or as TIFF "
                "without compression first"
            ) from error
        except Exception as error:  # decoders raise whatever they stumble over in a damaged file
            raise InputError(f"{name}: the file is damaged; get it again") from error


def format_in(file: BinaryIO) -> tuple[str, bytes]:
    """(the format, the bytes that tell it); the file is at its start again."""
    head = file.read(_HEAD)
    file.seek(0)
    if not head:
        raise InputError("the file is empty; get it again")
    format = sniff(head)
    if format is None:
        raise InputError(
            f"{alien(head)}; diffsr reads {', '.join(FORMATS)}: convert other pictures first"
        )
    return format, head


def decoded(
    file: BinaryIO, frames: Frames | None, allow_truncated: bool, max_pixels: int
) -> Picture:
    """`read`, of an open file at its start, without words about where that is. frames: None takes
    the first and says nothing of others."""
    format, head = format_in(file)
    if format == "TIFF":
        return _tiff(file, frames, allow_truncated, max_pixels)
    found, pixels = carried(file, format)
    im = plugin(format)(pixels)
    _check_pixels((im.height, im.width), max_pixels)
    _check_bytes(file, format, head, im.height * im.width, allow_truncated)
    notes = []
    if frames and getattr(im, "is_animated", False):
        notes += _check_frames(im.n_frames, "frames", frames, format in SEVERAL)
    if format == "PPM" and im.mode != "1":
        return _pnm(pixels, im, found, allow_truncated)
    im, lost = _loaded(im, pixels, format, allow_truncated)
    if format == "PNG" and head[25] == 0 and "transparency" in im.info:
        most = 2 ** head[24] - 1  # further bits are to be ignored (PNG, 11.3.1.1)
        hidden = im.info["transparency"] & most
        im.info["transparency"] = hidden * max(1, 255 // most)  # as Pillow has the samples
    if format == "TGA" and im.mode == "P" and im.palette.mode == "RGBA":
        im = im.convert("RGBA")
    if format == "TGA" and not head[17] & 15 and im.mode in ("LA", "RGBA"):
        # the header says that there is no transparency; some programs write it all the same
        im = im if im.getchannel("A").getbbox() else im.convert(im.mode[:-1])
    if format == "GIF" and im.dispose_extent != (0, 0, *im.size):
        # where its first frame is not, nothing is drawn; Pillow fills that with the background
        inside = Image.new("L", im.size)
        inside.paste(255, im.dispose_extent)
        im = im.convert("RGBA")
        im.putalpha(ImageChops.multiply(im.getchannel("A"), inside))
    taken = exif.taken(found.exif)
    orientation = turned_by(format, taken, im)
    if format == "PNG" and png16.is_deep(head):
        samples = png16.read(pixels, im)
        del im  # as large as they are
        planes, bits = colour.split(samples / np.float32(65535)), 16
        del samples
        icc, said = colour.fitting(found.icc)
    elif format == "HEIC" and im.mode == "I;16":  # grey, whose bits are the upper ones
        whole = np.asarray(im)[..., None] >> (16 - found.bits)
        planes, bits = colour.split(whole / np.float32(2**found.bits - 1)), 16
        icc, said = colour.fitting(found.icc)
    else:
        im, icc, said = colour.plain(im, found.icc)
        planes, bits = colour.planes(im), 8
    if format in ("AVIF", "HEIC") and bits == 8:
        lost = [*lost, *_reduced(found.bits)]
    return _with(
        Picture(*colour.upright(planes[:2], orientation), bits, planes[2], icc, format=format),
        found, taken, orientation, (*notes, *lost, *said),
    )  # fmt: skip


def _with(
    picture: Picture, found: Carried, taken: exif.Taken, orientation: int, notes: tuple[str, ...]
) -> Picture:
    """The picture with what its file carries."""
    icc, said = profile.followed(picture.icc, found.colours, picture.grey)
    packet = xmp.alone(found.xmp) if found.xmp else None
    if packet and (orientation != 1 or picture.format in ("AVIF", "HEIC")):
        packet = xmp.turned(packet)
    dpi = found.dpi or taken.dpi
    aspect = None if dpi else found.aspect or taken.aspect
    return replace(
        picture,
        icc=icc,
        exif=taken.block,
        dpi=upright_dpi(dpi, orientation),
        aspect=upright_dpi(aspect, orientation),
        xmp=packet,
        iptc=found.iptc,
        comments=tuple(found.comments),
        texts=tuple(found.texts),
        colours=tuple(found.colours),
        coded=found.coded,
        notes=tuple(dict.fromkeys([*notes, *found.notes, *taken.notes, *said])),
    )


def _reduced(bits: int) -> list[str]:
    return [f"{bits} bits a channel were reduced to 8"] if bits > 8 else []


def _pnm(file: BinaryIO, im: Image.Image, found: Carried, allow_truncated: bool) -> Picture:
    values, bits, missing = pnm.read(file, im)
    notes = [f"the PPM is cut short ({1 - missing:.0%} of its pixels are there)"] if missing else []
    if missing and not allow_truncated:
        raise _CutShort(notes[0])
    after(file.read(_HEAD), found)
    rgb, alpha, grey = colour.split(values)
    return Picture(rgb, alpha, bits, grey, format="PPM", notes=(*notes, *found.notes))


def _tiff(file: BinaryIO, frames: Frames | None, allow_truncated: bool, max_pixels: int) -> Picture:
    header = tiff.header(file)
    _check_pixels(header.size, max_pixels)
    notes = []
    if frames and (pages := len(tiff.pages(file))) > 1:
        notes += _check_frames(pages, "pages", frames, True)
    if header.missing and not allow_truncated:
        raise _CutShort(
            f"the TIFF is cut short ({header.missing:.0%} of its strips are not all there)"
        )
    found = header.carried
    if header.ours:
        planes, bits = colour.split(tiff.read(file)), found.bits
        icc, said = colour.fitting(found.icc)
    else:
        im, cut = _loaded(tiff.image(file), file, "TIFF", allow_truncated)
        im, icc, said = colour.plain(im, found.icc)
        planes, bits = colour.planes(im), 8
        said += cut + _reduced(found.bits)
    orientation = header.taken.orientation
    return _with(
        Picture(*colour.upright(planes[:2], orientation), bits, planes[2], icc, format="TIFF"),
        found, header.taken, orientation, (*notes, *said),
    )  # fmt: skip


def upright_dpi(dpi: tuple[float, float] | None, orientation: int) -> tuple[float, float] | None:
    """As the picture is seen; None for what is no resolution."""
    if not dpi or not all(math.isfinite(n) and n > 0 for n in dpi):
        return None
    across, down = float(dpi[0]), float(dpi[1])
    return (down, across) if orientation > 4 else (across, down)


class _Jpeg(JpegImageFile):
    """Without Pillow's search of EXIF for a resolution, which fails on odd tags."""

    def _read_dpi_from_exif(self) -> None:
        pass


def plugin(format: str) -> type[Image.Image]:
    """Pillow's class for the format. Called by name, because `Image.open` goes by a limit of
    pixels that is a global variable, and tries other formats too."""
    if format == "HEIC":
        try:
            return importlib.import_module("pillow_heif").HeifImageFile
        except ImportError as error:
            raise InputError("HEIC needs an extra package: pip install 'diffsr[heic]'") from error
    if format == "JPEG":
        return _Jpeg
    module, name = FORMATS[format].plugin.split(".")
    return getattr(importlib.import_module(f"PIL.{module}"), name)


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    height, width = size
    if height * width > max_pixels:
        raise InputError(
            f"{width} wide and {height} high is {height * width / 1e6:.4g} million pixels, more "
            f"than the limit of {max_pixels / 1e6:.4g}; if you trust the file, raise it with "
            "--max-pixels (max_pixels=)"
        )


def _check_bytes(
    file: BinaryIO, format: str, head: bytes, pixels: int, allow_truncated: bool
) -> None:
    """InputError where decoding would take time and memory that the bytes have no picture for: not
    even one at the best of the compression, or a tenth of one where it may be cut."""
    length = file.seek(0, io.SEEK_END)
    most = length * most_pixels(format, head)
    if pixels * (0.1 if allow_truncated else 1) > most:
        raise InputError(
            f"the {format} is cut short or damaged: {length} bytes cannot hold {pixels} pixels; "
            "get it again"
        )
    file.seek(0)
    if format == "JPEG" and jpeg.scans(file) > _MOST_SCANS:
        raise InputError(
            f"a JPEG of more than {_MOST_SCANS} scans, each of which takes a pass over the "
            "picture; save it again with another program (progressive JPEGs have about ten)"
        )


def _check_frames(count: int, what: str, frames: Frames, able: bool) -> list[str]:
    """able: whether all of them can be read."""
    if frames == "error":
        every = "all of them with --frames all, or " if able else ""
        raise InputError(f"has {count} {what}; enlarge {every}the first with --frames first")
    return [f"the first of {count} {what}"]


def _loaded(
    im: Image.Image, file: BinaryIO, format: str, allow_truncated: bool
) -> tuple[Image.Image, list[str]]:
    """Decode; of a file cut short, refuse or keep what is there. Pillow's own switch for that is
    a global variable."""
    try:
        im.load()
        said = _made_up(file) if format == "JPEG" else []
        if said == [_NO_END] and not allow_truncated:
            raise _CutShort(_NO_END)
        return im, said
    except (OSError, SyntaxError, EOFError) as error:
        im.tile = []  # what was decoded is all there is
        share = _share(im)
        there = f" ({share:.0%} of its rows are there)" if 0 < share < 1 else ""
        if format == "JPEG":
            file.seek(0)
            data = file.read()
            if (whole := _without_end(data)) is not None:
                return whole, ["the JPEG's end is not marked; all of its pixels are there"]
            data = jpeg.mended(data)
        if (share == 0 and format != "JPEG") or (format == "JPEG" and data is None):
            raise InputError(
                f"the {format} is cut short or damaged before its first pixels; get it again"
            ) from error
        if not allow_truncated:
            raise _CutShort(f"the {format} is cut short or damaged{there}") from error
    if format == "JPEG":  # a progressive one is all there, but coarse, once the end is marked
        im = _jpeg_of(data)
    return im, [f"the {format} is cut short{there}"]


# Two ways to go on that have nothing in common: pixels that need more than is there are made of it
_GUESSES = (b"", bytes([0x5A, 0x3C, 0x91]) * 99, bytes([0x12, 0xE7, 0xB4, 0x08]) * 99)


def _without_end(data: bytes) -> Image.Image | None:
    """The picture of a JPEG that lacks nothing but the mark of its end."""
    data = data.rstrip(b"\xff")
    if not jpeg.lacks_only_end(data):
        return None
    try:
        first, *others = (_jpeg_of(data + guess + jpeg.END) for guess in _GUESSES)
    except (OSError, SyntaxError):
        return None
    return first if all(other.tobytes() == first.tobytes() for other in others) else None


_NO_END = "the JPEG is cut short or damaged: its pixels end before the rows that it declares"


def _made_up(file: BinaryIO) -> list[str]:
    """What is wrong with a JPEG that was decoded. Of pixels whose bytes are missing the decoder
    says nothing: it makes them even, and of other bytes in their place it would make others. An
    eighth of the size, of blocks' means, shows it."""
    file.seek(0)
    data = file.read()
    with suppress(OSError):  # which a whole one with more bytes does not raise
        both = (_jpeg_of(d, small=True) for d in (data, jpeg.longer(data, _GUESSES[1])))
        made, other = (np.asarray(im).reshape(im.height, im.width, -1) for im in both)
        rows = np.flatnonzero((made != other).any((1, 2)))
        if not len(rows) and jpeg.restarts_in_order(data) and not _out_of_step(data):
            return []
        below = made[min(rows[0] + 4, len(made) - 1) :] if len(rows) else made  # 4: an MCU's most
        if (below == made[-1, 0]).all():
            return [_NO_END]
    return ["the JPEG is damaged: parts of the picture are made up, or in a wrong place"]


def _out_of_step(data: bytes) -> bool:
    """Whether pixels behind a stretch of zeros need more bytes than there are, or do not need the
    last ones. Of a progressive JPEG an eighth of the size does not show it."""
    ends = list(itertools.islice(jpeg.behind_zeros(data), _MOST_STRETCHES))
    if not ends:
        return False
    whole = _jpeg_of(data).tobytes()

    def same(other: bytes) -> bool:
        with suppress(OSError):
            return _jpeg_of(other).tobytes() == whole
        return False

    def unneeded(end: int) -> bool:
        start = len(data[: end - _LAST].rstrip(b"\xff"))
        return all(same(data[:start] + guess[:_LAST] + data[end:]) for guess in _GUESSES[1:])

    return not same(jpeg.longer(data, _GUESSES[1])) or any(map(unneeded, ends))


def _jpeg_of(data: bytes, *, small: bool = False) -> Image.Image:
    im = plugin("JPEG")(io.BytesIO(data))
    if small:
        im.draft(None, (1, 1))
    im.load()
    return im


def _share(im: Image.Image) -> float:
    """How far down a decoder got before it failed: rows it never reached are still 0."""
    try:
        reached = np.flatnonzero(np.asarray(im).reshape(im.height, -1).any(1))
    except OSError:  # it had not even begun
        return 0.0
    return 0.0 if reached.size == 0 else (int(reached[-1]) + 1) / im.height


@contextmanager
def opened(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """A seekable file at its start; left open only if it was given open."""
    if not isinstance(source, (str, Path)):
        at_start = source.seekable() and source.tell() == 0
        yield source if at_start else io.BytesIO(source.read())
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 (closed below, once it is known to be a file)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: {_refusal(error)}") from error
    with file:
        yield file if file.seekable() else io.BytesIO(file.read())


def _refusal(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file; check the name and the folder"
    if isinstance(error, IsADirectoryError):
        return "is a folder; give its pictures, or the folder where folders are taken"
    if isinstance(error, PermissionError):
        return "may not be read; check its permissions"
    if getattr(error, "errno", None) == errno.ELOOP:
        return "is a link that leads in a circle; give the picture itself"
    return f"cannot be opened ({getattr(error, 'strerror', None) or error})"


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep decoders' remarks on odd files off the user's screen. The filters of `warnings` belong
    to the process: they are put aside while any thread decodes."""
    global _decoding
    with _quiet_lock:
        _decoding += 1
        if _decoding == 1:
            _quiet.append(_silence())
    try:
        yield
    finally:
        with _quiet_lock:
            _decoding -= 1
            if _decoding == 0:
                _quiet.pop().close()


def _silence() -> ExitStack:
    """warnings and the logs of tifffile and Pillow put aside, until it is closed."""
    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    for name in ("tifffile", "PIL"):
        logger = logging.getLogger(name)
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL + 1)
    return stack
