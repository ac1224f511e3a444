"""The training loop: what is exact, what is measured, what is told when something fails."""

from __future__ import annotations

import errno
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from picture_files import random_photos
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from upscale import methods
from upscale.diffusion.process import LogSNRLaw, VPDiscrete, VPLinear
from upscale.errors import (
    DiskFull,
    InputError,
    NumericalError,
    OutOfMemory,
    OutputError,
    UsageError,
)
from upscale.image.decode import read
from upscale.image.picture import Picture
from upscale.nets.compact import CompactConfig
from upscale.nets.ecdp import ECDPConfig, ECDPNet
from upscale.nets.sr3 import CONFIGS, SR3Net
from upscale.pipeline.upscaler import Upscaler
from upscale.train import checkpoint, log, loop, plot
from upscale.train.chance import Chance, antithetic, normal, uniform
from upscale.train.config import TrainConfig
from upscale.train.data import Batch, Pairs
from upscale.train.datasets import data_difference
from upscale.train.log import LEVEL_NAMES, Log, by_level
from upscale.train.loop import train
from upscale.train.loss import score_loss
from upscale.train.networks import make_net
from upscale.train.optimiser import learning_rate
from upscale.train.run import Options, run_training, spec_of
from upscale.train.state import Run
from upscale.weights import store

SMALL = CompactConfig(
    channels=(8, 8, 8), down=(1, 1, 1), up=(1, 1), encoder=1, head=(4, 4), embedding=8
)
CONFIG = TrainConfig(patch=32, batch=4, iterations=6, warmup=2)
NEVER = Options(validate_every=0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_photos(tmp_path_factory.mktemp("photos"), 4, (50, 62))


def run(photos: Path, output: Path, config: TrainConfig = CONFIG, **settings) -> Path:
    settings = {"net": SMALL, "options": NEVER, **settings}
    return run_training(config, photos, output, device="cpu", **settings)


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def curve(output: Path) -> list[dict]:
    """Without what the clock says."""
    timed = ("images_per_second", "memory")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines(output)]


def same(a: Path, b: Path) -> bool:
    x, y = store.read(a)[0], store.read(b)[0]
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


# --- exactness ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"antithetic": True, "accumulate": 2}, {"degradation": "real", "scale_min": 2.0},
     {"net": "sr3-tiny", "patch": 16}, {"method": "regression", "crop": "square"}],
    ids=["plain", "antithetic", "real", "dropout", "regression"],
)  # fmt: skip
def test_the_curve_of_a_run_in_parts_is_that_of_one(photos, tmp_path, monkeypatch, changes) -> None:
    monkeypatch.setattr(log, "EVERY", 4)  # so that parts end within a line
    if "net" in changes:
        tiny = replace(CONFIGS["sr3-tiny"], inner=8, groups=4, mults=(1, 2), dropout=0.3)
        monkeypatch.setitem(SR3Net.named, "sr3-tiny", tiny)
    config = CONFIG.with_(iterations=10, **{"scale_max": 4.0, **changes})
    whole = run(photos, tmp_path / "whole", config)
    for _ in range(3):
        left = iter([False] * 3)
        options = replace(NEVER, workers=1 if changes else 0)
        run(photos, tmp_path / "cut", config, options=options,
            should_stop=lambda left=left: next(left, True))  # fmt: skip
        with open(tmp_path / "cut/metrics.jsonl", "a") as file:  # killed while it wrote on
            file.write('{"iteration": 12, "loss": 0}\n{"iteration": 1')
    parts = run(photos, tmp_path / "cut", config)
    assert same(whole, parts)
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")
    assert [line["iteration"] for line in curve(tmp_path / "cut")] == [4, 8, 10]


