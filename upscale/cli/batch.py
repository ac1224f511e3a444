"""The loop over pictures: one that fails does not stop the others, and none goes unreported."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from upscale.cli.outputs import Item
from upscale.cli.progress import Reporter
from upscale.cli.records import Spread, as_json, comment, summarised
from upscale.errors import (
    DiffsrError,
    DiskFull,
    InputError,
    OutOfMemory,
    OutputError,
    UsageError,
    WeightsError,
)

if TYPE_CHECKING:
    from upscale.image.picture import Picture
    from upscale.pipeline import Upscaler
    from upscale.plan import Plan

_HOPELESS = (DiskFull, WeightsError)  # every further picture would fail in the same way
_GEOMETRY = ("scale", "size", "max_side")
_PLANNED = (*_GEOMETRY, "steps", "sampler", "spacing", "tile", "overlap", "one_stage")
_SAMPLED = ("seed", "temperature", "parametrisation", "rtol", "atol", "consistency")


@dataclass
class Job:
    """What is the same for all pictures. make: the upscaler, once it is needed."""

    make: Callable[[], Upscaler]
    options: dict[str, Any]
    broken: bool = False  # the upscaler itself cannot be made, whatever the picture

    @cached_property
    def upscaler(self) -> Upscaler:
        self.broken = True
        made = self.make()
        self.broken = False
        return made

    def chosen(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: self.options[name] for name in names}


@dataclass
class Tally:
    """How it went. codes: of every failure."""

    good: int = 0
    errors: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 1 where some pictures are done, or the one code that all failures have."""
        if not self.codes:
            return 0
        return self.codes[0] if not self.good and len(set(self.codes)) == 1 else 1


def run(
    job: Job, items: list[Item], failures: list[tuple[str, InputError]], reporter: Reporter
) -> int:
    """Do all `items`; returns the exit code."""
    reporter.total = len(items)
    tally = Tally()
    with reporter:
        for name, error in failures:
            _failed(job, name, error, tally, reporter)
        for index, item in enumerate(items):
            reporter.begin(item.source.name)
            try:
                record = (
                    _planned(job, item) if job.options["dry_run"] else _done(job, item, reporter)
                )
            except Exception as error:
                if job.broken:
                    raise
                known = _known(error, job)
                _failed(job, item.source.name, known, tally, reporter)
                if isinstance(known, _HOPELESS):
                    _give_up(items[index + 1 :], known, tally, reporter)
                    return known.exit_code
            else:
                tally.good += 1
                _tell(job, item, record, reporter)
            finally:
                reporter.end()
    _summary(tally, reporter)
    return tally.exit_code


def _done(job: Job, item: Item, reporter: Reporter) -> dict[str, Any]:
    """Enlarge one picture and write all its samples; returns its record."""
    from upscale.image.io import check_format, read

    options = job.options
    _check_writable(item)
    present = [path for path in item.files if path.is_symlink() or path.exists()]
    if present and options["skip_existing"]:
        if len(present) == len(item.files):
            return {"status": "skipped"}
    elif present and not options["overwrite"]:
        raise OutputError(f"{present[0]}: exists; give --overwrite, --skip-existing or another -o")
    started = time.perf_counter()
    picture = read(item.source.open(), **job.chosen(("frames", "allow_truncated", "max_pixels")))
    upscaler = job.upscaler
    planned = upscaler.plan(picture.size, **job.chosen(_PLANNED))
    check_format(item.format, planned.size_out, picture.bits, alpha=picture.alpha is not None)
    reports, notes = [], list(picture.notes)
    spread = Spread() if item.deviation else None
    samples = options["samples"]
    for sample in range(samples):
        result = upscaler(
            picture,
            **job.chosen((*_PLANNED, *_SAMPLED)),
            sample=sample,
            on_step=lambda i, n, first=sample: reporter.step(first * n + i, samples * n),
        )
        reports.append(result.report)
        notes += result.report.get("notes", [])
        target = item.outputs[sample] if item.outputs else None
        if not (target in present and options["skip_existing"]):
            notes += _write(job, item, result.picture, target, result.report)
        if spread:
            spread.add(result.picture.rgb)
    if spread and item.deviation:
        deviation = replace(
            result.picture, rgb=spread.map(), alpha=None, bits=8, grey=True, icc=None, exif=None
        )
        _write(job, replace(item, format="PNG"), deviation, item.deviation, reports[0])
    notes = list(dict.fromkeys(notes))
    record = {"status": "ok", **reports[0], "notes": notes}
    record["seconds"] = round(time.perf_counter() - started, 3)
    if samples > 1:
        record["samples"] = reports
    return record


