"""Two runs, before and after a change: what differs for more than chance, and by how much."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upscale import document
from upscale.bench.columns import COLUMNS, METRICS
from upscale.bench.report import TrialKey, groups
from upscale.bench.stats import Mean, difference, mean_of
from upscale.document import counted
from upscale.errors import InputError

Row = dict[str, Any]
# what a note is made of where it differs
_PROTOCOL = ("degradation", "kernel", "border", "versions", "machine", "seed")


def read_rows(path: Path) -> list[Row]:
    """What `diffsr bench --json` wrote. Raises InputError."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "picture" in r for r in rows):
        raise InputError(f"{path}: not the rows of a benchmark; make it with diffsr bench --json")
    return rows


def compare(before: Sequence[Row], after: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """(a row per trial and metric, notes on what was not compared).

    A row: `trial`, `metric`, `pictures`, `before` and `after` (means), `difference` (a `Mean` by
    the paired bootstrap) and `verdict`: better, worse, differs (neither is better) or same, which
    is to say that the interval of the difference holds 0. Raises InputError where nothing pairs.
    """
    pairs, notes = _pairs(groups(before), groups(after))
    found: list[Row] = []
    for name, one, two in pairs:
        first, second, left_out = _same_pictures(one, two)
        if left_out:
            notes.append(f"{name}: {counted(left_out, 'picture')} in one run only, or changed")
        if not first:
            continue
        for key in _PROTOCOL:
            was, now = first[0].get(key), second[0].get(key)
            if was is not None and was != now:
                notes.append(f"{name}: {key} was {was}, is {now}")
        found += _lines(name, first, second)
    if not found:
        raise InputError("the two files have no trial and picture in common")
    return found, list(dict.fromkeys(notes))


def to_markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The comparison as a table."""
    cells = []
    for row in rows:
        column = COLUMNS[row["metric"]]
        digits = column.digits + 1  # a difference is smaller than what differs
        means = (f"{row[when]:.{digits}f}" for when in ("before", "after"))
        change = row["difference"].text(digits)
        cells.append((row["trial"], column.title, row["pictures"], *means, change, row["verdict"]))
    heads = ("trial", "metric", "pictures", "before", "after", "difference", "")
    legend = (
        "Difference: after - before with its 95% interval, by the paired bootstrap over the "
        "pictures; same: the interval holds 0."
    )
    lines = [*document.markdown(heads, cells), "", legend, *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def to_json(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The comparison for other programs."""
    flat = []
    for row in rows:
        change = row["difference"]
        flat.append({**row, "difference": change.value, "low": change.low, "high": change.high})
    found = document.finite({"rows": flat, "notes": list(notes)})
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _lines(name: str, before: list[Row], after: list[Row]) -> list[Row]:
    found = []
    for metric in METRICS:
        if metric not in before[0] or metric not in after[0] or COLUMNS[metric].whole:
            continue
        one, two = ([row.get(metric) for row in rows] for rows in (before, after))
        change = difference(one, two)
        row = {"trial": name, "metric": metric, "pictures": len(before)}
        row |= {"before": mean_of(one).value, "after": mean_of(two).value}
        verdict = _verdict(change, COLUMNS[metric].better)
        found.append({**row, "difference": change, "verdict": verdict})
    return found


def _verdict(change: Mean, better: int) -> str:
    if not change.sure:
        return "same"
    return {1: "better", -1: "worse", 0: "differs"}[better * (1 if change.value > 0 else -1)]


def _pairs(
    before: dict[TrialKey, list[Row]], after: dict[TrialKey, list[Row]]
) -> tuple[list[tuple[str, list[Row], list[Row]]], list[str]]:
    """Trials that belong together: the same method, scale and way of sampling, whatever the
    weights; or the only ones of a method and scale, whose defaults may have changed."""
    found, notes = [], []
    unmatched = dict(after)
    for loose in (False, True):
        for key, rows in list(before.items()):
            same = [k for k in unmatched if _essence(k, loose) == _essence(key, loose)]
            mine = [k for k in before if _essence(k, loose) == _essence(key, loose)]
            if len(same) == len(mine) == 1:
                found.append((_label(key), rows, unmatched.pop(same[0])))
                del before[key]
    for keys, where in ((before, "first"), (unmatched, "second")):
        notes += [f"{_label(key)} is in the {where} run only" for key in keys]
    return found, notes


def _essence(key: TrialKey, loose: bool) -> tuple:
    way = () if loose else (key.sampler, key.steps, key.temperature, key.parametrisation)
    return key.method, key.scale, *way


def _label(key: TrialKey) -> str:
    scale = f"x{key.scale:g}" if key.scale else None
    steps = counted(key.steps, "step") if key.steps else None
    parts = (key.method, scale, key.sampler, steps, key.parametrisation)
    return " ".join(part for part in parts if part)


def _same_pictures(one: list[Row], two: list[Row]) -> tuple[list[Row], list[Row], int]:
    """The rows of pictures that both have, in one order, and how many others there are. One
    name with other bytes is another picture."""

    def by_picture(rows: list[Row]) -> dict[tuple, Row]:
        return {(row["picture"], row.get("picture_sha256")): row for row in rows}

    first, second = by_picture(one), by_picture(two)
    both = [key for key in first if key in second]
    names = {key[0] for key in {**first, **second}}
    return [first[k] for k in both], [second[k] for k in both], len(names) - len(both)
