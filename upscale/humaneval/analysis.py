"""Answers become rates: which of them count, and what follows from those that do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from upscale.errors import InputError
from upscale.humaneval import stats
from upscale.humaneval.design import TRUTH
from upscale.humaneval.session import label
from upscale.humaneval.store import Store

MOST_FAST = 0.2  # share of too-fast answers with which a subject is left out
Row = dict[str, Any]  # an answered trial, as `Store.answers` tells it


@dataclass(frozen=True)
class Rules:
    """Which answers do not count.

    max_failed        attention checks that a subject may fail
    min_rt            milliseconds from the end of the display; faster is no decision
    complete_only     leave out subjects who did not finish
    keep_interrupted  count pairs whose display began more than once, which were seen too long
    """

    max_failed: int = 1
    min_rt: float = 200.0
    complete_only: bool = False
    keep_interrupted: bool = False

    def said(self) -> list[str]:
        """For the reader of the report."""
        rules = [
            f"Subjects who failed more than {self.max_failed} attention checks are left out.",
            f"Answers within {self.min_rt:g} ms after the pictures disappeared are left out, and "
            f"subjects with more than {MOST_FAST:.0%} of them.",
            "Practice trials and attention checks do not count towards any rate.",
        ]
        if not self.keep_interrupted:
            rules.append(
                "Pairs that were shown more than once (a reload, a hidden window) are left out."
            )
        rules.append(
            "Subjects who did not finish are left out."
            if self.complete_only
            else "Answers of subjects who did not finish count."
        )
        return rules


def analyse(store: Store, rules: Rules, *, seed: int = 0, draws: int = 2000) -> dict[str, Any]:
    """All that a report says, JSON-able. Raises InputError where no answer counts."""
    rows = store.answers()
    if not rows:
        raise InputError("the study has no answers yet; run it: diffsr humaneval serve STUDY")
    exclusions = exclude(rows, rules)
    main = [row for row in rows if row["excluded"] is None]
    if not main:
        raise InputError("no answer counts: " + " ".join(exclusions["said"]))
    rng = np.random.default_rng(seed)
    names, order = store.meta["methods"], [tuple(pair) for pair in store.meta["conditions"]]
    rates, preferences, pictures = [], [], []
    for task, pair in _cells(main, order):
        chosen = _answers(main, task, pair)
        told = {"task": task, **_named(pair), **_told(chosen, rng, draws)}
        told |= _times([r for r in main if r["task"] == task and _pair(r, order) == pair])
        (rates if pair[0] == TRUTH else preferences).append(told)
        pictures += [{"task": task, **_named(pair), **row} for row in _by_picture(main, task, pair)]
    return {
        "study": {k: store.meta[k] for k in ("title", "seconds", "images", "checks", "practice",
                                             "crop", "magnify", "seed", "tasks", "study")},
        "methods": names,
        "exclusions": exclusions,
        "rates": rates,
        "preferences": preferences,
        "comparisons": _comparisons(main, names, store.meta["tasks"], rng, draws),
        "sides": _sides(main),
        "timing": _timing(rows),
        "pictures": pictures,
        "answers": rows,
    }  # fmt: skip


# --- what counts ------------------------------------------------------------------------------


def exclude(rows: list[Row], rules: Rules) -> dict[str, Any]:
    """Put the reason why it does not count, or None, into each row's `excluded`; and a summary."""
    by_subject: dict[int, list[Row]] = {}
    for row in rows:
        by_subject.setdefault(row["subject"], []).append(row)
    left_out = []
    for subject, own in by_subject.items():
        reasons = _against(own, rules)
        if reasons:
            left_out.append({"subject": label(subject), "reasons": reasons})
        for row in own:
            row["excluded"] = "subject left out" if reasons else _against_one(row, rules)
    reasons = Counter(row["excluded"] or "counted" for row in rows)
    kept = len(by_subject) - len(left_out)
    said = [f"{reasons.pop('counted', 0)} answers of {kept} subjects count."]
    said += [f"Not counted: {number} ({reason})." for reason, number in sorted(reasons.items())]
    said += [f"Left out: {one['subject']} ({', '.join(one['reasons'])})." for one in left_out]
    return {
        "rules": rules.said(), "settings": asdict(rules), "subjects": len(by_subject),
        "counted_subjects": kept, "left_out": left_out, "answers": dict(reasons), "said": said,
    }  # fmt: skip


def _against(own: list[Row], rules: Rules) -> list[str]:
    """Reasons to leave a subject out."""
    reasons = []
    failed = sum(row["kind"] == "check" and _chose(row) != TRUTH for row in own)
    if failed > rules.max_failed:
        checks = sum(row["kind"] == "check" for row in own)
        reasons.append(f"failed {failed} of {checks} attention checks")
    fast = np.mean([_fast(row, rules) for row in own])
    if fast > MOST_FAST:
        reasons.append(f"{fast:.0%} of the answers too fast")
    if rules.complete_only and own[0]["finished"] is None:
        reasons.append("not finished")
    return reasons


