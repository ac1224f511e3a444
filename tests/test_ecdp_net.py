"""ECDP's network and converter against tensors recorded from the published implementation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from upscale.convert import ecdp as published
from upscale.convert.table import Hints
from upscale.nets import ecdp
from upscale.nets.ecdp import CONFIGS, ECDPConfig, ECDPNet, time_of
from upscale.nets.encoders import RRDBEncoder

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = Path(__file__).parent / "fixtures" / "ecdp"
PUBLISHED = load_file(FOLDER / "weights.safetensors")
VARIANTS = [("antialias", "aa"), ("plain", "noaa")]
TINY = ECDPConfig(
    in_conv=8, channels=(32, 24), blocks=(1, 2), time_channels=8, time_hidden=16,
    encoder_blocks=2, encoder_selection=(0, 1), encoder_features=8, encoder_growth=4,
)  # fmt: skip
NETWORK, ENCODER = "model.diffusion.network.", "model.lr_feats."


def ecdp_from_published(state, **settings):
    """(configuration, state) of a published checkpoint."""
    net, own, _ = published.converted(state, Hints(**settings))
    return net.config, own


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "io.safetensors")


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((FOLDER / "fixture.json").read_text())


def converted(state=PUBLISHED, **keywords):
    return ecdp_from_published(state, **{"selection": (0, 2), **keywords})


def published_names() -> dict[str, str]:
    """Our key -> theirs, through the same converter as weights."""
    order = {id(v): k for k, v in PUBLISHED.items()}
    return {ours: order[id(v)] for ours, v in converted()[1].items()}


def published_net(resize: str) -> ECDPNet:
    config, state = converted(resize=resize)
    net = ECDPNet(config)
    net.load_state_dict(state)
    return net


@pytest.fixture(scope="module")
def nets() -> dict[str, ECDPNet]:
    return {name: published_net(resize).eval().requires_grad_(False) for resize, name in VARIANTS}


def lively(config: ECDPConfig) -> ECDPNet:
    """A network in which every parameter matters, as after training; eval mode."""
    torch.manual_seed(0)
    net = ECDPNet(config).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return net


def c_noise_of(t: torch.Tensor) -> torch.Tensor:
    """sqrt(alpha_bar) at the network's time t in [0,300], float64: the paper's beta 0.1 to 20."""
    tau = t.double() / 300
    return torch.exp(-(0.1 * tau + 19.9 * tau**2 / 2) / 2)


def both_ways(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.flip(-1)])


def call(net, x, lr, t):
    """One call on `lr` in [0,1], as the fixtures have it."""
    return net(x, net.encode(x, torch.tensor([4.0]), lr * 2 - 1), c_noise_of(t))


@pytest.mark.parametrize("name", ["aa", "noaa"])
def test_network_equals_the_published_one(nets, io, name) -> None:
    made = call(nets[name], io["denoise.x_t"], both_ways(io["lr"]), io["denoise.t"])
    torch.testing.assert_close(made, io[f"denoise.out.{name}"], atol=2e-5, rtol=0)
    assert not torch.allclose(made, io[f"denoise.out.{'aa' if name == 'noaa' else 'noaa'}"], 0.01)


@pytest.mark.parametrize("name", ["aa", "noaa"])
def test_odd_sides_equal_the_published_ones(nets, io, name) -> None:
    made = call(nets[name], io["odd.x_t"], io["odd.lr"], io["odd.t"])  # 44x60 from 11x15
    torch.testing.assert_close(made, io[f"odd.out.{name}"], atol=2e-5, rtol=0)


def test_encoder_equals_the_published_one(nets, io) -> None:
    made = nets["aa"].encoder(io["lr"])
    torch.testing.assert_close(made, io["lr_feats"], atol=2e-5, rtol=0)


def test_time_embedding_equals_the_published_one(nets, io) -> None:
    net = nets["aa"]
    seen = []
    hook = net.time.register_forward_hook(lambda module, inputs, output: seen.append(output))
    call(net, io["denoise.x_t"], both_ways(io["lr"]), io["denoise.t"])
    hook.remove()
    torch.testing.assert_close(seen[0], io["time_embed"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("resize, name", VARIANTS)
def test_loss_equals_the_published_one(nets, io, record, resize, name) -> None:
    loss = published_loss(nets[name], io, name)
    torch.testing.assert_close(loss, io[f"loss.per_sample.{name}"], rtol=1e-4, atol=0)
    assert loss.mean().item() == pytest.approx(record["loss"][f"mean_{name}"], rel=1e-4)


def published_loss(net, io, name):
    """(B,): squared errors of both heads, summed."""
    mean, eps = io[f"cond_scaled.{name}"], io["loss.eps"]
    target, c_noise = both_ways(5 * (io["hr"] - mean)), c_noise_of(io["loss.t"])
    c = c_noise[:, None, None, None]
    x = (c * target + (1 - c**2).sqrt() * eps).float()
    raw = call(net, x, both_ways(io["lr"]), io["loss.t"])
    return (raw - torch.cat([eps, target], 1)).square().sum((1, 2, 3))


def test_every_gradient_equals_the_published_one(io, record) -> None:
    net = published_net("antialias")
    published_loss(net, io, "aa").mean().backward()
    published = published_names()
    norms = record["loss"]["grad_l2_norms"]
    assert {published[k] for k, _ in net.named_parameters()} == norms.keys()
    for key, parameter in net.named_parameters():
        # abs: the fixture's last norm undoes the last bias, whose gradient is rounding alone
        wanted = pytest.approx(norms[published[key]], rel=2e-3, abs=1e-3)
        assert parameter.grad.norm().item() == wanted, key
    assert net.encoder.conv_first.weight.grad.norm() > 0


def test_time_is_read_back_from_its_noise_level() -> None:
    t = torch.tensor([0.0, 0.1, 1.0, 12.5, 150.0, 299.0, 300.0], dtype=torch.float64)
    made = time_of(c_noise_of(t)) * 300
    torch.testing.assert_close(made, t, rtol=1e-9, atol=1e-12)
    coarse = time_of(c_noise_of(t).float()) * 300
    assert coarse.dtype == torch.float64
    torch.testing.assert_close(coarse[2:], t[2:], rtol=1e-3, atol=0)
    assert time_of(torch.tensor([1.0000001])).item() == 0


def test_process_constants_of_the_config_reach_the_time() -> None:
    net, other = lively(TINY), lively(replace(TINY, beta_max=10.0, t_max=150.0))
    x, lr, c = torch.randn(1, 3, 8, 12), torch.rand(1, 3, 2, 3), torch.tensor([0.5])
    made = other(x, other.encode(x, None, lr), c)
    tau = time_of(c, 0.1, 10.0)
    assert torch.exp(-(0.1 * tau + 9.9 * tau**2 / 2)).sqrt().item() == pytest.approx(0.5)
    wanted = net(x, net.encode(x, None, lr), c_noise_of(tau * 150))
    torch.testing.assert_close(made, wanted)


def uncached(net: ECDPNet, lr: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the published code does in every block, first resizing all features: at (44, 60)."""
    features = net.encoder((lr + 1) / 2)
    antialias = net.config.resize == "antialias"
    sizes = {0: (44, 60), 1: (22, 30), 2: (11, 15), 3: (6, 8)}
    levels = [0] * 2 + [1] * 2 + [2] * 2 + [3] * 7 + [2] * 3 + [1] * 3 + [0] * 3
    blocks = [m for m in [*net.downs, *net.middle, *net.ups] if hasattr(m, "project")]
    return tuple(
        block.project(F.interpolate(features, sizes[i], mode="bilinear", antialias=antialias))
        for block, i in zip(blocks, levels, strict=True)
    )


