"""Training: exact resume, damaged checkpoints, and weights that upscale can use."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from picture_files import random_photos
from PIL import Image
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from upscale import methods
from upscale.diffusion.denoiser import bind
from upscale.diffusion.process import VPLinear, sigmas
from upscale.diffusion.samplers import ddim
from upscale.errors import InputError, NumericalError, UsageError
from upscale.image.picture import Picture
from upscale.image.resize import resize
from upscale.model import build
from upscale.nets.compact import CompactConfig, CompactNet
from upscale.nets.winograd import WinogradConv2d
from upscale.pipeline.upscaler import Upscaler
from upscale.train import checkpoint, state
from upscale.train.config import TrainConfig
from upscale.train.data import Batch, Pairs
from upscale.train.datasets import pictures_of
from upscale.train.dist import World
from upscale.train.grid import grid_loss, mesh_loss, phase_loss
from upscale.train.loss import Spec, encode, flow, project, sample, start_noise
from upscale.train.networks import make_net, start
from upscale.train.pictures import load
from upscale.train.run import Options, estimate_std, quality_loss, run_training, spec_of
from upscale.train.sources import find
from upscale.train.state import SCORED, Run
from upscale.weights import store

SMALL = CompactConfig(
    channels=(8, 8, 8), down=(1, 1, 1), up=(1, 1), encoder=1, head=(4, 4), embedding=8
)
TWO_HEADS = replace(SMALL, encoder=3, heads=2, inject=(0, 2))
CONFIG = TrainConfig(patch=32, batch=2, iterations=6, warmup=2, quality_batch=2)
NEVER = Options(validate_every=0)
ECDP = CONFIG.with_(method="ecdp")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_photos(tmp_path_factory.mktemp("photos"), 3, (50, 62))


def run(photos: Path, output: Path, config: TrainConfig = CONFIG, **settings) -> dict:
    return store.read(trained(photos, output, config, **settings))[0]


def trained(photos: Path, output: Path, config: TrainConfig, **settings) -> Path:
    return run_training(
        config, photos, output, device="cpu", **{"net": SMALL, "options": NEVER, **settings}
    )


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_in_two_parts_equals_a_run_in_one(photos, tmp_path) -> None:
    whole = run(photos, tmp_path / "whole")
    left = iter([False] * 3)
    run(photos, tmp_path / "parts", should_stop=lambda: next(left, True))
    lines: list[str] = []
    parts = run(photos, tmp_path / "parts", say=lines.append)
    assert any("resuming from iteration 3" in line for line in lines)
    assert same(whole, parts)


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(photos, tmp_path) -> None:
    whole = run(photos, tmp_path / "whole")
    for stop in (2, 4):
        left = iter([False] * 2)
        run(photos, tmp_path / "cut", should_stop=lambda left=left: next(left, True))
        newest = tmp_path / "cut" / f"checkpoint-{stop:08d}.safetensors"
        assert newest.is_file()
    newest.write_bytes(newest.read_bytes()[:1000])
    lines: list[str] = []
    assert same(whole, run(photos, tmp_path / "cut", say=lines.append))
    assert any("checkpoint-00000004.safetensors is damaged" in line for line in lines)
    assert any("resuming from iteration 2" in line for line in lines)


def test_another_config_in_the_same_folder_is_refused(photos, tmp_path) -> None:
    run(photos, tmp_path)
    with pytest.raises(UsageError, match="learning_rate"):
        run(photos, tmp_path, CONFIG.with_(learning_rate=1.0))


def test_settings_that_did_not_exist_when_a_run_began_do_not_end_it(photos, tmp_path) -> None:
    run(photos, tmp_path, CONFIG.with_(iterations=2))
    iteration, state, record = checkpoint.newest(tmp_path, print)
    del record["config"]["scale_law"]
    checkpoint.save(tmp_path, iteration, state, record)
    run(photos, tmp_path, CONFIG.with_(iterations=3))


def test_more_iterations_in_the_same_folder_go_on(photos, tmp_path) -> None:
    run(photos, tmp_path)
    before = checkpoint.newest(tmp_path, print)[0]
    run(photos, tmp_path, CONFIG.with_(iterations=8))
    assert (before, checkpoint.newest(tmp_path, print)[0]) == (6, 8)


def test_the_quality_stage_runs_and_moves_the_weights(photos, tmp_path) -> None:
    config = CONFIG.with_(patch=48, quality_loss_from=3, quality_vgg=0.0)
    first = run(photos, tmp_path / "a", config)
    assert same(first, run(photos, tmp_path / "b", config))
    assert not same(first, run(photos, tmp_path / "c"))
    line = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"score", "l1", "phase", "alex", "images_per_second"} <= line.keys()


@pytest.mark.parametrize("method", ["sr3", "regression"])
def test_trained_weights_are_used_with_no_flags(photos, tmp_path, method) -> None:
    run(photos, tmp_path, CONFIG.with_(method=method), name="mine")
    upscaler = Upscaler(weights=str(tmp_path / "mine.safetensors"))
    made = upscaler(Picture(np.full((9, 7, 3), 0.5, np.float32)), scale=3)
    assert made.picture.size == (27, 21) and made.report["method"] == method
    assert made.report["nfe"] == (1 if method == "regression" else 4)


def test_regression_starts_from_a_diffusion_network(photos, tmp_path) -> None:
    run(photos, tmp_path / "sr3", name="sr3")
    start = str(tmp_path / "sr3" / "sr3.safetensors")
    config = CONFIG.with_(method="regression", iterations=1, learning_rate=1e-9)
    state = run(photos, tmp_path / "regression", config, init=start)
    wanted = store.read(start)[0]["enc_in.weight"].float()
    torch.testing.assert_close(state["enc_in.weight"].float(), wanted, atol=1e-3, rtol=1e-2)


def saved(net: torch.nn.Module, path: Path) -> None:
    """A weights file of an untrained network."""
    described = {"method": "sr3", "architecture": net.architecture(), "parametrisation": "v"}
    described |= {"net": net.kind, "domain": "face", "scales": [8.0], "licence": "CC0-1.0"}
    store.save(path, net.state_dict(), described, half=True)


def scattered(config: TrainConfig, path: Path) -> torch.nn.Module:
    """A network with random weights everywhere, zeros of a fresh one too, and its file."""
    net = make_net(config)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    saved(net, path)
    return net


def _noise_parts(net: CompactNet) -> list[torch.Tensor]:
    return [net.stem.weight[:, :48], *net.noise_mlp.state_dict().values()]


@pytest.mark.parametrize("method", ["sr3", "ecdp"])
def test_a_diffusion_network_starts_as_the_regression_it_is_given(tmp_path, method) -> None:
    """At the strongest noise the velocity is the target's negative, whatever the noise is."""
    tiny = TrainConfig(method=method, net="compact-tiny")
    regression = scattered(replace(tiny, method="regression"), tmp_path / "r.safetensors")
    ours = make_net(tiny)
    start(ours, str(tmp_path / "r.safetensors"))
    lr_up, noise = torch.randn(2, 1, 3, 16, 16)
    scale, nothing = torch.tensor([4.0]), torch.zeros(1)
    wanted = regression(noise, regression.encode(lr_up, scale), nothing)
    raw = ours(noise, ours.encode(lr_up, scale), nothing)
    told = raw[:, -3:] if method == "ecdp" else -raw
    torch.testing.assert_close(told, wanted, atol=1e-2, rtol=1e-2)  # the file is in half


