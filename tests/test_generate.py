"""`diffsr generate`: a network without a condition, its training, its sampling, and the cascade."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_train_cli import run

from upscale import methods
from upscale.bench import unpaired
from upscale.diffusion.noise import noise_at
from upscale.diffusion.process import CosineLaw, VPDiscrete, sigmas
from upscale.errors import (
    InputError,
    NumericalError,
    UsageError,
    WeightsError,
)
from upscale.image.decode import read
from upscale.image.picture import Picture, sheet
from upscale.model import Model, build
from upscale.nets.ddpm import CONFIGS, DDPMConfig, DDPMNet
from upscale.pipeline import generator as generating
from upscale.pipeline.generator import Generator
from upscale.pipeline.request import Request
from upscale.pipeline.upscaler import Upscaler
from upscale.train.config import TrainConfig
from upscale.train.networks import make_net
from upscale.train.recipes import settings_of
from upscale.train.run import spec_of
from upscale.weights import choice, store
from upscale.weights.publish import bundle

COLOUR = np.array([0.8, 0.5, 0.25], np.float32)  # of the toy pictures, on average
SIDE = 16
TRAIN = [
    "train", "--method", "ddpm", "--net", "ddpm-tiny", "--domain", "face", "--whole", "--scale",
    "1", "--patch", SIDE, "--batch", "8", "--iterations", "80", "--learning-rate", "6e-3",
    "--warmup", "10", "--ema", "0.95", "--noise-law", "cosine", "--loss", "l2", "--holdout", "4",
    "--validate-every", "80", "--name", "toy", "--device", "cpu", "--dtype", "fp32", "-q",
]  # fmt: skip


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory) -> Path:
    """The folder of a run on pictures of one colour, brighter or darker, shaded from the left."""
    folder = tmp_path_factory.mktemp("toy")
    rng, shade = np.random.default_rng(1), np.linspace(-0.18, 0.18, 20, dtype=np.float32)
    (folder / "pictures").mkdir()
    for index in range(32):
        rgb = COLOUR + rng.normal(0, 0.04) + shade[None, :, None] + np.zeros((20, 20, 3))
        pixels = (rgb.clip(0, 1) * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index:02d}.png")
    run(*TRAIN, "--dataset", folder / "pictures", "--output", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def toy(toy_run) -> str:
    return str(toy_run / "toy.safetensors")


@pytest.fixture(scope="module")
def generator(toy) -> Generator:
    return Generator(toy, device="cpu", dtype="fp32")


def listed(folder: Path, monkeypatch, enlarged: bool = False, **files: str) -> None:
    """A list of the user's own that knows the files by these names."""
    tables = []
    for name, path in files.items():
        entry = store.find(path)
        more = "enlarged_to = 48" if enlarged else ""
        tables.append(f"""
[weights.{name.replace("_", "-")}]
{more if entry.method == "ddpm" else ""}
method = "{entry.method}"
net = "{entry.net}"
domain = "{"face" if entry.method == "ddpm" else entry.domain}"
scales = {"[1]" if entry.method == "ddpm" else "[4]"}
sha256 = "{entry.sha256}"
size = {entry.size}
licence = "test"
path = "{path}"
""")
    (folder / "own.toml").write_text("".join(tables))
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(folder / "own.toml"))


# --- the network and its law ------------------------------------------------------------------


def test_the_network_for_64x64_is_small_and_describes_itself(tmp_path) -> None:
    net = make_net(TrainConfig(method="ddpm"))
    size = sum(p.numel() for p in net.parameters())
    assert net.kind == "ddpm" and size <= 2 << 20
    path = tmp_path / "net.safetensors"
    told = {"method": "ddpm", "architecture": net.architecture(), "parametrisation": "v",
            "std": None, "size": [64, 64]}  # fmt: skip
    store.save(path, net.state_dict(), told, half=True)
    assert path.stat().st_size <= 4 << 20
    again = build(*store.read(path)).net
    assert again.config == CONFIGS["ddpm-64"] and again.config.patch == 2


