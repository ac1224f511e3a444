"""Items become pictures: all in memory, or one at a time.

What cannot be read is named and left out, or the next item takes its place: which one that is
depends on the items alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

from upscale.errors import DiffsrError, InputError
from upscale.image.decode import read, size_of
from upscale.image.folders import Size, fitting
from upscale.train.sources import Files, Item, Items, Say

T = TypeVar("T")
OnRead = Callable[[str, int, int], None]  # (what is done, number of pictures, of how many)


def unseen(what: str, done: int, of: int) -> None:
    """Shows nobody what is read."""


MOST_SKIPS = 100  # in a row: then the data are not what they should be


class Pair(NamedTuple):
    """A picture and its small version, uint8 (H,W,3) and (h,w,3), the sides of one a multiple of
    the other's."""

    hr: np.ndarray
    lr: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.hr.shape

    @property
    def nbytes(self) -> int:
        return self.hr.nbytes + self.lr.nbytes


def decode(items: Items, index: int, smallest: int = 1) -> np.ndarray | Pair:
    """Item `index` as uint8 (H,W,3). InputError, also where a side is below `smallest`."""
    item = items[index]
    pixels = _pixels(item.open())
    if min(pixels.shape[:2]) < smallest:
        raise _small(item.name, pixels.shape[:2], smallest)
    if item.small is None:
        return pixels
    lr = _pixels(item.small)
    height, width = _used(item, pixels.shape[:2], lr.shape[:2])
    return Pair(pixels[:height, :width], lr)


def _pixels(source: Path | BinaryIO) -> np.ndarray:
    return np.round(read(source).rgb * 255).astype(np.uint8)


def _used(item: Item, size: Size, small: Size | None) -> Size:
    """What a picture is cut to, where it has a small version. InputError."""
    if small is None:
        return size
    return fitting(item.small, small, Path(item.name), size, item.scale)


def _small(name: str, size: tuple[int, int], smallest: int) -> InputError:
    return InputError(f"{name}: {size[1]}x{size[0]} is smaller than an example ({smallest})")


def load(
    items: Items, say: Say, smallest: int = 1, on_read: OnRead = unseen
) -> list[np.ndarray | Pair]:
    """All pictures in memory; those that cannot be read are named and left out."""
    found = _each(items, lambda index: decode(items, index, smallest), say, "decoding", on_read)
    return [picture for picture in found if picture is not None]


class Streamed:
    """Pictures that are decoded each time they are wanted, a sequence like a list of them.

    areas: of each in pixels where the headers were read, else None. skipped: what could not be
    read since the last call of `take_skipped`.
    """

    def __init__(self, items: Items, smallest: int = 1, areas: np.ndarray | None = None) -> None:
        self.items, self.smallest, self.areas = items, smallest, areas
        self._skipped: list[str] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> np.ndarray | Pair:
        """The picture or, where it cannot be read, the next that can."""
        tries = min(len(self), MOST_SKIPS)
        for step in range(tries):
            try:
                return decode(self.items, (index + step) % len(self), self.smallest)
            except DiffsrError as error:
                self._skipped.append(str(error))
        raise InputError(
            f"{tries} pictures one after the other cannot be used; the last: {self._skipped[-1]}"
        )

    def take_skipped(self) -> tuple[str, ...]:
        """What was skipped since the last call."""
        skipped, self._skipped = tuple(self._skipped), []
        return skipped


def headers(
    items: Items, say: Say, smallest: int = 1, on_read: OnRead = unseen
) -> tuple[list[int], np.ndarray]:
    """(indices of the pictures whose header can be read and is large enough, their areas).
    InputError for a pair whose sizes do not go together."""

    def sizes(index: int) -> tuple[Size, Size | None]:
        item = items[index]
        found, small = size_of(item.open()), item.small and size_of(item.small)
        if min(found) < smallest:
            raise _small(item.name, found, smallest)
        if small and (found[0] < found[1]) != (small[0] < small[1]):
            small = small[::-1]  # one of the two lies on its side in its file
        return found, small

    found = _each(items, sizes, say, "looking at sizes", on_read)
    kept = [index for index, size in enumerate(found) if size is not None]
    areas = [math.prod(_used(items[index], *found[index])) for index in kept]
    return kept, np.array(areas, dtype=np.int64)


def paired(pictures: Sequence[np.ndarray | Pair] | Streamed) -> bool:
    """Whether a source's pictures have small versions of their own."""
    if isinstance(pictures, Streamed):
        return isinstance(pictures.items, Files) and bool(pictures.items.inputs)
    return bool(pictures) and isinstance(pictures[0], Pair)


def _each(
    items: Items, one: Callable[[int], T], say: Say, what: str, on_read: OnRead
) -> list[T | None]:
    """one(index) of every item, in threads; None where it fails, which is said and counted."""
    number = itertools.count(1)

    def attempt(index: int) -> T | None:
        try:
            return one(index)
        except DiffsrError as error:
            say(f"skipped ({next(number)}): {error}")
            return None

    found: list[T | None] = []
    pool = ThreadPoolExecutor()
    try:
        for result in pool.map(attempt, range(len(items))):
            found.append(result)
            on_read(what, len(found), len(items))
    finally:
        pool.shutdown(cancel_futures=True)
    return found
