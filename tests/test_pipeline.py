"""The whole way from picture to picture, with a tiny network."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from upscale.diffusion.table import SAMPLERS
from upscale.errors import NumericalError, OutOfMemory, UsageError, WeightsError
from upscale.image.picture import Picture
from upscale.image.resize import resize_array
from upscale.model import build
from upscale.nets.compact import CompactNet
from upscale.nets.ecdp import ECDPConfig, ECDPNet
from upscale.pipeline import consistency
from upscale.pipeline.plan import output_size
from upscale.pipeline.upscaler import Upscaler
from upscale.weights import store


@pytest.fixture
def upscaler(tiny_weights: str) -> Upscaler:
    return Upscaler(weights=tiny_weights, device="cpu", dtype="fp32")


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (2, 60), (17, 23)])
@pytest.mark.parametrize("scale", [1, 1.3, 3.7, 8])
def test_any_size_at_any_scale_is_exact(upscaler: Upscaler, size, scale) -> None:
    rgb = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    result = upscaler(Picture(rgb), scale=scale)
    wanted = tuple(int(np.floor(side * scale + 0.5)) for side in size)
    assert result.picture.size == wanted
    assert result.report["size_out"] == list(wanted)
    assert np.isfinite(result.picture.rgb).all()


def test_exact_size_and_longest_side(upscaler: Upscaler, scene) -> None:
    assert upscaler(Picture(scene), size=(333, 100)).picture.size == (333, 100)
    assert upscaler(Picture(scene), max_side=101).picture.size == (101, 74)


def test_scale_past_the_weights_is_a_cascade_and_says_so(upscaler: Upscaler) -> None:
    rgb = np.random.default_rng(0).random((9, 5, 3), dtype=np.float32)
    report = upscaler(Picture(rgb), scale=16, steps=4).report
    assert report["stages"] == [[36, 20], [144, 80]]
    assert report["nfe"] == 4 + 2  # fewer steps at the high resolution
    assert "two stages" in report["notes"][0]


def test_weights_for_one_scale_are_followed_by_a_resize(tiny_weights, tmp_path, scene) -> None:
    state, metadata = store.read(tiny_weights)
    store.save(tmp_path / "x4.safetensors", state, {**metadata, "scales": [4.0]})
    result = Upscaler(weights=str(tmp_path / "x4.safetensors"))(Picture(scene), scale=3)
    assert result.picture.size == (180, 132)
    assert result.report["stages"] == [[240, 176]]
    assert "then resized" in result.report["notes"][0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0.5},
        {"scale": 17.0},
        {"scale": float("nan")},
        {"exact": (0, 5)},
        {"exact": (5, 5)},
        {"scale": 2.0, "max_side": 90},
    ],
)
def test_sizes_that_are_no_enlargement_are_refused(wrong) -> None:
    with pytest.raises(UsageError):
        output_size((60, 44), **wrong)


def test_same_seed_same_picture_and_another_seed_another(upscaler: Upscaler, scene) -> None:
    def make(**settings) -> np.ndarray:
        return upscaler(Picture(scene), scale=2, **settings).picture.rgb

    first = make(seed=5)
    make(seed=6)  # what was done between must not matter
    np.testing.assert_array_equal(first, make(seed=5))
    assert np.abs(first - make(seed=6)).max() > 1e-3
    assert np.abs(first - make(seed=5, sample=1)).max() > 1e-3


def test_tiles_change_nothing_that_can_be_seen(upscaler: Upscaler) -> None:
    rgb = np.random.default_rng(1).random((70, 90, 3), dtype=np.float32)
    whole = upscaler(Picture(rgb), scale=4, steps=3, tile=0)
    parts = upscaler(Picture(rgb), scale=4, steps=3, tile=192, overlap=96)
    assert (whole.report["tile"], parts.report["tile"]) == (0, 192)
    assert np.abs(whole.picture.rgb - parts.picture.rgb).max() < 2e-3


@pytest.mark.parametrize("how", [{}, {"overlap": 0}, {"consistency": "off", "sampler": "ddpm"}])
def test_tiles_of_a_network_with_a_halo_are_what_the_whole_is(upscaler, how) -> None:
    rgb = np.random.default_rng(1).random((70, 90, 3), dtype=np.float32)
    whole = upscaler(Picture(rgb), scale=4, steps=3, tile=0, **how).picture.rgb
    parts = upscaler(Picture(rgb), scale=4, steps=3, tile=128, **how)
    assert parts.report["tile"] == 128
    assert np.abs(whole - parts.picture.rgb).max() < 1e-5


def test_tiles_do_not_depend_on_free_memory_unless_a_note_says_so(upscaler, monkeypatch) -> None:
    rgb = np.random.default_rng(1).random((100, 100, 3), dtype=np.float32)
    found = {}
    for free in (10, 100, 0.4):
        monkeypatch.setattr(
            "upscale.pipeline.plan.available_memory", lambda device, free=free: int(free * 2**30)
        )
        found[free] = upscaler.plan(Picture(rgb), scale=8)
    assert found[10] == replace(found[100], degradation=found[10].degradation)
    assert found[10].tile == 0 and not found[10].notes
    assert found[0.4].tile and "little memory is free" in found[0.4].notes[-1]


def test_an_overlap_wider_than_the_tiles_is_made_to_fit(upscaler: Upscaler, scene) -> None:
    assert upscaler(Picture(scene), scale=4, tile=128, overlap=500).picture.size == (240, 176)


def test_temperature_is_the_weights_own_unless_given(tiny_weights, tmp_path, scene) -> None:
    state, metadata = store.read(tiny_weights)
    metadata["defaults"]["temperature"] = 0.25
    store.save(tmp_path / "cool.safetensors", state, metadata)
    cool = Upscaler(weights=str(tmp_path / "cool.safetensors"))

    def told(**settings) -> float:
        return cool(Picture(scene), scale=2, **settings).report["temperature"]

    assert told() == 0.25 and told(temperature=0.7) == 0.7
    assert told(sampler="ddpm") == 1.0  # ancestral samplers bring noise of their own


def test_projection_brings_the_output_back_to_the_input(upscaler: Upscaler, scene) -> None:
    scores = {
        mode: upscaler(Picture(scene), scale=4, consistency=mode).report["consistency"]
        for mode in ("project", "off")
    }
    assert scores["project"] < 5 < scores["off"]


def test_reported_consistency_is_the_outputs(upscaler: Upscaler, scene) -> None:
    result = upscaler(Picture(scene), scale=4)
    error = np.mean((resize_array(result.picture.rgb, (60, 44)) - scene) ** 2)
    assert result.report["consistency"] == pytest.approx(error * 1e5, abs=1e-3)


def chessboard(size: int) -> np.ndarray:
    board = np.indices((size, size)).sum(0) % 2
    return np.repeat(board[..., None], 3, 2).astype(np.float32)


@pytest.mark.parametrize("projection", [1.0, 0.5, 0.25, 0.0])
def test_a_result_that_contradicts_its_report_is_told_or_refused(projection, scene) -> None:
    free = projection < 0.5
    spread = consistency.variance(scene) + (1e-2 if free else 1e-3)
    assert consistency.variance(scene) == pytest.approx(scene.var((0, 1)).mean(), abs=1e-6)
    assert consistency.doubts(0.45 * spread, scene, projection) == []
    assert "far from the input" in consistency.doubts(0.95 * spread, scene, projection)[0]
    with pytest.raises(NumericalError, match="nothing like the picture"):
        consistency.doubts(1.05 * spread, scene, projection)
    assert (
        consistency.doubts(0.004 if free else 4e-4, np.ones_like(scene), projection) == []
    )  # flat


@pytest.mark.parametrize("mode", ["project", "off"])
def test_the_hardest_pictures_are_not_doubted(upscaler: Upscaler, mode) -> None:
    noise = np.random.default_rng(0).random((24, 24, 3), dtype=np.float32).round()
    for rgb in (chessboard(24), noise, chessboard(24) * 0, np.ones((3, 3, 3), np.float32)):
        notes = upscaler(Picture(rgb), scale=4, consistency=mode).report["notes"]
        assert not any("far from" in note for note in notes)


def test_a_network_that_draws_something_else_is_refused(upscaler, scene, monkeypatch) -> None:
    def inverted(self, x, cond, c_noise):
        return torch.full_like(x, 40.0) * torch.sign(x)

    monkeypatch.setattr(CompactNet, "forward", inverted)
    with pytest.raises(NumericalError, match="nothing like the picture"):
        upscaler(Picture(scene), scale=4, consistency="off")


def test_report_is_json(upscaler: Upscaler, scene) -> None:
    report = json.loads(json.dumps(upscaler(Picture(scene), scale=2).report))
    assert report["method"] == "sr3" and len(report["weights_sha256"]) == 64


def test_what_a_picture_carries_is_carried_over(upscaler: Upscaler, scene) -> None:
    alpha = np.zeros(scene.shape[:2], np.float32)
    alpha[10:, 5:] = 1
    source = Picture(scene, alpha=alpha, bits=16, icc=b"icc", exif=b"exif", format="TIFF")
    made = upscaler(source, scale=2).picture
    assert (made.bits, made.icc, made.exif, made.format) == (16, b"icc", b"exif", "TIFF")
    assert made.alpha.shape == made.size and made.alpha.max() == 1 and made.alpha.min() == 0


def test_colour_under_full_transparency_does_not_bleed(upscaler: Upscaler) -> None:
    rgb = np.full((24, 20, 3), 0.5, np.float32)
    alpha = np.ones((24, 20), np.float32)
    alpha[:, 10:] = 0
    pictures = []
    for hidden in (0.0, 1.0):
        rgb[:, 10:] = hidden
        pictures.append(Picture(rgb.copy(), alpha=alpha))
    a, b = (Upscaler("bicubic")(p, scale=4).picture.rgb[:, :40] for p in pictures)
    np.testing.assert_array_equal(a, b)


def test_grey_stays_grey(upscaler: Upscaler, scene) -> None:
    grey = np.repeat(scene.mean(2, keepdims=True), 3, 2)
    made = upscaler(Picture(grey, grey=True), scale=2).picture
    assert made.grey and np.ptp(made.rgb, axis=2).max() == 0


def test_memory_running_out_makes_the_tiles_smaller(upscaler, scene, monkeypatch) -> None:
    forward = CompactNet.forward

    def small_only(self, x, cond, c_noise):
        if x.shape[-1] > 128 + 2 * 80:  # a tile with its halo
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, cond, c_noise)

    monkeypatch.setattr(CompactNet, "forward", small_only)
    result = upscaler(Picture(scene), scale=8, tile=0)
    assert result.report["tile"] == 128
    assert any("tiles of 128" in note for note in result.report["notes"])
    monkeypatch.undo()
    alone = upscaler(Picture(scene), scale=8, tile=128)
    np.testing.assert_array_equal(result.picture.rgb, alone.picture.rgb)  # nothing stale is left


def test_memory_that_never_suffices_is_an_error(upscaler, scene, monkeypatch) -> None:
    def fail(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(CompactNet, "forward", fail)
    with pytest.raises(OutOfMemory, match="try a smaller --scale"):
        upscaler(Picture(scene), scale=8)


def test_a_nan_is_never_a_picture(upscaler, scene, monkeypatch) -> None:
    monkeypatch.setattr(CompactNet, "forward", lambda self, x, cond, c_noise: x * float("nan"))
    with pytest.raises(NumericalError):
        upscaler(Picture(scene), scale=2)


@pytest.mark.parametrize("name", ["bicubic", "lanczos"])
def test_methods_without_a_network(name: str, scene) -> None:
    made = Upscaler(name)(Picture(scene), scale=2.5)
    wanted = np.clip(resize_array(scene, (150, 110), name), 0, 1)
    np.testing.assert_allclose(made.picture.rgb, wanted, atol=2e-6)
    assert made.report["nfe"] == 0 and made.report["weights"] is None


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm-posterior", "ddim", "heun", "dpmpp2m"])
@pytest.mark.parametrize("spacing", ["logsnr", "phi", "t", "beta"])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_sampler_on_every_schedule(upscaler, sampler, spacing, steps) -> None:
    rgb = np.random.default_rng(2).random((12, 10, 3), dtype=np.float32)
    seen: list[tuple[int, int]] = []
    report = upscaler(
        Picture(rgb), scale=2, sampler=sampler, spacing=spacing, steps=steps,
        on_step=lambda done, total: seen.append((done, total)),
    ).report  # fmt: skip
    assert report["nfe"] == (2 * steps - 1 if sampler == "heun" else steps)
    assert seen == [(i + 1, steps) for i in range(steps)]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sampler": "euler"}, "no sampler 'euler'; choose from ddpm"),
        ({"spacing": "x"}, "no spacing 'x'; choose from logsnr"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"consistency": "maybe"}, "choose from project, blend, colour, off"),
        ({"tile": 5}, "at least 128"),
        ({"temperature": -1.0}, "--temperature"),
        ({"overlap": -1}, "--overlap"),
    ],
)
def test_settings_that_make_no_sense_are_named(upscaler, scene, settings, message) -> None:
    with pytest.raises(UsageError, match=message):
        upscaler(Picture(scene), scale=2, **settings)


def test_weights_of_another_method_are_refused(tiny_weights: str) -> None:
    with pytest.raises(UsageError, match="are for --method sr3"):
        Upscaler("regression", weights=tiny_weights)
    with pytest.raises(UsageError, match="lpips-alex are a metric's network"):
        Upscaler(weights="lpips-alex")


@pytest.mark.parametrize("std", [0, -1.0])
def test_a_std_that_is_not_positive_is_refused(tiny_weights, std) -> None:
    state, metadata = store.read(tiny_weights)
    with pytest.raises(WeightsError, match="std"):
        build(state, {**metadata, "std": std})


def test_weights_that_do_not_fit_their_description_are_refused(tiny_weights) -> None:
    state, metadata = store.read(tiny_weights)
    state.pop("head3.bias")
    with pytest.raises(WeightsError, match=r"head3\.bias"):
        build(state, metadata)
    with pytest.raises(WeightsError, match="cannot build"):
        build(state, {**metadata, "architecture": {"kind": "other"}})


def test_plan_promises_what_is_done(upscaler: Upscaler, scene) -> None:
    plan = upscaler.plan((60, 44), scale=4, steps=3, tile=128)
    report = upscaler(Picture(scene), scale=4, steps=3, tile=128).report
    assert (list(plan.size_out), plan.nfe, plan.tile) == (
        report["size_out"], report["nfe"], report["tile"],
    )  # fmt: skip
    assert plan.tiles > 1 and plan.memory > 0


def test_public_names_are_there_and_the_docstrings_example_works(tiny_weights, tmp_path, scene):
    import upscale

    for name in upscale.__all__:
        assert getattr(upscale, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        upscale.nonsense  # noqa: B018
    result = upscale.Upscaler(weights=tiny_weights)(upscale.Picture(scene), scale=2)
    upscale.write(result.picture, tmp_path / "out.png")
    assert upscale.read(tmp_path / "out.png").size == (120, 88)


# --- ECDP ---------------------------------------------------------------------------------------


@pytest.fixture
def ecdp(two_headed_weights: str) -> Upscaler:
    return Upscaler(weights=two_headed_weights, device="cpu", dtype="fp32")


def changed(weights_file: str, path, **metadata) -> Upscaler:
    """The same weights with another description."""
    state, own = store.read(weights_file)
    store.save(path / "changed.safetensors", state, {**own, **metadata})
    return Upscaler(weights=str(path / "changed.safetensors"), device="cpu", dtype="fp32")


SMALL = np.random.default_rng(2).random((12, 10, 3), dtype=np.float32)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"rk45"}))
def test_two_heads_with_every_sampler(ecdp, sampler) -> None:
    report = ecdp(Picture(SMALL), scale=3, sampler=sampler, steps=3).report
    assert (report["sampler"], report["steps"], report["nfe"]) == (
        sampler,
        3,
        SAMPLERS[sampler].calls(3),
    )
    assert report["size_out"] == [36, 30] and report["parametrisation"] == "hybrid"
    assert "rtol" not in report


def test_their_own_sampler_is_the_default(ecdp) -> None:
    report = ecdp(Picture(SMALL), scale=3).report
    assert (report["method"], report["sampler"], report["nfe"]) == ("ecdp", "midpoint", 4)


def test_the_adaptive_sampler_reports_its_calls_and_tolerances(ecdp) -> None:
    seen: list[tuple[int, int]] = []
    result = ecdp(
        Picture(SMALL), scale=3, sampler="rk45", rtol=1e-2, atol=2e-2,
        on_step=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    report = json.loads(json.dumps(result.report))
    assert report["steps"] is None and report["nfe"] > 10
    assert (report["rtol"], report["atol"]) == (1e-2, 2e-2)
    assert seen == sorted(seen) and seen[-1] == (100, 100)
    assert ecdp.plan((12, 10), scale=3, sampler="rk45").nfe == 0  # not known beforehand
    finer = ecdp(Picture(SMALL), scale=3, sampler="rk45").report["nfe"]  # 1e-3
    assert finer > report["nfe"]


def test_the_adaptive_sampler_works_in_tiles(ecdp) -> None:
    picture, how = Picture(np.tile(SMALL, (3, 3, 1))), {"scale": 4, "sampler": "rk45"}
    loose = {"rtol": 0.1, "atol": 0.1}
    whole = ecdp(picture, tile=0, **how, **loose)
    parts = ecdp(picture, tile=128, overlap=64, **how, **loose)
    assert parts.report["tile"] == 128
    assert np.abs(whole.picture.rgb - parts.picture.rgb).max() < 0.02  # steps differ a little


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"sampler": "rk45", "steps": 4}, "rk45 chooses its own steps: give --rtol and --atol"),
        ({"rtol": 0.0}, "--rtol and --atol must be above 0"),
        ({"atol": -1e-3}, "--rtol and --atol must be above 0"),
        ({"rtol": float("nan")}, "--rtol and --atol must be above 0"),
        ({"parametrisation": "hybrid:-1"}, "--parametrisation: the power of hybrid:-1"),
        ({"parametrisation": "hybridx"}, "--parametrisation: no parametrisation 'hybridx'"),
        ({"parametrisation": "eps"}, "--parametrisation eps: .* was trained for hybrid"),
    ],
)
def test_settings_that_ecdp_cannot_follow_are_named(ecdp, settings, told) -> None:
    with pytest.raises(UsageError, match=told):
        ecdp(Picture(SMALL), scale=3, **settings)


def test_heads_can_be_read_in_another_way(ecdp) -> None:
    made = {None: ecdp(Picture(SMALL), scale=3)}
    for name in ("hybrid", "hybrid-eps", "hybrid-x0", "hybrid:2"):
        made[name] = ecdp(Picture(SMALL), scale=3, parametrisation=name)
        assert made[name].report["parametrisation"] == name
    rgb = {name: result.picture.rgb for name, result in made.items()}
    np.testing.assert_array_equal(rgb[None], rgb["hybrid"])
    for a, b in (("hybrid", "hybrid-eps"), ("hybrid-eps", "hybrid-x0"), ("hybrid", "hybrid:2")):
        assert np.abs(rgb[a] - rgb[b]).max() > 1e-4
    np.testing.assert_array_equal(rgb["hybrid"], ecdp(Picture(SMALL), scale=3).picture.rgb)


def test_one_head_cannot_be_read_as_two(upscaler, scene) -> None:
    with pytest.raises(UsageError, match="trained for v, and has one head"):
        upscaler(Picture(scene), scale=2, parametrisation="hybrid-x0")
    report = upscaler(Picture(scene), scale=2, parametrisation="v").report  # its own
    assert report["parametrisation"] == "v"


@pytest.mark.parametrize("std", [0, -0.2, "0.2", [0.2]])
def test_a_std_of_none_is_refused_before_any_picture(two_headed_weights, tmp_path, std) -> None:
    with pytest.raises(WeightsError, match=r"the weights' std is .*: it must be a number above 0"):
        changed(two_headed_weights, tmp_path, std=std)(Picture(SMALL), scale=3)


def test_steps_that_are_not_taken_are_told(ecdp) -> None:
    plan = ecdp.plan((12, 10), scale=3, sampler="once", steps=3)
    assert plan.nfe == 1
    assert any(note.startswith("--steps 3 changes nothing: ") for note in plan.notes)
    assert not ecdp.plan((12, 10), scale=3, sampler="once", steps=1).notes


@pytest.mark.parametrize("sampler", ["midpoint", "heun-phi", "rk45"])
def test_a_flow_that_is_not_finite_gives_no_picture(ecdp, monkeypatch, sampler) -> None:
    forward = CompactNet.forward

    def broken(self, x, cond, c_noise):
        raw = forward(self, x, cond, c_noise)
        return raw * float("nan") if float(c_noise[0]) > 0.5 else raw

    monkeypatch.setattr(CompactNet, "forward", broken)
    with pytest.raises(NumericalError, match=r"not finite.*no picture is written"):
        ecdp(Picture(SMALL), scale=3, sampler=sampler)


def test_tolerances_that_cannot_be_met_give_no_picture(ecdp) -> None:
    with pytest.raises(NumericalError, match=r"rtol 1e-30, atol 1e-30 .*no picture is written"):
        ecdp(Picture(SMALL), scale=3, sampler="rk45", rtol=1e-30, atol=1e-30)


def test_the_weights_name_the_kernel_of_their_mean(two_headed_weights, tmp_path, ecdp) -> None:
    plain = changed(two_headed_weights, tmp_path, kernel="bicubic-plain")
    how = {"scale": 3, "temperature": 0.0, "consistency": "off"}
    own = ecdp(Picture(SMALL), **how).picture.rgb
    assert np.abs(plain(Picture(SMALL), **how).picture.rgb - own).max() > 1e-3
    same = changed(two_headed_weights, tmp_path, kernel="bicubic")
    np.testing.assert_array_equal(same(Picture(SMALL), **how).picture.rgb, own)
    with pytest.raises(WeightsError, match="kernel is 'nearest': choose from bicubic, lanczos"):
        changed(two_headed_weights, tmp_path, kernel="nearest")(Picture(SMALL), scale=3)


@pytest.fixture
def paper_net(tmp_path) -> Upscaler:
    """A tiny network of the paper's layout, which reads the small picture itself, for 4x."""
    torch.manual_seed(0)
    net = ECDPNet(
        ECDPConfig(
            in_conv=8, channels=(16, 16), blocks=(1, 1), time_channels=8, time_hidden=16,
            encoder_blocks=1, encoder_selection=(0,), encoder_features=8, encoder_growth=4,
        )
    )  # fmt: skip
    metadata = {
        "method": "ecdp", "net": "tiny", "architecture": net.architecture(), "domain": "photo",
        "scales": [4.0], "parametrisation": "hybrid", "std": 0.4, "licence": "test",
        "process": {"kind": "vp-linear"}, "defaults": {"steps": 2},
    }  # fmt: skip
    store.save(tmp_path / "paper.safetensors", net.state_dict(), metadata)
    return Upscaler(weights=str(tmp_path / "paper.safetensors"), device="cpu", dtype="fp32")


PATTERN = np.random.default_rng(4).random((40, 56, 3), dtype=np.float32)


def test_the_papers_network_reads_the_small_picture(paper_net) -> None:
    made = paper_net(Picture(PATTERN[:17, :23]), scale=4)
    assert made.picture.size == (68, 92) and made.report["sampler"] == "heun-phi"
    other = paper_net(Picture(PATTERN[:17, :23]), scale=3)  # made at x4, then resized
    assert other.picture.size == (51, 69) and other.report["stages"] == [[68, 92]]


def test_the_papers_network_in_tiles_reads_their_part_of_it(paper_net, monkeypatch) -> None:
    """With its group norms, whose statistics are each window's own, tiles only come near."""
    how = {"scale": 4, "steps": 1, "consistency": "off"}

    def apart() -> float:
        whole = paper_net(Picture(PATTERN), tile=0, **how)
        parts = paper_net(Picture(PATTERN), tile=128, overlap=64, **how)
        assert (whole.report["tile"], parts.report["tile"]) == (0, 128)
        return np.abs(whole.picture.rgb - parts.picture.rgb).max()

    assert apart() < 0.1
    monkeypatch.setattr(torch.nn.GroupNorm, "forward", lambda self, x: x)
    assert apart() < 2e-3