def test_any_size_goes_through_and_the_noise_level_matters() -> None:
    torch.manual_seed(0)
    net = DDPMNet(
        DDPMConfig(inner=8, mults=(1, 2), res_blocks=1, attention=(1,), groups=4, patch=2)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    x = torch.randn(2, 3, 13, 18)
    assert net.encode(x, torch.ones(2)) is None
    low, high = (net(x, None, torch.full((2,), c)) for c in (0.99, 0.1))
    assert low.shape == x.shape and (low - high).abs().mean() > 0.01
    # a local change is seen far away: attention and the levels below
    moved = x.clone()
    moved[..., 0, 0] += 3
    assert (net(moved, None, torch.full((2,), 0.1)) - high)[..., -1, -1].abs().min() > 0


@pytest.mark.parametrize("wrong", [{"patch": 0}, {"noisy_input": False}])
def test_a_configuration_that_cannot_be_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"patch must be 1|noisy picture is all"):
        DDPMConfig(**wrong)


def test_the_cosine_law_is_uniform_in_the_angle_and_reaches_the_start() -> None:
    law = CosineLaw(VPDiscrete().sigma_max)
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    steps = torch.atan(law.sigma_at(u)).diff()
    assert torch.allclose(steps, steps[:1].expand_as(steps))
    assert float(law.sigma_at(u[-1])) == pytest.approx(VPDiscrete().sigma_max, rel=1e-9)
    drawn = law.sample_sigma(64, torch.Generator().manual_seed(3))
    cells = (torch.atan(drawn) / torch.atan(torch.tensor(law.sigma_max)) * 64).floor()
    assert sorted(cells.int().tolist()) == list(range(64))  # one in each part


