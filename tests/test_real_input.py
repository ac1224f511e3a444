"""Clean and real input: the estimate, the weights chosen by it, and what is told of that."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from upscale import Upscaler
from upscale.batch.dry import planned
from upscale.batch.files import Files
from upscale.batch.job import Job
from upscale.batch.ledger import settings_of
from upscale.batch.names import Item, Source
from upscale.batch.records import summarised
from upscale.bench.protocol import make_lr
from upscale.errors import UsageError, WeightsError
from upscale.image.compress import compressed, lossy_file
from upscale.image.decode import read
from upscale.image.estimate import Degradation, estimate
from upscale.image.gain import LEAST, gain_of
from upscale.image.picture import Picture, quantised
from upscale.image.resize import blurred, resize, resize_array
from upscale.pipeline.request import CONSISTENCY, Request, Setup
from upscale.weights import choice, registry, store

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """A photograph, shrunk: float32 (H,W,3)."""
    return make_lr(read(ROOT / "examples" / "parrots.png").rgb, 1)[0]


def with_jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    return compressed(quantised(rgb, 8), "JPEG", quality) / np.float32(255)


def noisy(rgb: np.ndarray, sigma: float) -> np.ndarray:
    drawn = np.random.default_rng(1).standard_normal(rgb.shape, np.float32)
    return np.clip(rgb + drawn * np.float32(sigma / 255), 0, 1)


# --- the estimate ---------------------------------------------------------------------------------


def test_a_clean_photograph_is_clean_and_each_degradation_is_found(clean):
    found = estimate(Picture(clean))
    assert (found.strength, found.quality, found.real) == (0, None, False)
    assert found.noise < 1 and found.blur < 0.6
    assert estimate(Picture(blurred(clean, 1.5))).blur > 1.0
    for rgb in (with_jpeg(clean, 55), blurred(clean, 1.5), noisy(clean, 4)):
        assert estimate(Picture(rgb)).strength > 0.9 and estimate(Picture(rgb)).real


@pytest.mark.parametrize("sigma", [0.7, 0.9, 1.5, 2.5])
def test_a_blur_is_seen_as_soon_as_it_matters(clean, sigma):
    found = estimate(Picture(quantised(blurred(clean, sigma), 8) / np.float32(255)))
    assert found.strength == 1 and found.blur == pytest.approx(sigma, rel=0.25)


def test_soft_things_with_a_fine_texture_are_not_blurred():
    """A picture whose every edge is soft, with the texture of a cloth on a half of it."""
    x = np.linspace(-4, 4, 160, dtype=np.float32)
    soft = 0.5 + 0.4 * np.tanh(2 * np.sin(3 * x)) * np.tanh(2 * np.sin(3 * x[:, None]))
    texture = np.random.default_rng(0).standard_normal(soft.shape, np.float32) * np.float32(0.02)
    texture[:, :80] = 0
    pictures = [Picture(np.repeat(each[..., None], 3, 2)) for each in (soft, soft + texture)]
    blurs = [estimate(picture).blur for picture in pictures]
    assert blurs[0] > 1.5 and blurs[1] < 0.5
    assert replace(estimate(pictures[1]), gain=None).strength == 0  # to the network it is noise


@pytest.mark.parametrize("sigma", [3.0, 6.0, 12.0])
def test_the_noise_is_told_in_grey_levels(clean, sigma):
    coloured = estimate(Picture(noisy(clean * 0.6 + 0.2, sigma))).noise
    assert coloured == pytest.approx(sigma, rel=0.1)
    grey = np.repeat(clean.mean(2, keepdims=True), 3, 2) * 0.6 + 0.2
    drawn = np.random.default_rng(2).standard_normal((*grey.shape[:2], 1), np.float32)
    grey = grey + drawn * np.float32(sigma / 255)
    assert sigma * 0.4 < estimate(Picture(grey, grey=True)).noise < sigma * 1.1  # or details


def test_noise_is_seen_that_a_mild_jpeg_has_gone_over(clean):
    even = np.ascontiguousarray(clean * 0.6 + 0.2)
    assert estimate(Picture(with_jpeg(even, 95))).noise < 0.5
    assert estimate(Picture(with_jpeg(noisy(even, 6), 95))).noise > 2.5
    for sigma in (0, 4):  # a coarser one leaves nothing to tell them by
        assert estimate(Picture(with_jpeg(noisy(even, sigma), 80))).noise is None
    assert estimate(Picture(with_jpeg(noisy(even, 25), 80))).noise > 2.5


@pytest.mark.parametrize("quality", [88, 75, 60, 40])
@pytest.mark.parametrize("cut", [(0, 0), (3, 5)])
def test_pixels_tell_the_quality_of_the_jpeg_that_they_were(clean, quality, cut):
    saved = with_jpeg(clean, quality)
    seen = estimate(Picture(np.ascontiguousarray(saved[cut[0] :, cut[1] :])))
    assert seen.quality == pytest.approx(quality, abs=2.5) and not seen.told
    again = estimate(Picture(with_jpeg(saved, 95)[cut[0] :, cut[1] :].copy()))
    assert again.quality == pytest.approx(quality, abs=2.5)  # saved better does not make it so
    if quality < 80:
        contrast = np.clip((saved - 0.5) * 1.15 + 0.5, 0, 1)
        assert estimate(Picture(contrast)).quality < quality


def test_a_file_says_its_quality_and_the_pixels_an_older_one(clean):
    def of(quality: int, rgb: np.ndarray) -> Degradation:
        return estimate(read(lossy_file(quantised(rgb, 8), "JPEG", quality)))

    assert [of(q, clean).quality for q in (97, 90, 75)] == [97, 90, 74.8]
    assert of(98, clean).strength == pytest.approx(0.292) and of(90, clean).told
    old = of(95, with_jpeg(clean, 60))
    assert old.quality < 62 and old.strength == 1
    webp = estimate(read(lossy_file(quantised(clean, 8), "WEBP", 75)))
    assert webp.quality == pytest.approx(80, abs=3) and webp.told  # whose pixels hide it


def test_the_strength_never_falls_and_has_no_steps():
    def strength(quality: float | None = None, noise: float = 0, blur: float = 0) -> float:
        return Degradation(noise, quality, blur, told=True).strength

    found = [strength(quality) for quality in np.arange(100, 70, -0.25)]
    assert found == sorted(found) and max(np.diff(found)) < 0.05
    assert [strength(q) for q in (100, 98.5, 95.5, 92, 90, 86, 60)] == [
        0, 0.25, 0.5, 0.75, 0.75, 1, 1,
    ]  # fmt: skip
    found = [strength(None, noise) for noise in np.arange(0, 8, 0.05)]
    assert found == sorted(found) and max(np.diff(found)) < 0.05 and found[-1] == 1
    assert Degradation(1.5, None, 0).strength == 0.5  # light noise: kept in parts
    found = [strength(None, 0, blur) for blur in np.arange(0, 3, 0.005)]
    assert found == sorted(found) and max(np.diff(found)) < 0.05 and found[-1] == 1
    found = [Degradation(0, None, 0, gain=gain).strength for gain in np.arange(-0.1, 0.2, 1e-4)]
    assert found == sorted(found) and max(np.diff(found)) < 0.05 and found[-1] == 1
    assert Degradation(0, None, 0, gain=None).strength == Degradation(0, None, 0, gain=-1).strength
    alone = Degradation(1.4, None, 0.53)  # without a file's word the pixels count more
    assert strength(None, 1.4, 0.53) < alone.strength < 1


def shrunk_after_a_jpeg(rgb: np.ndarray) -> np.ndarray:
    large = resize_array(rgb, (192, 288)).clip(0, 1)
    return resize_array(with_jpeg(large, 50), rgb.shape[:2]).clip(0, 1)


UNMEASURED = {
    "a WebP": lambda rgb: compressed(quantised(rgb, 8), "WEBP", 60) / np.float32(255),
    "a JPEG, shrunk": shrunk_after_a_jpeg,
}


@pytest.mark.parametrize("history", UNMEASURED)
def test_what_leaves_nothing_to_measure_is_seen(clean, history):
    """By pixels alone, as of a screenshot or after another program saved it as a PNG."""
    found = estimate(Picture(UNMEASURED[history](clean).astype(np.float32)))
    assert found.gain > 0 and found.strength == 1
    assert estimate(Picture(clean)).gain < 0


def test_the_network_sees_the_same_however_a_picture_lies(clean):
    """Its parts are spread over the whole picture, and a grey one is only a picture."""
    worse = with_jpeg(clean, 70).astype(np.float32)
    found = [gain_of(np.ascontiguousarray(np.rot90(worse, turns))) for turns in range(4)]
    assert max(found) - min(found) < 0.02 and min(found) > 0
    grey = np.repeat(worse.mean(2, keepdims=True), 3, 2)
    assert gain_of(grey) > 0 > gain_of(np.repeat(clean.mean(2, keepdims=True), 3, 2))


@pytest.mark.parametrize("size", [(23, 300), (300, 23), (64, 64), (24, 1000)])
def test_what_is_too_small_or_flat_says_nothing(size):
    flat = np.full((*size, 3), 0.3, np.float32)
    grain = flat + np.random.default_rng(0).standard_normal(flat.shape, np.float32) * 0.02
    assert gain_of(flat) is None and (gain_of(grain) is None) == (min(size) < LEAST)


def test_half_flat_pictures_are_judged_by_the_other_half(clean):
    half = np.concatenate([np.full_like(clean, 0.9), clean], 1)
    assert gain_of(half) == pytest.approx(gain_of(clean), abs=0.02)


def test_an_album_of_one_quality_is_treated_alike():
    photo = read(ROOT / "examples" / "parrots.png").rgb
    parts = [photo[:, left : left + 96] for left in (0, 48, 96)]
    files = [lossy_file(quantised(part, 8), "JPEG", 87) for part in parts]
    found = [estimate(read(file)).strength for file in files]
    assert max(found) - min(found) < 0.1 and min(found) > 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 7), (9, 40), (24, 24), (40, 300)])
def test_any_size_is_looked_at_and_flat_ones_are_clean(size):
    for value in (0.0, 0.5, 1.0):
        found = estimate(Picture(np.full((*size, 3), value, np.float32)))
        assert found == Degradation(0, None, 0) and not found.real
    estimate(Picture(np.random.default_rng(0).random((*size, 3), np.float32)))


def line_art() -> np.ndarray:
    im = Image.new("RGB", (1024, 768), "white")
    pen = ImageDraw.Draw(im)
    for i in range(40):
        pen.line((10 + i * 25, 5, 1000 - i * 20, 760), fill=(20 + i, 30, 60), width=3)
    for i in range(30):
        pen.text((30, 10 + i * 25), "The quick brown fox jumps over the lazy dog " * 3, "black")
        pen.ellipse(
            (700, 20 * i, 760 + i, 20 * i + 15), fill=(200, 40 + 5 * i, 30), outline="black"
        )
    return np.asarray(im, np.float32) / 255


@pytest.mark.parametrize("shrunk", [1, 2, 4])
def test_line_art_and_text_raise_no_alarm(shrunk):
    art = line_art()
    if shrunk > 1:
        art = make_lr(art, shrunk)[0]
    assert not estimate(Picture(art)).real
    gradient = np.repeat(np.linspace(0, 1, 400, dtype=np.float32)[None, :, None], 300, 0)
    for plain in (gradient, np.round(gradient * 255) / 255):
        assert not estimate(Picture(np.repeat(plain, 3, 2).astype(np.float32))).real


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_repeated_pixels_are_no_jpeg(factor, clean):
    few = np.round(clean[::6, ::6] * 12) / 12
    large = np.repeat(np.repeat(few, factor, 0), factor, 1).astype(np.float32)
    assert estimate(Picture(large)).quality is None


def test_what_is_under_transparency_does_not_count(clean):
    rgb, alpha = noisy(clean, 25), np.ones(clean.shape[:2], np.float32)
    alpha[:, 40:] = 0
    rgb[:, :40] = clean[:, :40]
    other = np.where(alpha[..., None] > 0, rgb, 0.5).astype(np.float32)
    assert estimate(Picture(rgb, alpha)) == estimate(Picture(other, alpha))


def test_a_large_picture_is_judged_by_its_centre(clean):
    rgb = np.full((1400, 1300, 3), 0.5, np.float32)
    rgb[:150] = noisy(rgb[:150], 20)
    assert not estimate(Picture(rgb)).real
    rgb[150:1250] = noisy(rgb[150:1250], 20)
    assert estimate(Picture(rgb.copy())).real


# --- the weights ----------------------------------------------------------------------------------


def entry_text(name: str, path: Path, more: str, scales: str = "[4]") -> str:
    content = path.read_bytes()
    return f"""
