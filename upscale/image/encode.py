"""A Picture becomes a file: all of it, or nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from upscale import atomic
from upscale.errors import DiffsrError, NumericalError, OutOfMemory, OutputError, UsageError
from upscale.image import exif, png16, tiff
from upscale.image.formats import FORMATS, canonical, check_format, format_of
from upscale.image.picture import Extras, Picture, quantised


def write(
    picture: Picture,
    target: str | Path | BinaryIO,
    *,
    format: str | None = None,
    quality: int | None = None,
    strip: bool = False,
    overwrite: bool = False,
    comment: str | None = None,
    check: Callable[[], None] | None = None,
) -> list[str]:
    """Encode `picture` and put it at `target`; returns what could not be kept, for the user.

    format    a name from formats.FORMATS; without it the target's suffix tells
    quality   1..100 for JPEG (95, always 4:4:4), WebP (95; 100 is lossless) and AVIF (90)
    strip     leave out EXIF, colour profile, resolution and comment
    comment   provenance: the text "Software" of a PNG, the EXIF tag of others
    check     called just before a file gets its name: what it raises is passed on
    A file appears under its name at once and complete; folders are made; a failure of any kind
    leaves nothing behind. 16 bits are written where picture.bits is 16 and the format has them.
    Alpha is laid on white where the format has none (JPEG, BMP); GIF's is all or nothing.
    Raises OutputError, DiskFull, UsageError or, for pixels that are no numbers, NumericalError.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality is {quality}; it goes from 1 to 100")
    is_path = isinstance(target, (str, Path))
    if format is None and not is_path:
        raise OutputError("a stream has no suffix to tell the format; name one: --format png")
    name = canonical(format) if format else format_of(str(target))
    if is_path and not overwrite:
        atomic.check_free(Path(target))
    notes = check_format(name, picture.size, picture.bits, alpha=picture.alpha is not None)
    data = io.BytesIO()
    try:
        samples = _samples(picture, name)
        extras, left_out = _extras(picture, picture.size, name, strip, comment)
        _encode(name, data, samples, extras, quality)
        notes += left_out
    except DiffsrError:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"not enough memory to encode the {name}") from error
    except Exception as error:  # whatever an encoder finds wrong with the pixels or the metadata
        raise OutputError(f"{name} cannot be encoded ({error}); try PNG") from error
    if is_path:
        with atomic.placed(Path(target), overwrite=overwrite, check=check) as file:
            file.write(data.getbuffer())
    else:
        atomic.send(data.getbuffer(), target)
    return notes


def _encode(
    name: str, file: BinaryIO, samples: np.ndarray, extras: Extras, quality: int | None
) -> None:
    if name == "TIFF" or samples.dtype == np.uint16:
        writer = _ROWS[name](file, samples.shape[:2], samples.shape[2], samples.dtype, extras)
        writer.add(samples)
        writer.close()
    else:
        image, options = _for_pillow(name, samples, extras, quality)
        image.save(file, name, **options)


def _extras(
    picture: Picture, size: tuple[int, int], name: str, strip: bool, comment: str | None
) -> tuple[Extras, list[str]]:
    """What goes along with a picture like `picture`, but of `size`; and what cannot."""
    software = None if strip else comment
    block = None if strip else picture.exif
    icc = None if strip else picture.icc
    notes = []
    # GIF and BMP have no place for a profile; a profile for grey does not fit RGB
    unfit = icc is not None and icc[16:20] == b"GRAY" and not _grey(picture, name)
    if icc and (not FORMATS[name].profile or unfit):
        icc = None
        notes.append(f"{name} cannot hold the colour profile: it was left out")
    if FORMATS[name].profile:
        # PNG has a text for the software
        tagged = None if name == "PNG" else software
        made = exif.updated(block, size, tagged, for_jpeg=name == "JPEG")
        if block and not made:
            notes.append(f"{name} cannot hold so long an EXIF block: it was left out")
        block = made
    elif block:
        block = None
        notes.append(f"{name} cannot hold EXIF: it was left out")
    return Extras(icc, block, None if strip else picture.dpi, software), notes


def _grey(picture: Picture, name: str) -> bool:
    """Whether one channel is written: WebP has no grey, AVIF none with alpha."""
    alpha = picture.alpha is not None and FORMATS[name].alpha
    return picture.grey and not (name == "WEBP" or (name == "AVIF" and alpha))


