"""Tables that papers printed, to be shown beside ours and never mixed with them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscale.bench.columns import COLUMNS
from upscale.errors import UsageError


@dataclass(frozen=True)
class Published:
    """One table: where it stands, what it was measured on and how."""

    name: str
    source: str
    datasets: tuple[str, ...]
    scale: float
    protocol: str
    rows: tuple[dict[str, Any], ...]  # method, and metrics by their names in `columns`


@functools.cache
def tables() -> dict[str, Published]:
    """All of published.toml by name."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    text = (Path(__file__).parent / "published.toml").read_text(encoding="utf-8")
    return {
        name: Published(name, raw["source"], tuple(raw["datasets"]), float(raw["scale"]),
                        raw["protocol"], tuple(raw["rows"]))
        for name, raw in tomllib.loads(text).items()
    }  # fmt: skip


def choose(wish: str, dataset: str, scales: Sequence[float]) -> list[Published]:
    """`auto` (those of the dataset and scale), `none`, or names with commas. Raises UsageError."""
    known = tables()
    if wish == "none":
        return []
    if wish == "auto":
        return [t for t in known.values() if dataset in t.datasets and t.scale in scales]
    names = [name.strip() for name in wish.split(",") if name.strip()]
    for name in names:
        if name not in known:
            names = ", ".join(known)
            raise UsageError(f"no published table {name}; choose from auto, none, {names}")
    return [known[name] for name in names]


def parts(chosen: Sequence[Published]) -> list[str | list[dict[str, Any]]]:
    """The tables, each under its source and protocol, as those of `report.parts`."""
    found: list[str | list[dict[str, Any]]] = []
    for table in chosen:
        names = [name for name in COLUMNS if any(name in row for row in table.rows)]
        found.append(
            f"Published, not measured here: {table.source}, x{table.scale:g}. "
            f"Protocol: {table.protocol}."
        )
        found.append([
            {"published": row["method"], **{COLUMNS[name].title: row.get(name) for name in names}}
            for row in table.rows
        ])  # fmt: skip
    return found