[weights.{name}]
method = "sr3"
net = "tiny"
domain = "photo"
scales = {scales}
sha256 = "{hashlib.sha256(content).hexdigest()}"
size = {len(content)}
licence = "none"
path = "{path}"
{more}
"""


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """An own list with what is given, beside diffsr's without its weights for real input."""
    tables = re.split(r"(?m)^(?=\[weights\.)", registry._list_path().read_text("utf-8"))
    shipped = tmp_path / "shipped.toml"
    shipped.write_text("".join(t for t in tables if not re.search(r'(?m)^input = "real"', t)))
    monkeypatch.setattr(registry, "_list_path", lambda: shipped)
    registry._entries.cache_clear()

    def put(text: str) -> Path:
        path = tmp_path / "own.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv(registry.LIST_VARIABLE, str(path))
        registry._entries.cache_clear()
        return path

    yield put
    registry._entries.cache_clear()


@pytest.fixture
def real_weights(tiny_weights, tmp_path, listed) -> str:
    """Listed weights for real input that say, as training writes it, that nothing is projected."""
    state, told = store.read(Path(tiny_weights))
    path = tmp_path / "made-real.safetensors"
    store.save(path, state, {**told, "scales": [4], "consistency": "off"})
    listed(entry_text("made-real", path, 'input = "real"'))
    return "made-real"