@pytest.mark.parametrize("quality", [0, 2])
def test_parts_of_a_batch_are_the_batch(photos, tmp_path, quality) -> None:
    """In the quality stage all but the phase loss, whose root is of each part. In float32: where
    bf16 is native, its rounding depends on how many are computed at once."""
    config = CONFIG.with_(
        quality_loss_from=quality, quality_batch=4, patch=48, quality_vgg=0.0, quality_alex=0.0,
        quality_phase=0.0, iterations=5,
    )  # fmt: skip
    run(photos, tmp_path / "one", config, dtype="fp32")
    run(photos, tmp_path / "four", config.with_(accumulate=4), dtype="fp32")
    one, four = (lines(tmp_path / name)[-1] for name in ("one", "four"))
    for key in {"loss", "score", "gradient_norm"} | ({"l1"} if quality else set()):
        assert one[key] == pytest.approx(four[key], rel=1e-4)
    assert one["by_noise"] == pytest.approx(four["by_noise"], rel=1e-4)


def test_a_run_may_change_how_a_batch_is_parted(photos, tmp_path) -> None:
    run(photos, tmp_path)
    run(photos, tmp_path, CONFIG.with_(iterations=8, accumulate=2))
    assert checkpoint.newest(tmp_path, print)[0] == 8
    with pytest.raises(UsageError, match="other settings \\(loss\\)"):
        run(photos, tmp_path, CONFIG.with_(iterations=8, loss="l2"))


# what the first trainer's checkpoints told: no digest, and none of the later settings
FIRST_SETTINGS = (
    "method", "domain", "patch", "batch", "iterations", "learning_rate", "warmup",
    "final_learning_rate", "weight_decay", "clip", "ema", "seed", "scale_min", "scale_max",
    "scale_focus", "whole", "net", "std", "quality_loss_from", "quality_batch",
    "quality_learning_rate", "quality_calls", "quality_cool", "quality_l1", "quality_vgg",
    "quality_alex", "quality_phase",
)  # fmt: skip


def test_checkpoints_of_the_first_trainer_go_on(photos, tmp_path) -> None:
    run(photos, tmp_path / "now")
    iteration, tensors, record = checkpoint.newest(tmp_path / "now", print)
    first = {
        "config": {name: record["config"][name] for name in FIRST_SETTINGS},
        "images_seen": record["images_seen"],
    }
    old = tmp_path / "old"
    old.mkdir()
    path = old / f"checkpoint-{iteration:08d}.safetensors"
    save_file(tensors, path, metadata={"record": json.dumps(first)})
    (old / "metrics.jsonl").write_text('{"iteration": 6, "images_seen": 24, "loss": 1.5}\n')
    with pytest.raises(UsageError, match="other settings \\(antithetic\\)"):
        run(photos, old, CONFIG.with_(antithetic=True))
    more = CONFIG.with_(iterations=9)
    assert same(run(photos, old, more), run(photos, tmp_path / "now", more))
    assert curve(old)[0]["loss"] == 1.5  # what was logged stays
    assert curve(old)[1:] == curve(tmp_path / "now")[1:]


def test_a_deviation_is_measured_once(photos, tmp_path) -> None:
    """A run goes on with what it began with, also if it would measure something else now."""
    lines: list[str] = []
    path = run(photos, tmp_path, CONFIG.with_(std=0.0), say=lines.append)
    assert any("standard deviation" in line for line in lines)
    iteration, tensors, record = checkpoint.newest(tmp_path, print)
    assert store.read(path)[1]["std"] == record["config"]["std"] > 0
    record["config"]["std"] = 0.4321
    checkpoint.save(tmp_path, iteration, tensors, record)
    (tmp_path / "checkpoint-00000099.safetensors").write_bytes(b"damaged")
    path = run(photos, tmp_path, CONFIG.with_(std=0.0, iterations=8))
    assert store.read(path)[1]["std"] == 0.4321
    assert checkpoint.record_of(tmp_path / "none") == {}


def test_other_pictures_than_before_are_told(photos, tmp_path) -> None:
    run(photos, tmp_path / "out")
    (tmp_path / "more").mkdir()
    for path in photos.iterdir():
        (tmp_path / "more" / f"b{path.name}").write_bytes(path.read_bytes())
    told: list[str] = []
    run(tmp_path / "more", tmp_path / "out", CONFIG.with_(iterations=7), say=told.append)
    assert any("not those that the run began with" in line for line in told)


