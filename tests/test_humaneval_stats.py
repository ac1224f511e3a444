"""Intervals, agreement and adjusted p against known values, other libraries and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy.stats")

from scipy import stats as scipy_stats

from upscale.humaneval import stats
from upscale.humaneval.stats import Answers


@pytest.mark.parametrize(("chosen", "n"), [(0, 7), (7, 7), (8, 10), (40, 100), (1, 3)])
def test_wilson_is_scipy_s(chosen, n):
    expected = scipy_stats.binomtest(chosen, n).proportion_ci(method="wilson")
    assert stats.wilson(chosen, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_of_nothing():
    assert stats.wilson(0, 0) == (0.0, 1.0)
    assert stats.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson 1927's form


def test_holm():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.6, 0.5]) == [1.0, 1.0]
    assert stats.holm([]) == []


def crossed(rng, subjects=30, pictures=40, subject_sd=0.0, picture_sd=0.0):
    """Every subject judges every picture."""
    u, v = rng.normal(0, subject_sd, subjects), rng.normal(0, picture_sd, pictures)
    p = 1 / (1 + np.exp(0.4 - u[:, None] - v[None]))
    chosen = rng.random(p.shape) < p
    subject, picture = np.indices(p.shape)
    return Answers(chosen.ravel(), subject.ravel(), picture.ravel())


def closed_form(answers: Answers) -> float:
    """Cameron-Gelbach-Miller's variance of a mean by its linearisation, with the corrections."""
    value, n = answers.chosen.mean(), len(answers.chosen)
    total = 0.0
    for name in ("subject", "picture"):
        chosen, count = answers.sums(name)
        total += ((chosen - value * count) ** 2).sum() / n**2 * len(count) / (len(count) - 1)
    return total - value * (1 - value) / n


@pytest.mark.parametrize("spread", [(0.0, 1.0), (1.0, 0.0), (0.8, 0.8)])
def test_the_two_way_interval_has_the_closed_form_s_width(spread):
    rng = np.random.default_rng(1)
    answers = crossed(rng, subject_sd=spread[0], picture_sd=spread[1])
    found = stats.rate(answers, rng, 8000)
    low, high = (np.log(v / (1 - v)) for v in found.interval)
    quantile = scipy_stats.t.ppf(0.975, 29)
    error = (high - low) / 2 / quantile * found.value * (1 - found.value)
    assert error == pytest.approx(closed_form(answers) ** 0.5, rel=0.06)
    assert (low + high) / 2 == pytest.approx(np.log(found.value / (1 - found.value)))


def test_clusters_widen_the_interval():
    rng = np.random.default_rng(2)
    plain = stats.rate(crossed(rng), rng)
    clustered = stats.rate(crossed(rng, subject_sd=1.0), rng)
    width = lambda interval: interval[1] - interval[0]  # noqa: E731
    wilson = width(stats.wilson(480, 1200))
    assert 0.9 * wilson < width(plain.interval) < 1.35 * wilson
    assert width(clustered.interval) > 2 * wilson
    assert width(clustered.by_subjects) > 2 * width(clustered.by_pictures)


def test_all_or_none_and_one_subject_fall_back_to_wilson():
    rng = np.random.default_rng(3)
    n = np.arange(12)
    for chosen in (n < 0, n >= 0):
        found = stats.rate(Answers(chosen, n % 3, n), rng)
        assert found.interval == stats.wilson(int(chosen.sum()), 12)
    single = Answers(n % 2 == 0, n * 0, n)
    assert stats.rate(single, rng).interval == stats.wilson(6, 12)


def test_difference_is_paired():
    """The same subjects: what is common to both methods does not widen the difference."""
    rng = np.random.default_rng(4)
    subjects, pictures = 40, 30
    subject, picture = (a.ravel() for a in np.indices((subjects, pictures)))
    taste = rng.normal(0, 1.5, subjects)[subject]

    def method(shift: float) -> Answers:
        chosen = rng.random(len(subject)) < 1 / (1 + np.exp(-(taste + shift)))
        return Answers(chosen, subject, picture)

    first, second = method(0.0), method(-0.8)
    found = stats.difference(first, second, rng)
    apart = [stats.rate(a, rng).interval for a in (first, second)]
    assert found.value == first.chosen.mean() - second.chosen.mean()
    assert found.interval[0] < found.value < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.6 * sum(high - low for low, high in apart)
    assert found.p < 0.001
    assert stats.difference(first, method(0.0), rng).p > 0.01
    same = stats.difference(first, first, rng)
    assert same.value == 0 and same.p == pytest.approx(1)


def test_difference_of_methods_that_not_everybody_saw():
    rng = np.random.default_rng(5)
    first = Answers(rng.random(60) < 0.7, np.arange(60) % 6 + 100, np.arange(60) % 10)
    second = Answers(rng.random(40) < 0.2, np.arange(40) % 5 + 102, np.arange(40) % 8 + 4)
    found = stats.difference(first, second, rng)
    assert found.interval[0] < found.value < found.interval[1] and found.p < 0.05


def test_alpha_of_krippendorff_s_example():
    """Computing Krippendorff's Alpha-Reliability (2011), section A: two observers, ten units."""
    meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    answers = Answers(np.array(meg + owen, bool), np.repeat([0, 1], 10), np.tile(np.arange(10), 2))
    share, alpha = stats.agreement(answers)
    assert alpha == pytest.approx(0.095, abs=5e-4)
    assert share == pytest.approx(0.6)


def test_alpha_with_absent_observers_is_the_definition_s():
    rng = np.random.default_rng(6)
    answers = crossed(rng, 7, 9, picture_sd=2.0)
    kept = rng.random(63) < 0.5
    answers = Answers(answers.chosen[kept], answers.subject[kept], answers.picture[kept])
    coincidences = np.zeros((2, 2))
    for picture in np.unique(answers.picture):
        values = answers.chosen[answers.picture == picture].astype(int)
        for i, a in enumerate(values):
            for j, b in enumerate(values):
                if i != j:
                    coincidences[a, b] += 1 / (len(values) - 1)
    n = coincidences.sum(1)
    alpha = 1 - (n.sum() - 1) * coincidences[0, 1] / (n[0] * n[1])
    assert stats.agreement(answers)[1] == pytest.approx(alpha)


def test_agreement_of_nothing_to_compare():
    n = np.arange(4)
    assert stats.agreement(Answers(n > 1, n, n)) == (None, None)
    assert stats.agreement(Answers(n >= 0, n, n // 2)) == (1.0, None)
