"""What several test files share: a tiny network's weights file, and pictures made on the spot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

# one thread for each of several workers, and for what they start: threads of two that share the
# cores wait for each other. Before numpy and torch are imported, which read it once.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hub_double import HubDouble
from hypothesis import settings

from upscale import errors

# a busy machine, or torch's first call, takes longer than the default deadline
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("quick")  # --hypothesis-profile=thorough goes before it


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """A synthetic photograph: smooth shading, edges and texture; float32 (60,44,3) in [0,1]."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:60, 0:44].astype(np.float32)
    base = np.stack([x / 44, y / 60, 0.5 + 0.3 * np.sin(x / 3) * np.cos(y / 4)], 2)
    base[20:40, 10:30] = [0.9, 0.2, 0.1]
    base += rng.normal(0, 0.02, base.shape)
    return np.clip(base, 0, 1).astype(np.float32)


@pytest.fixture(autouse=True)
def no_lists_of_the_users_own(monkeypatch, tmp_path_factory) -> None:
    """Whoever runs the tests may have weights of their own."""
    monkeypatch.delenv("DIFFSR_WEIGHTS_TOML", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))


@pytest.fixture(autouse=True)
def errors_name_options(monkeypatch) -> None:
    """As on the command line, which most tests are about."""
    monkeypatch.setattr(errors, "options", True)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, and no variable that sets an option."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DIFFSR_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def env() -> dict[str, str]:
    """For `diffsr` as a process: the same."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DIFFSR_", "FAKE_"))}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """What a fake upscaler was made with and called with, which the command line takes."""
    from cli_fake import FakeUpscaler

    log: list[dict] = []

    def make(setup, ends, on_bytes):
        log.append(asdict(setup))
        return FakeUpscaler(log)

    monkeypatch.setattr("upscale.cli.upscale.command.make_upscaler", make)
    return log


@pytest.fixture
def inside(here, monkeypatch, capsys):
    """`diffsr args` in this process, from the console entry on: (exit code, stderr)."""
    from cli_fake import FakeUpscaler

    from upscale import signals
    from upscale.cli.main import main

    monkeypatch.setattr(signals, "catch", lambda: None)

    def ended(*args: str, fake: bool = True) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            if fake:
                make = lambda setup, ends, on_bytes: FakeUpscaler()  # noqa: E731
                patch.setattr("upscale.cli.upscale.command.make_upscaler", make)
            with pytest.raises(SystemExit) as end:
                main(args)
        return end.value.code, capsys.readouterr().err

    return ended


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tensors so small that more threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hub, and a client that is patient on a busy machine."""
    from huggingface_hub import constants

    from upscale.weights.hub import failures

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 60.0)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 60.0)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # as diffsr's own import does
    monkeypatch.setattr(failures, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return tmp_path / "hub"


@pytest.fixture
def hub_double(hub_cache, monkeypatch) -> Iterator[HubDouble]:
    """A Hub with an empty repository, which the client is told of."""
    with HubDouble() as double:
        double.announce(monkeypatch)
        yield double


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A weights file of a small SR3 network whose every parameter matters, for scales 1 to 8."""
    defaults = {"sampler": "ddim", "steps": 2, "spacing": "phi"}
    told = {"method": "sr3", "parametrisation": "v", "std": 0.24, "defaults": defaults}
    return _tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors", told, encoder=1)


@pytest.fixture(scope="session")
def two_headed_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The like of ECDP: two heads, injections, and its process in continuous time."""
    told = {
        "method": "ecdp",
        "parametrisation": "hybrid",
        "std": 0.2,
        "process": {"kind": "vp-linear", "beta_min": 0.1, "beta_max": 20.0, "t_end": 1 / 3000},
        "defaults": {"sampler": "midpoint", "steps": 2, "spacing": "phi"},
    }
    path = tmp_path_factory.mktemp("weights") / "two.safetensors"
    return _tiny(path, told, encoder=2, heads=2, inject=(0, 1))


def _tiny(path: Path, told: dict, **sizes) -> str:
    import torch

    from upscale.nets.compact import CompactConfig, CompactNet
    from upscale.weights import store

    torch.manual_seed(3)
    net = CompactNet(
        CompactConfig(
            channels=(16, 16, 16), down=(1, 1, 1), up=(1, 1), head=(8, 4), embedding=16, **sizes
        )
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    metadata = {
        **told,
        "net": "tiny",
        "architecture": net.architecture(),
        "domain": "photo",
        "scales": {"min": 1.0, "max": 8.0},
        "licence": "test",
    }
    store.save(path, net.state_dict(), metadata)
    return str(path)
