"""Rows grouped by their trial: what each is called, and its means over the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from upscale.bench.columns import COLUMNS
from upscale.bench.stats import Mean, mean_of
from upscale.document import counted

Row = dict[str, Any]


class TrialKey(NamedTuple):
    """What tells one line of the table from another."""

    method: str
    weights: str | None
    preset: str | None
    scale: float
    sampler: str | None
    steps: int | None
    temperature: float | None
    denoise: float | None
    parametrisation: str | None
    weights_sha256: str | None


TRIAL = TrialKey._fields


def groups(rows: Sequence[Row]) -> dict[TrialKey, list[Row]]:
    """The rows that were measured, by their trial."""
    found: dict[TrialKey, list[Row]] = {}
    for row in rows:
        if "error" not in row:
            found.setdefault(trial_of(row), []).append(row)
    return found


def trial_of(row: Row) -> TrialKey:
    """Which trial a row, or a line of `means`, belongs to. One whose weights were chosen for each
    picture belongs to what was asked for."""
    if "asked" in row:
        row = {"method": row["method"], "scale": row["scale"], **row["asked"]}
    return TrialKey(*(row.get(key) for key in TRIAL))


def means(rows: Sequence[Row]) -> list[Row]:
    """One row per method, weights, scale and way of sampling: those, `nfe` (network calls, the
    mean where the sampler chooses them), `pictures` (how many were measured), and a `Mean` per
    metric and cost. Failed pictures are left out."""
    found = groups(rows)
    names = [name for name in COLUMNS if any(name in row for row in rows if "error" not in row)]
    table = []
    for key, group in found.items():
        measured = {name: _mean(name, [row.get(name) for row in group]) for name in names}
        calls = [row["nfe"] for row in group if row.get("nfe") is not None]
        nfe = round(sum(calls) / len(calls), 1) if calls else None
        nfe = int(nfe) if nfe is not None and nfe == int(nfe) else nfe
        table.append({**key._asdict(), "nfe": nfe, "pictures": len(group), **measured})
    return table


def names_of(table: Sequence[Row]) -> list[str]:
    """The shortest names that tell the lines apart: the method, and what differs within it."""
    out = []
    for row in table:
        same = [other for other in table if other["method"] == row["method"]]
        differs = [key for key in TRIAL[1:-1] if len({other[key] for other in same}) > 1]
        if sum(all(other[key] == row[key] for key in differs) for other in same) > 1:
            differs.append("weights_sha256")  # files of one name
        named = [_named(key, row[key]) for key in differs if row[key] is not None]
        out.append(", ".join([str(row["method"]), *named]))
    return out


def _named(key: str, value: Any) -> str:
    if key == "steps":
        return counted(value, "step")
    if key == "weights_sha256":
        return str(value)[:8]
    word = {"scale": "x", "temperature": "temperature ", "denoise": "denoise "}.get(key, "")
    return word + str(value)


def _mean(name: str, values: Sequence[float | None]) -> Mean:
    if COLUMNS[name].whole:
        known = [value for value in values if value is not None]
        return Mean(known[0] if known else math.nan, math.nan, math.nan)
    return mean_of(values)
