"""SR3's network and step against tensors recorded from the published implementation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from upscale.diffusion.denoiser import bind
from upscale.diffusion.process import VPDiscrete, sigma_of
from upscale.diffusion.samplers import ddpm
from upscale.nets.blocks import Attention
from upscale.nets.convert import sr3_from_published
from upscale.nets.sr3 import CONFIGS, SR3Net
from upscale.nets.unet import UNetConfig

FOLDER = Path(__file__).parent / "fixtures" / "sr3"
SMALL = UNetConfig(inner=16, mults=(1, 2), res_blocks=1, attention=(1,), groups=8)


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "io.safetensors")


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((FOLDER / "fixture.json").read_text())


@pytest.fixture(scope="module")
def net() -> SR3Net:
    config, state = sr3_from_published(load_file(FOLDER / "weights.safetensors"), groups=8)
    net = SR3Net(config)
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("case", ["a", "b"])  # a square batch of two; 24x40
def test_denoiser_equals_the_published_one(net, io, case) -> None:
    part = {k.removeprefix(f"denoise.{case}."): v for k, v in io.items()}
    eps = net(part["x_noisy"], part["cond"], part["noise_level"][:, 0])
    torch.testing.assert_close(eps, part["eps"], atol=2e-5, rtol=0)


def test_channels_last_changes_nothing(net, io) -> None:
    x, cond = (io[f"denoise.b.{k}"].contiguous(memory_format=torch.channels_last)
               for k in ("x_noisy", "cond"))  # fmt: skip
    eps = net(x, cond, io["denoise.b.noise_level"][:, 0])
    torch.testing.assert_close(eps, io["denoise.b.eps"], atol=2e-5, rtol=0)


def test_noise_level_embedding_equals_the_published_one(net, io) -> None:
    made = net.unet.embed(io["denoise.a.noise_level"][:, 0])
    torch.testing.assert_close(made, io["noise_level_mlp.out"][:, 0], atol=2e-5, rtol=0)


def clamped(net, cond):
    """The published sampler's estimate: x0 within [-1, 1]."""
    inner = bind(net, cond, "eps")
    return lambda x, sigma: inner(x, sigma).clamp(-1, 1)


def reverse(net, io, alpha_bar, t, x, noise):
    """Our sampler's step from table entry t + 1 to t, told in the published code's x_t."""
    now, after = alpha_bar[t + 1], alpha_bar[t]
    sigmas = sigma_of(torch.stack([now, after]))
    x = ddpm(
        clamped(net, io["cond"]), x / now.sqrt().float(), sigmas,
        noise=lambda step: noise, variance="posterior",
    )  # fmt: skip
    return x * after.sqrt().float()


@pytest.mark.parametrize("t", [1999, 1000, 1, 0])
def test_reverse_step_equals_the_published_one(net, io, t) -> None:
    made = reverse(net, io, VPDiscrete().alpha_bar, t, io["pstep.x"], io["pstep.noise"])
    torch.testing.assert_close(made, io[f"pstep.t{t}.out"], atol=1e-4, rtol=0)