@pytest.mark.parametrize("name", ["aa", "noaa"])
def test_stored_shares_equal_those_made_at_every_call(nets, io, monkeypatch, name) -> None:
    net, lr, x = nets[name], io["odd.lr"] * 2 - 1, io["odd.x_t"]
    stored = net.encode(x, None, lr)
    by_definition = uncached(net, lr)
    torch.testing.assert_close(stored, by_definition, atol=2e-6, rtol=0)
    monkeypatch.setattr(ecdp, "STORE_PIXELS", 44 * 60 - 1)
    small = net.encode(x, None, lr)
    sizes = [tuple(share.shape[-2:]) for share in small]
    assert set(sizes) == {(11, 15), (6, 8)}  # what is larger than the input is left to the calls
    c_noise = c_noise_of(io["odd.t"])
    torch.testing.assert_close(
        net(x, small, c_noise), net(x, stored, c_noise), atol=1e-6, rtol=0
    )  # fmt: skip
    monkeypatch.setattr(ecdp, "STORE_PIXELS", 44 * 60)
    assert torch.equal(net.encode(x, None, lr)[0], stored[0])


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (10, 16)])
@pytest.mark.parametrize("resize", ecdp.RESIZES)
def test_any_size_each_with_its_own_noise_level(size, resize) -> None:
    net = lively(replace(TINY, resize=resize))
    lr = torch.rand(2, 3, -(-size[0] // 4), -(-size[1] // 4)) * 2 - 1
    x, level = torch.randn(2, 3, *size), torch.tensor([0.1, 0.9], dtype=torch.float64)
    made = net(x, net.encode(x, None, lr), level)
    assert made.shape == (2, 6, *size) and made.dtype == x.dtype and made.std() > 0
    apart = [net(x[i:][:1], net.encode(x[:1], None, lr[i:][:1]), level[i:][:1]) for i in (0, 1)]
    torch.testing.assert_close(made, torch.cat(apart), atol=2e-5, rtol=0)
    assert not torch.equal(made, net(x, net.encode(x, None, lr), level.flip(0)))
    assert not torch.equal(made, net(x, net.encode(x, None, -lr), level))


@pytest.mark.parametrize("resize", ecdp.RESIZES)
def test_channels_last_and_bf16_stay_near(resize) -> None:
    net, x = lively(replace(TINY, resize=resize)), torch.randn(1, 3, 18, 24)
    lr, level = torch.rand(1, 3, 5, 6) * 2 - 1, torch.tensor([0.5], dtype=torch.float64)
    made = net(x, net.encode(x, None, lr), level)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = net(x, net.encode(x, None, lr), level).float()
    torch.testing.assert_close(coarse, made, atol=0.05 * made.abs().max().item(), rtol=0)
    last = {"memory_format": torch.channels_last}
    other = net.to(**last)(x.contiguous(**last), net.encode(x, None, lr.contiguous(**last)), level)
    torch.testing.assert_close(other, made, atol=2e-5, rtol=0)


def test_low_resolution_picture_is_needed() -> None:
    with pytest.raises(ValueError, match="give lr"):
        lively(TINY).encode(torch.zeros(1, 3, 8, 8), torch.tensor([4.0]))


def test_encoder_takes_its_blocks_in_order() -> None:
    torch.manual_seed(0)
    net = RRDBEncoder(3, (2, 0), features=6, growth=4)
    made = net(torch.randn(2, 3, 5, 7))
    assert made.shape == (2, 12, 5, 7)
    x = net.conv_first(torch.ones(1, 3, 2, 3))
    first = net.blocks[0](x)
    last = net.blocks[2](net.blocks[1](first))
    torch.testing.assert_close(net(torch.ones(1, 3, 2, 3)), torch.cat([last, first], 1))
    # a fresh dense block's weights are so small that it hardly changes what passes
    assert (first - 1.2 * x).norm() < 0.05 * x.norm()
    for wrong in ((), (3,), (-1,)):
        with pytest.raises(ValueError, match="selection"):
            ECDPConfig(encoder_blocks=3, encoder_selection=wrong)


@pytest.mark.parametrize(
    "name, millions", [("ecdp-df2k", 42.6), ("ecdp-imagenet", 37.6), ("ecdp-celeba", 40.0)]
)
def test_parameter_counts_are_the_papers(name, millions) -> None:
    with torch.device("meta"):
        net = ECDPNet(CONFIGS[name])
    count = sum(p.numel() for p in net.parameters())
    assert round(count / 1e6, 1) == millions
    assert net.align == 8


def test_windows_start_on_pixels_of_input_and_lowest_level() -> None:
    assert [ECDPNet(replace(TINY, scale=scale)).align for scale in (1, 3, 4)] == [2, 6, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"channels": ()},
        {"channels": (32,)},
        {"channels": (24, 24)},
        {"channels": (32, 3)},
        {"in_conv": 3},
        {"blocks": (1, 0)},
        {"time_channels": 7},
        {"time_channels": 2},
        {"time_hidden": 0},
        {"encoder_features": 0},
        {"encoder_growth": 0},
        {"encoder_blocks": 0},
        {"encoder_selection": ()},
        {"encoder_selection": (2,)},
        {"encoder_selection": (-1,)},
        {"scale": 0},
        {"beta_min": 0.0},
        {"beta_min": 20.0},
        {"t_max": 0.0},
        {"resize": "nearest"},
    ],
)
def test_sizes_that_fit_no_network_are_refused(change) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(TINY, **change)


