"""The size of a picture from its header alone."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from upscale.errors import InputError
from upscale.image import tiff
from upscale.image.formats import alien, sniff
from upscale.image.reading import _HEAD, _opened, _plugin, _quietly


def size_of(source: str | Path | BinaryIO) -> tuple[int, int]:
    """(height, width) as stored, not turned by EXIF. Raises InputError, which names the source."""
    name = source if isinstance(source, (str, Path)) else getattr(source, "name", "the stream")
    with _opened(source) as file, _quietly():
        try:
            head = file.read(_HEAD)
            file.seek(0)
            format = sniff(head)
            if format is None:
                raise InputError(alien(head) if head else "the file is empty; get it again")
            if format == "TIFF":
                return tiff.header(file).size
            with _plugin(format)(file) as im:
                return im.height, im.width
        except InputError as error:
            raise InputError(f"{name}: {error}") from error.__cause__
        except Exception as error:  # decoders raise whatever they stumble over in a damaged file
            raise InputError(f"{name}: the file is damaged ({error}); get it again") from error
