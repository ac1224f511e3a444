"""The plan of a study: balanced, seeded, every picture once for a subject."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("scipy")

from upscale.errors import UsageError
from upscale.humaneval.design import CHECK, TRUTH, Design, Planner, conditions

FULL = Design(100, conditions(("a", "b", "c"), (("a", "b"),)), (1, 2), 50, 5, 2, seed=3)


@pytest.fixture(scope="module")
def plans():
    planner = Planner(FULL)
    return [planner.subject(slot) for slot in range(24)]


def test_a_subject_sees_every_picture_once_in_one_task(plans):
    for slot, trials in enumerate(plans):
        assert len({t.picture for t in trials}) == len(trials) == 57
        assert {t.task for t in trials} == {1 + slot % 2}
        assert [t.position for t in trials] == list(range(57))
        assert [t.kind for t in trials[:2]] == ["practice"] * 2
        assert Counter(t.kind for t in trials) == {"practice": 2, "main": 50, "check": 5}


def test_checks_are_spread_and_change_sides(plans):
    for trials in plans:
        checks = [t for t in trials if t.kind == "check"]
        assert all({t.left, t.right} == {TRUTH, CHECK} for t in checks)
        assert abs(sum(t.left == TRUTH for t in checks) - 2.5) == 0.5
        # one in each fifth of the main trials, so never three within the first fifth
        before = [sum(m.kind == "main" for m in trials[: c.position]) for c in checks]
        assert all(10 * i <= n <= 10 * (i + 1) for i, n in enumerate(before))


def test_a_subject_gets_conditions_and_sides_equally_often(plans):
    for trials in plans:
        main = [t for t in trials if t.kind == "main"]
        pairs = Counter(frozenset((t.left, t.right)) for t in main)
        assert len(pairs) == 4 and max(pairs.values()) - min(pairs.values()) <= 1
        sides = Counter((t.left, t.right) for t in main)
        for left, right in sides:
            assert abs(sides[left, right] - sides[right, left]) <= 1
        left = sum(sides[pair] for pair in sides if pair[1] == TRUTH or pair == ("b", "a"))
        assert abs(left - 25) <= 1


def test_pictures_are_used_evenly_over_the_subjects(plans):
    for task in (1, 2):
        main = [t for trials in plans for t in trials if t.kind == "main" and t.task == task]
        seen = Counter(t.picture for t in main)
        assert len(seen) == 100 and max(seen.values()) - min(seen.values()) <= 1
        by_pair = Counter((t.picture, frozenset((t.left, t.right))) for t in main)
        # 12 subjects, 50 of 100 pictures, 4 conditions: 1.5 times each
        counts = [by_pair[p, frozenset(c)] for p in range(100) for c in FULL.conditions]
        assert set(counts) <= {1, 2}


def test_the_seed_decides_and_a_plan_can_be_continued(plans):
    again = Planner(FULL)
    assert [again.subject(slot) for slot in range(24)] == plans
    first = [t for trials in plans[:10] for t in trials]
    later = Planner(FULL, past=first)
    assert [later.subject(slot) for slot in range(10, 24)] == plans[10:]
    other = Planner(Design(100, FULL.conditions, (1, 2), 50, 5, 2, seed=4))
    assert other.subject(0) != plans[0]


@given(
    st.integers(1, 12), st.integers(0, 3), st.integers(0, 3), st.integers(1, 4), st.integers(0, 99)
)
def test_any_study_is_balanced(images, checks, practice, methods, seed):
    names = tuple("abcd"[:methods])
    design = Design(
        images + checks + practice + 2, conditions(names, ()), (2,), images, checks, practice, seed
    )
    planner = Planner(design)
    plans = [planner.subject(slot) for slot in range(6)]
    seen = Counter(t.picture for trials in plans for t in trials if t.kind == "main")
    counts = [seen[p] for p in range(design.pictures)]
    assert max(counts) - min(counts) <= 1
    used = Counter(
        (t.left if t.right == TRUTH else t.right)
        for trials in plans for t in trials if t.kind == "main"
    )  # fmt: skip
    totals = [used[name] for name in names]
    assert max(totals) - min(totals) <= 1
    for trials in plans:
        assert len({t.picture for t in trials}) == images + checks + practice


def test_order_and_sides_tell_nothing(plans):
    """No side follows from the one before it: at most 2.6 deviations from chance in 1152 pairs."""
    runs = []
    for trials in plans:
        sides = [t.left == TRUTH for t in trials if TRUTH in (t.left, t.right)]
        runs += [a == b for a, b in zip(sides, sides[1:], strict=False)]
    assert abs(np.mean(runs) - 0.5) < 2.6 * 0.5 / len(runs) ** 0.5 + 0.02  # balanced: a bit below


def test_too_few_pictures():
    with pytest.raises(UsageError, match="need 57 pictures"):
        Design(56, FULL.conditions)