# --- training ---------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_keeps_what_it_measured(toy_run) -> None:
    lines = [json.loads(line) for line in (toy_run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line and "validation" not in line]
    assert losses[-1] < 0.5 * losses[0]
    _, told = store.read(toy_run / "toy.safetensors")
    assert told["method"] == "ddpm" and told["size"] == [SIDE, SIDE] and told["std"] is None
    assert told["parametrisation"] == "v" and told["defaults"]["sampler"] == "ddpm"
    assert (toy_run / "toy-best.safetensors").is_file()
    drawn = read(next((toy_run / "samples").iterdir()))
    assert drawn.size == (2 * SIDE, 4 * SIDE)
    card = (toy_run / "toy.md").read_text()
    assert "diffsr generate" in card and "made from noise alone at 16x16" in card
    assert "loss on fixed noise" in card and "upscale in.png" not in card


def test_a_checkpoint_of_training_becomes_weights(here, toy_run, toy) -> None:
    (checkpoint,) = toy_run.glob("checkpoint-*.safetensors")
    run("weights", "import", checkpoint, "-o", "again.safetensors", "--fp16")
    made, own = (Generator(str(path), device="cpu") for path in ("again.safetensors", toy))
    assert made.size == own.size
    one, two = (g([0], request=Request(steps=2))[0].picture.rgb for g in (made, own))
    assert np.array_equal(one, two)


def with_net(generator: Generator, net: DDPMNet) -> Generator:
    """The same with another network in it."""
    other = Generator.__new__(Generator)
    other.__dict__ |= generator.__dict__
    other.model = Model("ddpm", net.eval(), generator.model.law, None, {})
    return other


def test_samples_have_the_colours_of_the_data(generator) -> None:
    def drawn(source: Generator) -> np.ndarray:
        return np.stack(
            [m.picture.rgb for m in source(range(12), request=Request(sampler="ddim", steps=16))]
        )

    made, fresh = drawn(generator), drawn(with_net(generator, DDPMNet(CONFIGS["ddpm-tiny"])))
    assert np.abs(fresh.mean((0, 1, 2)) - COLOUR).max() > 0.2
    assert np.abs(made.mean((0, 1, 2)) - COLOUR).max() < 0.1
    rough, before = (np.abs(np.diff(x, axis=2)).mean() for x in (made, fresh))
    assert rough < 0.3 * before
    # shaded from one side to the other, which side is the mirror's to say; not all alike
    assert np.abs(made[:, :, -4:].mean((1, 2, 3)) - made[:, :, :4].mean((1, 2, 3))).mean() > 0.04
    assert made.mean((1, 2, 3)).std() > 0.01


@pytest.mark.parametrize("side", [16, 64])
def test_the_recipes_are_for_faces_of_their_size(side) -> None:
    config = TrainConfig(**settings_of(f"ddpm-face-{side}"))
    spec, net = spec_of(config), make_net(config)
    assert (config.method, config.patch, config.domain) == ("ddpm", side, "face")
    assert side % net.align == 0 and net.config.patch == (2 if side == 64 else 1)
    assert spec.parametrisation == "v" and spec.std is None and spec.squared


@pytest.mark.parametrize(
    "setting",
    [{"quality_loss_from": 5}, {"distill": "x"}, {"lr_side": 8}, {"degradation": "real"}],
)
def test_settings_that_need_an_input_are_refused(setting) -> None:
    with pytest.raises(UsageError, match=r"--[a-z-]+ is for methods that enlarge.*leave it out"):
        TrainConfig(method="ddpm", **setting)


def test_networks_of_other_methods_are_refused(here) -> None:
    assert make_net(TrainConfig(method="ddpm")).config == CONFIGS["ddpm-64"]
    with pytest.raises(UsageError, match="network sr3-tiny is for --method sr3, not ddpm"):
        make_net(TrainConfig(method="ddpm", net="sr3-tiny"))
    with pytest.raises(UsageError, match="network ddpm-64 is for --method ddpm, not sr3"):
        make_net(TrainConfig(method="sr3", net="ddpm-64"))


# --- sampling ---------------------------------------------------------------------------------


@torch.no_grad()
def by_hand(generator: Generator, index: int, seed: int, steps: int) -> torch.Tensor:
    """SR3's Algorithm 2 in its own, variance-preserving terms; (3,H,W) in [-1,1]."""
    size, net = generator.size, generator.model.net
    levels = sigmas(generator.model.law.process, steps, "phi").tolist()
    gamma = [1 / (1 + level**2) for level in levels]
    y = noise_at((seed, index, -1), (0, 0), size)  # the start, y_T
    y = y * (1 - gamma[0]) ** 0.5
    for i in range(steps):
        root, sin = gamma[i] ** 0.5, (1 - gamma[i]) ** 0.5
        v = net(y, None, torch.tensor([root], dtype=torch.float64))
        x0 = (root * y - sin * v).clamp(-1, 1)
        eps = (y - root * x0) / sin
        alpha = gamma[i] / gamma[i + 1]
        y = (y - (1 - alpha) / sin * eps) / alpha**0.5
        if i + 1 < steps:
            y = y + (1 - alpha) ** 0.5 * noise_at((seed, index, i), (0, 0), size)
    return y[0]


def test_the_chain_is_that_of_algorithm_2(generator) -> None:
    for index in (0, 3):
        made = generator([index], seed=5, request=Request(sampler="ddpm", steps=12, spacing="phi"))[
            0
        ].picture.rgb
        expected = (by_hand(generator, index, 5, 12).clamp(-1, 1) + 1) / 2
        assert np.abs(made - expected.permute(1, 2, 0).numpy()).max() < 1e-4


def test_a_picture_is_a_function_of_seed_and_number_alone(generator) -> None:
    way = Request(steps=4)
    alone = generator([3], seed=9, request=way)[0].picture.rgb
    among = generator([2, 3, 4], seed=9, request=way)
    assert np.array_equal(among[1].picture.rgb, alone)
    assert not np.array_equal(among[0].picture.rgb, alone)
    other = generator([3], seed=10, request=way)[0].picture.rgb
    assert np.abs(other - alone).max() > 0.01


def test_pictures_that_share_a_call_come_out_as_those_that_do_not(generator) -> None:
    way = generator.resolved(Request(steps=4, seed=9))
    together, calls = generator._drawn([2, 3, 4], way, lambda done, of: None)
    assert calls == 4
    for tensor, index in zip(together, (2, 3, 4), strict=True):
        (alone,), _ = generator._drawn([index], way, lambda done, of: None)
        assert torch.allclose(tensor, alone, atol=1e-4)


@pytest.mark.parametrize("sampler", ["dpmpp2m", "rk45", "ddpm-posterior"])
def test_every_sampler_arrives_at_the_same_colours(generator, sampler) -> None:
    steps = None if sampler == "rk45" else 12
    request = Request(sampler=sampler, steps=steps)
    made = np.stack([m.picture.rgb for m in generator(range(2), request)])
    assert np.abs(made.mean((0, 1, 2)) - COLOUR).max() < 0.15
    resolved = generator.resolved(request)  # as the command line does before it asks
    assert generator.resolved(resolved) == resolved


def test_progress_is_told_to_the_end(generator, tiny_weights) -> None:
    seen = []
    cascade = generator.cascade(64, [tiny_weights], [1])
    generator([0, 1], request=Request(steps=3), cascade=cascade,
              on_step=lambda done, of: seen.append((done, of)))  # fmt: skip
    assert seen == sorted(seen) and seen[-1] == (8, 8) and len(seen) == 8


def test_what_is_no_number_is_told(generator) -> None:
    net = DDPMNet(CONFIGS["ddpm-tiny"])
    net.unet.out[2].bias.data.fill_(torch.nan)
    broken = with_net(generator, net)
    with pytest.raises(NumericalError, match="output of the network is not finite"):
        broken([0], request=Request(steps=2))


# --- the cascade ------------------------------------------------------------------------------


def test_the_cascade_takes_fours_then_the_rest() -> None:
    assert generating.sizes((64, 64), 64, 64) == []
    assert generating.sizes((64, 64), 256, 64) == [(256, 256)]
    assert generating.sizes((48, 64), 1024, 64) == [(192, 256), (768, 1024)]
    assert generating.sizes((64, 64), 512, 64) == [(256, 256), (512, 512)]
    for wrong in (63, 1025):
        with pytest.raises(UsageError, match=r"these weights make 64x64.*up to 1024"):
            generating.sizes((64, 64), wrong, 64)


def test_what_is_drawn_small_reaches_its_usual_size_in_one_stage() -> None:
    assert generating.sizes((16, 16), 16, 128) == []
    assert generating.sizes((16, 16), 100, 128) == [(100, 100)]
    assert generating.sizes((12, 16), 128, 128) == [(96, 128)]
    assert generating.sizes((16, 16), 256, 128) == [(128, 128), (256, 256)]
    assert generating.sizes((16, 16), 2048, 128) == [(128, 128), (512, 512), (2048, 2048)]
    with pytest.raises(UsageError, match=r"these weights make 16x16.*up to 2048"):
        generating.sizes((16, 16), 2049, 128)


def test_weights_name_the_size_of_their_result(here, monkeypatch, toy, tiny_weights) -> None:
    listed(here, monkeypatch, enlarged=True, small_faces=toy, for_faces=tiny_weights)
    monkeypatch.setattr(generating, "CASCADE", {"face": ("for-faces",)})
    generator = Generator("small-faces", device="cpu")
    (only,) = generator.cascade()
    assert only.size == (48, 48) and only.name != "for-faces"  # as diffsr upscale chooses
    first, second = generator.cascade(192)
    assert (first.size, second.size, second.name) == ((48, 48), (192, 192), "for-faces")
    assert generator.cascade(SIDE) == []


def test_the_result_shrinks_to_what_the_first_network_drew(generator, tiny_weights) -> None:
    from upscale.image.resize import resize_array

    way = Request(steps=4)
    small = generator([1], request=way)[0].picture.rgb
    made = generator([1], request=way, cascade=generator.cascade(64, [tiny_weights]))[0]
    assert made.picture.size == (64, 64) and made.report["size"] == [64, 64]
    assert np.abs(resize_array(made.picture.rgb, (SIDE, SIDE)) - small).mean() < 0.03
    first, second = made.report["stages"]
    assert first["size"] == [SIDE, SIDE] and second["weights"] == "tiny"
    assert made.report["nfe"] == first["nfe"] + second["nfe"] == 4 + 2


def test_steps_become_fewer_at_the_high_resolution(generator, tiny_weights, monkeypatch) -> None:
    def counts(first: int, given: tuple[int, ...] = ()) -> list[int | None]:
        return [s.steps for s in generator.cascade(256, [tiny_weights], given, first)]

    assert counts(100) == [2, 1]  # the weights' own 2, then half of that
    assert counts(2) == [1, 1]
    assert counts(100, (8,)) == [8, 2] and counts(100, (1, 7)) == [1, 7]
    with pytest.raises(UsageError, match="--upscale-steps is given for 3 stages, and there are 2"):
        counts(100, (1, 1, 1))
    with pytest.raises(UsageError, match=r"--upscale-weights is given for 1 stage,.*are 0"):
        generator.cascade(None, [tiny_weights])


def test_the_stage_for_faces_is_taken_where_it_is_listed(
    here, monkeypatch, toy, tiny_weights
) -> None:
    generator = Generator(toy, device="cpu")
    listed(here, monkeypatch, for_faces=tiny_weights)
    monkeypatch.setattr(generating, "CASCADE", {"face": ("for-faces",)})
    names = [level.name for level in generator.cascade(128)]
    assert names[0] == "for-faces" and names[1] != names[0]  # x2 is not what it was made for
    monkeypatch.setattr(generating, "CASCADE", {})
    fallback = generator.cascade(64)[0]
    assert fallback.name == choice.choose(methods.preferred("face"), 4.0, "face").name


# --- the command ------------------------------------------------------------------------------


def test_files_do_not_depend_on_the_batch(here, toy) -> None:
    for batch in (1, 3):
        out = run("generate", "-o", f"b{batch}/", "--count", 4, "--weights", toy, "--steps", 3,
                  "--batch", batch, "-q")  # fmt: skip
        assert out.split() == [f"b{batch}/seed0_{n:04d}.png" for n in range(4)]
    run("generate", "-o", "alone.png", "--first", 2, "--weights", toy, "--steps", 3, "-q")
    one, two = ([(here / f"b{b}" / f"seed0_{n:04d}.png").read_bytes() for n in range(4)]
                for b in (1, 3))  # fmt: skip
    assert one == two and len(set(one)) == 4
    assert (here / "alone.png").read_bytes() == one[2]


def test_end_to_end_with_a_cascade_a_sheet_and_json(here, toy, tiny_weights) -> None:
    args = ["generate", "-o", "made", "--count", 3, "--seed", 7, "--weights", toy, "--steps", 4,
            "--size", 64, "--upscale-weights", tiny_weights, "--upscale-steps", 1]  # fmt: skip
    rows = [json.loads(line) for line in run(*args, "-q", "--json", "--grid").splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert all(row["size"] == [64, 64] and row["nfe"] == 5 for row in rows)
    assert {row["status"] for row in rows} == {"ok"}
    again = [*args, "-q", "--json", "--skip-existing", "--count", 4]
    told = [json.loads(line) for line in run(*again, "--dry-run").splitlines()]
    assert [row["status"] for row in told] == 3 * ["skipped"] + ["planned"]
    assert [row["output"] for row in told[:3]] == [row["output"] for row in rows]
    assert [[stage[key] for key in ("weights", "steps")] for stage in told[3]["stages"]] == [
        ["toy", 4], ["tiny", 1]
    ]  # fmt: skip
    assert run(*again).splitlines()[0] == json.dumps(told[0])
    pictures = [read(row["output"]) for row in rows]
    whole = read("made/seed7_grid.png")
    assert whole.size == (130, 130)
    assert np.array_equal(whole.rgb[:64, 66:], pictures[1].rgb)
    assert (whole.rgb[64:66] == 1).all()
    with Image.open(rows[0]["output"]) as file:
        assert "generated, no photograph: weights=toy tiny seed=7" in file.text["Software"]


def test_existing_files_are_kept_unless_told_otherwise(here, toy) -> None:
    args = ["generate", "-o", "made/", "--count", 2, "--weights", toy, "--steps", 2, "-q"]
    run(*args)
    first = here / "made" / "seed0_0000.png"
    before = first.read_bytes()
    assert "exists; give --overwrite or --skip-existing" in run(*args, code=1)
    first.write_bytes(b"mine")
    (here / "made" / "seed0_0001.png").unlink()
    assert run(*args, "--skip-existing").split() == ["made/seed0_0001.png"]
    assert first.read_bytes() == b"mine"
    run(*args, "--overwrite")
    assert first.read_bytes() == before
    assert "exclude each other" in run(*args, "--overwrite", "--skip-existing", code=2)


@pytest.mark.parametrize("output", ["made/", "sheet.png"])
def test_an_existing_sheet_is_replaced_only_with_overwrite(here, toy, output) -> None:
    args = ["generate", "-o", output, "--count", 2, "--weights", toy, "--steps", 2, "--grid", "-q"]
    (here / "made").mkdir()
    sheet = here / ("sheet.png" if output == "sheet.png" else "made/seed0_grid.png")
    sheet.write_bytes(b"mine")
    made = [] if output == "sheet.png" else ["made/seed0_0000.png", "made/seed0_0001.png"]
    assert run(*args, "--skip-existing").split() == made
    assert sheet.read_bytes() == b"mine"
    run(*args, "--overwrite")
    assert len({*read(sheet).size, SIDE, 2 * SIDE + 2}) == 2


def test_a_folder_that_cannot_be_is_told_before_the_work(here, toy) -> None:
    (here / "taken").write_text("a file")
    told = run("generate", "-o", "taken/in/", "--weights", toy, "--steps", 9999, "-q", code=1)
    assert "the folder cannot be made" in told


def test_a_dry_run_makes_nothing(here, toy, tiny_weights) -> None:
    from click.testing import CliRunner

    from upscale.cli.main import cli

    args = ["generate", "-o", "made/", "--count", "2", "--weights", toy, "--size", "64",
            "--dry-run", "--upscale-weights", tiny_weights]  # fmt: skip
    told = CliRunner().invoke(cli, args).stderr
    assert "16x16 by toy, 100 ddpm steps" in told and "64x64 by tiny, 2 steps" in told
    assert "would write made/seed0_0001.png" in told and not (here / "made").exists()
    (here / "made").mkdir()
    (here / "made/seed0_0000.png").touch()
    told = CliRunner().invoke(cli, [*args, "--skip-existing"]).stderr
    assert "made/seed0_0000.png: exists, skipped\nwould write made/seed0_0001.png" in told


def test_the_sheet_alone_and_standard_output(here, toy) -> None:
    base = ["generate", "--weights", toy, "--steps", 2, "-q"]
    assert run(*base, "-o", "all.png", "--count", 4, "--grid").split() == ["all.png"]
    assert read("all.png").size == (34, 34) and len(list(here.iterdir())) == 1

    from click.testing import CliRunner

    from upscale.cli.main import cli

    result = CliRunner().invoke(cli, [str(a) for a in (*base, "-o", "-")])
    (here / "piped.png").write_bytes(result.stdout_bytes)
    assert read("piped.png").size == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        ([], 2, "no output"),
        (["-o", "a.png", "--count", 2], 2, "is one file, and there are 2 pictures"),
        (["-o", "-", "--json"], 2, "--json needs -o FILE"),
        (["-o", "s3://bucket/made/"], 2, "generate writes local files only"),
        (["-o", "m", "--upscale-steps", "3,x"], 2, "write numbers from 1 on"),
        (["-o", "m", "--steps", 4, "--sampler", "rk45"], 2, "chooses its own steps"),
        (["-o", "m", "--size", 8], 2, "these weights make 16x16"),
        (["-o", "m", "--upscale-weights", "idm-face"], 2, "given for 1 stage, and there are 0"),
        (["-o", "m", "--sampler", "dpm"], 2, "there is no dpm"),
    ],
)
def test_what_cannot_be_meant_is_refused(here, toy, args, code, told) -> None:
    assert told in run("generate", *args, "--weights", toy, code=code)
    assert not list(here.iterdir())


