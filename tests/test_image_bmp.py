"""BMPs whose channels lie wherever masks say, whose pixels lie in runs, and of few colours."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from upscale.errors import InputError
from upscale.image.decode import read

BYTES = [0xFF << place for place in (0, 8, 16, 24)]
MASKS = {
    "BGRA": (32, (BYTES[2], BYTES[1], BYTES[0], BYTES[3])),
    "BGRX": (32, (BYTES[2], BYTES[1], BYTES[0], 0)),
    "RGBX": (32, (*BYTES[:3], 0)),
    "ARGB": (32, (*BYTES[1:], BYTES[0])),
    "10 bits": (32, (0x3FF << 20, 0x3FF << 10, 0x3FF, 3 << 30)),
    "565": (16, (31 << 11, 63 << 5, 31, 0)),
    "444": (16, (15 << 8, 15 << 4, 15, 0)),
    "4444": (16, (15 << 8, 15 << 4, 15, 15 << 12)),
    "1555": (16, (31 << 10, 31 << 5, 31, 1 << 15)),
}


def packed(name: str, packing: int, size: int, down: int) -> tuple[bytes, np.ndarray]:
    """(a file of random pixels with a header of a size; its values, from the top)."""
    bits, masks = MASKS[name]
    values = np.random.default_rng(0).integers(0, 2**bits, (5, 7)).astype(f"<u{bits // 8}")
    pixels = np.pad(values, ((0, 0), (0, values.itemsize % 4 // 2))).tobytes()
    words = masks[: 3 if size < 56 and packing == 3 else 4]
    head = struct.pack("<IiiHHI5I", size, 7, down, 1, bits, packing, len(pixels), 0, 0, 0, 0)
    head = (head + struct.pack(f"<{len(words)}I", *words)).ljust(size, b"\0")
    data = b"BM" + struct.pack("<III", 0, 0, 14 + len(head)) + head + pixels
    return data, values[:: -1 if down > 0 else 1]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("packing", "size"), [(3, 40), (6, 40), (3, 56), (3, 124)])
@pytest.mark.parametrize("down", [5, -5])
def test_channels_lie_where_masks_say(down, packing, size, name):
    data, values = packed(name, packing, size, down)
    picture = read(io.BytesIO(data))
    masks = MASKS[name][1]
    if size < 56 and packing == 3:
        masks = (*masks[:3], 0)
    for channel, mask in zip((*np.moveaxis(picture.rgb, 2, 0), picture.alpha), masks, strict=True):
        if mask:
            want = (values & mask) / mask
            np.testing.assert_allclose(channel, want, atol=0.51 / 255)
    assert (picture.alpha is None) == (masks[3] == 0)
    reduced = "10 bits a channel were reduced to 8"
    assert picture.notes == ((reduced,) if name == "10 bits" else ())


def test_masks_of_a_file_cut_short():
    data, values = packed("4444", 3, 56, -5)
    with pytest.raises(InputError, match=r"cut short.*--allow-truncated"):
        read(io.BytesIO(data[:-20]))
    picture = read(io.BytesIO(data[:-20]), allow_truncated=True)
    want = (values & MASKS["4444"][1][0]) / MASKS["4444"][1][0]
    np.testing.assert_allclose(picture.rgb[:3, :, 0], want[:3], atol=0.51 / 255)
    assert not picture.rgb[4:].any()


def coded(bits: int, packing: int, pixels: bytes, colours: list[int]) -> bytes:
    """A file of 4x3 pixels with a palette of greys."""
    palette = b"".join(bytes([n, n, n, 0]) for n in colours)
    head = struct.pack("<IiiHHI", 40, 4, 3, 1, bits, packing)
    head += struct.pack("<IiiII", len(pixels), 0, 0, len(colours), 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<III", start + len(pixels), 0, start) + head + palette + pixels


def greys(data: bytes, **settings: bool) -> list[list[int]]:
    """Rows from the top."""
    return (read(io.BytesIO(data), **settings).rgb[..., 0] * 255).round().astype(int).tolist()


@pytest.mark.parametrize(
    ("bits", "runs", "wanted"),
    [
        (8, [4, 1, 0, 0, 2, 2, 0, 1], [[9, 9, 9, 9], [77, 77, 9, 9], [50, 50, 50, 50]]),
        (8, [0, 1], [[9] * 4] * 3),
        (8, [4, 1, 0, 0, 0, 0, 4, 2], [[77] * 4, [9] * 4, [50] * 4]),
        (8, [9, 1, 0, 0, 0, 2, 1, 1, 0, 3, 2, 1, 2, 0, 0, 1],
         [[9, 77, 50, 77], [9] * 4, [50] * 4]),
        (4, [4, 0x12, 0, 0, 0, 3, 0x21, 0x20, 0, 1], [[9] * 4, [77, 50, 77, 9], [50, 77] * 2]),
    ],
    ids=["ends early", "nothing", "an empty row", "too long, a leap, as it is", "4 bits"],
)  # fmt: skip
def test_runs(bits, runs, wanted):
    assert greys(coded(bits, {8: 1, 4: 2}[bits], bytes(runs), [9, 50, 77])) == wanted


def test_runs_that_are_cut_short():
    data = coded(8, 1, bytes([4, 1, 0, 0, 2, 2]), [9, 50, 77])
    with pytest.raises(InputError, match=r"cut short.*--allow-truncated"):
        greys(data)
    assert greys(data, allow_truncated=True)[2] == [50] * 4


@pytest.mark.parametrize("bits", [8, 4])
def test_black_and_white_in_more_than_a_bit(bits):
    row = bytes([0, 1, 1, 0]) if bits == 8 else bytes([0x01, 0x10, 0, 0])
    assert greys(coded(bits, 0, 3 * row, [0, 255])) == [[0, 255, 255, 0]] * 3
