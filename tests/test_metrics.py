"""PSNR and SSIM against scikit-image, known values of the field, the grid ratio, LPIPS."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from upscale.errors import UsageError, WeightsError
from upscale.image.resize import resize_array
from upscale.metrics import perceptual, pixel
from upscale.metrics.mesh import mesh
from upscale.metrics.perceptual import Lpips
from upscale.weights.store import read, save

pytestmark = pytest.mark.packaged

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared"
VGG = SHARED / "lpips" / "lpips_vgg_v0.1_fp16.safetensors"


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / 255


def noisy_pair(height: int = 45, width: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    hr = rng.random((height, width, 3))
    return np.clip(hr + rng.normal(0, 0.1, hr.shape), 0, 1), hr


def photo_like(height: int = 200, width: int = 256, seed: int = 0) -> np.ndarray:
    """Noise with a photo's spectrum: amplitude falling as frequency to the -1.5."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    f[0, 0] = 1
    plane = np.fft.ifft2(np.fft.fft2(rng.standard_normal((height, width))) / f**1.5).real
    plane = 0.5 + 0.15 * (plane - plane.mean()) / plane.std()
    return np.repeat(np.clip(plane, 0, 1)[..., None], 3, 2)


# --- PSNR, SSIM ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shave", [0, 4])
def test_psnr_and_ssim_equal_scikit_image(shave: int) -> None:
    sr, hr = noisy_pair()
    cut = np.s_[shave : 45 - shave, shave : 60 - shave]
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    a, b = sr[cut], hr[cut]
    assert pixel.psnr(sr, hr, shave) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1))
    expected = structural_similarity(a, b, channel_axis=2, **how)
    assert pixel.ssim(sr, hr, shave) == pytest.approx(expected, abs=1e-6)
    a, b = pixel.luma(a), pixel.luma(b)
    assert pixel.psnr_y(sr, hr, shave) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1))
    expected = structural_similarity(a, b, **how)
    assert pixel.ssim_y(sr, hr, shave) == pytest.approx(expected, abs=1e-6)


def test_luma_is_studio_range() -> None:
    ends = np.array([[[0.0, 0, 0], [1, 1, 1], [1, 0, 0]]])
    assert pixel.luma(ends)[0] * 255 == pytest.approx([16, 235, 81.481])


def test_tensors_and_arrays_agree() -> None:
    sr, hr = noisy_pair()
    x = torch.from_numpy(sr).requires_grad_()
    assert pixel.psnr_y(x, torch.from_numpy(hr)) == pixel.psnr_y(sr, hr)
    assert pixel.ssim(x, hr) == pixel.ssim(sr, hr)


def test_equal_and_tiny_pictures() -> None:
    hr = noisy_pair()[1]
    assert pixel.psnr(hr, hr) == math.inf and pixel.ssim_y(hr, hr) == pytest.approx(1)
    assert math.isnan(pixel.ssim(hr[:10], hr[:10]))
    assert math.isfinite(pixel.ssim(hr[:11, :13], hr[:11, :13]))


def test_what_is_not_a_pair_is_refused() -> None:
    sr, hr = noisy_pair()
    for bad, why in (
        ((sr[:-1], hr), "sizes differ"),
        ((sr[..., 0], hr[..., 0]), "H,W,3"),
        (((sr * 255).astype(np.uint8), hr), "not integers"),
        ((sr, hr, 23), "leaves nothing"),
    ):
        with pytest.raises(ValueError, match=why):
            pixel.psnr_y(*bad)


@pytest.mark.parametrize(("name", "known"), [("Set5", 28.43), ("Set14", 26.09)])
def test_bicubic_gives_the_fields_numbers(name: str, known: float) -> None:
    folder = SHARED / "data" / "eval" / f"{name}_matlab"
    if not folder.is_dir():
        pytest.skip("needs the shared evaluation pictures")
    found = []
    for path in sorted((folder / "HR").iterdir()):
        hr, lr = picture(path), picture(folder / "LRx4" / path.name)
        sr = np.clip(resize_array(lr, hr.shape[:2]), 0, 1)
        found.append(pixel.psnr_y(sr, hr, 4))
    assert len(found) in (5, 14)
    assert np.mean(found) == pytest.approx(known, abs=0.006)


