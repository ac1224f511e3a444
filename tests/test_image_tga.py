"""Truevision's TGA, which has no signature, and ways of its own to turn and to hide a picture."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from picture_files import samples, saved
from PIL import Image

from upscale.errors import InputError
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.formats import sniff
from upscale.image.picture import Picture

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
PACKED, DOWNWARDS, LEFTWARDS = 8, 0x20, 0x10


def header(kind: int = 2, depth: int = 24, flags: int = 0, **others: int) -> bytes:
    """Of a picture 3 wide and 2 high."""
    palette = struct.pack("<BHHB", *(others.get(name, 0) for name in ("has", "first", "n", "bits")))
    return struct.pack("<B", 0) + palette[:1] + bytes([kind]) + palette[1:] + struct.pack(
        "<HHHHBB", 0, 0, 3, 2, depth, flags
    )  # fmt: skip


@pytest.mark.parametrize("flags", [0, DOWNWARDS, LEFTWARDS, DOWNWARDS | LEFTWARDS])
@pytest.mark.parametrize("packed", [0, PACKED])
def test_rows_lie_as_the_header_says(flags, packed):
    stored = RGB if flags & DOWNWARDS else RGB[::-1]
    stored = stored[:, ::-1] if flags & LEFTWARDS else stored
    pixels = stored[..., ::-1].tobytes()  # blue first
    if packed:  # a run of three pixels as they are, for each row
        pixels = b"\x02" + pixels[:9] + b"\x02" + pixels[9:]
    picture = read(io.BytesIO(header(2 | packed, 24, flags) + pixels))
    assert (picture.format, picture.bits, picture.grey) == ("TGA", 8, False)
    assert np.array_equal(samples(picture), RGB)


@pytest.mark.parametrize(
    ("bits", "alpha", "kept"),
    [
        (8, [0, 90, 255, 7, 0, 1], True),
        (8, [0] * 6, True),  # said to be transparent
        (0, [0] * 6, False),  # a byte that is not used
        (0, [0, 90, 255, 7, 0, 1], True),  # transparency that was not declared
    ],
)
def test_transparency_by_what_the_header_says_and_by_what_is_there(bits, alpha, kept):
    planes = np.array(alpha, np.uint8).reshape(2, 3, 1)
    pixels = np.concatenate([RGB[..., ::-1], planes], 2).tobytes()
    picture = read(io.BytesIO(header(2, 32, DOWNWARDS | bits) + pixels))
    assert (picture.alpha is not None) == kept
    if kept:
        assert np.array_equal(np.rint(picture.alpha * 255), planes[..., 0])
    else:
        assert np.array_equal(samples(picture), RGB)


def test_a_palette_and_grey():
    palette = bytes([0, 0, 255, 0, 255, 0])  # red, green
    data = header(1, 8, DOWNWARDS, has=1, n=2, bits=24) + palette + bytes([0, 1, 0, 1, 0, 1])
    picture = read(io.BytesIO(data))
    assert np.array_equal(samples(picture)[0], [[255, 0, 0], [0, 255, 0], [255, 0, 0]])
    picture = read(io.BytesIO(header(3, 8, DOWNWARDS) + bytes(range(6))))
    assert picture.grey and np.array_equal(samples(picture)[..., 0], [[0, 1, 2], [3, 4, 5]])


def test_an_unused_bit_of_a_palette_hides_nothing():
    palette = struct.pack("<2H", 0xFC00, 0x83E0)  # red, green
    data = header(1, 8, DOWNWARDS, has=1, n=2, bits=16) + palette + bytes([0, 1, 0, 1, 0, 1])
    picture = read(io.BytesIO(data))
    assert picture.alpha is None
    assert np.array_equal(samples(picture)[0], [[255, 0, 0], [0, 255, 0], [255, 0, 0]])


def test_what_is_written_says_how_it_was_made():
    file = io.BytesIO()
    alpha = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    write(Picture(RGB / np.float32(255), alpha), file, format="TGA", comment="diffsr 1, ü" * 40)
    with Image.open(io.BytesIO(file.getvalue())) as im:
        assert (im.mode, im.size) == ("RGBA", (3, 2))
        assert im.info["id_section"] == ("diffsr 1, ?" * 40).encode()[:255]
        assert np.array_equal(np.asarray(im)[..., :3], RGB)
    bare = io.BytesIO()
    write(Picture(RGB / np.float32(255)), bare, format="TGA", comment="diffsr", strip=True)
    assert bare.getvalue()[0] == 0


@pytest.mark.parametrize(
    "head",
    [
        header(2, 24)[:17],  # too short
        header(0, 24),  # no picture
        header(2, 8),
        header(2, 24, 0xC0),  # interleaved
        header(2, 24, n=1),  # a palette, where there is none
        header(1, 8),  # none, where there is one
        header(2, 24)[:12] + bytes(6),  # of no size
        b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x68\4\0\0",  # an icon
        b"\0\0\2\0\1\0\x20\x20\0\0\0\0\0\0\xa8\x10\0\0",  # a cursor
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        bytes(64),
    ],
)
def test_what_is_no_tga(head):
    assert sniff(head) is None
    with pytest.raises(InputError):
        read(io.BytesIO(head))


def test_bytes_that_cannot_hold_the_picture():
    huge = header(2 | PACKED, 24)[:12] + struct.pack("<HHBB", 60000, 1000, 24, 0)
    with pytest.raises(InputError, match="TGA is cut short or damaged"):
        read(io.BytesIO(huge + bytes(99)))


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG", "PPM"])
def test_other_formats_are_not_taken_for_tga(format):
    assert sniff(saved(RGB, format).getvalue()[:64]) == format
