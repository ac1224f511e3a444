"""Files that are made of others as they are read."""

from __future__ import annotations

import io
from bisect import bisect_right
from typing import BinaryIO


class View(io.RawIOBase):
    """Of a length, seekable. `_made(at, most)` gives some bytes from a place before the end on, but
    none where the file below is cut short."""

    def __init__(self, length: int) -> None:
        self._length, self._at = length, 0

    def _made(self, at: int, most: int) -> bytes:
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._length)[whence])
        return self._at

    def readinto(self, buffer: bytearray) -> int:
        data = self._made(self._at, len(buffer)) if self._at < self._length else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Spliced(View):
    """Parts (file, start, end) of files as one."""

    def __init__(self, parts: list[tuple[BinaryIO, int, int]]) -> None:
        self._parts, self._starts = parts, [0]
        for _, start, end in parts:
            self._starts.append(self._starts[-1] + end - start)
        super().__init__(self._starts[-1])

    def _made(self, at: int, most: int) -> bytes:
        part = bisect_right(self._starts, at) - 1
        inside = at - self._starts[part]
        file, start, end = self._parts[part]
        file.seek(start + inside)
        return file.read(min(most, end - start - inside))