def test_consistency_is_the_distance_after_shrinking() -> None:
    hr = photo_like(48, 64).astype(np.float32)
    lr = resize_array(hr, (12, 16))
    assert pixel.consistency(lr, hr) == pytest.approx(0, abs=1e-6)
    assert pixel.consistency(lr + 0.01, hr) == pytest.approx(1e5 * 1e-4, rel=1e-3)
    assert pixel.lr_psnr(lr + 0.01, hr) == pytest.approx(40, abs=0.01)
    assert pixel.lr_psnr(lr, torch.from_numpy(hr)) > 100


# --- grid ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_grid_ratio_of_a_photo_is_1_and_of_a_faint_grid_above_2(seed: int) -> None:
    photo = photo_like(seed=seed)
    assert 0.8 < pixel.grid_ratio(photo) < 1.2
    tile = np.random.default_rng(seed).standard_normal((4, 4)) * 2 / 255
    faint = photo + np.tile(tile, (50, 64))[..., None]
    assert pixel.grid_ratio(faint) > 2


def test_grid_ratio_of_real_photos() -> None:
    folder = SHARED / "data" / "eval" / "Kodak24" / "HR"
    if not folder.is_dir():
        pytest.skip("needs the shared evaluation pictures")
    photos = [picture(folder / f"kodim{i:02d}.png") for i in (1, 8, 15, 19, 23)]
    ratios = [pixel.grid_ratio(photo) for photo in photos]
    assert all(0.85 < r < 1.15 for r in ratios)
    tile = np.kron([[1, -1], [-1, 1]], np.ones((2, 2)))[..., None] * 2 / 255
    marked = [p + np.tile(tile, (p.shape[0] // 4, p.shape[1] // 4, 1)) for p in photos]
    # each line's mean over the picture is 0: only an average of spectra, not of lines, sees it
    assert all(pixel.grid_harmonics(m)[0] > 2 for m in marked)


@pytest.mark.parametrize(("period", "harmonic"), [(2, 1), (3, 1), (4, 1), (4, 2), (8, 3)])
def test_each_harmonic_is_seen_in_its_place(period: int, harmonic: int) -> None:
    wave = np.cos(2 * np.pi * harmonic / period * np.arange(256)) * 4 / 255
    found = pixel.grid_harmonics(photo_like() + wave[None, :, None], period)
    assert len(found) == period // 2
    assert found.argmax() == harmonic - 1 and found[harmonic - 1] > 2
    assert all(r < 1.5 for i, r in enumerate(found) if i != harmonic - 1)


def test_grid_ratio_of_odd_sizes_flat_and_tiny_pictures() -> None:
    assert pixel.grid_ratio(photo_like(131, 77)) == pytest.approx(1, abs=0.35)
    assert pixel.grid_ratio(np.full((64, 80, 3), 0.5)) == pytest.approx(1)
    steps = np.round(np.linspace(0.2, 0.3, 400) * 255) / 255  # a clean ramp in 8 bits
    ramp = np.broadcast_to(steps[None, :, None], (60, 400, 3))
    assert pixel.grid_ratio(ramp) < 1.3
    assert math.isnan(pixel.grid_ratio(photo_like(47, 200)))
    assert math.isfinite(pixel.grid_ratio(photo_like(48, 200)))
    assert np.isnan(pixel.grid_harmonics(photo_like(60, 80), period=8)).all()
    with pytest.raises(ValueError, match="period"):
        pixel.grid_ratio(photo_like(), period=1)


# --- LPIPS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alex() -> Lpips:
    return Lpips("alex")


def example(name: str) -> np.ndarray:
    return picture(DATA / f"ex_{name}.png")


def test_lpips_alex_gives_the_authors_values(alex: Lpips) -> None:
    assert alex.distance(example("p0"), example("ref")) == pytest.approx(0.7219, abs=2e-4)
    assert alex.distance(example("p1"), example("ref")) == pytest.approx(0.1376, abs=2e-4)
    assert alex.distance(example("ref"), example("ref")) == 0


def test_lpips_vgg_gives_the_authors_values(monkeypatch: pytest.MonkeyPatch) -> None:
    if not VGG.is_file():
        pytest.skip("needs the shared VGG weights")
    monkeypatch.setenv("DIFFSR_LPIPS_VGG", str(VGG))
    assert perceptual.available("vgg")
    vgg = Lpips("vgg")
    assert vgg.distance(example("p0"), example("ref")) == pytest.approx(0.5686, abs=3e-4)
    assert vgg.distance(example("p1"), example("ref")) == pytest.approx(0.4217, abs=3e-4)
    x = torch.zeros(1, 3, 20, 33)
    assert [f.shape[1] for f in Lpips("vgg", weights=VGG).trunk(x)] == [64, 128, 256, 512, 512]


def test_loss_is_the_distance_batched_and_differentiable(alex: Lpips) -> None:
    hr = torch.from_numpy(example("ref")).permute(2, 0, 1)[None] * 2 - 1
    sr = torch.from_numpy(np.stack([example("p0"), example("p1")])).permute(0, 3, 1, 2) * 2 - 1
    sr = sr.requires_grad_()
    loss = alex.loss(sr, hr.expand(2, -1, -1, -1))
    assert loss.shape == (2,)
    assert loss[1].item() == pytest.approx(alex.distance(example("p1"), example("ref")), abs=1e-5)
    loss.sum().backward()
    assert torch.isfinite(sr.grad).all() and (sr.grad != 0).any()
    parameters = [*alex.trunk.parameters(), *alex.heads]
    assert parameters and all(not p.requires_grad and p.grad is None for p in parameters)


@pytest.mark.parametrize("cached", [1 << 17, 999])  # all places at once, and 15 (64 channels)
def test_the_form_for_training_is_the_same_distance(alex: Lpips, cached, monkeypatch) -> None:
    monkeypatch.setattr(perceptual, "_CACHED", cached)
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, 66, 70, generator=generator) * 2 - 1
    sr = (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(-1, 1).requires_grad_()
    plain, quick = alex.loss(sr, hr), alex.compared(alex.trunk(sr), alex.trunk(hr))
    torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-6)
    wanted, found = (torch.autograd.grad(x.sum(), sr)[0] for x in (plain, quick))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    flat = torch.full((1, 3, 40, 52), -0.7, requires_grad=True)
    alex.compared(alex.trunk(flat), alex.trunk(flat.detach())).sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_unit_features_and_their_gradient_are_those_of_the_formula(dtype, near, monkeypatch):
    monkeypatch.setattr(perceptual, "_CACHED", 50)  # 8 places at a time, of 48
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 6, 4, 6, generator=generator).to(dtype).requires_grad_()
    towards = torch.randn(x.shape, generator=generator)
    plain = 3 * x.float() / x.float().square().sum(1, keepdim=True).sqrt()
    found = perceptual.unit(x, 3.0)
    assert found.dtype == dtype
    for value, wanted in ((found, plain), *zip(
        torch.autograd.grad((found * towards).sum(), x),
        torch.autograd.grad((plain * towards).sum(), x), strict=True,
    )):  # fmt: skip
        torch.testing.assert_close(value.float(), wanted.float(), rtol=near, atol=near)


def test_gradient_is_finite_where_all_features_are_zero(alex: Lpips) -> None:
    x = torch.full((1, 3, 40, 52), -0.7, requires_grad=True)
    alex.loss(x, x.detach() + 0).sum().backward()
    assert torch.isfinite(x.grad).all()
    features = torch.zeros(1, 8, 2, 3, requires_grad=True)
    perceptual.unit(features).sum().backward()
    assert torch.isfinite(features.grad).all()


def test_lpips_refuses_other_ranges_and_sizes(alex: Lpips) -> None:
    ref = example("ref")
    for bad, why in ((ref * 2 - 1, r"\[0,1\]"), (ref * 255, r"\[0,1\]"), (ref[:-1], "sizes")):
        with pytest.raises(ValueError, match=why):
            alex.distance(bad, ref)
    assert math.isnan(alex.distance(ref[:30], ref[:30]))
    assert alex.distance(ref[:31, :40], ref[1:32, :40]) > 0


def test_missing_and_wrong_weights_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alex: Lpips
) -> None:
    monkeypatch.delenv("DIFFSR_LPIPS_VGG", raising=False)
    assert perceptual.available("alex") and not perceptual.available("vgg")
    with pytest.raises(WeightsError, match="DIFFSR_LPIPS_VGG"):
        Lpips("vgg")
    monkeypatch.setenv("DIFFSR_LPIPS_VGG", str(tmp_path / "none.safetensors"))
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        Lpips("vgg")
    with pytest.raises(WeightsError, match="not a file of LPIPS vgg"):
        Lpips("vgg", weights=alex.path)
    with pytest.raises(UsageError, match="choose from alex, vgg"):
        Lpips("squeeze")
    state, _ = read(alex.path)
    state["features.0.weight"] = state["features.0.weight"][:, :2]
    save(tmp_path / "bent.safetensors", state, {})
    with pytest.raises(WeightsError, match=r"bent.*size mismatch"):
        Lpips("alex", weights=tmp_path / "bent.safetensors")