@pytest.mark.parametrize(("method", "conditioning"), [("sr3", ""), ("ecdp", "inject=0+1")])
def test_the_second_weights_give_what_the_first_have_not(tmp_path, method, conditioning) -> None:
    """And back: what a regression learned comes through a diffusion network whole."""
    tiny = TrainConfig(method=method, net="compact-tiny")
    plain = replace(tiny, method="regression", net_options=conditioning)
    regression = scattered(plain, tmp_path / "r.safetensors")
    other, ours = scattered(tiny, tmp_path / "s.safetensors"), make_net(tiny)
    start(ours, f"{tmp_path}/r.safetensors,{tmp_path}/s.safetensors")
    for got, wanted in zip(_noise_parts(ours), _noise_parts(other), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        ours.stem.weight[:, 48:], regression.stem.weight, atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(ours.head3.bias[-3:], -regression.head3.bias, atol=1e-3, rtol=1e-3)
    back = make_net(plain)
    saved(ours, tmp_path / "o.safetensors")
    start(back, str(tmp_path / "o.safetensors"))
    for name, value in back.state_dict().items():
        torch.testing.assert_close(value, regression.state_dict()[name], atol=1e-3, rtol=1e-3)


def test_idm_takes_the_trunk_of_one_and_the_rest_of_another(tmp_path) -> None:
    face = TrainConfig(method="idm", domain="face")
    regression = scattered(replace(face, method="regression"), tmp_path / "r.safetensors")
    idm, ours = scattered(face, tmp_path / "i.safetensors"), make_net(face)
    start(ours, f"{tmp_path}/r.safetensors,{tmp_path}/i.safetensors")
    near = {"atol": 1e-3, "rtol": 1e-3}
    torch.testing.assert_close(
        ours.down[0][0].conv1.weight, regression.down[0][0].conv1.weight, **near
    )
    torch.testing.assert_close(ours.edsr.state_dict(), idm.edsr.state_dict(), **near)
    torch.testing.assert_close(ours.noise_mlp.state_dict(), idm.noise_mlp.state_dict(), **near)


def test_pairs_depend_on_the_iteration_alone(photos) -> None:
    pairs = Pairs(load(find(photos), print), CONFIG)
    a, again, b = pairs.batch(5), pairs.batch(5), pairs.batch(6)
    assert torch.equal(a.hr, again.hr) and torch.equal(a.lr_up, again.lr_up)
    assert not torch.equal(a.hr, b.hr)
    assert a.hr.shape == a.lr_up.shape == (2, 3, 32, 32)
    for lr, scale in zip(a.lr, a.scale, strict=True):
        assert lr.shape[-1] * float(scale) == pytest.approx(32)


def test_broken_pictures_are_named_and_left_out(photos, tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    lines: list[str] = []
    with pytest.raises(InputError, match="no readable picture"):
        pictures_of(find(tmp_path), CONFIG, 1 << 20, lines.append)
    assert len(lines) == 1 and "bad.png" in lines[0]
    with pytest.raises(InputError, match="no such folder"):
        find(tmp_path / "missing")


def test_a_loss_that_is_not_finite_stops_with_its_place(photos, tmp_path, monkeypatch) -> None:
    def broken(net, spec, batch, sigma, generator, cond):
        return sigma.float() * float("nan")

    monkeypatch.setattr("upscale.train.state.score_loss", broken)
    with pytest.raises(NumericalError, match="at iteration 0"):
        run(photos, tmp_path)


def test_a_grid_is_seen_by_the_phase_loss() -> None:
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 96, 64) * 2 - 1
    grid = torch.zeros_like(hr)
    grid[..., ::4, ::4] = 0.05
    plain = hr + 0.01 * torch.randn_like(hr)
    assert phase_loss(hr, hr) == 0
    assert phase_loss(hr + grid, hr) > 3 * phase_loss(plain, hr)


def hatched(hr: torch.Tensor, strength: float) -> torch.Tensor:
    """A wave of period 5.7 across both directions, whose phase drifts from place to place."""
    y = torch.arange(hr.shape[2])[:, None]
    x = torch.arange(hr.shape[3])
    drift = 2 * torch.sin(y / 23) * torch.cos(x / 31)
    return hr + strength * torch.cos(2 * math.pi * (x + y) / 8 + drift)


def test_a_mesh_is_seen_by_the_mesh_loss_alone() -> None:
    torch.manual_seed(0)
    rough = torch.randn(4, 3, 96, 96).cumsum(2).cumsum(3)
    hr = rough / rough.abs().amax() + 0.01 * torch.randn(4, 3, 96, 96)
    grain, mesh = hr + 0.02 * torch.randn_like(hr), hatched(hr, 0.028)
    assert mesh_loss(hr, hr) == 0
    assert mesh_loss(mesh, hr) > 3 * mesh_loss(grain, hr)
    assert phase_loss(mesh, hr) < phase_loss(grain, hr)
    assert grid_loss(mesh, hr) < grid_loss(grain, hr)
    assert mesh_loss(hr[..., :24], hr[..., :24]) == 0  # too narrow for a window
    learnt = mesh.clone().requires_grad_()
    mesh_loss(learnt, hr).backward()
    assert mesh_loss(mesh - 20 * learnt.grad, hr) < mesh_loss(mesh, hr)


def test_settings_that_make_no_sense_are_named() -> None:
    small = {"patch": 32, "quality_loss_from": 1}
    depth, none = {"quality_depth": 0}, {"quality_tolerance": 0.0}
    for wrong in ({"patch": 30}, small, {"batch": 0}, {"scale_min": 9.0}, depth, none):
        with pytest.raises(UsageError):
            TrainConfig(**wrong)
    with pytest.raises(UsageError, match="unknown training setting: nonsense"):
        TrainConfig().with_(nonsense=1)


# --- ECDP ---------------------------------------------------------------------------------------


def test_ecdp_trains_and_its_weights_are_used_with_no_flags(photos, tmp_path) -> None:
    path = trained(photos, tmp_path / "a", ECDP, net=replace(TWO_HEADS, heads=1))
    again = trained(photos, tmp_path / "b", ECDP, net=TWO_HEADS)
    state, told = store.read(path)
    assert same(state, store.read(again)[0])
    assert (told["method"], told["parametrisation"], told["std"]) == ("ecdp", "hybrid", 0.24)
    assert told["process"]["kind"] == "vp-linear"
    assert (told["architecture"]["heads"], told["architecture"]["inject"]) == (2, [0, 2])
    assert len(state["head3.bias"]) == 6
    made = Upscaler(weights=str(path))(Picture(np.full((9, 7, 3), 0.5, np.float32)), scale=3)
    assert made.picture.size == (27, 21) and made.report["method"] == "ecdp"


def test_the_papers_noise_law_and_another_power_of_the_hybrid(photos, tmp_path) -> None:
    config = ECDP.with_(noise_law="process", parametrisation="hybrid:2")
    path = trained(photos, tmp_path, config, net=TWO_HEADS)
    assert store.read(path)[1]["parametrisation"] == "hybrid:2"
    assert not same(store.read(path)[0], run(photos, tmp_path / "other", ECDP, net=TWO_HEADS))


def test_the_residuals_deviation_is_measured_and_stored(photos, tmp_path) -> None:
    config, lines = ECDP.with_(std=0.0, iterations=2), []
    path = trained(photos, tmp_path, config, net=TWO_HEADS, say=lines.append)
    pairs = Pairs(load(find(photos), print), config)
    std = store.read(path)[1]["std"]
    assert std == estimate_std(pairs) and f"standard deviation of the residual: {std}" in lines
    residual = torch.cat([b.hr - b.lr_up for b in map(pairs.batch, range(100, 150))])
    assert std == pytest.approx(float(residual.square().mean().sqrt()), rel=0.1)
    trained(photos, tmp_path, config.with_(iterations=3), net=TWO_HEADS, say=lines.append)
    assert any("resuming from iteration 2" in line for line in lines)


def test_pictures_without_detail_are_refused(tmp_path) -> None:
    for index in range(2):
        Image.new("RGB", (50, 62), (90 * index, 60, 30)).save(tmp_path / f"{index}.png")
    with pytest.raises(InputError, match="no detail"):
        trained(tmp_path, tmp_path / "out", ECDP.with_(std=0.0), net=TWO_HEADS)


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_both_quality_gradients_train_ecdp(photos, tmp_path, gradient, monkeypatch) -> None:
    projected = Mock(wraps=project)
    monkeypatch.setattr("upscale.train.state.project", projected)
    config = ECDP.with_(
        patch=48, iterations=2, quality_loss_from=1, quality_vgg=0.0, quality_gradient=gradient,
        quality_score=0.0, quality_tolerance=0.05,
    )  # fmt: skip
    state = run(photos, tmp_path / "a", config, net=TWO_HEADS)
    assert all(v.isfinite().all() for v in state.values())
    projected.assert_called() if gradient == "direct" else projected.assert_not_called()
    line = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"score", "l1", "phase", "alex", "gradient_norm"} <= line.keys()
    assert not same(state, run(photos, tmp_path / "b", config.with_(iterations=1), net=TWO_HEADS))


