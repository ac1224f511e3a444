"""Training: exact resume, damaged checkpoints, and weights that upscale can use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from upscale import weights
from upscale.errors import InputError, NumericalError, UsageError
from upscale.image.picture import Picture
from upscale.nets.compact import CompactConfig
from upscale.pipeline import Upscaler
from upscale.train import checkpoint
from upscale.train.config import TrainConfig
from upscale.train.data import Pairs, load_folder
from upscale.train.loss import phase_loss
from upscale.train.run import run_training

SMALL = CompactConfig(
    channels=(8, 8, 8), down=(1, 1, 1), up=(1, 1), encoder=1, head=(4, 4), embedding=8
)
CONFIG = TrainConfig(patch=32, batch=2, iterations=6, warmup=2, quality_batch=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 256, (50 + index, 62, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def run(photos: Path, output: Path, config: TrainConfig = CONFIG, **settings) -> dict:
    path = run_training(config, photos, output, net=SMALL, device="cpu", **settings)
    return weights.read(path)[0]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_in_two_parts_equals_a_run_in_one(photos, tmp_path) -> None:
    whole = run(photos, tmp_path / "whole")
    left = iter([False] * 3)
    run(photos, tmp_path / "parts", should_stop=lambda: next(left, True))
    lines: list[str] = []
    parts = run(photos, tmp_path / "parts", say=lines.append)
    assert any("going on from iteration 3" in line for line in lines)
    assert same(whole, parts)


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(photos, tmp_path) -> None:
    whole = run(photos, tmp_path / "whole")
    for stop in (2, 4):
        left = iter([False] * 2)
        run(photos, tmp_path / "cut", should_stop=lambda left=left: next(left, True))
        newest = tmp_path / "cut" / f"checkpoint-{stop:08d}.safetensors"
        assert newest.is_file()
    newest.write_bytes(newest.read_bytes()[:1000])
    lines: list[str] = []
    assert same(whole, run(photos, tmp_path / "cut", say=lines.append))
    assert any("checkpoint-00000004.safetensors is damaged" in line for line in lines)
    assert any("going on from iteration 2" in line for line in lines)


def test_another_config_in_the_same_folder_is_refused(photos, tmp_path) -> None:
    run(photos, tmp_path)
    with pytest.raises(UsageError, match="learning_rate"):
        run(photos, tmp_path, CONFIG.with_(learning_rate=1.0))


def test_more_iterations_in_the_same_folder_go_on(photos, tmp_path) -> None:
    run(photos, tmp_path)
    before = checkpoint.newest(tmp_path, print)[0]
    run(photos, tmp_path, CONFIG.with_(iterations=8))
    assert (before, checkpoint.newest(tmp_path, print)[0]) == (6, 8)


def test_the_quality_stage_runs_and_moves_the_weights(photos, tmp_path) -> None:
    config = CONFIG.with_(patch=48, quality_loss_from=3, quality_vgg=0.0)
    first = run(photos, tmp_path / "a", config)
    assert same(first, run(photos, tmp_path / "b", config))
    assert not same(first, run(photos, tmp_path / "c"))
    line = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"score", "l1", "phase", "feature0", "images_per_second"} <= line.keys()


@pytest.mark.parametrize("method", ["sr3", "regression"])
def test_trained_weights_are_used_with_no_flags(photos, tmp_path, method) -> None:
    run(photos, tmp_path, CONFIG.with_(method=method), name="mine")
    upscaler = Upscaler(weights=str(tmp_path / "mine.safetensors"))
    made = upscaler(Picture(np.full((9, 7, 3), 0.5, np.float32)), scale=3)
    assert made.picture.size == (27, 21) and made.report["method"] == method
    assert made.report["nfe"] == (1 if method == "regression" else 4)


def test_regression_starts_from_a_diffusion_network(photos, tmp_path) -> None:
    run(photos, tmp_path / "sr3", name="sr3")
    start = str(tmp_path / "sr3" / "sr3.safetensors")
    config = CONFIG.with_(method="regression", iterations=1, learning_rate=1e-9)
    state = run(photos, tmp_path / "regression", config, init=start)
    wanted = weights.read(start)[0]["enc_in.weight"].float()
    torch.testing.assert_close(state["enc_in.weight"].float(), wanted, atol=1e-3, rtol=1e-2)


def test_pairs_depend_on_the_iteration_alone(photos) -> None:
    pairs = Pairs(load_folder(photos), CONFIG)
    a, again, b = pairs.batch(5), pairs.batch(5), pairs.batch(6)
    assert torch.equal(a.hr, again.hr) and torch.equal(a.lr_up, again.lr_up)
    assert not torch.equal(a.hr, b.hr)
    assert a.hr.shape == a.lr_up.shape == (2, 3, 32, 32)
    for lr, scale in zip(a.lr, a.scale, strict=True):
        assert lr.shape[-1] * float(scale) == pytest.approx(32)


def test_broken_pictures_are_named_and_left_out(photos, tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    lines: list[str] = []
    with pytest.raises(InputError, match="no readable picture"):
        load_folder(tmp_path, on_skip=lines.append)
    assert len(lines) == 1 and "bad.png" in lines[0]
    with pytest.raises(InputError, match="no such folder"):
        load_folder(tmp_path / "missing")


def test_a_loss_that_is_not_finite_stops_with_its_place(photos, tmp_path, monkeypatch) -> None:
    def broken(net, spec, batch, sigma, generator):
        return sigma.float() * float("nan")

    monkeypatch.setattr("upscale.train.loop.score_loss", broken)
    with pytest.raises(NumericalError, match="at iteration 0"):
        run(photos, tmp_path)


def test_a_grid_is_seen_by_the_phase_loss() -> None:
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 96, 64) * 2 - 1
    grid = torch.zeros_like(hr)
    grid[..., ::4, ::4] = 0.05
    plain = hr + 0.01 * torch.randn_like(hr)
    assert phase_loss(hr, hr) == 0
    assert phase_loss(hr + grid, hr) > 3 * phase_loss(plain, hr)


def test_settings_that_make_no_sense_are_named() -> None:
    small = {"patch": 32, "quality_loss_from": 1}
    for wrong in ({"patch": 30}, small, {"batch": 0}, {"scale_min": 9.0}):
        with pytest.raises(UsageError):
            TrainConfig(**wrong)
    with pytest.raises(UsageError, match="unknown training setting: nonsense"):
        TrainConfig().with_(nonsense=1)
