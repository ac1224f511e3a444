"""SR3's network and step against tensors recorded from the published implementation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from upscale.convert import sr3 as published
from upscale.convert.table import Hints
from upscale.diffusion.denoiser import bind
from upscale.diffusion.process import VPDiscrete, sigma_of
from upscale.diffusion.samplers import ddpm
from upscale.nets.sr3 import CONFIGS, SR3Net
from upscale.nets.unet import Attention, NoiseEmbedding, ResBlock, UNetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = Path(__file__).parent / "fixtures" / "sr3"
SMALL = CONFIGS["sr3-tiny"]
PUBLISHED = load_file(FOLDER / "weights.safetensors")


def sr3_from_published(state, **settings):
    """(configuration, state) of a published checkpoint."""
    net, own, _ = published.converted(state, Hints(**settings))
    return net.config, own


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "io.safetensors")


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((FOLDER / "fixture.json").read_text())


@pytest.fixture(scope="module")
def net() -> SR3Net:
    config, state = sr3_from_published(PUBLISHED, norm_groups=8)
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


def posterior_step(eps, x, noise, beta, alpha_bar, t):
    """DDPM's posterior, Ho et al. 2020 eqs. 6 and 7, with x0 clamped; alpha_bar[0] is 1."""
    now, before = alpha_bar[t + 1], alpha_bar[t]
    eps, x, noise = eps.double(), x.double(), noise.double()
    x0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(-1, 1)
    mean = before.sqrt() * beta[t] * x0 + (1 - beta[t]).sqrt() * (1 - before) * x
    deviation = ((1 - before) / (1 - now) * beta[t]).sqrt()
    return mean / (1 - now) + (deviation * noise if t else 0)


@pytest.mark.parametrize("t", [1999, 1000, 1, 0])
def test_reverse_step_equals_the_published_one(net, io, t) -> None:
    beta = torch.linspace(1e-6, 1e-2, 2000, dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1).double(), (1 - beta).cumprod(0)])
    x, noise, wanted = io["pstep.x"], io["pstep.noise"], io[f"pstep.t{t}.out"]
    eps = net(x, io["cond"], alpha_bar[t + 1].sqrt().float()[None])
    by_hand = posterior_step(eps, x, noise, beta, alpha_bar, t)
    torch.testing.assert_close(by_hand.float(), wanted, atol=1e-4, rtol=0)
    by_sampler = reverse(net, io, VPDiscrete().alpha_bar, t, x, noise)
    torch.testing.assert_close(by_sampler, wanted, atol=1e-4, rtol=0)


