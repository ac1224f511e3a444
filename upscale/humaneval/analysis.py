"""Answers become rates: which of them count, and what follows from those that do."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from upscale.document import counted
from upscale.errors import InputError
from upscale.humaneval import stats
from upscale.humaneval.design import TRUTH
from upscale.humaneval.session import label
from upscale.humaneval.store import Store

INTERVALS = ("interval", "wilson", "by_subjects", "by_pictures")  # of a rate
MOST_FAST = 0.2  # share of too-fast answers with which a subject is left out
Row = dict[str, Any]  # an answered trial, as `Store.answers` has it; or a line of the report
Pair = tuple[str, str]  # a condition: the two roles that are compared


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
        raise InputError(
            f"no answers yet: {store.counts()['enrolled']} of "
            f"{counted(store.meta['subjects'], 'subject')} began. Run the study: diffsr humaneval "
            "serve STUDY; with --preview to look at it; report --simulate 0.4 shows what a report "
            "will be"
        )
    exclusions = exclude(rows, rules)
    main = [row for row in rows if row["excluded"] is None]
    if not main:
        raise InputError("no answer counts: " + " ".join(exclusions["said"]))
    rng = np.random.default_rng(seed)
    names, tasks = store.meta["methods"], store.meta["tasks"]
    cells = _cells(main, [tuple(pair) for pair in store.meta["conditions"]])
    rates, preferences, pictures = [], [], []
    for (task, pair), rows_of_cell in cells.items():
        named = {"task": task, **_named(pair)}
        answers = _answers(rows_of_cell, named["method"])
        found = {**named, **_summary(answers, rng, draws), **_times(rows_of_cell)}
        (rates if pair[0] == TRUTH else preferences).append(found)
        titles = {row["picture"]: row["name"] for row in rows_of_cell}
        pictures += [{**named, **row} for row in _by_picture(answers, titles)]
    study = (
        "title", "seconds", "images", "checks", "practice", "crop", "seed", "tasks",
        "study",
    )  # fmt: skip
    return {
        "study": {key: store.meta[key] for key in study},
        "methods": names,
        "missing": _missing(store, rates),
        "exclusions": exclusions,
        "rates": rates,
        "preferences": preferences,
        "comparisons": _comparisons(cells, names, tasks, rng, draws),
        "sides": _sides(main),
        "timing": _timing(rows),
        "zooms": sorted(Counter(row["zoom"] for row in rows if row["zoom"]).items()),
        "pictures": pictures,
        "answers": rows,
    }


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
    said = [
        f"Counted: {counted(reasons.pop('counted', 0), 'answer')} of {counted(kept, 'subject')}."
    ]
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


def _missing(store: Store, rates: list[Row]) -> list[str]:
    """What a study that is not through lacks, and what that means for its numbers."""
    finished, wanted = store.counts()["finished"], store.meta["subjects"]
    lines = []
    if finished < wanted:
        lines.append(f"{finished} of {counted(wanted, 'subject')} finished; the study goes on.")
    for task in store.meta["tasks"]:
        own = {row["method"] for row in rates if row["task"] == task}
        if left := [name for name in store.meta["methods"] if name not in own]:
            lines.append(f"Task {task} has no answers yet for {', '.join(left)}.")
    for row in rates:
        if row["subjects"] == 1:
            lines.append(
                f"Task {row['task']}, {row['method']}: one subject only. The interval is Wilson's, "
                "for one person's answers; how far people differ takes two or more."
            )
    return lines


# --- rows to numbers --------------------------------------------------------------------------


def _chose(row: Row) -> str:
    """The role that was chosen."""
    return row[f"{row['side']}_role"]


def _named(pair: Pair) -> dict[str, str]:
    """Against the truth the rate is the method's, else the first one's."""
    if pair[0] == TRUTH:
        return {"method": pair[1]}
    return {"method": pair[0], "against": pair[1]}


def _cells(rows: list[Row], order: list[Pair]) -> dict[tuple[int, Pair], list[Row]]:
    """The answers to each task and condition, whichever stood left."""
    cells: dict[tuple[int, Pair], list[Row]] = {}
    for row in rows:
        roles = {row["left_role"], row["right_role"]}
        pair = next(pair for pair in order if set(pair) == roles)
        cells.setdefault((row["task"], pair), []).append(row)
    return dict(sorted(cells.items(), key=lambda cell: (cell[0][0], order.index(cell[0][1]))))


def _answers(rows: list[Row], winner: str) -> stats.Answers:
    return stats.Answers(
        np.array([_chose(row) == winner for row in rows], bool),
        np.array([row["subject"] for row in rows], int),
        np.array([row["picture"] for row in rows], int),
    )


def _summary(answers: stats.Answers, rng: np.random.Generator, draws: int) -> dict[str, Any]:
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


def _by_picture(answers: stats.Answers, titles: dict[int, str]) -> list[Row]:
    """The rate of every picture, the highest first."""
    found = []
    for i, won, n in zip(np.unique(answers.picture), *answers.sums("picture"), strict=True):
        row = {"picture": titles[i], "id": int(i), "n": int(n), "chosen": int(won)}
        row |= {"rate": float(won / n), "wilson": stats.wilson(int(won), int(n))}
        found.append(row)
    return sorted(found, key=lambda row: (-row["rate"], -row["n"], row["picture"]))


def _comparisons(
    cells: dict[tuple[int, Pair], list[Row]],
    methods: list[str],
    tasks: list[int],
    rng: np.random.Generator,
    draws: int,
) -> list[Row]:
    """Differences of fool rates, each method with each, p adjusted within a task (Holm)."""
    found = []
    for task in tasks:
        own = {m: _answers(cells.get((task, (TRUTH, m)), []), m) for m in methods}
        part = []
        for a, b in combinations([m for m in methods if len(own[m].chosen)], 2):
            change = stats.difference(own[a], own[b], rng, draws)
            row = {"task": task, "method": a, "against": b, "difference": change.value}
            part.append({**row, "interval": change.interval, "p": change.p})
        for row, p in zip(part, stats.holm([row["p"] for row in part]), strict=True):
            row["p_holm"] = p
        found += part
    return found


def _sides(rows: list[Row]) -> Row:
    """How often the left picture was chosen: far from a half, somebody favours a side."""
    left, n = sum(row["side"] == "left" for row in rows), len(rows)
    return {"left": left, "n": n, "rate": left / n, "wilson": stats.wilson(left, n)}


def _timing(rows: list[Row]) -> dict[str, Row | None]:
    """How long the pictures stood, in ms: by the page's frames, and by the browser's paints."""

    def summary(values: list[float]) -> Row:
        median = float(np.median(values))
        return {"n": len(values), "median": median, "min": min(values), "max": max(values)}

    found: dict[str, Row | None] = {}
    for name in ("shown_ms", "presented_ms", "frame_ms"):
        values = [row[name] for row in rows if row[name] is not None]
        found[name] = summary(values) if values else None
    return found
