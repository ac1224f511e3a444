"""IDM's network: its equations, and tensors recorded from the published implementation."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from upscale.convert import idm as published
from upscale.convert.table import Hints
from upscale.diffusion.denoiser import bind
from upscale.diffusion.process import VPDiscrete, sigma_of
from upscale.diffusion.samplers import ddim, ddpm
from upscale.nets.idm import CONFIGS, IDMConfig, IDMNet
from upscale.nets.unet import Layer, UNetConfig

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = Path(__file__).parent / "fixtures" / "idm"
PUBLISHED = load_file(FOLDER / "weights.safetensors")
RECORD = json.loads((FOLDER / "fixture.json").read_text())
SIZES = {"norm_groups": 8, "max_scale": 4.0}  # 8 -> 32 at most
# half of the README's 2e-5: a border padded in the other way shows at 2.3e-5
CLOSE = {"atol": 1e-5, "rtol": 0}


def idm_from_published(state, **settings):
    """(configuration, state) of a published checkpoint."""
    net, own, _ = published.converted(state, Hints(**settings))
    return net.config, own


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(FOLDER / "io.safetensors")


@pytest.fixture(scope="module")
def net() -> IDMNet:
    config, state = idm_from_published(PUBLISHED, **SIZES)
    net = IDMNet(config)
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def encoded(net, lr, size, p):
    """The condition at the published code's p in [0,1], as users tell it: by magnification."""
    scale = 1 + (net.config.max_scale - 1) * p.expand(len(lr))
    return net.encode(lr.new_zeros(len(lr), 3, *size), scale, lr)


# --- the published variant ------------------------------------------------------------------------

CASES = {"a": ("lr", 32), "b": ("b.lr", 27)}  # p = 1; p = 0.79, a batch of two


@pytest.mark.parametrize("case", CASES)
def test_denoiser_equals_the_published_one(net, io, case) -> None:
    lr, side = CASES[case]
    part = {k.removeprefix(f"{case}."): v for k, v in io.items()}
    feature = net.initial(io[lr], (side, side))
    torch.testing.assert_close(feature, part["feat"], **CLOSE)
    cond = encoded(net, io[lr], (side, side), part["scaler"])
    eps = net(part["x_noisy"], cond, part["noise_level"][:, 0])
    torch.testing.assert_close(eps, part["eps"], **CLOSE)
    in_double = net(part["x_noisy"], cond, part["noise_level"][:, 0].double())
    assert torch.equal(in_double, eps)


@pytest.mark.parametrize("side", [14, 13])
def test_one_upsampler_equals_the_published_one(net, io, side) -> None:
    first, second = io["up.scale1"], io["up.scale2"]
    norm = (first**2 + second**2 + 1e-8).sqrt()
    site = net.sites[1]  # level 2's, the first on the way up
    part = io["up.shift"] * (second / norm)[:, None, None] + net.offset[1][:, None, None]
    h = F.leaky_relu(part + io["up.x"] * (first / norm)[:, None, None], 0.2)
    made = net.unet.ups[site](h, (side, side))
    wanted = io[f"up.out_{side}"].transpose(1, 2).unflatten(2, (side, side))
    torch.testing.assert_close(made, wanted, **CLOSE)


def clamped(net, cond):
    """The published sampler's estimate: x0 within [-1, 1]."""
    inner = bind(net, cond, "eps")
    return lambda x, sigma: inner(x, sigma).clamp(-1, 1)


