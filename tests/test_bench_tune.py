"""Noise levels found by search: stored in the weights, and used by them from then on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from upscale import methods
from upscale.bench import tune as module
from upscale.bench.tune import Tuned, keep, tune
from upscale.cli.main import cli
from upscale.diffusion.process import sigmas
from upscale.diffusion.table import SAMPLERS, SPACINGS
from upscale.errors import InputError, UsageError, WeightsError
from upscale.image.encode import write
from upscale.image.picture import Picture
from upscale.methods import Schedule
from upscale.model import build
from upscale.pipeline.upscaler import Upscaler
from upscale.weights import store


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    y, x = np.mgrid[0:40, 0:48]
    for index in range(4):
        plane = 0.5 + 0.4 * np.sin(x / (3 + index)) * np.cos(y / 5)
        rgb = np.repeat(plane[..., None], 3, 2).astype(np.float32)
        write(Picture(rgb), folder / f"{index}.png")
    return folder


@pytest.fixture
def own(tiny_weights: str, tmp_path: Path) -> Path:
    path = tmp_path / "own.safetensors"
    path.write_bytes(Path(tiny_weights).read_bytes())
    return path


def search(pictures: Path, own: Path, **rest):
    return tune(pictures, str(own), 3, metrics=("psnr",), scale=2.0, device="cpu", dtype="fp32",
                **{"candidates": 16, **rest})  # fmt: skip


def test_the_best_is_found_stored_and_used(pictures: Path, own: Path, scene: np.ndarray) -> None:
    before = Upscaler(weights=str(own), device="cpu", dtype="fp32")
    plain = before(Picture(scene), scale=2, steps=3)
    other = before(Picture(scene), scale=2, steps=2)
    told = []
    found = search(pictures, own, on_step=lambda done, of, best: told.append((done, of, best)))
    assert [done for done, _, _ in told] == list(range(1, 17)) and found.tried == 16
    bests = [best for _, _, best in told]
    assert bests == sorted(bests, reverse=True) and bests[-1] < 1  # noise costs an untrained net
    assert found.kept and found.after["psnr"] > found.before["psnr"]
    assert found.change["psnr"].value == pytest.approx(found.after["psnr"] - found.before["psnr"])
    assert keep(found, str(own)) == own
    after = Upscaler(weights=str(own), device="cpu", dtype="fp32")
    tuned = after(Picture(scene), scale=2, steps=3)
    assert tuned.report["spacing"] == "tuned"
    assert tuned.report["temperature"] == pytest.approx(found.schedule.temperature)
    assert np.abs(tuned.picture.rgb - plain.picture.rgb).max() > 1e-3
    again = after(Picture(scene), scale=2, steps=2)  # another step count is as it was
    assert (again.picture.rgb == other.picture.rgb).all()


def test_a_stored_schedule_is_what_the_sampler_gets(
    own: Path, scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, metadata = store.read(own)
    levels = [5.0, 1.5, 0.2]
    defaults = {**metadata["defaults"], "schedules": [
        {"sampler": "ddim", "steps": 3, "sigmas": levels, "temperature": 0.25}]}  # fmt: skip
    store.save(tmp_path / "new.safetensors", state, {**metadata, "defaults": defaults})
    old = Upscaler(weights=str(own), device="cpu", dtype="fp32")
    new = Upscaler(weights=str(tmp_path / "new.safetensors"), device="cpu", dtype="fp32")
    picture = Picture(scene)
    made = new(picture, scale=2, steps=3)
    assert (made.report["spacing"], made.report["temperature"]) == ("tuned", 0.25)
    for same in ({"steps": 2}, {"steps": 3, "sampler": "heun"}, {"steps": 3, "spacing": "phi"}):
        a, b = old(picture, scale=2, **same), new(picture, scale=2, **same)
        assert (a.picture.rgb == b.picture.rgb).all() and b.report["spacing"] == "phi"
    seen = []
    real = SAMPLERS["ddim"]

    def spy(denoise, x, sigmas, **rest):
        seen.append(sigmas.tolist())
        return real(denoise, x, sigmas, **rest)

    monkeypatch.setitem(SAMPLERS, "ddim", replace(real, function=spy))
    new(picture, scale=2, steps=3)
    assert seen == [[*levels, 0.0]]
    warm = new(picture, scale=2, steps=3, temperature=1.0)
    assert warm.report["temperature"] == 1.0 and warm.report["spacing"] == "tuned"


def test_listed_weights_are_not_touched(tmp_path: Path) -> None:
    schedule = Schedule("ddim", 3, (2.0, 0.7, 0.2), 0.5)
    found = Tuned(schedule, before={}, after={}, change={}, kept=True, tried=1)
    with pytest.raises(UsageError, match="--output"):
        keep(found, "sr3-photo")
    path = keep(found, "sr3-photo", tmp_path / "mine.safetensors")
    state, metadata = store.read(path)
    assert metadata["defaults"]["schedules"][0]["steps"] == 3
    listed, _ = store.load(store.find("sr3-photo"))
    assert state.keys() == listed.keys() and all(state[k].dtype == listed[k].dtype for k in state)
    assert build(state, metadata).law.tuned(found.schedule.sampler, 3) == found.schedule
    keep(found, str(path))  # once more: it takes its own place
    assert len(store.read(path)[1]["defaults"]["schedules"]) == 1


def test_what_makes_the_checking_pictures_worse_is_not_kept(
    pictures: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = module.Scorer.__call__, []

    def turned(self, case):
        """What is better on the pictures that choose is worse on the ones that check."""
        calls.append(1)
        value = real(self, case)["psnr"]
        fingerprint = int(np.round(case.hr.sum() * 1000)) % 997
        return {"psnr": value if fingerprint in chosen else 60 - value}

    from upscale.image.decode import read

    sums = [int(np.round(read(p).rgb.sum() * 1000)) % 997 for p in sorted(pictures.iterdir())]
    chosen = set(sums[::2])
    assert not chosen & set(sums[1::2])
    monkeypatch.setattr(module.Scorer, "__call__", turned)
    found = search(pictures, own)
    assert not found.kept and found.after["psnr"] < found.before["psnr"]


def test_mistakes(pictures: Path, own: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot make grid_ratio better"):
        tune(pictures, str(own), 2, metrics=("grid_ratio",))
    with pytest.raises(UsageError, match="rk45 has no noise levels"):
        search(pictures, own, sampler="rk45")
    with pytest.raises(InputError, match="one picture to choose by"):
        search(pictures, own, limit=1)
    for bad in ([1.0, 2.0], [1.0], [2.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="schedule"):
            Schedule("ddim", 2, tuple(bad))
    state, metadata = store.read(own)
    metadata["defaults"]["schedules"] = [{"sampler": "ddim", "steps": 2, "sigmas": [1.0]}]
    with pytest.raises(WeightsError, match="cannot build"):
        build(state, metadata)


def test_points_of_the_box_are_schedules(own: Path) -> None:
    law = build(*store.read(own)).law
    rng = np.random.default_rng(0)
    low, high = np.array(module._LOW), np.array(module._HIGH)
    for steps in (1, 2, 3, 10, 50):
        for _ in range(20):
            point = low + (high - low) * rng.random(4)
            found = module._schedule(law, "ddim", steps, point)
            assert found.sigmas[0] <= law.process.sigma_max * 1.0001
        grids = module._grids(law, "ddim", steps)
        assert grids[0].sigmas == tuple(sigmas(law.process, steps, law.spacing)[:-1].tolist())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_named_spacing_is_tried(temperature: float) -> None:
    law = replace(methods.METHODS["sr3"], temperature=temperature)
    tried = {(one.sigmas, one.temperature) for one in module._grids(law, "ddim", 4)}
    assert tried == {
        (tuple(sigmas(law.process, 4, spacing)[:-1].tolist()), warmth)
        for spacing in SPACINGS for warmth in (temperature, 1.0)
    }  # fmt: skip


def test_the_command(pictures: Path, own: Path, tmp_path: Path) -> None:
    def run(*args):
        return CliRunner().invoke(cli, ["bench", "--tune-schedule", *args], standalone_mode=False)

    new = tmp_path / "new.safetensors"
    args = ("--dataset", str(pictures), "--weights", str(own), "--steps", "3", "--scale", "2",
            "--metrics", "psnr", "--candidates", "12", "--device", "cpu",
            "--output", str(new))  # fmt: skip
    result = run(*args, "--json", str(tmp_path / "told.json"))
    assert result.exception is None and f"stored in {new}" in result.stdout
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["tried"] == 12 and len(told["schedule"]["sigmas"]) == 3
    assert told["kept"] is True and told["path"] == str(new) and new.is_file()
    alone = json.loads(run(*args, "--candidates", "4", "--json", "-").stdout)
    assert alone["tried"] == 4 and alone.keys() == told.keys()
    for bad, why in (
        (("--steps", "3"), "needs --weights and --steps"),
        (("--weights", str(own), "--steps", "2,3"), "takes one --steps"),
        (("--weights", "sr3-photo", "--steps", "2"), "--output"),
    ):
        wrong = run(*bad)
        assert isinstance(wrong.exception, UsageError) and why in str(wrong.exception)