def report_of(rgb: np.ndarray, upscaler: Upscaler | None = None, **how) -> dict:
    return (upscaler or Upscaler())(Picture(rgb), **how).report


def test_a_degraded_picture_gets_the_weights_for_such(real_weights, clean):
    upscaler, small = Upscaler(), np.ascontiguousarray(clean[:64, :64])
    bad = noisy(small, 8)
    for rgb, name, kind in ((small, "ecdp-photo", "clean"), (bad, "made-real", "real"),
                            (small, "ecdp-photo", "clean")):  # fmt: skip
        told = report_of(rgb, upscaler)
        assert (told["weights"], told["taken_for"]) == (name, kind)
        assert told["degradation"]["real"] is (kind == "real")
        numbers = {"noise", "quality", "blur", "told", "gain", "strength", "real"}
        assert set(told["degradation"]) == numbers
        plan = upscaler.plan(Picture(rgb))
        assert (plan.weights, plan.taken_for) == (name, kind)
        assert f"{name} ({kind} input)" in summarised({"status": "ok", **told})
        chosen = [note for note in told["notes"] if "--input clean" in note]
        assert len(chosen) == (kind == "real")  # said also where no lines are shown
    assert told["consistency_mode"] == "project"
    assert report_of(bad, upscaler)["consistency_mode"] == "off"  # as its file says