def test_chain_of_five_steps(net, io) -> None:
    alpha_bar = VPDiscrete(5, 0.01, 0.7).alpha_bar
    denoise = clamped(net, encoded(net, io["lr"], (27, 27), io["b.scaler"]))
    x = io["chain5.x_T"]
    for t in reversed(range(5)):  # one step of our sampler, told in the published code's x_t
        now, after = alpha_bar[t + 1], alpha_bar[t]
        noise = io.get(f"chain5.noise_t{t}", torch.zeros(()))
        sigmas = sigma_of(torch.stack([now, after]))
        x = ddpm(
            denoise, x / now.sqrt().float(), sigmas, noise=lambda _, z=noise: z,
            variance="posterior",
        ) * after.sqrt().float()  # fmt: skip
        torch.testing.assert_close(x, io[f"chain5.x_after_t{t}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(x[0], io["chain5.final"], atol=1e-4, rtol=0)


def test_chain_of_five_steps_in_one_call(net, io) -> None:
    alpha_bar = VPDiscrete(5, 0.01, 0.7).alpha_bar
    made = ddpm(
        clamped(net, encoded(net, io["lr"], (27, 27), io["b.scaler"])),
        io["chain5.x_T"] / alpha_bar[-1].sqrt().float(), sigma_of(alpha_bar.flip(0)),
        noise=lambda step: io[f"chain5.noise_t{4 - step}"], variance="posterior",
    )  # fmt: skip
    torch.testing.assert_close(made[0], io["chain5.final"], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_ddim_of_199_calls(net, io) -> None:
    """Times 1990, 1980, ... 10; it ends at the table's first entry, with its noise left in."""
    times = range(1990, -1, -10)
    sigmas = sigma_of(VPDiscrete().alpha_bar[[t + 1 for t in times]])
    powers = (1 + sigmas**2).rsqrt().float()
    denoise = bind(net, encoded(net, io["lr"], (32, 32), io["a.scaler"]), "eps")
    x = io["ddim.x_T"] / powers[0]
    seen = {1: "after_1", 10: "after_10", 100: "after_100", 199: "final"}
    for done, last in zip([0, *seen], seen, strict=False):
        x = ddim(denoise, x, sigmas[done : last + 1])
        wanted = io[f"ddim.{seen[last]}"]
        scale = wanted.abs().max().item()  # it grows to 500: random weights denoise nothing
        torch.testing.assert_close(x * powers[last], wanted, atol=1e-3 * scale, rtol=1e-3)


def test_loss_and_every_gradient_equal_the_published_ones(io) -> None:
    dead = set(RECORD["never_used_keys"])
    published = {k: v.clone().requires_grad_() for k, v in PUBLISHED.items()}
    config, state = idm_from_published(published, **SIZES)
    net = IDMNet(config).eval()
    lr, hr = (torch.cat([io[k], io[k].flip(-1)]) for k in ("lr", "hr27.noaa"))
    gamma = io["loss.gamma_sqrt"][:, 0]
    g = gamma[:, None, None, None]
    x = g * hr + (1 - g**2).sqrt() * io["loss.noise"]

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self) -> Tensor:
            return self.net(x, encoded(self.net, lr, (27, 27), io["b.scaler"]), gamma)

    eps = torch.func.functional_call(Whole(), {f"net.{k}": v for k, v in state.items()}, ())
    loss = (eps - io["loss.noise"]).abs().mean()
    assert loss.item() == pytest.approx(RECORD["loss"]["l_pix"], abs=1e-5)
    loss.backward()
    for key, norm in RECORD["loss"]["grad_l2_norms"].items():
        assert (norm is None) == (key in dead)
        if norm is not None:
            made = published[key].grad.norm()
            torch.testing.assert_close(made, torch.tensor(norm), rtol=2e-3, atol=1e-6)


# --- the converter --------------------------------------------------------------------------------


def test_converter_reads_the_configuration_off_the_shapes() -> None:
    theirs = RECORD["config"]
    config, state = idm_from_published(PUBLISHED, **SIZES)
    assert config == IDMConfig(
        unet=UNetConfig(
            inner=theirs["unet"]["inner_channel"],
            mults=tuple(theirs["unet"]["channel_mults"]),
            res_blocks=theirs["unet"]["res_blocks"],
            attention=(2,),  # nominal side 32, attention at 8
            groups=theirs["unet"]["norm_groups"],
            dropout=0.0,  # it leaves no trace in a file
            noise_gain=1.0,
            biggan=False,
            scale_shift=False,
        ),
        encoder_blocks=theirs["encoder"]["n_resblocks"],
        encoder_features=theirs["encoder"]["n_feats"],
        max_scale=4.0,
        published=True,
    )
    assert IDMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert state.keys() == IDMNet(config).state_dict().keys()


def test_dead_keys_and_schedules_may_be_there_or_not() -> None:
    whole = {k: torch.zeros(shape) for k, shape in RECORD["state_dict_keys"].items()} | PUBLISHED
    assert len(whole) == 329
    dead = set(RECORD["never_used_keys"])
    alive = {k: v for k, v in PUBLISHED.items() if "." in k and k not in dead}
    wanted = idm_from_published(alive, **SIZES)[1]
    for state in (whole, PUBLISHED):
        made = idm_from_published(state, **SIZES)[1]
        assert made.keys() == wanted.keys()
        assert all(torch.equal(made[k], wanted[k]) for k in wanted)


# every kind of module
MODULES = "encoder.head encoder.body.1.body.0 encoder.body.1.body.2 encoder.body.2 encoder.tail "
MODULES += "denoise_fn.conv_body_first denoise_fn.conv_body_down.1 denoise_fn.condition_shift.1 "
MODULES += "denoise_fn.condition_scale1.2 denoise_fn.condition_scale2.1 denoise_fn.ups.3.imnet "
MODULES += "denoise_fn.ups.7.style.activate denoise_fn.downs.0 denoise_fn.downs.3 denoise_fn.mid.0 "
MODULES += "denoise_fn.ups.8 denoise_fn.noise_level_mlp denoise_fn.final_conv"


@pytest.mark.parametrize("module", MODULES.split())
def test_every_missing_key_is_named_and_no_other(module) -> None:
    chosen = [k for k in PUBLISHED if k.startswith(f"{module}.")]
    assert chosen
    for key in chosen[:: max(1, len(chosen) // 4)]:
        with pytest.raises(ValueError) as caught:
            idm_from_published({k: v for k, v in PUBLISHED.items() if k != key}, **SIZES)
        assert str(caught.value).endswith(f"missing ['{key}'], unexpected []")


@pytest.mark.parametrize(
    "key",
    [
        "optimizer",
        "ddim_c2",
        "tail.weight",
        "mlp.0.weight",
        "encoder.body.1.body.1.weight",
        "denoise_fn.ups.3.conv.weight",  # SR3's upsampler
        "denoise_fn.ups.3.first.weight",  # our name of a key that is there too
        "denoise_fn.condition_shift.3.0.weight",
        "denoise_fn.ups.3.imnet.2.weight",
    ],
)
def test_an_unknown_key_is_named(key) -> None:
    with pytest.raises(ValueError) as caught:
        idm_from_published({**PUBLISHED, key: torch.zeros(16)}, **SIZES)
    assert f"missing [], unexpected ['{key}']" in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "encoder.tail.0.weight",
        "denoise_fn.condition_scale1.1.weight",
        "denoise_fn.condition_shift.2.0.weight",
        "denoise_fn.ups.3.imnet.0.weight",
        "denoise_fn.ups.7.style.activate.bias",
        "denoise_fn.mid.0.attn.out.bias",
    ],
)
def test_another_shape_is_named(key) -> None:
    for other in (torch.zeros(*PUBLISHED[key].shape, 2), torch.zeros(())):
        with pytest.raises(ValueError, match="not a published IDM network: other shapes in") as e:
            idm_from_published({**PUBLISHED, key: other}, **SIZES)
        assert str(e.value).endswith(f"in ['{key}']")
    with pytest.raises(ValueError, match=f"no tensors in .*{key}"):
        idm_from_published({**PUBLISHED, key: None}, **SIZES)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"norm_groups": 7}, "groups 7"),
        ({"max_scale": 1.0}, "max_scale 1.0"),
        ({"max_scale": float("nan")}, "max_scale nan"),
    ],
)
def test_arguments_that_fit_no_network_are_refused(change, told) -> None:
    with pytest.raises(ValueError, match=told):
        idm_from_published(PUBLISHED, **{**SIZES, **change})