def test_without_weights_the_training_command_is_told(here, monkeypatch) -> None:
    without = {n: e for n, e in store.entries().items() if e.method != "ddpm"}
    monkeypatch.setattr(store, "entries", lambda: without)
    told = run("generate", "-o", "m", code=5)
    assert "diffsr train --recipe ddpm-face-16 --dataset DIR" in told


def test_weights_that_enlarge_are_refused_and_the_other_way_round(here, toy, tiny_weights) -> None:
    told = run("generate", "-o", "m", "--weights", tiny_weights, code=2)
    assert "for sr3, which enlarges a picture: diffsr upscale" in told
    Image.new("RGB", (8, 8)).save("in.png")
    for command in (["upscale", "in.png"], ["bench"]):
        told = run(*command, "--method", "ddpm", code=2)
        assert "ddpm makes pictures from noise alone: diffsr generate" in told
        told = run(*command, "--weights", toy, code=2)
        assert "enlarges none: diffsr generate" in told
    for given in ({"method": "ddpm"}, {"weights": toy}):
        with pytest.raises(UsageError, match="enlarges none: diffsr generate"):
            Upscaler(**given)


def test_a_file_that_does_not_say_its_size_is_refused(tmp_path, toy) -> None:
    state, told = store.read(Path(toy))
    del told["size"]
    store.save(tmp_path / "old.safetensors", state, told)
    with pytest.raises(WeightsError, match="does not say the size of its pictures"):
        Generator(str(tmp_path / "old.safetensors"), device="cpu")


