"""`diffsr train` as a user meets it: recipes, lists, plans, and a run that is killed on its way."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from forked import FORKS, Forked
from PIL import Image

from upscale import methods
from upscale.cli.main import cli, main
from upscale.cli.train import shown
from upscale.errors import DiffsrError
from upscale.image.decode import read as picture_of
from upscale.train import checkpoint, measure
from upscale.train.card import metadata
from upscale.train.catalogue import DATASETS
from upscale.train.config import TrainConfig
from upscale.train.distill import teacher_of
from upscale.train.networks import make_net
from upscale.train.optimiser import learning_rate
from upscale.train.recipes import RECIPES, settings_of
from upscale.train.run import spec_of
from upscale.weights.store import find, read

QUICK = ["--validate-every", "0"]
TINY = ["--net", "compact-tiny", "--patch", "32", "--batch", "2", "--warmup", "2", "--scale", "4"]


def run(*args: object, code: int = 0) -> str:
    """stdout and what is told of an error."""
    result = CliRunner().invoke(cli, [str(a) for a in args], standalone_mode=False)
    error = result.exception
    found = error.exit_code if isinstance(error, (DiffsrError, click.ClickException)) else 0
    if error is not None and not found:
        raise error
    told = str(getattr(error, "message", error)) if error else ""
    assert found == code, result.output + told
    return result.stdout + told


def said(*args: object) -> str:
    """What `diffsr train` tells on its way, on standard error."""
    result = CliRunner().invoke(cli, ["train", *map(str, args)], standalone_mode=False)
    assert result.exception is None, result.exception
    return result.stderr


def config_of(name: str) -> TrainConfig:
    return TrainConfig(**settings_of(name))


@pytest.fixture
def here(here, monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    return here


def photographs(folder: Path, count: int = 20) -> Path:
    """Smooth shapes with texture, no two alike."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:80, 0:100].astype(np.float32)
    for index in range(count):
        rng = np.random.default_rng(index)
        a, b, c = rng.uniform(2, 9, 3)
        base = np.stack([np.sin(x / a), np.cos(y / b), np.sin((x + y) / c)], 2) * 60 + 128
        pixels = (base + rng.normal(0, 6, base.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.jpg", quality=95)
    return folder


# --- recipes ------------------------------------------------------------------------------------


@functools.cache
def size_of(method: str, net: str) -> int:
    """Parameters of a network."""
    fixed = {"scale_min": 4.0, "scale_max": 4.0}
    with torch.device("meta"):
        made = make_net(TrainConfig(method=method, net=net, **fixed))
    return sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_trained(name) -> None:
    config = config_of(name)
    recipe = RECIPES[name]
    assert recipe.dataset in (*DATASETS, "")
    if recipe.dataset:  # a folder may be given in its place
        assert DATASETS[recipe.dataset].settings.items() <= recipe.settings.items()
    assert config.method in methods.METHODS
    size, spec = size_of(config.method, config.net), spec_of(config)
    paper = recipe.source != "ours"
    assert paper == (config.net not in ("compact", "ddpm-64"))
    if paper:
        assert config.schedule != "cosine" and config.optimiser == "adam"
        assert config.noise_law == "process" and config.ema in (0.9999, 0.999, 0.9)
        wanted = {"ecdp-df2k": 42.6e6, "ecdp-celeba": 40.0e6, "ecdp-imagenet": 37.6e6}
        if config.net in wanted:
            assert size == pytest.approx(wanted[config.net], rel=2e-3)
            assert (spec.std, spec.squared) == (0.4, True)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"method": "sr3", "net": "sr3-tiny"}, {"sampler": "ddpm", "steps": 100}),
        # trained through a few calls of DDIM, and good for nothing else
        ({"method": "sr3", "net": "sr3-tiny", "quality_loss_from": 1},
         {"sampler": "ddim", "steps": 2, "temperature": 0.2}),
        ({"method": "idm", "net": "idm-tiny", "quality_loss_from": 1},
         {"sampler": "ddim", "steps": 2, "temperature": 0.2}),
        # the whole flow, from all of its noise
        ({"method": "ecdp", "quality_loss_from": 1, "quality_gradient": "adjoint"},
         {"sampler": "ddim", "steps": 4}),
        ({"method": "regression", "quality_loss_from": 1}, {"sampler": "once", "steps": 1}),
    ],
)  # fmt: skip
def test_weights_are_sampled_as_they_were_trained(settings, wanted) -> None:
    config = TrainConfig(patch=64, batch=2, quality_batch=2, scale_min=4, scale_max=4, **settings)
    run = SimpleNamespace(
        config=config, spec=spec_of(config), net=make_net(config), iteration=1, images_seen=2,
        taught={}, paired=0,
    )  # fmt: skip
    assert metadata(run, "")["defaults"] == {**wanted, "spacing": "phi"}