def test_a_file_of_something_else_is_refused() -> None:
    sr3 = load_file(FOLDER.parents[1] / "fixtures" / "sr3" / "weights.safetensors")
    for state in ({}, sr3, {"epoch": 1, "optimizer": {}}):
        with pytest.raises(ValueError, match="not a published IDM network"):
            idm_from_published(state, **SIZES)


# --- the paper's network --------------------------------------------------------------------------

TINY = CONFIGS["idm-tiny"]
LIIF = replace(TINY, local_ensemble=True, feature_unfold=True, cell_decode=True)
FORMS = {"paper": TINY, "liif": LIIF, "published": CONFIGS["idm-tiny-published"]}


@pytest.fixture(scope="module", params=FORMS)
def lively(request) -> IDMNet:
    """A network in which every parameter matters, as after training; eval mode."""
    return stirred(FORMS[request.param])


def stirred(config: IDMConfig) -> IDMNet:
    torch.manual_seed(0)
    net = IDMNet(config).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return net


def drawn(lr_size, size, batch=2):
    """x, lr_up, lr and noise levels of a batch."""
    torch.manual_seed(1)
    levels = torch.linspace(0.1, 0.9, batch)
    lr = torch.rand(batch, 3, *lr_size) * 2 - 1
    return torch.randn(batch, 3, *size), torch.zeros(batch, 3, *size), lr, levels


