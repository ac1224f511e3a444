"""TIFFs in unusual layouts: channels of 8 bits in planes, YCbCr, old palettes, layers in depth."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from picture_files import samples, saved, whole
from PIL import Image, TiffImagePlugin

from upscale.errors import InputError
from upscale.image.decode import read


def tiff(a: np.ndarray, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    tifffile.imwrite(file, a, metadata=None, **options)
    file.seek(0)
    return file


def patched(file: io.BytesIO, tag: int, value: bytes) -> io.BytesIO:
    """A little-endian TIFF with another value in an entry of its first directory."""
    data = bytearray(file.getvalue())
    at = struct.unpack("<I", data[4:8])[0]
    (count,) = struct.unpack("<H", data[at : at + 2])
    entries = range(at + 2, at + 2 + 12 * count, 12)
    (place,) = (e for e in entries if struct.unpack("<H", data[e : e + 2])[0] == tag)
    data[place + 8 : place + 8 + len(value)] = value
    return io.BytesIO(bytes(data))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
@pytest.mark.parametrize("extra", [["unassalpha"], ["unassalpha", "unspecified"], ["unspecified"]])
def test_channels_of_8_bits_beside_the_colours(photometric, planar, compression, extra):
    colours = 3 if photometric == "rgb" else 1
    a = whole(7, 9, colours + len(extra))
    stored = np.moveaxis(a, 2, 0) if planar == "separate" else a
    picture = read(tiff(stored, photometric=photometric, planarconfig=planar,
                        extrasamples=extra, compression=compression))  # fmt: skip
    want = a[..., :colours].copy()
    if photometric == "miniswhite":
        want = 255 - want
    if extra[0] == "unassalpha":
        want = np.dstack([want, a[..., colours]])
    assert picture.bits == 8
    assert np.array_equal(samples(picture), want)
    unnamed = len(extra) - (extra[0] == "unassalpha")
    assert any("left out" in note for note in picture.notes) == (unnamed > 0)


def test_premultiplied_planes_are_made_straight():
    alpha = whole(7, 9, seed=1)
    alpha[:, 0], colour = 0, whole(7, 9, 3)
    stored = np.dstack([np.rint(colour * (alpha[..., None] / 255)).astype(np.uint8), alpha])
    picture = read(tiff(np.moveaxis(stored, 2, 0), photometric="rgb", planarconfig="separate",
                        extrasamples=["assocalpha"]))  # fmt: skip
    assert np.array_equal(np.rint(picture.alpha * 255), alpha)
    seen = alpha > 100
    assert np.abs(picture.rgb * 255 - colour)[seen].max() < 1.5


def test_what_was_multiplied_into_colours_is_not_rounded_down():
    stored = np.array([[[100, 33, 7, 128], [3, 2, 1, 3], [9, 8, 7, 0]]], np.uint8)
    picture = read(tiff(stored, photometric="rgb", extrasamples=["assocalpha"]))
    want = stored[..., :3] / np.maximum(stored[..., 3:], 1)
    assert np.abs(picture.rgb - want)[0, :2].max() < 1e-6


@pytest.mark.parametrize("photometric, colours", [("rgb", 4), ("miniswhite", 1), ("rgb", 3)])
def test_bytes_whose_bits_stand_the_other_way_round(photometric, colours):
    a = whole(7, 9, colours)
    turned = np.packbits(np.unpackbits(a[..., None], -1)[..., ::-1], -1)[..., 0]
    extra = ["unassalpha"] if colours == 4 else None
    file = tiff(turned.squeeze(), photometric=photometric, extrasamples=extra,
                extratags=[(274, 3, 1, 2)])  # fmt: skip
    order = struct.pack("<HHI", 266, 3, 1)  # FillOrder in the place of an orientation
    file = io.BytesIO(file.getvalue().replace(struct.pack("<HHI", 274, 3, 1), order))
    assert np.array_equal(samples(read(file)), 255 - a if photometric == "miniswhite" else a)


def test_planes_of_which_pillow_makes_garbage_are_refused():
    a = whole(3, 7, 9)
    lab = tiff(a, photometric="cielab", planarconfig="separate")
    with pytest.raises(InputError, match="Lab in planes, which diffsr cannot read"):
        read(lab)
    two = tiff(a[:2], photometric="minisblack", planarconfig="separate",
               extrasamples=["unassalpha"])  # fmt: skip
    with pytest.raises(InputError, match="a palette and transparency in planes"):
        read(patched(two, 262, struct.pack("<H", 3)))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_fourth_channel_that_nothing_is_said_of_is_left_out_and_told(bits):
    a = whole(7, 9, 4, bits=bits)
    file = tiff(a, photometric="rgb", extrasamples=["unassalpha"])
    data = bytearray(file.getvalue())
    place = data.index(struct.pack("<HHI", 338, 3, 1))
    data[place : place + 2] = struct.pack("<H", 60000)  # instead of ExtraSamples
    picture = read(io.BytesIO(bytes(data)))
    assert np.array_equal(samples(picture), a[..., :3])
    assert picture.notes == ("a further channel of the TIFF, not named as transparency, left out",)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_of_16_bit_inks_are_right_or_refused(compression):
    a = whole(7, 9, 4, bits=16)
    kind = {"photometric": "separated", "compression": compression}
    want = samples(read(tiff(a, planarconfig="contig", **kind)))
    planes = tiff(np.moveaxis(a, 2, 0), planarconfig="separate", **kind)
    if compression:
        assert np.array_equal(samples(read(planes)), want)
    else:
        with pytest.raises(InputError, match="CMYK in planes of 16 bits without compression"):
            read(planes)


def test_an_old_palette_of_8_bits_is_not_black():
    source = Image.fromarray(whole(9, 5, 3)).quantize(16)
    file = saved(source, "TIFF")
    with Image.open(file) as im:
        wide = im.tag_v2[320]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[320] = tuple(value >> 8 for value in wide)
    assert max(tags[320]) > 200
    picture = read(saved(source, "TIFF", tiffinfo=tags))
    assert np.array_equal(samples(picture), np.asarray(source.convert("RGB")))


def test_uncompressed_ycbcr_only_where_it_is_laid_out_as_rgb():
    source = Image.fromarray(whole(8, 6, 3)).convert("YCbCr")
    plain = saved(source, "TIFF", tiffinfo={530: (1, 1)})
    assert np.abs(samples(read(plain)).astype(int) - np.asarray(source.convert("RGB"))).max() <= 1
    for told in ({530: (2, 2)}, {530: (2, 1)}):
        with pytest.raises(InputError, match="subsampled YCbCr colours without compression"):
            read(saved(source, "TIFF", tiffinfo=told))


def test_layers_in_depth_and_strips_of_no_bytes_are_refused():
    volume = tiff(whole(4, 16, 16, bits=16), photometric="minisblack", volumetric=True,
                  tile=(16, 16))  # fmt: skip
    with pytest.raises(InputError, match="of 4 layers in depth"):
        read(volume)
    file = tiff(whole(4, 4, bits=16), photometric="minisblack")
    assert read(file)
    with pytest.raises(InputError, match="said to hold no bytes"):
        read(patched(file, 279, bytes(4)))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["bilevel", "palette", "separated", "rgb"])
def test_any_bigtiff_of_either_byte_order_is_read_as_a_classic_one(kind, compression, big):
    a = whole(9, 21, {"separated": 4, "rgb": 3}.get(kind, 1)).squeeze()
    options = {"photometric": "minisblack" if kind == "bilevel" else kind}
    if kind == "palette":
        options["colormap"] = whole(3, 256, bits=16)
    a = a > 99 if kind == "bilevel" else a
    want, found = (
        read(tiff(a, bigtiff=big, byteorder=order, compression=compression, **options))
        for big, order in ((False, "<"), (big, ">"))
    )
    assert np.array_equal(samples(found), samples(want))
    assert (found.grey, found.notes) == (want.grey, want.notes)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_bits_of_bytes_in_the_other_order(compression):
    a, file = whole(7, 9, bits=16), io.BytesIO()
    Image.fromarray(a).save(file, "TIFF", compression=compression, tiffinfo={266: 2, 278: 3})
    file.seek(0)
    assert np.array_equal(samples(read(file))[..., 0], a)