def test_listed_weights_are_found_shown_verified_and_published(here, monkeypatch, toy) -> None:
    listed(here, monkeypatch, my_faces=toy)
    monkeypatch.setattr(generating, "NAME", "my-faces")
    run("generate", "-o", "one.png", "--steps", 2, "-q")
    assert read("one.png").size == (SIDE, SIDE)
    assert "my-faces" in run("weights", "list")
    shown = run("weights", "show", "my-faces", "--json")
    assert json.loads(shown)["method"] == "ddpm"
    run("weights", "verify", "my-faces")
    files = bundle(store.find("my-faces"), "me/mine", "CC0-1.0")
    assert {"my-faces.safetensors", "README.md"} <= set(files)
    assert b"diffsr generate" in files["README.md"] and b"[ddpm]" in files["README.md"]
    for name, content in files.items():
        (here / name).write_bytes(content)
    run("weights", "verify", "--golden", "my-faces.safetensors")


# --- FID of sets ------------------------------------------------------------------------------

# not imported here: it imports torchvision, for which the package has a door of its own
with_fidelity = pytest.mark.skipif(
    find_spec("torch_fidelity") is None, reason="needs diffsr[metrics]"
)


def _features(picture: np.ndarray) -> np.ndarray:
    """In the place of Inception's: mean and spread of each colour, and noise of little weight."""
    rng = np.random.default_rng(int(picture.sum() * 1e3))
    own = np.concatenate([picture.mean((0, 1)), picture.std((0, 1))])
    return np.concatenate([own * 10, rng.normal(0, 0.01, 4)]).astype(np.float32)


