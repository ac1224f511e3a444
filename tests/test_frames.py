"""Animations and files of several pages: read as they are seen, enlarged, written as one file."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import png
import pytest
import tifffile
from picture_files import saved, whole
from PIL import GifImagePlugin, Image

from upscale import read, read_frames, upscale_many, write_frames
from upscale.batch.dry import planned
from upscale.batch.engine import Engine, Pace
from upscale.batch.files import Files
from upscale.batch.job import Job
from upscale.batch.names import Source, naming_of, plan
from upscale.errors import InputError, OutputError, UsageError
from upscale.image import exif, gif, tiff, webp
from upscale.image.picture import Picture
from upscale.pipeline.frames import plans
from upscale.pipeline.request import Request
from upscale.pipeline.upscaler import Upscaler

TIMES = [40, 70, 100, 2000]
MOVING = ["GIF", "PNG", "WEBP"]


def frames(count: int = 4, channels: int = 3, size: tuple[int, int] = (9, 14)) -> list[np.ndarray]:
    """uint8: a block of one colour moves over a ground that stands still."""
    ground = np.full((*size, channels), (200, 40, 90, 255)[:channels], np.uint8)
    ground[::2, ::3, :3] = (0, 250, 120)
    made = []
    for number in range(count):
        frame = ground.copy()
        frame[2:6, 3 * number : 3 * number + 3, :3] = (255, 255, 0)
        made.append(frame)
    return made


def film_file(format: str, pictures: list[np.ndarray], **options: object) -> io.BytesIO:
    images = [Image.fromarray(one) for one in pictures]
    options = {"duration": TIMES[: len(images)], "loop": 0, **options}
    if format == "WEBP":
        options["lossless"] = options["exact"] = True
    file = io.BytesIO()
    images[0].save(file, format, save_all=True, append_images=images[1:], **options)
    file.seek(0)
    return file


def as_bytes(picture: Picture) -> np.ndarray:
    """uint8 (H,W,3), or (H,W,4) where there is transparency."""
    parts = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha]
    return np.rint(np.dstack(parts) * 255).astype(np.uint8)


def rewritten(file: io.BytesIO, format: str, **options: object) -> io.BytesIO:
    film, made = read_frames(file), io.BytesIO()
    with write_frames(made, film, format=format, quality=100, **options) as add:
        for picture in film:
            add(picture, picture.size, "diffsr test")
    made.seek(0)
    return made


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", MOVING)
def test_frames_are_read_as_they_are_seen(format) -> None:
    pictures = frames()
    film = read_frames(film_file(format, pictures))
    assert (film.kind, len(film), film.milliseconds, film.plays) == ("frames", 4, tuple(TIMES), 0)
    for picture, expected in zip(film, pictures, strict=True):
        assert np.array_equal(as_bytes(picture), expected)
    assert [len(read_frames(saved(pictures[0], "PNG"))), film.sizes[0]] == [1, (9, 14)]


def test_what_disposal_leaves_is_on_the_next_frame() -> None:
    """A GIF's small frames over a large one: cleared, put back, kept."""
    palette = Image.new("P", (1, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255])

    def part(colour: int, size: tuple[int, int], at: tuple[int, int], disposal: int) -> bytes:
        image = Image.new("P", size, colour)
        image.putpalette(palette.getpalette())
        how = {"duration": 50, "disposal": disposal, "transparency": 3}
        return b"".join(GifImagePlugin.getdata(image, at, **how))

    first = Image.new("P", (6, 4), 0)
    first.putpalette(palette.getpalette())
    head = b"".join(GifImagePlugin.getheader(first, info={"optimize": False})[0])
    data = head.replace(b"GIF87a", b"GIF89a") + part(0, (6, 4), (0, 0), 1)
    data += part(1, (2, 2), (0, 0), 3) + part(2, (2, 2), (4, 0), 2)
    data += part(1, (1, 1), (0, 3), 1) + b";"
    film = read_frames(io.BytesIO(data))
    red, green, blue, clear = ([255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [0, 0, 0, 0])
    expected = np.full((4, 4, 6, 4), red, np.uint8)
    expected[1, :2, :2] = green  # put back what was there before it
    expected[2, :2, 4:] = blue  # cleared
    expected[3, :2, 4:], expected[3, 3, 0] = clear, green
    for picture, one in zip(film, expected, strict=True):
        assert np.array_equal(as_bytes(picture), one)
    assert film.alpha and film.plays == 1


def apng(parts: list[tuple[np.ndarray, tuple[int, int], int, int]], hidden: bool = False) -> bytes:
    """Frames of uint8 or uint16 (H,W,4): pixels, (top, left), disposal, blending; hidden: a picture
    before them is not one."""
    file, order, first = io.BytesIO(), 0, parts[0][0]
    bits, (height, width) = first.dtype.itemsize * 8, first.shape[:2]
    file.write(b"\x89PNG\r\n\x1a\n")
    png.write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 6, 0, 0, 0))
    png.write_chunk(file, b"acTL", struct.pack(">II", len(parts), 3))
    if hidden:
        png.write_chunk(file, b"IDAT", zlib.compress(bytes(height * (1 + width * 4 * bits // 8))))
    for number, (pixels, (top, left), disposal, blending) in enumerate(parts):
        high, wide = pixels.shape[:2]
        place = struct.pack(">IIIII", order, wide, high, left, top)
        times = struct.pack(">HHBB", 1, 25, disposal, blending)
        png.write_chunk(file, b"fcTL", place + times)
        order += 1
        rows = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(high, -1)
        data = zlib.compress(np.insert(rows, 0, 0, axis=1).tobytes())
        if number == 0 and not hidden:
            png.write_chunk(file, b"IDAT", data)
        else:
            png.write_chunk(file, b"fdAT", struct.pack(">I", order) + data)
            order += 1
    png.write_chunk(file, b"IEND", b"")
    return file.getvalue()


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_half_transparent_frames_are_blended(dtype, hidden) -> None:
    top = np.iinfo(dtype).max
    ground, veil = np.zeros((3, 5, 4), dtype), np.zeros((2, 2, 4), dtype)
    ground[:, :2] = (0, 0, top, top)
    veil[:] = (top, 0, 0, top // 2)
    parts = [(ground, (0, 0), 0, 0), (veil, (1, 1), 1, 1), (veil, (0, 3), 0, 0)]
    film = read_frames(io.BytesIO(apng(parts, hidden)))
    assert (len(film), film.milliseconds, film.plays) == (3, (40, 40, 40), 3)
    _, second, third = film
    assert second.bits == np.dtype(dtype).itemsize * 8
    half = pytest.approx(0.5, abs=0.01)
    assert second.alpha[1].tolist() == [1, 1, half, 0, 0]
    assert second.rgb[1, 1].tolist() == [half, 0, half]  # over blue
    assert second.rgb[1, 2].tolist() == [1, 0, 0]  # over nothing: as red as before
    assert third.alpha[1].tolist() == [1, 0, 0, half, half]  # cleared; then in its place


def test_pages_are_of_any_size_and_kind(tmp_path) -> None:
    kinds = [whole(9, 5, 3), whole(6, 8, bits=16), whole(4, 4, 4), whole(7, 3)]
    for big, order in ((False, "<"), (True, "<"), (False, ">")):
        path = tmp_path / "pages.tif"
        with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as tiff:
            for one in kinds:
                colour = "minisblack" if one.ndim == 2 else "rgb"
                extra = ["unassalpha"] if one.shape[-1] == 4 and one.ndim == 3 else None
                tiff.write(one, photometric=colour, extrasamples=extra, metadata=None)
                tiff.write(whole(2, 2), metadata=None, subfiletype=1)  # a thumbnail
        film = read_frames(path)
        assert (film.kind, film.sizes) == ("pages", ((9, 5), (6, 8), (4, 4), (7, 3)))
        for picture, one in zip(film, kinds, strict=True):
            expected = np.atleast_3d(one) / np.iinfo(one.dtype).max
            assert (picture.bits, picture.grey) == (one.dtype.itemsize * 8, one.ndim == 2)
            np.testing.assert_allclose(picture.rgb[..., : expected.shape[2]], expected[..., :3],
                                       atol=1e-6)  # fmt: skip
            assert (picture.alpha is None) == (expected.shape[2] != 4)


@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF"])
def test_of_a_file_cut_short_the_frames_before_that_can_be_had(format) -> None:
    data = film_file(format, frames()).getvalue()
    whole_film = read_frames(io.BytesIO(data))
    cut = data[: int(len(data) * (0.8 if format != "TIFF" else 0.7))]
    with pytest.raises(InputError, match=r"the first \d (frames|pages) can be read: get it"):
        read_frames(io.BytesIO(cut))
    film = read_frames(io.BytesIO(cut), allow_truncated=True)
    assert 0 < len(film) < 4 and "only the first" in film.notes[-1]
    for picture, other in zip(film, whole_film, strict=False):
        assert np.array_equal(picture.rgb, other.rgb)


def test_of_one_frame_that_is_whole_a_still_is_made(tmp_path) -> None:
    """Of the second there is a part: neither it nor the note is forgotten."""
    data = film_file("GIF", frames(2)).getvalue()
    (tmp_path / "cut.gif").write_bytes(data[:-9])
    with pytest.raises(InputError, match="cut short; the first frame can be read: get it"):
        read_frames(tmp_path / "cut.gif")
    (made,) = upscale_many(
        [tmp_path / "cut.gif"], method="bicubic", scale=2, frames="all", allow_truncated=True
    )
    assert made.image.size == (28, 18)
    assert any("only the first frame can be read" in note for note in made.report["notes"])


def test_frames_that_lie_on_their_side_are_turned() -> None:
    """Pillow decodes those of WebP, and leaves them as they are stored."""
    tags = Image.Exif()
    tags[0x112] = 6
    film = read_frames(film_file("WEBP", frames(2), exif=tags.tobytes()))
    for picture, stored in zip(film, frames(2), strict=True):
        assert np.array_equal(as_bytes(picture), np.rot90(stored, -1))


def test_a_film_of_which_nothing_can_be_seen_becomes_a_gif() -> None:
    clear = [np.zeros((5, 7, 4), np.uint8), np.zeros((5, 7, 4), np.uint8)]
    clear[1][0, 0] = 255, 0, 0, 3  # so that there are two frames
    again = read_frames(rewritten(film_file("PNG", clear), "GIF"))
    assert len(again) == 2 and all(not picture.alpha.any() for picture in again)


def test_a_file_that_is_no_film_is_read_as_ever(tmp_path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(whole(9, 5, 3), "JPEG").getvalue())
    (only,) = read_frames(path)
    assert np.array_equal(only.rgb, read(path).rgb)
    path.write_bytes(b"GIF89a" + bytes(30))
    with pytest.raises(InputError, match=r"a\.jpg: "):
        read_frames(path)


@pytest.mark.parametrize("format", ["JPEG", "GIF", "PNG"])
def test_advice_on_a_file_cut_short_is_that_of_a_still(format) -> None:
    data = saved(whole(30, 40, 3), format).getvalue()
    with pytest.raises(InputError) as still:
        read(io.BytesIO(data[: len(data) // 2]))
    with pytest.raises(InputError) as film:
        read_frames(io.BytesIO(data[: len(data) // 2]))
    assert "get it again, or take what is there with --allow-truncated" in str(still.value)
    assert str(film.value) == str(still.value)
    assert len(read_frames(io.BytesIO(data[: len(data) // 2]), allow_truncated=True)) == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_a_png_that_only_says_that_it_moves_is_a_still(count, late) -> None:
    a = whole(9, 5, 3)
    chunk = b"acTL" + struct.pack(">II", count, 0)
    chunk = struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = saved(a, "PNG").getvalue()
    at = data.index(b"IEND") - 4 if late else data.index(b"IDAT") - 4
    data = data[:at] + chunk + data[at:]
    for picture in (read(io.BytesIO(data)), *read_frames(io.BytesIO(data))):
        assert np.array_equal(as_bytes(picture), a)
        assert picture.notes == ("damaged chunks of the PNG were left out: acTL",)


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", MOVING)
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("source", MOVING)
def test_timing_plays_and_pixels_are_kept(source, channels, format) -> None:
    pictures = frames(channels=channels)
    for number, frame in enumerate(pictures):
        frame[7:, number : number + 4, 3:] = 0
    film = read_frames(film_file(source, pictures, loop=5))
    again = read_frames(made := rewritten(film_file(source, pictures, loop=5), format))
    assert (again.milliseconds, again.plays) == (film.milliseconds, film.plays)
    assert again.alpha == (channels == 4)
    by_pillow = Image.open(made)
    for number, (one, other) in enumerate(zip(film, again, strict=True)):
        seen = 1 if one.alpha is None else (one.alpha > 0)[..., None]
        assert np.array_equal(one.rgb * seen, other.rgb * seen)
        by_pillow.seek(number)
        shown = np.asarray(by_pillow.convert("RGBA"))
        assert np.array_equal(shown[..., 3] > 0, np.ones((9, 14)) > 0 if channels == 3 else
                              other.alpha > 0)  # fmt: skip
        assert np.array_equal(shown[..., :3] * seen, as_bytes(other)[..., :3] * seen)


def test_gif_has_one_palette_and_no_drift_in_time() -> None:
    pictures = frames(3)
    film = read_frames(film_file("PNG", pictures, duration=[25, 25, 25]))
    made = io.BytesIO()
    with write_frames(made, film, format="gif") as add:
        for picture in film:
            add(picture, picture.size, None)
    data = made.getvalue()
    assert sum(read_frames(io.BytesIO(data)).milliseconds) in (70, 80)
    blocks = [data[i : i + 10] for i in range(len(data)) if data[i : i + 2] == b"!\xf9"]
    assert len(blocks) == 3
    tables = list(read_frames(io.BytesIO(data)))
    assert all(np.array_equal(a.rgb[0], tables[0].rgb[0]) for a in tables)


def test_a_frame_that_is_longer_than_gif_knows_leaves_the_rest_to_the_next() -> None:
    slow = film_file("WEBP", frames(2), duration=[700_000, 40])
    assert read_frames(rewritten(slow, "GIF")).milliseconds == (655_350, 44_690)


def test_webp_does_not_drift_in_time() -> None:
    film = replace(read_frames(film_file("PNG", frames(3))), milliseconds=(50 / 3,) * 3)
    made = io.BytesIO()
    with write_frames(made, film, format="webp") as add:
        for picture in film:
            add(picture, picture.size, None)
    assert read_frames(io.BytesIO(made.getvalue())).milliseconds == (17, 16, 17)


def test_a_part_that_stands_still_is_not_written_again() -> None:
    still = [whole(60, 80, 3)] * 2
    moved = [still[0], still[0].copy()]
    moved[1][3, 5] += 1
    for format in MOVING:
        film = read_frames(film_file("PNG", [still[0], whole(60, 80, 3, seed=1)]))
        sizes = []
        for pictures in (still, moved):
            made = io.BytesIO()
            with write_frames(made, film, format=format, quality=100) as add:
                for one in pictures:
                    add(Picture(one / np.float32(255)), (60, 80), None)
            sizes.append(len(made.getvalue()))
            assert len(read_frames(io.BytesIO(made.getvalue()))) == 2
        alone = saved(still[0], format, lossless=True).getvalue()
        assert sizes[1] < 1.2 * sizes[0] < 1.6 * len(alone)


def test_pages_keep_depth_and_metadata_in_both_byte_orders(tmp_path) -> None:
    path, out = tmp_path / "in.tif", tmp_path / "out.tif"
    for order in "<>":
        with tifffile.TiffWriter(path, byteorder=order) as tiff:
            tiff.write(whole(9, 5, 3, bits=16), photometric="rgb", metadata=None)
            tiff.write(whole(6, 8), metadata=None, description="second", resolution=(200, 100),
                       resolutionunit="INCH")  # fmt: skip
        film = read_frames(path)
        with write_frames(out, film, overwrite=True) as add:
            for picture in film:
                add(picture, picture.size, "diffsr test")
        again = read_frames(out)
        for one, other in zip(film, again, strict=True):
            assert np.array_equal(one.rgb, other.rgb) and one.bits == other.bits
        second = list(again)[1]
        assert second.dpi == (200, 100) and b"second" in second.exif
        with tifffile.TiffFile(out) as tiff:
            assert [page.software for page in tiff.pages] == ["diffsr test"] * 2
            assert tiff.pages[1].description == "second"


def test_exif_in_the_other_byte_order_says_the_same() -> None:
    tags = {272: exif.text("Ä camera"), 0x8769: {0x829A: exif.whole("<", exif.RATIONAL, 1, 250),
            0x8827: exif.whole("<", exif.SHORT, 100, 200)}}  # fmt: skip
    block = exif.PREFIX + exif.laid_out("<", tags)
    turned = exif.reordered(block, ">")
    assert exif.tags_of(turned)[0] == ">"
    said = [dict(Image.Exif().get_ifd(0))]
    for data in (block, turned):
        found = Image.Exif()
        found.load(data)
        said.append({**dict(found), **found.get_ifd(0x8769)})
    assert said[1][0x829A] == said[2][0x829A] == 1 / 250 and said[1][0x8827] == said[2][0x8827]


@pytest.mark.parametrize(
    ("format", "kind", "words"),
    [
        ("jpeg", "PNG", "JPEG cannot hold several frames: write PNG or WEBP or TIFF or GIF"),
        ("avif", "GIF", "AVIF cannot hold several frames"),
        ("png", "TIFF", "PNG cannot hold several pages: write TIFF"),
    ],
)
def test_formats_of_one_picture_say_which_hold_several(format, kind, words, tmp_path) -> None:
    film = read_frames(film_file(kind, frames()))
    target = tmp_path / f"out.{format}"
    with pytest.raises(OutputError, match=words), write_frames(target, film):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["gif", "png", "webp", "tiff"])
def test_a_failure_between_frames_leaves_nothing(format, tmp_path) -> None:
    film = read_frames(film_file("PNG", frames()))
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error), write_frames(tmp_path / f"o.{format}", film) as add:
            add(film.first, film.first.size, None)
            raise error
    with pytest.raises(UsageError, match="1 of 4"), write_frames(io.BytesIO(), film,
                                                                 format=format) as add:  # fmt: skip
        add(film.first, film.first.size, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["gif", "png", "webp", "tiff"])
def test_memory_does_not_grow_with_the_number_of_frames(format, tmp_path, monkeypatch) -> None:
    """Of noise, whose compressed frames are as large as they are."""
    monkeypatch.setattr(webp, "_SPOOL_BYTES", 1000)
    monkeypatch.setattr(tiff, "_SPOOL_BYTES", 1000)
    monkeypatch.setattr(gif, "SAMPLED", 1000)

    def peak(count: int) -> int:
        path = tmp_path / f"in{count}.png"
        pictures = [whole(100, 150, 3, seed=i) for i in range(count)]
        path.write_bytes(film_file("PNG", pictures, duration=40).getvalue())
        del pictures
        film = read_frames(path)
        tracemalloc.start()
        with write_frames(tmp_path / f"out{count}.{format}", film) as add:
            for picture in film:
                add(picture, picture.size, None)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)  # what is imported at first
    assert peak(12) < peak(4) + 100 * 150 * 3  # less than one of eight frames


# --- enlarging ------------------------------------------------------------------------------------


def scene() -> np.ndarray:
    return np.asarray(Image.fromarray(whole(5, 7, 3)).resize((28, 20), Image.Resampling.BICUBIC))


@pytest.fixture
def still(tmp_path: Path) -> Path:
    """A still, repeated 8 times. Pillow would join the frames."""
    picture = scene()
    path = tmp_path / "still.png"
    opaque = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    path.write_bytes(apng([(opaque, (0, 0), 0, 0)] * 8))
    return path


@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp", ".tiff"])
def test_a_still_repeated_eight_times_does_not_flicker(suffix, still, tiny_weights) -> None:
    """Nor where the noise is strong; and the noise depends on the place alone."""
    options = {"weights": tiny_weights, "device": "cpu", "temperature": 1.0, "scale": 2}
    (made,) = upscale_many(
        [still], still.parent / "out", frames="all", format=suffix[1:], **options
    )
    assert made.error is None, made.error
    first, *others = read_frames(made.output)
    assert len(others) == 7 and first.size == (40, 56)
    for other in others:
        assert np.abs(other.rgb - first.rgb).max() == 0
    assert made.report["frames"] == 8 and made.report["nfe"] % 8 == 0


def test_all_frames_have_the_noise_of_a_place(tiny_weights) -> None:
    """Frames that differ in one corner: elsewhere their results are equal, but not with noise
    that is drawn by the content."""
    upscaler = Upscaler(weights=tiny_weights, device="cpu")
    one = Picture(np.ascontiguousarray(np.tile(scene(), (5, 5, 1)) / np.float32(255)))
    other = replace(one, rgb=one.rgb.copy())
    other.rgb[:3, :3] = 1 - other.rgb[:3, :3]
    how = {"scale": 2, "temperature": 1.0, "consistency": "off"}
    far = (slice(-40, None), slice(-40, None))

    def difference(**also: bool) -> float:
        a, b = (upscaler(p, **how, **also).picture.rgb[far] for p in (one, other))
        return float(np.abs(a - b).max())

    assert difference(same_noise=True) < 1e-4 < 0.01 < difference()


def test_what_the_first_frame_decides_holds_for_all(tmp_path) -> None:
    """Weights that changed with the grain of each frame would flicker; pages are each their own."""
    upscaler = Upscaler(device="cpu")
    clean = np.asarray(
        Image.open(Path(__file__).parents[1] / "examples/parrots.png").resize((96, 64))
    )[..., :3]
    rng = np.random.default_rng(0)
    noisy = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    for kind, decided in (("PNG", 1), ("TIFF", 2)):
        path = tmp_path / f"a.{kind.lower()}"
        path.write_bytes(film_file(kind, [clean, noisy]).getvalue())
        found = [made for made, _ in plans(upscaler, read_frames(path), Request(scale=2))]
        assert len({one.denoise for one in found}) == decided
        assert all(one.request.same_noise for one in found)


def test_from_python_frames_come_as_one_image_or_one_by_one(tmp_path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(film_file("GIF", frames()).getvalue())
    pages = tmp_path / "b.tif"
    pages.write_bytes(film_file("TIFF", frames(3)).getvalue())
    made, two = upscale_many([path, pages], method="bicubic", scale=2, frames="all")
    assert (made.image.n_frames, made.image.size, two.image.n_frames) == (4, (28, 18), 3)
    made.image.seek(3)
    expected = np.asarray(Upscaler("bicubic")(frames()[3], scale=2))
    assert np.array_equal(np.asarray(made.image.convert("RGB")), expected)
    assert made.image.info["duration"] == 2000 and "pages" in two.report
    results = list(Upscaler("bicubic").frames(read_frames(path), scale=2))
    assert np.array_equal(as_bytes(results[3].picture), expected)


def job_of(path: Path, made: dict | None = None, **files: object) -> tuple[Job, list]:
    request, kept = Request(scale=2), Files(frames="all", **files)
    job = Job(lambda: Upscaler("bicubic"), request=request, files=kept)
    items = plan([Source(str(path), Path(path.name))], None, naming_of(request, kept), many=False)
    return job, items


def test_dry_run_forecasts_the_sum(tmp_path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for side in (40, 80):
            tiff.write(whole(side, 50, 3), photometric="rgb", metadata=None)
    job, items = job_of(path)
    record = planned(job, items[0])
    assert record["frames"] == 2
    assert [page["size_out"] for page in record["pages"]] == [[80, 100], [160, 100]]
    path = tmp_path / "a.png"
    path.write_bytes(film_file("PNG", frames()).getvalue())
    job, items = job_of(path)
    job.forecast.seconds = lambda *args: 1.5
    record = planned(job, items[0])
    assert (record["seconds"], record["frames"], record["plays"]) == (6, 4, 0)
    assert record["milliseconds"] == TIMES


def test_progress_names_frames_and_pages_must_fit(tmp_path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(film_file("GIF", frames()).getvalue())
    job, items = job_of(path)
    told = []
    job.on_frame = lambda name, *where: told.append(where)
    (ticket,) = Engine(job, Pace(0)).run(items)
    assert told == [("frame", number, 4) for number in (1, 2, 3, 4)]
    assert ticket.record["milliseconds"] == TIMES and ticket.record["notes"]
    job, items = job_of(path, samples=2, uncertainty=True)
    (ticket,) = Engine(job, Pace(0)).run(items)
    assert isinstance(ticket.error, UsageError) and "still pictures" in str(ticket.error)
    with tifffile.TiffWriter(tmp_path / "p.tif") as tiff:
        for side in (40, 90):
            tiff.write(whole(side, 50, 3), photometric="rgb", metadata=None)
    job, items = job_of(tmp_path / "p.tif")
    job.request = Request(size=(80, 100))
    (ticket,) = Engine(job, Pace(0)).run(items)
    assert "50x90 to 100x80 is not an enlargement" in str(ticket.error)


def test_samples_are_files_of_their_own(tmp_path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(film_file("GIF", frames()).getvalue())
    job, items = job_of(path, samples=2)
    (ticket,) = Engine(job, Pace(0)).run(items)
    assert [len(read_frames(out)) for out in items[0].outputs] == [4, 4]
    assert len(ticket.record["samples"]) == 2


def test_a_sample_that_is_there_stays_and_is_on_the_sheet(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.gif").write_bytes(film_file("GIF", frames()).getvalue())
    Path("out").mkdir()
    Path("out/a_x2_s1.gif").write_bytes(b"an older one")
    options = {"frames": "all", "samples": 2, "skip_existing": True, "sheet": "look.html"}
    (made,) = upscale_many(["a.gif"], "out", method="bicubic", scale=2, **options)
    assert made.error is None and made.report["frames"] == 4
    assert Path("out/a_x2_s1.gif").read_bytes() == b"an older one"
    assert len(read_frames("out/a_x2_s2.gif")) == 4
    assert Path("look.html").read_text().count("<figcaption>bicubic, variant") == 2


@pytest.mark.slow
def test_an_interrupted_film_leaves_nothing(tmp_path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(film_file("GIF", frames()).getvalue())
    code = [sys.executable, str(Path(__file__).parent / "cli_fake.py"), "a.gif", "--frames", "all"]
    env = {"FAKE_SLEEP": "0.2", "PATH": "", "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(code, cwd=tmp_path, env=env, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 20
        while not list(tmp_path.glob(".diffsr-*")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(2)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert [one.name for one in tmp_path.iterdir()] == ["a.gif"]


def test_json_of_a_film(tmp_path, monkeypatch) -> None:
    from click.testing import CliRunner

    from upscale.cli.main import cli

    monkeypatch.chdir(tmp_path)
    Path("a.gif").write_bytes(film_file("GIF", frames()).getvalue())
    line = ["upscale", "a.gif", "--frames", "all", "--method", "bicubic", "--json", "--scale", "2"]
    told = CliRunner().invoke(cli, line, standalone_mode=False)
    row = json.loads(told.stdout)
    assert (row["frames"], row["plays"], row["milliseconds"]) == (4, 0, TIMES)
    assert row["same_noise"] and "4 frames, 14x9 to 28x18" in told.stderr
    Path("b.jpg").unlink(missing_ok=True)
    told = CliRunner().invoke(cli, [*line, "-o", "b.jpg"], standalone_mode=False)
    assert "write PNG or WEBP or TIFF or GIF" in told.stderr and not Path("b.jpg").exists()
    told = CliRunner().invoke(cli, [part for part in [*line, "-o", "-"] if part != "--json"])
    assert told.stdout_bytes.startswith(b"GIF89a")