def test_a_flipped_bit_in_a_checkpoint_is_seen(photos, tmp_path) -> None:
    left = iter([False] * 2)
    run(photos, tmp_path, should_stop=lambda: next(left, True))
    run(photos, tmp_path)
    newest = tmp_path / "checkpoint-00000006.safetensors"
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content)
    told: list[str] = []
    run(photos, tmp_path, say=told.append)
    assert any("00000006.safetensors is damaged" in line for line in told)
    assert any("resuming from iteration 2" in line for line in told)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(photos, tmp_path) -> None:
    path = run(photos, tmp_path)
    (only,) = tmp_path.glob("checkpoint-*")
    only.write_bytes(only.read_bytes()[:-100])
    before = path.read_bytes()
    with pytest.raises(InputError, match="none of its checkpoints can be used"):
        run(photos, tmp_path)
    assert path.read_bytes() == before


def test_the_digest_covers_the_record(photos, tmp_path) -> None:
    left = iter([False] * 2)
    run(photos, tmp_path, should_stop=lambda: next(left, True))
    run(photos, tmp_path)
    newest = tmp_path / "checkpoint-00000006.safetensors"
    content = newest.read_bytes()
    assert content.count(b'\\"images_seen\\": 24') == 1
    newest.write_bytes(content.replace(b'\\"images_seen\\": 24', b'\\"images_seen\\": 99'))
    told: list[str] = []
    run(photos, tmp_path, say=told.append)
    assert any("00000006.safetensors is damaged (its content" in line for line in told)
    assert any("resuming from iteration 2" in line for line in told)


def test_a_checkpoint_with_another_name_is_told_and_passed_over(photos, tmp_path) -> None:
    left = iter([False] * 2)
    run(photos, tmp_path, should_stop=lambda: next(left, True))
    mine = (tmp_path / "checkpoint-00000002.safetensors").read_bytes()
    odd = ("checkpoint-00000900", "checkpoint-00000002 (1)", "checkpoint-old", "checkpoint-3")
    for name in odd:
        (tmp_path / f"{name}.safetensors").write_bytes(mine)
    told: list[str] = []
    assert same(run(photos, tmp_path, say=told.append), run(photos, tmp_path / "whole"))
    assert any("00000900.safetensors was renamed, for it is of iteration 2" in t for t in told)
    for name in odd[1:]:
        assert any(f"{name}.safetensors has no name of a checkpoint" in t for t in told)
        assert (tmp_path / f"{name}.safetensors").exists()  # nothing of the user's is removed
    assert (tmp_path / "checkpoint-00000006.safetensors").exists()


def test_other_content_under_the_same_names_is_told(photos, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    for path in photos.iterdir():
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    run(tmp_path / "in", tmp_path / "out")
    quiet: list[str] = []
    run(tmp_path / "in", tmp_path / "out", CONFIG.with_(iterations=7), say=quiet.append)
    assert not any("not those" in line for line in quiet)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "in" / "2.png")
    told: list[str] = []
    run(tmp_path / "in", tmp_path / "out", CONFIG.with_(iterations=8), say=told.append)
    assert any("began with (other sizes of files)" in line for line in told)
    assert data_difference("4:aa", "4:aa:bb") == ""  # of a former version, which knew no sizes
    assert data_difference("4:aa", "5:aa:bb") == "another number of pictures"


def test_one_run_at_a_time_is_in_a_folder(photos, tmp_path) -> None:
    def another() -> bool:
        with pytest.raises(UsageError, match="another run is training in"):
            run(photos, tmp_path)
        return False

    asked = iter([another])
    run(photos, tmp_path, should_stop=lambda: next(asked, lambda: False)())
    run(photos, tmp_path)  # free again


# --- chance -------------------------------------------------------------------------------------


