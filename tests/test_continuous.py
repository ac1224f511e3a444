"""Networks for every magnification: IDM on the compact network, LIIF, and EDSR beside them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from upscale.errors import UsageError
from upscale.image.picture import Picture
from upscale.nets import idm
from upscale.nets.compact import CompactConfig, CompactNet
from upscale.nets.compact_idm import CompactIDM, CompactIDMConfig
from upscale.nets.idm import IDMNet
from upscale.nets.implicit import Place, repeated, sampled
from upscale.nets.liif import EDSRConfig, EDSRNet, LIIFConfig, LIIFNet
from upscale.pipeline.bands import Enlarging
from upscale.pipeline.upscaler import Upscaler
from upscale.train.config import TrainConfig
from upscale.train.data import Pairs
from upscale.train.grid import grid_loss, phase_loss
from upscale.train.loss import encode
from upscale.train.networks import make_net, start
from upscale.weights import store

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = CompactIDMConfig(
    channels=(16, 16, 16), down=(1, 1, 1), up=(1, 1), encoder=1, head=(8, 8), embedding=16,
    encoder_blocks=1, encoder_features=8, initial=4, branch=8, hidden=16, head_hidden=(8, 8),
)  # fmt: skip
LIIF = LIIFConfig(blocks=1, features=8, hidden=8)
EDSR = EDSRConfig(blocks=1, features=8)
NOISE = torch.tensor([0.6], dtype=torch.float64)


def stirred(net: torch.nn.Module, strength: float = 0.1) -> torch.nn.Module:
    """No weight at zero, so that everything that is told matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(strength * torch.randn(p.shape, generator=generator))
    return net.eval()


