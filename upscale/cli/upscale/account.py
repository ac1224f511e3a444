"""What is reported of each picture of a batch, and the exit code of all."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from upscale.batch.forecast import Remaining
from upscale.batch.job import Job, Ticket
from upscale.batch.names import Item
from upscale.batch.records import as_json, summarised
from upscale.batch.sheet import Sheet
from upscale.cli.progress import Reporter, stopped
from upscale.document import counted, duration
from upscale.errors import DiffsrError, DiskFull, OutputError, WeightsError

_FATAL = (DiskFull, WeightsError)  # every further picture would fail in the same way
_LISTED = 20  # failures that the summary repeats


class Account:
    """Reports how each picture went, on both streams and to the ledger, and counts. options: those
    of the command line."""

    def __init__(self, job: Job, reporter: Reporter, options: Mapping[str, Any]) -> None:
        self.job, self.reporter, self.options = job, reporter, options
        self.good = self.bad = 0
        self.skipped = 0  # of the good: done before, by the ledger
        self.before = 0  # of the bad: known before the work
        self.errors: list[str] = []  # the first of them
        self.codes: set[int] = set()
        self.remaining: Remaining | None = None  # where it is known what is to come
        self.planned: list[float] = []  # seconds of each, by --dry-run
        self.also: dict[str, Any] = {}  # what else stands in the JSON of the present picture

    @property
    def enough(self) -> bool:
        """Whether there are more failures than are wanted."""
        most = self.options["max_failures"]
        return most is not None and self.bad >= most

    @property
    def over(self) -> int:
        """How many pictures of this run are done or have failed."""
        return self.good + self.bad - self.before

    @property
    def exit_code(self) -> int:
        """0, or 1 where some pictures are done, or the one code that all failures have."""
        if not self.codes:
            return 0
        return next(iter(self.codes)) if not self.good and len(self.codes) == 1 else 1

    def outcome(self, item: Item, record: dict[str, Any] | None, error: Exception | None) -> None:
        """Raises what ends the whole run: no upscaler can be made, or Hopeless."""
        if error is None:
            assert record is not None
            self.good += 1
            self.done(item, record)
            return
        if self.job.broken or isinstance(error, BrokenPipeError):
            raise error
        ours = known(error, self.options)
        try:
            self.failed(item.source.name, ours)
        except (DiskFull, OutputError) as end:  # without the ledger nothing is begun
            self.reporter.error(str(end))
            self.codes.add(end.exit_code)
            raise Hopeless(end) from end
        if isinstance(ours, _FATAL):
            raise Hopeless(ours)

    def done(self, item: Item, record: dict[str, Any]) -> None:
        reporter = self.reporter
        files = [str(path) for path in item.files] or ["-"]
        for note in record.get("notes", []):
            reporter.note(f"{item.source.name}: {note}")
        if self.options["as_json"]:
            first = {"input": item.source.name, "output": files[0]}
            rest = {"outputs": [str(path) for path in item.outputs]}
            if item.deviation:
                rest["uncertainty"] = str(item.deviation)
            reporter.result(as_json({**self.also, **first, **rest, **record}))
        elif record["status"] == "planned" or (item.outputs and record["status"] == "ok"):
            for path in files:
                reporter.result(path)
        made = record["status"] == "ok"
        left = self._left(item.source.name, record["seconds"] if made else None)
        if record["status"] == "planned":
            self.planned.append(record["seconds"] or 0.0)
        if record.get("why") == "ledger":
            self.skipped += 1
            return
        reporter.line(f"{item.source.name} -> {', '.join(files)}: {summarised(record)}{left}")
        if record["status"] == "ok":
            shown = ("method", "weights", "sampler", "steps", "nfe", "tile", "lr_psnr", "device")
            reporter.detail("  " + ", ".join(f"{k} {record[k]}" for k in shown if k in record))

    def _left(self, name: str, seconds: float | None) -> str:
        """The end of a line: how far the batch is; shown at the bar, too."""
        if self.remaining is None or not (text := self.remaining.after(name, seconds)):
            return ""
        self.reporter.remaining(text)
        return f"; {self.over} of {self.reporter.total}, {text}"

    def failed(self, name: str, error: DiffsrError) -> None:
        """Raises DiskFull or OutputError where the ledger takes no line, after the report."""
        text = str(error) if name in str(error) or name == "-" else f"{name}: {error}"
        self.reporter.error(text)
        self.bad += 1
        self._left(name, None)
        self.codes.add(error.exit_code)
        if len(self.errors) < _LISTED:
            self.errors.append(text)
        kind = type(error).__name__
        record = {"status": "failed", "error": text, "kind": kind, "code": error.exit_code}
        if self.options["as_json"]:
            self.reporter.result(as_json({**self.also, "input": name, "output": None, **record}))
        if self.job.ledger:
            self.job.ledger.add(name, record, None, None)

    def stopped(self, untold: list[Ticket], told: Item | None, of: int) -> str:
        """`rest`, after an interruption; returns what to say."""
        self.rest(untold, told)
        add = "" if self.job.ledger else "with --skip-existing "
        return stopped(self.good, of, f"The same command {add}goes on from there.")

    def rest(self, untold: list[Ticket], told: Item | None) -> None:
        """Report what was finished before all ended and not `told`."""
        for ticket in untold:
            if ticket.item is told or not (ticket.written or ticket.record):
                continue
            if ticket.record:
                self.outcome(ticket.item, ticket.record, None)
                continue
            files = [str(path) for path in ticket.written]  # some samples of a picture
            if self.options["as_json"]:
                row = {"input": ticket.item.source.name, "output": files[0], "outputs": files}
                self.reporter.result(as_json({**row, "status": "interrupted"}))
            else:
                for path in files:
                    self.reporter.result(path)

    def gave_up(self, left: int, error: DiffsrError) -> None:
        if left:
            self.reporter.error(
                f"{_pictures(left, ' more')} not started, because they would fail in the same way"
            )
        if self.good:
            again = "--resume" if self.job.ledger else "--skip-existing"
            self.reporter.note(f"{counted(self.good, 'picture')} done; {again} resumes from there")

    def sheet(self, sheet: Sheet) -> None:
        """Write it, or say that it would be written."""
        if self.options["dry_run"]:
            self.reporter.note(f"would write {sheet.path}")
            return
        try:
            said = sheet.write()
        except DiffsrError as error:
            self.reporter.error(str(error))
            self.codes.add(error.exit_code)
            return
        self.reporter.line(said)
        apart = all(item.outputs for item in sheet.items)  # no picture goes to standard output
        if sheet.seen and apart and not self.options["as_json"]:
            self.reporter.result(str(sheet.path))

    def summary(self, left: int = 0) -> None:
        reporter = self.reporter
        for folder in self.job.vanished():
            self.failed(str(folder), OutputError(f"{folder}: removed while diffsr wrote into it"))
        if self.skipped:
            path = self.job.ledger.path
            reporter.note(f"{_pictures(self.skipped)} done before, according to {path}")
        if self.enough and left:
            reporter.error(
                f"--max-failures is reached with {counted(self.bad, 'failure')}: "
                f"{_pictures(left, ' more')} not started"
            )
        total = self.good + self.bad
        if self.options["dry_run"] and total > 1:
            count = counted(len(self.planned), "picture")
            reporter.note(f"{count}, about {duration(sum(self.planned))}")
        if self.bad and total > 1:
            reporter.error(f"{self.bad} of {total} pictures failed:")
            for text in self.errors:
                reporter.plain(f"  {text}")
            if self.bad > len(self.errors):
                reporter.plain(f"  and {self.bad - len(self.errors)} more, named above")


def _pictures(count: int, more: str = "") -> str:
    """1 -> "1 picture was", 2, " more" -> "2 more pictures were"."""
    return f"{count}{more} picture" + (" was" if count == 1 else "s were")


class Hopeless(Exception):
    """Ends a batch: see _FATAL, or the ledger takes no line."""

    def __init__(self, error: DiffsrError) -> None:
        self.error = error


def known(error: Exception, options: Mapping[str, Any]) -> DiffsrError:
    """Any exception as one of ours, so that the batch can go on."""
    from upscale.cli.main import debugging, explained

    if options["debug"] or debugging():
        traceback.print_exception(type(error), error, error.__traceback__)
    return explained(error)
