"""examples/comfyui_diffsr.py, against a stand-in of ComfyUI: how it reads a node, calls it and
takes what comes back."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

import upscale
from upscale.errors import UsageError

FILE = Path(__file__).parents[1] / "examples/comfyui_diffsr.py"
KINDS = {"FLOAT": float, "INT": int, "STRING": str, "BOOLEAN": bool}


class Interrupted(Exception):
    """What ComfyUI raises in a node that is to stop."""


class Comfy:
    """The two modules of ComfyUI that a node may use."""

    def __init__(self, monkeypatch) -> None:
        self.bars: list[tuple[int, list[int]]] = []
        self.stop_after, self.asked = None, 0
        self.device = torch.device("cpu")
        package, utils, management = (
            types.ModuleType(name) for name in ("comfy", "comfy.utils", "comfy.model_management")
        )
        comfy = self

        class ProgressBar:
            def __init__(self, total: int, node_id: str | None = None) -> None:
                self.seen: list[int] = []
                comfy.bars.append((total, self.seen))

            def update_absolute(self, value, total=None, preview=None) -> None:
                self.seen.append(value)

        def throw_exception_if_processing_interrupted() -> None:
            comfy.asked += 1
            if comfy.stop_after is not None and comfy.asked > comfy.stop_after:
                raise Interrupted

        utils.ProgressBar = ProgressBar
        management.throw_exception_if_processing_interrupted = (
            throw_exception_if_processing_interrupted
        )
        management.get_torch_device = lambda: comfy.device
        package.utils, package.model_management = utils, management
        for module in (package, utils, management):
            monkeypatch.setitem(sys.modules, module.__name__, module)


def loaded() -> types.ModuleType:
    """As ComfyUI loads a file in custom_nodes."""
    spec = importlib.util.spec_from_file_location("comfyui_diffsr", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module: types.ModuleType, image: torch.Tensor, **chosen) -> torch.Tensor:
    """The node in a workflow, with its defaults where nothing is chosen; checks its declaration,
    the values against it, and what comes back."""
    ((name, node),) = module.NODE_CLASS_MAPPINGS.items()
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == {name}
    required = node.INPUT_TYPES()["required"]
    given: dict = {}
    for key, (kind, *rest) in required.items():
        if kind == "IMAGE":
            given[key] = image
            continue
        options = rest[0]
        value = chosen.pop(key, options["default"])
        if isinstance(kind, list):
            assert value in kind and all(isinstance(one, str) for one in kind)
        else:
            assert type(value) is KINDS[kind] and options["min"] <= value <= options["max"]
        given[key] = value
    assert not chosen
    with torch.inference_mode():
        result = getattr(node(), node.FUNCTION)(**given)
    assert isinstance(result, tuple) and node.RETURN_TYPES == ("IMAGE",)
    (made,) = result
    assert isinstance(made, torch.Tensor) and made.ndim == 4 and made.dtype == torch.float32
    assert made.device.type == "cpu" and made.min() >= 0 and made.max() <= 1
    return made


class FakeUpscaler:
    """Repeats pixels, and remembers what it was asked for."""

    made: list[FakeUpscaler]

    def __init__(self, method=None, **setup) -> None:
        self.setup, self.calls = (method, setup), []
        FakeUpscaler.made.append(self)

    def __call__(self, picture, *, on_step, **settings):
        self.calls.append((picture.clone(), settings))
        for done in (1, 2):
            on_step(done, 2)
        return picture.repeat_interleave(2, 1).repeat_interleave(2, 2)


@pytest.fixture
def fake(monkeypatch):
    FakeUpscaler.made = []
    monkeypatch.setattr(upscale, "Upscaler", FakeUpscaler, raising=False)
    return FakeUpscaler.made


@pytest.fixture
def comfy(monkeypatch) -> Comfy:
    return Comfy(monkeypatch)


def test_enlarges_an_image_as_the_api_does(comfy):
    image = torch.rand(1, 9, 14, 3)
    made = run(loaded(), image, scale=2.0, method="ecdp", seed=3)
    assert made.shape == (1, 18, 28, 3)
    wanted = upscale.Upscaler("ecdp", device="cpu")(image.permute(0, 3, 1, 2), scale=2, seed=3)
    torch.testing.assert_close(made.permute(0, 3, 1, 2), wanted)
    ((total, seen),) = comfy.bars
    assert seen[-1] == total and seen == sorted(seen)


def test_opacity_and_batches_are_kept_and_nothing_of_comfyui_is_needed():
    image = torch.rand(2, 5, 8, 4)
    image[1, ..., 3] = 0.25
    made = run(loaded(), image, scale=1.5, method="sr3", steps=1)
    assert made.shape == (2, 8, 12, 4)
    assert torch.allclose(made[1, ..., 3], torch.tensor(0.25), atol=1e-3)
    assert not torch.allclose(made[0, ..., 3], torch.tensor(0.25), atol=0.1)


def test_settings_reach_the_upscaler(comfy, fake):
    module = loaded()
    run(module, torch.rand(2, 4, 6, 3))
    (first,) = fake
    assert first.setup == (None, {"input": "auto", "device": "cpu"})
    plain = {"scale": 4.0, "steps": None, "denoise": None, "seed": 0}
    assert [settings for _, settings in first.calls] == [plain, plain]
    assert [total for total, _ in comfy.bars] == [200]
    assert comfy.bars[0][1] == [50, 100, 150, 200]
    seed = 2**64 - 1
    run(module, torch.rand(1, 4, 6, 3), input="real", denoise=0.0, steps=7, seed=seed, scale=3.5)
    assert fake[1].setup == (None, {"input": "real", "device": "cpu"})
    assert fake[1].calls[0][1] == {"scale": 3.5, "steps": 7, "denoise": 0.0, "seed": seed}


def test_one_model_stays_in_memory(comfy, fake):
    module = loaded()
    for seed in (1, 2):
        run(module, torch.rand(1, 4, 6, 3), method="idm", seed=seed)
    assert len(fake) == 1  # not made anew for another seed
    run(module, torch.rand(1, 4, 6, 3), method="sr3")
    assert len(fake) == 2 and list(module._kept.values()) == [fake[1]]


@pytest.mark.parametrize(("kind", "wanted"), [("cuda:1", "cuda:1"), ("meta", "auto")])
def test_takes_comfyuis_device(comfy, fake, kind, wanted):
    comfy.device = torch.device(kind)
    run(loaded(), torch.rand(1, 4, 6, 3))
    assert fake[0].setup[1]["device"] == wanted


def test_stops_within_a_step(comfy, fake):
    comfy.stop_after = 2  # within the second image
    with pytest.raises(Interrupted):
        run(loaded(), torch.rand(3, 4, 6, 3))
    assert len(fake[0].calls) == 2
    assert comfy.bars[0][1] == [50, 100]


def test_an_interruption_passes_through_the_api(comfy):
    comfy.stop_after = 1
    with pytest.raises(Interrupted):
        run(loaded(), torch.rand(2, 4, 6, 3), method="ecdp")
    assert comfy.asked == 2 and comfy.bars[0][1] == [50]


def test_values_beside_the_range_are_clipped(comfy, fake):
    image = torch.full((1, 2, 3, 3), 1.1)
    image[..., 0] = -0.1
    made = run(loaded(), image)
    assert made.unique().tolist() == [0, 1]


def test_errors_are_in_plain_words(comfy, monkeypatch):
    with pytest.raises(UsageError, match=r"denoise needs weights .*method sr3"):
        run(loaded(), torch.rand(1, 4, 6, 3), method="sr3", denoise=0.5)
    monkeypatch.setitem(sys.modules, "upscale", None)  # as where it is not installed
    with pytest.raises(RuntimeError, match="pip install diffsr"):
        run(loaded(), torch.rand(1, 4, 6, 3))