def test_numbers_belong_to_places() -> None:
    shape = (6, 3, 4, 5)
    whole = Chance(1, 2, range(6))
    part = Chance(1, 2, [4, 1])
    torch.testing.assert_close(normal((2, *shape[1:]), part), normal(shape, whole)[[4, 1]])
    torch.testing.assert_close(uniform(2, part), uniform(6, whole)[[4, 1]])
    many = normal((3000, 2, 2, 2), Chance(0, 0, range(3000)))
    assert float(many.mean()) == pytest.approx(0, abs=0.02)
    assert float(many.std()) == pytest.approx(1, abs=0.02)
    assert float(uniform(3000, Chance(0, 0, range(3000))).mean()) == pytest.approx(0.5, abs=0.02)
    others = (Chance(2, 2, range(6)), Chance(1, 3, range(6)))
    assert all(not torch.equal(normal(shape, whole), normal(shape, other)) for other in others)


@pytest.mark.parametrize(
    "law", [LogSNRLaw(), VPDiscrete(), VPLinear()], ids=lambda x: type(x).__name__
)
def test_quantiles_are_the_laws(law) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = law.sample_sigma(40_000, generator).sort().values
    u = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    quantiles = law.sigma_at(u)
    direction = 1 if quantiles[-1] > quantiles[0] else -1
    expected = quantiles if direction > 0 else quantiles.flip(0)
    middle = slice(4000, 36_000)
    assert float((drawn[middle].log() - expected[middle].log()).abs().max()) < 0.12
    assert bool((direction * quantiles.diff() >= 0).all())


def test_antithetic_levels_come_in_pairs() -> None:
    u = antithetic(8, torch.Generator().manual_seed(3))
    torch.testing.assert_close(u[::2] + u[1::2], torch.ones(4, dtype=torch.float64))
    assert len(antithetic(5, torch.Generator())) == 5
    means = torch.stack([antithetic(16, torch.Generator().manual_seed(i)).mean() for i in range(9)])
    torch.testing.assert_close(means, torch.full_like(means, 0.5))


# --- what is measured ---------------------------------------------------------------------------


def test_losses_are_told_apart_by_noise() -> None:
    sums = by_level(torch.tensor([0.01, 0.03, 0.3, 100.0]), torch.tensor([1.0, 2.0, 4.0, 8.0]))
    assert sums.tolist() == [[1, 2, 4, 0, 0, 8], [1, 1, 1, 0, 0, 1]]


def test_a_line_holds_what_was_measured(photos, tmp_path) -> None:
    run(photos, tmp_path)
    line = lines(tmp_path)[-1]
    assert {"iteration", "images_seen", "loss", "gradient_norm", "learning_rate"} <= line.keys()
    assert (line["iteration"], line["images_seen"]) == (6, 24)
    assert line["images_per_second"] > 0 and line["memory"] > 1 << 20
    assert set(line["by_noise"]) <= set(LEVEL_NAMES) and len(line["by_noise"]) > 2
    run(photos, tmp_path / "once", CONFIG.with_(method="regression"))
    assert "by_noise" not in lines(tmp_path / "once")[-1]


