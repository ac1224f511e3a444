"""--sheet: what is shown of pictures, which pictures, and when the sheet is written."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cli_fake import FakeUpscaler
from PIL import Image
from test_cli import picture, run, size_of

import upscale
from upscale.batch import sheet as module
from upscale.errors import OutputError, UsageError
from upscale.image.board import Strip, board
from upscale.image.crops import Cuts, Places, enlarged
from upscale.image.picture import Picture, quantised
from upscale.image.profile import of_chunks
from upscale.image.resize import resize_array

TWICE = ("--scale", "2", "--method", "lanczos")


def pair(height: int = 90, width: int = 70, scale: int = 4) -> tuple[Picture, Picture]:
    """An input, and a result that is about its bicubic enlargement but for two spots of noise."""
    rng = np.random.default_rng(0)
    lr = Picture(rng.random((height, width, 3), dtype=np.float32))
    sr = resize_array(lr.rgb, (height * scale, width * scale)).clip(0, 1)
    sr += rng.normal(0, 0.02, sr.shape).astype(np.float32)
    for top, left, strength in ((200, 40, 0.4), (312, 200, 0.2)):
        noise = rng.normal(0, strength, (24, 20, 3)).astype(np.float32)
        sr[top : top + 24, left : left + 20] += noise
    return lr, Picture(sr.clip(0, 1))


def bands(whole: Picture, *ends: int) -> list[Picture]:
    edges = [0, *ends, whole.size[0]]
    return [replace(whole, rgb=whole.rgb[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


def images(text: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


def captions(text: str) -> list[str]:
    return re.findall(r"<figcaption>(.*?)<small>", text)


# --- places -------------------------------------------------------------------------------------


def test_places_are_where_the_two_differ_and_the_same_in_bands() -> None:
    lr, sr = pair()
    whole = Places(lr, sr.size, 64, 2)
    whole.add(sr)
    first, second = (place.window for place in whole.found)
    for window, top, left in ((first, 200, 40), (second, 312, 200)):
        assert window[0].start <= top and window[0].stop >= top + 24
        assert window[1].start <= left and window[1].stop >= left + 20
        assert all((part.start % 4, part.stop - part.start) == (0, 64) for part in window)
    np.testing.assert_array_equal(whole.found[0].cut, quantised(sr.rgb, 8)[first])
    for ends in ((5, 6, 210, 300), tuple(range(1, 360)), (359,)):
        parts, cuts = Places(lr, sr.size, 64, 2), Cuts([first, second])
        for band in bands(sr, *ends):
            parts.add(band)
            cuts.add(band)
        assert [place.window for place in parts.found] == [first, second]
        for a, b, c in zip(parts.found, whole.found, cuts.found, strict=True):
            np.testing.assert_array_equal(a.cut, b.cut)
            np.testing.assert_array_equal(c, b.cut)


def test_of_a_large_result_few_rows_are_kept() -> None:
    lr = Picture(np.random.default_rng(0).random((400, 9, 3), dtype=np.float32))
    sr = Picture(lr.rgb.repeat(4, 0).repeat(4, 1))
    places, most = Places(lr, sr.size, 32, 1), 0
    for band in bands(sr, *range(16, 1600, 16)):
        places.add(band)
        most = max(most, len(places._pixels), len(places._errors))
    assert most < 32 + 16


def test_a_result_smaller_than_a_cut_and_a_single_pixel() -> None:
    for size in ((3, 5), (1, 1)):
        lr = Picture(np.full((*size, 3), 0.25, np.float32))
        places = Places(lr, (size[0] * 2, size[1] * 2), 256, 4)
        places.add(Picture(np.full((size[0] * 2, size[1] * 2, 3), 0.5, np.float32)))
        (only,) = places.found
        assert only.cut.shape == (size[0] * 2, size[1] * 2, 3) and (only.cut == 128).all()
        assert only.difference == pytest.approx(0.25**2)


def test_the_input_is_shown_as_repeated_pixels_and_as_bicubic() -> None:
    lr, sr = pair()
    window = (slice(20, 84), slice(40, 104))
    nearest = enlarged(lr, sr.size, window, nearest=True)
    np.testing.assert_array_equal(nearest, quantised(lr.rgb, 8).repeat(4, 0).repeat(4, 1)[window])
    smooth = enlarged(lr, (333, 259), window, nearest=False)
    np.testing.assert_allclose(
        smooth, quantised(resize_array(lr.rgb, (333, 259)), 8)[window].astype(float), atol=1
    )


def test_transparency_is_laid_on_white_and_colours_become_srgb() -> None:
    rgb, alpha = np.zeros((2, 3, 3), np.float32), np.zeros((2, 3), np.float32)
    rgb[..., 1], alpha[0] = 0.5, 1
    window = (slice(0, 2), slice(0, 3))
    shown = enlarged(Picture(rgb, alpha), (2, 3), window, nearest=True)
    assert shown[0, 0].tolist() == [0, 128, 0] and shown[1, 0].tolist() == [255, 255, 255]
    wide, _ = of_chunks([(b"cICP", bytes([12, 13, 0, 1]))], False)  # Display P3
    shown = enlarged(Picture(rgb, icc=wide), (2, 3), window, nearest=True)
    assert shown[0, 0, 1] > 128  # the same green has a larger number in sRGB


# --- pages and pictures -------------------------------------------------------------------------


def test_a_page_of_one_picture(here) -> None:
    evil = "<b>&.png"
    picture(here / evil)
    made = run(evil, *TWICE, "--sheet", "out/look.html")
    assert made.stdout.split("\n")[:2] == ["<b>&_x2.png", "out/look.html"]
    assert "out/look.html: 1 picture" in made.stderr
    text = (here / "out/look.html").read_text()
    assert captions(text) == ["nearest neighbour", "bicubic", "lanczos"]
    nearest, smooth, result = images(text)
    lr = np.asarray(Image.open(evil))
    np.testing.assert_array_equal(nearest, lr.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(result, np.asarray(Image.open("<b>&_x2.png")))
    assert np.abs(smooth.astype(int) - result).max() > 3
    assert "<b>" not in text and "&lt;b&gt;&amp;.png" in text and "6x5 to 12x10" in text
    assert "http:" not in text and "https:" not in text and "default-src 'none'" in text


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_one_picture_with_words_over_each(here, ending) -> None:
    for name in ("a.png", "b.png"):
        picture(here / name, (30, 20))
    run("a.png", "b.png", *TWICE, "--sheet", f"look.{ending}")
    shown = np.asarray(Image.open(f"look.{ending}").convert("RGB"))
    assert shown.shape[1] == 3 * 120 + 4 * 8  # three columns, as wide as words need
    if ending == "png":
        result = np.asarray(Image.open("b_x2.png"))
        top, left = shown.shape[0] - 2 * 8 - 40, 2 * 120 + 3 * 8
        np.testing.assert_array_equal(shown[top : top + 40, left : left + 60], result)
        assert (shown[8:22, 8:100] < 128).any()  # words


def test_words_without_room_are_cut_off_and_missing_pictures_leave_a_gap() -> None:
    cut = np.zeros((9, 11, 3), np.uint8)
    made = board([Strip("x" * 500, [("a", "b"), ("c" * 99, "")], [cut, None])])
    assert made.size[1] == 2 * 120 + 3 * 8 and (made.rgb[:, -8:] == 1).all()
    assert (made.rgb[-20:, 8 + 120 :] == 1).all() and (made.rgb[-20:, :60] == 0).any()


def test_methods_are_columns_and_the_first_makes_the_file(here) -> None:
    picture(here / "in.png", (40, 30))
    run("in.png", *TWICE, "-o", "alone.png")
    both = ("--method", "lanczos,bicubic,spandrel")
    made = run("in.png", *TWICE, *both, "--sheet", "look.html")
    assert (here / "in_x2.png").read_bytes() == (here / "alone.png").read_bytes()
    assert "spandrel is not on look.html: " in made.stderr  # it has no weights of its own
    text = (here / "look.html").read_text()
    assert captions(text) == ["nearest neighbour", "bicubic", "lanczos", "bicubic", "spandrel"]
    shown = images(text)
    assert len(shown) == 4
    assert np.abs(shown[1].astype(int) - shown[3]).max() <= 1  # ours is what the method makes
    np.testing.assert_array_equal(shown[2], np.asarray(Image.open("in_x2.png")))
    run("in.png", *TWICE, "--method", "lanczos,bicubic", "--sheet", "look.png", "--overwrite")
    assert size_of("look.png")[0] == 4 * 120 + 5 * 8


def test_variants_are_columns(here) -> None:
    picture(here / "in.png")
    run("in.png", *TWICE, "--samples", "8", "--uncertainty", "--sheet", "look.html")
    shown = captions((here / "look.html").read_text())
    assert shown[2:] == [f"lanczos, variant {n}" for n in range(1, 7)]


def test_large_results_are_looked_at_while_they_are_written(here, monkeypatch) -> None:
    plan = FakeUpscaler.plan

    def in_blocks(self, picture, request):
        return SimpleNamespace(**{**vars(plan(self, picture, request)), "blocks": ((1,), (1,))})

    monkeypatch.setattr(FakeUpscaler, "plan", in_blocks)
    monkeypatch.setattr(
        "upscale.cli.upscale.command.make_upscaler", lambda setup, ends, on_bytes: FakeUpscaler()
    )
    picture(here / "in.png")
    run("in.png", "--method", "sr3,idm", "--sheet", "look.html")
    shown = images((here / "look.html").read_text())
    assert len(shown) == 4
    for one in (shown[0], shown[3]):  # the fake repeats pixels
        np.testing.assert_array_equal(one, shown[2])
    np.testing.assert_array_equal(shown[2], np.asarray(Image.open("in_x4.png")))


# --- batches ------------------------------------------------------------------------------------


def batch(folder, count: int = 5) -> None:
    """Pictures of less and less contrast."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 250 // (number + 1), (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{'cadbe'[number]}.png")


