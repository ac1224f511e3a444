"""Picture: what it promises of its pixels, its hash, and the colours under transparency."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscale.image.picture import (
    Picture,
    fill_transparent,
    quantised,
)
from upscale.image.resize import resize_array


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def test_size_is_height_then_width():
    assert Picture(noise(7, 3, 3)).size == (7, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"rgb": noise(4, 5)},
        {"rgb": noise(4, 5, 4)},
        {"rgb": noise(4, 5, 3).astype(np.float64)},
        {"rgb": noise(0, 5, 3)},
        {"rgb": noise(4, 5, 3), "alpha": noise(5, 4)},
        {"rgb": noise(4, 5, 3), "alpha": noise(4, 5).astype(np.float64)},
        {"rgb": noise(4, 5, 3), "bits": 12},
    ],
)
def test_wrong_arrays_are_refused(fields):
    with pytest.raises(ValueError):
        Picture(**fields)


def test_quantised_rounds_to_nearest_and_clips():
    a = np.array([-0.1, 0, 0.49 / 255, 0.5 / 255, 1.5 / 255, 254.49 / 255, 254.51 / 255, 1, 1.1])
    assert quantised(a.astype(np.float32), 8).tolist() == [0, 0, 0, 1, 2, 254, 255, 255, 255]
    every = np.arange(65536, dtype=np.float32) / np.float32(65535)
    assert np.array_equal(quantised(every, 16), np.arange(65536))


def test_fingerprint_tells_content_from_metadata():
    rgb, alpha = noise(5, 8, 3), noise(5, 8, seed=1)
    p = Picture(rgb, alpha)
    assert 0 <= p.fingerprint() < 2**63
    same = dataclasses.replace(p, icc=b"x", exif=b"y", dpi=(1, 2), format="TIFF", notes=("n",))
    assert p.fingerprint() == same.fingerprint()
    # below half a quantum nothing would be written differently
    rounded = quantised(rgb, 8).astype(np.float32) / 255
    assert p.fingerprint() == Picture(rounded, alpha).fingerprint()
    changed = rgb.copy()
    changed[2, 3, 1] = 1 - changed[2, 3, 1]
    others = [
        Picture(changed, alpha),
        Picture(rgb),
        Picture(rgb, alpha, bits=16),
        Picture(rgb.reshape(8, 5, 3), alpha.reshape(8, 5)),
        Picture(rgb, 1 - alpha),
    ]
    assert len({q.fingerprint() for q in [p, *others]}) == 6


def test_fingerprint_is_the_same_tomorrow():
    rgb = np.linspace(0, 1, 2 * 3 * 3, dtype=np.float32).reshape(2, 3, 3)
    assert Picture(rgb).fingerprint() == FINGERPRINT


FINGERPRINT = 3876900755159394874


@given(st.integers(1, 33), st.integers(1, 33), st.integers(0, 2**32 - 1))
def test_fill_keeps_what_is_visible_and_invents_no_colour(height, width, seed):
    rng = np.random.default_rng(seed)
    rgb = rng.random((height, width, 3), np.float32)
    alpha = rng.random((height, width), np.float32) * (rng.random((height, width)) < 0.2)
    filled = fill_transparent(rgb, alpha.astype(np.float32))
    visible = alpha > 0
    assert filled.dtype == np.float32
    assert np.array_equal(filled[visible], rgb[visible])
    if visible.any():
        low, high = rgb[visible].min(0), rgb[visible].max(0)
        assert (filled >= low - 1e-6).all() and (filled <= high + 1e-6).all()


def test_fill_takes_the_nearest_colours():
    rgb = np.zeros((40, 64, 3), np.float32)
    rgb[...] = (0, 1, 0)  # hidden
    rgb[:, :8] = (1, 0, 0)
    rgb[:, -8:] = (0, 0, 1)
    alpha = np.zeros((40, 64), np.float32)
    alpha[:, :8] = alpha[:, -8:] = 1
    filled = fill_transparent(rgb, alpha)
    assert not filled[..., 1].any()
    np.testing.assert_allclose(filled[:, 8:10], np.broadcast_to((1, 0, 0), (40, 2, 3)), atol=0.3)
    np.testing.assert_allclose(filled[:, 54:56], np.broadcast_to((0, 0, 1), (40, 2, 3)), atol=0.3)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_fill_of_nothing_or_everything_visible_changes_nothing(alpha):
    rgb = noise(5, 7, 3)
    assert np.array_equal(fill_transparent(rgb, np.full((5, 7), alpha, np.float32)), rgb)


def test_hidden_colour_never_shows_after_enlarging():
    rgb = np.zeros((12, 18, 3), np.float32)
    rgb[...] = (0, 1, 0)  # what an editor left under the transparency
    rgb[3:9, 4:11] = (1, 0, 0)
    alpha = np.zeros((12, 18), np.float32)
    alpha[3:9, 4:11] = 1
    plain = resize_array(rgb, (48, 72))
    big_alpha = np.clip(resize_array(alpha, (48, 72)), 0, 1)
    shows = big_alpha > 0
    assert plain[shows][:, 1].max() > 0.5  # the fringe that is to be avoided
    big = np.clip(resize_array(fill_transparent(rgb, alpha), (48, 72)), 0, 1)
    np.testing.assert_allclose(big[shows], np.broadcast_to((1, 0, 0), big[shows].shape), atol=1e-5)