def test_chain_of_five_steps_and_its_picture(net, io) -> None:
    alpha_bar = VPDiscrete(5, 0.01, 0.7).alpha_bar
    x = io["chain5.x_T"]
    for t in reversed(range(5)):
        x = reverse(net, io, alpha_bar, t, x, io.get(f"chain5.noise_t{t}", torch.zeros(())))
        torch.testing.assert_close(x, io[f"chain5.x_after_t{t}"], atol=1e-4, rtol=0)
    picture = ((x[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).byte()
    assert (picture.int() - io["chain5.final_uint8"].int()).abs().max() <= 1


def test_chain_through_the_sampler_as_users_run_it(net, io) -> None:
    alpha_bar = VPDiscrete(5, 0.01, 0.7).alpha_bar
    sigmas = sigma_of(alpha_bar.flip(0))
    made = ddpm(
        clamped(net, io["cond"]), io["chain5.x_T"] / alpha_bar[-1].sqrt().float(), sigmas,
        noise=lambda step: io[f"chain5.noise_t{4 - step}"], variance="posterior",
    )  # fmt: skip
    torch.testing.assert_close(made[0], io["chain5.final"], atol=1e-4, rtol=0)


def test_loss_and_every_gradient_equal_the_published_ones(io, record) -> None:
    config, state = sr3_from_published(load_file(FOLDER / "weights.safetensors"), groups=8)
    net = SR3Net(config)
    net.load_state_dict(state)
    net.eval()
    hr, cond = (torch.cat([io[k], io[k].flip(-1)]) for k in ("hr", "cond"))
    gamma = io["loss.gamma_sqrt"][:, 0]
    g = gamma[:, None, None, None]
    x = g * hr + (1 - g**2).sqrt() * io["loss.noise"]
    loss = (net(x, cond, gamma) - io["loss.noise"]).abs().mean()
    assert loss.item() == pytest.approx(record["loss"]["l_pix"], abs=1e-5)
    loss.backward()
    own = {k: p.grad.norm() for k, p in net.named_parameters()}
    norms = {k: torch.tensor(v) for k, v in record["loss"]["grad_l2_norms"].items()}
    # the published key names, through the same converter as weights
    weights = load_file(FOLDER / "weights.safetensors")
    order = {id(v): k for k, v in weights.items()}
    _, renamed = sr3_from_published(weights, groups=8)
    published = {ours: order[id(v)] for ours, v in renamed.items()}
    assert {published[k] for k in own} == norms.keys()
    for key, norm in own.items():
        torch.testing.assert_close(norm, norms[published[key]], rtol=2e-3, atol=1e-6)


def test_training_table_is_the_published_one(record) -> None:
    wanted = torch.tensor(record["beta_schedules"]["linear"], dtype=torch.float64)
    alpha_bar = VPDiscrete(10, 1e-4, 2e-2).alpha_bar
    torch.testing.assert_close(1 - alpha_bar[1:] / alpha_bar[:-1], wanted, rtol=1e-9, atol=0)


def test_a_missing_or_unknown_key_is_named() -> None:
    state = load_file(FOLDER / "weights.safetensors")
    key = "denoise_fn.mid.0.attn.out.bias"
    with pytest.raises(ValueError, match=r"middle\.0\.attention\.out\.bias"):
        sr3_from_published({k: v for k, v in state.items() if k != key}, groups=8)
    with pytest.raises(ValueError, match="optimizer"):
        sr3_from_published({**state, "optimizer": torch.zeros(1)}, groups=8)
    with pytest.raises(ValueError, match=r"downs\.0\.weight"):
        sr3_from_published({}, groups=8)


@pytest.mark.parametrize(
    "name, count", [("sr3-16-128-published", 97_807_491), ("sr3-64-512-published", 155_334_339)]
)
def test_parameter_counts_of_the_published_configurations(name, count) -> None:
    with torch.device("meta"):
        net = SR3Net(CONFIGS[name])
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (24, 40)])
@pytest.mark.parametrize("noisy", [True, False])
def test_paper_form_takes_any_size(size, noisy) -> None:
    torch.manual_seed(0)
    net = SR3Net(UNetConfig(**{**SMALL.to_dict(), "noisy_input": noisy})).eval()
    x, lr_up, level = torch.randn(2, 3, *size), torch.rand(2, 3, *size), torch.tensor([0.1, 0.9])
    cond = net.encode(lr_up, torch.tensor([8.0, 8.0]))
    assert net(x, cond, level).abs().max() == 0  # the last convolution starts at zero
    torch.nn.init.normal_(net.unet.out[2].weight)
    made = net(x, cond, level)
    assert made.shape == x.shape and made.abs().max() > 0
    assert torch.equal(made, net(x + 1, cond, level)) == (not noisy)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x, cond, level).isfinite().all()


def test_paper_blocks_start_as_their_input_over_root_two() -> None:
    net = SR3Net(SMALL).eval()
    layer = net.unet.downs[1]
    x = torch.randn(1, 16, 6, 10)
    made = layer(x, torch.randn(1, 16))
    torch.testing.assert_close(made, x * 0.5**0.5)


def test_dropout_works_in_training_only() -> None:
    torch.manual_seed(0)
    net = SR3Net(UNetConfig(**{**SMALL.to_dict(), "dropout": 0.5, "biggan": False}))
    x, level = torch.randn(1, 3, 8, 12), torch.tensor([0.5])
    assert not torch.equal(net(x, x, level), net(x, x, level))
    net.eval()
    assert torch.equal(net(x, x, level), net(x, x, level))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (3, 7)])
def test_attention_equals_its_definition(heads, size) -> None:
    torch.manual_seed(0)
    net = Attention(8, 4, heads, rescale=False)
    x = torch.randn(2, 8, *size)
    q, k, v = net.qkv(net.norm(x)).flatten(2).view(2, heads, 3, 8 // heads, -1).unbind(2)
    weights = F.softmax(q.transpose(2, 3) @ k / (8 / heads) ** 0.5, -1)  # (B,heads,N,N)
    wanted = x + net.out((v @ weights.transpose(2, 3)).reshape(x.shape))
    torch.testing.assert_close(net(x), wanted, atol=1e-5, rtol=1e-5)