def _samples(picture: Picture, name: str) -> np.ndarray:
    """uint8 or uint16 (H,W,1..4), as in L, LA, RGB or RGBA, of the kinds `name` can hold."""
    rgb, alpha = picture.rgb, picture.alpha
    if not np.isfinite(rgb).all() or (alpha is not None and not np.isfinite(alpha).all()):
        raise NumericalError("the picture holds pixels that are not numbers; nothing was written")
    if alpha is not None and not FORMATS[name].alpha:
        rgb, alpha = rgb * alpha[..., None] + (1 - alpha[..., None]), None
    # no channel of a grey picture is privileged
    colour = rgb.mean(2, keepdims=True) if _grey(picture, name) else rgb
    bits = picture.bits if FORMATS[name].deep else 8
    samples = quantised(colour, bits)
    if alpha is None:
        return samples
    return np.concatenate([samples, quantised(alpha, bits)[..., None]], 2)


_ROWS = {"PNG": png16.Writer, "TIFF": tiff.Writer}
STREAMED = tuple(_ROWS)  # what `rows_to` can write


@contextmanager
def rows_to(
    target: Path,
    size: tuple[int, int],
    *,
    format: str,
    strip: bool = False,
    overwrite: bool = False,
    check: Callable[[], None] | None = None,
) -> Iterator[Callable[[Picture, str | None], list[str]]]:
    """A function that takes a picture of `size` (height, width) in bands of whole rows, from the
    top, each with the comment, and writes them as they come; it returns what could not be kept.

    For the formats in STREAMED. The file gets its name at the end; everything else as `write`.
    """
    name, writer = canonical(format), None
    if not overwrite:
        atomic.check_free(target)
    with atomic.placed(target, overwrite=overwrite, check=check) as file:

        def add(band: Picture, comment: str | None) -> list[str]:
            nonlocal writer
            notes: list[str] = []
            samples = _samples(band, name)
            if writer is None:
                extras, notes = _extras(band, size, name, strip, comment)
                notes += check_format(name, size, band.bits, alpha=band.alpha is not None)
                # not beside a pipe or a device
                folder = None if atomic.is_special(target) else Path(target).parent
                form = (samples.shape[2], samples.dtype, extras)
                writer = _ROWS[name](file, size, *form, folder=folder)
            writer.add(samples)
            return notes

        try:
            yield add
            writer.close()
        except BaseException:
            if writer is not None:
                writer.discard()
            raise


def _image(samples: np.ndarray) -> Image.Image:
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


# zlib's 6 takes twice to three times as long, for files from 1% smaller to 1% larger (measured on
# photographs and on what diffsr makes of them)
_PNG_LEVEL = 4


def _for_pillow(
    name: str, samples: np.ndarray, extras: Extras, quality: int | None
) -> tuple[Image.Image, dict[str, object]]:
    """uint8 samples as an image, and the options that it is saved with."""
    image = _image(samples)
    if name == "GIF":
        return _for_gif(image, samples, {"comment": extras.software} if extras.software else {})
    if name == "BMP":
        return image, {"dpi": extras.dpi or (96, 96)}
    carried = {"icc_profile": extras.icc, "exif": extras.exif, "dpi": extras.dpi}
    options: dict[str, object] = {key: value for key, value in carried.items() if value}
    if name == "PNG":
        text = PngInfo()
        if extras.software:
            add = text.add_text if extras.software.isascii() else text.add_itxt
            add("Software", extras.software)
        return image, {"pnginfo": text, "compress_level": _PNG_LEVEL, **options}
    options["quality"] = quality or (90 if name == "AVIF" else 95)
    if name == "JPEG":
        options["subsampling"] = 0
    elif name == "AVIF":
        options["subsampling"] = "4:0:0" if samples.shape[2] == 1 else "4:4:4"
    else:  # WebP; exact: without it, lossless too would change the colours under alpha 0
        options["lossless"] = options["exact"] = options["quality"] == 100
    return image, options


def _for_gif(
    image: Image.Image, samples: np.ndarray, options: dict[str, object]
) -> tuple[Image.Image, dict[str, object]]:
    channels = samples.shape[2]
    if channels in (1, 3):
        return image if channels == 1 else image.quantize(256), options
    colour = samples[..., :-1] if channels == 4 else samples[..., :1].repeat(3, 2)
    indices = _image(colour).quantize(255)  # the last one is for what is transparent
    indices.paste(255, mask=Image.fromarray(np.uint8(255) * (samples[..., -1] < 128)))
    return indices, {"transparency": 255, **options}
