"""The discriminator of the image quality loss: what it learns, whom its gradients reach, resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from picture_files import random_photos
from torch import Tensor

from upscale.errors import UsageError
from upscale.metrics.perceptual import Lpips
from upscale.nets.compact import CompactConfig
from upscale.train import checkpoint
from upscale.train.adversary import WIDTHS, Adversary
from upscale.train.chance import Chance
from upscale.train.config import TrainConfig
from upscale.train.run import Options, run_training
from upscale.weights import store
from upscale.weights.file import DISCRIMINATOR

SMALL = CompactConfig(
    channels=(8, 8, 8), down=(1, 1, 1), up=(1, 1), encoder=1, head=(4, 4), embedding=8
)
CONFIG = TrainConfig(
    patch=48, batch=2, iterations=6, warmup=2, quality_batch=4, quality_loss_from=2,
    quality_vgg=0.0, quality_adversarial=0.1,
)  # fmt: skip
NARROW = (6, 5)  # levels of a made-up trunk, whose first has 3 channels


def features(kind: str, seed: int, count: int = 8) -> list[Tensor]:
    """Of two kinds that differ in texture: "true" ones are noise, "made" ones the same blurred."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for channels, size in zip((3, *NARROW), (16, 12, 6), strict=True):
        f = torch.randn(count, channels, size, size + 2, generator=generator)
        levels.append(f if kind == "true" else torch.nn.functional.avg_pool2d(f, 3, 1, 1))
    return levels


def taught(rounds: int) -> Adversary:
    adversary = Adversary(NARROW, seed=0)
    for i in range(rounds):
        noise = torch.Generator().manual_seed(1000 + i)
        adversary.learn(features("made", 2 * i), features("true", 2 * i + 1), noise)
        adversary.step(2e-3)
    return adversary


def margin(adversary: Adversary) -> float:
    """By how much the truth looks truer, in examples that it has not seen."""
    with torch.no_grad():
        made, true = (adversary.loss(features(a, 777), features(b, 778)).mean()
                      for a, b in (("made", "true"), ("true", "made")))  # fmt: skip
    return float(made - true)


@pytest.fixture(scope="module")
def well_taught() -> Adversary:
    return taught(60)


def test_it_learns_to_tell_made_from_true(well_taught) -> None:
    assert abs(margin(taught(0))) < 0.1
    assert margin(well_taught) > 1.0


