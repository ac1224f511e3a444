"""A batch on the command line: what is told of each picture, and the exit code of all."""

from __future__ import annotations

import errno
import io
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from upscale.batch.engine import Engine, Pace
from upscale.batch.job import Job, Ticket, planned, writing_options
from upscale.batch.names import Item
from upscale.batch.records import as_json, summarised
from upscale.cli.progress import Reporter
from upscale.errors import DiffsrError, DiskFull, OutOfMemory, UsageError, WeightsError

if TYPE_CHECKING:
    from upscale.image.picture import Picture

_FATAL = (DiskFull, WeightsError)  # every further picture would fail in the same way
_LISTED = 20  # failures that the summary repeats

# a picture's end: its record, or why there is none
Outcome = tuple[Item, dict[str, Any] | None, Exception | None]


@dataclass
class Tally:
    """How it went. codes: of failures, each once."""

    good: int = 0
    skipped: int = 0  # of the good: done before, by the ledger
    bad: int = 0
    errors: list[str] = field(default_factory=list)  # the first of them
    codes: set[int] = field(default_factory=set)

    @property
    def exit_code(self) -> int:
        """0, or 1 where some pictures are done, or the one code that all failures have."""
        if not self.codes:
            return 0
        return next(iter(self.codes)) if not self.good and len(self.codes) == 1 else 1


class Teller:
    """Tells how each picture went, on both streams and to the ledger, and counts."""

    def __init__(self, job: Job, reporter: Reporter, max_failures: int | None = None) -> None:
        self.job, self.reporter, self.max_failures = job, reporter, max_failures
        self.tally = Tally()
        self.also: dict[str, Any] = {}  # what else stands in the JSON of what is told now

    @property
    def enough(self) -> bool:
        """Whether there are more failures than are wanted."""
        return self.max_failures is not None and self.tally.bad >= self.max_failures

    def outcome(self, item: Item, record: dict[str, Any] | None, error: Exception | None) -> None:
        """Raises what ends the whole run: no upscaler can be made, or one of _FATAL."""
        if error is None:
            assert record is not None
            self.tally.good += 1
            self.done(item, record)
            return
        if self.job.broken or isinstance(error, BrokenPipeError):
            raise error
        known = _known(error, self.job.options)
        self.failed(item.source.name, known)
        if isinstance(known, _FATAL):
            raise Hopeless(known)

    def done(self, item: Item, record: dict[str, Any]) -> None:
        reporter = self.reporter
        files = [str(path) for path in item.files] or ["-"]
        for note in record.get("notes", []):
            reporter.note(f"{item.source.name}: {note}")
        if self.job.options["as_json"]:
            first = {"input": item.source.name, "output": files[0]}
            rest = {"outputs": [str(path) for path in item.outputs]}
            if item.deviation:
                rest["uncertainty"] = str(item.deviation)
            reporter.result(as_json({**self.also, **first, **rest, **record}))
        elif record["status"] == "planned" or (item.outputs and record["status"] == "ok"):
            for path in files:
                reporter.result(path)
        if record.get("why") == "ledger":
            self.tally.skipped += 1
            return
        reporter.line(f"{item.source.name} -> {', '.join(files)}: {summarised(record)}")
        if record["status"] == "ok":
            told = ("method", "weights", "sampler", "steps", "nfe", "tile", "lr_psnr", "device")
            reporter.detail("  " + ", ".join(f"{k} {record[k]}" for k in told if k in record))

    def failed(self, name: str, error: DiffsrError) -> None:
        text = str(error) if name in str(error) or name == "-" else f"{name}: {error}"
        self.reporter.error(text)
        self.tally.bad += 1
        self.tally.codes.add(error.exit_code)
        if len(self.tally.errors) < _LISTED:
            self.tally.errors.append(text)
        kind = type(error).__name__
        record = {"status": "failed", "error": text, "kind": kind, "code": error.exit_code}
        if self.job.options["as_json"]:
            self.reporter.result(as_json({**self.also, "input": name, "output": None, **record}))
        if self.job.ledger:
            self.job.ledger.add(name, record, None, None)

    def gave_up(self, left: int, error: DiffsrError) -> None:
        if left:
            self.reporter.error(
                f"{left} more pictures not begun, for they would fail in the same way"
            )
        if self.tally.good:
            again = "--resume" if self.job.ledger else "--skip-existing"
            self.reporter.note(f"{self.tally.good} pictures are done; {again} goes on from there")

    def summary(self, left: int = 0) -> None:
        tally, reporter = self.tally, self.reporter
        if tally.skipped:
            reporter.note(f"{tally.skipped} pictures were done before, by {self.job.ledger.path}")
        if self.enough and left:
            reporter.error(
                f"{tally.bad} failures are as many as --max-failures allows: "
                f"{left} more pictures not begun"
            )
        total = tally.good + tally.bad
        if tally.bad and total > 1:
            reporter.error(f"{tally.bad} of {total} pictures failed:")
            for text in tally.errors:
                reporter.plain(f"  {text}")
            if tally.bad > len(tally.errors):
                reporter.plain(f"  and {tally.bad - len(tally.errors)} more, told above")


