"""Networks of other programs: two small ones of different kinds, with random weights, used as any
weights are."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from upscale.bench.run import run as bench
from upscale.bench.trials import BenchSettings
from upscale.cli.main import cli
from upscale.errors import UntrustedWeights, UsageError, WeightsError
from upscale.image.encode import write
from upscale.image.picture import Picture
from upscale.nets import others as nets
from upscale.nets.compact import CompactNet
from upscale.nets.vision import mended
from upscale.pipeline import plan
from upscale.pipeline.upscaler import Upscaler
from upscale.train.networks import start
from upscale.weights import others, publish, store

mended()
spandrel = pytest.importorskip("spandrel")


def network(name: str, **sizes: int) -> torch.nn.Module:
    """A fresh network of an architecture of spandrel's."""
    file, kind = {"ESRGAN": ("RRDB", "RRDBNet"), "Compact": ("SRVGG", "SRVGGNetCompact")}[name]
    module = importlib.import_module(f"spandrel.architectures.{name}.__arch.{file}")
    torch.manual_seed(0)
    return getattr(module, kind)(**sizes)


def small(name: str, **sizes: int) -> dict[str, torch.Tensor]:
    """Its state: a network that draws the picture, in detail wrongly."""
    if name == "ESRGAN":
        sizes = {"num_filters": 4, "num_blocks": 1, "scale": 4, **sizes}
    elif name == "Compact":
        sizes = {"num_feat": 8, "num_conv": 2, "upscale": 2, **sizes}
    state = network(name, **sizes).state_dict()
    state = {key: 0.3 * value + 0.02 * torch.randn_like(value) for key, value in state.items()}
    if name == "ESRGAN":  # what stands around its blocks hands the colours on
        for key, value in state.items():
            if key.endswith("weight") and "sub" not in key:
                value[range(3), range(3), 1, 1] += 1
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The two as a .pth (under the keys that training writes) and as .safetensors."""
    folder = tmp_path_factory.mktemp("others")
    torch.save({"params_ema": small("ESRGAN")}, folder / "esrgan.pth")
    save_file(small("Compact"), folder / "compact.safetensors")
    return {"ESRGAN": folder / "esrgan.pth", "Compact": folder / "compact.safetensors"}


def upscaler(path: Path) -> Upscaler:
    return Upscaler(weights=str(path), device="cpu", dtype="fp32")


def direct(path: Path, rgb: np.ndarray) -> np.ndarray:
    """What the library alone makes of a picture (h,w,3) in [0,1]."""
    made = spandrel.ModelLoader().load_from_file(path).eval()
    sr = made(torch.from_numpy(rgb).permute(2, 0, 1)[None].contiguous())
    return sr[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name, scale", [("ESRGAN", 4), ("Compact", 2)])
def test_a_file_gives_what_its_own_library_gives(files, scene, name: str, scale: int) -> None:
    rgb = np.ascontiguousarray(scene[:21, :30])
    made = upscaler(files[name])(Picture(rgb), scale=scale)
    np.testing.assert_allclose(made.picture.rgb, direct(files[name], rgb), atol=2e-6)
    report = made.report
    assert report["method"] == "spandrel" and name in report["net"]
    assert report["weights"] == files[name].stem and report["nfe"] == 1
    assert report["weights_sha256"] == store.sha256_of(files[name])


@pytest.mark.parametrize("way", [{"scale": 4}, {"scale": 3.3, "one_stage": True}])
def test_tiles_give_what_the_whole_gives(files, monkeypatch, way: dict) -> None:
    """Also between two scales, where the tiles' grid is not the input's."""
    monkeypatch.setattr(nets, "AROUND", 16)  # with GRID more than this network looks around
    enlarge, picture = upscaler(files["ESRGAN"]), Picture(noise(88, 96))
    whole, tiled = (enlarge(picture, **way, tile=side) for side in (0, 128))
    assert (whole.report["tile"], tiled.report["tile"]) == (0, 128)
    np.testing.assert_allclose(tiled.picture.rgb, whole.picture.rgb, atol=1e-5)


def test_blocks_give_what_the_whole_gives(files, monkeypatch) -> None:
    monkeypatch.setattr(nets, "AROUND", 16)
    enlarge, picture = upscaler(files["ESRGAN"]), Picture(noise(72, 80))
    whole = enlarge(picture, scale=4, tile=0)
    monkeypatch.setattr(plan, "FROM_PIXELS", 50_000)
    net = enlarge.models.model(store.find(files["ESRGAN"])).net
    monkeypatch.setattr(plan, "PART_BYTES", 288**2 * (plan.STATE_BYTES + net.bytes_per_pixel))
    made = enlarge.plan(picture, scale=4)
    assert len(made.blocks[0]) > 1
    blocks = enlarge.run(made, picture)
    np.testing.assert_allclose(blocks.picture.rgb, whole.picture.rgb, atol=1e-5)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).random((height, width, 3), np.float32)


def test_other_scales_are_resized_or_take_two_stages(files, scene) -> None:
    picture = Picture(np.ascontiguousarray(scene[:20, :24]))
    enlarge = upscaler(files["Compact"])
    small, large = (enlarge(picture, scale=s, consistency="project") for s in (1.5, 3))
    assert small.picture.size == (30, 36) and small.report["stages"] == [[40, 48]]
    assert "at x2, then resized" in str(small.report["notes"])
    assert large.picture.size == (60, 72) and large.report["nfe"] == 2
    assert large.report["lr_psnr"] > 50  # held to the input, as with our own
    assert enlarge(picture, scale=2).report["lr_psnr"] < 50  # left as it is


def test_grey_opacity_and_depth_are_kept(files, scene) -> None:
    alpha = np.linspace(0, 1, 20 * 24, dtype=np.float32).reshape(20, 24)
    grey = np.repeat(scene[:20, :24, :1], 3, 2)
    picture = Picture(np.ascontiguousarray(grey), alpha=alpha, grey=True, bits=16)
    made = upscaler(files["ESRGAN"])(picture, scale=4).picture
    assert made.grey and made.bits == 16 and made.alpha.shape == (80, 96)
    assert np.ptp(made.rgb, 2).max() == 0


@pytest.mark.parametrize("channels", [1, 4])
def test_networks_of_other_channels(tmp_path, scene, channels: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file(small("Compact", num_in_ch=channels, num_out_ch=channels), path)
    rgb = np.ascontiguousarray(scene[:16, :18])
    made = upscaler(path)(Picture(rgb), scale=2).picture.rgb
    planes = [rgb[..., c : c + 1] for c in range(3)]
    if channels == 4:
        planes = [np.dstack([rgb, np.ones_like(rgb[..., :1])])]
    wanted = np.concatenate([direct(path, np.ascontiguousarray(x)) for x in planes], 2)[..., :3]
    np.testing.assert_allclose(made, wanted, atol=2e-6)


def test_a_network_that_only_restores_is_resized_after(tmp_path, scene) -> None:
    path = tmp_path / "restore.pth"
    torch.save(small("Compact", upscale=1), path)
    made = upscaler(path)(Picture(np.ascontiguousarray(scene[:16, :18])), scale=2)
    assert made.report["stages"] == [[16, 18]] and made.picture.size == (32, 36)
    assert "at x1, then resized" in str(made.report["notes"])


def test_several_pictures_at_once_are_as_alone(files, scene) -> None:
    net = upscaler(files["Compact"]).models.model(store.find(files["Compact"])).net
    pair = torch.rand(2, 3, 20, 24) * 2 - 1
    up, scale = torch.zeros(2, 3, 40, 48), torch.full((2,), 2.0)
    both = net.encode(up, scale, pair)
    for index in range(2):
        one = net.encode(up[:1], scale[:1], pair[index : index + 1])
        torch.testing.assert_close(both[index : index + 1], one)


def test_memory_is_counted_without_computing() -> None:
    wide = nets.described(small("Compact", num_feat=64, num_conv=2))["bytes_per_pixel"]
    slim = nets.described(small("Compact", num_feat=8, num_conv=2))["bytes_per_pixel"]
    # two maps of 64 channels at half the side, 4 bytes each, and the workspace
    assert 2 * 64 * 4 / 4 <= wide <= 3 * 64 * 4 / 4 * nets.WORKSPACE
    assert slim < wide / 3


# --- on the command line ------------------------------------------------------------------------


def diffsr(*args: object, code: int = 0) -> list[dict]:
    result = CliRunner().invoke(cli, [str(a) for a in args], standalone_mode=False)
    found = getattr(result.exception, "exit_code", 1) if result.exception else result.return_value
    assert found == code, (result.output, result.exception)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]


def test_a_batch_with_a_ledger(files, scene, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for index in range(2):
        write(Picture(np.roll(scene[:16, :20], index, 0)), f"in/{index}.png")
    args = ["in", "-o", "out/", "--scale", "2", "--weights", files["Compact"], "--json",
            "--resume", "l.jsonl", "--device", "cpu"]  # fmt: skip
    made = diffsr(*args)
    assert [row["status"] for row in made] == ["ok", "ok"]
    assert {row["weights_sha256"] for row in made} == {store.sha256_of(files["Compact"])}
    assert [row["status"] for row in diffsr(*args)] == ["skipped", "skipped"]


def test_bench_measures_it_beside_others(files, scene, tmp_path) -> None:
    (tmp_path / "set").mkdir()
    write(Picture(scene), tmp_path / "set/a.png")
    settings = BenchSettings(
        methods=("bicubic",), weights=tuple(map(str, files.values())), scales=(2.0,),
        metrics=("psnr_y",), device="cpu",
    )  # fmt: skip
    rows = bench(tmp_path / "set", settings)
    told = {(row["method"], row["weights"]) for row in rows}
    assert told == {("bicubic", None), ("spandrel", "esrgan"), ("spandrel", "compact")}
    assert all(row["psnr_y"] > 10 for row in rows)


def test_it_is_named_shown_and_listed(files, scene, tmp_path, monkeypatch) -> None:
    shown = json.loads(
        CliRunner().invoke(
            cli, ["weights", "show", str(files["ESRGAN"]), "--json"], standalone_mode=False
        ).stdout
    )  # fmt: skip
    assert shown["method"] == "spandrel" and shown["scales"] == [4]
    assert shown["file"]["architecture"]["kind"] == "ESRGAN" and "1nb" in shown["net"]
    with pytest.raises(UsageError, match="another program's"):
        publish.bundle(store.find(files["ESRGAN"]), "o/r", "MIT")
    own = tmp_path / "weights.toml"
    own.write_text(
        f"""[weights.gan]\nmethod = "spandrel"\nnet = "ESRGAN"\ndomain = "photo"\nscales = [4]
