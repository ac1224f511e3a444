"""Checkpoints of the published codes and of training become weights; what would run code does not.

The converted network must compute what the published one did: tests/fixtures, recorded from it.
"""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from upscale.convert import checkpoints
from upscale.convert.table import Hints
from upscale.errors import DamagedWeights, UntrustedWeights, UsageError, WeightsError
from upscale.model import Model, build
from upscale.weights import store

pytestmark = pytest.mark.usefixtures("one_thread")

FIXTURES = Path(__file__).parent / "fixtures"
SETTINGS = {
    "sr3": Hints("sr3", norm_groups=8, scale=4.0),
    "idm": Hints("idm", norm_groups=8, max_scale=4.0),
    "ecdp": Hints("ecdp", selection=(0, 2)),
}
CLOSE = {"atol": 2e-5, "rtol": 0}  # of the fixtures' README, for one call


def published(name: str) -> dict[str, Tensor]:
    return load_file(FIXTURES / name / "weights.safetensors")


def recorded(name: str) -> dict[str, Tensor]:
    return load_file(FIXTURES / name / "io.safetensors")


def as_published(name: str, folder: Path) -> Path:
    """The fixture in the form in which its code writes checkpoints."""
    state = published(name)
    if name != "ecdp":
        path = folder / f"I100_E1_{name}_gen.pth"
        torch.save(state, path)
        return path
    path = folder / "checkpoint.pt"
    random = {key: torch.randn_like(value) for key, value in state.items()}
    torch.save(
        {"model": random, "model_avg": state, "epoch": 3, "optim_model": {"state": {}}}, path
    )
    return path


def imported(path: Path, settings: Hints) -> Model:
    """Converted, saved, found by its path alone, and built."""
    target = path.parent / "mine.safetensors"
    state, metadata, half = checkpoints.convert(path, settings)
    store.save(target, state, metadata, half=half)
    return build(*store.load(store.find(target)))


@torch.inference_mode()
def answer(model: Model, name: str) -> tuple[Tensor, Tensor]:
    """(what the network computes, what was recorded) of the fixture's call."""
    io, net = recorded(name), model.net
    if name == "sr3":
        level = io["denoise.b.noise_level"][:, 0]
        return net(io["denoise.b.x_noisy"], io["denoise.b.cond"], level), io["denoise.b.eps"]
    if name == "idm":
        scale = 1 + 3.0 * io["b.scaler"].expand(len(io["b.lr"]))
        cond = net.encode(torch.zeros(len(io["b.lr"]), 3, 27, 27), scale, io["b.lr"])
        return net(io["b.x_noisy"], cond, io["b.noise_level"][:, 0]), io["b.eps"]
    tau = io["denoise.t"].double() / 300
    c_noise = torch.exp(-(0.1 * tau + 19.9 * tau**2 / 2) / 2)
    lr = torch.cat([io["lr"], io["lr"].flip(-1)]) * 2 - 1
    cond = net.encode(io["denoise.x_t"], torch.tensor([4.0]), lr)
    return net(io["denoise.x_t"], cond, c_noise), io["denoise.out.aa"]


@pytest.mark.parametrize("name", SETTINGS)
def test_an_imported_checkpoint_computes_what_was_recorded(tmp_path, name: str) -> None:
    model = imported(as_published(name, tmp_path), SETTINGS[name])
    torch.testing.assert_close(*answer(model, name), **CLOSE)
    assert model.method == name and model.metadata["imported"]["file"].startswith(("I100", "check"))


@pytest.mark.parametrize("name", SETTINGS)
def test_shared_fixtures_are_imported_as_they_lie_there(tmp_path, name: str) -> None:
    source = Path(__file__).parents[2] / "shared" / "fixtures" / name / "weights.safetensors"
    if not source.is_file():
        source = FIXTURES / name / "weights.safetensors"
    state, metadata, _ = checkpoints.convert(source, replace(SETTINGS[name], method=None))
    assert metadata["method"] == name  # told by its keys
    torch.testing.assert_close(*answer(build(state, metadata), name), **CLOSE)


@pytest.mark.parametrize("name", ["sr3", "idm"])
def test_groups_that_do_not_fit_name_the_option_that_does(tmp_path, name: str) -> None:
    path = as_published(name, tmp_path)
    with pytest.raises(WeightsError, match="--norm-groups 32 does not divide its") as refused:
        checkpoints.convert(path, Hints(name))
    told = int(str(refused.value).rpartition("--norm-groups ")[2])
    assert checkpoints.convert(path, replace(SETTINGS[name], norm_groups=told))