class Hopeless(Exception):
    """Ends a batch: see _FATAL."""

    def __init__(self, error: DiffsrError) -> None:
        self.error = error


# how the work is done: the items -> their outcomes, and a function that lets no more be begun
Run = Callable[[Iterable[Item]], tuple[Iterator[Outcome], Callable[[], None]]]


def run(teller: Teller, items: list[Item], doing: Run) -> int:
    """Do all `items`; returns the exit code."""
    reporter, told = teller.reporter, 0
    outcomes, drain = doing(items)
    with reporter, closing(outcomes):
        try:
            for item, record, error in outcomes:
                told += 1
                teller.outcome(item, record, error)
                reporter.end(item.source.name)
                if teller.enough:
                    drain()
        except Hopeless as end:
            outcomes.close()
            teller.gave_up(len(items) - told, end.error)
            return end.error.exit_code
    teller.summary(len(items) - told)
    return teller.tally.exit_code


def here(job: Job, pace: Pace, reporter: Reporter) -> Run:
    """On this machine, in threads."""

    def doing(items: Iterable[Item]) -> tuple[Iterator[Outcome], Callable[[], None]]:
        engine = Engine(job, pace, reporter.picture)

        def outcomes() -> Iterator[Outcome]:
            with closing(engine.run(items)) as tickets:
                for ticket in tickets:
                    yield ticket.item, ticket.record, ticket.error

        return outcomes(), engine.drain

    return doing


def on_ray(job: Job) -> Run:
    """By workers of a Ray cluster; outcomes come in no order, and a drain ends the run."""
    try:
        from upscale.batch import ray_engine
    except ImportError as error:
        raise UsageError("--engine ray needs an extra: pip install 'diffsr[ray]'") from error
    options = job.options
    gpus = options["worker_gpus"]
    if gpus is None:
        gpus = 1.0 if options["device"] == "cuda" else 0.0

    def doing(items: Iterable[Item]) -> tuple[Iterator[Outcome], Callable[[], None]]:
        outcomes = ray_engine.run(
            job, list(items),
            settings=job.ledger.settings if job.ledger else "",
            workers=options["workers"], address=options["address"], gpus=gpus,
            timeout=options["timeout"],
        )  # fmt: skip
        wanted = [True]

        def until_drained() -> Iterator[Outcome]:
            with closing(outcomes):
                for outcome in outcomes:
                    yield outcome
                    if not wanted[0]:
                        return

        return until_drained(), lambda: wanted.__setitem__(0, False)

    return doing


def dry(job: Job) -> Run:
    """Only what would be done."""

    def doing(items: Iterable[Item]) -> tuple[Iterator[Outcome], Callable[[], None]]:
        def outcomes() -> Iterator[Outcome]:
            for item in items:
                try:
                    record, error = planned(job, item), None
                except Exception as wrong:
                    record, error = None, wrong
                yield item, record, error

        return outcomes(), lambda: None

    return doing


def to_stdout(job: Job) -> Callable[[Ticket, Picture, dict[str, Any]], list[str]]:
    """What takes a picture that has no file to go to."""

    def deliver(ticket: Ticket, picture: Picture, report: dict[str, Any]) -> list[str]:
        from upscale.image.encode import write

        whole = io.BytesIO()  # so that a failure leaves nothing in the pipe
        notes = write(picture, whole, **writing_options(job, ticket.item, report)) or []
        stream = sys.stdout.buffer
        stream.write(whole.getbuffer())
        stream.flush()
        return notes

    return deliver


def _known(error: Exception, options: Mapping[str, Any]) -> DiffsrError:
    """Any exception as one of ours, so that the batch can go on."""
    from upscale.cli.main import debugging, unexpected

    if options["debug"] or debugging():
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