@pytest.mark.parametrize("config", [TINY, *CONFIGS.values()])
def test_config_survives_json(config) -> None:
    assert ECDPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_converter_reads_the_configuration_off_the_shapes(record) -> None:
    theirs, unet = record["config"]["model"], record["config"]["unet"]
    config, state = converted(resize="plain", scale=2)
    assert config == ECDPConfig(
        in_conv=unet["base_channels"],
        channels=tuple(unet["channels"]),
        blocks=tuple(unet["num_blocks"]),
        time_channels=unet["time_channels"],
        time_hidden=unet["time_hidden"],
        encoder_blocks=theirs["rrdb_num_blocks"],
        encoder_selection=tuple(theirs["rrdb_block_selection"]),
        encoder_features=theirs["rrdb_network_features"],
        encoder_growth=theirs["rrdb_intermediate_features"],
        scale=2,
        resize="plain",
    )
    assert sum(v.numel() for v in state.values()) == record["n_parameters"]
    assert len(state) == len(PUBLISHED) - 3  # the schedule
    assert all(any(v is w for w in PUBLISHED.values()) for v in state.values())
    bare = {k: v for k, v in PUBLISHED.items() if "diffusion.network" in k or "lr_feats" in k}
    assert converted(bare, resize="plain", scale=2)[0] == config


