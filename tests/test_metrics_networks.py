"""NIQE, DISTS, face identity, recognition and FID: against the authors' values where they can be
had, and that no file is opened which could run code."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import upscale
from upscale.bench.run import run
from upscale.bench.trials import BenchSettings
from upscale.errors import UntrustedWeights, WeightsError
from upscale.image.encode import write
from upscale.image.picture import Picture
from upscale.metrics import files
from upscale.metrics.niqe import niqe

pytestmark = pytest.mark.packaged

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared"
VGG = SHARED / "lpips" / "lpips_vgg_v0.1_fp16.safetensors"
SHIPPED = Path(upscale.__file__).parent / "bench" / "pictures"


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / 255


# --- NIQE, DISTS --------------------------------------------------------------------------------


def test_niqe_is_matlabs() -> None:
    baboon = SHARED / "data" / "eval" / "Set14" / "HR" / "baboon.png"
    if not baboon.is_file():
        pytest.skip("needs the shared evaluation pictures")
    assert niqe(picture(baboon)) == pytest.approx(5.7296, abs=1e-4)  # MATLAB R2021a


def test_niqe_of_worse_pictures_is_larger_and_of_tiny_ones_unknown() -> None:
    for name in ("kodim08", "kodim13", "kodim24"):
        clean = picture(next(SHIPPED.glob(f"{name}.*")))
        blurred = (clean + np.roll(clean, 1, 0) + np.roll(clean, 1, 1) + np.roll(clean, -2, 1)) / 4
        noise = np.random.default_rng(0).normal(0, 0.1, clean.shape)
        value = niqe(clean)
        assert 1.5 < value < 8
        assert niqe(blurred) > value and niqe(np.clip(clean + noise, 0, 1)) > value
    assert math.isnan(niqe(clean[:191, :100])) and math.isfinite(niqe(clean[:192, :100]))
    assert math.isnan(niqe(np.full((192, 192, 3), 0.5)))


def test_dists_is_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    if not VGG.is_file():
        pytest.skip("needs the shared VGG weights")
    from upscale.metrics.dists import Dists

    monkeypatch.setenv("DIFFSR_LPIPS_VGG", str(VGG))
    dists = Dists()
    ref = picture(DATA / "ex_ref.png")
    # the authors' DISTS_pytorch 0.1 with the same VGG-16
    assert dists.distance(picture(DATA / "ex_p0.png"), ref) == pytest.approx(0.38792, abs=1e-5)
    assert dists.distance(picture(DATA / "ex_p1.png"), ref) == pytest.approx(0.22503, abs=1e-5)
    assert 0 <= dists.distance(ref, ref) < 1e-6
    assert math.isnan(dists.distance(ref[:15], ref[:15]))


# --- faces --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_identity_tells_a_person_from_another() -> None:
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models")
    folder = SHARED / "data" / "eval" / "faces50" / "HR_128"
    if not folder.is_dir():
        pytest.skip("needs the shared faces")
    from upscale.metrics.identity import Identity

    identity = Identity()
    one, two = (picture(path) for path in sorted(folder.iterdir())[:2])
    brighter = np.clip(one * 0.9 + 0.05, 0, 1)
    assert identity.distance(one, one) == 0
    assert identity.distance(brighter, one) < 0.3 < 0.6 < identity.distance(two, one)
    flat = np.full((64, 64, 3), 0.5, np.float32)
    assert math.isnan(identity.distance(flat, flat))  # no face
    assert math.isnan(identity.distance(one[:30, :30], one[:30, :30]))


def test_without_dlib_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from upscale.metrics.identity import Identity

    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(WeightsError, match=r"dlib is needed .*diffsr\[faces\]"):
        Identity()


# --- weights that the user brings ---------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-50 that holds class 3 the likeliest and class 7 the next, whatever it sees."""
    from upscale.nets.vision import mended
    from upscale.weights import store

    with torch.device("meta"):  # drawing its weights takes a second, and they are none
        net = mended().models.resnet50(weights=None)
    state = {
        k: torch.full(v.shape, int(k.endswith("var")), dtype=v.dtype)
        for k, v in net.state_dict().items()
    }
    state["fc.bias"][3], state["fc.bias"][7] = 1.0, 0.5
    path = tmp_path_factory.mktemp("resnet") / "resnet50.safetensors"
    store.save(path, state, {"method": "metric"})
    return path


