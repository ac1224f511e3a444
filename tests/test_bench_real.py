"""The benchmark on degraded small pictures, of what `upscale` chooses by itself, and scikit-image's
photographs."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from upscale.bench import testsets
from upscale.bench.cache import Cache
from upscale.bench.columns import DEGRADATIONS
from upscale.bench.compare import against_first, compare
from upscale.bench.protocol import STEPS, in_8_bits, kernel_of, make_lr, open_pair
from upscale.bench.report import means, to_markdown
from upscale.bench.run import run
from upscale.bench.testsets import Pair, pairs_of
from upscale.bench.trials import AUTO, BenchSettings, trials_of
from upscale.errors import InputError
from upscale.image.compress import compressed
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.estimate import estimate
from upscale.image.picture import Picture, quantised
from upscale.image.resize import blurred, resize_array
from upscale.metrics.pixel import psnr_y

pytestmark = pytest.mark.packaged

ROOT = Path(__file__).parents[1]


class Chooser:
    """Bicubic, told as of one of two weights if it `chooses`."""

    def __init__(self, chooses: bool = True) -> None:
        self.chooses = chooses

    def plan(self, picture, request):
        assert isinstance(picture, Picture)  # whose pixels say what it is
        return request

    def run(self, plan, picture, *, sample):
        scale, consistency = plan.scale, plan.consistency
        size = tuple(round(side * scale) for side in picture.size)
        if not self.chooses:
            plain = {"weights": None, "steps": None, "sampler": None, "nfe": 0}
            return SimpleNamespace(picture=Picture(resize_array(picture.rgb, size)), report=plain)
        real = estimate(picture).real
        told = {"weights": "for-real" if real else "for-clean", "steps": 4 if real else 2,
                "sampler": "ddim", "nfe": 4 if real else 2, "temperature": 0.2,
                "weights_sha256": "ab" if real else "cd", "consistency_mode": consistency,
                "taken_for": "real" if real else "clean",
                "degradation": estimate(picture).report()}  # fmt: skip
        return SimpleNamespace(picture=Picture(resize_array(picture.rgb, size)), report=told)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs, whose small version is clean of the one and noisy of the other."""
    rgb = read(ROOT / "examples" / "parrots.png").rgb
    noise = np.random.default_rng(0).standard_normal(rgb.shape, np.float32) * np.float32(60 / 255)
    write(Picture(rgb), tmp_path / "set" / "clean.png")
    write(Picture(np.clip(rgb + noise, 0, 1)), tmp_path / "set" / "noisy.png")
    return tmp_path / "set"


def rows_of(folder: Path, cache: Cache | None = None, **settings):
    return run(
        folder, BenchSettings(metrics=("psnr_y", "lr_psnr"), **settings), cache=cache,
        make_upscaler=lambda trial, settings: Chooser(trial.method == AUTO),
    )  # fmt: skip


def test_a_degraded_small_picture_is_told_and_compared_with_itself(folder):
    clean, bad = (rows_of(folder, degradation=name)[0] for name in ("none", "peers"))
    assert (clean["degradation"], bad["degradation"]) == ("none", "peers")
    assert bad["kernel"] == "blur 1.1 px, bicubic, noise 4/255, JPEG 60" != clean["kernel"]
    assert bad["psnr_y"] < clean["psnr_y"]
    lr, hr = open_pair(Pair(folder / "clean.png"), 4, "peers")
    shrunk = resize_array(in_8_bits(resize_array(lr.rgb, hr.shape[:2])), lr.size)
    own = -10 * np.log10(np.mean((shrunk - lr.rgb) ** 2))
    assert bad["lr_psnr"] == pytest.approx(own, abs=0.01)  # against what was enlarged
    assert "blur 1.1 px" in to_markdown([bad])


@pytest.mark.parametrize("name", list(DEGRADATIONS)[1:])
def test_the_degradation_is_that_of_the_name_alone(folder, name):
    hr = read(folder / "clean.png").rgb
    one, again, other = (make_lr(hr, 3, name, picture)[0] for picture in ("a", "a", "b"))
    assert np.array_equal(one, again)
    assert np.array_equal(one, other) is (name not in ("peers", "phone"))  # those with noise
    noise = np.std(one - make_lr(hr, 3)[0])
    assert 2 / 255 < noise < 25 / 255
    assert np.abs(one * 255 - np.round(one * 255)).max() < 1e-4


