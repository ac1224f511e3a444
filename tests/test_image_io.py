"""Reading what diffsr must get right where other upscalers were measured to fail.

Each file is made in the test, as a rule by a library that is not the one that reads it.
"""

import io
import os
import struct
import zlib

import numpy as np
import png
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from picture_files import (
    MAKE,
    ORIENTATION,
    SOFTWARE,
    SRGB,
    ink_profile,
    samples,
    saved,
    smooth,
    whole,
)
from PIL import Image, ImageCms, ImageOps

from upscale.errors import InputError, UsageError
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.formats import SUFFIXES
from upscale.image.frames_in import read_frames
from upscale.image.picture import Picture

# ---- orientation, profiles, colour ---------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_orientation_is_applied_once(format, orientation):
    a = np.zeros((12, 20, 3), np.uint8)
    a[:6, :10], a[:6, 10:], a[6:, :10] = (250, 10, 10), (10, 250, 10), (10, 10, 250)
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = orientation, "Maker"
    options = {"lossless": True} if format == "WEBP" else {}
    file = saved(a, format, exif=exif, dpi=(72, 144), **options)
    with Image.open(file) as im:
        want = np.asarray(ImageOps.exif_transpose(im).convert("RGB"))
    file.seek(0)
    picture = read(file)
    assert picture.size == want.shape[:2] == ((20, 12) if orientation > 4 else (12, 20))
    np.testing.assert_allclose(picture.rgb * 255, want, atol=0.01)
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept[MAKE] == "Maker"
    assert kept.get(ORIENTATION, 1) == 1
    if picture.dpi:
        assert np.allclose(picture.dpi, (144, 72) if orientation > 4 else (72, 144), atol=0.1)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_colour_profile_is_kept(format):
    adobe = SRGB[:36] + b"acsp" + SRGB[40:]  # any bytes that call themselves RGB
    picture = read(saved(whole(7, 3, 3), format, icc_profile=adobe))
    assert picture.icc == adobe
    assert read(saved(whole(7, 3, 3), format)).icc is None


def test_profile_for_inks_on_a_colour_picture_is_left_out():
    picture = read(saved(whole(7, 3, 3), "PNG", icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:]))
    assert picture.icc is None
    assert "profile" in picture.notes[0]


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(format):
    inks = np.zeros((8, 16, 4), np.uint8)
    inks[:, 8:] = (255, 0, 0, 0)
    image = Image.frombytes("CMYK", (16, 8), inks.tobytes())
    options = {"quality": 100} if format == "JPEG" else {}
    picture = read(saved(image, format, icc_profile=ink_profile(), **options))
    lab = Image.frombytes("LAB", (2, 1), bytes([255, 0, 0, 204, 256 - 40, 0]))
    to_rgb = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
    want = np.asarray(ImageCms.profileToProfile(lab, *to_rgb, outputMode="RGB"))[0] / 255
    np.testing.assert_allclose(picture.rgb[4, 3], want[0], atol=0.02)
    np.testing.assert_allclose(picture.rgb[4, 12], want[1], atol=0.03)
    assert picture.rgb[4, 12, 0] > 0.3  # Pillow's plain conversion of cyan has no red at all
    assert picture.icc is None
    assert "CMYK" in picture.notes[0]


@pytest.mark.parametrize("icc", [None, b"broken", SRGB])
def test_cmyk_without_a_usable_profile(icc):
    image = Image.fromarray(whole(8, 16, 3)).convert("CMYK")
    file = saved(image, "TIFF", **({"icc_profile": icc} if icc else {}))
    picture = read(file)
    np.testing.assert_allclose(picture.rgb * 255, np.asarray(image.convert("RGB")), atol=0.01)
    assert picture.icc is None
    assert "guess" in picture.notes[0]


def test_adobe_inverted_cmyk_is_right_side_out():
    white = Image.new("CMYK", (16, 8))  # no ink; Pillow writes it inverted, with Adobe's marker
    assert read(saved(white, "JPEG", quality=100)).rgb.min() > 0.95


def test_lab():
    lab = Image.new("LAB", (5, 3), (255, 128, 128))
    picture = read(saved(lab, "TIFF"))
    assert picture.rgb.min() > 0.98
    assert not picture.grey


