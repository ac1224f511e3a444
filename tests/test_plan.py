"""How a size is reached with weights of one scale."""

from __future__ import annotations

from dataclasses import replace

import pytest

from upscale.pipeline.plan import stages
from upscale.weights.registry import Entry


def entry(scales: tuple[float, ...], domain: str = "photo") -> Entry:
    return Entry("w", "ecdp", "net", domain, scales, False, "0" * 64, 1, "CC0-1.0", bundled="w")


def test_their_own_scale_is_one_stage() -> None:
    (only,), notes = stages((10, 7), (40, 28), 4.0, 6, entry((4.0,)))
    assert (only.size_in, only.size_out, only.steps, notes) == ((10, 7), (40, 28), 6, [])


def test_below_their_scale_the_result_is_shrunk() -> None:
    (only,), (note,) = stages((10, 7), (20, 14), 2.0, 6, entry((4.0,)))
    assert only.size_out == (40, 28) and "then resized" in note
    measured = replace(entry((4.0,)), shrinks_to=1.5)  # then it is nothing to be told of
    assert stages((10, 7), (20, 14), 2.0, 6, measured) == ((only,), [])
    (same,), (note,) = stages((10, 7), (12, 8), 1.2, 6, measured)
    assert same == only and "then resized" in note


def test_what_is_shrunk_to_half_takes_half_the_steps_unless_they_are_given() -> None:
    weights = entry((4.0,))
    for scale, steps in ((2.0, 3), (1.5, 3), (2.1, 6), (4.0, 6)):
        (only,), _ = stages((10, 7), (int(10 * scale), int(7 * scale)), scale, 6, weights)
        assert only.steps == steps
    assert stages((10, 7), (20, 14), 2.0, 1, weights)[0][0].steps == 1
    assert stages((10, 7), (20, 14), 2.0, 6, weights, given=True)[0][0].steps == 6


@pytest.mark.parametrize("target", [(80, 56), (160, 112), (61, 43)])
def test_past_their_scale_there_are_two_stages_of_it(target) -> None:
    (first, last), (note,) = stages((10, 7), target, target[0] / 10, 6, entry((4.0,)))
    assert (first.size_in, first.size_out, first.steps) == ((10, 7), (40, 28), 6)
    assert last.size_out == tuple(4 * side for side in last.size_in) and last.steps == 3
    # what lies between is never enlarged, and the end is the target but for rounding up to 4
    assert all(a <= b for a, b in zip(last.size_in, first.size_out, strict=True))
    assert all(0 <= a - b < 4 for a, b in zip(last.size_out, target, strict=True))
    assert "two stages" in note


def test_weights_for_a_range_may_be_better_in_two_stages_within_it() -> None:
    ranged = replace(entry((1.0, 8.0)), any_scale=True, stages_past=6)

    def sizes(scale: float, **how: bool) -> list[tuple[int, int]]:
        target = (int(16 * scale), int(8 * scale))
        return [one.size_out for one in stages((16, 8), target, scale, 6, ranged, **how)[0]]

    for scale in (1.0, 4.0, 6.0):
        assert sizes(scale, continuous=True) == [(int(16 * scale), int(8 * scale))]
    for scale in (7.0, 8.0, 16.0):  # in stages of 4, also where it is made for every magnification
        assert sizes(scale, continuous=True) == [(64, 32), (int(16 * scale), int(8 * scale))]
    assert sizes(8.0, continuous=True, one_stage=True) == [(128, 64)]
    (note,) = stages((16, 8), (128, 64), 8.0, 6, ranged)[1]
    assert note == "x8 is past the x4 that w does best: two stages"


def test_a_cascade_may_enlarge_a_little_more_than_is_asked_for() -> None:
    """So that blocks begin where the pixels of all sizes do; of a small picture it is too much."""
    (first, last), _ = stages((100, 75), (500, 375), 5.0, 6, entry((4.0,)))
    assert (first.size_in, first.size_out) == ((100, 76), (400, 304))
    assert (last.size_in, last.size_out) == ((125, 95), (500, 380))
    (first, _), _ = stages((10, 7), (50, 35), 5.0, 6, entry((4.0,)))
    assert first.size_in == (10, 7)


def test_a_part_of_a_face_is_no_face() -> None:
    (only,), (note,) = stages((16, 16), (256, 256), 16.0, 6, entry((8.0,), "face"))
    assert only.size_out == (128, 128) and "then resized" in note
