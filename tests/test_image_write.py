"""Writing: all of a file or nothing, with everything that belongs to the picture."""

import io
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from PIL import Image, ImageCms

from upscale.errors import NumericalError, OutputError, UsageError
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.formats import check_format, format_of
from upscale.image.picture import Picture

SOFTWARE, MAKE, EXIF_IFD, GPS = 0x0131, 0x010F, 0x8769, 0x8825
EXPOSURE, PIXELS_X, PIXELS_Y, MAKER_NOTE, LATITUDE = 0x829A, 0xA002, 0xA003, 0x927C, 2
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "TGA", "AVIF", "GIF"]


def picture(height: int = 9, width: int = 14, **fields: object) -> Picture:
    rgb = np.random.default_rng(0).random((height, width, 3), np.float32)
    if fields.get("grey"):
        rgb = np.repeat(rgb[..., :1], 3, 2)
    return Picture(rgb, **fields)


def ramp(height: int = 9, width: int = 14) -> np.ndarray:
    return np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)


def written(p: Picture, format: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    write(p, file, format=format, **options)
    file.seek(0)
    return file


def exif_block(note: int = 0) -> bytes:
    exif = Image.Exif()
    exif[MAKE] = "Maker"
    exif[EXIF_IFD] = {EXPOSURE: 0.25, PIXELS_X: 7, PIXELS_Y: 5, MAKER_NOTE: bytes(note)}
    exif[GPS] = {1: "N", LATITUDE: (48.0, 51.0, 30.0)}
    return exif.tobytes()


def loaded(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block)
    return exif


# ---- what goes along -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_metadata_goes_along(format, bits):
    p = picture(bits=bits, icc=SRGB, exif=exif_block(), dpi=(72, 144))
    back = read(written(p, format, comment="diffsr 1.2; seed=0"))
    assert back.icc == SRGB
    exif = loaded(back.exif)
    assert exif[MAKE] == "Maker"
    details, gps = exif.get_ifd(EXIF_IFD), exif.get_ifd(GPS)
    assert details[EXPOSURE] == 0.25
    assert (details[PIXELS_X], details[PIXELS_Y]) == (14, 9)
    assert gps[LATITUDE] == (48.0, 51.0, 30.0)
    if format in ("PNG", "JPEG", "TIFF"):
        assert back.dpi == pytest.approx((72, 144), abs=0.02)
    if format != "PNG":
        assert exif[SOFTWARE] == "diffsr 1.2; seed=0"


@pytest.mark.parametrize("comment", ["diffsr 1.2; method=sr3", "дифф"])
@pytest.mark.parametrize("bits", [8, 16])
def test_comment_of_a_png(bits, comment):
    with Image.open(written(picture(bits=bits), "PNG", comment=comment)) as im:
        assert im.text["Software"] == comment


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("format", FORMATS)
def test_strip_leaves_pixels_only(format, bits):
    p = picture(bits=bits, icc=SRGB, exif=exif_block(), dpi=(72, 144))
    file = written(p, format, strip=True, comment="secret")
    assert not any(word in file.getvalue() for word in (b"secret", b"Maker", b"acsp"))
    back = read(file)
    assert (back.icc, back.exif) == (None, None)
    assert back.dpi is None or format == "BMP"


def test_comment_of_a_gif():
    with Image.open(written(picture(), "GIF", comment="diffsr")) as im:
        assert im.info["comment"] == b"diffsr"


def test_exif_too_long_for_a_jpeg_loses_the_makers_note():
    p = picture(exif=exif_block(note=70_000))
    details = loaded(read(written(p, "JPEG")).exif).get_ifd(EXIF_IFD)
    assert details[EXPOSURE] == 0.25
    assert MAKER_NOTE not in details
    notes = write(p, io.BytesIO(), format="JPEG")
    assert notes == ["JPEG cannot hold so long an EXIF block: the maker's note was left out"]
    assert write(picture(exif=exif_block(note=70)), io.BytesIO(), format="JPEG") == []
    assert len(loaded(read(written(p, "PNG")).exif).get_ifd(EXIF_IFD)[MAKER_NOTE]) == 70_000
    exif = loaded(exif_block())
    exif[0x010E] = "x" * 70_000
    file = io.BytesIO()
    notes = write(picture(exif=exif.tobytes()), file, format="JPEG")
    assert "EXIF" in notes[0]
    file.seek(0)
    assert read(file).exif is None


def test_profile_of_grey_is_kept_only_on_grey():
    p = picture(grey=True, icc=GREY_PROFILE)
    for format in ("PNG", "TIFF"):
        assert read(written(p, format)).icc == GREY_PROFILE
    file = io.BytesIO()
    assert any("profile" in note for note in write(p, file, format="WEBP"))
    file.seek(0)
    assert read(file).icc is None


@pytest.mark.parametrize("format", ["BMP", "GIF", "PPM", "TGA"])
def test_what_a_format_cannot_hold_is_said(format):
    notes = write(picture(bits=16, icc=SRGB, exif=exif_block()), io.BytesIO(), format=format)
    assert all(any(word in note for note in notes) for word in ("8 bits", "profile", "EXIF"))
    assert write(picture(icc=SRGB), io.BytesIO(), format="PNG") == []


# ---- pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_others_can_read_our_png_and_tiff(grey, clear, bits):
    p = picture(bits=bits, grey=grey, alpha=ramp() if clear else None, icc=SRGB)
    top = 2**bits - 1
    parts = [p.rgb[..., :1] if grey else p.rgb, *([p.alpha] if clear else [])]
    want = np.floor(np.dstack(parts) * top + 0.5)
    width, height, rows, info = png.Reader(file=written(p, "PNG")).read()
    assert (width, height, info["bitdepth"], info["greyscale"]) == (14, 9, bits, grey)
    assert np.array_equal(np.vstack(list(map(np.asarray, rows))).reshape(want.shape), want)
    with tifffile.TiffFile(written(p, "TIFF")) as tiff:
        page = tiff.pages[0]
        assert (page.bitspersample, len(page.extrasamples)) == (bits, clear)
        assert np.array_equal(page.asarray().reshape(want.shape), want)
    if bits == 8:
        for format in ("PNG", "TIFF"):
            with Image.open(written(p, format)) as im:
                assert im.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[want.shape[2]]
                assert np.array_equal(np.asarray(im).reshape(want.shape), want)


def test_tiff_of_many_strips(monkeypatch):
    monkeypatch.setattr("upscale.image.tiff._STRIP_BYTES", 500)
    p = picture(61, 33, bits=16)
    file = written(p, "TIFF")
    with tifffile.TiffFile(file) as tiff:
        assert len(tiff.pages[0].dataoffsets) == 31
    file.seek(0)
    np.testing.assert_allclose(read(file).rgb, p.rgb, atol=0.51 / 65535)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM", "TGA", "WEBP"])
def test_rounding_is_to_nearest(format):
    levels = (np.arange(256) + 0.49).clip(0, 255)[None].repeat(2, 0)
    rgb = np.repeat(levels[..., None] / 255, 3, 2).astype(np.float32)
    back = read(written(Picture(rgb), format, quality=100))
    assert np.array_equal(np.rint(back.rgb[0, :, 0] * 255), np.arange(256))
    back = read(written(Picture((rgb + np.float32(0.02 / 255)).clip(0, 1)), format, quality=100))
    assert np.array_equal(np.rint(back.rgb[0, :, 0] * 255), np.arange(1, 257).clip(0, 255))


@pytest.mark.parametrize("format", ["JPEG", "BMP", "PPM"])
def test_alpha_is_laid_on_white_where_there_is_none(format):
    file = io.BytesIO()
    p = Picture(np.zeros((9, 14, 3), np.float32), ramp())
    assert any("laid on white" in note for note in write(p, file, format=format, quality=100))
    file.seek(0)
    back = read(file)
    assert back.alpha is None
    np.testing.assert_allclose(back.rgb[..., 1], 1 - ramp(), atol=0.03)


def test_alpha_of_a_gif_is_all_or_nothing():
    p = Picture(np.full((9, 14, 3), (1, 0, 0), np.float32), ramp())
    back = read(written(p, "GIF"))
    assert np.array_equal(back.alpha > 0.5, ramp() >= 0.5)
    np.testing.assert_allclose(back.rgb[back.alpha > 0], p.rgb[back.alpha > 0], atol=0.01)


def test_jpeg_keeps_full_colour_and_obeys_quality():
    sizes = [len(written(picture(60, 41), "JPEG", quality=q).getvalue()) for q in (20, None, 100)]
    assert sizes == sorted(set(sizes))
    with Image.open(written(picture(60, 41), "JPEG")) as im:
        assert [layer[1:3] for layer in im.layer] == [(1, 1)] * 3
    red = np.zeros((16, 30, 3), np.float32)
    red[:, ::2, 0] = 1  # columns of one pixel: halved colour would smear them
    assert np.abs(read(written(Picture(red), "JPEG")).rgb - red).max() < 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_picture_is_made_of_what_is_no_number(value, tmp_path):
    rgb = picture().rgb.copy()
    rgb[3, 4, 1] = value
    with pytest.raises(NumericalError):
        write(Picture(rgb), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


# ---- formats, before any work --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "limit"), [("JPEG", 65500), ("WEBP", 16383), ("GIF", 65535), ("AVIF", 32768)]
)
def test_side_limits_are_those_of_the_encoders(format, limit):
    for size in ((limit, 2), (2, limit)):
        check_format(format, size, 8)
        file = io.BytesIO()
        write(Picture(np.zeros((*size, 3), np.float32)), file, format=format)
        file.seek(0)
        assert read(file).size == size
        over = tuple(n + (n == limit) for n in size)
        with pytest.raises(OutputError, match=f"{format} holds at most {limit}.*PNG or TIFF"):
            check_format(format, over, 8)


def test_limits_of_bytes():
    check_format("TIFF", (30000, 40000), 8)
    check_format("PNG", (300000, 400000), 16)
    for format, bits in (("TIFF", 16), ("BMP", 8)):
        with pytest.raises(OutputError, match="4 GiB"):
            check_format(format, (30000, 50000), bits)


def test_format_by_suffix():
    for name, format in {
        "a.png": "PNG", "b.JPG": "JPEG", "c.jfif": "JPEG", "d.tif": "TIFF", "e.f.webp": "WEBP",
        "ж.avif": "AVIF", "-g.gif": "GIF", "h#i.bmp": "BMP",
        "j.ppm": "PPM", "k.PGM": "PPM", "l.tga": "TGA",
    }.items():  # fmt: skip
        assert format_of(name) == format_of(Path("x") / name) == format
    with pytest.raises(OutputError, match=r"a\.heic: HEIC is read, not written; use one of \.png"):
        format_of("a.heic")
    with pytest.raises(OutputError, match=r"\.xyz is no picture format to write; .*\.webp"):
        format_of("a.xyz")
    with pytest.raises(OutputError, match="no suffix"):
        format_of("a")


def test_named_formats(tmp_path):
    write(picture(), tmp_path / "a.png", format="jpg")  # the caller's word goes before the suffix
    assert read(tmp_path / "a.png").format == "JPEG"
    with pytest.raises(OutputError, match="no format named HEIC can be written; use PNG"):
        write(picture(), tmp_path / "b", format="HEIC")
    with pytest.raises(OutputError, match="stream has no suffix"):
        write(picture(), io.BytesIO())
    for quality in (0, 101):
        with pytest.raises(UsageError, match="from 1 to 100"):
            write(picture(), tmp_path / "c.jpg", quality=quality)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
