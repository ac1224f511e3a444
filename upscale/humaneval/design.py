"""Who sees which pictures, compared with what, on which side: a seeded, balanced plan.

Every subject has one task and sees a picture once. A subject's trials are balanced over what is
compared and over left and right; over the subjects every picture is seen equally often, and with
every method on either side equally often, as nearly as whole numbers allow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from upscale.document import counted
from upscale.errors import UsageError

TRUTH, LR, CHECK = "truth", "lr", "check"  # roles of an image that no method makes
QUESTIONS = {  # SR3, section 4.5.3
    1: "Which of the two images is a better high quality version of the low resolution image "
    "in the middle?",
    2: "Which image would you guess is from a camera?",
}


@dataclass(frozen=True)
class Design:
    """What a plan is made from.

    pictures    how many there are
    conditions  what is compared: (TRUTH, method) or (method, method)
    images      trials of a subject that count; checks and practice come on top, with pictures
                that the subject sees in no other trial
    """

    pictures: int
    conditions: tuple[tuple[str, str], ...]
    tasks: tuple[int, ...] = (1, 2)
    images: int = 50
    checks: int = 5
    practice: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        needed = self.images + self.checks + self.practice
        if needed > self.pictures:
            raise UsageError(
                f"{counted(self.images, 'image')}, {counted(self.checks, 'attention check')} and "
                f"{counted(self.practice, 'practice trial')} need {counted(needed, 'picture')}, "
                "for each is seen once; there are "
                f"{self.pictures}: lower --images, --checks or --practice"
            )


@dataclass(frozen=True)
class Trial:
    """One pair to be judged. picture: its index; left, right: roles."""

    position: int
    kind: str  # practice, main, check
    task: int
    picture: int
    left: str
    right: str


@dataclass
class Planner:
    """Plans subject after subject; `past` are the trials that are planned already."""

    design: Design
    past: Iterable[Trial] = ()
    # per task: how often a picture was planned; with which condition, and its second on which side
    _seen: np.ndarray = field(init=False)  # (tasks, pictures)
    _used: np.ndarray = field(init=False)  # (tasks, pictures, conditions, 2)

    def __post_init__(self) -> None:
        design = self.design
        self._seen = np.zeros((len(design.tasks), design.pictures), int)
        self._used = np.zeros((*self._seen.shape, len(design.conditions), 2), int)
        for trial in self.past:
            self._count(trial)

    def subject(self, slot: int) -> list[Trial]:
        """The trials of the subject with this number, from 0, in their order."""
        design = self.design
        rng = np.random.default_rng((design.seed, slot))
        index = slot % len(design.tasks)
        order = rng.permutation(design.pictures)
        order = order[np.argsort(self._seen[index, order], kind="stable")]
        chosen, rest = order[: design.images], order[design.images :]
        main = [
            ("main", int(picture), *self._sides(condition, second))
            for picture, (condition, second) in zip(
                chosen, self._labels(index, chosen, rng), strict=True
            )
        ]
        rest, kinds = rng.permutation(rest), len(design.conditions)
        checks = [
            ("check", int(picture), *_ordered(TRUTH, CHECK, i % 2))
            for i, picture in enumerate(rest[: design.checks])
        ]
        practice = [
            ("practice", int(picture), *self._sides(int(rng.integers(kinds)), int(rng.integers(2))))
            for picture in rest[design.checks : design.checks + design.practice]
        ]
        listed = practice + _mixed(_shuffled(main, rng), _shuffled(checks, rng), rng)
        trials = [
            Trial(position, kind, design.tasks[index], picture, left, right)
            for position, (kind, picture, left, right) in enumerate(listed)
        ]
        for trial in trials:
            self._count(trial)
        return trials

    def _labels(
        self, index: int, pictures: np.ndarray, rng: np.random.Generator
    ) -> list[tuple[int, int]]:
        """(condition, side of its second) for each picture: the assignment least used so far.

        The increments of a sum of squares are linear in the counts, so that the assignment with
        the least sum of counts keeps every picture's counts as even as this subject's quota allow.
        """
        from scipy.optimize import linear_sum_assignment

        labels = self._quota(index, len(pictures), rng)
        used = self._used[index][pictures]  # (images, conditions, 2)
        by_condition = used.sum(2)
        cost = np.empty((len(pictures), len(labels)))
        for column, (condition, side) in enumerate(labels):
            cost[:, column] = 4 * by_condition[:, condition] + used[:, condition, side]
        _, columns = linear_sum_assignment(cost + rng.random(cost.shape) / (4 * len(labels)))
        return [labels[column] for column in columns]

    def _quota(self, index: int, images: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """As many of each condition and side as this subject gets."""
        totals = self._used[index].sum(0)  # (conditions, 2)
        count = len(totals)
        each, over = divmod(images, count)
        order = rng.permutation(count)
        more = order[np.argsort(totals.sum(1)[order], kind="stable")][:over]
        labels, lean = [], 0  # lean: how many more on side 0 than on 1
        for condition in rng.permutation(count):
            wanted = each + (condition in more)
            labels += [(int(condition), side) for side in (0, 1)] * (wanted // 2)
            if wanted % 2:
                behind = totals[condition, 0] - totals[condition, 1]
                side = int(np.sign(lean) * 2 + np.sign(behind) + rng.uniform(-0.5, 0.5) > 0)
                labels.append((int(condition), side))
                lean += 1 - 2 * side
        return labels

    def _sides(self, condition: int, second: int) -> tuple[str, str]:
        return _ordered(*self.design.conditions[condition], second)

    def _count(self, trial: Trial) -> None:
        if trial.kind != "main":
            return
        index = self.design.tasks.index(trial.task)
        self._seen[index, trial.picture] += 1
        for condition, pair in enumerate(self.design.conditions):
            for second in (0, 1):
                if _ordered(*pair, second) == (trial.left, trial.right):
                    self._used[index, trial.picture, condition, second] += 1


def conditions(methods: Iterable[str], pairs: Iterable[tuple[str, str]]) -> tuple:
    """Every method against the truth, then model against model."""
    return (*((TRUTH, method) for method in methods), *pairs)


def _ordered(first: str, second: str, side: int) -> tuple[str, str]:
    """(left, right), with `second` on the left for side 0."""
    return (second, first) if side == 0 else (first, second)


def _shuffled(items: list, rng: np.random.Generator) -> list:
    return [items[i] for i in rng.permutation(len(items))]


def _mixed(main: list, checks: list, rng: np.random.Generator) -> list:
    """One check somewhere in each of as many equal parts of the main trials."""
    edges = np.linspace(0, len(main), len(checks) + 1).astype(int)
    for i in reversed(range(len(checks))):
        main.insert(int(rng.integers(edges[i], edges[i + 1] + 1)), checks[i])
    return main
