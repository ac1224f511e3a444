"""Parts of pictures for people who compare: where two pictures differ most, cut out to be shown."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from upscale.image.colour import to_srgb
from upscale.image.picture import Picture, quantised
from upscale.image.resize import part_resized

Window: TypeAlias = "tuple[slice, slice]"  # rows and columns of a picture

_STRIDE = 8  # pixels between the windows that are tried
_ROWS = 256  # that are looked at at a time: all of a large picture would be there three times


def starts(length: int, side: int, scale: float) -> np.ndarray:
    """Where windows of `side` begin along an axis: at a whole scale where a pixel of the input
    does."""
    step = math.ceil(_STRIDE / scale) * scale
    return np.unique(np.arange(0, length - side + 1, step).astype(int))


def sums(
    plane: np.ndarray, tops: np.ndarray, lefts: np.ndarray, height: int, width: int
) -> np.ndarray:
    """The sums of a plane (H,W) over windows of height x width, by their tops and lefts."""
    whole = np.pad(plane, ((1, 0), (1, 0))).cumsum(0, dtype=np.float64).cumsum(1)
    rows, columns = tops[:, None], lefts[None]
    below, right = rows + height, columns + width
    return whole[below, right] - whole[rows, right] - whole[below, columns] + whole[rows, columns]


@dataclass(frozen=True, eq=False)
class Place:
    """A window of a result with what is there, in bytes of sRGB; difference: mean squared, of
    [0,1], from the input enlarged by bicubic."""

    window: Window
    difference: float
    cut: np.ndarray


class Places:
    """The places, `count` at most and apart from each other, in which a result of `size` differs
    most from its input `lr` enlarged by bicubic. The result comes in bands of rows, from the top;
    of each only what a window needs is kept."""

    def __init__(self, lr: Picture, size: tuple[int, int], side: int, count: int) -> None:
        self.lr, self.size, self.count = lr, size, count
        self.found: list[Place] = []
        self._small = on_white(lr)
        self._sides = min(side, size[0]), min(side, size[1])
        self._tops, self._lefts = (
            starts(n, m, n / small) for n, m, small in zip(size, self._sides, lr.size, strict=True)
        )
        self._next = self._row = 0  # of _tops, the first not tried; rows that came
        self._errors = np.empty((0, size[1]), np.float32)  # of the last rows, and the rows
        self._pixels = np.empty((0, size[1], 3), np.uint8)

    def add(self, band: Picture) -> None:
        """The next rows of the result."""
        for rows in _some_rows(band.size[0]):
            rgb = on_white(band, rows)
            across = slice(0, self.size[1])
            here = slice(self._row, self._row + len(rgb))
            plain = part_resized(self._small, self.size, (here, across)).clip(0, 1)
            self._errors = np.concatenate([self._errors, ((rgb - plain) ** 2).mean(2)])
            self._pixels = np.concatenate([self._pixels, quantised(rgb, 8)])
            self._row = here.stop
            self._try(band.icc)

    def _try(self, icc: bytes | None) -> None:
        """Look at the windows that end within the rows that came, and let go of what is done."""
        first = self._row - len(self._errors)
        height, width = self._sides
        last = int(np.searchsorted(self._tops, self._row - height, "right"))
        tops = self._tops[self._next : last]
        if len(tops):
            scores = sums(self._errors, tops - first, self._lefts, height, width)
            for y, x in _best(scores, tops, self._lefts, self._sides, self.count):
                rows, columns = (slice(int(n), int(n) + side) for n, side in
                                 ((tops[y], height), (self._lefts[x], width)))  # fmt: skip
                cut = self._pixels[rows.start - first : rows.stop - first, columns]
                score = float(scores[y, x]) / (height * width)
                self.found.append(Place((rows, columns), score, as_srgb(cut.copy(), icc)))
            self._next = last
            self.found = _apart(self.found, self.count)
        keep = self._row - first
        if self._next < len(self._tops):
            keep = self._row - max(first, int(self._tops[self._next]))
        done = len(self._errors) - keep
        self._errors, self._pixels = self._errors[done:].copy(), self._pixels[done:].copy()


class Cuts:
    """What another result has at some windows, in bytes of sRGB; it comes in bands from the top."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows, self._row = windows, 0
        self._parts: list[list[np.ndarray]] = [[] for _ in windows]

    def add(self, band: Picture) -> None:
        """The next rows of the result."""
        first, self._row = self._row, self._row + band.size[0]
        for (rows, columns), parts in zip(self._windows, self._parts, strict=True):
            here = slice(max(rows.start, first) - first, min(rows.stop, self._row) - first)
            if here.start < here.stop:
                rgb = on_white(band, here, columns)
                parts.append(as_srgb(quantised(rgb, 8), band.icc))

    @property
    def found(self) -> list[np.ndarray]:
        """A cut for each window."""
        return [np.concatenate(parts) for parts in self._parts]


def enlarged(lr: Picture, size: tuple[int, int], window: Window, *, nearest: bool) -> np.ndarray:
    """What an input enlarged to `size` by nearest neighbour or bicubic has at a window, in bytes
    of sRGB."""
    rgb = part_resized(on_white(lr), size, window, nearest=nearest)
    return as_srgb(quantised(rgb, 8), lr.icc)


def on_white(
    picture: Picture, rows: slice = slice(None), columns: slice = slice(None)
) -> np.ndarray:
    """float32 (h,w,3): a part of a picture as it looks on white."""
    rgb = picture.rgb[rows, columns]
    if picture.alpha is None:
        return rgb
    alpha = picture.alpha[rows, columns, None]
    return rgb * alpha + (1 - alpha)


def as_srgb(cut: np.ndarray, icc: bytes | None) -> np.ndarray:
    """Bytes (H,W,3) whose colours a profile says, as any screen shows them."""
    made = to_srgb(cut, icc) if icc else None
    return cut if made is None else made


def as_webp(cut: np.ndarray) -> bytes:
    """Bytes (H,W,3) as a file, without loss."""
    content = io.BytesIO()
    # a tenth of the time of the best compression, for files 3% larger
    Image.fromarray(cut).save(content, "WEBP", lossless=True, method=1, quality=20)
    return content.getvalue()


def _some_rows(count: int) -> Iterator[slice]:
    for top in range(0, count, _ROWS):
        yield slice(top, min(top + _ROWS, count))


def _best(
    scores: np.ndarray, tops: np.ndarray, lefts: np.ndarray, sides: tuple[int, int], count: int
) -> Iterator[tuple[int, int]]:
    """The highest scores' places in the table, whose windows do not overlap."""
    left = scores.copy()
    for _ in range(count):
        y, x = np.unravel_index(left.argmax(), left.shape)
        if left[y, x] < 0:
            return
        yield int(y), int(x)
        near = np.abs(tops - tops[y]) < sides[0], np.abs(lefts - lefts[x]) < sides[1]
        left[np.ix_(*near)] = -1


def _apart(places: list[Place], count: int) -> list[Place]:
    """The best of them, none over another."""
    kept: list[Place] = []
    for one in sorted(places, key=lambda place: -place.difference):
        clear = (
            any(a.stop <= b.start or b.stop <= a.start
                for a, b in zip(one.window, other.window, strict=True))
            for other in kept
        )  # fmt: skip
        if len(kept) < count and all(clear):
            kept.append(one)
    return kept
