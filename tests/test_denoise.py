"""--denoise: weights for clean and for real input, and what lies between the two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_real_input import entry_text, listed  # noqa: F401 (a fixture)

from upscale import Upscaler
from upscale.batch.files import Files
from upscale.batch.ledger import settings_of
from upscale.bench.means import means
from upscale.bench.run import run as bench
from upscale.bench.trials import BenchSettings
from upscale.errors import UsageError, WeightsError
from upscale.image import estimate
from upscale.image.compress import lossy_file
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.picture import Picture, quantised
from upscale.image.resize import resize_array
from upscale.model import build, mean
from upscale.pipeline.request import Request, Setup
from upscale.train.networks import start
from upscale.weights import choice, registry, store

SCENE = np.ascontiguousarray(
    read(Path(__file__).parents[1] / "examples" / "parrots.png").rgb[:64, :72]
)
MIX = "0.75 tiny-clean + 0.25 tiny-real"


@pytest.fixture
def pair(tiny_weights, tmp_path, listed) -> tuple[store.Entry, store.Entry]:  # noqa: F811
    """Weights for clean input, listed, and others of their lineage for real input."""
    state, told = store.read(Path(tiny_weights))
    generator = torch.Generator().manual_seed(1)
    for key, value in state.items():
        drawn = torch.randn(value.shape, generator=generator) * value.float().std().nan_to_num(0)
        state[key] = (value.float() + 0.1 * drawn).to(value.dtype)
    path = tmp_path / "made-real.safetensors"
    store.save(path, state, {**told, "scales": [4], "consistency": "off", "std": 0.3})
    both = entry_text("tiny-clean", Path(tiny_weights), "")
    listed(both + entry_text("tiny-real", path, 'input = "real"\nclean = "tiny-clean"'))
    return store.find("tiny-clean"), store.find("tiny-real")


def made(how: Upscaler, rgb: np.ndarray = SCENE, **fields) -> tuple[np.ndarray, dict]:
    result = how(Picture(rgb), **fields)
    return result.picture.rgb, result.report


def test_the_ends_are_the_files_themselves_to_the_bit(pair):
    for name in ("tiny-clean", "tiny-real"):  # either stands for both
        own = Upscaler(weights=name)
        for denoise, entry in enumerate(pair):
            rgb, told = made(own, denoise=denoise)
            alone, plain = made(Upscaler(weights=entry.name))
            np.testing.assert_array_equal(rgb, alone)
            assert told["weights_sha256"] == entry.sha256 and told["denoise"] == denoise
            assert told | {"denoise": None, "seconds": 0} == plain | {"seconds": 0}


def test_between_the_ends_is_the_mean_of_two_pictures(pair):
    own = Upscaler(weights="tiny-clean")
    found = {d: made(own, denoise=d) for d in (0, 0.25, 0.75, 1)}
    told = found[0.25][1]
    assert (told["weights"], told["denoise"], told["consistency_mode"]) == (MIX, 0.25, "blend")
    assert told["weights_sha256"] == "+".join(one.sha256 for one in pair)
    errors = [told["consistency"] for _, told in found.values()]
    assert errors == sorted(errors) and errors[0] < errors[1] < errors[2] < errors[3]
    assert told["nfe"] == own.plan(Picture(SCENE), denoise=0.25).nfe == 4
    drawn = []
    for entry in pair:  # each held to the input in its steps as its file asks, with no last touch
        alone = Upscaler(weights=entry.name)
        plan = replace(alone.plan(Picture(SCENE)), consistency="off")
        drawn.append(alone.run(plan, Picture(SCENE)).picture.rgb)
    for share in (0.25, 0.75):
        mean = (1 - share) * drawn[0] + share * drawn[1]
        np.testing.assert_allclose(found[share][0], mean, atol=1e-5)


def test_progress_is_that_of_both_networks(pair):
    told = []
    made(Upscaler(weights="tiny-clean"), denoise=0.5, on_step=lambda *step: told.append(step))
    assert told == [(0, 2), (1, 2), (1, 2), (2, 2)]


def test_the_projection_puts_back_what_is_not_cleaned(pair):
    """Of the same weights' error about a quarter remains where three are put back."""
    own = Upscaler(weights="tiny-real")
    plan = own.plan(Picture(SCENE), steps=1)
    assert plan.projection == 0
    errors = []
    for projection in (0.0, 0.75):
        result = own.run(replace(plan, projection=projection), Picture(SCENE))
        errors.append(resize_array(result.picture.rgb, SCENE.shape[:2]) - SCENE)
    inner = np.s_[8:-8, 8:-8]  # clipping at black and white, and edges, apart
    ratio = np.abs(errors[1][inner]).mean() / np.abs(errors[0][inner]).mean()
    assert 0.2 < ratio < 0.45  # enlarged and shrunk, an error has lost its highest frequencies


