"""Frames or pages become one file, one after the other: all of it, or nothing."""

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
from upscale.errors import UsageError
from upscale.image import apng, exif, gif, tiff, webp
from upscale.image.encode import checked_quality, encoded, encoding, extras_of, samples_of
from upscale.image.formats import canonical, check_format, check_several, format_of
from upscale.image.frames_in import Film
from upscale.image.picture import Extras, Picture
from upscale.image.stored import ONE, changed, whole

_CLEAR = np.zeros((1, 1, 4), np.uint8)

# takes a frame, or a band of whole rows of one, the (height, width) of the frame and the comment;
# returns what could not be kept
Add = Callable[[Picture, "tuple[int, int]", "str | None"], "list[str]"]


@contextmanager
def write_frames(
    target: str | Path | BinaryIO,
    film: Film,
    *,
    format: str | None = None,
    quality: int | None = None,
    strip: bool = False,
    overwrite: bool = False,
    check: Callable[[], None] | None = None,
    same: bool = False,
) -> Iterator[Add]:
    """A function that takes what was made of each frame or page of `film`, in its order, each whole
    or in bands of rows from the top, and writes it. Timing and number of plays are the film's.

    The file gets its name at the end; everything else as `encode.write`. What of one frame is as it
    was in the one before is not written again.
    """
    checked_quality(quality)
    is_path = isinstance(target, (str, Path))
    name = canonical(format) if format else format_of(str(target))
    check_several(name, film.kind)
    if is_path and not overwrite and not same:
        atomic.check_free(Path(target))
    whole_file = io.BytesIO() if not is_path or atomic.is_special(Path(target)) else None
    if whole_file is not None:
        with _adding(whole_file, film, name, quality, strip, None) as add:
            yield add
        if is_path:
            with open(target, "wb") as stream:
                atomic.send(whole_file.getbuffer(), stream)
        else:
            atomic.send(whole_file.getbuffer(), target)
        return
    path = Path(target)
    with (
        atomic.placed(path, overwrite=overwrite, check=check, same=same) as file,
        _adding(file, film, name, quality, strip, path.parent) as add,
    ):
        yield add


@contextmanager
def _adding(
    file: BinaryIO, film: Film, name: str, quality: int | None, strip: bool, folder: Path | None
) -> Iterator[Add]:
    """As `write_frames`, into an open file. folder: for what waits."""
    output = (_Pages if name == "TIFF" else _Moving)(file, film, name, quality, folder)
    rows = number = 0
    extras = Extras()

    def add(band: Picture, size: tuple[int, int], comment: str | None) -> list[str]:
        nonlocal rows, number, extras
        notes: list[str] = []
        with encoding(name):
            if rows == 0:
                notes += check_several(name, film.kind)
                extras, said = extras_of(band, size, name, strip, comment)
                notes += said
                notes += check_format(name, size, band.bits, alpha=band.alpha is not None)
            output.add(samples_of(band, name), size, extras)
            rows += band.size[0]
            if rows == size[0]:
                output.end()
                rows, number = 0, number + 1
        return notes

    try:
        yield add
        if number < len(film):
            raise UsageError(f"{number} of {len(film)} {film.kind} were given to be written")
        with encoding(name):
            output.close()
    except BaseException:
        output.discard()
        raise


class _Pages:
    """A TIFF of several pages, each in rows as they come."""

    def __init__(
        self, file: BinaryIO, film: Film, name: str, quality: int | None, folder: Path | None
    ) -> None:
        self._file, self._left, self._folder = file, len(film), folder
        self._page: tiff.Writer | None = None
        self._at, self._order = 0, ""

    def add(self, samples: np.ndarray, size: tuple[int, int], extras: Extras) -> None:
        if self._page is None:
            self._left -= 1
            order = exif.tags_of(extras.exif)[0]
            self._order = self._order or order  # all pages have one
            if extras.exif and order != self._order:
                extras = replace(extras, exif=exif.reordered(extras.exif, self._order))
            kind = (samples.shape[2], samples.dtype, extras)
            more = {"base": self._at, "more": self._left > 0, "order": self._order}
            self._page = tiff.Writer(self._file, size, *kind, self._folder, **more)
        self._page.add(samples)

    def end(self) -> None:
        self._page.close()
        self._at, self._page = self._page.end, None

    def close(self) -> None:
        pass

    def discard(self) -> None:
        if self._page is not None:
            self._page.discard()