def test_what_is_told_of_them(tmp_path) -> None:
    told = {
        name: checkpoints.convert(as_published(name, tmp_path), SETTINGS[name])[1]
        for name in SETTINGS
    }
    assert [told[name]["scales"] for name in told] == [[4.0], {"min": 1.0, "max": 4.0}, [4.0]]
    assert [told[name]["std"] for name in told] == [None, None, 0.4]
    assert [told[name]["domain"] for name in told] == ["face", "face", "photo"]
    assert told["ecdp"]["defaults"]["sampler"] == "rk45" and told["ecdp"]["kernel"] == "bicubic"
    plain = replace(SETTINGS["ecdp"], resize="plain", sampler="ddim", steps=7, licence="MIT")
    metadata = checkpoints.convert(as_published("ecdp", tmp_path), plain)[1]
    assert metadata["kernel"] == "bicubic-plain" and metadata["licence"] == "MIT"
    assert metadata["defaults"] == {"sampler": "ddim", "steps": 7, "spacing": "phi"}


def test_plain_resizing_is_another_network(tmp_path) -> None:
    model = imported(as_published("ecdp", tmp_path), replace(SETTINGS["ecdp"], resize="plain"))
    made, _ = answer(model, "ecdp")
    torch.testing.assert_close(made, recorded("ecdp")["denoise.out.noaa"], **CLOSE)


def test_an_imported_picture_needs_no_flags(tmp_path) -> None:
    from upscale.image.picture import Picture
    from upscale.pipeline.upscaler import Upscaler

    target = tmp_path / "mine.safetensors"
    state, metadata, _ = checkpoints.convert(as_published("sr3", tmp_path), SETTINGS["sr3"])
    store.save(target, state, {**metadata, "defaults": {"sampler": "ddim", "steps": 2}})
    rgb = torch.rand(6, 5, 3).numpy()
    report = Upscaler(weights=str(target), device="cpu")(Picture(rgb), scale=4).report
    assert report["method"] == "sr3" and report["size_out"] == [24, 20] and report["nfe"] == 2


def test_wrappers_and_their_counters_are_taken_off(tmp_path) -> None:
    path = tmp_path / "checkpoint.pt"
    wrapped = {f"module.{key}": value for key, value in published("ecdp").items()}
    torch.save({"model_avg": {**wrapped, "n_averaged": torch.tensor(7)}}, path)
    model = imported(path, SETTINGS["ecdp"])
    torch.testing.assert_close(*answer(model, "ecdp"), **CLOSE)


