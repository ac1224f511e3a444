"""All frames of an animation, as they are seen, or all pages of a TIFF, one after the other."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from upscale.errors import InputError
from upscale.image import apng, colour, exif, gif, tiff
from upscale.image.carried import carried
from upscale.image.decode import advised, decoded, explained, opened, plugin, turned_by
from upscale.image.formats import SEVERAL
from upscale.image.picture import Picture
from upscale.image.stored import Stored

_STORED = {"GIF": gif, "PNG": apng}  # put together here: Pillow blends some of theirs wrongly
_Timed = tuple[Picture, float]


@dataclass(frozen=True)
class Source:
    """What is read again and again. data: of a stream, which may come only once."""

    name: str
    data: bytes | None = None

    def opened(self) -> AbstractContextManager[BinaryIO]:
        return opened(self.name if self.data is None else io.BytesIO(self.data))


@dataclass(frozen=True)
class Film:
    """The frames or pages of a file, which is read again each time they are gone through; one at a
    time is in memory. Of a still picture there is one.

    kind          "frames" or "pages"
    first         the first of them
    sizes         (height, width) of each, upright; all equal but those of pages
    milliseconds  that each frame is shown; 0 for pages
    plays         how often the frames are shown, 0 for ever
    notes         what reading changed or left out, for the user
    reading       as for `decode.decoded`

    All frames have transparency if one has, and colour unless all are grey; pages are their own.
    """

    source: Source
    kind: str
    first: Picture
    sizes: tuple[tuple[int, int], ...]
    milliseconds: tuple[float, ...]
    plays: int
    alpha: bool
    grey: bool
    notes: tuple[str, ...]
    reading: tuple[bool, int]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Picture]:
        """Raises InputError where the file is not what it was when it was looked through."""
        if len(self) == 1:
            yield self.first
            return
        number = 0
        for number, (picture, _) in enumerate(_each(self.source, self.reading), 1):
            if picture.size != self.sizes[number - 1]:
                break
            yield self._alike(picture) if self.kind == "frames" else picture
            if number == len(self):
                return
        where = f"{self.kind[:-1]} {number}"
        raise InputError(f"{self.source.name}: changed while it was read, at {where}")

    def _alike(self, picture: Picture) -> Picture:
        alpha = picture.alpha
        if self.alpha and alpha is None:
            alpha = np.ones(picture.size, np.float32)
        return replace(picture, alpha=alpha, grey=self.grey)


def read_frames(
    source: str | Path | BinaryIO,
    *,
    allow_truncated: bool = False,
    max_pixels: int = 250_000_000,
    on_frame: Callable[[Picture], None] = lambda picture: None,
) -> Film:
    """Look through all frames of a GIF, PNG, WebP or AVIF, or all pages of a TIFF.

    allow_truncated: of a file that is damaged or cut short, take the frames before that. max_pixels
    is the limit of each. on_frame(picture) is called as each was looked at. Raises InputError,
    which names the source, or OutOfMemory.
    """
    reading = (allow_truncated, max_pixels)
    if isinstance(source, (str, Path)):
        given = Source(str(source))
    else:
        given = Source(getattr(source, "name", "the stream"), source.read())
    first, sizes, times, alpha, grey = None, [], [], False, True
    said: list[str] = []
    try:
        for picture, milliseconds in _each(given, reading):
            first = first or picture
            sizes.append(picture.size)
            times.append(milliseconds)
            alpha |= picture.alpha is not None
            grey &= picture.grey
            said += picture.notes
            on_frame(picture)
    except InputError as error:
        if first is None:
            raise
        many = f"{len(sizes)} {_kind(first)}" if len(sizes) > 1 else _kind(first)[:-1]
        there = f"the first {many} can be read"
        if not allow_truncated:
            raise InputError(
                f"{error}; {there}: get it again, or take what is there with --allow-truncated"
            ) from error
        said.append(f"the {first.format} is cut short or damaged: only {there}")
    kind = _kind(first)
    plays = _plays(given, first.format) if len(sizes) > 1 else 1
    film = Film(
        given, kind, first, tuple(sizes), tuple(times), plays, alpha, grey,
        tuple(dict.fromkeys(said)), reading,
    )  # fmt: skip
    return film if kind == "pages" or len(film) == 1 else replace(film, first=film._alike(first))


def _kind(picture: Picture) -> str:
    return "pages" if picture.format == "TIFF" else "frames"


def _plays(source: Source, format: str) -> int:
    with source.opened() as file, explained(source.name):
        if format in _STORED:
            return _STORED[format].plays(file) or 0
        return plugin(format)(file).info.get("loop", 0) if format == "WEBP" else 0


def _each(source: Source, reading: tuple[bool, int]) -> Iterator[_Timed]:
    """All frames or pages. The decoders' quiet lasts for one at a time."""
    with source.opened() as file:
        with explained(source.name):
            first = advised(file, None, *reading)
        steps = _steps(file, first, reading)
        while True:
            with explained(source.name):
                found = next(steps, None)
            if found is None:
                return
            yield found


