"""Files whose bytes have nothing to do with what their header says: time and memory are bounded."""

import io
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from picture_files import samples, saved, smooth, whole
from PIL import Image

from upscale.errors import InputError
from upscale.image import jpeg
from upscale.image.decode import read, size_of

FLOOD = 40 << 20  # bytes


@contextmanager
def bounded(seconds: float = 10.0, memory: int = FLOOD // 4) -> Iterator[None]:
    tracemalloc.start()
    started = time.monotonic()
    try:
        yield
        assert time.monotonic() - started < seconds
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


def directory(*entries: tuple[int, int, int, int], next_at: int) -> bytes:
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", next_at)


def grey_page(at: int, next_at: int, **other: int) -> bytes:
    """A directory of a 1x1 grey picture whose sample is the file's first byte."""
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: 1}
    tags |= {int(key[1:]): value for key, value in other.items()}
    return directory(*((tag, 4, 1, value) for tag, value in sorted(tags.items())), next_at=next_at)


@pytest.mark.parametrize("back_to", ["itself", "the first"])
def test_tiff_whose_pages_lead_in_a_circle(back_to):
    first = 8
    length = len(grey_page(8, 0))
    second = first + length
    data = b"II*\0" + struct.pack("<I", first)
    data += grey_page(first, second) + grey_page(
        second, first if back_to == "the first" else second
    )
    with bounded():
        assert size_of(io.BytesIO(data)) == (1, 1)
        assert read(io.BytesIO(data), frames="first").notes == ("the first of 2 pages",)


def test_many_honest_pages_are_counted_quickly():
    length, count = len(grey_page(8, 0)), 5_000
    pages = (grey_page(0, 8 + (n + 1) * length if n + 1 < count else 0) for n in range(count))
    data = b"II*\0" + struct.pack("<I", 8) + b"".join(pages)
    with bounded(memory=FLOOD), pytest.raises(InputError, match=f"has {count} pages"):
        read(io.BytesIO(data))


def test_thumbnail_pages_are_not_counted():
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=">") as writer:
        writer.write(whole(9, 7), metadata=None)
        writer.write(whole(3, 2), metadata=None, subfiletype=1)
    file.seek(0)
    assert read(file).size == (9, 7)


@pytest.mark.parametrize("bits", [8, 16])
def test_png_with_a_flood_of_pixels(bits):
    a = whole(16, 16, 3, bits=bits)
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in a)
    file = io.BytesIO()
    header = struct.pack(">IIBBBBB", 16, 16, bits, 2, 0, 0, 0)
    flood = zlib.compress(rows + bytes(FLOOD))
    png.write_chunks(file, [(b"IHDR", header), (b"IDAT", flood), (b"IEND", b"")])
    file.seek(0)
    with bounded():
        assert np.array_equal(samples(read(file)), a)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_deflate_tiff_that_unpacks_to_a_flood(bits, tiled):
    a = whole(16, 16, 3, bits=bits)
    file = io.BytesIO()
    tile = (16, 16) if tiled else None
    tifffile.imwrite(
        file, a, photometric="rgb", compression="zlib", tile=tile, metadata=None, byteorder="<"
    )
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        page = tiff.pages[0]
        at, tags = (
            page.dataoffsets[0],
            (page.tags[325 if tiled else 279], page.tags[324 if tiled else 273]),
        )
        honest = zlib.decompress(file.getvalue()[at : at + page.databytecounts[0]])
    data = bytearray(file.getvalue())
    flood = zlib.compress(honest + bytes(FLOOD))
    for tag, value in zip(tags, (len(flood), len(data)), strict=True):
        data[tag.offset + 2 : tag.offset + 12] = struct.pack("<HII", 4, 1, value)
    with bounded():
        assert np.array_equal(samples(read(io.BytesIO(bytes(data) + flood))), a)


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_with_tiles_far_larger_than_the_picture(bits):
    data = b"II*\0" + struct.pack("<I", 8)
    tags = {"t258": bits, "t259": 8, "t322": 60000, "t323": 60000, "t324": 0, "t325": 8}
    with bounded(), pytest.raises(InputError, match="tiles of 60000x60000 pixels"):
        read(io.BytesIO(data + grey_page(8, 0, **tags)))


