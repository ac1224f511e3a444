"""How coarsely the pixels of a lossy file were rounded, by what its head says."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

_STANDARD = 57.625  # mean of luma's steps in JPEG's example table (ITU T.81, K.1), libjpeg's at 50
_HEAD = 10  # bytes of a VP8 frame before its coded bits


@dataclass(frozen=True)
class Coded:
    """codec: JPEG or WEBP. quality: libjpeg's, from 1 to 100, that is as coarse. halved: colours
    have half the resolution."""

    codec: str
    quality: float
    halved: bool


def jpeg_tables(segment: bytes) -> dict[int, float]:
    """Number -> mean step of each quantisation table in a DQT segment, as far as it is whole."""
    found, at = {}, 0
    while at < len(segment):
        width = 2 if segment[at] >> 4 else 1
        steps = segment[at + 1 : at + 1 + 64 * width]
        if len(steps) == 64 * width:
            steps = struct.unpack(">64H" if width == 2 else "64B", steps)
            found.setdefault(segment[at] & 15, sum(steps) / 64)
        at += 1 + 64 * width
    return found


def of_jpeg(tables: dict[int, float], components: list[tuple[int, int, int]]) -> Coded | None:
    """components: (across, down, number of its table) of each, as a frame's head has them."""
    if not components or components[0][2] not in tables:
        return None
    halved = any(other[:2] != components[0][:2] for other in components[1:])
    return Coded("JPEG", quality_of(tables[components[0][2]] / _STANDARD), halved)


def quality_of(share: float) -> float:
    """libjpeg's quality, from 1 to 100, of steps that are `share` of the example table's."""
    return round(max(1.0, 100 - 50 * share if share <= 1 else 50 / share), 1)


def of_image(image: Any) -> Coded | None:
    """Of a Pillow image that was opened from a JPEG and not decoded yet: one that was may have been
    shrunk in its place."""
    if not (getattr(image, "tile", None) and hasattr(image, "quantization")):
        return None
    means = {number: sum(steps) / 64 for number, steps in image.quantization.items()}
    return of_jpeg(means, [layer[1:] for layer in image.layer])


def of_webp(frame: bytes) -> Coded | None:
    """Of the beginning of a VP8 frame (RFC 6386, 9.2 to 9.6): the index of luma's steps, which goes
    from 0 to 127. Photographs have the error of JPEG 95.7, 84.3, 78.3 and 70.8 at 6, 26, 35 and 44.
    """
    if len(frame) <= _HEAD or frame[3:6] != b"\x9d\x01\x2a":
        return None
    bits = _Bits(frame[_HEAD:])
    bits.number(2)
    if bits.number(1):  # segments
        with_map = bits.number(1)
        if bits.number(1):
            bits.number(1)
            for width in (7,) * 4 + (6,) * 4:
                bits.optional(width + 1)
        for _ in range(3 * with_map):
            bits.optional(8)
    bits.number(1 + 6 + 3)  # the filter
    if bits.number(1) and bits.number(1):
        for _ in range(8):
            bits.optional(6 + 1)
    bits.number(2)
    return Coded("WEBP", round(98 - 0.55 * bits.number(7), 1), True)


class _Bits:
    """The bits of a VP8 frame's head, which are coded as likely to be 0 as 1 (RFC 6386, 7)."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 2
        self._value, self._range, self._shifted = int.from_bytes(data[:2], "big"), 255, 0

    def number(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = 2 * value + self._bit()
        return value

    def optional(self, bits: int) -> None:
        """A flag, and a number where it is set."""
        if self.number(1):
            self.number(bits)

    def _bit(self) -> int:
        split = 1 + (self._range - 1) // 2
        bit = self._value >= split << 8
        self._value -= bit * (split << 8)
        self._range = self._range - split if bit else split
        while self._range < 128:
            self._value, self._range = 2 * self._value, 2 * self._range
            self._shifted = (self._shifted + 1) % 8
            if not self._shifted:
                self._value |= self._data[self._at] if self._at < len(self._data) else 0
                self._at += 1
        return int(bit)