@pytest.mark.parametrize("more", [(), ("--batch", "3"), ("--jobs", "0")])
def test_of_many_pictures_those_that_differ_most_in_order(here, monkeypatch, more) -> None:
    batch(here / "in")
    (here / "in/f.png").write_bytes(b"no picture")
    monkeypatch.setattr(module, "MOST", 3)
    run("in", "-o", "out", *TWICE, "--sheet", "look.html", *more, code=1)
    text = (here / "look.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["in/a.png", "in/c.png", "in/d.png"]
    assert "The 3 of 5 pictures that differ most" in text


def test_the_same_command_later_shows_what_was_done_before(here) -> None:
    batch(here / "in")
    for more in (("--resume", "l.jsonl"), ("--skip-existing",)):
        args = ("in", "-o", "out", *TWICE, "--method", "lanczos,bicubic", *more)
        run("in/a.png", "-o", "out/a_x2.png", *TWICE, *more)
        run(*args, "--sheet", "look.html")
        text = (here / "look.html").read_text()
        shown = images(text)
        assert len(shown) == 20 and len({one.tobytes() for one in shown}) == 15  # bicubic twice
        assert "done before" in text
        again = run(*args, "--sheet", "look.html")
        assert "look.html: exists and stays as it is" in again.stderr
        assert (here / "look.html").read_text() == text
        if more[0] == "--resume":
            run(*args, "--sheet", "look.html", "--overwrite")
        os.unlink("look.html")


def test_what_cannot_be_read_again_is_said(here, monkeypatch) -> None:
    batch(here / "in", 2)
    run("in", "-o", "out", *TWICE)
    (here / "out/a_x2.png").write_bytes(b"gone")
    made = run("in", "-o", "out", *TWICE, "--skip-existing", "--sheet", "look.html")
    assert "in/a.png: not on look.html: " in made.stderr
    assert len(images((here / "look.html").read_text())) == 3
    monkeypatch.setattr(module, "LARGEST", 10)
    made = run("in", "-o", "out", *TWICE, "--skip-existing", "--sheet", "other.html")
    assert "too large to be read again" in made.stderr
    assert "no picture was made" in made.stderr and not (here / "other.html").exists()
    assert "other.html" not in made.stdout
    (here / "bad.png").write_bytes(b"gone")
    failed = run("bad.png", *TWICE, "--sheet", "look.html", "--overwrite", code=3)
    assert "look.html" not in failed.stdout  # what is there is an older one


def test_a_shard_has_a_sheet_of_its_own(here) -> None:
    batch(here / "in")
    for part in ("0/2", "1/2"):
        run("in", "-o", "out", *TWICE, "--sheet", "look.html", "--shard", part)
    texts = [(here / f"look_{n}of2.html").read_text() for n in (0, 1)]
    assert sum(len(images(text)) for text in texts) == 15 and not (here / "look.html").exists()


def test_json_and_dry_runs(here) -> None:
    picture(here / "in.png")
    dry = run("in.png", *TWICE, "--sheet", "new/look.html", "--dry-run")
    assert "would write new/look.html" in dry.stderr and os.listdir() == ["in.png"]
    made = run("in.png", *TWICE, "--sheet", "look.html", "--json")
    assert json.loads(made.stdout)["output"] == "in_x2.png"  # and nothing else
    assert (here / "look.html").exists()
    piped = run(
        "-", "-o", "-", *TWICE, "--sheet", "piped.html", input=(here / "in.png").read_bytes()
    )
    assert piped.stdout_bytes.startswith(b"\x89PNG") and (here / "piped.html").exists()
    assert piped.stdout_bytes.endswith(b"IEND\xaeB`\x82")  # and nothing else


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--sheet", "look.gif"), "name a file that ends in .html"),
        (("--sheet", "in.png", "--overwrite"), "is an input or a result"),
        (("--sheet", "in_x2.png"), "is an input or a result"),
        (("--sheet", "link.png", "--overwrite"), "is an input or a result"),
        (("--sheet", "there.html"), "there.html: exists; give --overwrite or another --sheet"),
        (("--sheet", "folder.html"), "a folder"),
        (("--sheet", "s3://bucket/look.html"), "local file"),
        (("--method", "lanczos,bicubic"), "add --sheet compared.html"),
        (("--method", "lanczos,bicubic", "--weights", "w", "--sheet", "a.html"), "leave --weights"),
        (("--method", "lanczos,sr33", "--sheet", "a.html"), "Did you mean sr3"),
        (("--engine", "ray", "--sheet", "a.html"), "leave --sheet out"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(here, args, words) -> None:
    picture(here / "in.png")
    (here / "there.html").write_text("mine")
    (here / "folder.html").mkdir()
    os.symlink("in.png", "link.png")
    made = run("in.png", *TWICE, *args, code=None)
    assert made.exception is not None
    assert words in made.told
    assert not (here / "in_x2.png").exists() and (here / "there.html").read_text() == "mine"


def test_a_full_disk_under_the_sheet_leaves_the_results_and_says_so(here, monkeypatch) -> None:
    picture(here / "in.png")

    def fails(self):
        raise OutputError("look.html: no room")

    monkeypatch.setattr(module.Sheet, "write", fails)
    made = run("in.png", *TWICE, "--sheet", "look.html", code=1)
    assert made.stdout == "in_x2.png\n" and "no room" in made.stderr


def test_from_python(here) -> None:
    batch(here / "in", 2)
    names = sorted(str(path) for path in (here / "in").iterdir())
    how = {"scale": 2, "sheet": "look.html"}
    made = list(upscale.upscale_many(names, method=("lanczos", "bicubic"), **how))
    assert [one.image.size for one in made] == [(24, 18)] * 2
    assert len(images((here / "look.html").read_text())) == 8
    with pytest.raises(OutputError, match="exists; give"):
        upscale.upscale_many(names, method="bicubic", **how)
    for wrong in ("lanczos,other", ("lanczos", "other")):
        with pytest.raises(UsageError, match="other"):
            upscale.upscale_many(names, method=wrong, **how)