@pytest.mark.parametrize(
    "lr_size, factor",
    [((1, 1), 1.3), ((1, 1), 3.7), ((7, 3), 1.3), ((5, 8), 3.7), ((2, 9), 8), ((3, 4), 11)],
)
def test_any_size_and_any_magnification(lively, lr_size, factor) -> None:
    """In double precision: group norms of one pixel make the last digits of a float large."""
    size, net = tuple(round(side * factor) for side in lr_size), deepcopy(lively).double()
    x, lr_up, lr, levels = (each.double() for each in drawn(lr_size, size))
    scale = torch.tensor([factor, factor]).double()
    made = net(x, net.encode(lr_up, scale, lr), levels)
    assert made.shape == x.shape and made.isfinite().all() and made.std() > 0
    apart = [
        net(x[i:][:1], net.encode(lr_up[:1], scale[:1], lr[i:][:1]), levels[i:][:1]) for i in (0, 1)
    ]
    torch.testing.assert_close(made, torch.cat(apart), atol=1e-11, rtol=0)


def test_everything_told_matters_and_scales_are_per_example(lively) -> None:
    x, lr_up, lr, levels = drawn((5, 8), (13, 20))
    scale = torch.tensor([2.6, 5.0])
    cond = lively.encode(lr_up, scale, lr)
    made = lively(x, cond, levels)
    assert torch.equal(made, lively(x, lively.encode(lr_up + 1, scale, lr), levels))
    others = [
        lively(x + 1, cond, levels),
        lively(x, cond, levels.flip(0)),
        lively(x, lively.encode(lr_up, scale.flip(0), lr), levels),
        lively(x, lively.encode(lr_up, scale, lr.flip(0)), levels),
    ]
    for other in others:
        assert all((other[i] - made[i]).abs().max() > 1e-4 for i in (0, 1))
    alone = lively(x[:1], lively.encode(lr_up[:1], scale[:1], lr[:1]), levels[:1])
    torch.testing.assert_close(made[:1], alone, atol=2e-5, rtol=0)


def test_a_condition_serves_every_step(lively) -> None:
    x, lr_up, lr, levels = drawn((5, 8), (13, 20))
    scale = torch.tensor([2.6, 2.6])
    first, mixed = cond = lively.encode(lr_up, scale, lr)
    before = [t.clone() for t in (first, *(t for pair in mixed for t in pair))]
    for level in (levels, levels.flip(0), levels):
        fresh = lively(x, lively.encode(lr_up, scale, lr), level)
        assert torch.equal(lively(x, cond, level), fresh)
    after = (first, *(t for pair in mixed for t in pair))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def uncached(net: IDMNet, x, lr, scale, level):
    """The paper's equations, everything anew and nothing split, for a network of three levels."""
    unet, p = net.unet, (scale[:, None] - 1) / (net.config.max_scale - 1)
    sizes = [(x.shape[-2], x.shape[-1])]
    for _ in net.shrink:
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    f = F.interpolate(net.encoder(lr), sizes[0], mode="bilinear")
    h = torch.cat([f, x], 1)
    features = []
    for level_size, shrink, project in zip(sizes[1:], net.shrink, net.project, strict=True):
        f = F.interpolate(f, level_size, mode="bilinear", antialias=True)
        f = F.leaky_relu(shrink.conv(f), 0.2)  # eq. 4
        features.append(project(f))
    embedding, saved = unet.embed(level), []
    for module in unet.downs:
        h = module(h, embedding) if isinstance(module, Layer) else module(h)
        saved.append(h)
    for module in unet.middle:
        h = module(h, embedding)
    depth, fresh = len(features), True
    for module in unet.ups:
        if not isinstance(module, Layer):
            depth, fresh, h = depth - 1, True, module(h, sizes[depth - 1])  # eq. 9
            continue
        h = torch.cat([h, saved.pop()], 1)
        if fresh and depth:
            told = net.mlp(p)  # eq. 5
            alpha1, alpha2 = net.alpha1[depth - 1](told), net.alpha2[depth - 1](told)
            norm = (alpha1**2 + alpha2**2 + 1e-8).sqrt()
            one, two = ((a.abs() / norm)[:, :, None, None] for a in (alpha1, alpha2))  # eqs. 6, 7
            h = one * features[depth - 1] + two * h  # eq. 8
        h, fresh = module(h, embedding), False
    return unet.out(h)


