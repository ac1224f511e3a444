"""The names for programmers, and every example of docs/api.md."""

from __future__ import annotations

import copy
import io
import pickle
import pydoc
import re
import struct
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import upscale
from upscale import errors
from upscale.errors import InputError, UsageError
from upscale.image import profile
from upscale.image.picture import Picture
from upscale.image.pillow import picture_of, pillow_of

ROOT = Path(__file__).parents[1]
LINEAR = [(b"gAMA", (100000).to_bytes(4, "big"))]
WIDE = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)  # Display P3's, as cHRM has them


def image(size: tuple[int, int] = (6, 5), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def examples() -> list[str]:
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    assert len(found) >= 5
    return found


def test_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image((9, 7)).save("in.png")
    names: dict = {}
    for block in examples():
        exec(compile(block, "docs/api.md", "exec"), names)
    said = capsys.readouterr().out
    assert "ecdp" in said or "sr3" in said
    assert "none.png: no such file" in said and "ok large/in_x2.png" in said
    for name, size in {"out.png": (36, 28), "made.png": (18, 14), "deep.tiff": (23, 18)}.items():
        with Image.open(name) as made:
            assert made.size == size


CHECKED = """
reveal_type(upscaler("in.png"))
reveal_type(upscaler(Image.open("in.png")))
reveal_type(upscaler(array))
reveal_type(upscaler(batch))
reveal_type(upscaler(picture))
reveal_type(result.picture)
reveal_type(read("in.png"))
reveal_type(results)
reveal_type(made)
"""
KNOWN = [*["Image"] * 3, "Tensor", "Result", "Picture", "Picture", "list[Result]", "Made"]


@pytest.mark.slow
def test_a_type_checker_knows_what_comes_back(tmp_path):
    api = pytest.importorskip("mypy.api")
    (tmp_path / "page.py").write_text("\n".join(examples()) + CHECKED)
    flags = ["--follow-imports=silent", "--ignore-missing-imports", "--no-error-summary",
             f"--cache-dir={tmp_path}"]  # fmt: skip
    said, wrong, _ = api.run([*flags, str(tmp_path / "page.py")])
    told = re.findall(r'Revealed type is "(.*)"', said)
    assert [re.sub(r"[\w.]+\.", "", one) for one in told] == KNOWN, said
    assert ": error:" not in said + wrong, said
    assert (ROOT / "upscale/py.typed").is_file()


def test_pydoc_and_dir_show_the_names():
    page = pydoc.plain(pydoc.render_doc(upscale))
    assert set(upscale.__all__) <= set(dir(upscale))
    assert all(name in page for name in upscale.__all__ if name != "__version__")
    assert "class Upscaler" in page and "Enlarge files one after the other" in page


def test_what_objects_say_of_themselves(tiny_weights):
    upscaler = upscale.Upscaler(weights=tiny_weights, device="cpu")
    told = f"method='sr3', weights={tiny_weights!r}, device='cpu'"
    assert repr(upscaler) == f"Upscaler({told}) on cpu"
    picture = picture_of(image())
    assert repr(picture) == "<Picture (H,W)=(5, 6), 8 bits, colour, PNG>"
    result = upscaler(picture, scale=2)
    assert repr(result).startswith("<Result <Picture (H,W)=(10, 12), 8 bits, colour, PNG>, wei")
    (made,) = upscale.upscale_many(["none.png"], weights=tiny_weights)
    assert repr(made).startswith("<Made none.png: failed, none.png: no such file")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tensors_give_tensors(tiny_weights, channels):
    upscaler = upscale.Upscaler(weights=tiny_weights, device="cpu")
    batch = torch.rand(2, channels, 5, 6, dtype=torch.float64)
    made = upscaler(batch, size=(10, 13))
    assert (made.shape, made.dtype) == ((2, channels, 10, 13), torch.float64)
    torch.testing.assert_close(upscaler(batch[1], size=(10, 13)), made[1])
    whole = upscaler(Picture(batch[1, :3].float().permute(1, 2, 0).numpy().copy()), size=(10, 13)) \
        if channels == 3 else None  # fmt: skip
    if whole:
        torch.testing.assert_close(
            made[1].permute(1, 2, 0).float(), torch.from_numpy(whole.picture.rgb)
        )
    for wrong in (batch * 2, batch.byte(), batch[0, 0], batch[:, :, :0], torch.rand(1, 5, 5, 6)):
        with pytest.raises(InputError):
            upscaler(wrong)


def test_errors_name_arguments_unless_the_command_line_runs(monkeypatch):
    assert str(UsageError("give --max-side 9, or -o")) == "give --max-side 9, or -o"
    monkeypatch.setattr(errors, "options", False)
    text = "give --max-side 9, --overwrite or another -o; or (diffsr train --scale 4) --tile 128"
    told = "give max_side=9, overwrite or another output; or (diffsr train --scale 4) tile=128"
    assert str(UsageError(text)) == told
    assert str(UsageError("all with --frames all, or --frames first")) == (
        'all with frames="all", or frames="first"'
    )
    with pytest.raises(UsageError, match=r"^steps must be at least 1, not 0$"):
        upscale.Upscaler("bicubic")(image(), steps=0)
    with pytest.raises(UsageError, match="give only one of scale, size and max_side"):
        upscale.Upscaler("bicubic")(image(), scale=2, max_side=9)


def test_import_is_cheap():
    code = "import sys, upscale; print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "YCbCr", "HSV"])
def test_a_pillow_image_goes_in_as_its_file_would(tmp_path, mode):
    source = image(mode=mode)
    taken = picture_of(source)
    plain = source.convert("RGB") if mode in ("RGBX", "YCbCr", "HSV") else source
    plain.save(tmp_path / "a.png")
    read = upscale.read(tmp_path / "a.png")
    np.testing.assert_array_equal(taken.rgb, read.rgb)
    assert (taken.alpha is None) == (read.alpha is None) and taken.grey == read.grey
    assert taken.fingerprint() == read.fingerprint()


def test_sixteen_bits_and_what_an_image_carries(tmp_path):
    deep = Image.fromarray(np.arange(30, dtype=np.uint16).reshape(5, 6) * 2000)
    assert picture_of(deep).bits == 16 and picture_of(deep).grey
    source = image()
    exif = source.getexif()
    exif[0x0112], exif[0x010F] = 6, "camera"  # turned, and who made it
    source.info.update(dpi=(300, 300))
    taken = picture_of(source)
    assert taken.size == (6, 5) and b"camera" in taken.exif and taken.dpi == (300, 300)
    back = pillow_of(taken)
    assert back.info["dpi"] == (300, 300) and back.size == (5, 6)
    assert b"camera" in back.info["exif"]


@pytest.mark.parametrize(("format", "order"), [("PNG", "<"), ("TIFF", "<"), ("TIFF", ">")])
def test_sixteen_bits_keep_what_eight_do(format, order):
    deep = np.arange(30, dtype=np.uint16).reshape(5, 6) * 2000
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    extras = {"transparency": 4000} if format == "PNG" else {}
    Image.fromarray(deep.astype(f"{order}u2")).save(
        file, format, exif=exif, dpi=(300, 150), icc_profile=profile.of_chunks(LINEAR, True)[0],
        **extras,
    )  # fmt: skip
    read = upscale.read(io.BytesIO(file.getvalue()))
    taken = picture_of(Image.open(file))
    assert read.icc and b"camera" in read.exif and (read.alpha is None) == (format == "TIFF")
    for field in fields(Picture):
        np.testing.assert_array_equal(getattr(taken, field.name), getattr(read, field.name))


def test_a_turned_pillow_image_is_turned_in_its_xmp_too() -> None:
    tags = Image.Exif()
    tags[274] = 6
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    )
    file = io.BytesIO()
    image().save(file, "JPEG", exif=tags, xmp=packet)
    assert b'tiff:Orientation="1"' in picture_of(Image.open(file)).xmp


