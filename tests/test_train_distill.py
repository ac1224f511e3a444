"""Few-step students: what they learn from their teacher, and how a run keeps it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from upscale.cli.main import cli
from upscale.diffusion.process import VPDiscrete, sigmas
from upscale.diffusion.samplers import ddim
from upscale.errors import UsageError
from upscale.model import build
from upscale.nets.compact import CompactConfig
from upscale.nets.compact_idm import CompactIDMConfig
from upscale.nets.ecdp import ECDPConfig, ECDPNet
from upscale.train import checkpoint, measure
from upscale.train.chance import Chance
from upscale.train.config import TrainConfig
from upscale.train.data import Batch, Pairs
from upscale.train.distill import Teacher, teacher_of
from upscale.train.loss import Spec, sample
from upscale.train.run import Options, run_training, spec_of
from upscale.weights import store

SMALL = CompactConfig(
    channels=(8, 8, 8), down=(1, 1, 1), up=(1, 1), encoder=1, head=(4, 4), embedding=8
)
IDM = CompactIDMConfig(
    channels=(16, 16, 16), down=(1, 1, 1), up=(1, 1), encoder=1, head=(8, 8), embedding=16,
    encoder_blocks=1, encoder_features=8, initial=4, branch=8, hidden=16, head_hidden=(8, 8),
)  # fmt: skip
NEVER = Options(validate_every=0)
# the same two examples in every iteration: a few dozen are enough
CONFIG = TrainConfig(
    patch=16, batch=4, warmup=5, iterations=60, ema=0.9, scale_min=4, scale_max=4,
    learning_rate=1e-2, crop="stretch",
)  # fmt: skip
KINDS = ("map", "progressive")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[0:40, 0:44].astype(np.float32)
    for index, (a, b, c) in enumerate(((2.5, 4.0, 3.1), (5.2, 2.2, 4.4))):
        waves = np.stack([np.sin(x / a), np.cos(y / b), np.sin((x + y) / c)], 2) * 90 + 128
        Image.fromarray(waves.astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def run(photos: Path, output: Path, config: TrainConfig, **settings) -> Path:
    settings = {"net": SMALL, "options": NEVER, **settings}
    return run_training(config, photos, output, device="cpu", **settings)


@pytest.fixture(scope="module")
def teacher(photos, tmp_path_factory) -> Path:
    return run(photos, tmp_path_factory.mktemp("teacher"), CONFIG)


def taught(teacher: Path, kind: str = "map", **changes) -> TrainConfig:
    changes = {"distill": str(teacher), "distill_kind": kind, "learning_rate": 5e-3, **changes}
    return CONFIG.with_(**changes)


def lines(output: Path) -> list[dict]:
    """metrics.jsonl without what the clock says."""
    found = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in ("images_per_second", "memory")} for x in found]


def same(a: Path, b: Path) -> bool:
    x, y = store.read(a)[0], store.read(b)[0]
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def examples(photos: Path) -> Batch:
    pictures = [np.array(Image.open(path)) for path in sorted(photos.iterdir())]
    return Pairs(pictures, CONFIG).batch(10**6)


def away(photos: Path, teacher: Path, path: Path, calls: int, heat: float = 0.2) -> float:
    """How far pictures of a file in so many calls are from the teacher's in 8, at the temperature
    that such files are used at."""
    spec, batch = spec_of(CONFIG), examples(photos)
    torch.manual_seed(5)
    start = torch.randn_like(batch.hr) * heat
    net = build(*store.read(path)).net
    with torch.no_grad():
        wanted = teacher_of(taught(teacher), spec, SMALL).picture(spec, batch, start)
        return float((sample(net, spec, batch, start, calls) - wanted).abs().mean())


# --- what is learnt -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_call_of_the_student_is_near_many_of_the_teacher(
    photos, tmp_path_factory, tmp_path, kind
) -> None:
    # so short a run depends on its seed: "map" comes to 0.36 to 0.60 with the seeds 0 to 3
    teacher = run(photos, tmp_path_factory.mktemp("own"), CONFIG.with_(seed=3))
    config = taught(teacher, kind, quality_score=0.1, seed=3)
    path = run(photos, tmp_path, config)
    before, after = (away(photos, teacher, file, 1) for file in (teacher, path))
    assert after < (0.5 if kind == "map" else 0.7) * before
    if kind == "map":  # the same file, in two calls
        assert away(photos, teacher, path, 2) < away(photos, teacher, teacher, 2)
    record = checkpoint.newest(tmp_path, print)[2]
    assert record["round"] == (2 if kind == "progressive" else 0)
    assert lines(tmp_path)[-1]["distill"] < lines(tmp_path)[0]["distill"] or kind != "map"


class Made:
    """A network of which only the clean target is told."""

    reads_lr = False

    def __init__(self, target) -> None:
        self.target = target

    def encode(self, lr_up: Tensor, scale: Tensor) -> None:
        return None

    def __call__(self, x: Tensor, cond: None, c_noise: Tensor) -> Tensor:
        c = c_noise.to(x)[:, None, None, None]
        return self.target(x / c, (c.pow(-2) - 1).sqrt())


def rounds(net, number: int, steps: int = 8, **changes) -> Teacher:
    """A teacher in some round."""
    config = taught(Path("t"), "progressive", distill_steps=steps, **changes)
    return Teacher("t", "", SimpleNamespace(net=net), config, number)


def test_one_step_of_the_student_ends_where_two_of_the_teacher_do(photos) -> None:
    batch, spec = examples(photos), Spec("x0", 0.24)
    net = Made(lambda x, sigma: torch.tanh(x / (1 + sigma)) * 0.7 + 0.1 * sigma.atan())
    levels = sigmas(VPDiscrete(), 2, "phi")

    def twice(x: Tensor, sigma: Tensor) -> Tensor:
        return ddim(lambda x, s: net.target(x, s[:, None, None, None]), x, levels)

    teacher, chance = rounds(net, 0, steps=2), Chance(7, 3, batch.places)
    exact = teacher.halving_loss(Made(twice), spec, batch, None, chance)
    other = teacher.halving_loss(net, spec, batch, None, chance)
    assert float(exact) < 1e-4 < 1e-2 < float(other)


def test_later_rounds_keep_the_steps_of_earlier_ones() -> None:
    spec, count = spec_of(CONFIG), 400
    top = np.arctan(spec.process.sigma_max)
    for number, steps in enumerate((4, 2, 1)):
        now, between, after = rounds(None, number, batch=count)._levels(spec, 0).atan() / top
        place = now * 4  # on the grid of the first round
        torch.testing.assert_close(place, place.round())
        own = (now * steps - (now * steps).round()).abs() < 1e-9
        torch.testing.assert_close((now - after)[own], torch.full_like(now[own], 1 / steps))
        torch.testing.assert_close((now - between)[own] * 2, (now - after)[own])
        assert torch.equal(between[~own], after[~own]) and (after >= 0).all()
        assert number == 0 or 0.1 < float((~own).float().mean()) < 0.5
        assert {round(float(x)) for x in place} == {1, 2, 3, 4}


def test_both_losses_are_on_one_picture(photos, teacher, tmp_path, monkeypatch) -> None:
    """In the quality stage; the file then tells how cool it is sampled."""
    counted = []

    def counting(*args, **settings):
        counted.append(args[4])
        return sample(*args, **settings)

    monkeypatch.setattr("upscale.train.state.sample", counting)
    config = taught(
        teacher, patch=48, quality_loss_from=1, quality_batch=2, quality_vgg=0.0, batch=2,
        quality_alex=0.0, iterations=12, distill_steps=2,
    )  # fmt: skip
    large = tmp_path / "large"
    large.mkdir()
    for picture in photos.iterdir():  # examples of 48 pixels, which are not blown up
        Image.fromarray(np.tile(Image.open(picture), (2, 2, 1))).save(large / picture.name)
    path = run(large, tmp_path, config)
    assert len(counted) == 12 and set(counted) == {1, 2, 4}
    assert {"score", "distill", "l1", "phase"} <= lines(tmp_path)[-1].keys()
    assert store.read(path)[1]["defaults"]["temperature"] == 0.2


# --- what a run keeps ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_parts_is_that_of_one(photos, teacher, tmp_path, kind) -> None:
    """Two rounds of three iterations: it stops within the first, between them, and in the last."""
    config = taught(teacher, kind, iterations=6, distill_steps=4)
    whole = run(photos, tmp_path / "whole", config)
    for stop in (2, 1, 1):
        left = iter([False] * stop)
        run(photos, tmp_path / "cut", config, should_stop=lambda left=left: next(left, True))
    iteration, state, record = checkpoint.newest(tmp_path / "cut", print)
    assert (iteration, record["round"]) == (4, int(kind == "progressive"))
    assert any(key.startswith("teacher.") for key in state) == (kind == "progressive")
    moved = tmp_path / "moved.safetensors"  # the same teacher elsewhere
    shutil.copy(teacher, moved)
    parts = run(photos, tmp_path / "cut", config.with_(distill=str(moved)))
    assert same(whole, parts) and lines(tmp_path / "whole") == lines(tmp_path / "cut")


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_are_the_batch(photos, teacher, tmp_path, kind) -> None:
    config = taught(teacher, kind, iterations=2, distill_steps=4)
    # (in bf16 the rounding depends on how many are computed at once)
    run(photos, tmp_path / "one", config, dtype="fp32")
    run(photos, tmp_path / "two", config.with_(accumulate=2), dtype="fp32")
    one, two = (lines(tmp_path / name)[-1] for name in ("one", "two"))
    for key in ("loss", "score", "distill", "gradient_norm"):
        assert one[key] == pytest.approx(two[key], rel=1e-4)


def test_the_file_tells_its_teacher_and_serves_three_presets(photos, teacher, tmp_path) -> None:
    path = run(photos, tmp_path, taught(teacher, iterations=2))
    told = store.read(path)[1]
    assert told["training"]["teacher"] == {
        "name": "sr3", "sha256": store.sha256_of(teacher), "kind": "map", "sampler": "ddim",
        "steps": 8, "temperature": 1.0,
    }  # fmt: skip
    law = build(*store.read(path)).law
    assert (law.sampler, law.spacing, law.steps, law.temperature) == ("ddim", "phi", 2, 1.0)
    few = [law.preset(name) for name in ("fast", "balanced", "best")]
    assert few == [("ddim", 1), ("ddim", 2), ("ddim", 4)]
    card = path.with_suffix(".md").read_text()
    assert f"| teacher | sr3, map from ddim in 8 steps, sha256 {store.sha256_of(teacher)}" in card


def test_the_student_starts_from_the_teacher_unless_told(photos, teacher, tmp_path) -> None:
    still = taught(teacher, iterations=1, learning_rate=1e-12, final_learning_rate=0.0)
    assert same(run(photos, tmp_path / "own", still), teacher)
    other = run(photos, tmp_path / "other", CONFIG.with_(iterations=1, seed=9))
    assert same(run(photos, tmp_path / "init", still, init=str(other)), other)


# --- what is refused ----------------------------------------------------------------------------


def test_another_teacher_is_refused(photos, teacher, tmp_path) -> None:
    other = run(photos, tmp_path / "other", CONFIG.with_(iterations=1))
    out, config = tmp_path / "out", taught(teacher, "progressive", iterations=3)
    run(photos, out, config)
    for changed in (config.with_(distill=str(other)), config.with_(distill="")):
        with pytest.raises(UsageError, match="with another teacher"):
            run(photos, out, changed)
    with pytest.raises(UsageError, match="other settings \\(iterations\\)"):  # its rounds
        run(photos, out, config.with_(iterations=4))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "regression"}, "is for sr3, ecdp and idm"),
        ({"method": "ecdp"}, "method 'sr3', not 'ecdp'"),
        ({"std": 0.3}, "--std 0.24, not 0.3"),
        ({"parametrisation": "eps"}, "--parametrisation 'v', not 'eps'"),
        ({"distill": "sr3-photo"}, "network's channels \\(64, 96, 128\\), not \\(8, 8, 8\\)"),
        ({"distill_kind": "progressive", "distill_steps": 6}, "cannot be halved"),
        ({"distill_kind": "progressive", "iterations": 2}, "3 rounds need"),
        ({"distill_steps": 1}, "at least 2"),
        ({"patch": 48, "quality_loss_from": 1, "quality_gradient": "adjoint"}, "direct"),
    ],
)
def test_what_cannot_be_learnt_is_told_before_pictures_are_read(
    teacher, tmp_path, changes, told
) -> None:
    nothing = tmp_path / "empty"
    nothing.mkdir()
    Image.new("RGB", (4, 4)).save(nothing / "tiny.png")  # nothing to learn from either
    with pytest.raises(UsageError, match=told):
        run(nothing, tmp_path / "out", taught(teacher).with_(**changes))
    assert not (tmp_path / "out").exists()


# --- every method -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "net", "sampler"),
    [("sr3", "sr3-tiny", "ddim"), ("idm", "compact", "ddim"),
     pytest.param("idm", "idm-tiny", "ddim", marks=pytest.mark.slow),
     ("ecdp", "compact", "ddim"), ("ecdp", "ecdp-small", "heun-phi")],
)  # fmt: skip
def test_every_diffusion_method_has_students(
    photos, tmp_path, monkeypatch, method, net, sampler
) -> None:
    small = ECDPConfig(
        in_conv=16, channels=(16, 16), blocks=(1, 1), time_channels=8, time_hidden=16,
        encoder_blocks=1, encoder_selection=(0,), encoder_features=8, encoder_growth=4,
    )  # fmt: skip
    monkeypatch.setitem(ECDPNet.named, "ecdp-small", small)
    config = CONFIG.with_(method=method, net=net, iterations=1, batch=2, scale_focus=4, std=0.11)
    sizes = None if net != "compact" else IDM if method == "idm" else SMALL
    source = run(photos, tmp_path / "teacher", config, net=sizes)
    for kind in KINDS:
        student = config.with_(
            distill=str(source), distill_kind=kind, distill_steps=4, quality_calls=2, std=0.0,
            iterations=2,
        )  # fmt: skip
        path = run(photos, tmp_path / kind, student, net=sizes)
        told = store.read(path)[1]
        assert told["training"]["teacher"]["sampler"] == (sampler if kind == "map" else "ddim")
        assert (told["defaults"]["sampler"], told["defaults"]["steps"]) == ("ddim", 2)
        assert told["std"] == store.read(source)[1]["std"]  # 0 takes the teacher's
        assert lines(tmp_path / kind)[0]["distill"] > 0


def test_a_plan_and_an_imported_checkpoint_tell_the_teacher(photos, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    config = replace(CONFIG, net="compact-tiny", iterations=1, batch=2)
    source = run(photos, tmp_path, config, net=None)
    args = ["train", "--dataset", photos, "--net", "compact-tiny", "--patch", 32, "--batch", 2,
            "--scale", 4, "--distill", source, "--dry-run"]  # fmt: skip
    told = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False).stdout
    assert "sr3, map from ddim in 8 steps: 8 calls, 0." in told
    args += ["--distill-kind", "progressive"]
    told = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False).stdout
    assert "sr3, progressive from ddim in 8 steps: 2 calls, 0." in told
    path = run(photos, tmp_path / "out", config.with_(distill=str(source)), net=None)
    imported = tmp_path / "imported.safetensors"
    args = ["weights", "import", tmp_path / "out/checkpoint-00000001.safetensors", "-o", imported]
    CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
    told, theirs = (store.read(file)[1] for file in (imported, path))
    assert told["training"]["teacher"] == theirs["training"]["teacher"]
    assert told["defaults"] == theirs["defaults"]