@pytest.mark.parametrize("name", [name for name in RECIPES if config_of(name).distill])
def test_a_recipe_fits_the_teacher_that_it_names(name) -> None:
    config = config_of(name)
    teacher_of(config, spec_of(config))
    entry = find(config.distill)
    assert entry.covers(config.scale_min) and entry.covers(config.scale_max)


def test_the_papers_numbers_are_in_the_recipes() -> None:
    sr3 = config_of("sr3-ffhq-16-128")
    assert (sr3.batch, sr3.iterations, sr3.warmup, sr3.learning_rate) == (256, 10**6, 10**4, 1e-4)
    assert (sr3.patch, sr3.scale_focus, sr3.crop, sr3.clip) == (128, 8, "square", 0)
    assert config_of("regression-ffhq-16-128").learning_rate == 1e-5
    ecdp = config_of("ecdp-df2k")
    assert (ecdp.batch, ecdp.patch, ecdp.warmup) == (16, 160, 500)
    assert ecdp.clip_value * 3 * 160**2 == pytest.approx(10)  # of a sum, as there
    assert config_of("ecdp-imagenet").learning_rate == 2e-4
    for name in ("df2k", "celeba", "imagenet"):
        stage = config_of(f"ecdp-{name}-quality")
        assert {learning_rate(stage, iteration) for iteration in (0, 1, 999)} == {1e-5}
    first, second = (
        config_of("idm-ffhq-16-128"),
        config_of("idm-ffhq-any"),
    )
    assert (first.iterations, first.learning_rate, first.scale_min) == (10**6, 1e-4, 8)
    assert (second.iterations, second.learning_rate, second.scale_min) == (500_000, 2e-5, 1)
    assert {config_of(f"idm-lsun-{n}-16x").scale_max for n in ("cats", "towers")} == {16}


def test_what_is_given_goes_before_the_recipe(here, monkeypatch) -> None:
    photographs(here / "p", 2)
    fast = ["train", "--recipe", "ecdp-photo", "--dataset", "p", "--dry-run", *TINY,
            "--patch", "48"]  # fmt: skip
    shown = dict(re.findall(r"^  (\w+) +(.*)$", run(*fast, "--schedule", "steps"), re.M))
    wanted = TrainConfig(**{**settings_of("ecdp-photo"), "schedule": "steps", "warmup": 2,
                            "net": "compact-tiny", "patch": 48, "batch": 2})  # fmt: skip
    assert shown == {k: str(v) for k, v in wanted.to_dict().items()}
    monkeypatch.setenv("DIFFSR_TRAIN_EMA", "0.5")
    assert re.search(r"ema +0\.5\n", run(*fast))
    assert re.search(r"iterations +50\n", run(*fast, "--images", "99"))
    run("train", "--recipe", "nothing", "--output", "x", code=2)


def test_what_there_is_no_memory_for_is_estimated_all_the_same(here, monkeypatch) -> None:
    photographs(here / "p", 2)
    monkeypatch.setattr(measure, "available_memory", lambda place: 1 << 20)
    monkeypatch.setattr(measure.Run, "step", lambda self, batches: pytest.fail("computed"))
    told = run("train", "--dataset", "p", "--dry-run", *TINY)
    assert re.search(r"memory .*; more than is free: raise --accumulate", told)
    assert re.search(r"network +not measured: there is too little memory", told)