def test_a_flow_that_fails_in_training_stops_with_its_place(photos, tmp_path, monkeypatch) -> None:
    def broken(*settings):
        raise FloatingPointError("the flow is not finite at time 0.5")

    monkeypatch.setattr("upscale.train.state.flow", broken)
    config = ECDP.with_(
        patch=48, quality_loss_from=2, quality_gradient="adjoint", quality_vgg=0.0, quality_alex=0.0
    )
    with pytest.raises(NumericalError, match=r"time 0\.5, at iteration 2"):
        run(photos, tmp_path, config, net=TWO_HEADS)


def problem(size: tuple[int, int] = (16, 32)) -> tuple[CompactNet, Batch, Tensor]:
    """A float64 network whose every parameter matters, a batch and start noise."""
    torch.manual_seed(0)
    sizes = replace(TWO_HEADS, channels=(4, 4, 4), encoder=2, inject=(0, 1))
    net = CompactNet(sizes).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    hr, start = torch.rand(2, 2, 3, *size, dtype=torch.float64) * 2 - 1
    lr = resize(hr, (size[0] // 4, size[1] // 4))
    scale = torch.full((2,), 4.0, dtype=torch.float64)
    return net, Batch(hr, resize(lr, size), scale, list(lr)), start


def gradients(net: CompactNet, sr: Tensor) -> dict[str, Tensor]:
    """Of a weighted sum of the picture, for every parameter; none may be left out."""
    net.zero_grad(set_to_none=True)
    weight = torch.randn(sr.shape, generator=torch.Generator().manual_seed(1), dtype=sr.dtype)
    (sr * weight).sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def runge_kutta(denoise, r: Tensor, start: float, end: float, steps: int) -> Tensor:
    """The classical method of fourth order on dr/dphi = v, sigma = tan(phi)."""

    def v(r: Tensor, phi: float) -> Tensor:
        sigma = r.new_full((len(r),), math.tan(phi))
        return (r * math.cos(phi) - denoise(r / math.cos(phi), sigma)) / math.sin(phi)

    h = (end - start) / steps
    for i in range(steps):
        phi = start + i * h
        a = v(r, phi)
        b = v(r + h / 2 * a, phi + h / 2)
        c = v(r + h / 2 * b, phi + h / 2)
        r = r + h / 6 * (a + 2 * b + 2 * c + v(r + h * c, phi + h))
    return r


def test_the_adjoints_gradient_equals_direct_backpropagation() -> None:
    net, batch, start = problem()
    process = VPLinear(0.1, 3.0, 0.2)  # little noise at the end is what makes a flow long to solve
    spec = Spec("hybrid", 0.3, process)
    adjoint = flow(net, spec, batch, start, 1e-7)
    by_adjoint = gradients(net, adjoint)

    top, low = math.atan(process.sigma_max), math.atan(process.sigma_min)
    state = start * float(sigmas(process, 1)[0]) * math.cos(top)
    r = runge_kutta(bind(net, encode(net, batch), "hybrid"), state, top, low, 30)
    direct = spec.decode(r / math.cos(low), batch.lr_up)
    torch.testing.assert_close(adjoint, direct, atol=1e-5, rtol=0)
    for name, wanted in gradients(net, direct).items():
        assert wanted.norm() > 0, name  # the encoder's too
        assert (by_adjoint[name] - wanted).norm() < 1e-3 * wanted.norm(), name


def test_only_the_last_calls_are_backpropagated_through() -> None:
    net, batch, start = problem()
    spec, made, grads = Spec("hybrid", 0.3, VPLinear()), {}, {}
    for depth in (1, 2, 3, 9):
        noise = start.clone().requires_grad_()
        made[depth] = sample(net, spec, batch, noise, 3, depth)
        grads[depth] = gradients(net, made[depth])
        torch.testing.assert_close(made[depth], made[1])  # the depth changes no picture
        assert (noise.grad is None) == (depth < 3)
        assert all(grads[depth][k].norm() > 0 for k in grads[depth] if k.startswith("enc"))
    levels = sigmas(spec.process, 3, "phi")
    whole = ddim(bind(net, encode(net, batch), "hybrid"), start * float(levels[0]), levels)
    wanted = gradients(net, spec.decode(whole, batch.lr_up))
    for name in wanted:
        torch.testing.assert_close(grads[3][name], wanted[name])
        torch.testing.assert_close(grads[9][name], wanted[name])
    assert not torch.allclose(grads[1]["stem.weight"], wanted["stem.weight"], rtol=1e-3)


def test_start_noise_has_a_temperature_of_its_own_for_each_example() -> None:
    hr = torch.zeros(4000, 3, 4, 6)
    batch = Batch(hr, hr, torch.ones(4000), [])

    def spread(cool: float) -> Tensor:
        noise = start_noise(batch, cool, torch.Generator().manual_seed(0))
        assert noise.shape == hr.shape
        return noise.square().mean((1, 2, 3)).sqrt()

    assert float(spread(0).mean()) == pytest.approx(1, abs=0.01)
    for cool in (1.0, 2.0):  # u ** cool: mean 1 / (1 + cool), a half of them below 0.5 ** cool
        assert float(spread(cool).mean()) == pytest.approx(1 / (1 + cool), abs=0.02)
        assert float(spread(cool).median()) == pytest.approx(0.5**cool, abs=0.03)
    assert torch.equal(spread(2.0), spread(2.0))


def test_two_heads_start_where_one_head_ended(tiny_weights) -> None:
    one = build(*store.read(tiny_weights)).net
    two = CompactNet(replace(one.config, heads=2, encoder=3, inject=(0, 2)))
    start(two, tiny_weights)
    torch.manual_seed(0)
    lr_up, x = torch.rand(2, 3, 20, 33) * 2 - 1, torch.randn(2, 3, 20, 33)
    scale = torch.tensor([2.0, 4.0])
    for level in (0.01, 0.5, 3.0, 150.0):
        sigma = torch.full((2,), level)
        wanted = bind(one, one.encode(lr_up, scale), "v")(x * level, sigma)
        for name in ("hybrid", "hybrid-eps", "hybrid-x0", "hybrid:2.5"):
            made = bind(two, two.encode(lr_up, scale), name)(x * level, sigma)
            torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)
    fewer = CompactNet(replace(two.config, encoder=one.config.encoder - 1, inject=()))
    start(fewer, tiny_weights)  # blocks that are too many are left out
    torch.testing.assert_close(fewer.up[-1][-1].conv1.weight, one.up[-1][-1].conv1.weight)
    shallower = CompactNet(replace(one.config, down=(0, 1, 1), up=(0, 1)))
    start(shallower, tiny_weights)  # blocks of its levels likewise
    torch.testing.assert_close(shallower.down[1][0].conv1.weight, one.down[1][0].conv1.weight)
    wider = CompactNet(replace(one.config, channels=(24, 16, 16)))
    told = r"another layout: \S+ has the shape .*, and \d+ more$"
    with pytest.raises(UsageError, match=told) as no:
        start(wider, tiny_weights)
    assert len(str(no.value).splitlines()) == 1


def test_a_network_that_grows_starts_as_the_one_it_grew_from(tmp_path) -> None:
    small = CompactNet(TWO_HEADS)
    with torch.no_grad():
        for number, p in enumerate(small.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(number)) / 20)
    path = tmp_path / "small.safetensors"
    store.save(path, small.state_dict(), {"method": "ecdp", "architecture": small.architecture()})
    down, up = (2, 3, 2), (TWO_HEADS.up[0] + 2, TWO_HEADS.up[1] + 1)
    grown = CompactNet(replace(TWO_HEADS, encoder=4, down=down, up=up))
    start(grown, str(path))
    lr_up, x = torch.rand(2, 3, 20, 36) * 2 - 1, torch.randn(2, 3, 20, 36)
    scale, level = torch.tensor([2.0, 4.0]), torch.tensor([0.3, 0.9])
    wanted = small(x, small.encode(lr_up, scale), level)
    torch.testing.assert_close(grown(x, grown.encode(lr_up, scale), level), wanted)


