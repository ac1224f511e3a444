"""Refusing what is no picture, or not all of one: at once, by name, and with what to try."""

import io
import struct
import sys
import threading
import warnings
import zlib
from contextlib import suppress

import numpy as np
import png
import pytest
from picture_files import (
    saved,
    smooth,
    whole,
)
from PIL import Image, ImageFile

from upscale.errors import InputError, OutOfMemory
from upscale.image import decode, jpeg
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.picture import Picture

# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
        (b"\n <HTML>", "HTML page"),
        (b"<svg xmlns='x'/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"hello", "not a picture"),
        (b"BM and a text that goes on", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF", "PostScript"),
        (b"qoif\0\0\0\1", "QOI"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
        (b"\0\0\1\0\1\0\x10\x10", "an icon"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (b"II*\0\x08\0\0\0", "damaged"),
        (b"RIFF\x04\0\0\0WEBP", "damaged"),
        (b"GIF89a", "damaged"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "damaged"),
        (b"BM" + bytes(12) + b"\x28\0\0\0", "damaged"),
    ],
)
def test_what_is_no_picture(content, words, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"photo\.png: .*{words}"):
        read(path)
    assert path.read_bytes() == content


def test_missing_folder_and_forbidden(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        read(tmp_path / "none.png")
    with pytest.raises(InputError, match="folder"):
        read(tmp_path)
    with pytest.raises(InputError, match="cannot be opened"):
        read("a\0b.png")

    def forbid(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(decode, "open", forbid, raising=False)
    with pytest.raises(InputError, match="may not be read"):
        read(tmp_path / "secret.png")


def files_to_cut() -> dict[str, bytes]:
    a = smooth(96, 130)
    deep = io.BytesIO()
    write(Picture(a.astype(np.float32) / 255, bits=16), deep, format="PNG")
    deep_tiff = io.BytesIO()
    write(Picture(a.astype(np.float32) / 255, bits=16), deep_tiff, format="TIFF")
    return {
        "JPEG": saved(a, "JPEG", quality=90).getvalue(),
        "progressive": saved(a, "JPEG", quality=90, progressive=True).getvalue(),
        "PNG": saved(a, "PNG").getvalue(),
        "PNG16": deep.getvalue(),
        "TIFF": saved(a, "TIFF").getvalue(),
        "TIFF16": deep_tiff.getvalue(),
        "GIF": saved(a, "GIF").getvalue(),
        "BMP": saved(a, "BMP").getvalue(),
        "PPM": saved(a, "PPM").getvalue(),
        "TGA": saved(a, "TGA").getvalue(),
        "WEBP": saved(a, "WEBP").getvalue(),
        "AVIF": saved(a, "AVIF").getvalue(),
    }


@pytest.mark.parametrize("kind", files_to_cut())
def test_cut_short_is_never_taken_for_whole(kind):
    data = files_to_cut()[kind]
    full = read(io.BytesIO(data))
    step = max(1, len(data) // 25)
    for end in [*range(1, len(data), step), *range(len(data) - 14, len(data))]:
        try:
            picture = read(io.BytesIO(data[:end]))
        except InputError:
            continue
        assert np.array_equal(picture.rgb, full.rgb), end


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG16"])
def test_cut_short_says_how_much_is_there(kind):
    data = files_to_cut()[kind]
    full = read(io.BytesIO(data))
    part = io.BytesIO(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"\d+% of its rows.*--allow-truncated"):
        read(part)
    part.seek(0)
    picture = read(part, allow_truncated=True)
    assert picture.size == (96, 130)
    assert picture.bits == full.bits
    assert "cut short" in picture.notes[0]
    assert np.array_equal(picture.rgb[:16], full.rgb[:16])
    assert not np.array_equal(picture.rgb[-16:], full.rgb[-16:])


def test_cut_short_progressive_is_coarse_but_there():
    data = files_to_cut()["progressive"]
    full = read(io.BytesIO(data))
    picture = read(io.BytesIO(data[: len(data) * 3 // 4]), allow_truncated=True)
    assert np.abs(picture.rgb - full.rgb).mean() < 0.1


@pytest.mark.parametrize("restarts", [0, 3])
def test_a_jpeg_with_a_gap_in_its_pixels_is_told(restarts):
    a = smooth(96, 130)
    a[-20:] = 255  # even, as decoders make rows of nothing
    data = saved(a, "JPEG", quality=90, restart_marker_blocks=restarts).getvalue()
    assert read(io.BytesIO(data)).notes == ()
    for at in range(2000, len(data) - 500, len(data) // 5):
        gap = io.BytesIO(data[:at] + data[at + 100 :])
        try:
            assert "damaged" in read(gap).notes[0]
        except InputError as error:  # all that follows is even
            assert "--allow-truncated" in str(error)


@pytest.mark.parametrize("how", [{"progressive": True}, {"restart_marker_blocks": 9}, {}])
def test_a_jpeg_with_zeros_in_the_place_of_pixels_is_told(how):
    data = saved(smooth(160, 130), "JPEG", quality=90, **how).getvalue()
    assert read(io.BytesIO(data)).notes == ()
    told = 0
    starts = range(1500, len(data) - 600, (len(data) - 2100) // 9)
    for at in starts:
        with suppress(InputError):
            told += not read(io.BytesIO(data[:at] + bytes(300) + data[at + 300 :])).notes
    assert told <= 1  # two codes may happen to end at one bit


def test_zeros_that_are_pixels_are_no_damage():
    flat = np.full((700, 900, 3), 250, np.uint8)
    flat[50:60, 20:90] = 0
    for how in ({"progressive": True, "quality": 95}, {"optimize": True}):
        data = saved(flat, "JPEG", **how).getvalue()
        assert list(jpeg.behind_zeros(data)) or "optimize" in how
        assert read(io.BytesIO(data)).notes == ()


def bomb() -> bytes:
    """110 kB that unpack to 900 million pixels."""
    rows = zlib.compress(bytes(30000 * (1 + 30000 // 8)), 9)
    file = io.BytesIO()
    header = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    png.write_chunks(file, [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")])
    return file.getvalue()


def test_bomb_is_refused_from_its_header(monkeypatch):
    data = bomb()
    assert len(data) < 120_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded it"))
    with pytest.raises(InputError, match=r"900 million pixels.*--max-pixels"):
        read(io.BytesIO(data))


@pytest.mark.parametrize(
    "format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "TGA", "GIF", "AVIF"]
)
def test_max_pixels_is_the_callers_not_pillows(format, monkeypatch):
    file = saved(smooth(9, 5), format)
    with pytest.raises(InputError, match="5 wide and 9 high"):
        read(file, max_pixels=44)
    file.seek(0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # 45 would be worth Pillow's warning
    assert read(file, max_pixels=45).size == (9, 5)


def test_out_of_memory_is_not_called_damage(monkeypatch):
    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(OutOfMemory):
        read(saved(whole(7, 3, 3), "BMP"))


def test_heic_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    with pytest.raises(InputError, match=r"IMG_0001.HEIC: .*pip install 'diffsr\[heic\]'"):
        read(path)


# ---- globals -------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other_or_the_process():
    data = [saved(smooth(20 + i, 31), f).getvalue() for i, f in enumerate(["PNG", "TIFF", "JPEG"])]
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:])
    wrong = []

    def work() -> None:
        for i, d in enumerate(data * 5):
            cut = d[: len(d) // 2]
            try:
                assert read(io.BytesIO(d)).size == (20 + i % 3, 31)
                with pytest.raises(InputError):
                    read(io.BytesIO(cut))
            except BaseException as error:  # a thread's failure would be lost
                wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:])
