"""The compact network with ECDP's two heads and its injections."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from upscale.diffusion.denoiser import bind
from upscale.nets import compact
from upscale.nets.compact import CompactConfig, CompactNet
from upscale.nets.layers import Halving

SMALL = CompactConfig(
    channels=(8, 12, 8), down=(1, 2, 1), up=(2, 1), encoder=3, head=(8, 4), embedding=16
)
TWO = replace(SMALL, heads=2, inject=(0, 2))
SCALE = torch.tensor([4.0, 2.5])


def made(config: CompactConfig, strength: float = 0.05) -> CompactNet:
    """A network in which every parameter matters, as after training; strength 0: a fresh one."""
    torch.manual_seed(0)
    net = CompactNet(config).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter) * strength)
    return net


def inputs(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy state, enlarged input, noise levels of a batch of 2."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, height, width, generator=generator)
    lr_up = torch.rand(2, 3, height, width, generator=generator) * 2 - 1
    return x, lr_up, torch.tensor([0.1, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("name", ["hybrid", "hybrid-eps", "hybrid-x0", "hybrid:2.5"])
@pytest.mark.parametrize("level", [0.006, 0.5, 150.0])
def test_two_equal_heads_are_one_head_that_tells_the_velocity(name, level) -> None:
    """So every power of the hybrid starts from one picture, and only training parts them."""
    one, two = made(replace(SMALL, inject=TWO.inject)), made(TWO)
    state = one.state_dict()
    for key in ("head3.weight", "head3.bias"):
        state[key] = torch.cat([state[key]] * 2)
    two.load_state_dict(state)
    x, lr_up, _ = inputs(20, 33)
    sigma = torch.full((2,), level)
    wanted = bind(one, one.encode(lr_up, SCALE), "v")(x * level, sigma)
    found = bind(two, two.encode(lr_up, SCALE), name)(x * level, sigma)
    torch.testing.assert_close(found, wanted, atol=1e-5 * (1 + level), rtol=1e-5)


def test_a_fresh_network_tells_a_velocity_of_zero() -> None:
    net, (x, lr_up, c_noise) = made(TWO, 0.0), inputs(16, 32)
    eps, x0 = net(x, net.encode(lr_up, SCALE), c_noise).chunk(2, 1)
    cos = c_noise[:, None, None, None]
    sin = (1 - cos**2).sqrt()
    torch.testing.assert_close(eps, (sin * x).float())
    torch.testing.assert_close(x0, (cos * x).float())


def test_injections_start_as_if_not_there_and_then_matter() -> None:
    x, lr_up, c_noise = inputs(16, 32)
    with_them, without = made(TWO, 0.0), made(replace(TWO, inject=()))
    with_them.load_state_dict(without.state_dict(), strict=False)
    assert not [k for k in without.state_dict() if k.startswith("inject")]
    wanted = without(x, without.encode(lr_up, SCALE), c_noise)
    before = with_them(x, with_them.encode(lr_up, SCALE), c_noise)
    torch.testing.assert_close(before, wanted)
    assert len(with_them.inject) == sum(TWO.down) + sum(TWO.up)
    for conv in with_them.inject:  # each of them reaches the output
        conv.weight.add_(0.1)
        after = with_them(x, with_them.encode(lr_up, SCALE), c_noise)
        assert (after - before).abs().max() > 1e-4
        before = after


@pytest.mark.parametrize("stem", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (18, 33), (16, 32)])
def test_any_size_each_with_its_own_noise_level_and_scale(size, stem) -> None:
    net, (x, lr_up, c_noise) = made(replace(TWO, stem=stem)), inputs(*size)
    raw = net(x, net.encode(lr_up, SCALE), c_noise)
    assert raw.shape == (2, 6, *size) and raw.dtype == torch.float32 and raw.isfinite().all()
    alone = [
        net(x[i:][:1], net.encode(lr_up[i:][:1], SCALE[i:][:1]), c_noise[i:][:1]) for i in (0, 1)
    ]
    torch.testing.assert_close(raw, torch.cat(alone), atol=2e-5, rtol=0)


@pytest.mark.parametrize("stem", [2, 4])
def test_a_window_gives_what_the_whole_gives_away_from_its_edges(stem) -> None:
    net = made(replace(TWO, down=(1, 1, 1), up=(1, 1), stem=stem))
    assert net.align == 4 * stem
    generator = torch.Generator().manual_seed(2)
    x, lr_up = torch.randn(2, 1, 3, 336, 352, generator=generator)
    level, scale = torch.tensor([0.7]), SCALE[:1]
    whole = net(x, net.encode(lr_up, scale), level)
    top, left, side, rim = 16, 32, 304, 132  # rim: the receptive field to each side
    rows, columns = slice(top, top + side), slice(left, left + side)
    part = net(x[..., rows, columns], net.encode(lr_up[..., rows, columns], scale), level)
    inner = slice(rim, side - rim)
    wanted = whole[..., rows, columns][..., inner, inner]
    torch.testing.assert_close(part[..., inner, inner], wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(part[..., :4, :], whole[..., rows, columns][..., :4, :], atol=1e-3)


@pytest.mark.parametrize("config", [SMALL, TWO, *(replace(TWO, stem=n) for n in (1, 2))])
@pytest.mark.parametrize("size", [(97, 50), (64, 33), (16, 16)])
def test_strips_of_the_head_are_the_whole(config, size, monkeypatch) -> None:
    net, (x, lr_up, level) = made(config), inputs(*size)
    drawn = []
    monkeypatch.setattr(net, "_draw", lambda h: drawn.append(h) or CompactNet._draw(net, h))
    with torch.inference_mode():
        cond = net.encode(lr_up, SCALE)
        whole = net(x, cond, level)
        assert len(drawn) == 1
        monkeypatch.setattr(compact, "_STRIP", 1)
        strips = net(x, cond, level)
    assert len(drawn) == 1 + -(-len(drawn[0][0, 0]) // 8)
    torch.testing.assert_close(strips, whole, atol=1e-5, rtol=1e-5)
    assert strips.std() > 0.01


@pytest.mark.parametrize("stem", [1, 2])
def test_a_fresh_head_repeats_each_position_of_its_stem(stem) -> None:
    """So that no grid is there to be unlearnt (from 4 on a convolution lies between)."""
    net = made(replace(SMALL, stem=stem), 0.0)
    h = torch.randn(1, 8, 6, 5, generator=torch.Generator().manual_seed(3))
    drawn = net._draw(h)
    assert drawn.shape == (1, 4, 6 * stem, 5 * stem) and drawn.std() > 0.01
    nearest = torch.nn.functional.interpolate(drawn[..., ::stem, ::stem], scale_factor=stem)
    torch.testing.assert_close(drawn, nearest)


def test_a_stem_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="stem is 1, 2, 4, not 3"):
        CompactConfig(stem=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(12, 1), (12, 2), (24, 2), (2, 12), (1, 1), (12, 3), (9, 4)])
def test_halving_reads_nothing_outside_the_picture(size, dtype) -> None:
    """Native bf16 convolutions did, where the result is one column; what they read is whatever
    was in memory before."""
    torch.manual_seed(0)
    conv = Halving(16, 16).to(memory_format=torch.channels_last)
    x = torch.randn(2, 16, *size).to(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = torch.nn.functional.conv2d(
            x.double(), conv.weight.double(), conv.bias.double(), stride=2, padding=1
        )
        net, x = conv.to(dtype), x.to(dtype)
        for count in range(10, 4000, 150):
            dirt = [torch.full((count + i,), torch.nan) for i in range(20)]
            del dirt
            made = net(x)
            assert made.shape == wanted.shape
            atol = 1e-5 if dtype == torch.float32 else 0.05
            torch.testing.assert_close(made.double(), wanted, atol=atol, rtol=0)
