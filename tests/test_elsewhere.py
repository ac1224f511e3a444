"""Pictures on a device that has no float64, and whose tensors meet none of the CPU: as here."""

from __future__ import annotations

from pathlib import Path

import elsewhere
import numpy as np
import pytest
import torch
from elsewhere import PLACE, Elsewhere, There

from upscale.diffusion import denoiser
from upscale.diffusion.table import SAMPLERS
from upscale.image.picture import Picture
from upscale.nets.ddpm import DDPMNet
from upscale.nets.ecdp import ECDPConfig, ECDPNet
from upscale.nets.idm import CONFIGS as IDM
from upscale.nets.idm import IDMNet
from upscale.nets.sr3 import CONFIGS as SR3
from upscale.nets.sr3 import SR3Net
from upscale.pipeline.generator import Generator
from upscale.pipeline.upscaler import Upscaler
from upscale.weights import store

RNG = np.random.default_rng(0)
SIZE = (17, 11)
PICTURE = Picture(RNG.random((*SIZE, 3), dtype=np.float32), RNG.random(SIZE, dtype=np.float32))
PAPER = ECDPConfig(
    in_conv=8, channels=(16, 16), blocks=(1, 1), time_channels=8, time_hidden=16,
    encoder_blocks=1, encoder_selection=(0,), encoder_features=8, encoder_growth=4,
)  # fmt: skip
NETS = {
    "ecdp": (lambda: ECDPNet(PAPER),
             {"parametrisation": "hybrid", "process": {"kind": "vp-linear"}}),
    "sr3": (lambda: SR3Net(SR3["sr3-tiny"]), {"parametrisation": "eps"}),
    "idm": (lambda: IDMNet(IDM["idm-tiny"]), {"parametrisation": "eps"}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def there(monkeypatch) -> None:
    elsewhere.announce(monkeypatch)


def agree(setup: dict, near: float = 2e-5, **request) -> None:
    """The same picture comes from the device as from the CPU."""
    own = Upscaler(**setup, device="cpu", dtype="fp32")(PICTURE, **request)
    with There():
        made = Upscaler(**setup, device="elsewhere", dtype="fp32")(PICTURE, **request)
    assert made.report["device"] == "meta" and made.report["tile"] == own.report["tile"]
    np.testing.assert_allclose(made.picture.rgb, own.picture.rgb, atol=near)
    np.testing.assert_array_equal(made.picture.alpha, own.picture.alpha)


def paper(name: str, folder: Path) -> str:
    """The file of a small network in a paper's layout."""
    torch.manual_seed(0)
    make, told = NETS[name]
    net = make()
    metadata = {
        "method": name, "net": "tiny", "architecture": net.architecture(), "domain": "photo",
        "scales": [4.0], "std": 0.4, "licence": "test", "defaults": {"steps": 2}, **told,
    }  # fmt: skip
    store.save(folder / f"{name}.safetensors", net.state_dict(), metadata)
    return str(folder / f"{name}.safetensors")


def test_the_device_is_as_strict_as_a_real_one() -> None:
    with There():
        here, there = torch.ones(2, 2), torch.ones(2, 2).to(PLACE)
        assert isinstance(there + 1, Elsewhere) and float((there * 2).sum()) == 8
        assert (there @ there).cpu().numpy().tolist() == [[2, 2], [2, 2]]
        for mixed in (lambda: there + here, lambda: torch.cat([there, here]),
                      lambda: here.add_(there), lambda: there[here.long()]):  # fmt: skip
            with pytest.raises(RuntimeError, match="two devices"):
                mixed()
        for wide in (there.double, lambda: here.double().to(PLACE),
                     lambda: torch.arange(3, dtype=torch.float64, device=PLACE)):  # fmt: skip
            with pytest.raises(TypeError, match="no float64"):
                wide()


@pytest.mark.parametrize("method", ["ecdp", "sr3", "idm", "regression", "bicubic", "lanczos"])
def test_bundled_weights(method) -> None:
    agree({"method": method}, scale=2.5)


@pytest.mark.parametrize("name", list(NETS))
def test_networks_of_the_papers(name, tmp_path) -> None:
    agree({"weights": paper(name, tmp_path)}, 1e-4, scale=4, steps=2)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_samplers(sampler, two_headed_weights) -> None:
    loose = {"rtol": 0.3, "atol": 0.3}  # for the one that chooses its own steps
    agree({"weights": two_headed_weights}, 1e-4, scale=3.7, sampler=sampler, **loose)


@pytest.mark.parametrize(
    "request_",
    [{"tile": 128, "scale": 8}, {"consistency": "blend"}, {"consistency": "colour"},
     {"spacing": "beta"}, {"scale": 1}],
)  # fmt: skip
def test_tiles_and_other_settings(request_, tiny_weights, two_headed_weights) -> None:
    for weights in (tiny_weights, two_headed_weights):
        agree({"weights": weights}, **{"scale": 3, **request_})


def test_mixed_weights_and_real_input() -> None:
    agree({}, scale=2, denoise=0.5)


def test_that_noise_levels_go_to_the_cpu_first_is_needed(tiny_weights, monkeypatch) -> None:
    monkeypatch.setattr(denoiser, "WITHOUT_FLOAT64", ())
    with pytest.raises(TypeError, match="no float64"):
        agree({"weights": tiny_weights}, scale=2)


def test_pictures_from_noise_alone(tmp_path) -> None:
    torch.manual_seed(0)
    net = DDPMNet(DDPMNet.named["ddpm-tiny"])
    told = {"method": "ddpm", "net": "ddpm-tiny", "architecture": net.architecture(),
            "domain": "face", "scales": [1.0], "parametrisation": "v", "std": None,
            "size": [16, 16], "licence": "test", "defaults": {"steps": 2}}  # fmt: skip
    store.save(tmp_path / "d.safetensors", net.state_dict(), told)
    made = []
    for device in ("cpu", "elsewhere"):
        with There():
            make = Generator(str(tmp_path / "d.safetensors"), device=device, dtype="fp32")
            made.append(make([0, 1]))
    for a, b in zip(*made, strict=True):
        np.testing.assert_allclose(a.picture.rgb, b.picture.rgb, atol=2e-5)