def _steps(file: BinaryIO, first: Picture, reading: tuple[bool, int]) -> Iterator[_Timed]:
    format = first.format
    if format == "TIFF":
        offsets = tiff.pages(file)
        if len(offsets) > 1:
            for offset in offsets:
                yield decoded(tiff.page(file, offset), None, False, reading[1]), 0.0
            return
    elif format in _STORED and _is_moving(file, format):
        yield from _composed(_STORED[format].parts(file), file, first, reading[1])
        return
    elif format in SEVERAL - _STORED.keys():
        file.seek(0)
        im = plugin(format)(file)
        if getattr(im, "is_animated", False):
            taken = exif.taken(carried(file, format)[0].exif)
            yield from _by_pillow(im, first, turned_by(format, taken, im))
            return
    file.seek(0)
    yield decoded(file, "error", *reading), 0.0  # the first of what cannot be gone through


def _is_moving(file: BinaryIO, format: str) -> bool:
    if format == "PNG":
        return apng.plays(file) is not None
    frames = gif.parts(file)
    try:
        return next(frames, None) is not None and next(frames, None) is not None
    except InputError:  # where one frame alone was meant to be there, `decoded` has the words
        file.seek(0)
        return plugin(format)(file).is_animated


def _by_pillow(im: Any, first: Picture, orientation: int) -> Iterator[_Timed]:
    """Frames that their library puts together."""
    for number in range(im.n_frames):
        im.seek(number)
        im.load()
        plain, _, _ = colour.plain(im, None)
        rgb, alpha = colour.upright(colour.planes(plain)[:2], orientation)
        opaque = alpha is None or alpha.min() == 1
        taken = replace(first, rgb=rgb, alpha=None if opaque else alpha)
        yield taken, float(im.info.get("duration", 0))


def _composed(
    parts: Iterator[Stored], file: BinaryIO, first: Picture, max_pixels: int
) -> Iterator[_Timed]:
    """What is seen of each frame, as browsers show it: on a transparent ground."""
    file_says = carried(file, first.format)[0]
    orientation = exif.taken(file_says.exif).orientation
    size = first.size[::-1] if orientation > 4 else first.size
    rgb, alpha = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    for part in parts:
        piece = decoded(io.BytesIO(part.data), None, False, max_pixels)
        top, left = part.at
        room = zip(piece.size, size, part.at, strict=True)
        down, across = (max(0, min(own, side - at)) for own, side, at in room)
        place = slice(top, top + down), slice(left, left + across)
        before = rgb[place].copy(), alpha[place].copy()
        shown = np.ones(piece.size, np.float32) if piece.alpha is None else piece.alpha
        rgb[place], alpha[place] = _laid(
            before, (piece.rgb[:down, :across], shown[:down, :across]), part.over
        )
        seen = colour.upright((rgb.copy(), alpha.copy()), orientation)
        opaque = bool(seen[1].min() == 1)
        yield (
            replace(
                first, rgb=seen[0], alpha=None if opaque else seen[1], grey=piece.grey,
                bits=piece.bits,
            ),
            part.milliseconds,
        )  # fmt: skip
        if part.disposal == "clear":
            rgb[place], alpha[place] = 0, 0
        elif part.disposal == "restore":
            rgb[place], alpha[place] = before


def _laid(
    below: tuple[np.ndarray, np.ndarray], above: tuple[np.ndarray, np.ndarray], over: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, alpha), straight, on or in the place of others (Porter and Duff 1984)."""
    (rgb, alpha), (new, share) = below, above
    if not over:
        return new, share
    left = alpha * (1 - share)
    total = share + left
    mixed = new * share[..., None] + rgb * left[..., None]
    with np.errstate(invalid="ignore"):
        mixed = mixed / total[..., None]
    mixed = np.where((share == 1)[..., None], new, np.where((total > 0)[..., None], mixed, rgb))
    return mixed.astype(np.float32), total