def test_datasets_bring_the_papers_crops_unless_told(here) -> None:
    for name in ("ffhq", "div2k"):
        told = run("train", "--dataset", name, "--dry-run", *TINY)
        assert f"crop                     {DATASETS[name].settings['crop']}" in told
        assert f"{name} is not here" in told and DATASETS[name].where in told
    assert re.search("crop +stretch", run("train", "--dataset", "ffhq", "--crop", "stretch",
                                          "--dry-run", *TINY))  # fmt: skip
    assert re.search("crop +augmented", run("train", "--dataset", "ffhq", "--whole", "--dry-run",
                                            *TINY))  # fmt: skip
    told = run("train", "--dataset", "ffhq", "--output", "x", code=3)
    assert "DIFFSR_DATA" in told and not Path("x").exists()


def test_a_plan_tells_what_a_run_takes(here) -> None:
    photographs(here / "p", 3)
    told = run("train", "--dataset", "p", "--holdout", "1", "--dry-run", *TINY)
    assert "3 pictures in p, 1 of them held out" in told
    size = sum(p.numel() for p in make_net(TrainConfig(net="compact-tiny")).parameters())
    assert re.search(rf"parameters +{size:,}\n", told)
    network = float(re.search(r"network +([\d.]+) examples/s", told)[1])
    data = float(re.search(r"data +([\d.]+) examples/s", told)[1])
    assert network > 0 and data > 0
    assert re.search(r"memory +0\.\d+ GiB with 2 examples at once", told)
    assert re.search(r"arithmetic +\d+\.\d GFLOP", told)
    assert sorted(p.name for p in here.iterdir()) == ["p"]


def test_the_list_names_everything(here) -> None:
    told = run("train", "--list")
    for name, known in DATASETS.items():
        assert f"\n{name}: {known.title}" in told and known.licence in told
    for name in RECIPES:
        assert f"\n{name}: " in told


def test_every_setting_has_an_option_with_its_choices() -> None:
    from upscale.cli.options import DOMAINS, TRAINABLE
    from upscale.cli.train.command import command

    params = {param.name: param for param in command.params}
    for known in fields(TrainConfig):
        assert params[known.name].default == known.default
        if choices := known.metadata["asked"].choices:
            assert tuple(params[known.name].type.choices) == choices
    assert params["method"].type.choices == TRAINABLE
    assert params["domain"].type.choices == DOMAINS


# --- a run --------------------------------------------------------------------------------------


def start(folder: Path, *args: object) -> Forked:
    """`diffsr args` in another process."""
    return Forked(lambda: main([str(a) for a in args]), folder)


