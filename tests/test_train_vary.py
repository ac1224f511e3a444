"""Varied training examples: what is turned, scaled and coloured, and that nothing else is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from upscale.errors import UsageError
from upscale.image.resize import resize
from upscale.train import vary
from upscale.train.config import TrainConfig
from upscale.train.data import Pairs, quantised

CONFIG = TrainConfig(patch=32, batch=6, whole=True, scale_min=2.0, scale_max=2.0, scale_focus=2.0)
FACES = [np.random.default_rng(7).integers(0, 256, (44, 40, 3), dtype=np.uint8) for _ in range(3)]


class Fixed:
    """Draws the largest of every range, or the smallest."""

    def __init__(self, most: bool) -> None:
        self.most = most

    def uniform(self, low: float, high: float, size: int | None = None):
        value = high if self.most else low
        return value if size is None else np.full(size, value)

    def random(self) -> float:
        return 1.0 if self.most else 0.0


def spot(down: int, across: int) -> torch.Tensor:
    """(3,64,64): black but for a soft white spot."""
    y, x = np.mgrid[:64, :64] + 0.5
    value = np.exp(-((y - down) ** 2 + (x - across) ** 2) / 8) * 2 - 1
    return torch.from_numpy(value).float().expand(3, 64, 64)


def middle(picture: torch.Tensor) -> tuple[float, float]:
    """Where the light's centre of mass is."""
    weight = (picture[0] + 1).double()
    at = torch.arange(64) + 0.5
    return float((weight.sum(1) * at).sum() / weight.sum()), float(
        (weight.sum(0) * at).sum() / weight.sum()
    )


@pytest.mark.parametrize("most", [False, True])
def test_a_picture_is_turned_and_scaled_about_its_middle(most) -> None:
    config = replace(CONFIG, turn=30.0, zoom=0.25)
    down, across = middle(vary.placed(spot(32, 40), config, Fixed(most)))
    radius, angle = math.hypot(down - 32, across - 32), math.atan2(down - 32, across - 32)
    assert radius == pytest.approx(8 * 1.25 if most else 8 / 1.25, abs=0.4)
    assert abs(math.degrees(angle)) == pytest.approx(30, abs=2)
    other = vary.placed(spot(32, 40), config, Fixed(not most))
    assert math.copysign(1, middle(other)[0] - 32) != math.copysign(1, down - 32)


def test_colours_and_light_change_within_the_range_and_one_side_is_lighter() -> None:
    flat = torch.zeros(3, 20, 40)
    config = replace(CONFIG, colour=0.5)
    made = torch.stack([
        vary.coloured(flat, config, np.random.default_rng(seed)) for seed in range(40)
    ])  # fmt: skip
    assert float(made.min()) >= -1 and float(made.max()) <= 1
    means = made.mean((2, 3))
    assert float(means.std(0).min()) > 0.05  # of each channel
    assert float((means.max(1)[0] - means.min(1)[0]).mean()) > 0.05  # they part
    assert abs(float(means.mean())) < 0.15  # neither darker nor lighter on the whole
    sides = (made[..., :4].mean((1, 2, 3)) - made[..., -4:].mean((1, 2, 3))).abs()
    assert float(sides.max()) > 0.1
    weaker = vary.coloured(flat, replace(config, colour=0.05), np.random.default_rng(3))
    assert float(weaker.abs().max()) < float(made[3].abs().max())


def test_examples_differ_only_where_it_is_asked_for_and_agree_with_their_inputs() -> None:
    plain = Pairs(FACES, CONFIG).batch(3)
    assert torch.equal(plain.hr, Pairs(FACES, replace(CONFIG, turn=0.0)).batch(3).hr)
    for change in ({"turn": 20.0}, {"zoom": 0.2}, {"colour": 0.5}):
        config = replace(CONFIG, **change)
        made, again = Pairs(FACES, config).batch(3), Pairs(FACES, config).batch(3, places=[4, 2])
        assert ((made.hr - plain.hr).abs().amax((1, 2, 3)) > 0.02).all()
        assert torch.equal(made.hr[[4, 2]], again.hr)  # each place has its own numbers
        small = quantised(resize(made.hr[:1], (16, 16)))[0]
        assert torch.equal(small, made.lr[0])


def test_what_has_no_place_is_refused() -> None:
    for change in ({"turn": 5.0}, {"zoom": 0.1}, {"colour": 0.1}):
        with pytest.raises(UsageError, match="is for --crop augmented"):
            TrainConfig(crop="square", **change)
    with pytest.raises(UsageError, match="--zoom must be from 0 to 1"):
        TrainConfig(zoom=2.0)