def test_the_user_goes_before_the_estimate(real_weights, clean, tiny_weights):
    small = np.ascontiguousarray(clean[:24, :24])
    bad = noisy(np.full_like(small, 0.5), 20)
    assert report_of(bad, Upscaler(input="clean"))["weights"] == "ecdp-photo"
    assert report_of(small, Upscaler(input="real"))["weights"] == "made-real"
    by_method = report_of(bad, Upscaler("sr3"))
    assert (by_method["weights"], by_method["taken_for"]) == ("sr3-photo", None)
    named = report_of(bad, Upscaler(weights=tiny_weights, input="real"))
    assert (named["weights"], named["taken_for"]) == (Path(tiny_weights).stem, None)
    assert report_of(bad, Upscaler("bicubic"))["degradation"] is None
    assert report_of(bad, Upscaler("sr3", input="real"))["weights"] == "made-real"
    with pytest.raises(UsageError, match="clean, real"):
        Upscaler(input="dirty")


@pytest.mark.parametrize(("scale", "sizes"), [(2, [[96, 96]]), (3, [[96, 96]]), (6, None)])
def test_real_weights_go_on_at_other_scales(real_weights, scale, sizes):
    bad = noisy(np.full((24, 24, 3), 0.5, np.float32), 20)
    told = report_of(bad, scale=scale)
    assert told["weights"] == "made-real" and told["size_out"] == [24 * scale] * 2
    assert told["stages"] == sizes if sizes else len(told["stages"]) == 2


