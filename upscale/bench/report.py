"""From rows to tables: means with 95% intervals, as text, Markdown, CSV or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from upscale import document
from upscale.bench.columns import COLUMNS, METRICS
from upscale.bench.stats import Mean, mean_of
from upscale.document import counted

Row = dict[str, Any]


class TrialKey(NamedTuple):
    """What tells one line of the table from another."""

    method: str
    weights: str | None
    scale: float
    sampler: str | None
    steps: int | None
    temperature: float | None
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


def summary(rows: Sequence[Row]) -> list[Row]:
    """`means` as text cells, without columns that are empty everywhere."""
    table = [
        {k: v.text(COLUMNS[k].digits) if isinstance(v, Mean) else v for k, v in row.items()}
        for row in means(rows)
    ]
    empty = {key for key in (*TRIAL, "nfe") if all(row[key] is None for row in table)}
    empty.add("weights_sha256")
    if len({row["scale"] for row in table}) < 2:
        empty.add("scale")
    return [{k: v for k, v in row.items() if k not in empty} for row in table]


def brief(rows: Sequence[Row]) -> list[Row]:
    """The table for a page: who, the metrics and the calls; no intervals, the best in bold."""
    table = means(rows)
    metrics = [name for name in METRICS if table and name in table[0]]
    named = names_of(table)
    best = {name: _best(name, table) for name in metrics}
    out = []
    for label, row in zip(named, table, strict=True):
        cells: Row = {"": label}
        for name in metrics:
            text = f"{row[name].value:.{COLUMNS[name].digits}f}"
            text = "-" if math.isnan(row[name].value) else text
            cells[COLUMNS[name].title] = f"**{text}**" if text == best[name] else text
        out.append({**cells, "calls": row["nfe"]})
    return out


def to_markdown(rows: Sequence[Row], short: bool = False) -> str:
    """The table of means, what it was measured on, and the pictures that failed."""
    table = brief(rows) if short else summary(rows)
    lines = []
    if table:
        cells = (["-" if v is None else v for v in row.values()] for row in table)
        lines += document.markdown(table[0], cells)
    done = next((row for row in rows if "error" not in row), None)
    if done is not None and not short:
        scales = dict.fromkeys(f"x{row['scale']:g}" for row in rows if "error" not in row)
        lines += [
            "",
            f"{' and '.join(scales)}, input by {done['kernel']}; means with 95% bootstrap "
            "intervals over the pictures.",
        ]
    failed = [row for row in rows if "error" in row]
    if failed:
        lines += ["", "Failed:", "", *(f"- {row['method']}: {row['error']}" for row in failed)]
    return "\n".join(lines) + "\n"


def to_json(rows: Sequence[Row]) -> str:
    """All rows; null for what is not finite."""
    return json.dumps(document.finite(rows), indent=1, ensure_ascii=False)


def names_of(table: Sequence[Row]) -> list[str]:
    """The shortest names that tell the lines apart: the method, and what differs within it."""
    out = []
    for row in table:
        same = [other for other in table if other["method"] == row["method"]]
        differs = [key for key in TRIAL[1:-1] if len({other[key] for other in same}) > 1]
        if len(same) > 1 and not differs:  # files of one name
            differs = ["weights_sha256"]
        named = [_named(key, row[key]) for key in differs if row[key] is not None]
        out.append(", ".join([str(row["method"]), *named]))
    return out


def _named(key: str, value: Any) -> str:
    if key == "steps":
        return counted(value, "step")
    if key == "weights_sha256":
        return str(value)[:8]
    return {"scale": "x", "temperature": "temperature "}.get(key, "") + str(value)


def _best(name: str, table: Sequence[Row]) -> str | None:
    """The best mean as it is printed; None where there is no better or nothing to choose from."""
    column = COLUMNS[name]
    known = [row[name].value for row in table if not math.isnan(row[name].value)]
    if not column.better or len(known) < 2:
        return None
    return f"{max(known) if column.better > 0 else min(known):.{column.digits}f}"


def _mean(name: str, values: Sequence[float | None]) -> Mean:
    if COLUMNS[name].whole:
        known = [value for value in values if value is not None]
        return Mean(known[0] if known else math.nan, math.nan, math.nan)
    return mean_of(values)