def test_what_the_user_asks_of_consistency_goes_first(pair):
    plan = Upscaler(weights="tiny-clean").plan(Picture(SCENE), denoise=0.5, consistency="project")
    assert (plan.consistency, plan.projection) == ("project", 1.0)
    plan = Upscaler(weights="tiny-clean").plan(Picture(SCENE), denoise=0.5, consistency="colour")
    assert (plan.consistency, plan.projection) == ("colour", 0.0)


def saved(quality: int, rgb: np.ndarray = SCENE) -> Picture:
    return read(lossy_file(quantised(rgb, 8), "JPEG", quality))


def test_the_estimate_sets_it_in_a_few_steps_that_share_their_weights(pair, monkeypatch):
    own = Upscaler()
    monkeypatch.setattr(estimate, "QUALITY", ((95.0, 98.0), (1.0, 0.0)))  # whole ones between
    monkeypatch.setattr(estimate, "gain_of", lambda rgb: None)
    found = {quality: own.plan(saved(quality)) for quality in (98, 97, 96, 95, 90)}
    assert [plan.denoise for plan in found.values()] == [0, 0.25, 0.75, 1, 1]
    assert found[98].weights == "ecdp-photo" and found[95].weights == "tiny-real"
    assert found[96].taken_for == "real" and found[97].taken_for == "clean"
    assert found[97].weights == MIX and any(f"so {MIX} is used" in one for one in found[97].notes)
    other = own.plan(saved(97, SCENE[:, ::-1]))
    assert other.entry == found[97].entry
    mixed = [own.models.model(found[quality].entry) for quality in (97, 96)]
    for (one, _), (again, _) in zip(*(model.parts for model in mixed), strict=True):
        assert one is again  # each file is loaded once
    clean = own.plan(Picture(SCENE))
    assert (clean.denoise, clean.weights, clean.consistency) == (0, "ecdp-photo", "project")
    for input, name in (("clean", "ecdp-photo"), ("real", "tiny-real")):
        plan = Upscaler(input=input).plan(saved(90))
        assert (plan.weights, plan.denoise, plan.taken_for) == (name, None, input)


def test_the_user_s_number_goes_before_the_estimate(pair):
    plan = Upscaler(input="real").plan(saved(60), denoise=0.25)
    assert (plan.weights, plan.taken_for, plan.degradation) == (MIX, None, None)
    assert Upscaler().plan(saved(60), denoise=0).weights == "ecdp-photo"
    assert Upscaler("sr3").plan((20, 30), denoise=0.25).weights == MIX  # of a method that has two


@pytest.mark.parametrize(
    ("setup", "what"),
    [
        ({"method": "bicubic"}, "--method bicubic has none"),
        ({"method": "idm"}, "--method idm has none"),
        ({"domain": "face"}, "--domain face has none"),
        ({"weights": "sr3-photo"}, "weights sr3-photo has none"),
    ],
)
def test_weights_without_a_counterpart_are_told(pair, setup, what):
    with pytest.raises(UsageError, match=f"--denoise needs .*{what}"):
        Upscaler(**setup).plan((20, 30), denoise=0.5)


