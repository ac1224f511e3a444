"""What the commands of `diffsr weights` share: options, rows, and the loop over names."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from upscale.cli.options import option, weights_names
from upscale.cli.progress import Reporter
from upscale.errors import DiffsrError

if TYPE_CHECKING:
    from upscale.weights.registry import Entry

JSON = option("--json", "as_json", is_flag=True, help="Print JSON.")
WHICH = click.argument("name", metavar="NAME|FILE|hf:...", shell_complete=weights_names)
NAMES = click.argument("names", nargs=-1, metavar="NAME|FILE|hf:...", shell_complete=weights_names)


def each(
    names: tuple[str, ...],
    one: Callable[[str, Reporter], dict[str, Any]],
    shown: str,
    options: dict[str, Any],
) -> int:
    """Do `one` with every name and print its row, or the value at `shown`.

    Failures are reported and do not stop the others. Returns the exit code.
    """
    codes = []
    with Reporter(quiet=options["quiet"], unit="files") as reporter:
        for name in names:
            try:
                row = one(name, reporter)
            except DiffsrError as error:
                if len(names) == 1:
                    raise
                codes.append(error.exit_code)
                reporter.error(str(error))
                row = {"name": name, "error": str(error), "kind": type(error).__name__}
            if options["as_json"]:
                reporter.result(json.dumps(row))
            elif shown in row and "error" not in row:
                reporter.result(str(row[shown]))
    return max(codes, default=0)


def described(entry: Entry, state: str, default: Sequence[int] | None = None) -> dict[str, Any]:
    """An entry as JSON. default: the magnifications at which its domain and kind get it."""
    scales: Any = list(entry.scales)
    if entry.any_scale:
        scales = dict(zip(("min", "max"), entry.scales, strict=True))
    row = {
        "name": entry.name, "method": entry.method, "net": entry.net, "domain": entry.domain,
        "head_of": entry.head_of, "input": entry.input, "scales": scales,
        "size": entry.size, "sha256": entry.sha256, "licence": entry.licence,
        "card": entry.card, "state": state, "hub": str(entry.hub) if entry.hub else None,
        "list": str(entry.source) if entry.source else None,
    }  # fmt: skip
    return row if default is None else {**row, "default": list(default)}


def table(rows: Sequence[dict[str, Any]], shown: Sequence[str]) -> str:
    """Some columns of rows, aligned."""
    cells = [[*shown], *([cell(key, row[key]) for key in shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _ranges(numbers: Sequence[int]) -> str:
    """2, 3, 4, 8 -> "2-4,8"."""
    runs = [list(run) for _, run in groupby(enumerate(numbers), lambda at: at[1] - at[0])]
    ends = [(run[0][1], run[-1][1]) for run in runs]
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ends)


def cell(key: str, value: Any) -> str:
    if key == "size":
        return f"{value / 2**20:.1f} MiB"
    if key == "default":
        return _ranges(value) or "-"
    if key == "scales" and isinstance(value, dict):
        return f"{value['min']:g}-{value['max']:g}"
    if key == "scales":
        return ",".join(f"{scale:g}" for scale in value) or "-"
    return str(value)
