"""From rows to tables: means with 95% intervals, as text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]

_TRIAL = ("method", "weights", "sampler", "steps", "temperature", "parametrisation")
_MEASURED = {  # column -> digits after the point; a row has those asked for
    "psnr_y": 2, "ssim_y": 4, "psnr": 2, "ssim": 4, "lpips": 4, "lpips_vgg": 4,
    "consistency": 3, "lr_psnr": 2, "grid_ratio": 2, "seconds": 3,
}  # fmt: skip
_RESAMPLES = 2000


@dataclass(frozen=True)
class Mean:
    """A mean over pictures with its 95% bootstrap interval (nan for a single picture)."""

    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        if math.isnan(self.value):
            return "-"
        alone = not (math.isfinite(self.low) and math.isfinite(self.high))
        interval = "" if alone else f" ({self.low:.{digits}f}..{self.high:.{digits}f})"
        return f"{self.value:.{digits}f}{interval}"


def means(rows: Sequence[Row]) -> list[Row]:
    """One row per method, weights and way of sampling: those, `nfe` (network calls, the mean where
    the sampler chooses them), `pictures` (how many were measured), and a `Mean` per metric and
    for the seconds. Failed pictures are left out."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if "error" not in row:
            groups.setdefault(tuple(row.get(key) for key in _TRIAL), []).append(row)
    done = [row for row in rows if "error" not in row]
    names = [name for name in _MEASURED if any(name in row for row in done)]
    table = []
    for key, group in groups.items():
        measured = {name: _mean([row.get(name) for row in group]) for name in names}
        calls = [row["nfe"] for row in group if row.get("nfe") is not None]
        nfe = round(sum(calls) / len(calls), 1) if calls else None
        nfe = int(nfe) if nfe is not None and nfe == int(nfe) else nfe
        trial = dict(zip(_TRIAL, key, strict=True))
        table.append({**trial, "nfe": nfe, "pictures": len(group), **measured})
    return table


def summary(rows: Sequence[Row]) -> list[Row]:
    """`means` as text cells, without columns that are empty everywhere."""
    table = [
        {k: v.text(_MEASURED[k]) if isinstance(v, Mean) else v for k, v in row.items()}
        for row in means(rows)
    ]
    empty = {key for key in (*_TRIAL, "nfe") if all(row[key] is None for row in table)}
    return [{k: v for k, v in row.items() if k not in empty} for row in table]


def to_markdown(rows: Sequence[Row]) -> str:
    """The table of means, what it was measured on, and the pictures that failed."""
    table = summary(rows)
    lines = []
    if table:
        lines += [_line(table[0]), _line("---" for _ in table[0])]
        lines += [_line("-" if v is None else v for v in row.values()) for row in table]
    done = next((row for row in rows if "error" not in row), None)
    if done is not None:
        lines += ["", f"x{done['scale']:g}, input by {done['kernel']}; means with 95% bootstrap "
                  "intervals over the pictures."]  # fmt: skip
    failed = [row for row in rows if "error" in row]
    if failed:
        lines += ["", "Failed:", "", *(f"- {row['method']}: {row['error']}" for row in failed)]
    return "\n".join(lines) + "\n"


def to_json(rows: Sequence[Row]) -> str:
    """All rows; null for what is not finite, which JSON cannot say."""
    return json.dumps([_plain(row) for row in rows], indent=1, ensure_ascii=False)


def to_csv(rows: Sequence[Row]) -> str:
    """All rows, with every column that occurs; an empty cell for nothing, inf and nan as such."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _mean(values: Sequence[float | None]) -> Mean:
    """Over the pictures that have the value: bootstrap by percentiles, Efron 1979."""
    known = np.array([v for v in values if v is not None and not math.isnan(v)])
    if not len(known):
        return Mean(math.nan, math.nan, math.nan)
    value = float(known.mean())
    if len(known) == 1 or not math.isfinite(value):
        return Mean(value, math.nan, math.nan)
    draws = np.random.default_rng(0).integers(0, len(known), (_RESAMPLES, len(known)))
    low, high = np.percentile(known[draws].mean(axis=1), [2.5, 97.5])
    return Mean(value, float(low), float(high))


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(row: Row) -> Row:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