def _against_one(row: Row, rules: Rules) -> str | None:
    if row["kind"] != "main":
        return row["kind"]
    if _fast(row, rules):
        return "too fast"
    if row["views"] > 1 and not rules.keep_interrupted:
        return "shown more than once"
    return None


def _fast(row: Row, rules: Rules) -> bool:
    return row["rt_ms"] is not None and row["rt_ms"] < rules.min_rt


# --- rows to numbers --------------------------------------------------------------------------


def _chose(row: Row) -> str:
    """The role that was chosen."""
    return row[f"{row['side']}_role"]


def _pair(row: Row, order: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The condition of a trial, whichever stood left."""
    roles = {row["left_role"], row["right_role"]}
    return next(pair for pair in order if set(pair) == roles)


def _named(pair: tuple[str, str]) -> dict[str, str]:
    """Against the truth the rate is the method's, else the first one's."""
    if pair[0] == TRUTH:
        return {"method": pair[1]}
    return {"method": pair[0], "against": pair[1]}


def _cells(rows: list[Row], order: list[tuple[str, str]]) -> list[tuple[int, tuple[str, str]]]:
    found = {(row["task"], _pair(row, order)) for row in rows}
    return sorted(found, key=lambda cell: (cell[0], order.index(cell[1])))


def _answers(rows: list[Row], task: int, pair: tuple[str, str]) -> stats.Answers:
    own = [r for r in rows if r["task"] == task and {r["left_role"], r["right_role"]} == set(pair)]
    winner = _named(pair)["method"]
    return stats.Answers(
        np.array([_chose(row) == winner for row in own], bool),
        np.array([row["subject"] for row in own], int),
        np.array([row["picture"] for row in own], int),
    )


def _told(answers: stats.Answers, rng: np.random.Generator, draws: int) -> dict[str, Any]:
    found = stats.rate(answers, rng, draws)
    n, chosen = len(answers.chosen), int(answers.chosen.sum())
    share, alpha = stats.agreement(answers)
    return {
        "n": n, "chosen": chosen, "rate": found.value, "interval": found.interval,
        "wilson": stats.wilson(chosen, n), "by_subjects": found.by_subjects,
        "by_pictures": found.by_pictures, "subjects": len(np.unique(answers.subject)),
        "pictures": len(np.unique(answers.picture)), "agreement": share, "alpha": alpha,
    }  # fmt: skip


def _times(rows: list[Row]) -> dict[str, float | None]:
    """Response times in milliseconds, where they were taken."""
    times = [row["rt_ms"] for row in rows if row["rt_ms"] is not None]
    names = ("rt_quartile1", "rt_median", "rt_quartile3")
    if not times:
        return dict.fromkeys(names)
    return dict(zip(names, np.percentile(times, [25, 50, 75]).round(1).tolist(), strict=True))


def _by_picture(rows: list[Row], task: int, pair: tuple[str, str]) -> list[dict[str, Any]]:
    """The rate of every picture, the highest first."""
    answers = _answers(rows, task, pair)
    ids = np.unique(answers.picture)
    names = {row["picture"]: row["name"] for row in rows}
    chosen, n = answers.sums("picture")
    told = [
        {"picture": names[i], "id": int(i), "n": int(count), "chosen": int(won),
         "rate": float(won / count), "wilson": stats.wilson(int(won), int(count))}
        for i, won, count in zip(ids, chosen, n, strict=True)
    ]  # fmt: skip
    return sorted(told, key=lambda row: (-row["rate"], -row["n"], row["picture"]))


def _comparisons(
    rows: list[Row], methods: list[str], tasks: list[int], rng: np.random.Generator, draws: int
) -> list[dict[str, Any]]:
    """Differences of fool rates, each method with each, p adjusted within a task (Holm)."""
    found = []
    for task in tasks:
        own = {name: _answers(rows, task, (TRUTH, name)) for name in methods}
        part = [
            {"task": task, "method": a, "against": b,
             **_difference(stats.difference(own[a], own[b], rng, draws))}
            for a, b in combinations(methods, 2)
            if len(own[a].chosen) and len(own[b].chosen)
        ]  # fmt: skip
        for row, p in zip(part, stats.holm([row["p"] for row in part]), strict=True):
            row["p_holm"] = p
        found += part
    return found


def _difference(found: stats.Estimate) -> dict[str, Any]:
    return {"difference": found.value, "interval": found.interval, "p": found.p}


def _sides(rows: list[Row]) -> dict[str, Any]:
    """How often the left picture was chosen: far from a half, somebody favours a side."""
    left = sum(row["side"] == "left" for row in rows)
    return {"left": left, "n": len(rows), "rate": left / len(rows),
            "wilson": stats.wilson(left, len(rows))}  # fmt: skip


def _timing(rows: list[Row]) -> dict[str, Any]:
    """How long the pictures stood, in ms: by the page's frames, and by the browser's paints."""
    told: dict[str, Any] = {}
    for name in ("shown_ms", "presented_ms", "frame_ms"):
        values = [row[name] for row in rows if row[name] is not None]
        told[name] = None
        if values:
            told[name] = {"n": len(values), "median": float(np.median(values)),
                          "min": min(values), "max": max(values)}  # fmt: skip
    return told