def smooth(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, max(1, height // 3), max(1, width // 3), generator=generator)
    return F.interpolate(small * 2 - 1, (height, width), mode="bilinear")


def answer(net: torch.nn.Module, lr: Tensor, size: tuple[int, int], scale: float | None = None):
    lr_up = F.interpolate(lr, size, mode="bilinear")
    scale = (size[0] * size[1] / (lr.shape[2] * lr.shape[3])) ** 0.5 if scale is None else scale
    with torch.no_grad():
        return net(lr_up, net.encode(lr_up, torch.tensor([scale]), lr), NOISE)


def saved(net: torch.nn.Module, method: str, path, scales) -> str:
    store.save(path, net.state_dict(), {
        "method": method, "architecture": net.architecture(), "domain": "photo",
        "scales": scales, "std": 0.2,
        "parametrisation": "v" if method == "idm" else "x0",
        "defaults": {"sampler": "ddim" if method == "idm" else "once",
                     "steps": 2 if method == "idm" else 1, "spacing": "phi"},
    })  # fmt: skip
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder, ranged = tmp_path_factory.mktemp("weights"), {"min": 1, "max": 8}
    return {
        "idm": saved(stirred(CompactIDM(TINY), 0.03), "idm", folder / "i.safetensors", ranged),
        "liif": saved(stirred(LIIFNet(LIIF), 0.03), "liif", folder / "l.safetensors", ranged),
        "edsr": saved(stirred(EDSRNet(EDSR), 0.03), "edsr", folder / "e.safetensors", [4]),
    }


# --- places --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 9), (13, 5), (40, 23), (6, 6)])
def test_sampling_over_all_is_torchs_interpolation(size) -> None:
    x = torch.randn(2, 3, 6, 7)
    place = Place.whole((6, 7), size)
    wanted = F.interpolate(x, size, mode="bilinear")
    torch.testing.assert_close(sampled(x, size, place), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(repeated(x, size, place), F.interpolate(x, size))


@pytest.mark.parametrize("factor", [1.9, 2.5, 3.7])
def test_a_window_is_sampled_as_the_whole_is(factor) -> None:
    x = torch.randn(1, 2, 20, 20)
    size = (round(20 * factor),) * 2
    whole = Place.whole((20, 20), size)
    part = Place(20 - 4 * whole.down, 22 - 5 * whole.across, whole.down, whole.across)
    for how in (sampled, repeated):
        window = how(x[..., 4:, 5:], (10, 8), part)
        torch.testing.assert_close(window, how(x, size, whole)[..., 20:30, 22:30])


def test_the_papers_network_reads_a_window_where_it_lies() -> None:
    for name in ("idm-tiny", "idm-tiny-published"):
        net = IDMNet(idm.CONFIGS[name]).eval()
        lr, factor = smooth(30, 30), 62 / 30
        with torch.no_grad():
            whole = net.initial(lr, (62, 62))
            place = Place(32 - 8 * factor, 16 - 2 * factor, factor, factor)
            part = net.initial(lr[..., 8:, 2:], (16, 16), place)
        inner = slice(4, 12)  # (the encoder's padding is felt outside)
        torch.testing.assert_close(
            part[..., inner, inner], whole[..., 36:44, 20:28], atol=1e-4, rtol=1e-4
        )


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (17, 40), (33, 33)])
@pytest.mark.parametrize("factor", [1.0, 1.3, 3.7, 12.0])
def test_any_size_and_any_magnification(size, factor) -> None:
    net = stirred(CompactIDM(TINY))
    target = tuple(round(side * factor) for side in size)
    raw = answer(net, smooth(*size), target)
    assert raw.shape == (1, 3, *target) and torch.isfinite(raw).all()


def test_input_and_magnification_matter() -> None:
    net, lr = stirred(CompactIDM(TINY)), smooth(12, 12)
    raw = answer(net, lr, (30, 30))
    assert (raw - answer(net, lr, (30, 30), scale=6.0)).abs().max() > 1e-3
    lr_up = F.interpolate(lr, (30, 30), mode="bilinear")
    other = net(lr_up, net.encode(lr_up, torch.tensor([2.5]), smooth(12, 12, seed=1)), NOISE)
    assert (raw - other).abs().max() > 1e-3  # through EDSR, not only through lr_up


def test_inputs_of_several_sizes_go_in_one_batch() -> None:
    net = stirred(CompactIDM(TINY))
    sides, lr_up, scale = (24, 8, 24, 12), smooth(32, 32), torch.tensor([1.33, 4.0, 1.33, 2.67])
    lr = [smooth(side, side, seed=side)[0] for side in sides]
    with torch.no_grad():
        together = net.encode(lr_up.expand(4, -1, -1, -1), scale, lr)[0]
        for i in range(4):
            alone = net.encode(lr_up, scale[i : i + 1], lr[i][None])[0]
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_proportions_are_normalised_and_start_near_the_u_nets_own() -> None:
    net = CompactIDM(TINY)
    for layer in net.proportions:
        alpha1, alpha2 = layer(torch.tensor([[0.0], [0.5], [2.0]]))
        torch.testing.assert_close(alpha1.square() + alpha2.square(), torch.ones(3, 16, 1, 1))
        assert alpha1.min() >= 0 and alpha2.mean() > 0.8


@pytest.mark.parametrize("heads", [1, 2])
def test_compact_weights_are_a_start_for_idm(tmp_path, heads) -> None:
    """What is added says nothing at first; only the proportions are felt a little. Of two heads it
    has the one for the clean target."""
    config = CompactConfig(**{name: getattr(TINY, name) for name in CompactConfig().to_dict()})
    given = stirred(CompactNet(replace(config, heads=heads)))
    path = saved(given, "idm", tmp_path / "plain.safetensors", [4])
    plain = CompactNet(config).eval()
    head = {k: v[-3:] for k, v in given.state_dict().items() if k.startswith("head3.")}
    plain.load_state_dict(given.state_dict() | head)
    net = CompactIDM(TINY).eval()
    fresh = answer(net, smooth(8, 8), (32, 32))
    start(net, path)
    with torch.no_grad():
        for layer in net.proportions:
            layer.mlp[2].weight.zero_()
            layer.mlp[2].bias[:16].zero_()
    lr = smooth(8, 8)
    torch.testing.assert_close(answer(net, lr, (32, 32)), answer(plain, lr, (32, 32)))
    assert (fresh - answer(net, lr, (32, 32))).abs().max() > 0.01


@pytest.mark.parametrize(
    "change, missing",
    [
        ({"conditioning": "encoder"}, "cnn."),
        ({"conditioning": "input"}, "edsr."),
        ({"upsampler": "nearest"}, "rise.0.first"),
        ({"upsampler": "bilinear"}, "rise.0.first"),
    ],
)
def test_ablations_leave_a_part_out(change, missing) -> None:
    net = stirred(CompactIDM(replace(TINY, **change)))
    assert not any(key.startswith(missing) for key in net.state_dict())
    assert any(key.startswith(missing) for key in CompactIDM(TINY).state_dict())
    assert answer(net, smooth(5, 7), (13, 18)).shape == (1, 3, 13, 18)
    assert CompactIDMConfig.from_dict(net.config.to_dict()) == net.config


@pytest.mark.parametrize(
    "change",
    [
        {"conditioning": "encoder"},
        {"conditioning": "input"},
        {"upsampler": "nearest"},
        {"upsampler": "bilinear"},
    ],
)
def test_ablations_of_the_papers_network(change) -> None:
    config = replace(idm.CONFIGS["idm-tiny"], **change)
    net = stirred(IDMNet(config))
    assert answer(net, smooth(5, 7), (13, 18)).shape == (1, 3, 13, 18)
    with pytest.raises(ValueError, match="no ablations"):
        replace(idm.CONFIGS["idm-tiny-published"], **change)


@pytest.mark.parametrize("kind, config", [(CompactIDM, TINY), (IDMNet, idm.CONFIGS["idm-tiny"])])
def test_a_fixed_magnification_is_told_whatever_the_true_one(kind, config) -> None:
    lr = smooth(6, 6)
    fixed, free = stirred(kind(replace(config, fixed_scale=3.0))), stirred(kind(config))
    free.load_state_dict(fixed.state_dict())
    told = answer(fixed, lr, (40, 40))
    torch.testing.assert_close(told, answer(free, lr, (40, 40), scale=3.0))
    assert (told - answer(free, lr, (40, 40))).abs().max() > 1e-3


@pytest.mark.parametrize("config", [TINY, idm.CONFIGS["idm-tiny"]])
def test_unknown_ablations_are_named(config) -> None:
    with pytest.raises(ValueError, match="no conditioning 'both'"):
        replace(config, conditioning="both")
    with pytest.raises(ValueError, match="no upsampler 'cubic'"):
        replace(config, upsampler="cubic")


def test_without_the_small_picture_there_is_nothing_to_read() -> None:
    for net in (CompactIDM(TINY), LIIFNet(LIIF), EDSRNet(EDSR)):
        with pytest.raises(ValueError, match="give lr"):
            net.encode(torch.zeros(1, 3, 8, 8), torch.tensor([4.0]))


# --- regression baselines ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"local_ensemble": False}, {"feature_unfold": False},
                                     {"cell_decode": False}, {"layers": 5}])  # fmt: skip