def test_tensorboard_gets_what_the_file_gets(photos, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(photos, tmp_path, options=replace(NEVER, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (event,) = events.Scalars("train/loss")
    assert event.step == 24
    assert event.value == pytest.approx(lines(tmp_path)[-1]["loss"], rel=1e-4)


def test_validation_measures_draws_and_keeps_the_best(photos, tmp_path, monkeypatch) -> None:
    config = CONFIG.with_(holdout=1, iterations=8, scale_min=4.0, scale_max=4.0)
    told: list[str] = []
    path = run(photos, tmp_path / "a", config, say=told.append, name="mine",
               options=Options(validate_every=2))  # fmt: skip
    assert "3 pictures from" in told[0]
    found = [line for line in lines(tmp_path / "a") if "validation" in line]
    assert [line["iteration"] for line in found] == [2, 4, 6, 8]
    values = [line["validation"] for line in found]
    for value in values:
        assert 0 < value["lpips"] < 1.5 and 5 < value["psnr"] < 40 and value["consistency"] < 1
    best = min(range(4), key=lambda i: values[i]["lpips"])
    record = checkpoint.newest(tmp_path / "a", print)[2]
    assert record["best"] == {"iteration": 2 * (best + 1), **values[best]}
    kept = store.read(tmp_path / "a/mine-best.safetensors")[1]
    assert kept["training"]["iteration"] == 2 * (best + 1)
    sheets = sorted((tmp_path / "a/samples").iterdir())
    assert [p.stem.lstrip("0") for p in sheets] == ["8", "16", "24", "32"]
    assert {read(sheet).size for sheet in sheets} == {(32, 96)}
    plain = run(photos, tmp_path / "b", config, name="mine")
    assert same(path, plain)  # looking changes nothing
    card = path.with_suffix(".md").read_text()
    assert "# mine" in card and "LPIPS" in card and "images seen | 32 in 8" in card


def test_a_run_shows_what_it_does_by_default(photos, tmp_path, monkeypatch) -> None:
    """Of pictures that it is trained on where there are no others: none of these are best."""
    monkeypatch.setattr(loop, "FIRST_LOOK", 2)
    told: list[str] = []
    path = run(photos, tmp_path, CONFIG.with_(iterations=3), options=None, say=told.append)
    assert any("pictures that are trained on; --holdout N" in line for line in told)
    looks = [line for line in told if line.startswith("validation at iteration")]
    assert [line.split(":")[0].split()[-1] for line in looks] == ["2", "3"]
    assert "LPIPS (alex) 0." in looks[0] and "PSNR in dB" in looks[0]
    assert len(list((tmp_path / "samples").iterdir())) == 2
    assert not list(tmp_path.glob("*-best*")) and "Best" not in path.with_suffix(".md").read_text()
    drawn = ElementTree.parse(tmp_path / "loss.svg").getroot()
    titles = [text.text for text in drawn.iter() if text.get("font-weight")]
    assert titles[:2] == ["loss", "validation: LPIPS (alex)"] and len(titles) == 4


@pytest.mark.slow
def test_sixty_iterations_are_better_than_none(photos, tmp_path, monkeypatch) -> None:
    """Not by much: the head starts at zero. With a warm-up of 200 it was a tenth of that."""
    monkeypatch.setattr(loop, "FIRST_LOOK", 1)
    config = TrainConfig(patch=32, batch=4, iterations=60, scale_min=4.0, scale_max=4.0, holdout=2,
                         net="compact-tiny")  # fmt: skip
    run(photos, tmp_path, config, options=Options(validate_every=60), net=None)
    found = [line["validation"]["lpips"] for line in lines(tmp_path) if "validation" in line]
    assert len(found) == 2 and found[1] < found[0]


def test_a_plot_of_many_lines_is_small(tmp_path) -> None:
    lines = [{"iteration": i, "loss": 1e6 if i == 20 else 50 / i} for i in range(20, 40_000, 20)]
    log_of(tmp_path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot.draw(log_of(tmp_path))
    text = (tmp_path / "loss.svg").read_text()
    assert len(text) < 10_000 and "iteration 39,980" in text and "1e+06" not in text


def log_of(folder: Path) -> Path:
    return Log(folder).path


def test_weights_made_for_bad_input_leave_it_behind(photos, tmp_path) -> None:
    config = CONFIG.with_(degradation="real", scale_min=4.0, scale_max=4.0, holdout=1)
    path = run(photos, tmp_path, config, options=Options(validate_every=6))
    assert lines(tmp_path)[-1]["validation"]["consistency"] > 1  # it need not be the input's
    picture = Picture(np.full((9, 7, 3), 0.5, np.float32))
    upscaler = Upscaler(weights=str(path))
    assert upscaler(picture, scale=4).report["consistency_mode"] == "off"
    asked = upscaler(picture, scale=4, consistency="project")
    assert asked.report["consistency_mode"] == "project"
    clean = run(photos, tmp_path / "clean", CONFIG)
    assert Upscaler(weights=str(clean))(picture).report["consistency_mode"] == "project"


@pytest.mark.parametrize("degradation", ["bicubic", "real"])
def test_pictures_come_faster_than_our_network_takes_them(photos, degradation) -> None:
    """By three at least, in the processor's time: what else it does is no matter. Real ones are cut
    from examples 32 pixels larger, so that patches are as in training."""
    patch = 48 if degradation == "bicubic" else 96
    config = CONFIG.with_(
        patch=patch, batch=2, scale_min=4.0, scale_max=4.0, degradation=degradation
    )
    pictures = [np.asarray(Image.open(p)) for p in sorted(photos.iterdir())]
    made = Run(make_net(config), spec_of(config), config, Pairs(pictures, config))

    def seconds(work) -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    batch = made.pairs.batch(0)
    # in turns, so that what slows the processor down meets both
    spent = [
        (seconds(lambda: made.step([batch])), seconds(lambda i=i: made.pairs.batch(i % 4)))
        for i in range(8)  # the same four batches twice
    ]
    steps, batches = map(min, zip(*spent, strict=True))
    assert steps > 3 * batches


# --- how the weights move -----------------------------------------------------------------------


def test_learning_rates() -> None:
    def rates(**changes: object) -> list[float]:
        config = TrainConfig(
            iterations=100, warmup=10, learning_rate=1.0, final_learning_rate=0.1, **changes
        )
        return [learning_rate(config, i) for i in range(100)]

    constant, steps = rates(schedule="constant"), rates(schedule="steps", decay=0.5)
    assert constant[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert set(constant[10:]) == {1.0}
    assert [steps[i] for i in (10, 59, 60, 79, 80, 99)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    short = TrainConfig(iterations=60, learning_rate=1.0, schedule="constant")
    assert [learning_rate(short, i) for i in (0, 5, 6)] == pytest.approx([1 / 6, 1, 1])
    cosine = rates()
    assert cosine[99] == pytest.approx(0.1, abs=1e-3) and cosine[50] == pytest.approx(0.55)
    with pytest.raises(UsageError, match="--milestones"):
        rates(schedule="steps", milestones="half")
    with pytest.raises(UsageError, match=r"no loss 'l3'; choose from l1, l2"):
        TrainConfig(loss="l3")


@pytest.mark.parametrize("quality", [0, 7, 50])
def test_a_run_may_be_as_long_as_so_many_pictures(quality) -> None:
    config = TrainConfig(batch=4, quality_batch=3, quality_loss_from=quality)
    for count in (1, 28, 29, 100):
        made = config.of_images(count)
        seen = [made.count(i) for i in range(made.iterations)]
        assert made.images == sum(seen) >= count > sum(seen[:-1])


@pytest.mark.parametrize("changes", [{"clip": 1e-3}, {"clip_value": 1e-4, "clip": 0.0}])
def test_gradients_are_clipped(photos, changes) -> None:
    made = moved(photos, CONFIG.with_(optimiser="adam", **changes))
    grads = [p.grad for p in made.net.parameters() if p.grad is not None]
    norm = float(torch.stack([g.norm() for g in grads]).norm())
    largest = max(float(g.abs().max()) for g in grads)
    if "clip_value" in changes:
        assert largest == pytest.approx(1e-4)
    else:
        assert norm == pytest.approx(1e-3, rel=1e-3)
    free = moved(photos, CONFIG.with_(clip=0.0))
    assert float(torch.stack([p.grad.norm() for p in free.net.parameters()]).norm()) > 5e-3


def moved(photos: Path, config: TrainConfig, **settings) -> Run:
    """A run after one step."""
    pictures = [np.asarray(Image.open(p)) for p in sorted(photos.iterdir())]
    torch.manual_seed(0)
    net = make_net(config, SMALL if config.compact else None)
    made = Run(net, spec_of(config), config, Pairs(pictures, config), **settings)
    made.step([made.pairs.batch(0, config.batch, share) for share in made.shares(0)])
    return made


def test_optimisers_and_losses_are_what_they_are_called(photos) -> None:
    adam = moved(photos, CONFIG.with_(optimiser="adam", beta2=0.95, weight_decay=0.1))
    assert type(adam.optimiser) is torch.optim.Adam
    assert adam.optimiser.param_groups[0]["betas"] == (0.9, 0.95)
    assert type(moved(photos, CONFIG).optimiser) is torch.optim.AdamW
    batch = adam.pairs.batch(0)
    sigma = torch.full((4,), 0.5, dtype=torch.float64)
    found = {}
    for name in ("l1", "l2"):
        spec = spec_of(CONFIG.with_(loss=name))
        found[name] = score_loss(adam.net, spec, batch, sigma, Chance(0, 0, range(4)))
    assert bool((found["l2"] > found["l1"].square()).all())  # Jensen


@pytest.mark.filterwarnings("ignore")  # torch's own, of its compiler
def test_a_compiled_network_learns_the_same(photos) -> None:
    plain, compiled = moved(photos, CONFIG), moved(photos, CONFIG, compiled="eager")
    assert plain.net.state_dict().keys() == compiled.net.state_dict().keys()
    for a, b in zip(plain.net.parameters(), compiled.net.parameters(), strict=True):
        torch.testing.assert_close(a, b)


TINY_ECDP = ECDPConfig(
    in_conv=16, channels=(16, 32), blocks=(1, 1), time_channels=16, time_hidden=32,
    encoder_blocks=1, encoder_selection=(0,), encoder_features=16, encoder_growth=8,
)  # fmt: skip
# method: its network, how many steps it takes and how large they are
BY_HEART = {
    "sr3": ({"net": "sr3-tiny"}, 150, 4e-3),
    "idm": ({"net": "idm-tiny"}, 160, 3e-3),
    "ecdp": ({}, 230, 3e-3),
    "regression": ({"net": "compact-tiny"}, 200, 4e-3),
    "liif": ({"net_options": "blocks=2,features=32"}, 500, 4e-3),
    "edsr": ({"net_options": "blocks=2,features=24"}, 100, 4e-3),
}


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[] if name == "edsr" else pytest.mark.slow) for name in BY_HEART],
)
def test_four_pairs_are_learnt_by_heart(method) -> None:
    """The mean squared error over the noise levels of training falls below a tenth."""
    settings, steps, rate = BY_HEART[method]
    once = methods.get(method).sampler == "once"
    times = 1 if once else 2  # each pair, under noise of its own
    config = TrainConfig(
        method=method, patch=16, batch=4 * times, scale_min=4.0, scale_max=4.0, crop="square",
        warmup=10, learning_rate=rate, iterations=steps, schedule="constant", antithetic=True,
        noise_law="process", loss="l2", **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    net = ECDPNet(TINY_ECDP) if method == "ecdp" else make_net(config)
    run = Run(net, spec_of(config), config, Pairs(discs(), config))
    four, many = repeated(pairs_of(run), times), repeated(pairs_of(run), 16)
    places = torch.arange(64)
    sigma = run.law.sigma_at((places * 37 % 64 + 0.5) / 64)  # all levels for each pair
    if once:
        sigma = torch.full_like(sigma, run.spec.process.sigma_max)

    @torch.no_grad()
    def error() -> float:
        return float(
            score_loss(run.net, run.spec, many, sigma, Chance(5, 0, places.tolist())).mean()
        )

    first = error()
    for _ in range(steps):
        run.step([four])
    assert error() < 0.1 * first


def discs() -> list[np.ndarray]:
    """Four pictures of a disc each."""
    rng, found = np.random.default_rng(0), []
    y, x = np.mgrid[0:16, 0:16]
    for _ in range(4):
        at, colour = rng.integers(4, 12, 2), rng.uniform(0, 255, (2, 3))
        inside = ((y - at[0]) ** 2 + (x - at[1]) ** 2 < 16)[..., None]
        found.append(np.where(inside, colour[0], colour[1]).astype(np.uint8))
    return found


def pairs_of(run: Run) -> Batch:
    """Each picture once."""
    found = [run.pairs.batch(i, 1) for i in range(60)]
    unique = {round(float(batch.hr.sum()), 1): batch for batch in found}  # mirrored are the same
    four = list(unique.values())[:4]
    stack = [torch.cat([getattr(b, name) for b in four]) for name in ("hr", "lr_up", "scale")]
    return Batch(*stack, [b.lr[0] for b in four], range(4))


def repeated(batch: Batch, times: int) -> Batch:
    stack = [torch.cat([getattr(batch, name)] * times) for name in ("hr", "lr_up", "scale")]
    return Batch(*stack, batch.lr * times, range(4 * times))


# --- failures -----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_leaves_its_batch(photos, tmp_path, monkeypatch) -> None:
    factors = iter([1.0, math.inf])  # of the first part, and of the second

    def broken(*args) -> Tensor:
        return score_loss(*args) * next(factors)

    monkeypatch.setattr("upscale.train.state.score_loss", broken)
    with pytest.raises(NumericalError) as error:
        run(photos, tmp_path, CONFIG.with_(accumulate=2, batch=2))
    text = str(error.value)
    assert (
        "the loss became inf at iteration 0" in text
        and "noise levels" in text
        and "--learning-rate" in text
    )
    kept = tmp_path / "failed-00000000-0.safetensors"
    assert str(kept) in text
    saved = load_file(kept)
    assert saved["sigma"].shape == (2,) and saved["1.hr"].shape == (1, 3, 32, 32)
    pictures = [np.asarray(Image.open(p)) for p in sorted(photos.iterdir())]
    batch = Pairs(pictures, CONFIG.with_(batch=2)).batch(0)
    assert torch.equal(saved["1.hr"], batch.hr[1:])


def test_a_gradient_that_is_no_number_stops_too(photos, tmp_path) -> None:
    steep = CONFIG.with_(learning_rate=1e30, clip=0.0)
    with pytest.raises(NumericalError, match=r"at iteration 1 .*noise levels .*failed-00000001-0"):
        run(photos, tmp_path, steep)


@pytest.mark.parametrize(
    "changes, advice",
    [({}, "4 examples at once: try --accumulate 2: the same batch"),
     ({"accumulate": 2}, "2 examples at once: try --accumulate 4"),
     ({"batch": 6, "accumulate": 2}, "3 examples at once: try --batch 3"),
     ({"accumulate": 4}, "1 example at once: try a smaller --patch")],
)  # fmt: skip
def test_out_of_memory_tells_what_to_try(photos, tmp_path, monkeypatch, changes, advice) -> None:
    def large(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setattr("upscale.train.state.score_loss", large)
    with pytest.raises(OutOfMemory, match=advice):
        run(photos, tmp_path, CONFIG.with_(**changes))


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"),
     SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")],
)  # fmt: skip
def test_a_full_disk_keeps_the_last_checkpoint(photos, tmp_path, monkeypatch, error) -> None:
    left = iter([False] * 3)
    run(photos, tmp_path, should_stop=lambda: next(left, True))

    def full(state, path, metadata) -> None:
        Path(path).write_bytes(b"half of it")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        with pytest.raises(DiskFull, match=r"checkpoint-00000003\.safetensors is kept"):
            run(photos, tmp_path)
    assert [p.name for p in tmp_path.iterdir() if "checkpoint" in p.name] == [
        "checkpoint-00000003.safetensors"
    ]
    told: list[str] = []
    run(photos, tmp_path, say=told.append)
    assert any("resuming from iteration 3" in line for line in told)


def test_a_log_that_cannot_be_written_is_told(photos, tmp_path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"metrics\.jsonl cannot be written .* last checkpoint"):
        run(photos, tmp_path)
    with pytest.raises(DiskFull, match="same command"), log.explained(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_log_alone_is_dropped_where_no_checkpoint_is(photos, tmp_path) -> None:
    run(photos, tmp_path / "a")
    for path in (tmp_path / "a").glob("checkpoint-*"):
        path.unlink()
    run(photos, tmp_path / "a")
    run(photos, tmp_path / "b")
    assert curve(tmp_path / "a") == curve(tmp_path / "b")


def test_a_run_by_itself_needs_no_log(photos, tmp_path) -> None:
    pictures = [np.asarray(Image.open(p)) for p in sorted(photos.iterdir())]
    config = CONFIG.with_(iterations=2)
    made = Run(make_net(config, SMALL), spec_of(config), config, Pairs(pictures, config))
    assert train(made, tmp_path) and made.images_seen == 8
    assert Log(tmp_path).path.is_file()