def _folder(path: Path, colour: float, size: tuple[int, int], count: int = 8) -> Path:
    rng = np.random.default_rng(int(colour * 100))
    path.mkdir()
    for index in range(count):
        pixels = np.clip(rng.normal(colour, 0.1) + rng.normal(0, 0.02, (*size, 3)), 0, 1)
        Image.fromarray((pixels * 255).astype(np.uint8)).save(path / f"{index}.png")
    return path


@with_fidelity
def test_sets_that_are_alike_have_the_lower_fid(tmp_path) -> None:
    real = _folder(tmp_path / "real", 0.6, (24, 40), 9)
    small = Image.new("RGB", (8, 8))
    small.save(real / "small.png")
    folders = [
        ("near", _folder(tmp_path / "near", 0.6, (16, 16))),
        ("far", _folder(tmp_path / "far", 0.2, (16, 16))),
    ]
    said, seen = [], []
    rows = unpaired.run(
        real, folders, features=_features, say=said.append,
        on_picture=lambda name, done, total: seen.append((done, total)),
    )  # fmt: skip
    near, far = rows
    assert 0 <= near["fid"] < 0.3 * far["fid"]
    assert (near["made"], near["real"]) == (8, 9)
    assert "1 picture smaller than 16x16 left out" in said[0]
    assert seen[-1] == (26, 26)
    table = unpaired.to_markdown(rows)
    assert table.count("\n") == 4 and f"{near['fid']:.3f}" in table