def test_without_such_weights_everything_is_as_before(listed):
    bad = noisy(np.full((24, 24, 3), 0.5, np.float32), 20)
    told = report_of(bad)
    assert (told["weights"], told["taken_for"]) == ("ecdp-photo", "real")
    assert not any("real" in note for note in told["notes"])
    asked = report_of(bad, Upscaler(input="real"))
    assert asked["weights"] == "ecdp-photo"
    assert any("no weights for real input" in note for note in asked["notes"])


def test_who_asks_for_more_steps_than_weights_gain_by_is_told(tiny_weights, listed):
    listed(entry_text("a", Path(tiny_weights), "steps_to = 4"))
    upscaler, picture = Upscaler(weights="a"), Picture(np.zeros((8, 8, 3), np.float32))
    assert upscaler.plan(picture, scale=4, steps=4).notes == ()
    (note,) = upscaler.plan(picture, scale=4, steps=5).notes
    assert note == "a is best in 2 steps: in more than 4 it measured worse"
    registry._entries.cache_clear()
    own = listed(entry_text("a", Path(tiny_weights), "steps_to = 0"))
    with pytest.raises(WeightsError, match=re.escape(f"{own}:11: [weights.a]: steps_to must be")):
        store.entries()


def test_the_list_says_what_weights_are_for(tiny_weights, listed, tmp_path):
    path = Path(tiny_weights)
    listed(entry_text("a", path, "", "[4, 8]") + entry_text("b", path, 'input = "real"'))
    known = store.entries()
    assert (known["a"].input, known["b"].input) == ("clean", "real")
    assert choice.choose(("sr3",), 4).input == "clean"  # a method's own weights are for clean input
    assert choice.choose(("ecdp", "sr3"), 4, input="real").name == "b"
    assert choice.choose(("idm", "ecdp"), 4, input="real").input == "clean"  # there are none
    registry._entries.cache_clear()
    both = entry_text("a", path, "shrinks_to = 1.5", "[4]") + entry_text("b", path, "", "[2]")
    listed(both.replace('"sr3"', '"edsr"'))  # of which there are no others
    found = [choice.choose(("edsr",), scale).name for scale in (4, 3, 2, 1.5, 1.4)]
    assert found == ["a", "a", "b", "a", "b"]  # the last: for want of any that serve it
    registry._entries.cache_clear()
    own = listed(entry_text("a", path, "shrinks_to = 0.5"))
    with pytest.raises(WeightsError, match=re.escape(f"{own}:11: [weights.a]: shrinks_to must be")):
        store.entries()
    registry._entries.cache_clear()
    own = listed(entry_text("a", path, "stages_past = 3"))
    with pytest.raises(WeightsError, match=re.escape(f"{own}:11: [weights.a]: stages_past must")):
        store.entries()
    registry._entries.cache_clear()
    own = listed(entry_text("a", path, 'input = "dirty"'))
    with pytest.raises(WeightsError, match=re.escape(f"{own}:11: [weights.a]: input must be one")):
        store.entries()
    state, told = store.read(path)
    for more, kind in (({"input": "real"}, "real"), ({}, "clean"),
                       ({"training": {"config": {"degradation": "real"}}}, "real")):  # fmt: skip
        file = tmp_path / "some.safetensors"
        store.save(file, state, {**told, **more})
        registry._entries.cache_clear()
        listed("")
        assert store.find(file).input == kind