def test_tiff_with_more_samples_a_pixel_than_any_picture():
    data = b"II*\0" + struct.pack("<I", 8) + grey_page(8, 0, t277=60000)
    with pytest.raises(InputError, match="60000 samples a pixel"):
        read(io.BytesIO(data))


@pytest.mark.parametrize("format", ["TIFF", "JPEG", "PNG"])
def test_more_pixels_than_the_bytes_can_hold(format):
    if format == "TIFF":
        data = b"II*\0" + struct.pack("<I", 8) + grey_page(8, 0, t256=15000, t257=15000, t278=15000)
    elif format == "JPEG":
        data = saved(smooth(16, 16), "JPEG").getvalue()
        at = data.index(b"\xff\xc0") + 5
        data = data[:at] + struct.pack(">HH", 3800, 65000) + data[at + 4 :]
    else:
        file = io.BytesIO()
        header = struct.pack(">IIBBBBB", 15000, 15000, 8, 2, 0, 0, 0)
        png.write_chunks(file, [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")])
        data = file.getvalue()
    for allowed in (False, True):
        with bounded(), pytest.raises(InputError, match="cut short"):
            read(io.BytesIO(data), allow_truncated=allowed)


def progressive(times: int) -> bytes:
    """A JPEG with its last scan repeated."""
    data = saved(smooth(40, 30), "JPEG", progressive=True).getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + data[-2:]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_jpeg_that_declares_more_rows_than_it_has(grey, progressive):
    rgb = np.random.default_rng(1).integers(0, 255, (48, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb[..., 0] if grey else rgb).save(file, "JPEG", progressive=progressive)
    sound = file.getvalue()
    height = sound.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    assert read(io.BytesIO(sound)).size == (48, 40)
    for rows in (80, 300):
        false = sound[:height] + struct.pack(">H", rows) + sound[height + 2 :]
        with pytest.raises(InputError, match=r"end before the rows .*--allow-truncated"):
            read(io.BytesIO(false))
        found = read(io.BytesIO(false), allow_truncated=True)
        assert found.size == (rows, 40) and "before the rows" in found.notes[0]


@pytest.mark.parametrize("shade", [0, 90, 255])
def test_jpeg_with_an_even_end_is_not_taken_for_a_cut_one(shade):
    rgb = np.random.default_rng(1).integers(0, 255, (48, 40, 3), np.uint8)
    rgb[20:] = shade
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "JPEG", **options)
        assert read(io.BytesIO(file.getvalue())).notes == ()


def test_jpeg_of_hundreds_of_scans():
    assert 3 < jpeg.scans(io.BytesIO(progressive(1))) < 20
    with pytest.raises(InputError, match="more than 100 scans"):
        read(io.BytesIO(progressive(300)))


def test_scans_of_others_are_not_counted():
    """Of a thumbnail, and of what cameras put behind the picture."""
    data = progressive(1)
    many = b"\xff\xda" * 400
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(many)) + many
    own = jpeg.scans(io.BytesIO(data))
    assert jpeg.scans(io.BytesIO(data[:2] + comment + data[2:] + many)) == own
    assert read(io.BytesIO(data[:2] + comment + data[2:] + many)).size == (40, 30)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
def test_flat_pictures_are_not_taken_for_cut_ones(compression):
    for mode in ("1", "L", "RGB"):
        file = io.BytesIO()
        Image.new(mode, (3000, 2000)).save(file, "TIFF", compression=compression)
        file.seek(0)
        assert read(file).size == (2000, 3000)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_flat_files_are_not_taken_for_cut_ones(format):
    for mode in ("1", "L", "RGB"):
        file = io.BytesIO()
        options = {"quality": 1, "optimize": True} if format == "JPEG" else {}
        Image.new(mode, (3000, 2000)).save(file, format, **options)
        file.seek(0)
        assert read(file).size == (2000, 3000)


@pytest.mark.slow
def test_thousands_of_mutations():
    """No hang over 10 s, no memory over 1 GB, no exception that is not ours."""
    script = Path(__file__).parents[1] / "benchmarks" / "mutations.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, made.stdout + made.stderr