def test_the_hardest_degradation_is_the_one_of_other_tables(folder):
    """Step by step as it was when numbers were compared with theirs."""
    hr = read(folder / "clean.png").rgb
    hr = hr[: len(hr) // 3 * 3, : hr.shape[1] // 3 * 3]
    small = resize_array(blurred(hr, 1.1), (len(hr) // 3, hr.shape[1] // 3))
    digest = hashlib.blake2b(b"a", digest_size=8).digest()
    drawn = np.random.default_rng(int.from_bytes(digest, "big"))
    small = small + drawn.standard_normal(small.shape, np.float32) * np.float32(4 / 255)
    expected = compressed(quantised(small, 8), "JPEG", 60) / np.float32(255)
    assert np.array_equal(make_lr(hr, 3, "peers", "a")[0], expected)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_colours_go_through_the_steps_together(tmp_path, name):
    """Even equal ones: only a file of one channel is grey."""
    x = np.random.default_rng(0).random((60, 52, 1), np.float32).repeat(3, 2)
    write(Picture(x), tmp_path / "a.png")
    lr = Picture(read(tmp_path / "a.png").rgb)
    digest = hashlib.blake2b(b"a", digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    for step, *numbers in DEGRADATIONS[name]:
        made = STEPS[step][1](lr.rgb, (15, 13), rng, *numbers)
        lr = made if isinstance(made, Picture) else Picture(made)
    found, _ = open_pair(Pair(tmp_path / "a.png"), 4, name)
    assert not found.grey and np.array_equal(found.rgb, in_8_bits(lr.rgb))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_grey_picture_stays_grey(tmp_path, name):
    x = np.random.default_rng(0).random((60, 52, 1), np.float32).repeat(3, 2)
    write(Picture(x, grey=True), tmp_path / "a.png")
    lr, hr = open_pair(Pair(tmp_path / "a.png"), 4, name)
    assert lr.grey and lr.size == (15, 13) and hr.shape == (60, 52, 3)
    assert np.array_equal(lr.rgb, lr.rgb[..., :1].repeat(3, 2))


def test_grey_noise_is_as_strong_as_coloured_noise(tmp_path, monkeypatch):
    write(Picture(np.full((256, 256, 3), 0.5, np.float32), grey=True), tmp_path / "a.png")
    for step in (("noise", 8.0), ("grain", 8.0, 0.6)):
        monkeypatch.setitem(DEGRADATIONS, "noisy", (("bicubic",), step))
        lr, _ = open_pair(Pair(tmp_path / "a.png"), 4, "noisy")
        assert lr.rgb.mean(2).std() * 255 == pytest.approx(8, rel=0.05)


def test_a_small_picture_knows_the_file_it_would_come_from(folder):
    pair = Pair(folder / "clean.png")
    told = {name: open_pair(pair, 4, name)[0].coded for name in DEGRADATIONS}
    assert told["none"] is None and told["webp"].codec == "WEBP"
    found = [told[name].quality for name in ("peers", "messenger", "jpeg75", "jpeg90", "phone")]
    assert found == pytest.approx([60, 70, 75, 90, 92], abs=0.5)


def test_the_words_name_every_step():
    said = {name: kernel_of(None, name) for name in list(DEGRADATIONS)[1:]}
    assert said["jpeg75"] == "bicubic, JPEG 75"
    assert said["messenger"] == "bicubic to twice the size, JPEG 85, area, JPEG 70"
    assert said["phone"].startswith("bicubic, noise 2/255 blurred by 0.6 px, unsharp mask 0.4 of 1")


def test_a_set_s_own_small_pictures_are_left_where_another_degradation_is_asked_for(folder):
    hr = read(folder / "clean.png").rgb
    write(Picture(np.zeros_like(make_lr(hr, 4)[0])), folder / "LRx4" / "clean.png")
    pair = Pair(folder / "clean.png", folder / "LRx4" / "clean.png")
    assert open_pair(pair, 4)[0].rgb.max() == 0 and open_pair(pair, 4, "peers")[0].rgb.max() > 0.5
    assert "LRx4" in kernel_of(pair, "none") and "JPEG" in kernel_of(pair, "peers")


def test_rows_of_another_degradation_are_measured_anew(folder, tmp_path):
    cache = Cache(tmp_path / "cache")
    first = rows_of(folder, cache, methods=("bicubic",), limit=1)
    second = rows_of(folder, cache, methods=("bicubic",), limit=1, degradation="peers")
    assert first[0]["psnr_y"] != second[0]["psnr_y"]
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 2


def test_the_choice_for_each_picture_is_one_line(folder, tmp_path):
    rows = rows_of(folder, Cache(tmp_path / "cache"), methods=("bicubic", AUTO))
    own = [row for row in rows if row["method"] == AUTO]
    assert [row["weights"] for row in own] == ["for-clean", "for-real"]
    assert [row["taken_for"] for row in own] == ["clean", "real"]
    assert own[1]["estimate"]["noise"] > 3
    lines = means(rows)
    assert [(line["method"], line["pictures"]) for line in lines] == [("bicubic", 2), (AUTO, 2)]
    assert lines[1]["nfe"] == 3 and lines[1]["weights"] is None
    several = means(rows_of(folder, methods=(AUTO,), steps=(2, 3)))
    assert [line["steps"] for line in several] == [2, 3]


@pytest.mark.parametrize("method", [AUTO, "sr3"])
def test_each_preset_is_a_trial(folder, method):
    rows = rows_of(folder, methods=(method,), presets=("fast", "best"), limit=1)
    lines = [(line["preset"], line["pictures"]) for line in means(rows)]
    assert lines == [("fast", 1), ("best", 1)]
    found = against_first(rows)
    assert {(row["against"], row["trial"]) for row in found} == {
        (f"{method}, fast", f"{method}, best")
    }
    again, notes = compare(rows, rows)
    assert len(again) == 2 * len(found) and notes == []


def test_auto_makes_an_upscaler_without_method(folder, monkeypatch):
    made = []

    def upscaler(method, **options):
        made.append((method, options["weights"]))
        return Chooser()

    monkeypatch.setattr("upscale.pipeline.upscaler.Upscaler", upscaler)
    run(folder, BenchSettings(methods=(AUTO,), metrics=("psnr_y",), limit=1))
    assert made == [(None, None)]


def test_auto_may_stand_beside_weights(tiny_weights):
    settings = BenchSettings(methods=(AUTO, "bicubic"), weights=(tiny_weights,))
    found = [(trial.method, trial.weights) for trial in trials_of(settings)]
    assert found == [(AUTO, None), ("bicubic", None), ("sr3", tiny_weights)]
    assert replace(trials_of(settings)[0]).label == "auto"


# --- scikit-image's photographs -------------------------------------------------------------------


def package(tmp_path: Path, monkeypatch, side: int) -> None:
    """A package of the same files, `side` pixels wide and high."""
    rng = np.random.default_rng(0)
    for file in testsets._PHOTOS:
        write(Picture(rng.random((side, side, 3), np.float32)), tmp_path / "data" / file)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


@pytest.fixture(autouse=True)
def nothing_kept():
    testsets._of_scikit.cache_clear()
    yield
    testsets._of_scikit.cache_clear()


def test_the_photographs_are_cut_from_the_top_left(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, 760)
    name, folder = testsets.find("scikit-photos")
    found = {pair.hr.stem: read(pair.hr) for pair in pairs_of(folder, 4)}
    assert name == "scikit-photos" and found["coffee"].size == (400, 400)
    assert {size for p in found.values() for size in p.size if size % 8} == set()
    whole = read(tmp_path / "data" / "motorcycle_left.png").rgb
    assert np.array_equal(found["motorcycle"].rgb, whole[:496, :736])
    assert testsets.find("Scikit-Photos")[1] == folder  # once a process


def test_what_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install scikit-image"):
        testsets.find("scikit-photos")
    package(tmp_path, monkeypatch, 300)
    with pytest.raises(InputError, match="at least 512x512"):
        testsets.find("scikit-photos")


def test_bicubic_has_the_published_tables_numbers():
    """The mean of four photographs, PSNR-Y 26.12 dB there, on degraded small pictures."""
    if importlib.util.find_spec("skimage") is None:
        pytest.skip("needs the scikit-image package")
    found = []
    for pair in pairs_of(testsets.find("scikit-photos")[1], 4):
        if pair.hr.stem != "rocket":
            lr, hr = open_pair(pair, 4, "peers")
            found.append(psnr_y(in_8_bits(resize_array(lr.rgb, hr.shape[:2])), hr, 4))
    assert len(found) == 4 and np.mean(found) == pytest.approx(26.12, abs=0.1)