def test_liif_at_any_coordinate(options) -> None:
    net = stirred(LIIFNet(replace(LIIF, **options)))
    lr = smooth(9, 6)
    coarse, fine = answer(net, lr, (9, 6)), answer(net, lr, (27, 18))
    assert fine.shape == (1, 3, 27, 18)
    if options.get("cell_decode", True) is False:  # the same function of the coordinates
        torch.testing.assert_close(fine[..., 1::3, 1::3], coarse, atol=1e-5, rtol=1e-4)
    else:
        assert (fine[..., 1::3, 1::3] - coarse).abs().max() > 1e-4


@pytest.mark.parametrize("factor", [2, 3, 4, 6, 8])
def test_edsr_at_its_own_magnification(factor) -> None:
    net, lr = stirred(EDSRNet(replace(EDSR, factor=factor))), smooth(5, 7)
    raw = answer(net, lr, (5 * factor, 7 * factor))
    h = net.encoder(lr)
    for conv, step in zip(net.grow, net.steps, strict=True):
        h = F.pixel_shuffle(conv(h), step)
    torch.testing.assert_close(raw, net.last(h))


@pytest.mark.parametrize("factor", [0, 1, 5, 10])
def test_edsr_refuses_other_factors(factor) -> None:
    with pytest.raises(ValueError, match="products of 2 and 3"):
        EDSRConfig(factor=factor)


