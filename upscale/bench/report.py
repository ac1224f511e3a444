"""From rows to a report: the means, how trials differ, and what was done to the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from upscale import document
from upscale.bench import compare
from upscale.bench.columns import COLUMNS, METRICS
from upscale.bench.means import TRIAL, Row, means, names_of
from upscale.bench.stats import Mean, printed

WIDTH = 80  # of a table's lines, where nobody knows better


def parts(rows: Sequence[Row], verbose: bool = False) -> list[str | list[Row]]:
    """The report, in order: tables as rows of cells, the rest as text.

    verbose: with intervals, costs, and what each trial was."""
    table, done = (summary if verbose else brief)(rows), [row for row in rows if "error" not in row]
    found: list[str | list[Row]] = [table] if table else []
    if done:
        scales = dict.fromkeys(f"x{row['scale']:g}" for row in done if "scale" in row)
        intervals = " with 95% bootstrap intervals" if verbose else ""
        found.append(
            f"{' and '.join(scales)}, input by {done[0]['kernel']}; means over the pictures"
            f"{intervals}."
        )
    for against, changes in compare.tables(compare.against_first(rows), verbose):
        found += [changes, compare.LEGEND.format(f"a trial less {against}")]
    found += [f"{text}." for _, text in treatments(done)]
    if failed := [f"- {row['method']}: {row['error']}" for row in rows if "error" in row]:
        found += ["Failed:", "\n".join(failed)]
    return found


def to_markdown(rows: Sequence[Row], verbose: bool = False, width: int | None = None) -> str:
    """The report; lines of its tables have at most `width` characters."""
    return markdown_of(parts(rows, verbose), width)


def markdown_of(parts: Sequence[str | list[Row]], width: int | None = None) -> str:
    """Texts and tables as Markdown, lines of tables of at most `width` characters."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        for piece in document.fitted(part, width):
            cells = (["-" if v is None else v for v in row.values()] for row in piece)
            texts.append("\n".join(document.markdown(piece[0], cells)))
    return "\n\n".join(texts) + "\n"


def treatments(done: Sequence[Row]) -> list[tuple[str, str]]:
    """(what is special, what was done and to how many) of the pictures that are not plain."""
    pictures = {row["picture"]: row.get("treatment") or [] for row in done}
    found: dict[str, int] = {}
    for texts in pictures.values():
        for text in texts:
            found[text] = found.get(text, 0) + 1
    return [
        (text.partition(":")[0], f"{text} ({count} of {len(pictures)} pictures)")
        for text, count in found.items()
    ]


def summary(rows: Sequence[Row]) -> list[Row]:
    """`means` as text cells, without columns that are empty everywhere. The method's is the name
    that tells a trial from the others, for it stands in each part of a table that is too wide."""
    found = means(rows)
    table = [
        {k: v.text(COLUMNS[k].digits) if isinstance(v, Mean) else v for k, v in row.items()}
        | {"method": name}
        for name, row in zip(names_of(found), found, strict=True)
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
            text = printed(row[name].value, COLUMNS[name].digits)
            cells[COLUMNS[name].title] = f"**{text}**" if text == best[name] else text
        out.append({**cells, "calls": row["nfe"]})
    return out


def _best(name: str, table: Sequence[Row]) -> str | None:
    """The best mean as it is printed; None where there is no better or nothing to choose from."""
    column = COLUMNS[name]
    known = [row[name].value for row in table if not math.isnan(row[name].value)]
    if not column.better or len(known) < 2:
        return None
    return printed(max(known) if column.better > 0 else min(known), column.digits)
