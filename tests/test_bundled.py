"""The weights in the package, on the picture in the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from upscale.errors import UsageError
from upscale.image import faces
from upscale.image.decode import read
from upscale.image.picture import Picture, quantised
from upscale.image.resize import resize_array
from upscale.metrics.pixel import grid_ratio, psnr_y
from upscale.pipeline.generator import Generator
from upscale.pipeline.upscaler import Upscaler
from upscale.weights.registry import entries

pytestmark = pytest.mark.packaged

PARROTS = Path(__file__).parent.parent / "examples" / "parrots.png"


@pytest.fixture(scope="module")
def parrots() -> Picture:
    return read(PARROTS)


@pytest.fixture(scope="module")
def default(parrots):
    return Upscaler()(parrots)


def test_sizes_are_as_small_as_promised() -> None:
    limits = {"ecdp-photo": 5, "ecdp-photo-x2": 5, "ecdp-photo-real": 12, "regression-photo": 5}
    limits |= {"ecdp-face-x8": 5, "regression-face-x8": 5}
    limits |= {"idm-photo": 6, "idm-face": 6, "liif-photo": 2, "ddpm-face-16": 4}
    for name, mebibytes in limits.items():
        assert entries()[name].size <= mebibytes * 2**20
    files = {entry.bundled: entry.size for entry in entries().values() if entry.bundled}
    assert sum(files.values()) < 56 * 2**20


def test_default_run(default) -> None:
    report = default.report
    assert (report["method"], report["weights"]) == ("ecdp", "ecdp-photo")
    assert report["size_out"] == [512, 768] and report["nfe"] <= 4
    assert report["lr_psnr"] > 48 and report["consistency"] < 5
    assert grid_ratio(default.picture.rgb) < 1.5


@pytest.mark.parametrize(
    "method", ["ecdp", "sr3", "idm", "regression", "liif", "bicubic", "lanczos"]
)
@pytest.mark.parametrize("size", [(40, 1), (1, 40), (1, 1), (40, 2), (130, 1)])
def test_thin_pictures_shrunk_equal_the_input(method, size) -> None:
    rng = np.random.default_rng(0)
    grey = np.linspace(0.2, 0.8, max(size))[:, None] + 0.03 * rng.standard_normal((max(size), 2))
    grey = (grey[:, : min(size)] if size[0] >= size[1] else grey[:, : size[0]].T).astype(np.float32)
    opacity = np.linspace(0.3, 1, grey.size, dtype=np.float32).reshape(size)
    picture = Picture(np.repeat(grey[..., None], 3, 2), alpha=opacity, bits=16, grey=True)
    made = Upscaler(method)(picture, scale=4)
    assert made.report["lr_psnr"] > 38
    assert np.ptp(made.picture.rgb, axis=2).max() < 1e-6
    if min(size) == 1:  # one line in, equal lines out
        again = resize_array(made.picture.alpha, size)
        assert np.abs(again - opacity).max() < 0.01


@pytest.mark.parametrize("method", ["ecdp", "sr3", "idm", "regression", "liif"])
def test_tiles_give_the_picture_that_the_whole_gives(parrots, method) -> None:
    rgb = np.ascontiguousarray(parrots.rgb[:48, :64])
    upscaler = Upscaler(method, dtype="fp32", input="clean")
    whole = upscaler(Picture(rgb), tile=0).picture.rgb
    tiled = upscaler(Picture(rgb), tile=128)
    assert tiled.report["tile"] == 128
    apart = np.abs(np.rint(tiled.picture.rgb * 255) - np.rint(whole * 255))
    assert apart.max() <= 1 and apart.mean() <= 1e-4


def test_tiles_leave_no_seam_on_a_photograph(parrots, default) -> None:
    tiled = Upscaler()(parrots, tile=256)
    assert tiled.report["tile"] == 256
    error = np.abs(tiled.picture.rgb - default.picture.rgb).mean(2)
    assert -10 * np.log10((error**2).mean()) > 45
    # energy of the horizontal steps around the columns where tiles meet, against all others
    steps = np.abs(np.diff(tiled.picture.rgb, axis=1)).mean((0, 2))
    whole = np.abs(np.diff(default.picture.rgb, axis=1)).mean((0, 2))
    seams = np.r_[224:288, 480:544]
    assert steps[seams].sum() / whole[seams].sum() == pytest.approx(1, abs=0.03)


def test_projection_cures_the_colour_shift(parrots) -> None:
    def shift(mode: str) -> float:
        made = Upscaler()(parrots, consistency=mode).picture.rgb
        blocks = resize_array(made, (16, 24)) - resize_array(parrots.rgb, (16, 24))
        return float(np.abs(blocks).mean() * 255)

    assert shift("project") < 0.1 < shift("off")


def test_regression_is_nearer_to_the_truth_than_bicubic(parrots) -> None:
    small = np.clip(resize_array(parrots.rgb, (64, 96)), 0, 1).astype(np.float32)
    scores = {
        name: psnr_y(Upscaler(name)(Picture(small), scale=2).picture.rgb, parrots.rgb, 2)
        for name in ("bicubic", "regression")
    }
    assert scores["regression"] > scores["bicubic"] + 0.5


@pytest.mark.parametrize(
    ("domain", "scale", "name"),
    [
        ("photo", 4, "ecdp-photo"),
        ("photo", 3, "ecdp-photo"),
        ("photo", 2.1, "ecdp-photo"),
        ("photo", 2, "ecdp-photo-x2"),
        ("photo", 1.1, "ecdp-photo-x2"),
        ("photo", 5, "ecdp-photo"),
        ("photo", 12, "ecdp-photo"),
        ("face", 8, "sr3-face-x8"),
        ("face", 4, "sr3-face-x8"),
        ("face", 5.3, "sr3-face-x8"),
        ("face", 12, "sr3-face-x8"),
        ("face", 1.5, "idm-face"),
    ],
)
def test_who_names_nothing_gets_what_measured_best(parrots, domain, scale, name) -> None:
    cut = Picture(np.ascontiguousarray(parrots.rgb[:16, :16]))
    report = Upscaler(domain=domain)(cut, scale=scale).report
    assert report["weights"] == name
    assert len(report["stages"]) == (2 if name == "ecdp-photo" and scale > 4 else 1)


def test_a_result_at_2x_is_made_in_blocks_where_one_at_4x_is() -> None:
    """A network of half the stem holds four times as much of each pixel."""
    for size, blocks in (((540, 960), True), ((480, 640), False)):
        for scale in (2, 4):
            assert bool(Upscaler().plan(size, scale=scale).blocks) == blocks


def test_a_domain_without_weights_is_told() -> None:
    with pytest.raises(UsageError, match="no domain 'cat'; choose from photo, face"):
        Upscaler(domain="cat")


@pytest.mark.parametrize("name", ["sr3-face-x8", "idm-face"])
def test_faces_grow_from_16_to_128(parrots, name) -> None:
    rgb = np.clip(resize_array(parrots.rgb[:, 90:190], (16, 16)), 0, 1).astype(np.float32)
    result = Upscaler(weights=name)(Picture(rgb), scale=8)
    assert result.picture.size == (128, 128) and result.report["notes"] == []
    assert result.report["consistency"] < 5


@pytest.mark.slow
def test_faces_from_noise_look_like_faces() -> None:
    """To the eye of another program, and each like no other."""
    generator = Generator(dtype="fp32")
    made = generator(range(6), cascade=generator.cascade())
    pictures = [one.picture.rgb for one in made]
    assert all(one.report["size"] == [128, 128] and one.report["nfe"] == 51 for one in made)
    found = [faces.detector()(quantised(rgb, 8), 1) for rgb in pictures]
    assert sum(len(boxes) == 1 for boxes in found) >= 5
    apart = [np.abs(a - b).mean() for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(apart) > 0.05


def test_faces_from_noise_grow_by_the_weights_for_each_magnification() -> None:
    generator = Generator(dtype="fp32")
    names = {side: [level.name for level in generator.cascade(side)] for side in (256, 512, 1024)}
    first = "sr3-face-x8"
    assert names == {
        256: [first, "ecdp-photo-x2"],
        512: [first, "ecdp-photo"],
        1024: [first, "ecdp-photo", "ecdp-photo-x2"],
    }


def test_hundred_steps_of_sr3_as_in_the_readme(parrots) -> None:
    cut = Picture(np.ascontiguousarray(parrots.rgb[40:48, 100:110]))
    report = Upscaler("sr3")(cut, scale=8, steps=100, sampler="ddpm").report
    assert report["nfe"] == 100 + 50 and report["size_out"] == [64, 80]  # in two stages


@pytest.mark.parametrize("scale", [1.3, 3.7])
def test_idm_at_fractions_is_true_to_its_input(parrots, scale) -> None:
    cut = Picture(np.ascontiguousarray(parrots.rgb[:49, :61]))
    result = Upscaler("idm")(cut, scale=scale)
    assert result.picture.size == tuple(int(np.floor(side * scale + 0.5)) for side in (49, 61))
    assert result.report["weights"] == "idm-photo" and result.report["consistency"] < 5


def test_idm_knows_no_special_magnification(parrots) -> None:
    """Whole ones are as near to their neighbours as any are."""
    cut = Picture(np.ascontiguousarray(parrots.rgb[30:94, 20:84]))
    upscaler = Upscaler("idm")

    def agreement(*scales: float) -> float:
        made = (upscaler(cut, scale=scale).picture.rgb for scale in scales)
        a, b = (resize_array(rgb, (256, 256)) for rgb in made)
        return -10 * np.log10(((a - b) ** 2).mean())

    elsewhere = agreement(3.94, 3.95)
    assert elsewhere > 36
    for pair in ((3.99, 4.0), (4.0, 4.01)):
        assert agreement(*pair) > elsewhere - 4
    assert agreement(3.99, 4.01) > agreement(3.95, 3.99) - 1  # two pixels of the result each
