"""An analysis becomes files: report.html that stands alone, report.json, and CSV tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from upscale import atomic, document
from upscale.humaneval import html
from upscale.humaneval.analysis import INTERVALS
from upscale.humaneval.design import LR, TRUTH
from upscale.humaneval.session import label
from upscale.humaneval.store import PICTURES, Store

_ANSWER = ("position", "kind", "task", "name", "left_role", "right_role", "side", "rt_ms",
           "shown_ms", "presented_ms", "frame_ms", "zoom", "views", "excluded")  # fmt: skip


def write(found: dict[str, Any], store: Store, study: Path, folder: Path, *, top: int = 3) -> None:
    """Put everything into `folder`. Raises OutputError, DiskFull."""
    thumbnails = _thumbnails(found, store, study, top)
    texts = {
        "report.html": html.page(found, thumbnails, top),
        "report.json": json.dumps(
            {k: v for k, v in found.items() if k != "answers"}, indent=1, ensure_ascii=False
        ),
        "rates.csv": _csv(_flat(row) for row in found["rates"] + found["preferences"]),
        "comparisons.csv": _csv(_flat(row) for row in found["comparisons"]),
        "pictures.csv": _csv(_flat(row) for row in found["pictures"]),
        "answers.csv": _csv(
            {"subject": label(row["subject"]), **{k: row[k] for k in _ANSWER}}
            for row in found["answers"]
        ),
    }
    for name, text in texts.items():
        atomic.write_text(folder / name, text)


def table(found: dict[str, Any]) -> str:
    """The rates as Markdown."""
    heads = ("task", "method", "answers", "fool rate", "95% interval", "Wilson")
    cells = []
    for row in found["rates"] + found["preferences"]:
        name = f"{row['method']} over {row['against']}" if "against" in row else row["method"]
        intervals = ("-".join(f"{100 * v:.1f}" for v in row[kind]) for kind in INTERVALS[:2])
        cells.append((row["task"], name, row["n"], f"{100 * row['rate']:.1f}%", *intervals))
    return "\n".join(document.markdown(heads, cells)) + "\n"


def coverage_table(rows: list[dict[str, Any]]) -> str:
    """Share of simulated studies whose interval covers the truth, as Markdown."""
    heads = ("task", "method", "true rate", "studies", "mean rate", "covers", "Wilson",
             "subjects only", "pictures only")  # fmt: skip
    cells = []
    for row in rows:
        true, mean, *shares = (f"{100 * row[name]:.1f}%" for name in ("true", "mean", *INTERVALS))
        cells.append((row["task"], row["method"], true, row["studies"], mean, *shares))
    return "\n".join(document.markdown(heads, cells)) + "\n"


def _thumbnails(
    found: dict[str, Any], store: Store, study: Path, top: int
) -> dict[tuple[int, str], bytes]:
    """(picture, role) -> PNG, of what the report shows. A study moved without them has none."""
    files, taken = store.files(), {}
    for rate in found["rates"]:
        own = html.of(found["pictures"], rate)
        for row in (row for end in html.ends(own, top) for row in end):
            for role in (LR, rate["method"], TRUTH):
                path = study / PICTURES / files[row["id"], role]
                if path.is_file():
                    taken[row["id"], role] = path.read_bytes()
    return taken


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Intervals as two columns."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, tuple):
            flat[f"{key}_low"], flat[f"{key}_high"] = value
        else:
            flat[key] = value
    return flat


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    return document.to_csv([{key: _safe(value) for key, value in row.items()} for row in rows])


def _safe(value: Any) -> Any:
    """A name that a spreadsheet would take for a formula is quoted."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r\n" and value else value