@pytest.mark.parametrize("noisy", [True, False])
def test_a_smaller_stem_reads_the_same_of_a_picture_half_as_large(tmp_path, noisy) -> None:
    sizes = replace(TWO_HEADS, noisy_input=noisy)
    large, path = CompactNet(sizes), tmp_path / "large.safetensors"
    described = {k: v for k, v in large.architecture().items() if k != "stem"}  # as older files
    store.save(path, large.state_dict(), {"method": "ecdp", "architecture": described})
    half = CompactNet(replace(sizes, stem=2, up=(0, sizes.up[1])))
    start(half, str(path))
    torch.testing.assert_close(half.head2.weight, large.head1.weight)
    assert not half.head3.weight.any()
    pixels, features = torch.randn(1, 3, 8, 12), torch.randn(1, 8, 4, 6)
    enlarged = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for name, seen, rest in (("enc_in", True, []), ("stem", noisy, [features])):
        made, wanted = (
            getattr(net, name)(torch.cat([pixel_unshuffle(x, n)] * seen + rest, 1))
            for net, x, n in ((half, pixels, 2), (large, enlarged, 4))
        )
        torch.testing.assert_close(made, wanted, msg=name)
    last, theirs = len(half.inject) - 1, len(large.inject) - 1 - sizes.up[0]
    torch.testing.assert_close(half.inject[last].weight, large.inject[theirs].weight)