# --- refused ------------------------------------------------------------------------------------


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_a_malicious_pickle_is_refused_without_running(tmp_path, form: str, suffix: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / f"evil{suffix}"
    content = {**published("sr3"), "denoise_fn.extra": Evil(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Evil(trace)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    asked = "more than tensors" if form == "pickle" else r"\w+\.system"
    told = f"asks for {asked} when it is opened, which can run code: it is not opened"
    with pytest.raises(UntrustedWeights, match=told) as caught:
        checkpoints.convert(path, SETTINGS["sr3"])
    assert not trace.exists() and str(path) in str(caught.value) and caught.value.exit_code == 5
    if form == "pickle":  # the file is what it is meant to be: opened in the old way it would run
        pickle.loads(path.read_bytes())
        assert trace.exists()


def test_a_malicious_pickle_by_another_name_is_none_of_ours(tmp_path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(DamagedWeights, match="not a safetensors file"):
        checkpoints.convert(path, SETTINGS["sr3"])
    with pytest.raises(DamagedWeights, match="not a safetensors file"):
        store.find(path)
    assert not trace.exists()


def test_damaged_files_are_told(tmp_path) -> None:
    path = as_published("sr3", tmp_path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no checkpoint", whole[:100]):
        path.write_bytes(content)
        told = r"I100_E1_sr3_gen\.pth: damaged, or no checkpoint of PyTorch \(.+\)"
        with pytest.raises(DamagedWeights, match=told) as caught:
            checkpoints.convert(path, SETTINGS["sr3"])
        assert "weights_only" not in str(caught.value)  # torch's advice to open it all the same
    with pytest.raises(WeightsError, match="there is no such file"):
        checkpoints.convert(tmp_path / "none.pth", SETTINGS["sr3"])


KEYS = {
    "sr3": "denoise_fn.mid.0.res_block.block1.block.3.weight",
    "idm": "denoise_fn.mid.0.res_block.block1.block.3.weight",
    "ecdp": "model.diffusion.network.mid.0.conv1.network.weight",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_missing_and_unexpected_keys_are_named(tmp_path, name: str) -> None:
    state, path = published(name), tmp_path / "c.pth"
    torch.save({key: value for key, value in state.items() if key != KEYS[name]}, path)
    with pytest.raises(WeightsError, match=rf"c\.pth: .*missing \['{KEYS[name]}'\], unexp.* \[\]"):
        checkpoints.convert(path, SETTINGS[name])
    extra = KEYS[name].replace(".weight", ".gain")
    torch.save({**state, extra: torch.ones(2)}, path)
    with pytest.raises(WeightsError, match=rf"missing \[\], unexpected \['{extra}'\]"):
        checkpoints.convert(path, SETTINGS[name])
    torch.save({**state, KEYS[name]: torch.ones(2, 3, 3, 3)}, path)
    with pytest.raises(WeightsError, match=r"c\.pth: .*" + KEYS[name]):
        checkpoints.convert(path, SETTINGS[name])


@pytest.mark.parametrize(
    "content, settings, told",
    [
        ({"optimizer": {}, "epoch": 1}, Hints("sr3"), r"holds an optimiser.*\*_gen\.pth beside"),
        ([1, 2], Hints("sr3"), "holds no state dict, but a list"),
        ({}, Hints(), "none of the published SR3, IDM and ECDP codes"),
        ({"denoise_fn.a": torch.ones(1)}, Hints("ecdp"), "those of sr3: --method sr3"),
        ({"encoder.a": torch.ones(1)}, Hints("sr3"), "those of idm: --method idm"),
        ({"denoise_fn.a": "text"}, Hints("sr3"), r"no tensors in \['denoise_fn.a'\]"),
    ],
)
def test_what_is_something_else_is_told(tmp_path, content, settings, told) -> None:
    path = tmp_path / "c.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=told):
        checkpoints.convert(path, settings)


def test_what_shapes_do_not_tell_must_fit_them(tmp_path) -> None:
    path = as_published("sr3", tmp_path)
    with pytest.raises(WeightsError, match=r"gen\.pth: --norm-groups 32 does not divide"):
        checkpoints.convert(path, Hints("sr3"))
    with pytest.raises(WeightsError, match="3 encoder blocks are none of the paper's"):
        checkpoints.convert(as_published("ecdp", tmp_path), Hints("ecdp"))
    with pytest.raises(UsageError, match="by a whole number"):
        checkpoints.convert(as_published("ecdp", tmp_path), replace(SETTINGS["ecdp"], scale=2.5))


def test_a_network_that_answers_nothing_finite_is_refused(tmp_path) -> None:
    state, path = published("sr3"), tmp_path / "c.pth"
    state[KEYS["sr3"]].fill_(float("nan"))
    torch.save(state, path)
    with pytest.raises(WeightsError, match="not finite"):
        checkpoints.convert(path, SETTINGS["sr3"])


def test_strange_keys_by_the_thousand_make_no_endless_message(tmp_path) -> None:
    path = tmp_path / "c.safetensors"
    save_file({**published("sr3"), **{f"x.{i}": torch.ones(1) for i in range(2000)}}, path)
    with pytest.raises(WeightsError, match=r"'x\.0'.* characters more\)") as caught:
        checkpoints.convert(path, SETTINGS["sr3"])
    assert len(str(caught.value)) < 3000


# --- of training --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A checkpoint of `diffsr train` whose moving average is not its network."""
    from upscale.train import checkpoint
    from upscale.train.config import TrainConfig
    from upscale.train.networks import make_net

    torch.manual_seed(0)
    config = TrainConfig(method="sr3", net="sr3-tiny", scale_min=4, scale_max=4, patch=32)
    net = make_net(config)
    ema = {key: value + 0.01 for key, value in net.state_dict().items()}
    folder = tmp_path_factory.mktemp("run")
    packed = checkpoint.pack(net, ema, torch.optim.AdamW(net.parameters()))
    record = {"config": config.to_dict(), "images_seen": 320}
    checkpoint.save(folder, 20, packed, record)
    return folder / "checkpoint-00000020.safetensors"


def test_a_training_checkpoint_becomes_the_weights_of_its_moving_average(trained) -> None:
    state, metadata, half = checkpoints.convert(trained, Hints(licence="CC0-1.0"))
    raw = load_file(trained)
    assert half and state.keys() == {k[4:] for k in raw if k.startswith("ema.")}
    assert all(torch.equal(value, raw[f"ema.{key}"]) for key, value in state.items())
    assert metadata["training"]["iteration"] == 20 and metadata["training"]["images_seen"] == 320
    assert metadata["method"] == "sr3" and metadata["licence"] == "CC0-1.0"
    path = trained.parent / "weights.safetensors"
    store.save(path, state, metadata, half=half)
    assert store.find(path).scales == (4.0,)
    with pytest.raises(UsageError, match=r"is diffsr's already: use it as it is, --weights"):
        checkpoints.convert(path, Hints())


def test_a_training_checkpoint_of_another_kind_is_refused(trained, tmp_path) -> None:
    with pytest.raises(WeightsError, match="a checkpoint of --method sr3"):
        checkpoints.convert(trained, Hints("ecdp"))
    for record in ({"config": {"unheard_of": 1}, "images_seen": 1}, {"images_seen": 1}):
        path = tmp_path / "checkpoint-00000001.safetensors"
        save_file(load_file(trained), path, metadata={"record": json.dumps(record)})
        with pytest.raises(WeightsError, match="this version cannot read that checkpoint"):
            checkpoints.convert(path, Hints())
