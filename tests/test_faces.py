"""Faces in photographs: where they are, cut out upright, laid back, and the whole way."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from upscale.diffusion.tiling import Box
from upscale.errors import UsageError, WeightsError
from upscale.image import faces
from upscale.image.decode import read
from upscale.image.faces import LANDMARKS, Face
from upscale.image.picture import Picture
from upscale.image.resize import resize_array
from upscale.pipeline import faces as drawing
from upscale.pipeline.faces import SMALL, Drawn, aligned, around, blended
from upscale.pipeline.upscaler import Upscaler

HOLDOUT = Path(__file__).parents[2] / "shared" / "data" / "eval" / "faces50" / "HR_128"


def slope(height: int, width: int) -> np.ndarray:
    """(height,width,3): a linear function of the place, which bicubic keeps exactly."""
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    return np.stack([0.1 + y / 100, 0.9 - x / 100, 0.2 + (x + y) / 200], 2)


def tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None]


def test_the_square_is_found_from_five_points() -> None:
    side, angle, centre = 37.0, 0.4, np.array([61.5, 20.25])  # x, y
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    face = faces._placed((LANDMARKS - 0.5) * side @ turn.T + centre)
    assert face.centre == pytest.approx((20.25, 61.5)) and face.side == pytest.approx(side)
    assert face.angle == pytest.approx(angle)


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.2])
def test_a_face_is_cut_out_upright(angle: float) -> None:
    face = Face((26.0, 31.5), 22.0, angle)
    part, within = around(slope(60, 70), face)
    small = aligned(tensor(part), within, SMALL)[0]
    at = (np.arange(SMALL) + 0.5) / SMALL - 0.5
    down, across = np.meshgrid(at * face.side, at * face.side, indexing="ij")
    row = face.centre[0] + across * math.sin(angle) + down * math.cos(angle)
    column = face.centre[1] + across * math.cos(angle) - down * math.sin(angle)
    inside = (slice(2, -2), slice(2, -2))  # antialiasing mirrors at the edge
    assert small[0].numpy()[inside] == pytest.approx((0.1 + row / 100)[inside], abs=2e-3)
    assert small[1].numpy()[inside] == pytest.approx((0.9 - column / 100)[inside], abs=2e-3)


@pytest.mark.parametrize("centre", [(30.0, 35.0), (3.0, 66.0)], ids=["inside", "at the corner"])
def test_what_is_laid_back_lies_where_it_was(centre) -> None:
    face = Face(centre, 20.0, 0.3)
    at = (torch.arange(128) + 0.5) / 128
    upright = torch.stack([*torch.meshgrid(at, at, indexing="ij"), at.expand(128, 128) * 0])[None]
    before = torch.full((1, 3, 180, 280), 9.0)  # 3 and 4 times as large
    made = blended(before.clone(), [Drawn(face, upright)], Box(0, 0, 180, 280), (3.0, 4.0))
    changed = (made != before).any(1)[0].nonzero() + 0.5
    distance = torch.stack([changed[:, 0] / 3 - centre[0], changed[:, 1] / 4 - centre[1]])
    assert 6 < float(distance.norm(dim=0).max()) <= face.side / math.sqrt(2)
    if centre == (30.0, 35.0):
        middle = made[0, :, 90, 140]  # the pixel to the lower right of the face's own middle
        assert middle.numpy() == pytest.approx([0.5, 0.5, 0], abs=0.01)


@pytest.mark.parametrize("angle", [0.6, -0.9])
def test_cut_out_and_laid_back_is_the_picture_itself(angle: float) -> None:
    face = Face((26.0, 31.5), 22.0, angle)
    upright = aligned(tensor(slope(60, 70)), face, 128)
    made = blended(
        torch.zeros(1, 3, 240, 280), [Drawn(face, upright)], Box(0, 0, 240, 280), (4.0, 4.0)
    )
    large = tensor(resize_array(slope(60, 70).astype(np.float32), (240, 280)))
    middle = (..., slice(88, 120), slice(110, 142))  # where the mask is 1
    difference = made[middle] - large[middle]
    assert float(difference.abs().max()) < 1e-3  # what grid_sample's bicubic ripples
    assert difference.mean((2, 3)).abs().max() < 1e-5  # and no part of a pixel's shift


def test_parts_of_a_result_get_the_same_faces_as_all_of_it() -> None:
    rng = torch.Generator().manual_seed(0)
    every = [
        Drawn(Face((20.0, 22.0), 16.0, 0.2), torch.rand((1, 3, 128, 128), generator=rng)),
        Drawn(Face((24.0, 30.0), 14.0, -0.4), torch.rand((1, 3, 128, 128), generator=rng)),
    ]
    before = torch.rand((1, 3, 160, 200), generator=rng)
    whole = blended(before.clone(), every, Box(0, 0, 160, 200), (4.0, 4.0))
    for box in (Box(0, 0, 80, 100), Box(80, 0, 80, 100), Box(60, 90, 50, 110)):
        part = blended(before[(..., *box.at)].clone(), every, box, (4.0, 4.0))
        assert torch.allclose(part, whole[(..., *box.at)], atol=1e-5)
    assert not torch.equal(whole, before)


# --- the whole way --------------------------------------------------------------------------------


@pytest.fixture
def upscaler(tiny_weights: str) -> Upscaler:
    made = Upscaler(weights=tiny_weights, device="cpu", dtype="fp32")
    made._faces_model = made.models.model(made.models.entry(8))
    return made


@pytest.fixture
def one_face(monkeypatch) -> Face:
    face = Face((21.0, 18.0), 15.0, 0.1)
    monkeypatch.setattr(faces, "find", lambda rgb: [face, Face((50.0, 20.0), 90.0, 0.0)])
    return face


def test_a_small_face_is_drawn_again_and_the_rest_is_left(upscaler, one_face, scene) -> None:
    plain = upscaler(Picture(scene), scale=4)
    made = upscaler(Picture(scene), scale=4, faces=True)
    difference = abs(made.picture.rgb - plain.picture.rgb).max(2)
    assert difference[76:92, 64:80].max() > 0.01
    assert difference[160:].max() < 1e-3  # held to the input, so next to it a little differs
    assert made.report["lr_psnr"] > 50
    assert made.report["faces"] == [{"centre": [21.0, 18.0], "side": 15.0, "angle": 5.7}]
    assert "1 face is larger" in " ".join(made.report["notes"])
    assert "faces" not in plain.report


def test_blocks_have_the_faces_that_the_whole_has(upscaler, one_face, scene, monkeypatch) -> None:
    from upscale.pipeline import blocks, plan

    wide = Picture(np.tile(scene, (2, 4, 1)))
    whole = upscaler(wide, scale=2, faces=True)
    monkeypatch.setattr(plan, "FROM_PIXELS", 1000)
    monkeypatch.setattr(plan, "blocks_of", lambda *a: blocks.blocks_of(*a[:3], 192, *a[4:]))
    planned = upscaler.plan(wide, scale=2, faces=True)
    assert sum(map(len, planned.blocks)) > 1
    parts = upscaler.run(planned, wide)
    assert abs(parts.picture.rgb - whole.picture.rgb).max() < 1e-3


def test_grey_depth_and_transparency_are_kept(upscaler, one_face, scene) -> None:
    grey = np.repeat(scene.mean(2, keepdims=True), 3, 2)
    alpha = np.ones(scene.shape[:2], np.float32)
    alpha[:10] = 0
    made = upscaler(Picture(grey, alpha, bits=16, grey=True), scale=2, faces=True).picture
    assert made.grey and made.bits == 16 and made.alpha is not None
    assert np.ptp(made.rgb, axis=2).max() == 0


def test_where_there_is_no_face_nothing_differs(upscaler, scene, monkeypatch) -> None:
    monkeypatch.setattr(faces, "find", lambda rgb: [])
    plain, made = (upscaler(Picture(scene), scale=2, faces=on) for on in (False, True))
    assert np.array_equal(plain.picture.rgb, made.picture.rgb)
    assert made.report["faces"] == [] and "no face was found" in made.report["notes"][-1]


def test_a_picture_is_a_photograph_or_a_face(scene) -> None:
    with pytest.raises(UsageError, match="--domain face"):
        Upscaler(domain="face", device="cpu").plan(Picture(scene), scale=8, faces=True)


def test_without_the_extra_it_is_named(upscaler, scene, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    faces.detector.cache_clear()
    with pytest.raises(WeightsError, match=r"pip install 'diffsr\[faces\]'"):
        upscaler(Picture(scene), scale=2, faces=True)
    monkeypatch.setattr(faces, "installed", lambda: False)
    assert drawing.doubts(Picture(scene)) == []


# --- with the detector ----------------------------------------------------------------------------


@pytest.fixture
def people() -> list[np.ndarray]:
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models")
    if not HOLDOUT.is_dir():
        pytest.skip("needs the shared faces")
    return [read(path).rgb for path in sorted(HOLDOUT.iterdir())[:3]]


@pytest.mark.slow
def test_faces_are_found_where_they_are(people) -> None:
    scene = np.full((70, 120, 3), 0.4, np.float32)
    for index, person in enumerate(people):
        scene[20:44, 8 + 36 * index :][:, :24] = resize_array(person, (24, 24))
    found = sorted(faces.find(scene), key=lambda face: face.centre[1])
    assert len(found) == 3
    for index, face in enumerate(found):
        assert face.centre == pytest.approx((32, 20 + 36 * index), abs=1)
        assert face.side == pytest.approx(24, rel=0.15) and abs(face.angle) < 0.15


@pytest.mark.slow
def test_a_face_is_no_cause_for_doubt_and_a_wall_is(people, scene) -> None:
    for person in people:
        assert drawing.doubts(Picture(np.clip(resize_array(person, (16, 16)), 0, 1))) == []
    assert "--faces" in drawing.doubts(Picture(scene))[0]