def test_recognition_counts_the_likelier_classes(resnet: Path, tmp_path: Path, monkeypatch) -> None:
    from upscale.metrics.recognition import Recogniser

    monkeypatch.setenv("DIFFSR_RESNET50", str(resnet))
    recogniser = Recogniser()
    x = np.random.default_rng(0).random((64, 48, 3)).astype(np.float32)
    assert [recogniser.rank(x, c) for c in (3, 7, 500)] == [0, 1, 2]
    assert math.isnan(recogniser.rank(x, None))
    for name in "ab":
        write(Picture(x), tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("a,3\nb,7\n")
    rows = run(tmp_path, BenchSettings(metrics=("top1", "top5"), device="cpu"))
    assert [(row["top1"], row["top5"]) for row in rows] == [(1.0, 1.0), (0.0, 1.0)]


def test_the_crop_is_the_middle_at_imagenets_size(resnet: Path, monkeypatch) -> None:
    from upscale.metrics.recognition import Recogniser

    monkeypatch.setenv("DIFFSR_RESNET50", str(resnet))
    recogniser = Recogniser()
    x = np.zeros((256, 320, 3), np.float32)
    x[16:240, 48:272] = 1  # just the middle 224x224
    batch = recogniser._batch(x)
    assert batch.shape == (1, 3, 224, 224)
    assert torch.allclose(batch.mean((0, 2, 3)), torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-3)
    assert recogniser._batch(np.zeros((30, 77, 3), np.float32)).shape == (1, 3, 224, 224)
    small = np.random.default_rng(0).random((128, 160, 3)).astype(np.float32)
    planes = [np.asarray(Image.fromarray(p).resize((320, 256), Image.Resampling.BILINEAR))
              for p in small.transpose(2, 0, 1)]  # fmt: skip
    own = np.stack(planes)[:, 16:240, 48:272]
    made = recogniser._batch(small)[0] * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    made = made.numpy() + np.float32([0.485, 0.456, 0.406])[:, None, None]
    assert np.abs(made - own).max() < 1e-4


def test_fid_of_a_set_with_itself_is_0_and_grows(tmp_path: Path) -> None:
    if find_spec("torch_fidelity") is None:  # not imported: the package has a door for it
        pytest.skip("needs diffsr[metrics]")
    from upscale.metrics.fid import fid

    rng = np.random.default_rng(0)
    real = list(rng.normal(0, 1, (40, 16)).astype(np.float32))
    assert fid(real, real) == pytest.approx(0, abs=1e-3)
    moved = [one + 2 for one in real]  # the covariance is the same: |mean difference|^2 remains
    assert fid(moved, real) == pytest.approx(16 * 4, rel=1e-4)
    wide = [one * 2 for one in real]
    spread = np.stack(real)
    expected = np.trace(np.cov(spread, rowvar=False)) + np.sum(spread.mean(0) ** 2)
    assert fid(wide, real) == pytest.approx(expected, rel=1e-4)
    assert math.isnan(fid(real[:1], real[:1]))


class _Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


def test_files_that_could_run_code_are_not_opened(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    torch.save({"fc.bias": _Trap()}, tmp_path / "evil.pth")
    with pytest.raises(UntrustedWeights, match=r"evil\.pth asks for \w+\.mkdir .* can run code"):
        files.state_of(tmp_path / "evil.pth")
    assert not (tmp_path / "sprung").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="not a table of tensors"):
        files.state_of(tmp_path / "list.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pth")
    assert files.state_of(tmp_path / "good.pth")["a"].sum() == 2


@pytest.mark.parametrize(
    ("metric", "variable", "why"),
    [
        ("top1", "DIFFSR_RESNET50", "no weights for resnet50.*hf download timm/resnet50"),
        ("fid", "DIFFSR_INCEPTION", "no weights for inception.*torch-fidelity's releases"),
        ("dists", "DIFFSR_LPIPS_VGG", "no weights for LPIPS vgg"),
        ("lpips_vgg", "DIFFSR_LPIPS_VGG", "no weights for LPIPS vgg"),
    ],
)
def test_metrics_without_weights_say_what_is_missing(
    metric: str, variable: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if metric == "fid" and find_spec("torch_fidelity") is None:
        pytest.skip("needs diffsr[metrics]")
    write(Picture(np.zeros((40, 40, 3), np.float32)), tmp_path / "a.png")
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(WeightsError, match=why) as caught:
        run(tmp_path, BenchSettings(metrics=(metric,), device="cpu"))
    assert variable in str(caught.value) and caught.value.exit_code == 5
    monkeypatch.setenv(variable, str(tmp_path / "none.pth"))
    with pytest.raises(WeightsError, match=r"none\.pth"):
        run(tmp_path, BenchSettings(metrics=(metric,), device="cpu"))
    monkeypatch.setenv(variable, str(tmp_path / "a.png"))
    with pytest.raises(WeightsError, match=r"a\.png"):
        run(tmp_path, BenchSettings(metrics=(metric,), device="cpu"))
