"""ECDP's flow and chains, from latent to picture, against tensors recorded from the published code.

Published pictures are in [0,1], with r = 5 (x - mu) and time t in [0,300]; ours are in [-1,1], with
std 0.4, which is the same r, and time in [0,1].
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from levels import alpha_bar_of
from safetensors.torch import load_file
from torch import Tensor

from upscale.convert import ecdp
from upscale.convert.table import Hints
from upscale.diffusion.denoiser import bind
from upscale.diffusion.process import VPLinear, sigma_of, sigmas
from upscale.diffusion.samplers import ddim, rk45
from upscale.image.resize import resize
from upscale.nets.ecdp import ECDPNet
from upscale.train.loss import Spec

FOLDER = Path(__file__).parent / "fixtures" / "ecdp"
PROCESS = VPLinear()
SPEC = Spec("hybrid", 0.4, PROCESS)
# name of the tensors -> resize of the network's features, and of the mean
VARIANTS = {"aa": ("antialias", "bicubic"), "noaa": ("plain", "bicubic-plain")}
each = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(scope="module", autouse=True)
def inference(one_thread: None) -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(FOLDER / "io.safetensors") | load_file(FOLDER / "chains.safetensors")


@pytest.fixture(scope="module")
def nets() -> dict[str, ECDPNet]:
    published, made = load_file(FOLDER / "weights.safetensors"), {}
    for name, (features, _) in VARIANTS.items():
        net, state, _ = ecdp.converted(published, Hints(resize=features, selection=(0, 2)))
        made[name] = net.eval().requires_grad_(False)
        made[name].load_state_dict(state)
    return made


def bound(nets, io, name: str):
    """(denoise, mean in [-1,1], sigmas of the calls so far)."""
    net, lr = nets[name], io["lr"] * 2 - 1
    mean = resize(lr, (48, 64), VARIANTS[name][1])
    inner = bind(net, net.encode(mean, torch.tensor([4.0]), lr), SPEC.parametrisation)
    calls: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma[0]))
        return inner(x, sigma)

    return denoise, mean, calls


def picture(r: Tensor, mean: Tensor) -> Tensor:
    """In [0,1], as the fixtures have it."""
    return (SPEC.decode(r, mean) + 1) / 2


def level(t: float) -> Tensor:
    """Sigma at the published time t, float64."""
    return PROCESS.sigma_of_t(torch.tensor(t / 300, dtype=torch.float64))


def near(made: Tensor, wanted: Tensor, atol: float) -> None:
    torch.testing.assert_close(made.to(wanted), wanted, atol=atol, rtol=0)


@each
def test_mean_is_the_enlarged_input(nets, io, name) -> None:
    near((bound(nets, io, name)[1] + 1) / 2, io[f"cond_scaled.{name}"], 2e-6)
    other = io[f"cond_scaled.{'aa' if name == 'noaa' else 'noaa'}"]
    assert (io[f"cond_scaled.{name}"] - other).abs().max() > 0.01


@each
@pytest.mark.parametrize("t", ["300", "150", "0.1"])
def test_right_hand_side_of_the_flow(nets, io, name, t) -> None:
    """dr/dt = beta / (2 sigma) v / 300, with v = (r - D / cos) cos / sin from our denoiser."""
    denoise, _, _ = bound(nets, io, name)
    sigma, r = level(float(t)), io["r"]
    abar = alpha_bar_of(sigma)
    cos, sin = float(abar.sqrt()), float((1 - abar).sqrt())
    denoised = denoise(r / cos, sigma.expand(1).float())
    v = (r * cos - denoised) / sin
    slope = v * PROCESS.rate(float(t) / 300) / (2 * float(sigma)) / 300
    wanted = io[f"ode_func.t{t}.{name}"]
    near(slope, wanted, 2e-5 * max(1.0, float(wanted.abs().max())))


def table() -> Tensor:
    """alpha_bar of the 300 steps of the published chains, float64; entry 0 is the clean picture."""
    return alpha_bar_of(PROCESS.sigma_of_t(torch.arange(301, dtype=torch.float64) / 300))


@each
def test_ancestral_chain(nets, io, name) -> None:
    """Nine steps from the last but 291: t = 8, 7, 6 of the table, then a jump from 5 to the end."""
    denoise, mean, _ = bound(nets, io, name)
    abar, r = table(), io["z"].view(1, 3, 48, 64)
    for t in (8, 7, 6, 5):
        now, alpha = abar[t + 1], abar[t + 1] / abar[t]
        x0 = denoise(r / float(now.sqrt()), sigma_of(now).expand(1).float())
        if t == 5:
            r = x0
            break
        eps = (r - float(now.sqrt()) * x0) / float((1 - now).sqrt())
        r = (r - float((1 - alpha) / (1 - now).sqrt()) * eps) / float(alpha.sqrt())
        r = r + float((1 - alpha).sqrt()) * io[f"sde.noise_t{t}"]
    near(picture(r, mean), io[f"sde9.final.{name}"], 1e-4)


@pytest.mark.slow
def test_ddim_chain_of_300_steps(nets, io) -> None:
    denoise, mean, calls = bound(nets, io, "aa")
    grid = sigmas(PROCESS, 300, "t")
    near(alpha_bar_of(grid), table().flip(0), 1e-12)
    x = io["z"].view(1, 3, 48, 64) * (1 + float(grid[0]) ** 2) ** 0.5
    near(picture(ddim(denoise, x, grid), mean), io["ddim300.final.aa"], 1e-4)
    assert len(calls) == 300


def solved(nets, io, name: str, tolerance: float) -> tuple[Tensor, int]:
    """The picture of rk45 from the fixture's latent, and its network calls."""
    denoise, mean, calls = bound(nets, io, name)
    grid = sigmas(PROCESS, 1)
    x = io["z"].view(1, 3, 48, 64) * (1 + float(grid[0]) ** 2) ** 0.5
    made = rk45(denoise, x, grid, process=PROCESS, rtol=tolerance, atol=tolerance)
    # our state ends as x = r / cos(phi); the published one as r
    return picture(made * float(alpha_bar_of(level(0.1)).sqrt()), mean), len(calls)


