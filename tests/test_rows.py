"""A sampler is one row, a method one row and one file: a new one of each upscales, trains and is
measured. And no name of theirs stands where the program branches."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import upscale
from upscale.bench.run import run as bench
from upscale.bench.trials import BenchSettings
from upscale.diffusion.table import SAMPLERS, Sampler
from upscale.errors import WeightsError
from upscale.image.picture import Picture
from upscale.methods import METHODS, Method
from upscale.model import build
from upscale.nets.compact import CompactNet
from upscale.nets.net import Config, Net
from upscale.pipeline.upscaler import Upscaler
from upscale.train.config import TrainConfig
from upscale.train.run import Options, run_training


def restart(denoise, x, sigmas, *, noise, on_step=lambda done, of: None) -> Tensor:
    """Each step goes to the estimate, asks again in the middle, and adds fresh noise."""
    steps = len(sigmas) - 1
    for i in range(steps):
        middle = float(sigmas[i] + sigmas[i + 1]) / 2
        first = denoise(x, sigmas[i].to(x).expand(len(x)))
        second = denoise(first + middle * noise(i), torch.full((len(x),), middle))
        x = torch.lerp(first, second, 0.5)
        if sigmas[i + 1] > 0:
            x = x + float(sigmas[i + 1]) * noise(i)
        on_step(i + 1, steps)
    return x


@dataclass(frozen=True)
class DotConfig(Config):
    width: int = 4


class DotNet(Net):
    """Two convolutions: as much of a network as there can be."""

    kind = "dot"
    config_type = DotConfig
    named: ClassVar = {"compact": DotConfig(), "dot-wide": DotConfig(8)}
    bytes_per_pixel = 64
    cond_bytes_per_pixel = 12
    halo = 2

    def __init__(self, config: DotConfig) -> None:
        super().__init__(config)
        self.first = nn.Conv2d(6, config.width, 3, padding=1)
        self.second = nn.Conv2d(config.width, 3, 3, padding=1)

    def encode(self, lr_up: Tensor, scale: Tensor, lr: Tensor | None = None) -> Tensor:
        return lr_up

    def forward(self, x: Tensor, cond: Tensor, c_noise: Tensor) -> Tensor:
        return self.second(self.first(torch.cat([x, cond], 1)).relu())


def test_a_new_sampler_and_a_new_method_go_all_the_way(tmp_path, monkeypatch) -> None:
    two = Sampler(restart, calls=lambda steps: 2 * steps, stochastic=True)
    row = Method(nets=(f"{__name__}:DotNet",), compact_parametrisation="x0")
    monkeypatch.setitem(SAMPLERS, "restart", two)
    monkeypatch.setitem(METHODS, "dot", row)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    (tmp_path / "set").mkdir()
    Image.fromarray(pixels).save(tmp_path / "set/a.png")

    config = TrainConfig("dot", patch=32, batch=1, iterations=2, warmup=1, net_options="width=3")
    options = Options(workers=0, validate_every=0)
    path = run_training(config, tmp_path / "set", tmp_path / "run", device="cpu", options=options)

    upscaler = Upscaler(weights=str(path), device="cpu", dtype="fp32")
    assert upscaler.method == "dot"
    picture = Picture(pixels[:16, :20].astype(np.float32) / 255)
    made = upscaler(picture, scale=2, sampler="restart", steps=3)
    assert made.picture.size == (32, 40) and made.report["nfe"] == 6
    assert made.report["parametrisation"] == "x0" and made.report["sampler"] == "restart"

    settings = BenchSettings(
        methods=("dot",), weights=(str(path),), samplers=("restart",), steps=(2,), scales=(2.0,),
        metrics=("psnr_y",), device="cpu",
    )  # fmt: skip
    (measured,) = bench(tmp_path / "set", settings)
    assert (measured["method"], measured["sampler"], measured["nfe"]) == ("dot", "restart", 4)
    assert measured["psnr_y"] > 0


def test_a_weights_file_says_how_it_samples_and_nothing_else() -> None:
    net = CompactNet(CompactNet.named["compact-tiny"])
    told = {"method": "sr3", "architecture": net.architecture(), "parametrisation": "v"}
    assert build(net.state_dict(), {**told, "defaults": {"steps": 3}}).law.steps == 3
    for strange in ({"nets": ["os:system"]}, {"kernel": "bicubic"}, {"tempo": 1}):
        with pytest.raises(WeightsError, match=f"defaults .*{next(iter(strange))}"):
            build(net.state_dict(), {**told, "defaults": strange})


# a network's kind, the recipes, the settings of a run and the published checkpoints are tables too
TABLES = ("methods.py", "diffusion/table.py", "convert/table.py", "train/recipes.py", "nets/")
DEFAULTS = {("train/config.py", "sr3")}
# names of resizes and of degradations as well
SHARED = {"bicubic", "lanczos"}


def test_names_stand_in_their_rows_alone() -> None:
    root, names = Path(upscale.__file__).parent, (METHODS.keys() | SAMPLERS.keys()) - SHARED
    found = {
        (path.relative_to(root).as_posix(), node.value)
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    }
    assert {one for one in found if not one[0].startswith(TABLES)} == DEFAULTS