def test_real_pictures_are_cut_in_the_middle_and_shrunk_by_area(tmp_path) -> None:
    rgb = np.zeros((8, 16, 3), np.uint8)
    rgb[:, 4:8], rgb[:, 8:12] = 255, 100  # the middle is half white, half grey
    Image.fromarray(rgb).save(tmp_path / "a.png")
    ((_, cut),) = unpaired._real([tmp_path / "a.png"], (2, 2))
    assert np.allclose(cut[:, 0], 1) and np.allclose(cut[:, 1], 100 / 255)


@with_fidelity
def test_sets_that_cannot_be_compared_are_refused(tmp_path) -> None:
    real = _folder(tmp_path / "real", 0.6, (16, 16), 3)
    mixed = _folder(tmp_path / "mixed", 0.6, (16, 16), 2)
    Image.new("RGB", (8, 8)).save(mixed / "z.png")
    with pytest.raises(InputError, match=r"z\.png: 8x8 pixels, and 0\.png has 16x16"):
        unpaired.run(real, [("mixed", mixed)], features=_features)
    one = _folder(tmp_path / "one", 0.6, (16, 16), 1)
    with pytest.raises(InputError, match="FID needs two pictures or more"):
        unpaired.run(real, [("one", one)], features=_features)
    large = _folder(tmp_path / "large", 0.6, (32, 32), 2)
    with pytest.raises(InputError, match="real: FID needs two pictures or more, of 32x32"):
        unpaired.run(real, [("large", large)], features=_features)