def _check_writable(item: Item) -> None:
    """OutputError where the folder of a result, or what exists of it, takes no files."""
    for path in item.files:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise OutputError(f"{folder}: no permission to write there; give another folder: -o")


def _write(
    job: Job, item: Item, picture: Picture, target: Path | None, report: dict[str, Any]
) -> list[str]:
    from upscale.image.io import write

    keep = {
        "format": item.format,
        "quality": job.options["quality"],
        "strip": job.options["strip"],
        "comment": comment(report),
    }
    if target is not None:
        return write(picture, target, overwrite=job.options["overwrite"], **keep) or []
    whole = io.BytesIO()  # so that a failure leaves nothing in the pipe
    notes = write(picture, whole, **keep) or []
    stream = sys.stdout.buffer
    stream.write(whole.getbuffer())
    stream.flush()
    return notes


def _planned(job: Job, item: Item) -> dict[str, Any]:
    """--dry-run's record."""
    from upscale.image.io import check_format, read

    picture = read(item.source.open(), **job.chosen(("frames", "allow_truncated", "max_pixels")))
    planned: Plan = job.upscaler.plan(picture.size, **job.chosen(_PLANNED))
    notes = check_format(
        item.format, planned.size_out, picture.bits, alpha=picture.alpha is not None
    )
    return {
        "status": "planned",
        "exists": any(path.exists() for path in item.files),
        "size_in": list(planned.size_in),
        "size_out": list(planned.size_out),
        "scale": round(planned.scale, 4),
        "stages": [[*stage.size_out, stage.steps] for stage in planned.stages],
        "steps": sum(stage.steps for stage in planned.stages),
        "sampler": planned.sampler,
        "nfe": planned.nfe,
        "tile": planned.tile,
        "tiles": planned.tiles,
        "memory": planned.memory,
        "notes": [*picture.notes, *planned.notes, *notes],
    }


# --- telling ------------------------------------------------------------------------------------


def _tell(job: Job, item: Item, record: dict[str, Any], reporter: Reporter) -> None:
    files = [str(path) for path in item.files] or ["-"]
    for note in record.get("notes", []):
        reporter.note(f"{item.source.name}: {note}")
    if job.options["as_json"]:
        first = {"input": item.source.name, "output": files[0]}
        rest = {"outputs": [str(path) for path in item.outputs]}
        if item.deviation:
            rest["uncertainty"] = str(item.deviation)
        reporter.result(as_json({**first, **rest, **record}))
    elif record["status"] == "planned" or (item.outputs and record["status"] == "ok"):
        for path in files:
            reporter.result(path)
    reporter.line(f"{item.source.name} -> {', '.join(files)}: {summarised(record)}")
    if record["status"] == "ok":
        told = ("method", "weights", "sampler", "steps", "nfe", "tile", "lr_psnr", "device")
        reporter.detail("  " + ", ".join(f"{k} {record[k]}" for k in told if k in record))


def _known(error: Exception, job: Job) -> DiffsrError:
    """Any exception as one of ours, so that the batch can go on. A broken pipe cannot."""
    from upscale.cli.main import debugging, unexpected

    if isinstance(error, BrokenPipeError):
        raise error
    if job.options["debug"] or debugging():
        traceback.print_exception(type(error), error, error.__traceback__)
    if isinstance(error, DiffsrError):
        return error
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return OutOfMemory("memory ran out; try --tile 128, or a smaller --scale")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{error.filename or 'output'}: the disk is full; make room")
    if isinstance(error, click.ClickException):
        return UsageError(error.format_message())
    return DiffsrError(unexpected(error))


def _failed(job: Job, name: str, error: DiffsrError, tally: Tally, reporter: Reporter) -> None:
    text = str(error) if name in str(error) or name == "-" else f"{name}: {error}"
    reporter.error(text)
    tally.errors.append(text)
    tally.codes.append(error.exit_code)
    if job.options["as_json"]:
        kind = type(error).__name__
        record = {"input": name, "output": None, "status": "failed", "error": text, "kind": kind}
        reporter.result(as_json(record))


def _give_up(left: list[Item], error: DiffsrError, tally: Tally, reporter: Reporter) -> None:
    if left:
        reporter.error(f"{len(left)} more pictures not begun, for they would fail in the same way")
    if tally.good:
        reporter.note(f"{tally.good} pictures are done; --skip-existing goes on from there")


def _summary(tally: Tally, reporter: Reporter) -> None:
    total = tally.good + len(tally.errors)
    if tally.errors and total > 1:
        reporter.error(f"{len(tally.errors)} of {total} pictures failed:")
        for text in tally.errors:
            reporter.plain(f"  {text}")