def test_the_networks_loss_moves_pictures_towards_the_truth_and_nothing_else(well_taught) -> None:
    adversary = well_taught
    before = [p.detach().clone() for p in adversary.net.parameters()]
    made = [f.requires_grad_() for f in features("made", 5)]
    true = [f.requires_grad_() for f in features("true", 6)]
    loss = adversary.loss(made, true)
    assert loss.shape == (8,)
    loss.mean().backward()
    assert all(p.grad is None for p in adversary.net.parameters())
    assert all(f.grad is None for f in true) and made[0].grad is None
    assert all(f.grad.abs().max() > 0 for f in made[1:])
    with torch.no_grad():
        moved = [made[0], *(f - 20 * f.grad for f in made[1:])]
        assert adversary.loss(moved, true).mean() < loss.mean()
    after = list(adversary.net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_its_own_gradients_stay_with_it_and_parts_make_the_whole() -> None:
    made, true = features("made", 1), features("true", 2)
    made = [f.requires_grad_() for f in made]
    whole, parts = Adversary(NARROW, 0), Adversary(NARROW, 0)
    whole.learn(made, true, Chance(0, 0, range(8)))
    assert all(f.grad is None for f in made)
    for half in (range(4), range(4, 8)):
        of = slice(half.start, half.stop)
        parts.learn([f[of] for f in made], [f[of] for f in true], Chance(0, 0, half))
    whole.step(1e-3)
    parts.step(1e-3, parts=2)
    for a, b in zip(whole.net.parameters(), parts.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
        assert a.grad is None and b.grad is None


def test_a_checkpoint_holds_all_of_it() -> None:
    one, other = taught(3), Adversary(NARROW, seed=9)
    state = one.pack()
    other.unpack(state)
    assert {k.split(".")[0] for k in state} == {"adversary"}
    for adversary in (one, other):
        adversary.learn(
            features("made", 50), features("true", 51), torch.Generator().manual_seed(0)
        )
        adversary.step(1e-3)
    for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError):
        Adversary((4, 4), seed=0).unpack(state)


def test_its_levels_are_the_trunks() -> None:
    x = torch.rand(2, 3, 64, 70) * 2 - 1
    true = Lpips("alex").trunk(x)
    loss = Adversary(WIDTHS["alex"], 0).loss(true, true)
    torch.testing.assert_close(loss, torch.full((2,), math.log(2)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_photos(tmp_path_factory.mktemp("photos"), 3, (60, 72))


def run(photos: Path, output: Path, config: TrainConfig = CONFIG) -> dict[str, Tensor]:
    never = Options(validate_every=0)
    path = run_training(config, photos, output, device="cpu", net=SMALL, options=never)
    return store.read(path)[0]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_changes_what_a_run_learns(photos, tmp_path) -> None:
    with_it = run(photos, tmp_path / "a")
    line = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < line["adversarial"] < 1
    without = run(photos, tmp_path / "b", CONFIG.with_(quality_adversarial=0.0))
    assert not same({k: v for k, v in with_it.items() if not k.startswith(DISCRIMINATOR)}, without)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(photos, tmp_path) -> None:
    whole = run(photos, tmp_path / "a")
    done = iter([False] * 4)
    run_training(
        CONFIG, photos, tmp_path / "b", device="cpu", net=SMALL,
        should_stop=lambda: next(done, True),
    )  # fmt: skip
    iteration, state, _ = checkpoint.newest(tmp_path / "b", print)
    assert iteration == 4 and any(key.startswith("adversary.opt.") for key in state)
    assert same(whole, run(photos, tmp_path / "b"))


def test_it_needs_features(photos, tmp_path) -> None:
    with pytest.raises(UsageError, match="--quality-alex"):
        run(photos, tmp_path, CONFIG.with_(quality_alex=0.0))


def test_a_run_begins_as_another_stands_under_its_own_settings(photos, tmp_path) -> None:
    run(photos, tmp_path / "a")
    first = checkpoint.newest(tmp_path / "a", print)[1]
    # a rate of nothing: what is left after one iteration is what was taken over
    own = CONFIG.with_(iterations=1, quality_loss_from=1, learning_rate=0.0, seed=5, drawings=0.5)
    lines: list[str] = []
    run_training(
        own, photos, tmp_path / "b", device="cpu", net=SMALL, init=str(tmp_path / "a"),
        say=lines.append,
    )  # fmt: skip
    assert any("stands at iteration 6" in line for line in lines)
    iteration, second, record = checkpoint.newest(tmp_path / "b", print)
    assert (iteration, record["images_seen"], record["config"]["seed"]) == (1, CONFIG.batch, 5)
    assert first.keys() == second.keys()
    for head in ("net.", "adversary.net."):
        mine = [key for key in first if key.startswith(head)]
        assert mine and all(torch.equal(first[key], second[key]) for key in mine)
    steps = {float(v) for k, v in second.items() if k.startswith("opt.") and k.endswith(".step")}
    assert steps == {7.0}  # the optimiser's moments too
    for key in (key for key in first if key.startswith("ema.")):  # which knows seven iterations
        net = first[key.replace("ema.", "net.", 1)]
        torch.testing.assert_close(second[key], first[key].lerp(net, 1 - 7 / 16))
    # its own checkpoint goes before: the same command goes on
    run_training(own.with_(iterations=2), photos, tmp_path / "b", device="cpu", net=SMALL,
                 init=str(tmp_path / "a"), say=lines.append)  # fmt: skip
    assert any("resuming from iteration 1" in line for line in lines)


def test_a_file_of_weights_brings_its_discriminator_along(photos, tmp_path) -> None:
    run(photos, tmp_path / "a")
    path = tmp_path / "a" / f"{CONFIG.method}.safetensors"
    trained = checkpoint.newest(tmp_path / "a", print)[1]
    found = store.discriminator(store.find(path))
    assert found and all(
        torch.equal(v, trained[f"adversary.net.{k}"].half().float()) for k, v in found.items()
    )
    state, _ = store.load(store.find(path))  # which are the network's alone
    assert state and not any(key.startswith(DISCRIMINATOR) for key in state)

    # a rate of nothing: what is left after one iteration is what was taken over
    own = CONFIG.with_(iterations=1, quality_loss_from=1, learning_rate=0.0, seed=5)
    never = Options(validate_every=0)
    for config, told in (
        (own, "goes on from that of"),
        (own.with_(quality_adversarial=0.0), ""),
    ):
        lines: list[str] = []
        output = tmp_path / f"b{config.quality_adversarial}"
        run_training(config, photos, output, device="cpu", net=SMALL, init=str(path),
                     say=lines.append, options=never)  # fmt: skip
        said = [line for line in lines if "the discriminator" in line]
        assert len(said) == bool(told) and all(told in line for line in said)
        second = store.discriminator(store.find(output / path.name))
        assert same(second, found if told else {})


def test_a_discriminator_of_other_features_begins_anew(photos, tmp_path) -> None:
    run(photos, tmp_path / "a")
    path = tmp_path / "a" / f"{CONFIG.method}.safetensors"
    state, metadata = store.read(path)
    first = f"{DISCRIMINATOR}heads.0.0.weight"
    state[first] = state[first][:, :1].clone()  # of a narrower level
    store.save(path, state, metadata, half=True)
    lines: list[str] = []
    run_training(CONFIG.with_(iterations=1), photos, tmp_path / "b", device="cpu", net=SMALL,
                 init=str(path), say=lines.append, options=Options(validate_every=0))  # fmt: skip
    assert any("begins anew" in line and str(path) in line for line in lines)


def test_a_folder_without_a_run_or_of_another_network_is_no_beginning(photos, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    run(photos, tmp_path / "a", CONFIG.with_(iterations=1))
    for folder, told, net in (
        ("empty", "no checkpoint in it", SMALL),
        ("a", r"another layout: [^\n]* has the shape [^\n]*$", CompactConfig()),
    ):
        with pytest.raises(UsageError, match=told):
            run_training(CONFIG, photos, tmp_path / "b", device="cpu", net=net,
                         init=str(tmp_path / folder))  # fmt: skip
