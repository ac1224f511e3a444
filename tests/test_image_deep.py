"""16 bits a channel, by what the file declares and not by how bright it is."""

import io

import numpy as np
import png
import pytest
import tifffile
from picture_files import (
    ORIENTATION,
    samples,
    saved,
    whole,
)
from PIL import Image, ImageOps, PngImagePlugin

from upscale.errors import InputError
from upscale.image import png16
from upscale.image.decode import read
from upscale.image.picture import Extras


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("top", [250, 65535])
@pytest.mark.parametrize("how", ["png", "interlaced", "tiff", "deflate", "big-endian", "planes"])
def test_16_bits_are_read_as_declared(how, channels, top):
    a = np.random.default_rng(1).integers(0, top + 1, (11, 6, channels)).astype(np.uint16)
    picture = read(deep_file(a, how))
    assert picture.bits == 16
    assert picture.grey == (channels < 3)
    assert (picture.alpha is not None) == (channels in (2, 4))
    assert np.array_equal(samples(picture), a)


def deep_file(a: np.ndarray, how: str) -> io.BytesIO:
    height, width, channels = a.shape
    file = io.BytesIO()
    if how in ("png", "interlaced"):
        kinds = {"greyscale": channels < 3, "alpha": channels in (2, 4)}
        writer = png.Writer(width, height, bitdepth=16, interlace=how == "interlaced", **kinds)
        writer.write(file, a.reshape(height, -1).tolist())
    else:
        plane = a.transpose(2, 0, 1) if how == "planes" and channels > 1 else a
        tifffile.imwrite(
            file,
            plane[..., 0] if channels == 1 else plane,
            photometric="rgb" if channels > 2 else "minisblack",
            planarconfig=None if channels == 1 else "separate" if how == "planes" else "contig",
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            compression="zlib" if how == "deflate" else None,
            byteorder=">" if how == "big-endian" else "<",
            metadata=None,
        )
    file.seek(0)
    return file


@pytest.mark.parametrize("strip_size", [20, 1 << 20])
def test_16_bit_lzw(strip_size):
    a = whole(13, 6, bits=16)
    file = saved(a, "TIFF", compression="tiff_lzw", strip_size=strip_size)
    assert np.array_equal(samples(read(file))[..., 0], a)


def lzw(raw: np.ndarray) -> bytes:
    """uint8 (h,w) -> the one LZW strip of it, by libtiff."""
    file = saved(raw, "TIFF", compression="tiff_lzw", strip_size=1 << 20)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        return file.getvalue()[page.dataoffsets[0] :][: page.databytecounts[0]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("tiled", [False, True])
def test_16_bit_colour_lzw(tiled, predictor, order):
    a = whole(21, 19, 3, bits=16)
    tile = (16, 16) if tiled else (8, 19)
    padded = np.pad(a, ((0, -21 % tile[0]), (0, -19 % tile[1]), (0, 0)))
    blocks = []
    for y in range(0, 21, tile[0]):
        for x in range(0, 19, tile[1]):
            block = padded[y : y + tile[0], x : x + tile[1]].copy()
            block = block if tiled else block[: 21 - y]
            if predictor == 2:
                block[:, 1:] -= block[:, :-1].copy()
            blocks.append(lzw(block.astype(f"{order}u2").view(np.uint8).reshape(len(block), -1)))
    tags = PngImagePlugin.Image.Exif()  # a TIFF directory
    tags.endian = order
    tags[256], tags[257], tags[258], tags[259], tags[262], tags[277] = 19, 21, (16,) * 3, 5, 2, 3
    tags[317] = predictor
    starts = tuple(np.cumsum([0, *map(len, blocks[:-1])]).tolist())
    if tiled:
        tags[322], tags[323] = tile[1], tile[0]
        tags[325] = tuple(map(len, blocks))
        tags[324] = starts
        ahead = len(tags.tobytes()) - 6
        tags[324] = tuple(ahead + start for start in starts)
    else:
        tags[278], tags[279], tags[273] = tile[0], tuple(map(len, blocks)), starts
    file = io.BytesIO(tags.tobytes()[6:] + b"".join(blocks))
    assert np.array_equal(samples(read(file)), a)


def test_premultiplied_tiff_alpha_is_made_straight():
    alpha = np.linspace(10000, 65535, 35).reshape(7, 5, 1)
    colour = whole(7, 5, 3, bits=16)
    file = io.BytesIO()
    stored = np.concatenate([np.rint(colour * (alpha / 65535)), alpha], 2).astype(np.uint16)
    tifffile.imwrite(file, stored, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    file.seek(0)
    np.testing.assert_allclose(read(file).rgb * 65535, colour, atol=5)


def test_white_is_zero():
    a = whole(7, 3, bits=16)
    file = io.BytesIO()
    tifffile.imwrite(file, a, photometric="miniswhite", metadata=None)
    file.seek(0)
    assert np.array_equal(samples(read(file))[..., 0], 65535 - a)


@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_samples_without_a_known_white_are_refused(dtype):
    file = io.BytesIO()
    tifffile.imwrite(file, np.ones((7, 3), dtype), metadata=None)
    file.seek(0)
    with pytest.raises(InputError, match="16 bits"):
        read(file)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_16_bits(format, orientation):
    a = whole(5, 8, 3, bits=16)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    if format == "TIFF":
        tifffile.imwrite(
            file, a, photometric="rgb", metadata=None, extratags=[(274, 3, 1, orientation, True)]
        )
    else:
        plain = png.from_array(a.reshape(5, -1), "RGB;16")
        plain.write(file)
        chunks = list(png.Reader(bytes=file.getvalue()).chunks())
        file = io.BytesIO()
        png.write_chunks(file, [chunks[0], (b"eXIf", exif.tobytes()[6:]), *chunks[1:]])
    file.seek(0)
    small = Image.fromarray((a[..., 0] >> 8).astype(np.uint8))
    small.getexif()[ORIENTATION] = orientation
    want = np.asarray(ImageOps.exif_transpose(small))
    assert np.array_equal(samples(read(file))[..., 0] >> 8, want)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rows_compressed_in_pieces_are_one_png(monkeypatch, threads, dtype):
    """Pieces much smaller than a band, with what deflate may refer to across them."""
    for name, value in {
        "_PIECE": 1000,
        "_WINDOW": 700,
        "_AT_ONCE": 2500,
        "_THREADS": threads,
    }.items():
        monkeypatch.setattr(png16, name, value)
    rng = np.random.default_rng(2)
    a = rng.integers(0, np.iinfo(dtype).max, (5, 70, 3)).repeat(60, 0).astype(dtype)  # 300 rows
    file = io.BytesIO()
    writer = png16.Writer(file, a.shape[:2], 3, a.dtype, Extras(software="diffsr"))
    for begin, end in ((0, 1), (1, 290), (290, 300)):
        writer.add(a[begin:end])
    writer.close()
    file.seek(0)
    made = np.asarray(Image.open(file)) if dtype == np.uint8 else png16.read(file, Image.open(file))
    assert np.array_equal(made, a)
    file.seek(0)
    chunks = [len(data) for kind, data in png.Reader(file=file).chunks() if kind == b"IDAT"]
    assert len(chunks) > a.nbytes // 1000
    assert max(chunks) < 1100
    assert sum(chunks) < a.nbytes / 10  # repeated rows, found again in what lies before a piece