@each
def test_flow_at_the_published_tolerances(nets, io, name) -> None:
    """The shipped solution is itself off by 0.019 at most; ours takes other first steps."""
    made, nfe = solved(nets, io, name, 1e-3)
    tight, shipped = io[f"ode.final_tight.{name}"], io[f"ode.final.{name}"]
    assert abs(nfe - 51) <= 6  # 51 there; one step more or less
    ours, theirs = ((x - tight).abs().max() for x in (made, shipped))
    assert ours < 1.2 * theirs < 0.03


@pytest.mark.slow
def test_flow_solved_tightly(nets, io) -> None:
    """Its error falls with the tolerance: 0.015, 0.00098, 0.00011 at 1e-3, 1e-5, 1e-6."""
    made, nfe = solved(nets, io, "noaa", 1e-5)
    near(made, io["ode.final_tight.noaa"], 1.5e-3)
    assert 150 < nfe < 300


@each
def test_five_euler_steps_of_the_flow(nets, io, name) -> None:
    denoise, mean, _ = bound(nets, io, name)
    r, ts = io["z"].view(1, 3, 48, 64), io["euler5.ts"].double()
    for now, after in zip(ts[:-1], ts[1:], strict=True):
        sigma = PROCESS.sigma_of_t(now / 300)
        cos = float(alpha_bar_of(sigma).sqrt())
        v = (r * cos - denoise(r / cos, sigma.expand(1).float())) / (cos * float(sigma))
        r = r + float(after - now) / 300 * PROCESS.rate(float(now) / 300) / 2 / float(sigma) * v
    near(picture(r, mean), io[f"euler5.final.{name}"], 1e-4)