# --- from a file to a picture --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["idm", "liif", "edsr"])
def test_tiles_agree_with_the_whole_at_a_fraction(files, method) -> None:
    rgb = smooth(90, 70)[0].permute(1, 2, 0).numpy() / 2 + 0.5
    upscaler = Upscaler(weights=files[method])
    assert upscaler.method == method
    how = {"scale": 4 if method == "edsr" else 2.7}
    whole = upscaler(Picture(rgb), tile=0, **how)
    parts = upscaler(Picture(rgb), tile=128, overlap=64, **how)
    assert parts.report["tile"] == 128 and whole.report["tile"] == 0
    assert np.abs(whole.picture.rgb - parts.picture.rgb).max() < 2e-3
    plain = Upscaler("bicubic")(Picture(rgb), **how).picture.rgb
    assert np.abs(whole.picture.rgb - plain).max() > 5e-3  # (the network says something at all)


@pytest.mark.parametrize("size", [(1, 1), (7, 1), (13, 29)])
@pytest.mark.parametrize("scale", [1.3, 3.7, 12.0])
def test_sizes_are_exact(files, size, scale) -> None:
    rgb = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    made = Upscaler(weights=files["idm"])(Picture(rgb), scale=scale).picture
    assert made.size == tuple(int(np.floor(side * scale + 0.5)) for side in size)
    assert np.isfinite(made.rgb).all()


def test_another_aspect_is_followed(files) -> None:
    rgb = np.random.default_rng(0).random((40, 100, 3), dtype=np.float32)
    for method in ("idm", "liif"):
        made = Upscaler(weights=files[method])(Picture(rgb), size=(333, 1000)).picture
        assert made.size == (333, 1000)


def test_past_its_range_idm_extrapolates_and_says_so(files) -> None:
    rgb = np.random.default_rng(0).random((9, 5, 3), dtype=np.float32)
    report = Upscaler(weights=files["idm"])(Picture(rgb), scale=12).report
    assert report["stages"] == [[108, 60]]
    assert "x12 is not what" in report["notes"][0] and "x1 to x8" in report["notes"][0]


def test_one_stage_uses_any_weights_at_any_scale(files) -> None:
    rgb = np.random.default_rng(0).random((9, 5, 3), dtype=np.float32)
    report = Upscaler(weights=files["edsr"])(Picture(rgb), scale=3, one_stage=True).report
    assert report["stages"] == [[27, 15]] and "x3 is not what" in report["notes"][0]
    report = Upscaler(weights=files["edsr"])(Picture(rgb), scale=3).report
    assert report["stages"] == [[36, 20]]


# --- training ------------------------------------------------------------------------------------

PICTURES = [np.random.default_rng(i).integers(0, 256, (80, 96, 3), dtype=np.uint8) for i in (0, 1)]


@pytest.mark.parametrize("law, mean", [("uniform", 4.5), ("log", 3.37)])
def test_magnifications_follow_the_law(law, mean) -> None:
    pairs = Pairs(PICTURES, TrainConfig(method="idm", patch=48, scale_law=law, scale_max=8))
    drawn = torch.cat([pairs.batch(i, 40).scale for i in range(25)])
    assert 1 <= drawn.min() < 1.2 and 7 < drawn.max() <= 8
    assert abs(drawn.mean() - mean) < 0.25


def test_inputs_of_one_side_with_targets_as_large_as_the_scale_says() -> None:
    config = TrainConfig(
        method="idm", patch=64, whole=True, scale_law="uniform", lr_side=8, lr_side_share=0.7
    )
    batches = [Pairs(PICTURES, config).batch(i, 2) for i in range(30)]
    fixed = [b for b in batches if b.hr.shape[-1] < 64]
    assert 12 < len(fixed) < 28
    for batch in fixed:
        assert {x.shape for x in batch.lr} == {(3, 8, 8)} and batch.lr_up.shape == batch.hr.shape
        assert batch.scale.tolist() == pytest.approx([batch.hr.shape[-1] / 8] * 2)
    others = {x.shape[1] for b in batches if b.hr.shape[-1] == 64 for x in b.lr}
    assert len(others) > 5 and max(others) > 20