def test_a_ledger_knows_which_weights_may_be_used(real_weights):
    def made(**options) -> str:
        return settings_of(Setup(**options), Request(), Files())

    both = made()
    found = choice.candidates(("ecdp", "idm", "sr3"), 4, "photo")
    assert [e.name for e in found] == ["ecdp-photo", "made-real"]
    assert len({both, made(input="clean"), made(input="real"), made(method="ecdp")}) == 4
    assert both == made()
    several = choice.candidates(("ecdp", "sr3"), None, "photo")
    assert {e.name for e in several} >= {"ecdp-photo", "sr3-photo", "made-real"}
    assert {e.input for e in choice.candidates(("sr3",), None, "photo", "clean")} == {"clean"}


def test_a_batch_chooses_for_each_and_a_dry_run_says_so(real_weights, clean, tmp_path):
    from upscale import upscale_many

    good = np.ascontiguousarray(clean[:48, 60:108])
    for name, rgb in (("a", good), ("b", noisy(good, 10)), ("c", good), ("d", noisy(good, 12))):
        Image.fromarray(quantised(rgb, 8)).save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / f"{name}.png") for name in "abcd"]
    alone = [made.image for made in upscale_many(paths)]
    made = list(upscale_many(paths, batch=4))
    used = [one.report["weights"] for one in made]
    assert used == ["ecdp-photo", "made-real"] * 2
    for one, other in zip(made, alone, strict=True):
        assert np.abs(np.asarray(one.image, int) - np.asarray(other, int)).max() <= 1
    job = Job(Upscaler)
    told = [planned(job, Item(Source(path, Path(path).name), "PNG")) for path in paths]
    assert [record["weights"] for record in told] == used
    assert [record["taken_for"] for record in told] == ["clean", "real"] * 2
    assert told[1]["degradation"]["noise"] > 5 and "made-real (real input)" in summarised(told[1])
    json.dumps(told)


# --- truth to the input ---------------------------------------------------------------------------


def test_colour_keeps_colours_and_brings_no_detail_back(tiny_weights, scene):
    upscaler = Upscaler(weights=tiny_weights)
    made = {m: upscaler(Picture(scene), consistency=m) for m in CONSISTENCY}
    coarse, fine = {}, {}
    for mode, result in made.items():
        error = resize_array(result.picture.rgb, scene.shape[:2]) - scene
        coarse[mode] = float(np.abs(blurred(error, 4)).mean())
        fine[mode] = float(np.abs(error - blurred(error, 4)).mean())
    assert coarse["colour"] < coarse["off"] / 5
    assert fine["colour"] > fine["off"] * 0.7 and fine["colour"] > fine["project"] * 3
    assert made["colour"].report["consistency_mode"] == "colour"


def test_colour_works_on_any_size():
    from upscale.pipeline.consistency import tinge

    for size in ((1, 1), (1, 30), (5, 3)):
        lr = torch.rand(1, 3, *size) - 0.5
        sr = resize(lr, (size[0] * 4, size[1] * 4)) + 0.3
        assert float((tinge(sr, lr).mean() - lr.mean()).abs()) < 0.05
