"""Items become pictures: all in memory, or one at a time.

What cannot be read is named and left out, or the next item takes its place: which one that is
depends on the items alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from upscale.errors import DiffsrError, InputError
from upscale.image.decode import read, size_of
from upscale.train.sources import Items, Say

T = TypeVar("T")

MOST_SKIPS = 100  # in a row: then the data are not what they should be


def decode(items: Items, index: int, smallest: int = 1) -> np.ndarray:
    """Item `index` as uint8 (H,W,3). InputError, also where a side is below `smallest`."""
    item = items[index]
    pixels = np.round(read(item.open()).rgb * 255).astype(np.uint8)
    if min(pixels.shape[:2]) < smallest:
        raise _small(item.name, pixels.shape[:2], smallest)
    return pixels


def _small(name: str, size: tuple[int, int], smallest: int) -> InputError:
    return InputError(f"{name}: {size[1]}x{size[0]} is smaller than an example ({smallest})")


def load(items: Items, say: Say, smallest: int = 1) -> list[np.ndarray]:
    """All pictures in memory; those that cannot be read are named and left out."""
    found = _each(items, lambda index: decode(items, index, smallest), say)
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

    def __getitem__(self, index: int) -> np.ndarray:
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


def headers(items: Items, say: Say, smallest: int = 1) -> tuple[list[int], np.ndarray]:
    """(indices of the pictures whose header can be read and is large enough, their areas)."""

    def size(index: int) -> tuple[int, int]:
        found = size_of(items[index].open())
        if min(found) < smallest:
            raise _small(items[index].name, found, smallest)
        return found

    sizes = _each(items, size, say)
    kept = [index for index, found in enumerate(sizes) if found is not None]
    return kept, np.array([sizes[i][0] * sizes[i][1] for i in kept], dtype=np.int64)


def _each(items: Items, one: Callable[[int], T], say: Say) -> list[T | None]:
    """one(index) of every item, in threads; None where it fails, which is said and counted."""
    number = itertools.count(1)

    def attempt(index: int) -> T | None:
        try:
            return one(index)
        except DiffsrError as error:
            say(f"skipped ({next(number)}): {error}")
            return None

    with ThreadPoolExecutor() as pool:
        return list(pool.map(attempt, range(len(items))))