@with_fidelity
def test_bench_measures_sets_by_fid(here, monkeypatch) -> None:
    from upscale.metrics import fid

    class Double:
        def __init__(self, device) -> None:
            self.features = _features

    monkeypatch.setattr(fid, "Inception", Double)
    _folder(here / "real", 0.6, (16, 16))
    _folder(here / "made", 0.5, (16, 16))
    args = ["bench", "--unpaired", "--dataset", "real", "--outputs", "made", "-q"]
    (row,) = json.loads(run(*args, "--json", "-"))
    assert row["fid"] > 0 and row["method"] == "made" and row["dataset"] == "real"
    assert "| made | 8 | real | 8 | 16x16 |" in run(*args, "--markdown", "-")


def test_bench_says_what_unpaired_needs(here) -> None:
    _folder(here / "made", 0.5, (16, 16), 2)
    base = ["bench", "--unpaired"]
    assert "two sets: --dataset REAL --outputs MADE" in run(*base, "--outputs", "made", code=2)
    told = run(*base, "--outputs", "made", "--dataset", "made", "--metrics", "psnr", code=2)
    assert "measures FID of --outputs" in told
    told = run(*base, "--outputs", "made", "--dataset", "made", "--html", "a.html", code=2)
    assert "writes --json, --csv and --markdown only" in told


@with_fidelity
def test_without_inception_it_is_told_where_to_get_it(here) -> None:
    _folder(here / "made", 0.5, (16, 16), 2)
    told = run("bench", "--unpaired", "--outputs", "made", "--dataset", "made", code=5)
    assert "no weights for inception" in told and "DIFFSR_INCEPTION" in told


def test_a_sheet_is_about_as_wide_as_high() -> None:
    one = Picture(np.zeros((4, 6, 3), np.float32))
    assert sheet([one]).size == (4, 6)
    assert sheet([one] * 5).size == (10, 22)
