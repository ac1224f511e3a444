"""Which pictures are measured, with what, and every mistake that a folder can hold."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import png
import pytest
from click.testing import CliRunner
from PIL import Image, ImageCms

from upscale.bench import testsets
from upscale.bench.protocol import make_lr
from upscale.bench.report import to_markdown
from upscale.bench.run import run
from upscale.bench.trials import BenchSettings, Trial, trials_of
from upscale.cli.bench.command import command
from upscale.errors import InputError, OutputError, UsageError, WeightsError
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.picture import Picture

pytestmark = pytest.mark.packaged

SHARED = Path(__file__).parents[2] / "shared" / "data" / "eval"


def put(path: Path, height: int = 40, width: int = 52, seed: int = 0) -> np.ndarray:
    rgb = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    write(Picture(rgb), path)
    return rgb


def bicubic(folder: Path, **rest) -> list[dict]:
    scales = rest.pop("scales", (4.0,))
    return run(
        folder, BenchSettings(scales=scales, metrics=("psnr", "lr_psnr"), device="cpu"), **rest
    )


def test_what_ships_is_there_and_small() -> None:
    name, folder = testsets.find(None)
    pictures = testsets.pictures_of(folder)
    assert name == "kodak8" and len(pictures) == 8
    assert sum(p.stat().st_size for p in pictures) < 3 << 20
    for path in pictures:
        with Image.open(path) as image:
            assert image.size == (256, 256)
    assert testsets.find("kodak8") == (name, folder)


def test_a_set_is_found_by_path_name_and_folder(tmp_path: Path, monkeypatch) -> None:
    put(tmp_path / "DIV2K" / "DIV2K_valid_HR" / "0801.png")
    put(tmp_path / "mine" / "a.png")
    (tmp_path / "Kodak24").mkdir()
    assert testsets.find("DIV2K-val", tmp_path) == ("div2k-val", tmp_path / "DIV2K/DIV2K_valid_HR")
    assert testsets.find("kodak", tmp_path)[1] == tmp_path / "Kodak24"
    assert testsets.find("mine", tmp_path) == ("mine", tmp_path / "mine")
    assert testsets.find(str(tmp_path / "mine")) == ("mine", tmp_path / "mine")
    assert testsets.find(str(tmp_path / "Kodak24"))[0] == "kodak"
    with pytest.raises(InputError, match=r"DIFFSR_DATA is not set.*a folder Set5"):
        testsets.find("set5")
    with pytest.raises(InputError, match=r"not in .*BSD100 or BSDS100 or B100"):
        testsets.find("bsd100", tmp_path)
    with pytest.raises(InputError, match=r"of this name; choose from kodak8, set5, .*div2k-val"):
        testsets.find("set6", tmp_path)


@pytest.mark.parametrize("layout", ["LRx4/{}.png", "LR_bicubic/X4/{}x4.png"])
def test_given_small_pictures_are_used(tmp_path: Path, layout: str) -> None:
    hr = put(tmp_path / "HR" / "a.png", 43, 54)  # to be cut to 40x52
    assert bicubic(tmp_path)[0]["kernel"].startswith("bicubic (a=-0.5")
    lr = np.clip(make_lr(hr, 4)[0] + np.float32(0.3), 0, 1)  # none that we would make
    write(Picture(lr), tmp_path / layout.format("a"))
    row = bicubic(tmp_path)[0]
    assert row["kernel"].startswith("the set's maker") and (row["height"], row["width"]) == (40, 52)
    own = bicubic(tmp_path / "HR")[0]
    assert row["psnr"] < own["psnr"] - 1  # the shift is in the result
    assert abs(row["lr_psnr"] - own["lr_psnr"]) < 3  # but it fits the input that was given
    assert bicubic(tmp_path, scales=(2.0,))[0]["kernel"] == own["kernel"]  # there is no LRx2


def test_div2ks_own_folders(tmp_path: Path) -> None:
    put(tmp_path / "DIV2K_valid_HR" / "0801.png")
    put(tmp_path / "DIV2K_valid_LR_bicubic" / "X4" / "0801x4.png", 10, 13)
    (pair,) = testsets.pairs_of(tmp_path / "DIV2K_valid_HR", 4)
    assert pair.lr is not None and pair.lr.name == "0801x4.png"


def test_small_pictures_that_do_not_fit_or_are_missing(tmp_path: Path) -> None:
    put(tmp_path / "HR" / "a.png")
    put(tmp_path / "HR" / "b.png")
    put(tmp_path / "LRx4" / "a.png", 10, 13)
    with pytest.raises(InputError, match=r"LRx4: nothing named as b "):
        bicubic(tmp_path)
    put(tmp_path / "LRx4" / "b.png", 10, 12)
    rows = bicubic(tmp_path)
    assert "error" not in rows[0]
    assert "12x10, which times 4 is not b.png's 52x40" in rows[1]["error"]


def test_classes_come_from_a_table(tmp_path: Path) -> None:
    for name in "ab":
        put(tmp_path / f"{name}.png")
    table = tmp_path / "labels.csv"
    table.write_text("name,class\na.png,7\nb,999\n")
    assert [pair.label for pair in testsets.pairs_of(tmp_path, 4)] == [7, 999]
    table.write_text("a,7\n")
    with pytest.raises(InputError, match="no class for b"):
        testsets.pairs_of(tmp_path, 4)
    table.write_text("a,7\nb,1000\n")
    with pytest.raises(InputError, match="line 2: want name,class"):
        testsets.pairs_of(tmp_path, 4)
    table.write_text("a,7\nb,8\n", "utf-8-sig")
    assert [pair.label for pair in testsets.pairs_of(tmp_path, 4)] == [7, 8]
    table.write_bytes(b"a,7\n\xff,8\n")
    with pytest.raises(InputError, match=r"labels\.csv: cannot be read as CSV in UTF-8"):
        testsets.pairs_of(tmp_path, 4)


def test_grey_and_16_bit_pictures(tmp_path: Path) -> None:
    y, x = np.mgrid[0:48, 0:60]
    deep = ((np.sin(x / 5) * np.cos(y / 7) + 1) * 32767).astype(np.uint16)
    with open(tmp_path / "deep.png", "wb") as file:
        png.Writer(60, 48, greyscale=False, bitdepth=16).write(
            file, np.repeat(deep, 3, 1).reshape(48, -1)
        )
    Image.fromarray((deep >> 8).astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGBA").save(tmp_path / "alpha.png")
    rows = {row["picture"]: row for row in bicubic(tmp_path)}
    assert not any("error" in row for row in rows.values())
    values = [rows[name]["psnr"] for name in ("deep.png", "grey.png", "alpha.png")]
    assert max(values) - min(values) < 0.6 and min(values) > 25  # one picture in three files
    text = to_markdown(list(rows.values()))  # what was done to them
    assert "grey: enlarged as grey, compared as R, G and B (1 of 3 pictures)." in text
    assert "transparency: ignored, in the input and in the comparison (1 of 3 pictures)." in text
    assert "16 bits: kept in the original, rounded to 8 in input and result (1 of 3 " in text


def test_a_grey_picture_is_enlarged_as_grey(tmp_path: Path) -> None:
    from types import SimpleNamespace

    Image.fromarray((np.arange(4096) % 256).astype(np.uint8).reshape(64, 64)).save(
        tmp_path / "g.png"
    )
    seen = []

    class Spy:
        def plan(self, picture, request):
            return None

        def run(self, plan, picture, *, sample):
            seen.append(picture.grey)
            return SimpleNamespace(picture=Picture(np.zeros((64, 64, 3), np.float32)), report={})

    bicubic(tmp_path, make_upscaler=lambda trial, settings: Spy())
    assert seen == [True]


# --- trials -------------------------------------------------------------------------------------


def test_weights_bring_their_method_and_scales_multiply(tiny_weights, two_headed_weights) -> None:
    both = trials_of(BenchSettings(methods=(), weights=(tiny_weights, two_headed_weights),
                              scales=(2.0, 4.0), steps=(2, 4)))  # fmt: skip
    assert [(t.method, t.scale, t.steps) for t in both] == [
        (m, s, n) for s in (2.0, 4.0) for m in ("sr3", "ecdp") for n in (2, 4)
    ]
    beside = trials_of(BenchSettings(methods=("bicubic", "sr3"), weights=(tiny_weights,)))
    assert [(t.method, t.weights) for t in beside] == [("bicubic", None), ("sr3", tiny_weights)]
    assert beside[1].label == "sr3_tiny"
    resized = trials_of(BenchSettings(methods=("bicubic",), weights=(tiny_weights,)))
    assert resized == beside
    with pytest.raises(UsageError, match="are for --method sr3, not ecdp"):
        trials_of(BenchSettings(methods=("ecdp",), weights=(tiny_weights,)))
    with pytest.raises(UsageError, match="has none for --method regression"):
        trials_of(BenchSettings(methods=("sr3", "regression"), weights=(tiny_weights,)))
    with pytest.raises(WeightsError, match="no weights named sr4"):
        trials_of(BenchSettings(methods=(), weights=("sr4",)))


def test_a_sampler_that_chooses_its_steps_is_one_trial() -> None:
    found = trials_of(BenchSettings(methods=("ecdp",), samplers=("rk45", "ddim"), steps=(2, 4)))
    assert [(t.sampler, t.steps) for t in found] == [("rk45", None), ("ddim", 2), ("ddim", 4)]


def test_results_of_other_programs_stand_beside_methods(tmp_path: Path) -> None:
    hr = put(tmp_path / "set" / "a.png")
    for name in ("one", "two"):
        write(Picture(hr), tmp_path / name / "a.png")
    outputs = (("one", tmp_path / "one"), ("B", tmp_path / "two"))
    settings = BenchSettings(outputs=outputs, metrics=("ssim",))
    rows = run(tmp_path / "set", settings)
    assert [row["method"] for row in rows] == ["one", "B", "bicubic"]
    assert rows[0]["ssim"] == pytest.approx(1, abs=1e-3)
    assert rows[2]["ssim"] < 0.9
    assert trials_of(settings)[0] == Trial("one", outputs=tmp_path / "one")
    for other in ("one", "bicubic"):
        with pytest.raises(UsageError, match=f"{other} is named twice"):
            trials_of(replace(settings, outputs=(outputs[0], (other, tmp_path / "two"))))


def test_several_samples_and_their_diversity(tmp_path: Path, tiny_weights) -> None:
    put(tmp_path / "a.png", 64, 68)
    settings = BenchSettings(
        methods=(), weights=(tiny_weights,), scales=(2.0,), samples=3, device="cpu",
        metrics=("psnr", "diversity"),
    )  # fmt: skip
    (row,) = run(tmp_path, settings, save=tmp_path / "out")
    made = [p.name for p in sorted((tmp_path / "out" / "sr3_tiny").iterdir())]
    assert made == ["a_0.png", "a_1.png", "a_2.png"]
    assert row["samples"] == 3 and row["diversity"] > 0.001
    assert np.isfinite(row["psnr"])
    with pytest.raises(UsageError, match="--samples 2 or more"):
        run(tmp_path, BenchSettings(metrics=("diversity",)))


@pytest.mark.parametrize(("name", "known"), [("Set5_matlab", 28.43), ("Set14_matlab", 26.09)])
def test_bicubic_on_matlabs_pairs_gives_the_fields_numbers(name: str, known: float) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip("needs the shared evaluation pictures")
    rows = run(SHARED / name, BenchSettings(metrics=("psnr_y",), device="cpu"))
    assert len(rows) in (5, 14) and rows[0]["kernel"] == "the set's maker (LRx4)"
    assert np.mean([row["psnr_y"] for row in rows]) == pytest.approx(known, abs=0.01)


def test_saving_replaces_nothing_that_is_measured(tmp_path: Path) -> None:
    """The folder of a method may be that of the originals, which were lost."""
    put(tmp_path / "bicubic" / "a.png")
    (tmp_path / "file").touch()
    before = (tmp_path / "bicubic" / "a.png").read_bytes()
    with pytest.raises(UsageError, match=r"--save .* holds pictures that are measured"):
        bicubic(tmp_path / "bicubic", save=tmp_path)
    assert (tmp_path / "bicubic" / "a.png").read_bytes() == before
    with pytest.raises(OutputError, match="the folder cannot be made, because a file is in its"):
        bicubic(tmp_path / "bicubic", save=tmp_path / "file")
    others = BenchSettings(metrics=("psnr",), outputs=(("other", tmp_path / "bicubic"),))
    run(tmp_path / "bicubic", others, save=tmp_path / "new")  # of others nothing is saved
    assert [path.name for path in tmp_path.glob("new/*/*")] == ["a.png"]


def test_two_trials_are_not_saved_in_one_folder(tmp_path: Path, tiny_weights: str) -> None:
    put(tmp_path / "set" / "a.png")
    (tmp_path / "b").mkdir()
    names = [shutil.copy(tiny_weights, tmp_path / name) for name in ("", "b")]
    settings = BenchSettings(methods=(), metrics=("psnr",), weights=tuple(map(str, names)))
    with pytest.raises(UsageError, match="would hold the pictures of two trials"):
        run(tmp_path / "set", settings, save=tmp_path / "new")


def test_what_is_saved_has_the_colours_of_the_original(tmp_path: Path) -> None:
    """Without its profile it looked different, and `humaneval build` refused it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (tmp_path / "set").mkdir()
    Image.new("RGB", (24, 20), "teal").save(tmp_path / "set" / "a.png", icc_profile=profile)
    bicubic(tmp_path / "set", save=tmp_path)
    assert read(tmp_path / "bicubic" / "a.png").icc == profile


