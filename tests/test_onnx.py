"""Weights as ONNX files: onnxruntime, by the loop of examples/run_onnx.py, gives our pictures."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import run

from upscale import Upscaler
from upscale.diffusion import noise
from upscale.errors import UsageError, WeightsError
from upscale.image.resize import resize
from upscale.model import network_of
from upscale.pipeline import sampling
from upscale.weights import store

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from upscale.convert import onnx as exporting  # noqa: E402

ROOT = Path(__file__).parents[1]
EXAMPLE, PAGE = ROOT / "examples/run_onnx.py", ROOT / "docs/other-tools.md"
BUNDLED = ("ecdp-photo", "sr3-photo", "idm-photo", "regression-photo", "liif-photo")


@pytest.fixture(scope="module")
def example():
    """examples/run_onnx.py as a module."""
    spec = importlib.util.spec_from_file_location("run_onnx", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(size: tuple[int, int]) -> torch.Tensor:
    """(1,3,*size) in [0,1] with edges and a slope."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[: size[0], : size[1]] / max(size)
    planes = np.stack([rows, columns, (rows + columns) % 0.4 * 2])
    return torch.from_numpy(np.clip(planes + rng.normal(0, 0.05, planes.shape), 0, 1)[None]).float()


def ours(weights: str, lr: torch.Tensor, scale: float, monkeypatch) -> tuple[np.ndarray, ...]:
    """Our picture, and the noise that it was made from."""
    drawn = []

    def noise_at(*args):
        drawn.append(noise.noise_at(*args))
        return drawn[-1]

    monkeypatch.setattr(sampling, "noise_at", noise_at)
    sr = Upscaler(weights=weights, device="cpu", dtype="fp32")(lr, scale=scale)
    return sr.numpy(), drawn[0].numpy()


