"""Netpbm's formats: digits and bytes, every largest value."""

from __future__ import annotations

import io

import numpy as np
import pytest

from upscale.errors import InputError
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.picture import Picture


@pytest.mark.parametrize(
    ("data", "expected", "bits"),
    [
        (b"P1\n# a comment\n2 1\n1 0\n", [0, 1], 8),
        (b"P1 2 1 01", [1, 0], 8),
        (b"P2\n2 2\n10 # the largest\n0 5 # and so\n10 1\n", [0, 0.5, 1, 0.1], 8),
        (b"P2 2 1 1000 250 1000", [0.25, 1], 16),
        (b"P3 1 2 7 0 7 0 7 7 0", [[0, 1, 0], [1, 1, 0]], 8),
        (b"P4\n3 1\n\xa0", [0, 1, 0], 8),
        (b"P5\n#\n3 1 255\n\x00\x33\xff", [0, 0.2, 1], 8),
        (b"P5 2 1 15\n\x03\x0f", [0.2, 1], 8),
        (b"P5 2 1 15\n\x03\x10", [0.2, 1], 8),  # more than the largest
        (b"P5 2 1 1023\n\x00\x01\x03\xff", [1 / 1023, 1], 16),
        (b"P6\n1 1\n65535\n\x80\x00\x00\x01\xff\xff", [[0x8000 / 65535, 1 / 65535, 1]], 16),
    ],
)
def test_every_kind_is_read_with_all_its_bits(data, expected, bits) -> None:
    picture = read(io.BytesIO(data))
    values = np.array(expected, np.float32)
    grey = values.ndim == 1
    found = picture.rgb.reshape(-1, 3)
    assert np.allclose(found[:, 0] if grey else found, values, atol=1e-7)
    assert (picture.grey, picture.bits, picture.format) == (grey, bits, "PPM")
    assert picture.notes == ()


def test_what_is_written_says_how_deep_it_is() -> None:
    rgb = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 11
    for picture, head in (
        (Picture(rgb), b"P6\n2 2\n255\n"),
        (Picture(rgb, bits=16), b"P6\n2 2\n65535\n"),
        (Picture(rgb[..., :1].repeat(3, 2), bits=16, grey=True), b"P5\n2 2\n65535\n"),
    ):
        file = io.BytesIO()
        write(picture, file, format="ppm")
        data = file.getvalue()
        channels = 1 if picture.grey else 3
        assert data.startswith(head)
        assert len(data) == len(head) + 4 * channels * picture.bits // 8
        assert read(io.BytesIO(data)).fingerprint() == picture.fingerprint()
    file = io.BytesIO()
    write(Picture(rgb), file, format="ppm", comment="made\nby whom")
    assert file.getvalue().startswith(b"P6\n# made\n# by whom\n2 2\n255\n")
    assert read(io.BytesIO(file.getvalue())).fingerprint() == Picture(rgb).fingerprint()


def test_what_is_cut_short_is_refused_or_taken_with_a_note() -> None:
    data = b"P6 2 2 255\n" + bytes(range(100, 109))
    with pytest.raises(
        InputError, match=r"PPM is cut short \(75% of its pixels.*--allow-truncated"
    ):
        read(io.BytesIO(data))
    picture = read(io.BytesIO(data), allow_truncated=True)
    assert picture.notes == ("the PPM is cut short (75% of its pixels are there)",)
    assert np.allclose(picture.rgb.reshape(4, 3)[:3].ravel() * 255, range(100, 109))
    assert (picture.rgb[1, 1] == 0).all()


@pytest.mark.parametrize("wrong", [b"P5 2 0 255\n\0\0", b"P2 1 1 255 x", b"P5 1 1 70000\n\0\0\0"])
def test_what_is_no_picture_is_refused(wrong) -> None:
    with pytest.raises(InputError, match="damaged"):
        read(io.BytesIO(wrong))


def test_a_second_picture_is_told() -> None:
    one = b"P5 2 1 255\n\x00\xff"
    assert read(io.BytesIO(one + one)).notes == (
        "another picture (PPM) follows the first: it was left out",
    )


def test_other_pictures_of_that_family_are_named() -> None:
    with pytest.raises(InputError, match=r"a PAM picture; diffsr reads PNG.*PPM"):
        read(io.BytesIO(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0"))
