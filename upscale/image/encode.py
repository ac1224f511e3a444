"""A Picture becomes a file: all of it, or nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from upscale import atomic
from upscale.errors import DiffsrError, NumericalError, OutOfMemory, OutputError, UsageError
from upscale.image import colour, exif, gif, jpeg, png16, pnm, profile, tiff, xmp
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
    same: bool = False,
) -> list[str]:
    """Encode `picture` and put it at `target`; returns what could not be kept, for the user.

    format    a name from formats.FORMATS; without it the target's suffix tells
    quality   1..100 for JPEG (95, always 4:4:4), WebP (95; 100 is lossless) and AVIF (90)
    strip     leave out EXIF, colour profile, resolution and comment
    comment   provenance: the text "Software" of a PNG, the EXIF tag of others
    check     called just before a file gets its name: what it raises is passed on
    same      a file that has the name already and the same bytes will do
    A file appears under its name at once and complete; folders are made; a failure of any kind
    leaves nothing behind. 16 bits are written where picture.bits is 16 and the format has them.
    Alpha is laid on white where the format has none (JPEG, BMP, PPM); GIF's is all or nothing.
    Raises OutputError, DiskFull, UsageError or, for pixels that are no numbers, NumericalError.
    """
    checked_quality(quality)
    is_path = isinstance(target, (str, Path))
    if format is None and not is_path:
        raise OutputError("a stream has no suffix to tell the format; name one: --format png")
    name = canonical(format) if format else format_of(str(target))
    if is_path and not overwrite and not same:
        atomic.check_free(Path(target))
    notes = check_format(name, picture.size, picture.bits, alpha=picture.alpha is not None)
    with encoding(name):
        samples = samples_of(picture, name)
        extras, left_out = extras_of(picture, picture.size, name, strip, comment)
        data = encoded(name, samples, extras, quality)
        notes += left_out
    if is_path:
        with atomic.placed(Path(target), overwrite=overwrite, check=check, same=same) as file:
            file.write(data)
    else:
        atomic.send(data, target)
    return notes


def checked_quality(quality: int | None) -> None:
    """Raises UsageError."""
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality is {quality}; it goes from 1 to 100")


@contextmanager
def encoding(name: str) -> Iterator[None]:
    """Whatever an encoder finds wrong with pixels or metadata becomes one of our errors."""
    try:
        yield
    except DiffsrError:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"not enough memory to encode the {name}") from error
    except Exception as error:
        if atomic.full(error):  # of a disk that the encoder writes to
            raise
        raise OutputError(f"{name} cannot be encoded; try PNG") from error


def encoded(name: str, samples: np.ndarray, extras: Extras, quality: int | None) -> memoryview:
    """The bytes of a file with `samples_of` a picture."""
    data = io.BytesIO()
    _encode(name, data, samples, extras, quality)
    return data.getbuffer()


def _encode(
    name: str, file: BinaryIO, samples: np.ndarray, extras: Extras, quality: int | None
) -> None:
    if name in ("TIFF", "PPM") or samples.dtype == np.uint16:
        writer = _ROWS[name](file, samples.shape[:2], samples.shape[2], samples.dtype, extras)
        writer.add(samples)
        writer.close()
    else:
        image, options = _for_pillow(name, samples, extras, quality)
        if name not in _SPLICED:
            image.save(file, name, **options)
            return
        plain = io.BytesIO()
        image.save(plain, name, **options)
        data = plain.getbuffer()
        head, rest = _SPLICED[name](data, extras)
        file.write(head)
        file.write(data[rest:])


# formats whose extras are put in beside Pillow, which has no words for some and loses bytes of some
_SPLICED = {"PNG": png16.head_of, "JPEG": jpeg.head_of, "GIF": gif.head_of}


# what is said of a field that a format cannot hold
_WORDS = {
    "icc": "the colour profile", "exif": "EXIF", "xmp": "XMP", "iptc": "IPTC",
    "comments": "the comment", "texts": "the PNG's texts", "dpi": "the resolution",
    "aspect": "pixels that are not square",
}  # fmt: skip


def extras_of(
    picture: Picture, size: tuple[int, int], name: str, strip: bool, comment: str | None
) -> tuple[Extras, list[str]]:
    """What goes along with a picture like `picture`, but of `size`; and what cannot."""
    if strip:
        return Extras(), []
    holds, notes = FORMATS[name].holds, []
    found = {field: getattr(picture, field) for field in (*_WORDS, "colours")}
    if found["xmp"]:
        found["xmp"] = xmp.updated(found["xmp"], size)
    # what an earlier run said of itself
    found["texts"] = tuple(t for t in found["texts"] if not t[1].startswith(b"Software\0diffsr "))
    found["icc"], found["colours"], said = _colours(picture, name)
    notes += said
    if name == "JPEG" and found["dpi"] and not jpeg.density(found["dpi"]):
        holds -= {"dpi"}
    for field, words in _WORDS.items():
        if found[field] and field not in holds:
            if field == "texts":
                keywords = [data.split(b"\0")[0].decode("latin-1") for _, data in found["texts"]]
                words += f" ({', '.join(dict.fromkeys(keywords))})"
            if field != "icc":  # of which `_colours` has spoken
                notes.append(f"{name} cannot hold {words}: left out")
            found[field] = () if isinstance(found[field], tuple) and field != "dpi" else None
    if "exif" in holds:
        made = exif.updated(
            found["exif"],
            size,
            None if name == "PNG" else comment,  # PNG has a text for the software
            dpi=found["dpi"],
            aspect=found["aspect"],
            needed=name in ("WEBP", "AVIF"),
            for_jpeg=name == "JPEG",
            turned_tag=name != "AVIF",
        )
        if found["exif"] and not made:
            notes.append(f"{name} cannot hold so long an EXIF block: it was left out")
        elif exif.has_makers_note(found["exif"]) and not exif.has_makers_note(made):
            notes.append(f"{name} cannot hold so long an EXIF block: the maker's note was left out")
        found["exif"] = made
    extras = Extras(**found, software=comment)
    if name == "JPEG" and max(map(len, extras.comments), default=0) > jpeg.MOST:
        notes.append(f"JPEG cannot hold so long {_WORDS['comments']}: left out")
        extras = replace(extras, comments=())
    return extras, notes


def _colours(
    picture: Picture, name: str
) -> tuple[bytes | None, tuple[tuple[bytes, bytes], ...], list[str]]:
    """The profile to write, what a PNG says of its colours besides, and notes."""
    icc, chunks, holds, notes = picture.icc, picture.colours, FORMATS[name].holds, []
    if "icc" not in holds:
        if icc:
            usable = (
                colour.to_srgb(np.zeros((1, 1, 1 if _grey(picture, name) else 3), np.uint8), icc)
                is not None
            )
            done = "the colours were converted to sRGB" if usable else "it was left out"
            done += ", in 8 bits" if picture.bits == 16 and FORMATS[name].deep else ""
            notes.append(f"{name} cannot hold the colour profile: {done}")
        return None, (), notes
    if chunks:
        made, words = profile.of_chunks(chunks, picture.grey)
        if icc == made:
            if "colours" in holds:
                return None, chunks, []
            if made:
                notes.append(f"{name} cannot hold {words}: a colour profile was made of it")
    fitting = profile.fitted(icc, _grey(picture, name)) if icc else None
    if icc and not fitting:
        notes.append(f"{name} cannot hold the colour profile: it was left out")
    return fitting, chunks if "colours" in holds else (), notes


def _grey(picture: Picture, name: str) -> bool:
    """Whether one channel is written: WebP has no grey, AVIF and TGA none with alpha, and some
    profiles are for colours alone."""
    alpha = picture.alpha is not None and FORMATS[name].alpha
    if not picture.grey or name == "WEBP" or (name in ("AVIF", "TGA") and alpha):
        return False
    return picture.icc is None or profile.fitted(picture.icc, grey=True) is not None


def samples_of(picture: Picture, name: str) -> np.ndarray:
    """uint8 or uint16 (H,W,1..4), as in L, LA, RGB or RGBA, of the kinds `name` can hold."""
    rgb, alpha = picture.rgb, picture.alpha
    if not np.isfinite(rgb).all() or (alpha is not None and not np.isfinite(alpha).all()):
        raise NumericalError("the picture holds pixels that are not numbers; nothing was written")
    if alpha is not None and not FORMATS[name].alpha:
        rgb, alpha = rgb * alpha[..., None] + (1 - alpha[..., None]), None
    # no channel of a grey picture is privileged
    colours = rgb.mean(2, keepdims=True) if _grey(picture, name) else rgb
    spent = picture.icc and "icc" not in FORMATS[name].holds  # by colours made sRGB, in 8 bits
    bits = picture.bits if FORMATS[name].deep and not spent else 8
    samples = quantised(colours, bits)
    if spent:
        converted = colour.to_srgb(samples, picture.icc)
        samples = samples if converted is None else converted
    if alpha is None:
        return samples
    return np.concatenate([samples, quantised(alpha, bits)[..., None]], 2)


_ROWS = {"PNG": png16.Writer, "TIFF": tiff.Writer, "PPM": pnm.Writer}
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
    same: bool = False,
) -> Iterator[Callable[[Picture, str | None], list[str]]]:
    """A function that takes a picture of `size` (height, width) in bands of whole rows, from the
    top, each with the comment, and writes them as they come; it returns what could not be kept.

    For the formats in STREAMED. The file gets its name at the end; everything else as `write`.
    """
    name, writer = canonical(format), None
    if not overwrite and not same:
        atomic.check_free(target)
    with atomic.placed(target, overwrite=overwrite, check=check, same=same) as file:

        def add(band: Picture, comment: str | None) -> list[str]:
            nonlocal writer
            notes: list[str] = []
            samples = samples_of(band, name)
            if writer is None:
                extras, notes = extras_of(band, size, name, strip, comment)
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
        return _for_gif(image, samples)
    if name == "BMP":
        return image, {"dpi": extras.dpi or (0, 0)}
    if name == "TGA":
        said = (extras.software or "").encode("ascii", "replace")[:255]
        return image, {"id_section": said}
    if name == "PNG":
        return image, {"compress_level": _PNG_LEVEL}
    options: dict[str, object] = {"quality": quality or (90 if name == "AVIF" else 95)}
    if name == "JPEG":
        return image, {"subsampling": 0, **options}
    carried = {"icc_profile": extras.icc, "exif": extras.exif, "xmp": extras.xmp}
    options |= {key: value for key, value in carried.items() if value}
    if name == "AVIF":
        options["subsampling"] = "4:0:0" if samples.shape[2] == 1 else "4:4:4"
    else:  # WebP; exact: without it, lossless too would change the colours under alpha 0
        options["lossless"] = options["exact"] = options["quality"] == 100
    return image, options


def _for_gif(image: Image.Image, samples: np.ndarray) -> tuple[Image.Image, dict[str, object]]:
    channels = samples.shape[2]
    if channels in (1, 3):
        return image if channels == 1 else image.quantize(256), {}
    colour = samples[..., :-1] if channels == 4 else samples[..., :1].repeat(3, 2)
    indices = _image(colour).quantize(255)  # the last one is for what is transparent
    indices.paste(255, mask=Image.fromarray(np.uint8(255) * (samples[..., -1] < 128)))
    return indices, {"transparency": 255}