sha256 = "{store.sha256_of(files["ESRGAN"])}"\nsize = {files["ESRGAN"].stat().st_size}
licence = "MIT"\npath = "{files["ESRGAN"]}"\n"""
    )
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(own))
    made = upscaler("gan")(Picture(scene[:9, :8]), scale=4)
    assert made.report["weights"] == "gan" and made.picture.size == (36, 32)


# --- refused ------------------------------------------------------------------------------------


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_a_malicious_pickle_is_refused_without_running(tmp_path, suffix: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / f"evil{suffix}"
    torch.save({**small("Compact"), "extra": Evil(trace)}, path)
    with pytest.raises(UntrustedWeights, match=r"system when it is opened, which can run code"):
        upscaler(path)
    path.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(UntrustedWeights, match="more than tensors"):
        upscaler(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # it is what it is meant to be


def test_a_program_is_refused(tmp_path) -> None:
    path = tmp_path / "program.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.ReLU()).save(path)
    with pytest.raises(UntrustedWeights, match="TorchScript"):
        upscaler(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda kernel: torch.zeros(1).expand(4096, 4096, 3, 3),  # 600 MB of four bytes
        lambda kernel: kernel.to_sparse(),
        lambda kernel: kernel.to("meta"),
    ],
)
def test_tensors_whose_numbers_are_not_in_the_file_are_refused(tmp_path, change) -> None:
    state = small("Compact")
    state["body.0.weight"] = change(state["body.0.weight"])
    held: list = [state]
    held.append(held)  # a container that holds itself
    path = tmp_path / "lie.pth"
    torch.save({"params": state, "more": held}, path)
    with pytest.raises(UntrustedWeights, match="whose numbers are not in the file"):
        upscaler(path)


def test_an_archive_that_would_unpack_to_much_more_is_not_opened(tmp_path) -> None:
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(1 << 18)}, plain)
    with zipfile.ZipFile(plain) as one, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as two:
        for name in one.namelist():
            two.writestr(name, one.read(name))
    with pytest.raises(UntrustedWeights, match=r"packed\.pth would unpack to 10\d+ bytes"):
        upscaler(packed)
    with pytest.raises(WeightsError, match="no network that spandrel knows"):
        upscaler(plain)


def test_what_is_no_such_network_is_named(tmp_path) -> None:
    path = tmp_path / "strange.safetensors"
    save_file({"a.weight": torch.ones(3, 3)}, path)
    with pytest.raises(WeightsError, match=r"strange\.safetensors: .*no network that spandrel"):
        upscaler(path)
    torch.save(torch.ones(2), tmp_path / "one.pth")
    with pytest.raises(WeightsError, match=r"one\.pth holds no state dict, but a Tensor"):
        upscaler(tmp_path / "one.pth")
    cut = small("ESRGAN")
    del cut["model.0.bias"]
    torch.save(cut, tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match=r"cut\.pth: spandrel cannot make a network"):
        upscaler(tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match="spandrel needs a file: --weights"):
        Upscaler("spandrel", device="cpu")(Picture(np.zeros((4, 5, 3), np.float32)))
    with pytest.raises(WeightsError, match=r"none\.pth: there is no such file"):
        upscaler(tmp_path / "none.pth")


def test_without_the_extra_it_says_what_to_install(files, monkeypatch) -> None:
    monkeypatch.setattr(others, "_known", {})
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(WeightsError, match=r'pip install "diffsr\[spandrel\]"'):
        upscaler(files["ESRGAN"])


def test_training_does_not_start_from_it(files) -> None:
    with pytest.raises(UsageError, match="another program's network"):
        start(CompactNet(CompactNet.named["compact-tiny"]), str(files["ESRGAN"]))