class _Moving:
    """An animation. Of each frame that part is written which differs from the one before."""

    def __init__(
        self, file: BinaryIO, film: Film, name: str, quality: int | None, folder: Path | None
    ) -> None:
        self._file, self._film, self._name = file, film, name
        self._quality, self._folder = quality, folder
        self._bands: list[np.ndarray] = []
        self._before: np.ndarray | None = None  # the last frame
        self._palette: Image.Image | None = None
        self._number = 0
        self._size, self._extras = (0, 0), Extras()
        self._writer: apng.Writer | webp.Writer | gif.Writer | None = None

    def add(self, samples: np.ndarray, size: tuple[int, int], extras: Extras) -> None:
        self._bands.append(samples)
        if self._writer is None:
            self._size, self._extras = size, extras

    def end(self) -> None:
        frame = self._bands[0] if len(self._bands) == 1 else np.concatenate(self._bands)
        self._bands = []
        film, name = self._film, self._name
        first, self._number = self._writer is None, self._number + 1
        milliseconds = film.milliseconds[self._number - 1]
        if name == "GIF":
            frame = self._indices(frame)
        if first or (name == "GIF" and film.alpha):
            area = whole(frame)
        else:
            area = changed(self._before, frame, even=name == "WEBP")
        self._before = frame
        self._writer = self._writer or self._begun(frame)
        if area is None and isinstance(self._writer, webp.Writer):
            self._writer.add_nothing(encoded(name, _CLEAR, Extras(), 100), milliseconds)
            return
        area = area or ONE
        if isinstance(self._writer, gif.Writer):
            self._writer.add(frame, area, milliseconds)
            return
        extras = self._extras if first else Extras()
        part = np.ascontiguousarray(area.of(frame))
        self._writer.add(encoded(name, part, extras, self._quality), area, milliseconds)

    def _begun(self, frame: np.ndarray) -> apng.Writer | webp.Writer | gif.Writer:
        film, file = self._film, self._file
        if self._name == "PNG":
            return apng.Writer(file, len(film), film.plays)
        if self._name == "WEBP":
            return webp.Writer(file, self._size, film.alpha, film.plays, self._folder)
        shown = Image.fromarray(frame)
        if self._palette is not None:
            shown.putpalette(self._palette.getpalette())
        return gif.Writer(file, self._extras, shown, film.alpha, film.plays)

    def _indices(self, samples: np.ndarray) -> np.ndarray:
        """uint8 (H,W,C) -> (H,W): the nearest colours of one palette for all frames, made of the
        film's own, so that what stands still does not change its colour."""
        channels = samples.shape[2]
        if channels == 1:
            return samples[..., 0]
        alpha = channels in (2, 4)
        if self._palette is None:
            each = max(32, gif.SAMPLED // len(self._film))
            colours = [_some(samples_of(frame, "GIF"), each) for frame in self._film]
            self._palette = gif.palette_of(colours, gif.TRANSPARENT if alpha else 256)
        image = Image.fromarray(np.ascontiguousarray(_colours(samples)))
        indices = np.array(image.quantize(palette=self._palette, dither=Image.Dither.NONE))
        if alpha:
            indices[samples[..., -1] < 128] = gif.TRANSPARENT
        return indices

    def close(self) -> None:
        self._writer.close()

    def discard(self) -> None:
        if isinstance(self._writer, webp.Writer):
            self._writer.discard()


def _colours(samples: np.ndarray) -> np.ndarray:
    """The colours (H,W,3) of samples."""
    return samples[..., :3] if samples.shape[2] > 2 else samples[..., :1].repeat(3, 2)


def _some(samples: np.ndarray, most: int) -> np.ndarray:
    """About as many of the visible colours, (n,3), evenly spread."""
    flat = samples.reshape(-1, samples.shape[2])
    if samples.shape[2] in (2, 4):
        flat = flat[flat[:, -1] >= 128]
    flat = flat[:: max(1, len(flat) // most)]
    return _colours(flat[None])[0].copy()  # a view would keep all pixels