def session_of(path: Path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def tiny(tiny_weights: str, tmp_path_factory) -> Path:
    """The small network's file."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    exporting.export(tiny_weights, path)
    return path


@pytest.mark.slow
def test_the_small_network_gives_our_picture(tiny, tiny_weights, example, monkeypatch):
    same_pictures(tiny, tiny_weights, example, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("weights", BUNDLED)
def test_bundled_weights_give_our_picture(weights, tmp_path, example, monkeypatch):
    facts = exporting.export(weights, tmp_path / "made.onnx")
    assert facts["difference"] < 1e-5
    same_pictures(tmp_path / "made.onnx", weights, example, monkeypatch)


def same_pictures(path: Path, weights: str, example, monkeypatch) -> None:
    """At two sizes, in that of the input where the weights are for it, and in a batch."""
    session = session_of(path)
    for size, scale in (((18, 13), 4), ((9, 31), 4)):
        lr = picture(size)
        wanted, drawn = ours(weights, lr, scale, monkeypatch)
        made = example.sampled(session, lr.numpy(), drawn)
        assert made.shape == (1, 3, size[0] * 4, size[1] * 4)
        np.testing.assert_allclose(made, wanted, atol=1e-4)
        assert wanted.std() > 0.1  # a picture at all
    if store.find(weights).covers(1):
        wanted, drawn = ours(weights, lr, 1, monkeypatch)
        np.testing.assert_allclose(example.sampled(session, lr.numpy(), drawn), wanted, atol=1e-4)
    two = example.sampled(session, lr.repeat(2, 1, 1, 1).numpy(), drawn.repeat(2, 0))
    np.testing.assert_allclose(two[1], wanted[0], atol=1e-4)


@pytest.mark.slow
def test_the_file_says_what_it_is(tmp_path, monkeypatch, two_headed_weights, example):
    """Names, shapes, facts; nothing of this machine; a command that writes once and says where."""
    monkeypatch.chdir(tmp_path)
    result = run("weights", "export", two_headed_weights, "--onnx", "two.onnx", "--json")
    assert "takes a minute" in result.stderr
    told = json.loads(result.stdout)
    assert told["path"] == "two.onnx" and told["sampler"] == "midpoint"
    proto = onnx.load("two.onnx")
    onnx.checker.check_model(proto, full_check=True)
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    large = ["batch", 3, "height", "width"]
    assert shapes == {
        "lr": ["batch", 3, "h", "w"], "x": large, "sigma": [1],
        "denoised": large, "picture": large,
    }  # fmt: skip
    facts = {one.key: one.value for one in proto.metadata_props}
    assert facts["weights_sha256"] == store.find(two_headed_weights).sha256
    assert set(json.loads(facts["inputs"])) == {"lr", "x", "sigma"}
    assert len(json.loads(facts["sigmas"])) == 2
    assert b"/upscale/" not in Path("two.onnx").read_bytes()
    with pytest.raises(ValueError, match="midpoint"):  # another loop than the example's
        example.enlarged(session_of(Path("two.onnx")), np.zeros((4, 5, 3), np.float32))
    again = run("weights", "export", two_headed_weights, "--onnx", "two.onnx", code=1)
    assert "two.onnx: exists" in again.told


@pytest.mark.slow
def test_the_example_and_the_page_enlarge_pictures(tmp_path, monkeypatch, example, tiny):
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny, "ecdp-photo.onnx")
    Image.new("RGB", (14, 9), "orange").save("in.png")
    example.main("ecdp-photo.onnx", "in.png", "out.png", "2.5")
    with Image.open("out.png") as made:
        assert made.size == (35, 22)
        assert np.abs(np.asarray(made).mean((0, 1)) - (255, 165, 0)).max() < 3
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(block, PAGE.name, "exec"), names)
    assert names["picture"].shape == (1, 3, 80, 120)
    assert abs(names["picture"].mean() - 0.5) < 0.01


@pytest.mark.parametrize("sizes", [(11, 44), (44, 11), (7, 10), (10, 7), (1, 5), (5, 1), (6, 6)])
def test_its_resize_is_ours(sizes):
    x = torch.randn(1, 3, sizes[0], sizes[0] + 2)
    size = (sizes[1], sizes[1] + 3)
    with exporting._Plainly():
        made = torch.nn.functional.interpolate(x, size=size, mode="bicubic", antialias=True)
    torch.testing.assert_close(made, resize(x, size), atol=1e-5, rtol=0)


def test_what_cannot_be_exported_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metric = run("weights", "export", "lpips-alex", "--onnx", "a.onnx", code=2)
    assert "enlarges nothing" in metric.told
    named = run("weights", "export", "ecdp-photo", "--onnx", "a.safetensors", code=2)
    assert "ends in .onnx" in named.told
    entry = store.find("ecdp-photo")
    for method, why in (("ddpm", "from noise alone"), ("spandrel", "another program")):
        other = entry.__class__(**{**vars(entry), "method": method})
        with pytest.raises(UsageError, match=why):
            exporting._exportable(other)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else name)
    bare = run("weights", "export", "ecdp-photo", "--onnx", "a.onnx", code=2)
    assert 'pip install "diffsr[onnx]"' in bare.told
    assert not list(tmp_path.iterdir())


def made_by(operator: str, *inputs: str) -> bytes:
    """A graph like an exported one whose picture is made by one operator."""
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in ("lr", "x", "sigma", "picture")
    ]
    node = onnx.helper.make_node(operator, inputs, ["picture"])
    graph = onnx.helper.make_graph([node], "one", values[:3], values[3:])
    opset = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


class Broken(torch.nn.Module):
    """A network call that nothing can trace."""

    net = network_of("compact").from_dict({"encoder": 1})

    def forward(self, lr, x, sigma):
        raise RuntimeError("no such operator\nand a long story")


@pytest.mark.slow
def test_what_torch_cannot_export_is_said():
    with pytest.raises(UsageError, match=r"network compact \(no such operator\): weights of our"):
        exporting._graph(Broken(), {})


def test_what_onnxruntime_cannot_run_is_said():
    with pytest.raises(UsageError, match="network compact decides by the size"):
        exporting._difference(made_by("Add", "lr", "x"), Broken())  # of two sizes


def test_a_graph_that_answers_otherwise_is_not_written(tmp_path, monkeypatch, tiny_weights):
    monkeypatch.setattr(exporting, "_graph", lambda call, facts: made_by("Sigmoid", "x"))
    with pytest.raises(WeightsError, match="another picture than torch"):
        exporting.export(tiny_weights, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