# ---- grey, palettes, alpha -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "grey", "alpha"),
    [("1", True, False), ("L", True, False), ("LA", True, True), ("RGB", False, False),
     ("RGBA", False, True)],
)  # fmt: skip
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_modes_as_declared(format, mode, grey, alpha):
    source = Image.fromarray(whole(9, 5, 4)).convert(mode)
    picture = read(saved(source, format))
    assert (picture.grey, picture.alpha is not None, picture.bits) == (grey, alpha, 8)
    want = np.asarray(source.convert("L" if mode == "1" else mode)).reshape(9, 5, -1)
    assert np.array_equal(samples(picture), want)
    assert np.array_equal(picture.rgb[..., 0], picture.rgb[..., 2]) == grey


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_shallow_grey(bits):
    levels = whole(5, 8) % 2**bits
    file = io.BytesIO()
    png.Writer(8, 5, greyscale=True, bitdepth=bits).write(file, levels.tolist())
    file.seek(0)
    assert np.array_equal(samples(read(file))[..., 0], levels * (255 // (2**bits - 1)))


def test_palette():
    source = Image.fromarray(whole(9, 5, 3)).quantize(16)
    want = np.asarray(source.convert("RGB"))
    assert np.array_equal(samples(read(saved(source, "PNG"))), want)
    picture = read(saved(source, "PNG", transparency=bytes([0, 128, 255])))
    assert picture.alpha is not None
    with Image.open(saved(source, "PNG", transparency=bytes([0, 128, 255]))) as im:
        assert np.array_equal(samples(picture), np.asarray(im.convert("RGBA")))
    assert set(np.unique(np.rint(picture.alpha * 255))) <= {0, 128, 255}


def test_palette_of_greys_is_grey():
    source = Image.fromarray(whole(9, 5))
    picture = read(saved(source, "GIF"))
    assert picture.grey
    assert np.array_equal(samples(picture)[..., 0], np.asarray(source))
    indexed = Image.fromarray(whole(9, 5) % 4).convert("P")
    indexed.putpalette(bytes([0, 0, 0, 80, 80, 80, 160, 160, 160, 240, 240, 240]))
    picture = read(saved(indexed, "PNG", transparency=bytes([0, 128, 255])))
    assert picture.grey
    want = np.array([[0, 0], [80, 128], [160, 255], [240, 255]])[np.asarray(indexed)]
    assert np.array_equal(samples(picture), want)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_transparent_grey_has_no_more_bits_than_the_samples(bits):
    a = np.arange(4, dtype=np.uint8)[None] * (255 // (2**bits - 1))
    file = saved(Image.fromarray(a), "PNG", bits=bits)
    with Image.open(file) as im:
        key = round(int(np.asarray(im)[0, 2]) / 255 * (2**bits - 1)) | 1 << bits
    chunk = b"tRNS" + struct.pack(">H", key)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = file.getvalue()
    at = data.index(b"IDAT") - 4
    picture = read(io.BytesIO(data[:at] + chunk + data[at:]))
    assert picture.alpha.tolist() == [[1, 1, 0, 1]]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("grey", [True, False])
def test_one_transparent_colour(grey, bits):
    a = whole(7, 3, 1 if grey else 3, bits=bits)
    key = int(a[2, 1, 0]) if grey else tuple(int(v) for v in a[2, 1])
    file = io.BytesIO()
    writer = png.Writer(3, 7, greyscale=grey, bitdepth=bits, transparent=key)
    writer.write(file, a.reshape(7, -1).tolist())
    file.seek(0)
    picture = read(file)
    assert picture.grey == grey
    assert np.array_equal(picture.alpha == 0, (a == a[2, 1]).all(2))
    assert np.array_equal(samples(picture)[..., :-1], a)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_one_transparent_grey_of_few_bits(bits):
    levels = np.arange(2**bits)[None]
    for key in range(2**bits):
        file = io.BytesIO()
        writer = png.Writer(2**bits, 1, greyscale=True, bitdepth=bits, transparent=key)
        writer.write(file, levels.tolist())
        file.seek(0)
        assert np.array_equal(read(file).alpha == 0, levels == key)


# ---- several frames ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_is_refused_unless_its_first_frame_will_do(format, tmp_path):
    frames = [Image.fromarray(whole(7, 5, 3, seed=i)).quantize(16).convert("RGB") for i in range(3)]
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / "moving.gif"
    path.write_bytes(
        saved(frames[0], format, save_all=True, append_images=frames[1:], **options).getvalue()
    )
    with pytest.raises(InputError, match=r"moving.gif: has 3 (frames|pages).*--frames first"):
        read(path)
    picture = read(path, frames="first")
    assert "first of 3" in picture.notes[0]
    assert np.array_equal(samples(picture)[..., :3], np.asarray(frames[0]))
    with pytest.raises(UsageError, match="choose from error, first"):
        read(path, frames="all")


def test_a_gif_is_transparent_where_its_first_frame_is_not():
    data = bytearray(saved(whole(2, 3, 3), "GIF").getvalue())
    frame = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))  # behind the table of colours
    struct.pack_into("<2H", data, 6, 5, 4)  # the screen
    struct.pack_into("<2H", data, frame + 1, 1, 2)  # left, top
    alpha = np.zeros((4, 5))
    alpha[2:4, 1:4] = 1
    assert np.array_equal(read(io.BytesIO(bytes(data))).alpha, alpha)
    assert np.array_equal(read_frames(io.BytesIO(bytes(data))).first.alpha, alpha)


def test_thumbnail_page_is_no_second_page():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(whole(9, 5, 3), photometric="rgb", metadata=None)
        tiff.write(whole(3, 2, 3), photometric="rgb", metadata=None, subfiletype=1)
    file.seek(0)
    assert read(file).size == (9, 5)


def test_camera_raw_is_not_mistaken_for_its_thumbnail(tmp_path):
    path = tmp_path / "a.dng"
    tifffile.imwrite(path, whole(9, 5, 3), photometric="rgb", metadata=None, subfiletype=1)
    with pytest.raises(InputError, match="raw file; develop"):
        read(path)


@pytest.mark.slow
def test_heic_with_its_package():
    heif = pytest.importorskip("pillow_heif")
    a = smooth(64, 48)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "Maker", 6
    heif.from_pillow(Image.fromarray(a)).save(file, quality=90, exif=exif.tobytes())
    file.seek(0)
    picture = read(file)
    assert picture.format == "HEIC"
    assert (picture.size, b"Maker" in picture.exif) == ((48, 64), True)
    assert np.abs(picture.rgb - np.rot90(a, -1) / 255).mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("depth", [10, 12])
def test_grey_heic_of_more_bits_keeps_them(depth):
    heif = pytest.importorskip("pillow_heif")
    a = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(64, 48)
    file = io.BytesIO()
    bits = heif.options.SAVE_HDR_TO_12_BIT
    heif.options.SAVE_HDR_TO_12_BIT = depth == 12
    heif.from_bytes("L;16", (48, 64), a.tobytes()).save(file, quality=-1)
    heif.options.SAVE_HDR_TO_12_BIT = bits
    file.seek(0)
    picture = read(file)
    assert (picture.bits, picture.grey, picture.notes) == (16, True, ())
    assert np.abs(picture.rgb[..., 0] - a / 65535).max() < 2 / 2**depth
    assert picture.rgb.max() == 1


# ---- sizes, names, streams -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (600, 2), (2, 600)])
@pytest.mark.parametrize(
    "format", ["PNG", "TIFF", "BMP", "PPM", "TGA", "WEBP", "JPEG", "GIF", "AVIF"]
)
def test_odd_sizes(format, size):
    options = {"lossless": True} if format == "WEBP" else {}
    picture = read(saved(whole(*size, 3), format, **options))
    assert picture.size == size
    if format in LOSSLESS:
        assert np.array_equal(samples(picture), whole(*size, 3))


@pytest.mark.parametrize(
    "name",
    ["фото.png", "写真 1.png", "-leading.png", "a#b.png", "ünï côdé.PNG", "x" * 251 + ".png",
     "no suffix", "100%.png"],
)  # fmt: skip
def test_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open(name, "wb") as file:
        file.write(saved(whole(7, 3, 3), "PNG").getvalue())
    assert np.array_equal(samples(read(name)), whole(7, 3, 3))
    assert read(tmp_path / name).format == "PNG"


def test_the_content_tells_the_format_not_the_name(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(saved(whole(7, 3, 3), "PNG").getvalue())
    picture = read(path)
    assert picture.format == "PNG"
    assert np.array_equal(samples(picture), whole(7, 3, 3))


def test_from_a_pipe_and_from_the_middle_of_a_stream():
    data = saved(whole(7, 3, 3), "PNG").getvalue()
    source, sink = os.pipe()
    with open(sink, "wb") as file:
        file.write(data)
    with open(source, "rb") as file:
        assert read(file).size == (7, 3)
        assert not file.closed
    stream = io.BytesIO(b"junk" + data)
    stream.seek(4)
    assert read(stream).size == (7, 3)


def test_extra_chunks_and_late_exif_of_a_png():
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = 6, "Maker"
    plain = list(png.Reader(bytes=saved(whole(7, 3, 3), "PNG").getvalue()).chunks())
    extra = [
        (b"gAMA", struct.pack(">I", 100000)),
        (b"cHRM", struct.pack(">8I", *[31270] * 8)),
        (b"sBIT", b"\5\6\5"),
        (b"tEXt", b"Comment\0hello"),
        (b"bKGD", bytes(6)),
    ]
    late = (b"eXIf", exif.tobytes()[6:])
    file = io.BytesIO()
    png.write_chunks(file, [plain[0], *extra, *plain[1:-1], late, plain[-1]])
    file.seek(0)
    picture = read(file)
    assert np.array_equal(samples(picture), np.rot90(whole(7, 3, 3), -1))
    assert b"Maker" in picture.exif


def test_damaged_exif_costs_only_the_exif():
    picture = read(saved(whole(7, 3, 3), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"))
    assert picture.exif is None
    assert np.array_equal(samples(picture), whole(7, 3, 3))


def test_layout_tags_of_a_tiff_are_not_taken_for_exif():
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        whole(7, 3, 3),
        photometric="rgb",
        metadata=None,
        software="scanner",
        resolution=(100, 200),
        resolutionunit="CENTIMETER",
        extratags=[(50838, 4, 3, (1, 2, 3), True)],
    )
    file.seek(0)
    picture = read(file)
    kept = Image.Exif()
    kept.load(picture.exif)
    assert dict(kept) == {SOFTWARE: "scanner"}
    assert picture.dpi == pytest.approx((254, 508))


def test_suffixes():
    assert {".png", ".jpg", ".jfif", ".webp", ".tif", ".bmp", ".avif", ".gif", ".heic"} <= SUFFIXES
    assert ".db" not in SUFFIXES
    assert all(s == s.lower() and s[0] == "." for s in SUFFIXES)


# ---- round trips ---------------------------------------------------------------------------------

LOSSLESS = ["PNG", "TIFF", "BMP", "PPM", "TGA", "WEBP"]


@given(
    st.sampled_from(LOSSLESS),
    st.integers(1, 23),
    st.integers(1, 23),
    st.sampled_from([8, 16]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_write_then_read_is_within_half_a_quantum(format, height, width, bits, grey, clear, seed):
    rng = np.random.default_rng(seed)
    rgb = rng.random((height, width, 3), np.float32)
    rgb = np.repeat(rgb[..., :1], 3, 2) if grey else rgb
    clear = clear and format not in ("BMP", "PPM")
    alpha = rng.random((height, width), np.float32) if clear else None
    file = io.BytesIO()
    write(Picture(rgb, alpha, bits, grey), file, format=format, quality=100)
    file.seek(0)
    back = read(file)
    assert back.bits == (bits if format in ("PNG", "TIFF", "PPM") else 8)
    assert back.grey == (grey and format != "WEBP" and not (format == "TGA" and clear))
    half = 0.5 / (2**back.bits - 1) + 1e-6
    np.testing.assert_allclose(back.rgb, rgb, atol=half, rtol=0)
    if alpha is not None:
        np.testing.assert_allclose(back.alpha, alpha, atol=half, rtol=0)
    # and what was rounded once is not rounded again
    again = io.BytesIO()
    write(back, again, format=format, quality=100)
    again.seek(0)
    assert read(again).fingerprint() == back.fingerprint()


@given(
    st.sampled_from(LOSSLESS),
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA"]),
    st.integers(1, 23),
    st.integers(1, 23),
    st.integers(0, 2**32 - 1),
)
def test_reads_what_pillow_wrote(format, mode, height, width, seed):
    source = Image.fromarray(whole(height, width, 4, seed=seed)).convert(mode)
    if format in ("BMP", "PPM") and mode in ("LA", "P", "RGBA"):
        source = source.convert("RGB")
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    picture = read(saved(source, format, **options))
    want = np.asarray(source.convert("RGBA")) / np.float32(255)
    np.testing.assert_allclose(picture.rgb, want[..., :3], atol=1e-6)
    if picture.alpha is not None:
        np.testing.assert_allclose(picture.alpha, want[..., 3], atol=1e-6)
