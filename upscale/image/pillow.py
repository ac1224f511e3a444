"""What programmers hold a picture in, and a Picture: Pillow's images, arrays, paths."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from os import PathLike, fspath
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from upscale.errors import InputError
from upscale.image import coded, colour, exif, png16, profile, xmp
from upscale.image.decode import read, upright_dpi
from upscale.image.picture import Picture, quantised

# What Pillow has of a PNG's colours: its key, the chunk, the chunk's form and unit
_CHUNKS = (
    ("srgb", b"sRGB", ">B", 1),
    ("gamma", b"gAMA", ">I", 100000),
    ("chromaticity", b"cHRM", ">8I", 100000),
)

PillowImage: TypeAlias = Image.Image  # for rooms that do not import Pillow


def picture_of(source: Any) -> Picture:
    """A Picture as it is; a path or a stream read; a Pillow image; an array (H,W), (H,W,3) or
    (H,W,4) of uint8, uint16, or floats in [0,1]. Raises InputError."""
    if isinstance(source, Picture):
        return source
    if isinstance(source, Image.Image):
        return _of_image(source)
    if isinstance(source, (str, PathLike)) or hasattr(source, "read"):
        return read(fspath(source) if isinstance(source, PathLike) else source)
    if hasattr(source, "__array__"):
        return _of_array(np.asarray(source))
    raise InputError(
        f"a {type(source).__name__} is not a picture: give a path, a Pillow image or an array"
    )


def pillow_of(picture: Picture) -> Image.Image:
    """A Pillow image of 8 bits a channel, in L, LA, RGB or RGBA; colour profile,
    EXIF and resolution are in `info`, where Pillow's own `save` looks for most of them."""
    grey = picture.grey
    samples = quantised(picture.rgb.mean(2, keepdims=True) if grey else picture.rgb, 8)
    if picture.alpha is not None:
        samples = np.concatenate([samples, quantised(picture.alpha, 8)[..., None]], 2)
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    icc = picture.icc and (profile.fitted(picture.icc, grey) or picture.icc)
    carried = {
        "icc_profile": icc, "exif": picture.exif, "dpi": picture.dpi, "xmp": picture.xmp,
    }  # fmt: skip
    image.info.update({key: value for key, value in carried.items() if value})
    return image


def opened(data: memoryview) -> Image.Image:
    """A file that was written here, as a Pillow image, whose `seek` goes from frame to frame."""
    return Image.open(io.BytesIO(data))


def _of_image(image: Image.Image) -> Picture:
    if 0 in image.size:
        raise InputError("the image has no pixels")
    told = coded.of_image(image)
    stored = _tags(image).orientation
    image.load()  # a TIFF is turned there
    icc = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):  # Pillow's only 16 bits
        samples = png16.transparent(np.asarray(image)[..., None], image.info.get("transparency"))
        planes, bits = colour.split(samples / np.float32(65535)), 16
        icc, notes = colour.fitting(icc)
    else:
        plain, icc, notes = colour.plain(image, icc)
        planes, bits = colour.planes(plain), 8
    rgb, alpha, grey = planes
    taken = _tags(image)
    rgb, alpha = colour.upright((rgb, alpha), taken.orientation)
    # MPO: a JPEG with further pictures behind it
    format = "JPEG" if image.format == "MPO" else image.format or "PNG"
    dpi = image.info.get("dpi") or taken.dpi
    if format == "JPEG" and image.info.get("jfif_unit") not in (1, 2):
        dpi = taken.dpi  # not the 72 that Pillow makes up
    dpi = upright_dpi(dpi, stored)
    colours = _colours(image)
    icc, said = profile.followed(icc, colours, grey)
    packet = image.info.get("xmp")
    packet = xmp.alone(packet) if isinstance(packet, bytes) else None
    if packet and taken.orientation != 1:
        packet = xmp.turned(packet)
    return Picture(
        rgb, alpha, bits, grey, icc, taken.block, dpi, format,
        (*notes, *taken.notes, *said), xmp=packet, colours=colours, coded=told,
    )  # fmt: skip


def _tags(image: Image.Image) -> exif.Taken:
    return exif.taken(image.info.get("exif") or _made_exif(image))


def _made_exif(image: Image.Image) -> bytes | None:
    """Tags that were set in Python, or that Pillow found in a TIFF; but no orientation of XMP."""
    with suppress(Exception):  # Pillow loses all tags where one is odd
        tags = image.getexif()
        if "xmp" in image.info and image.format != "TIFF":
            tags.pop(exif.ORIENTATION, None)
        return tags.tobytes() if len(tags) else None
    return None


def _colours(image: Image.Image) -> tuple[tuple[bytes, bytes], ...]:
    """Chunks of a PNG, made again of Pillow's numbers. Pillow keeps nothing of cICP."""
    made = []
    for key, kind, form, unit in _CHUNKS:
        with suppress(Exception):  # most often there is none; and texts of a PNG may have its name
            numbers = np.ravel(image.info[key]) * unit
            made.append((kind, struct.pack(form, *(round(n) for n in numbers))))
    return tuple(made)


def _of_array(array: np.ndarray) -> Picture:
    samples = array if array.ndim == 3 else array[..., None]
    if samples.ndim != 3 or samples.shape[2] not in (1, 2, 3, 4) or 0 in samples.shape:
        raise InputError(f"an array of {array.shape} is not a picture: (H,W), (H,W,3) or (H,W,4)")
    kind = samples.dtype.newbyteorder("=")
    bits = 16 if kind == np.uint16 else 8
    if kind in (np.uint8, np.uint16):
        samples = samples / np.float32(2**bits - 1)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"arrays of {array.dtype} are not supported: give uint8, uint16 or floats")
    elif not (np.isfinite(samples).all() and samples.min() >= 0 and samples.max() <= 1):
        raise InputError("an array of floats must lie in [0,1]")
    rgb, alpha, grey = colour.split(np.ascontiguousarray(samples, np.float32))
    return Picture(np.ascontiguousarray(rgb), alpha, bits, grey)