@pytest.mark.parametrize("form", ["paper", "liif"])
def test_network_equals_the_papers_equations(form) -> None:
    net = stirred(FORMS[form]).double()
    x, lr_up, lr, levels = (t.double() for t in drawn((5, 8), (19, 29)))
    scale = torch.tensor([3.7, 9.0]).double()
    made = net(x, net.encode(lr_up, scale, lr), levels)
    torch.testing.assert_close(made, uncached(net, x, lr, scale, levels), atol=1e-10, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1.3, 3.7, 8.0, 12.0])
def test_proportions_are_normalised_and_never_negative(scale) -> None:
    net = stirred(TINY)
    for alpha1, alpha2 in net.proportions(torch.tensor([scale, 2.0])):
        torch.testing.assert_close(alpha1**2 + alpha2**2, torch.ones_like(alpha1))
        assert alpha1.min() >= 0 and alpha2.min() >= 0
        assert not torch.equal(alpha1[0], alpha1[1])
    widths = [alpha1.shape[1] for alpha1, _ in net.proportions(torch.ones(1))]
    assert widths == [64 + 32, 64 + 64]  # Concat(u_up, u_down) of levels 1 and 2


def test_published_proportions_are_affine_and_signed() -> None:
    net = stirred(FORMS["published"])
    net.alpha1[0].bias.neg_()
    alpha1, alpha2 = net.proportions(torch.tensor([1 + 7 * 0.25]))[0]
    told = [layer.weight[:, 0] * 0.25 + layer.bias for layer in (net.alpha1[0], net.alpha2[0])]
    wanted = [t / (told[0] ** 2 + told[1] ** 2).sqrt() for t in told]
    torch.testing.assert_close(torch.cat([alpha1, alpha2]), torch.stack(wanted))
    assert alpha1.max() < 0


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_every_parameter_and_both_parts_start_equal(form) -> None:
    torch.manual_seed(0)
    net = IDMNet(FORMS[form])
    x, lr_up, lr, levels = drawn((5, 8), (13, 20))
    net(x, net.encode(lr_up, torch.tensor([2.6, 5.0]), lr), levels).square().mean().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad.abs().max() > 1e-7, key
    for layer in (*net.alpha1, *net.alpha2):
        assert torch.equal(layer.bias, torch.ones_like(layer.bias))


def test_layouts_and_bf16(lively) -> None:
    x, lr_up, lr, levels = drawn((6, 10), (21, 35))
    scale = torch.tensor([3.5, 3.5])
    made = lively(x, lively.encode(lr_up, scale, lr), levels)
    last = {"memory_format": torch.channels_last}
    other = lively(x.contiguous(**last), lively.encode(lr_up, scale, lr.contiguous(**last)), levels)
    torch.testing.assert_close(other, made, atol=2e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        cond = lively.encode(lr_up, scale, lr)
        coarse = lively(x, cond, levels.double()).float()
    assert {t.dtype for t in (cond[0], *cond[1][0])} == {torch.bfloat16}
    torch.testing.assert_close(coarse, made, atol=0.05 * made.abs().max().item(), rtol=0)


def test_without_the_small_picture_there_is_nothing_to_read() -> None:
    net = IDMNet(TINY)
    assert net.reads_lr and net.kind == "idm" and net.align == 4 and net.bytes_per_pixel > 0
    with pytest.raises(ValueError, match="give lr"):
        net.encode(torch.zeros(1, 3, 8, 8), torch.ones(1))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"encoder_blocks": 0}, "encoder_blocks 0"),
        ({"encoder_features": 0}, "encoder_features 0"),
        ({"hidden": 0}, "hidden 0"),
        ({"max_scale": 1.0}, "max_scale 1.0"),
        ({"unet": UNetConfig()}, "biggan"),
        ({"unet": replace(TINY.unet, noisy_input=False)}, "noisy_input"),
        ({"unet": replace(TINY.unet, mults=(1,), attention=())}, "mults"),
    ],
)
def test_sizes_that_fit_no_network_are_refused(change, told) -> None:
    with pytest.raises(ValueError, match=told):
        replace(TINY, **change)


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_survive_json(name) -> None:
    config = CONFIGS[name]
    assert IDMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_parameter_counts() -> None:
    counts = {}
    for name in ("idm-16-128", "idm-16-128-published"):
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in IDMNet(CONFIGS[name]).parameters())
    # U-Net and EDSR as published, less what nothing reads there: four hard-coded layers, the
    # upsamplers' modulated convolutions, the CNN's last level, level 0's proportions, mean colours
    unread = 7_998_720 + 6_178_180 + 2_359_808 + 37_184 + 24
    assert counts["idm-16-128-published"] == 115_153_415 + 1_222_171 - unread
    assert counts["idm-16-128"] == 99_957_955