def losses(output: Path) -> list[dict]:
    timed = ("images_per_second", "memory")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def until(condition, process: Forked) -> None:
    while process.running() and not condition():
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(not FORKS, reason="this system does not fork")
def test_a_run_killed_at_any_moment_ends_as_if_it_was_not(tmp_path) -> None:
    """From a folder of photos to an enlarged picture, with two SIGKILLs and a SIGTERM between."""
    photos, said = photographs(tmp_path / "photos"), tmp_path / "said"
    common = ["train", "--dataset", photos, *TINY, "--iterations", 100, "--holdout", 2,
              "--validate-every", 25, "--workers", 1, "--device", "cpu"]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start(said / "whole", *common, "--output", whole).finished()
    dice = random.Random(0)
    for number in (1, 2):
        process = start(said / str(number), *common, "--output", cut, "--save-minutes", 0)
        until(lambda number=number: list(cut.glob(f"checkpoint-000000{number}?.*")), process)
        time.sleep(dice.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.finished(-signal.SIGKILL)
    process = start(said / "3", *common, "--output", cut)
    until(lambda: '"iteration": 40' in (cut / "metrics.jsonl").read_text(), process)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.finished()  # 0: a machine that is taken away is no failure
    assert "resuming from iteration" in err and "the same command goes on from there" in err
    assert losses(cut)[-1]["iteration"] < 100
    # the whole program, from its start
    command = [sys.executable, "-m", "upscale"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *map(str, common), "--output", str(cut)], env=env,
                          capture_output=True, text=True, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stderr
    weights = Path(done.stdout.strip())
    assert weights == cut / "my-sr3-photo.safetensors"
    assert losses(cut) == losses(whole)
    (ours, told), (theirs, said_too) = map(read, (weights, whole / "my-sr3-photo.safetensors"))
    assert told == said_too and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert "# my-sr3-photo" in (cut / "my-sr3-photo.md").read_text()
    assert (cut / "my-sr3-photo-best.safetensors").is_file() and any((cut / "samples").iterdir())
    assert [path.name for path in cut.glob(".*")] == [".lock"]  # and nothing unfinished
    picture, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.fromarray(np.full((20, 25, 3), 90, np.uint8)).save(picture)
    run("upscale", picture, "--weights", weights, "-o", large)
    assert picture_of(large).size == (80, 100)


@pytest.mark.skipif(not FORKS, reason="this system does not fork")
def test_time_that_is_up_ends_well(tmp_path) -> None:
    photos = photographs(tmp_path / "photos", 4)
    process = start(tmp_path / "said", "train", "--dataset", photos, *TINY, "--iterations", 10**6,
                    "--output", tmp_path / "run", "--max-minutes", 0.02)  # fmt: skip
    out, err = process.finished()
    assert Path(out.strip()).is_file() and "iteration 1 of 1000000, loss" in err
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1


def test_the_shortest_line_explains_a_dataset_that_is_missing(here):
    told = run("train", "--dataset", "ffhq", code=3)
    assert "ffhq is not here" in told and "https://github.com/NVlabs/ffhq-dataset" in told
    assert len(told.splitlines()) <= 10 and not (here / "runs").exists()


def test_a_dataset_in_its_layout_is_trained_on(here, monkeypatch):
    photographs(here / "data/ffhq/images1024x1024/00000")
    for name in ("SECONDS", "SHARE"):
        monkeypatch.setattr(shown, name, 0.0)
    told = said("--dataset", "ffhq", *TINY, "--iterations", 2, "--validate-every", 0)
    assert "ffhq: 20 of 70,000 pictures are there" in told and "20 pictures from ffhq" in told
    assert "decoding: 20 of 20 pictures" in told
    assert re.search(r"iteration 1 of 2, loss .* pictures/s, \d\.\d s left\n", told)
    path = here / "runs/sr3-face/my-sr3-face.safetensors"
    assert read(path)[1]["training"]["data_licence"].startswith("CC BY-NC-SA")


def test_a_runs_folder_is_weights_and_a_checkpoint_says_how_to_make_them(here):
    photographs(here / "photos", 2)
    said("--dataset", "photos", *TINY, "--iterations", 1, "--output", "runs/x y", *QUICK)
    Image.fromarray(np.full((20, 25, 3), 90, np.uint8)).save("small.png")
    run("upscale", "small.png", "--weights", "runs/x y", "-o", "a.png")
    checkpoint = "runs/x y/checkpoint-00000001.safetensors"
    told = run("upscale", "small.png", "--weights", checkpoint, "-o", "b.png", code=5)
    (here / "runs/x y/my-sr3-photo.safetensors").unlink()
    assert "has no weights yet" in run("bench", "--weights", "runs/x y", code=5)
    command, option = re.search(r"diffsr (.*), then: (.*)", told).groups()
    run(*shlex.split(command))
    run("upscale", "small.png", *shlex.split(option), "-o", "b.png")
    assert (picture_of(Path("a.png")).rgb == picture_of(Path("b.png")).rgb).all()
    assert "no weights (.safetensors) in this folder" in run(
        "upscale", "small.png", "--weights", "photos", code=5
    )


def test_weights_of_a_loss_that_are_missing_name_the_option_that_does_without(here):
    photographs(here / "photos", 2)
    told = run("train", "--dataset", "photos", *TINY, "--patch", "48", "--quality-loss-from", "1",
               code=5)  # fmt: skip
    assert told.endswith("or train without it: --quality-vgg 0")


def test_the_folder_of_a_run_is_enough_to_go_on(here):
    photographs(here / "photos", 4)
    more = ["--name", "mine", "--holdout", 2, "--validate-every", 0, "--seed", 7,
            "--schedule", "constant"]  # fmt: skip
    said("--dataset", "photos", *TINY, "--iterations", 4, "--output", "whole", *more)
    said("--dataset", "photos", *TINY, "--iterations", 2, "--output", "a b", *more)
    told = said("--output", "a b", "--iterations", 4)
    assert "resuming from iteration 2" in told and "--iterations 4 from now on, was 2" in told
    (ours, known), (theirs, _) = (
        read(here / name / "mine.safetensors") for name in ("a b", "whole")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert known["training"]["config"]["seed"] == 7 and "validation" not in told
    assert "all 4 iterations are done" in said("--resume", "a b")
    told = run("train", "--resume", "a b", "--seed", 8, code=2)
    assert "other settings (seed): it has --seed 7. Give" in told and "--init a b" in told
    assert "holds no run that could go on" in run("train", "--resume", "photos", code=2)
    assert "leave --output out" in run("train", "--resume", "a b", "--output", "b", code=2)


def test_a_run_that_did_not_say_what_it_saw_wants_to_be_told(here):
    photographs(here / "photos", 2)
    said("--dataset", "photos", *TINY, "--iterations", 1, "--output", "old", "--validate-every", 0)
    iteration, state, record = checkpoint.newest(here / "old", print)
    del record["command"]
    checkpoint.save(here / "old", iteration, state, record)
    assert "name its --dataset too" in run("train", "--resume", "old", code=2)
    assert "resuming from iteration 1" in said("--resume", "old", "--dataset", "photos")


@pytest.mark.parametrize("when", ["upscale.train.pictures.decode", "upscale.train.run.train"])
def test_a_run_that_learnt_nothing_leaves_nothing(here, monkeypatch, when):
    photographs(here / "photos", 3)
    module, _, name = when.rpartition(".")
    plain, once = getattr(sys.modules[module], name), iter([signal.SIGINT])

    def interrupted(*args, **more):
        for number in once:
            signal.raise_signal(number)
        return plain(*args, **more)

    monkeypatch.setattr(when, interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    result = CliRunner().invoke(cli, ["train", "--dataset", "photos", *TINY], standalone_mode=False)
    signal.signal(signal.SIGINT, before)
    assert result.return_value == 130 and result.stdout == ""
    assert "Stopped before anything was learnt" in result.stderr
    assert [path.name for path in here.glob("runs/*/*") if path.name != ".lock"] == []


def test_what_does_not_fit_is_refused_before_pictures_are_read(here, monkeypatch):
    photographs(here / "photos", 2)
    monkeypatch.setattr("upscale.train.run.pictures_of", lambda *args: pytest.fail("read"))
    base = ("train", "--dataset", "photos", *TINY)
    assert "there is no such file" in run(*base, "--init", "none.safetensors", code=5)
    assert "is for --method sr3" in run(*base, "--method", "idm", code=2)
    assert "there is no such folder" in run(*base, "--validation", "nowhere", code=3)


def test_pictures_held_out_beside_others_to_validate_on_are_told(here):
    for name in ("photos", "others"):
        photographs(here / name, 2)
    told = said("--dataset", "photos", *TINY, "--iterations", 1, "--holdout", 1,
                "--validation", "others")  # fmt: skip
    assert "--holdout 1: these pictures are left out and not validated on" in told


def test_pairs_and_mixes_are_refused_in_words(here):
    for name in ("p", "s/HR", "s/LR"):
        photographs(here / name, 2)
    both = ["train", "--dataset", "p,pairs:s/LR=s/HR", *TINY]
    assert "00.jpg: 100x80, which times 4 is not 00.jpg's 100x80" in run(*both, code=3)
    assert "s/HR: pairs are of one magnification" in run(*both, "--scale", "2.5", code=2)
    assert "--mix 1,2,3: 3 shares for 2 of --dataset" in run(*both, "--mix", "1,2,3", code=2)
    assert not (here / "runs").exists()


def test_the_output_folder_has_the_weights_name(here):
    photographs(here / "photos", 6)
    run("train", "--dataset", "photos", *TINY, "--iterations", "1", "--name", "mine")
    assert (here / "runs/mine/mine.safetensors").is_file()