@pytest.mark.slow
def test_a_torchvision_without_its_c_library_is_cured_quietly(tmp_path: Path) -> None:
    code = (
        "from upscale.metrics.perceptual import _import_lpips as f; assert f().LPIPS and f() is f()"
    )
    fake = tmp_path / "torchvision"  # stops as the real one does, once
    fake.mkdir()
    (fake / "__init__.py").write_text(
        "import torch\n"
        "torch.library.register_fake('torchvision::nms')(lambda d, s, t: d)\n"
        "from . import models\n"
    )
    (fake / "models.py").write_text("")
    where = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": where}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- mesh ---------------------------------------------------------------------------------------


def hatched(photo: np.ndarray, grey_levels: float, period: float, angle: float) -> np.ndarray:
    """A wave whose phase drifts from place to place, as networks paint it."""
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
    drift = 2 * np.sin(y / 23) * np.cos(x / 31)
    along = math.cos(angle) * y + math.sin(angle) * x
    wave = np.cos(2 * np.pi * along / period + drift) * grey_levels / 255
    return photo + wave[..., None]


@pytest.mark.parametrize("period", [2.7, 4.4, 5.7])
@pytest.mark.parametrize("angle", [0.0, 0.6, math.pi / 4, 2.5])
def test_hatching_is_a_mesh_and_grain_is_not(period: float, angle: float) -> None:
    photo = photo_like(256, 256)
    grain = photo + np.random.default_rng(1).normal(0, 1.0, photo.shape) / 255
    found = mesh(hatched(photo, 2, period, angle), photo)
    assert mesh(photo, photo) == 0
    assert found > 0.01 > 5 * mesh(grain, photo)
    assert mesh(photo, hatched(photo, 2, period, angle)) < 0.3 * found  # what the truth has is none


def test_mesh_of_tiny_and_of_flat_pictures() -> None:
    assert math.isnan(mesh(photo_like(31, 200), photo_like(31, 200)))
    flat = np.full((40, 40, 3), 0.5)
    assert mesh(flat, flat) == 0
    assert math.isfinite(mesh(photo_like(32, 50), np.full((32, 50, 3), 0.5)))
