"""Reports as text: rows as Markdown, CSV and JSON, and HTML pages that need no other file."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --soft: color-mix(in srgb, currentColor 14%, transparent); }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid var(--soft);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 0; } figcaption { font-size: .85em; }
"""


def counted(count: int, noun: str) -> str:
    """1, "picture" -> "1 picture"; 2, "picture" -> "2 pictures"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    """40 s, 3 min, 2 h 10 min, 2.1 days."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours / 24:.1f} days"


def markdown(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> list[str]:
    """A table as lines of Markdown."""
    heads = list(heads)
    lines = (heads, ["---"] * len(heads), *rows)
    return [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    ]


def fitted(rows: Sequence[dict[str, Any]], width: int | None) -> list[list[dict[str, Any]]]:
    """A table in parts of so many characters a line, each with the first column; None: as it is.

    Three characters stand between two columns, as in Markdown."""
    if width is None or not rows:
        return [list(rows)]
    first, *names = rows[0]
    sizes = {name: max(len(str(one)) for one in (name, *(row[name] for row in rows))) + 3
             for name in rows[0]}  # fmt: skip
    parts, room = [[first]], width - sizes[first] - 1
    for name in names:
        if sizes[name] > room and len(parts[-1]) > 1:
            parts.append([first])
            room = width - sizes[first] - 1
        parts[-1].append(name)
        room -= sizes[name]
    return [[{name: row[name] for name in part} for row in rows] for part in parts]


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV with every column that occurs; missing values are empty, inf and nan stay."""
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def finite(value: Any) -> Any:
    """The same with None for infinities and nan, which JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value


def to_json(value: Any) -> str:
    """For other programs, and to be read; null for what is not finite."""
    return json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n"


# --- HTML ---------------------------------------------------------------------------------------


def page(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole HTML page, whose content security policy forbids it to load anything."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        policy += "; script-src 'unsafe-inline'"
        body += f"\n<script>{script}</script>"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def table(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table as HTML."""

    def line(tag: str, cells: Iterable[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line('th', heads)}{''.join(line('td', row) for row in rows)}</table>"


def data_url(content: bytes, kind: str) -> str:
    """A picture's bytes as a data URL. kind: png, webp ..."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
