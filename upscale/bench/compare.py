"""Two trials, of one run or of two: what differs for more than chance, and by how much."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upscale import document
from upscale.bench.columns import COLUMNS, METRICS
from upscale.bench.means import TRIAL, TrialKey, groups, names_of
from upscale.bench.stats import Mean, difference, mean_of, paired, printed
from upscale.document import counted
from upscale.errors import InputError

Row = dict[str, Any]
_WAY = ("method", "scale", "sampler", "steps", "temperature", "parametrisation", "denoise")
# what two trials that belong together have in common, the strictest first
_ALIKE = (TRIAL, ("weights", "preset", *_WAY), ("preset", *_WAY), _WAY, ("method", "scale"))
# what a note is made of where it differs
_PROTOCOL = ("scale", "degradation", "kernel", "border", "versions", "machine", "seed")
LEGEND = (
    "Difference: {}, by the paired bootstrap over the pictures; same: its 95% interval holds 0."
)


def read_rows(path: Path) -> list[Row]:
    """What `diffsr bench --json` wrote. Raises InputError."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    rows = rows.get("rows") if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise InputError(f"{path}: not the rows of a benchmark; make it with diffsr bench --json")
    return rows


def _is_row(row: Any) -> bool:
    """Whether its parts have the types that are counted on: another program may have written it."""
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), str) for name in ("picture", "method"))
        and all(isinstance(row.get(name), int | float | None) for name in ("scale", *METRICS))
        and not any(isinstance(row.get(name), list | dict) for name in TRIAL)
        and isinstance(row.get("asked", {}), dict)
    )


def compare(
    before: Sequence[Row], after: Sequence[Row], trials: tuple[str, str] | None = None
) -> tuple[list[Row], list[str]]:
    """(a row per trial and metric, notes on what was not compared).

    trials: the one of `before` and the one of `after` to compare, as the tables call them; else
    those that belong together. A row: `trial`, `against`, `metric`, `pictures` (that have it in
    both), `before` and `after` (their means), `difference` (a `Mean` by the paired bootstrap) and
    `verdict`: better, worse, differs (neither is better), same, which is to say that the interval
    of the difference holds 0, or unknown (of one picture). Raises InputError where nothing pairs,
    or there is no such trial.
    """
    one, two = groups(before), groups(after)
    if trials:
        notes: list[str] = []
        pairs = [(*trials, _called(trials[0], one), _called(trials[1], two))]
    else:
        pairs, notes = _pairs(one, two)
    found: list[Row] = []
    for against, name, was, now in pairs:
        first, second, left_out = _same_pictures(was, now)
        if left_out:
            left = counted(left_out, "picture")
            notes.append(f"{name}: {left} in one run only, or changed")
        if not first:
            continue
        for key in _PROTOCOL:
            old, new = first[0].get(key), second[0].get(key)
            if old is not None and old != new:
                notes.append(f"{name}: {key} was {old}, is {new}")
        found += _lines(against, name, first, second)
    if not found:
        raise InputError("the two files have no trial and picture in common")
    return found, list(dict.fromkeys(notes))


def against_first(rows: Sequence[Row]) -> list[Row]:
    """Rows as of `compare`: each trial of a run against the first of its scale."""
    found: list[Row] = []
    own = groups(rows)
    names = dict(zip(own, names_of([key._asdict() for key in own]), strict=True))
    for key, group in own.items():
        first = next(other for other in own if other.scale == key.scale)
        if first != key:
            one, two, _ = _same_pictures(own[first], group)
            found += _lines(names[first], names[key], one, two) if one else []
    return found


