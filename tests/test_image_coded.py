"""How coarsely a file's pixels were rounded, by its own head."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from picture_files import saved, smooth
from PIL import Image

from upscale.image.coded import Coded, jpeg_tables, of_webp
from upscale.image.decode import read
from upscale.image.pillow import picture_of

PIXELS = smooth(40, 56)


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 97])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_tells_its_quality(quality, options):
    file = saved(PIXELS, "JPEG", quality=quality, **options)
    found = read(file).coded
    assert found.codec == "JPEG" and found.quality == pytest.approx(quality, abs=0.5)
    assert found.halved is ("subsampling" not in options)
    file.seek(0)
    assert picture_of(Image.open(file)).coded == found


def test_any_jpeg_is_told_and_its_orientation_kept(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(PIXELS).convert("L")
    saved_grey = read(saved(grey, "JPEG", quality=60, exif=exif))
    assert saved_grey.coded == Coded("JPEG", 60.0, False) and saved_grey.size == (56, 40)
    inks = Image.fromarray(PIXELS).convert("CMYK")
    assert read(saved(inks, "JPEG", quality=60)).coded.quality == 60
    flat = [[3] * 64, [9] * 64]  # of no quality of libjpeg's
    made = read(saved(PIXELS, "JPEG", qtables=flat, subsampling=1)).coded
    assert made == Coded("JPEG", 97.4, True)


def test_damaged_tables_cost_nothing_else():
    assert jpeg_tables(b"") == {} and jpeg_tables(bytes(40)) == {}
    steps = struct.pack(">64H", *[300] * 64)
    assert jpeg_tables(b"\x00" + bytes([7] * 64) + b"\x11" + steps) == {0: 7, 1: 300}
    assert jpeg_tables(b"\x00" + bytes([7] * 64) + b"\x11" + steps[:-1]) == {0: 7}


@pytest.mark.parametrize("how", [{}, {"exact": True}, {"method": 0}, {"icc_profile": b"no"}])
def test_a_webp_tells_its_steps(how):
    found = [read(saved(PIXELS, "WEBP", quality=q, **how)).coded for q in (10, 50, 75, 90, 100)]
    assert all(one.codec == "WEBP" and one.halved for one in found)
    # libwebp spreads its segments around the quality by the content
    assert [one.quality for one in found] == pytest.approx([50, 71, 80, 92, 98], abs=3)
    alpha = Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]]))
    assert read(saved(alpha, "WEBP", quality=75, **how)).coded == found[2]


def test_what_is_lossless_or_no_file_tells_nothing():
    whole = Image.fromarray(PIXELS)
    assert read(saved(whole, "WEBP", lossless=True)).coded is None
    assert read(saved(whole, "PNG")).coded is None and read(saved(whole, "BMP")).coded is None
    assert picture_of(whole).coded is None and picture_of(PIXELS).coded is None
    jpeg = Image.open(saved(whole, "JPEG", quality=50))
    assert picture_of(jpeg.resize((20, 20))).coded is None
    jpeg.thumbnail((20, 20))  # which keeps the tables of what it was
    assert jpeg.quantization and picture_of(jpeg).coded is None
    assert of_webp(b"") is None and of_webp(bytes(64)) is None
    assert of_webp(b"\0\0\0\x9d\x01\x2a\0\0\0\0\xff") is not None  # cut short: the rest is 0