@pytest.mark.parametrize("format", ["TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_file_is(orientation, format):
    """Pillow turns a TIFF itself, when it decodes it."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image().save(file, format, exif=exif, dpi=(300, 150))
    read = upscale.read(io.BytesIO(file.getvalue()))
    source = Image.open(file)
    fresh = picture_of(source)
    assert read.size == ((6, 5) if orientation > 4 else (5, 6)) and fresh.dpi == read.dpi
    for taken in (fresh, picture_of(source)):  # which is decoded now
        np.testing.assert_array_equal(taken.rgb, read.rgb)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    "chunks",
    [LINEAR, [(b"sRGB", b"\1"), *LINEAR], [(b"cHRM", struct.pack(">8I", *WIDE)), *LINEAR],
     [(b"cHRM", bytes(32))], [(b"tEXt", b"gamma\0two")]],
)  # fmt: skip
def test_colours_that_a_png_declares_hold_for_pillows_image(chunks, mode):
    file, extras = io.BytesIO(), PngImagePlugin.PngInfo()
    for chunk in chunks:
        extras.add(*chunk)
    image(mode=mode).save(file, "PNG", pnginfo=extras)
    read = upscale.read(io.BytesIO(file.getvalue()))
    taken = picture_of(Image.open(file))
    assert sorted(taken.colours) == sorted(read.colours)
    assert (taken.icc, taken.notes) == (read.icc, read.notes)


@pytest.mark.parametrize("more", [[], [image()]])
def test_a_jpeg_has_no_resolution_that_pillow_makes_up(more):
    """Nor has one with further pictures, which Pillow calls MPO."""
    file = io.BytesIO()
    image().save(file, "MPO", save_all=True, append_images=more)
    taken = picture_of(Image.open(file))
    assert (taken.format, taken.dpi) == ("JPEG", None)


@pytest.mark.parametrize(
    ("array", "bits", "alpha"),
    [
        (np.full((5, 6), 255, np.uint8), 8, False),
        (np.full((5, 6, 3), 65535, np.uint16), 16, False),
        (np.full((5, 6, 4), 1.0), 8, True),
        (np.full((5, 6, 1), 1.0, np.float32), 8, False),
    ],
)
def test_arrays(array, bits, alpha):
    taken = picture_of(array)
    assert (taken.size, taken.bits, taken.alpha is not None) == ((5, 6), bits, alpha)
    assert taken.rgb.min() == 1.0


@pytest.mark.parametrize("array", [np.arange(30, dtype="u2"), np.linspace(0, 1, 30, dtype="f4")])
def test_the_byte_order_of_an_array_does_not_matter(array):
    plain, swapped = (picture_of(array.reshape(5, 6).astype(array.dtype.newbyteorder(order)))
                      for order in "=S")  # fmt: skip
    assert swapped.bits == plain.bits and swapped.rgb.dtype.isnative
    np.testing.assert_array_equal(swapped.rgb, plain.rgb)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros(5), np.zeros((5, 6, 7)), np.full((5, 6), 2.0), np.full((5, 6), np.nan),
     np.zeros((5, 6), np.int64), np.zeros((0, 6)), 7, None],
)  # fmt: skip
def test_what_is_no_picture(wrong):
    with pytest.raises(InputError):
        picture_of(wrong)


def test_a_picture_gives_a_result_and_anything_else_an_image(tiny_weights, tmp_path):
    upscaler = upscale.Upscaler(weights=tiny_weights, device="cpu")
    source = image()
    source.save(tmp_path / "a.png")
    made = upscaler(source, scale=2)
    result = upscaler(Picture(picture_of(source).rgb), scale=2)
    assert isinstance(made, Image.Image)
    np.testing.assert_array_equal(made, pillow_of(result.picture))
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(source)):
        np.testing.assert_array_equal(made, upscaler(same, scale=2))


def test_many_in_memory_and_in_files_are_the_same(tiny_weights, tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for path in paths:
        image((5 + int(path.stem), 6)).save(path)
    (tmp_path / "1.png").write_bytes(b"<html>")
    how = {"weights": tiny_weights, "scale": 2}
    in_memory = list(upscale.upscale_many(paths, **how))
    ledger = tmp_path / "l.jsonl"
    in_files = list(upscale.upscale_many(paths, tmp_path / "out", ledger=ledger, **how))
    assert [m.report["status"] for m in in_memory] == ["ok", "failed", "ok", "ok"]
    for one, other in zip(in_memory, in_files, strict=True):
        assert (one.error is None) == (other.error is None) and one.output is None
        if other.error is None:
            with Image.open(other.output) as made:
                np.testing.assert_array_equal(made, one.image)
    assert len(ledger.read_text().splitlines()) == 4
    again = list(upscale.upscale_many(paths, tmp_path / "out", ledger=ledger, **how))
    assert [m.report["status"] for m in again] == ["skipped", "failed", "skipped", "skipped"]


def test_many_take_one_path_and_each_file_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image().save("a.png")
    how = {"method": "bicubic", "jobs": 0}
    (made,) = upscale.upscale_many(["a.png", "./a.png", tmp_path / "a.png"], "out", **how)
    assert (made.input, made.output.name) == ("a.png", "a_x4.png")
    for one in ("a.png", Path("a.png")):
        assert [made.image.size for made in upscale.upscale_many(one, **how)] == [(24, 20)]


def test_many_take_no_pictures_in_memory():
    for wrong in (np.zeros((4, 4, 3), np.uint8), [np.zeros((4, 4, 3))], image(), [image()], None):
        kind = type(wrong[0] if isinstance(wrong, (list, np.ndarray)) else wrong).__name__
        with pytest.raises(UsageError, match=f"paths of files, and no {kind}; an Upscaler"):
            upscale.upscale_many(wrong)


def test_options_that_are_none():
    with pytest.raises(UsageError, match="no option scail"):
        upscale.upscale_many([], scail=2)
    with pytest.raises(UsageError, match="give an output folder"):
        upscale.upscale_many([], ledger="l")
    with pytest.raises(UsageError, match="no method"):
        list(upscale.upscale_many([ROOT / "examples/parrots.png"], method="sr33"))
    for wrong in ({"jobs": -1}, {"batch": 0}, {"size": "32x24"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            upscale.upscale_many([], "out", **wrong)


def test_an_upscaler_goes_to_other_processes(tiny_weights):
    own = upscale.Upscaler(weights=tiny_weights, on_bytes=lambda done, all: None)
    before = own(image(), scale=2)
    for other in (pickle.loads(pickle.dumps(own)), copy.deepcopy(own)):
        assert repr(other) == repr(own)
        assert other(image(), scale=2).tobytes() == before.tobytes()
