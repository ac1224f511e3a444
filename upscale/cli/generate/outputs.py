"""Which files `diffsr generate` writes, decided before anything is made."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscale.batch import names
from upscale.batch.names import STDOUT
from upscale.batch.remote import is_url
from upscale.errors import OutputError, UsageError
from upscale.image.formats import SUFFIXES, canonical


@dataclass(frozen=True)
class Work:
    """items: number and file (None: not wanted as a file) of each picture; done: numbers whose
    files are there already; sheet: the sheet's file, "-" for standard output; stays: that of a
    sheet which is there already."""

    items: list[tuple[int, Path | None]]
    done: frozenset[int]
    sheet: str | None
    stays: str | None
    format: str
    single: bool  # one picture to standard output

    def prepare(self) -> None:
        """Make the folder and see that it can be written to. Raises OutputError."""
        for path in [path for _, path in self.items if path] or [self.sheet or STDOUT]:
            if path != STDOUT:
                names.prepare(f"{Path(path).absolute().parent}/", many=True)
                return


def work_of(options: dict[str, Any]) -> Work:
    """What goes where. Raises UsageError, OutputError."""
    output, grid, count = options["output"], options["grid"], options["count"]
    if not output:
        raise UsageError(
            "no output: give -o DIR for pictures, -o FILE.png for one: "
            "diffsr generate -o made/ --count 8"
        )
    if output in names.STDOUTS:
        options["output"] = output = STDOUT
    if is_url(output):
        raise UsageError(f"-o {output}: generate writes local files only")
    if options["overwrite"] and options["skip_existing"]:
        raise UsageError("--overwrite and --skip-existing exclude each other; give one")
    options["counts"] = _counts(options["upscale_steps"])
    suffix = Path(output).suffix.lower()
    alone = output == STDOUT or not _is_folder(output, suffix)
    named = options["format"] or (suffix if alone and suffix else "png")
    format, seed = canonical(named.removeprefix(".")), options["seed"]
    if alone and count > 1 and not grid:
        raise UsageError(
            f"-o {output} is one file, and there are {count} pictures: name a folder "
            "(-o made/), or put all on a sheet (--grid)"
        )
    if output == STDOUT:
        if options["as_json"]:
            raise UsageError("standard output holds the picture; --json needs -o FILE")
        if sys.__stdout__ is None and not options["dry_run"]:
            raise UsageError("a picture needs standard output, which is closed; use -o FILE")
        if sys.stdout.buffer.isatty() and not options["dry_run"]:
            raise UsageError("a picture is not written to a terminal; use -o FILE, or pipe it")
    numbers = range(options["first"], options["first"] + count)
    ending = "." + (options["format"] or "png").lower()
    folder, sheet = Path(output), output if alone and grid else None
    if alone:
        items = [(n, None if grid or output == STDOUT else Path(output)) for n in numbers]
    else:
        items = [(n, folder / f"seed{seed}_{n:04d}{ending}") for n in numbers]
        sheet = str(folder / f"seed{seed}_grid{ending}") if grid else None
    done = _existing(items, sheet, options)
    stays = None
    if sheet and sheet != STDOUT and options["skip_existing"] and os.path.lexists(sheet):
        sheet, stays = None, sheet
        items = [] if alone else items
    return Work(items, done, sheet, stays, format, alone and not grid and output == STDOUT)


def _is_folder(output: str, suffix: str) -> bool:
    return os.path.isdir(output) or output.endswith(("/", os.sep)) or suffix not in SUFFIXES


def _existing(
    items: list[tuple[int, Path | None]], sheet: str | None, options: dict[str, Any]
) -> frozenset[int]:
    """Pictures that need not be made. Raises OutputError for files that would be replaced."""
    there = {number: path for number, path in items if path is not None and path.exists()}
    if options["skip_existing"]:
        return frozenset(there)
    taken = [*there.values(), *([sheet] if sheet and os.path.exists(sheet) else [])]
    if taken and not options["overwrite"] and not options["dry_run"]:
        raise OutputError(f"{taken[0]}: exists; give --overwrite or --skip-existing")
    return frozenset()


def _counts(text: str | None) -> tuple[int, ...]:
    """ "4,2" -> (4, 2). Raises UsageError."""
    try:
        counts = tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        counts = (0,)
    if any(count < 1 for count in counts):
        raise UsageError(f"--upscale-steps {text}: write numbers from 1 on, such as 4,2")
    return counts