def test_a_lone_file_has_no_counterpart(tiny_weights):
    with pytest.raises(UsageError, match="--denoise needs"):
        Upscaler(weights=tiny_weights).plan((20, 30), denoise=1)


def test_networks_of_other_depths_are_mixed_and_done_in_tiles_that_leave_no_seam(pair, tmp_path):
    clean, _ = pair
    state, told = store.load(clean)
    small = build(state, told).net
    larger = type(small)(replace(small.config, down=(4, 4, 4), up=(2, 1)))
    start(larger, clean.name)
    for key, value in larger.state_dict().items():  # what is new adds something
        if key not in state:
            value += 0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "grown.safetensors"
    store.save(path, larger.state_dict(), {**told, "architecture": larger.architecture()})
    models = [build(*store.load(entry)) for entry in (clean, store.find(str(path)))]
    for pair_ in (models, models[::-1]):
        mixed = mean(*pair_, 0.25)
        assert mixed.net.halo == larger.halo > small.halo and mixed.networks == 2
    own = Upscaler(weights="tiny-clean")
    own.models.model = lambda entry: mixed
    whole = made(own, consistency="off")[0]
    np.testing.assert_allclose(made(own, consistency="off", tile=128)[0], whole, atol=3e-4)


def test_networks_that_need_other_tiles_are_not_mixed(pair):
    model = build(*store.load(pair[0]))
    other = replace(model, net=type(model.net)(replace(model.net.config, stem=2)))
    with pytest.raises(WeightsError, match="other tiles cannot be mixed"):
        mean(model, other, 0.5)


def test_the_list_says_which_belong_together(tiny_weights, listed):  # noqa: F811
    path = Path(tiny_weights)
    own = listed(entry_text("a", path, 'clean = "b"'))
    with pytest.raises(WeightsError, match=r"\[weights.a\]: clean must be left out"):
        store.entries()
    registry._entries.cache_clear()
    listed(entry_text("a", path, 'input = "real"\nclean = "gone"'))
    with pytest.raises(WeightsError, match=rf"{own.name}: \[weights.a\]: no weights named gone"):
        choice.pair_of(store.find("a"))


def test_a_ledger_and_a_cache_know_all_that_may_be_mixed(pair):
    both = sorted(one.sha256 for one in pair)
    named = choice.hashes(None, "tiny-clean", 4, "photo", mixing=True)
    assert named == [one.sha256 for one in pair]
    shipped = store.find("sr3-photo").sha256  # which knows 4x too
    assert choice.hashes("sr3", None, 4, "photo", mixing=True) == sorted([*both, shipped])
    assert set(both) < set(choice.hashes(None, None, 4, "photo"))  # of every picture its own
    settings = [settings_of(Setup("sr3"), Request(denoise=d), Files()) for d in (None, 0.5, 1)]
    assert len(set(settings)) == 3


def test_bench_measures_several(pair, tmp_path):
    write(Picture(SCENE), tmp_path / "a.png")
    settings = BenchSettings(
        methods=("sr3",), weights=("tiny-clean",), denoises=(0, 0.25, 1), metrics=("psnr_y",)
    )
    rows = bench(tmp_path, settings)
    assert [row["denoise"] for row in rows] == [0, 0.25, 1]
    assert [row["weights"] for row in rows] == ["tiny-clean", MIX, "tiny-real"]
    assert [line["denoise"] for line in means(rows)] == [0, 0.25, 1]


def test_the_bundled_two_can_be_mixed():
    plan = Upscaler("ecdp").plan((20, 30), denoise=0.5)
    assert plan.weights == "0.5 ecdp-photo + 0.5 ecdp-photo-real" and plan.nfe == 4