def test_a_shorter_encoder_injects_what_it_has() -> None:
    net = make_net(TrainConfig(method="ecdp", net_options="encoder=2"))
    assert net.config.encoder == 2 and net.config.inject == (1,)
    net.encode(torch.zeros(1, 3, 16, 16), torch.ones(1))


def test_sizes_that_make_no_network_are_refused() -> None:
    net = make_net(TrainConfig(method="regression", net_options="encoder=4,inject=0+3"))
    assert net.config.inject == (0, 3) and len(net.enc) == 4
    for wrong, told in (
        ("inject=0,encoder=0", r"inject \(0,\): the encoder has 0 blocks"),
        ("inject=1+7", r"inject \(1, 7\): the encoder has 3 blocks"),
        ("channels=64+96", r"channels has 3 numbers, not \(64, 96\)"),
        ("channels=64", r"channels has 3 numbers, not \(64,\)"),
        ("head=32+wide", r"--net-options head=32\+wide: not numbers with \+ between"),
    ):
        with pytest.raises(UsageError, match=told):
            make_net(TrainConfig(net_options=wrong))


def test_networks_of_papers_are_made_for_their_method_alone() -> None:
    with pytest.raises(UsageError, match="no network 'edsr'; choose from compact, "):
        methods.network_named("edsr", "sr3")
    with torch.device("meta"):
        for net, method in (("ecdp-df2k", "sr3"), ("ecdp-celeba", "regression")):
            with pytest.raises(UsageError, match=f"network {net} is for --method ecdp"):
                make_net(TrainConfig(net=net, method=method))
        with pytest.raises(UsageError, match="is for --method sr3, not ecdp"):
            make_net(TrainConfig(net="sr3-64-512", method="ecdp"))
        with pytest.raises(UsageError, match=r"one magnification: give --scale-min"):
            make_net(TrainConfig(net="ecdp-imagenet", method="ecdp"))
        fixed = TrainConfig(net="ecdp-imagenet", method="ecdp", scale_min=4.0, scale_max=4.0)
        assert make_net(fixed).kind == "ecdp" and spec_of(fixed).std == 0.24


