"""A file or stream becomes a Picture, or an InputError that says what is wrong with it."""

from __future__ import annotations

import importlib
import io
import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
from PIL import Image

from upscale.errors import DiffsrError, InputError, OutOfMemory, UsageError
from upscale.image import colour, exif, jpeg, png16, tiff
from upscale.image.formats import FORMATS, alien, sniff
from upscale.image.picture import Picture

Frames: TypeAlias = Literal["error", "first"]

_HEAD = 64  # bytes that tell the format
_MOST_SCANS = 100
_END_OF_JPEG = b"\xff\xd9"
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

    frames           "first" takes the first of several frames or pages, "error" refuses them
    allow_truncated  reads what is there of a file cut short (JPEG: the rest is grey; else black,
                     or transparent); WebP, AVIF and HEIC can't be read in part
    max_pixels       compared with the header before anything is decoded
    A stream is read from where it stands and need not be seekable. Raises InputError, which names
    the source, or OutOfMemory. Safe to call from several threads.
    """
    if frames not in ("error", "first"):
        raise UsageError(f"frames is {frames!r}; choose from error, first")
    with _opened(source) as file, _explained(source):
        return _decoded(file, frames, allow_truncated, max_pixels)


def size_of(source: str | Path | BinaryIO) -> tuple[int, int]:
    """(height, width) from the header alone, as stored, not turned by EXIF. Raises InputError."""
    with _opened(source) as file, _explained(source):
        format, _ = _format_of(file)
        if format == "TIFF":
            return tiff.header(file).size
        with _plugin(format)(file) as im:
            return im.height, im.width


@contextmanager
def _explained(source: str | Path | BinaryIO) -> Iterator[None]:
    """Decoders are kept quiet, and whatever goes wrong in them becomes an error that names the
    source."""
    name = source if isinstance(source, (str, Path)) else getattr(source, "name", "the stream")
    with _quietly():
        try:
            yield
        except DiffsrError as error:
            raise type(error)(f"{name}: {error}") from error.__cause__
        except Image.DecompressionBombError as error:  # a limit of Pillow's own, of some formats
            raise InputError(f"{name}: too many pixels for Pillow ({error})") from error
        except MemoryError as error:
            raise OutOfMemory(f"{name}: not enough memory to decode it") from error
        except Exception as error:  # decoders raise whatever they stumble over in a damaged file
            raise InputError(f"{name}: the file is damaged ({error}); get it again") from error


def _format_of(file: BinaryIO) -> tuple[str, bytes]:
    """(the format, the bytes that tell it); the file is at its start again."""
    head = file.read(_HEAD)
    file.seek(0)
    if not head:
        raise InputError("the file is empty; get it again")
    format = sniff(head)
    if format is None:
        raise InputError(f"{alien(head)}; diffsr reads {', '.join(FORMATS)}")
    return format, head


def _decoded(file: BinaryIO, frames: Frames, allow_truncated: bool, max_pixels: int) -> Picture:
    format, head = _format_of(file)
    if format == "TIFF":
        return _tiff(file, frames, allow_truncated, max_pixels)
    im = _plugin(format)(file)
    _check_pixels((im.height, im.width), max_pixels)
    _check_bytes(file, format, im.height * im.width, allow_truncated)
    notes = []
    if getattr(im, "is_animated", False):
        notes += _check_frames(im.n_frames, "frames", frames)
    im, lost = _loaded(im, file, format, allow_truncated)
    if format == "PNG" and png16.is_deep(head):
        samples = png16.read(file, im)
        planes, bits = colour.split(samples / np.float32(65535)), 16
        icc, said = colour.fitting(im.info.get("icc_profile"))
    else:
        im, icc, said = colour.plain(im, im.info.get("icc_profile"))
        planes, bits = colour.planes(im), 8
    block, orientation = _exif(im)
    rgb, alpha, grey = colour.upright(planes, orientation)
    dpi = upright_dpi(im.info.get("dpi"), orientation)
    notes = (*notes, *lost, *said)
    return Picture(rgb, alpha, bits, grey, icc, block, dpi, format, notes)


def _tiff(file: BinaryIO, frames: Frames, allow_truncated: bool, max_pixels: int) -> Picture:
    header = tiff.header(file)
    _check_pixels(header.size, max_pixels)
    notes = _check_frames(header.pages, "pages", frames) if header.pages > 1 else []
    if header.missing and not allow_truncated:
        raise InputError(
            f"the TIFF is cut short ({header.missing:.0%} of its strips are not all there); get it "
            "again, or try what is there with --allow-truncated (allow_truncated=True)"
        )
    icc, orientation = header.icc, header.orientation
    if header.deep:
        planes, bits = colour.split(tiff.read(file)), 16
        icc, lost = colour.fitting(icc)
    else:
        file.seek(0)
        im, cut = _loaded(_plugin("TIFF")(file), file, "TIFF", allow_truncated)
        im, icc, said = colour.plain(im, icc)
        planes, bits, orientation = colour.planes(im), 8, 1  # Pillow has turned it
        lost = cut + said
    rgb, alpha, grey = colour.upright(planes, orientation)
    dpi = upright_dpi(header.dpi, header.orientation)
    return Picture(rgb, alpha, bits, grey, icc, header.exif, dpi, "TIFF", (*notes, *lost))


def upright_dpi(dpi: tuple[float, float] | None, orientation: int) -> tuple[float, float] | None:
    """As the picture is seen; None for what is no resolution."""
    if not dpi or not all(math.isfinite(n) and n > 0 for n in dpi):
        return None
    across, down = float(dpi[0]), float(dpi[1])
    return (down, across) if orientation > 4 else (across, down)


def _plugin(format: str) -> type[Image.Image]:
    """Pillow's class for the format. Called by name, because `Image.open` goes by a limit of
    pixels that is a global variable, and tries other formats too."""
    if format == "HEIC":
        try:
            return importlib.import_module("pillow_heif").HeifImageFile
        except ImportError as error:
            raise InputError("HEIC needs an extra package: pip install 'diffsr[heic]'") from error
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


def _check_bytes(file: BinaryIO, format: str, pixels: int, allow_truncated: bool) -> None:
    """InputError where decoding would take time and memory that the bytes have no picture for."""
    length = file.seek(0, io.SEEK_END)
    if pixels > length * FORMATS[format].most_pixels and not allow_truncated:
        raise InputError(
            f"the {format} is cut short or damaged: {length} bytes cannot hold {pixels} pixels; "
            "get it again, or take what is there with --allow-truncated (allow_truncated=True)"
        )
    file.seek(0)
    if format == "JPEG" and jpeg.scans(file) > _MOST_SCANS:
        raise InputError(
            f"a JPEG of more than {_MOST_SCANS} scans, each of which takes a pass over the "
            "picture; save it again with another program (progressive JPEGs have about ten)"
        )


def _check_frames(count: int, what: str, frames: Frames) -> list[str]:
    if frames == "error":
        raise InputError(
            f"has {count} {what}, and diffsr enlarges still pictures; take the first with "
            '--frames first (frames="first")'
        )
    return [f"the first of {count} {what}"]


def _loaded(
    im: Image.Image, file: BinaryIO, format: str, allow_truncated: bool
) -> tuple[Image.Image, list[str]]:
    """Decode; of a file cut short, refuse or keep what is there. Pillow's own switch for that is
    a global variable."""
    try:
        im.load()
        return im, []
    except (OSError, SyntaxError, EOFError) as error:
        im.tile = []  # what was decoded is all there is
        share = _share(im)
        there = f" ({share:.0%} of its rows are there)" if 0 < share < 1 else ""
        if share == 0 and format != "JPEG":
            raise InputError(f"the {format} is cut short or damaged ({error})") from error
        if not allow_truncated:
            raise InputError(
                f"the {format} is cut short or damaged{there}; get it again, or take what is "
                "there with --allow-truncated (allow_truncated=True)"
            ) from error
    if format == "JPEG":  # a progressive one is all there, but coarse, once the end is marked
        file.seek(0)
        im = _plugin(format)(io.BytesIO(file.read() + _END_OF_JPEG))
        im.load()
    return im, [f"the {format} is cut short{there}"]


def _share(im: Image.Image) -> float:
    """How far down a decoder got before it failed: rows it never reached are still 0."""
    try:
        reached = np.flatnonzero(np.asarray(im).reshape(im.height, -1).any(1))
    except OSError:  # it had not even begun
        return 0.0
    return 0.0 if reached.size == 0 else (int(reached[-1]) + 1) / im.height


def _exif(im: Image.Image) -> tuple[bytes | None, int]:
    try:
        return exif.taken(im.getexif())
    except Exception:  # a damaged block; the pixels do not need it
        return None, 1


@contextmanager
def _opened(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
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
    return f"cannot be opened ({error})"


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
    """warnings and tifffile's log put aside, until it is closed."""
    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    logger = logging.getLogger("tifffile")
    stack.callback(setattr, logger, "disabled", logger.disabled)
    logger.disabled = True
    return stack