def test_chain_of_five_steps_and_its_picture(net, io) -> None:
    alpha_bar = VPDiscrete(5, 0.01, 0.7).alpha_bar
    x = io["chain5.x_T"]
    for t in reversed(range(5)):
        x = reverse(net, io, alpha_bar, t, x, io.get(f"chain5.noise_t{t}", torch.zeros(())))
        torch.testing.assert_close(x, io[f"chain5.x_after_t{t}"], atol=1e-4, rtol=0)
    picture = ((x[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).byte()
    exact = (io["chain5.final"].clamp(-1, 1) + 1).permute(1, 2, 0) * 127.5
    # 1e-4 in [-1, 1] may turn only those values that lie so near a half
    settled = (exact.frac() - 0.5).abs() > 1e-4 * 127.5
    assert settled.float().mean() > 0.95
    assert torch.equal(picture[settled], io["chain5.final_uint8"][settled])


def test_chain_through_the_sampler_as_users_run_it(net, io) -> None:
    alpha_bar = VPDiscrete(5, 0.01, 0.7).alpha_bar
    sigmas = sigma_of(alpha_bar.flip(0))
    made = ddpm(
        clamped(net, io["cond"]), io["chain5.x_T"] / alpha_bar[-1].sqrt().float(), sigmas,
        noise=lambda step: io[f"chain5.noise_t{4 - step}"], variance="posterior",
    )  # fmt: skip
    torch.testing.assert_close(made[0], io["chain5.final"], atol=1e-4, rtol=0)


def test_loss_and_every_gradient_equal_the_published_ones(io, record) -> None:
    config, state = sr3_from_published(PUBLISHED, norm_groups=8)
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
    order = {id(v): k for k, v in PUBLISHED.items()}
    _, renamed = sr3_from_published(PUBLISHED, norm_groups=8)
    published = {ours: order[id(v)] for ours, v in renamed.items()}
    assert {published[k] for k in own} == norms.keys()
    for key, norm in own.items():
        torch.testing.assert_close(norm, norms[published[key]], rtol=2e-3, atol=1e-6)


def test_training_table_is_the_published_one(record) -> None:
    wanted = torch.tensor(record["beta_schedules"]["linear"], dtype=torch.float64)
    alpha_bar = VPDiscrete(10, 1e-4, 2e-2).alpha_bar
    torch.testing.assert_close(1 - alpha_bar[1:] / alpha_bar[:-1], wanted, rtol=1e-9, atol=0)


def test_default_table_is_the_one_in_published_files() -> None:
    alpha_bar = VPDiscrete().alpha_bar
    torch.testing.assert_close(alpha_bar[1:].float(), PUBLISHED["alphas_cumprod"])
    beta = (1 - alpha_bar[1:] / alpha_bar[:-1]).float()
    torch.testing.assert_close(beta, PUBLISHED["betas"], rtol=1e-6, atol=0)


def test_converter_reads_the_configuration_off_the_shapes(record) -> None:
    theirs = record["config"]["unet"]
    config, state = sr3_from_published(PUBLISHED, norm_groups=8)
    assert config == UNetConfig(
        inner=theirs["inner_channel"],
        mults=tuple(theirs["channel_mults"]),
        res_blocks=theirs["res_blocks"],
        attention=(2,),  # nominal side 32, attention at 8
        groups=theirs["norm_groups"],
        dropout=0.0,  # it leaves no trace in a file
        noise_gain=1.0,
        biggan=False,
        scale_shift=False,
    )
    assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    network = {k for k in PUBLISHED if k.startswith("denoise_fn.")}
    assert len(state) == len(network) == len(PUBLISHED) - 12
    without_schedule = {k: PUBLISHED[k] for k in network}
    assert sr3_from_published(without_schedule, norm_groups=8)[0] == config


# every kind of module: stem, block, strided convolution, widening block, block with attention,
# the last on the way down, middle, way up, output, embedding
MODULES = "downs.0 downs.1 downs.3 downs.4 downs.7 downs.8 mid.0 ups.3 ups.10 final_conv.block "
MODULES += "noise_level_mlp.1"


@pytest.mark.parametrize("module", MODULES.split())
def test_every_missing_key_is_named_and_no_other(module) -> None:
    chosen = [k for k in PUBLISHED if k.startswith(f"denoise_fn.{module}.")]
    assert chosen
    for key in chosen[:: max(1, len(chosen) // 5)]:
        with pytest.raises(ValueError) as caught:
            sr3_from_published({k: v for k, v in PUBLISHED.items() if k != key}, norm_groups=8)
        assert str(caught.value).endswith(f"missing ['{key}'], unexpected []")


@pytest.mark.parametrize("module", ["downs.5", "downs.7.attn", "mid.1", "final_conv"])
def test_every_key_of_a_missing_module_is_named(module) -> None:
    gone = sorted(k for k in PUBLISHED if k.startswith(f"denoise_fn.{module}."))
    with pytest.raises(ValueError) as caught:
        sr3_from_published({k: v for k, v in PUBLISHED.items() if k not in gone}, norm_groups=8)
    assert str(caught.value).endswith(f"missing {gone}, unexpected []")


@pytest.mark.parametrize(
    "key",
    [
        "optimizer",
        "posterior_other",
        "sqrt_other",
        "denoise_fn.middle.0.attention.out.bias",  # our name of a key that is there too
        "unet.middle.0.attention.out.bias",
        "denoise_fn.mid.0.attn.qkv.bias",
        "denoise_fn.downs.0.scale",
    ],
)
def test_an_unknown_key_is_named(key) -> None:
    with pytest.raises(ValueError) as caught:
        sr3_from_published({**PUBLISHED, key: torch.zeros(64)}, norm_groups=8)
    assert f"missing [], unexpected ['{key}']" in str(caught.value)


@pytest.mark.parametrize(
    "change, groups, told",
    [
        ({"denoise_fn.mid.0.attn.out.bias": torch.zeros(3)}, 8, "shapes in .*mid.0.attn.out.bias"),
        ({"denoise_fn.downs.1.res_block.block1.block.3.weight": torch.zeros(())}, 8, "shapes in"),
        ({"denoise_fn.downs.0.weight": torch.zeros(0, 6, 3, 3)}, 8, "downs.0.weight"),
        ({"denoise_fn.downs.0.weight": torch.zeros(48, 6, 3, 3)}, 8, "48 channels"),
        ({"denoise_fn.mid.0.attn.out.bias": None}, 8, "no tensors in .*mid.0.attn.out.bias"),
        ({}, 7, "groups 7"),
        ({}, 0, "groups"),
    ],
)
def test_other_shapes_and_groups_are_refused(change, groups, told) -> None:
    with pytest.raises(ValueError, match=told):
        sr3_from_published({**PUBLISHED, **change}, norm_groups=groups)


@pytest.mark.parametrize("state", [{}, {"epoch": 1, "iter": 2, "scheduler": None, "optimizer": {}}])
def test_a_file_of_something_else_is_refused(state) -> None:
    with pytest.raises(ValueError, match="not a published SR3 network"):
        sr3_from_published(state, norm_groups=8)


@pytest.mark.parametrize(
    "change",
    [
        {"inner": 15},
        {"inner": 0},
        {"groups": 0},
        {"groups": 3},
        {"mults": ()},
        {"mults": (1, 0)},
        {"res_blocks": 0},
        {"attention": (2,)},
        {"attention": (-1,)},
        {"heads": 3},
    ],
)
def test_sizes_that_fit_no_network_are_refused(change) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    "name, count", [("sr3-16-128-published", 97_807_491), ("sr3-64-512-published", 155_334_339)]
)
def test_parameter_counts_of_the_published_configurations(name, count) -> None:
    with torch.device("meta"):
        net = SR3Net(CONFIGS[name])
    assert sum(p.numel() for p in net.parameters()) == count


def lively(config: UNetConfig) -> SR3Net:
    """A network in which nothing is zero any more, as after training; eval mode."""
    torch.manual_seed(0)
    net = SR3Net(config).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return net


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (24, 40)])
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("name", ["sr3-tiny", "sr3-tiny-published"])
def test_any_size_any_layout_and_bf16(name, size, noisy) -> None:
    net = lively(replace(CONFIGS[name], noisy_input=noisy))
    x, lr_up, level = torch.randn(2, 3, *size), torch.rand(2, 3, *size), torch.tensor([0.1, 0.9])
    cond = net.encode(lr_up, torch.tensor([8.0, 8.0]))
    made = net(x, cond, level)
    assert made.shape == x.shape and made.std() > 0
    apart = torch.cat([net(x[i:][:1], cond[i:][:1], level[i:][:1]) for i in (0, 1)])
    torch.testing.assert_close(made, apart, atol=2e-5, rtol=0)  # each with its own noise level
    assert torch.equal(made, net(x + 1, cond, level)) == (not noisy)
    assert torch.equal(made, net(x, cond, level.flip(0))) == (not noisy)
    assert not torch.equal(made, net(x, cond + 1, level))
    last = {"memory_format": torch.channels_last}
    other = net.to(**last)(x.contiguous(**last), cond.contiguous(**last), level)
    torch.testing.assert_close(other, made, atol=2e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = net(x, cond, level).float()
    assert coarse.isfinite().all()
    if size == (24, 40):  # of a few pixels, groups are nearly constant: norms magnify any rounding
        torch.testing.assert_close(coarse, made, atol=0.05 * made.abs().max().item(), rtol=0)


@pytest.mark.parametrize("size", [(5, 8), (8, 5), (5, 7)])
def test_padding_repeats_the_edge_and_is_cut_off(size) -> None:
    net = lively(SMALL)
    height, width = size
    x, cond, level = torch.randn(1, 3, *size), torch.rand(1, 3, *size), torch.tensor([0.5])
    padded = F.pad(torch.cat([cond, x], 1), (0, width % 2, 0, height % 2), mode="replicate")
    wanted = net.unet(padded, level)[..., :height, :width]
    torch.testing.assert_close(net(x, cond, level), wanted, atol=0, rtol=0)


@pytest.mark.parametrize("gain", [1.0, 5000.0])
def test_noise_level_embedding_equals_its_definition(gain) -> None:
    net, level = NoiseEmbedding(8, gain).double(), torch.tensor([0.1, 0.9]).double()
    angles = [[gain * v * 1e4 ** (-i / 4) for i in range(4)] for v in level.tolist()]
    rows = [[*map(math.sin, row), *map(math.cos, row)] for row in angles]
    torch.testing.assert_close(net(level), net.mlp(torch.tensor(rows).double()))


@pytest.mark.parametrize("noisy", [True, False])
def test_paper_form_starts_at_zero_for_every_input(noisy) -> None:
    net = SR3Net(replace(SMALL, noisy_input=noisy)).eval()
    x = torch.randn(1, 3, 7, 3)
    assert net(x, x, torch.tensor([0.5])).abs().max() == 0


def test_paper_blocks_start_as_their_input_over_root_two() -> None:
    net = SR3Net(SMALL).eval()
    x, embedding = torch.randn(1, 16, 6, 10), torch.randn(1, 16)
    torch.testing.assert_close(net.unet.downs[1](x, embedding), x * 0.5**0.5)
    shrunk = F.avg_pool2d(x, 2)  # the resampling is inside the block, on the skip's way too
    torch.testing.assert_close(net.unet.downs[2](x, embedding), shrunk * 0.5**0.5)


def test_paper_sums_are_over_root_two() -> None:
    torch.manual_seed(0)
    x, embedding = torch.randn(2, 8, 3, 5), torch.randn(2, 4)
    paper = UNetConfig(inner=4, groups=4)
    published = replace(paper, biggan=False)
    block, plain = (ResBlock(config, 8, 8) for config in (paper, published))
    block.load_state_dict(plain.state_dict())
    wanted = plain(x, embedding) * 0.5**0.5
    torch.testing.assert_close(block(x, embedding), wanted)
    looks, plain = (Attention(config, 8) for config in (paper, published))
    looks.load_state_dict(plain.state_dict())
    torch.testing.assert_close(looks(x), plain(x) * 0.5**0.5)


@pytest.mark.parametrize("scale_shift", [True, False])
def test_noise_level_enters_a_block_as_configured(scale_shift) -> None:
    torch.manual_seed(0)
    block = ResBlock(UNetConfig(4, groups=4, biggan=False, scale_shift=scale_shift), 8, 12)
    x, embedding = torch.randn(2, 8, 3, 5), torch.randn(2, 4)
    h = block.conv1(F.silu(block.norm1(x)))
    if scale_shift:
        told = F.silu(embedding) @ block.film.weight.T + block.film.bias
        h = block.norm2(h) * (1 + told[:, :12, None, None]) + told[:, 12:, None, None]
    else:
        told = embedding @ block.film.weight.T + block.film.bias
        h = block.norm2(h + told[:, :, None, None])
    wanted = block.skip(x) + block.conv2(F.silu(h))
    torch.testing.assert_close(block(x, embedding), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["sr3-tiny", "sr3-tiny-published"])
def test_dropout_works_in_training_only(name) -> None:
    net = lively(replace(CONFIGS[name], dropout=0.5)).train()
    x, level = torch.randn(1, 3, 8, 12), torch.tensor([0.5])
    assert not torch.equal(net(x, x, level), net(x, x, level))
    net.eval()
    assert torch.equal(net(x, x, level), net(x, x, level))
    assert torch.equal(net(x, x, level), lively(CONFIGS[name])(x, x, level))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (3, 7)])
def test_attention_equals_its_definition(heads, size) -> None:
    torch.manual_seed(0)
    net = Attention(UNetConfig(4, groups=4, heads=heads, biggan=False), 8)
    x = torch.randn(2, 8, *size)
    q, k, v = net.qkv(net.norm(x)).flatten(2).view(2, heads, 3, 8 // heads, -1).unbind(2)
    weights = F.softmax(q.transpose(2, 3) @ k / (8 / heads) ** 0.5, -1)  # (B,heads,N,N)
    wanted = x + net.out((v @ weights.transpose(2, 3)).reshape(x.shape))
    torch.testing.assert_close(net(x), wanted, atol=1e-5, rtol=1e-5)