def test_the_target_is_the_residual_or_the_picture_as_asked(photos, tmp_path) -> None:
    assert spec_of(TrainConfig()).std == 0.24 and spec_of(TrainConfig(target="picture")).std is None
    paper = TrainConfig(net="sr3-16-128", target="residual")
    assert spec_of(paper).std == 0.24 and spec_of(paper.with_(target="auto")).std is None
    for method in ("ecdp", "liif", "edsr"):
        with pytest.raises(UsageError, match="--target picture"):
            spec_of(TrainConfig(method=method, target="picture"))
    with pytest.raises(UsageError, match="--target residual"):
        spec_of(TrainConfig(method="ddpm", target="residual"))
    made = {}
    for target in ("residual", "picture"):
        config = CONFIG.with_(iterations=1, learning_rate=0.0, target=target)
        path = trained(photos, tmp_path / target, config)
        assert store.read(path)[1]["std"] == (None if target == "picture" else 0.24)
        grey = Picture(np.full((9, 7, 3), 0.58, np.float32))
        told = Upscaler(weights=str(path))(grey, scale=4, temperature=0, consistency="off")
        made[target] = told.picture.rgb.mean()
    # a network that says nothing yet: the enlarged input, or the middle of black and white
    assert made["residual"] == pytest.approx(0.58, abs=0.02)
    assert made["picture"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("method", ["sr3", "regression"])
def test_a_run_with_another_stem_and_its_twin(photos, tmp_path, method) -> None:
    config = CONFIG.with_(iterations=2, method=method, net="compact-tiny", net_options="stem=2")
    path = trained(photos, tmp_path / "a", config, net=None)
    assert store.read(path)[1]["architecture"]["stem"] == 2
    made = Upscaler(weights=str(path))(Picture(np.full((9, 7, 3), 0.5, np.float32)), scale=3)
    assert made.picture.size == (27, 21)
    twin = make_net(config.with_(method="sr3" if method == "regression" else "regression"))
    start(twin, str(path))
    with pytest.raises(UsageError, match="another layout"):
        start(make_net(config.with_(net_options="")), str(path))


@pytest.mark.parametrize(
    "method, name",
    [("ecdp", "v"), ("ecdp", "eps"), ("sr3", "hybrid"), ("sr3", "hybrid:2"),
     ("regression", "hybrid-x0"), ("ecdp", "hybrid:-1"), ("sr3", "score")],
)  # fmt: skip
def test_parametrisations_that_do_not_go_with_the_method_are_refused(method, name) -> None:
    with pytest.raises(UsageError, match="--parametrisation"):
        spec_of(TrainConfig(method=method, parametrisation=name))
    assert spec_of(TrainConfig(method="ecdp", parametrisation="hybrid-x0")).std == 0.24


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("iteration", [1, SCORED])  # of the second the score loss is logged
def test_a_score_loss_of_weight_nothing_costs_no_gradient(
    photos, autocast, calls, iteration
) -> None:
    """Autocast keeps the weights that it has converted: if those of the pass without gradients
    were kept, the passes after it would have none."""
    found = []
    for weight in (0.0, 1e-30):
        config = CONFIG.with_(
            patch=48, quality_loss_from=1, quality_vgg=0.0, quality_score=weight,
            quality_calls=calls, quality_depth=1, seed=3,
        )  # fmt: skip
        torch.manual_seed(0)
        net = CompactNet(SMALL)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        pairs = Pairs(load(find(photos), print), config)
        quality = quality_loss(config, World())
        run = Run(net, spec_of(config), config, pairs, autocast=autocast, quality=quality)
        run.iteration = iteration
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            parts, scores = run.objective(pairs.batch(1), run._sigma(2))
        assert abs(float(parts["score"].detach())) < 1e-20
        taken = weight > 0 or iteration == SCORED
        assert len(scores) == 2 * taken and (scores > 0.1).all()
        torch.stack(list(parts.values())).sum().backward()
        found.append({name: p.grad for name, p in net.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, found[1][name], rtol=0.02, atol=1e-3)


def test_the_trunks_that_are_looked_at_are_quick_where_memory_is_plenty(monkeypatch) -> None:
    for free, quick in ((1 << 36, True), (1 << 27, False)):
        monkeypatch.setattr("upscale.train.run.available_memory", lambda device, free=free: free)
        config = CONFIG.with_(patch=48, quality_loss_from=1, quality_vgg=0.0)
        quality = quality_loss(config, World())
        kinds = {type(module) for module in quality.judges[0].trunk.modules()}
        assert (WinogradConv2d in kinds) == quick


def test_a_score_loss_of_weight_nothing_is_logged_now_and_then(photos, monkeypatch) -> None:
    taken = []
    score = state.score_loss
    monkeypatch.setattr(state, "score_loss", lambda *given: taken.append(1) or score(*given))
    config = CONFIG.with_(
        patch=48, quality_loss_from=1, quality_vgg=0.0, quality_score=0.0, seed=3,
        iterations=SCORED + 2,
    )  # fmt: skip
    pairs = Pairs(load(find(photos), print), config)
    quality = quality_loss(config, World())
    run = Run(CompactNet(SMALL), spec_of(config), config, pairs, quality=quality)
    run.iteration = SCORED - 1
    for expected in (0, 1, 1):
        parts, levels = run.step([pairs.batch(run.iteration)])
        assert len(taken) == expected and parts["score"] == 0 and parts["loss"] > 0
    assert levels.abs().max() == 0  # of the last iteration, which took none