def tables(rows: Sequence[Row], verbose: bool = False) -> list[tuple[str, list[Row]]]:
    """(what is compared with, a table with a line per trial and a column per metric): how much more
    it has, and what that means. verbose: with intervals."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        lines = found.setdefault(row["against"], {})
        cells = lines.setdefault(row["trial"], {f"less {row['against']}": row["trial"]})
        column = COLUMNS[row["metric"]]
        value = _signed(row["difference"], column.digits, verbose)
        cells[column.title] = f"{value} {row['verdict']}"
    return [(against, list(lines.values())) for against, lines in found.items()]


def to_markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """A table for every two trials that were compared."""
    found: dict[tuple, list[tuple]] = {}
    for row in rows:
        column = COLUMNS[row["metric"]]
        digits = column.digits + 1  # a difference is smaller than what differs
        means = (printed(row[when], digits) for when in ("before", "after"))
        cells = (column.title, *means, _signed(row["difference"], digits, True), row["verdict"])
        found.setdefault((row["against"], row["trial"], row["pictures"]), []).append(cells)
    texts = []
    for (against, name, pictures), lines in found.items():
        title = name if name == against else f"{against}, then {name}"
        heads = ("metric", "before", "after", "difference", "")
        texts += [f"{title} ({counted(pictures, 'picture')}):"]
        texts += ["\n".join(document.markdown(heads, lines))]
    texts.append(LEGEND.format("after less before"))
    if notes:
        texts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(texts) + "\n"


def flat(rows: Sequence[Row]) -> list[Row]:
    """The rows for other programs: the difference as three numbers."""
    return [
        {**row, "difference": row["difference"].value, "low": row["difference"].low,
         "high": row["difference"].high}
        for row in rows
    ]  # fmt: skip


def _lines(against: str, name: str, before: list[Row], after: list[Row]) -> list[Row]:
    found = []
    for metric in METRICS:
        if metric not in before[0] or metric not in after[0] or COLUMNS[metric].whole:
            continue
        one, two = paired(*([row.get(metric) for row in rows] for rows in (before, after)))
        change = difference(one, two)
        row = {"trial": name, "against": against, "metric": metric, "pictures": len(one)}
        row |= {"before": mean_of(one).value, "after": mean_of(two).value}
        verdict = _verdict(change, COLUMNS[metric].better)
        found.append({**row, "difference": change, "verdict": verdict})
    return found


def _signed(change: Mean, digits: int, interval: bool) -> str:
    text = change.text(digits) if interval else printed(change.value, digits)
    return f"+{text}" if round(change.value, digits) > 0 else text


def _verdict(change: Mean, better: int) -> str:
    if not math.isfinite(change.low):
        return "unknown"  # one picture, or none with a number
    if not change.sure:
        return "same"
    return {1: "better", -1: "worse", 0: "differs"}[better * (1 if change.value > 0 else -1)]


def _pairs(
    before: dict[TrialKey, list[Row]], after: dict[TrialKey, list[Row]]
) -> tuple[list[tuple[str, str, list[Row], list[Row]]], list[str]]:
    """Trials that belong together: the very same; else of the same weights' name and way of
    sampling; else of the same method and way, whatever the weights; or the only ones of a method
    and scale, whose defaults may have changed."""
    found, notes = [], []
    names = _labels(list({**before, **after}))
    left, unmatched = dict(before), dict(after)
    for alike in _ALIKE:
        for key, rows in list(left.items()):
            same, mine = (
                [k for k in keys if all(getattr(k, a) == getattr(key, a) for a in alike)]
                for keys in (unmatched, left)
            )
            if len(same) == len(mine) == 1:
                found.append((names[key], names[same[0]], rows, unmatched.pop(same[0])))
                del left[key]
    for keys, where in ((left, "first"), (unmatched, "second")):
        notes += [f"{names[key]} is in the {where} run only" for key in keys]
    return found, notes


def _called(name: str, own: dict[TrialKey, list[Row]]) -> list[Row]:
    """The rows of a trial by its name in the tables. Raises InputError with the names."""
    named = dict(zip(names_of([key._asdict() for key in own]), own.values(), strict=True))
    if name not in named:
        raise InputError(f"no trial is called {name!r}; choose from {'; '.join(named)}")
    return named[name]


def _labels(keys: Sequence[TrialKey]) -> dict[TrialKey, str]:
    """What each is called: by `_label`, and what tells it from others that are called so."""
    rows = [{**key._asdict(), "method": _label(key)} for key in keys]
    return dict(zip(keys, names_of(rows), strict=True))


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