@pytest.mark.parametrize("name", ["ecdp-imagenet", "ecdp-celeba"])
def test_the_papers_files_need_no_keywords(name) -> None:
    theirs = published_names()
    with torch.device("meta"):
        ours = ECDPNet(replace(CONFIGS[name], blocks=(2, 2, 2, 2))).state_dict()
    # the fixture names every layer but the other blocks of the encoder
    state = {theirs.get(k) or k.replace("encoder.", ENCODER): v for k, v in ours.items()}
    config, back = ecdp_from_published(state)
    assert config == replace(CONFIGS[name], blocks=(2, 2, 2, 2))
    assert back.keys() == ours.keys()


def test_an_encoder_of_unknown_depth_needs_its_selection() -> None:
    with pytest.raises(ValueError, match=r"3 encoder blocks .* as in --selection 0,2"):
        ecdp_from_published(PUBLISHED)
    with pytest.raises(ValueError, match=r"--selection 0,3: its encoder has 3 blocks, 0 to 2"):
        converted(selection=(0, 3))
    with pytest.raises(ValueError, match=r"other shapes in .*extra_in"):
        converted(selection=(0, 1, 2))


# every kind of module: stem, block, strided convolution, widening block, the lowest, middle, way
# up, enlarging convolution, output, time, encoder
MODULES = "in_conv downs.0 downs.2 downs.3 downs.10 mid.0 ups.6 ups.7 out_conv.2 time_in"


@pytest.mark.parametrize("module", [*(NETWORK + m for m in MODULES.split()),
                                    ENCODER + "conv_first", ENCODER + "blocks.0",
                                    ENCODER + "blocks.2.block3"])  # fmt: skip
def test_every_missing_key_is_named_and_no_other(module) -> None:
    chosen = [k for k in PUBLISHED if k.startswith(f"{module}.")]
    assert chosen
    for key in chosen[:: max(1, len(chosen) // 2)]:
        with pytest.raises(ValueError) as caught:
            converted({k: v for k, v in PUBLISHED.items() if k != key})
        told = str(caught.value)
        assert told.startswith("not a published ECDP network: missing ")
        # without this one nothing tells the number of sinusoids: the others cannot be checked
        alone = key == f"{NETWORK}time_in.0.weight"
        assert told.endswith(key if alone else f"missing ['{key}'], unexpected []")


@pytest.mark.parametrize(
    "key",
    [
        "optimizer",
        "model.diffusion.other",
        NETWORK + "middle.0.conv1.weight",  # our name of a key that is there too
        NETWORK + "mid.0.conv1.weight",
        NETWORK + "downs.0.skip.network.weight",
        ENCODER + "trunk.weight",
    ],
)
def test_an_unknown_key_is_named(key) -> None:
    with pytest.raises(ValueError) as caught:
        converted({**PUBLISHED, key: torch.zeros(16)})
    assert f"missing [], unexpected ['{key}']" in str(caught.value)


@pytest.mark.parametrize(
    "change, told",
    [
        ({NETWORK + "mid.0.norm1.bias": torch.zeros(3)}, "shapes in .*mid.0.norm1.bias"),
        ({NETWORK + "downs.1.conv1.network.weight": torch.zeros(())}, "shapes in .*downs.1.conv1"),
        ({NETWORK + "in_conv.network.weight": torch.zeros(8, 3, 3, 3)}, "downs.0.skip"),
        ({NETWORK + "downs.0.time_in.bias": None}, "no tensors in .*downs.0.time_in.bias"),
        ({ENCODER + "conv_first.weight": torch.zeros(16, 12, 3, 3)}, "shapes in .*conv_first"),
    ],
)
def test_other_shapes_are_refused(change, told) -> None:
    with pytest.raises(ValueError, match=told):
        converted({**PUBLISHED, **change})


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epoch": 1, "model": {}, "model_avg": {}},
        {k: v for k, v in PUBLISHED.items() if not k.startswith(ENCODER)},
        {k: v for k, v in PUBLISHED.items() if not k.startswith(NETWORK + "downs")},
    ],
)
def test_a_file_of_something_else_is_refused(state) -> None:
    with pytest.raises(ValueError, match="not a published ECDP network"):
        converted(state)