@pytest.mark.parametrize(
    ("args", "error", "why"),
    [
        (["--html", "."], OutputError, "is a folder, and a file is to be written"),
        (["--published", "none,x"], UsageError, "no published table none; choose from"),
    ],
)
def test_what_cannot_be_reported_is_refused_before_the_work(monkeypatch, args, error, why) -> None:
    monkeypatch.setattr("upscale.cli.bench.command.run_bench", None)
    with pytest.raises(error, match=why):
        CliRunner().invoke(command, args, catch_exceptions=False, standalone_mode=False)


def test_a_name_that_is_no_text_stops_nothing(tmp_path: Path) -> None:
    """All was measured, and then nothing was written."""
    put(tmp_path / "set" / os.fsdecode(b"\xff.png"))
    args = ["--dataset", str(tmp_path / "set"), "--method", "bicubic", "--metrics", "psnr",
            "--degradation", "peers", "--no-cache", "--csv", "-"]  # fmt: skip
    for kind in ("json", "html", "markdown"):
        args += [f"--{kind}", str(tmp_path / f"report.{kind}")]
    told = CliRunner().invoke(command, args, catch_exceptions=False, standalone_mode=False).stdout
    assert r"\udcff.png" in told
    rows = json.loads((tmp_path / "report.json").read_text("utf-8"))["rows"]
    assert rows[0]["picture"] == "\udcff.png"
    assert r"\udcff.png" in (tmp_path / "report.html").read_text("utf-8")