def test_options_of_the_network_are_given_by_name() -> None:
    def made(options: str, **settings) -> torch.nn.Module:
        return make_net(TrainConfig(method="idm", net_options=options, **settings))

    net = made("conditioning=encoder, upsampler=nearest,encoder_blocks=2", scale_max=6.0)
    assert (net.config.conditioning, net.config.upsampler) == ("encoder", "nearest")
    assert (net.config.encoder_blocks, net.config.max_scale) == (2, 6.0)
    paper = made("fixed_scale=4.5,local_ensemble=yes", net="idm-tiny")
    assert paper.config.fixed_scale == 4.5 and paper.config.local_ensemble is True
    for wrong, told in (
        ("condition=input", "no 'condition'; choose from .*conditioning"),
        ("hidden=many", "--net-options hidden=many: not a whole number"),
        ("upsampler=cubic", "no upsampler 'cubic'"),
    ):
        with pytest.raises(UsageError, match=told):
            made(wrong)
    for net in ("compact", "idm-tiny"):  # it learns where in (1, M] a magnification is
        with pytest.raises(UsageError, match="--scale-max 1 does not go with --method idm"):
            made("", net=net, scale_min=1.0, scale_max=1.0)


def test_lr_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="--lr-side 16 at x8"):
        TrainConfig(method="idm", patch=96, lr_side=16)
    with pytest.raises(UsageError, match="no scale law 'linear'"):
        TrainConfig(scale_law="linear")


@pytest.mark.parametrize("make", [lambda: CompactIDM(TINY), lambda: LIIFNet(LIIF),
                                  lambda: IDMNet(idm.CONFIGS["idm-tiny"])])  # fmt: skip
def test_gradients_reach_every_parameter_with_mixed_scales(make) -> None:
    net = stirred(make()).train()
    config = TrainConfig(method="idm", patch=32, scale_law="uniform", scale_max=8)
    batch = Pairs(PICTURES, config).batch(0, 3)
    assert len({x.shape for x in batch.lr}) > 1
    raw = net(batch.lr_up, encode(net, batch), NOISE.expand(3))
    (raw - batch.hr).abs().mean().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_a_grid_whose_sign_changes_is_seen_by_the_grid_loss() -> None:
    hr = smooth(96, 96) + 0.02 * torch.randn(
        1, 3, 96, 96, generator=torch.Generator().manual_seed(1)
    )
    at = torch.arange(96)
    grid = 0.05 * torch.cos(np.pi / 2 * at) * torch.sign(47.5 - at)[:, None]
    assert float(phase_loss(hr + grid, hr)) < 0.1 * float(phase_loss(hr + grid.abs(), hr))
    clean = float(grid_loss(hr, hr))
    assert clean == 0
    assert float(grid_loss(hr + grid, hr)) > 0.3
    sr = (hr + grid).requires_grad_()
    grid_loss(sr, hr).backward()
    with torch.no_grad():
        assert float(grid_loss(sr - 20 * sr.grad, hr)) < float(grid_loss(sr, hr))


def test_what_bf16_cannot_do_is_done_in_float32(files, monkeypatch) -> None:
    asked, sampled_ = [], Enlarging._sampled

    def broken(self: Enlarging, *args: object) -> torch.Tensor:
        asked.append(self.sampling.dtype)
        made = sampled_(self, *args)
        return made * math.nan if self.sampling.dtype != torch.float32 else made

    monkeypatch.setattr(Enlarging, "_sampled", broken)
    picture = Picture(np.random.default_rng(0).random((7, 3, 3), dtype=np.float32))
    result = Upscaler(weights=files["idm"], dtype="bf16")(picture, scale=2)
    made = result.picture
    assert asked == [torch.bfloat16, torch.float32]
    assert result.report["dtype"] == "fp32" and "done again in fp32" in result.report["notes"][-1]
    plain = Upscaler(weights=files["idm"], dtype="fp32")(picture, scale=2).picture
    assert np.array_equal(made.rgb, plain.rgb)
