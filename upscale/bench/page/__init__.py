"""The report as one HTML file: rows and cuts become data, page.js draws them in the browser.

JSON has no infinity: null stands for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from upscale import document
from upscale.bench import compare, report
from upscale.bench.columns import COLUMNS, METRICS
from upscale.bench.means import Row, means, names_of, trial_of
from upscale.bench.published import Published
from upscale.image.crops import as_webp

MOST_SHOWN = 24  # pictures with cuts; of a larger set the best and the worst half of them
_LEAD = ("lpips_vgg", "lpips", "dists", "psnr_y", "psnr")  # what best and worst are judged by


def to_html(
    rows: Sequence[Row],
    shown: dict[int, dict[str, np.ndarray]],
    published: Sequence[Published],
    title: str,
) -> str:
    """The page. shown: the cuts of each row, by its place in `rows` (see `crops.cuts`)."""
    data = json.dumps(document.finite(_data(rows, shown, published, title)), ensure_ascii=False)
    data = data.replace("<", "\\u003c")  # no name of a file can end the script
    body, style, script = (
        (Path(__file__).parent / f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css", "js")
    )
    return document.page("diffsr bench", body.replace("/*DATA*/", data, 1), style, script)


def _data(
    rows: Sequence[Row],
    shown: dict[int, dict[str, np.ndarray]],
    published: Sequence[Published],
    title: str,
) -> dict[str, Any]:
    table = means(rows)
    place = {trial_of(row): index for index, row in enumerate(table)}
    columns = [name for name in COLUMNS if table and name in table[0]]
    done = [row for row in rows if "error" not in row]
    return {
        "title": title,
        "columns": [
            {"key": name, "title": c.title, "digits": c.digits, "better": c.better, "text": c.text,
             "metric": name in METRICS}
            for name in columns for c in (COLUMNS[name],)
        ],
        "trials": [
            {"name": name, "method": row["method"], "nfe": row["nfe"],
             "pictures": row["pictures"], "weights": row["weights"],
             "means": {key: [row[key].value, row[key].low, row[key].high] for key in columns}}
            for name, row in zip(names_of(table), table, strict=True)
        ],
        "differences": compare.flat(compare.against_first(rows)),
        "pictures": _pictures(rows, shown, place, columns),
        "published": [
            {"source": t.source, "scale": t.scale, "protocol": t.protocol, "rows": list(t.rows)}
            for t in published
        ],
        "protocol": _protocol(done),
        "failed": [f"{row['method']}: {row['error']}" for row in rows if "error" in row],
    }  # fmt: skip


def _pictures(
    rows: Sequence[Row],
    shown: dict[int, dict[str, np.ndarray]],
    place: dict[tuple, int],
    columns: Sequence[str],
) -> list[dict[str, Any]]:
    """Per picture and scale: its rows by the trial's place, and the cuts if it is shown."""
    found: dict[tuple, dict[str, Any]] = {}
    cuts: dict[tuple, dict[int, dict[str, np.ndarray]]] = {}
    for index, row in enumerate(rows):
        if "error" in row:
            continue
        key, trial = (row["picture"], row["scale"]), place[trial_of(row)]
        one = found.setdefault(key, {"name": row["picture"], "scale": row["scale"], "rows": {}})
        one["rows"][trial] = {name: row[name] for name in columns if name in row}
        if index in shown:
            cuts.setdefault(key, {})[trial] = shown[index]
    for key in _worth_showing(found):
        if key in cuts:
            any_cut = next(iter(cuts[key].values()))
            found[key]["hr"], found[key]["lr"] = _url(any_cut["hr"]), _url(any_cut["lr"])
            found[key]["cuts"] = {trial: _url(cut["sr"]) for trial, cut in cuts[key].items()}
    return list(found.values())


def _worth_showing(found: dict[tuple, dict[str, Any]]) -> list[tuple]:
    if len(found) <= MOST_SHOWN:
        return list(found)
    some = next(iter(found.values()))["rows"].values()
    lead = next((name for name in _LEAD if any(name in row for row in some)), None)
    sign = COLUMNS[lead].better if lead else 1

    def quality(key: tuple) -> float:
        values = [row.get(lead) for row in found[key]["rows"].values()]
        known = [v for v in values if v is not None and math.isfinite(v)]
        return sign * sum(known) / len(known) if known else 0.0

    order = sorted(found, key=quality)
    half = MOST_SHOWN // 2
    chosen = {*order[:half], *order[-half:]}
    return [key for key in found if key in chosen]


def _protocol(done: Sequence[Row]) -> list[list[str]]:
    """What was measured how: a name and the different values of it in the rows."""
    named = {
        "scale": "Magnification", "degradation": "Degradation",
        "kernel": "Input made by", "border": "Border left out of PSNR-Y and SSIM-Y, in pixels",
        "samples": "Samples per picture", "seed": "Seed", "weights": "Weights",
        "weights_sha256": "Their sha256", "consistency_mode": "Consistency", "dtype": "Numbers",
        "machine": "Machine", "versions": "Versions",
    }  # fmt: skip
    lines = []
    for key, text in named.items():
        values = list(dict.fromkeys(str(row[key]) for row in done if row.get(key) is not None))
        if values:
            lines.append([text, "; ".join(values)])
    return [*lines, *(list(line) for line in report.treatments(done))]


def _url(cut: np.ndarray) -> str:
    return document.data_url(as_webp(cut), "webp")
