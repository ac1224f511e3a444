"""How a batch of the command line is done: here, on a Ray cluster, or only planned."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from upscale.batch.dry import planned
from upscale.batch.engine import Engine, Pace
from upscale.batch.forecast import Remaining, sizes_of
from upscale.batch.job import Job, Ticket, writing_options
from upscale.batch.names import Item
from upscale.cli.progress import Reporter
from upscale.cli.upscale.account import Account, Hopeless
from upscale.errors import UsageError

if TYPE_CHECKING:
    from upscale.image.picture import Picture

# a picture's end: its record, or why there is none
Outcome = tuple[Item, dict[str, Any] | None, Exception | None]


class Outcomes(NamedTuple):
    """drain: lets no more be begun. untold: after the end, the pictures that may have files."""

    made: Iterator[Outcome]
    drain: Callable[[], None] = lambda: None
    untold: Callable[[], list[Ticket]] = list


def outcomes_of(
    job: Job, items: list[Item], reporter: Reporter, options: Mapping[str, Any]
) -> Outcomes:
    """Where and how the work is done. Raises UsageError."""
    if options["dry_run"]:
        return Outcomes(_planned(job, items))
    if options["engine"] == "ray":
        if not all(item.outputs and item.source.data is None for item in items):
            raise UsageError("--engine ray is for files; no - for standard input or output")
        return _by_ray(job, items, options)
    engine = Engine(job, pace_of(options, len(items)), reporter.picture)
    return Outcomes(_here(engine, items), engine.drain, engine.untold)


def pace_of(options: Mapping[str, Any], count: int) -> Pace:
    """The pace for so many pictures."""
    jobs = options["jobs"]
    if count == 1 and not options["timeout"]:
        jobs = 0  # nothing to do meanwhile
    jobs = max(1, jobs) if options["timeout"] else jobs
    return Pace(jobs, options["batch"], options["timeout"])


def run(account: Account, items: list[Item], options: Mapping[str, Any]) -> int:
    """Do all `items`; returns the exit code."""
    reporter, done, told = account.reporter, 0, None
    outcomes = outcomes_of(account.job, items, reporter, options)
    with reporter, closing(outcomes.made):
        try:
            if len(items) > 1 and not (reporter.quiet or options["dry_run"]):
                account.remaining = Remaining(len(items), sizes_of(items))
            # enough may be missing for none to be started
            for item, record, error in () if account.enough else outcomes.made:
                done += 1
                account.outcome(item, record, error)
                told = item
                reporter.end(item.source.name)
                if account.enough:
                    outcomes.drain()
        except KeyboardInterrupt as end:
            outcomes.made.close()
            raise type(end)(account.stopped(outcomes.untold(), told, len(items))) from None
        except Hopeless as end:
            outcomes.made.close()
            account.rest(outcomes.untold(), item)
            account.gave_up(len(items) - account.over, end.error)
            return end.error.exit_code
    account.summary(len(items) - done)
    if account.job.sheet:
        account.sheet(account.job.sheet)
    return account.exit_code


def _here(engine: Engine, items: list[Item]) -> Iterator[Outcome]:
    """On this machine, in threads."""
    with closing(engine.run(items)) as tickets:
        for ticket in tickets:
            yield ticket.item, ticket.record, ticket.error


def _by_ray(job: Job, items: list[Item], options: Mapping[str, Any]) -> Outcomes:
    """By workers of a Ray cluster; outcomes come in no order, and a drain ends the run."""
    try:
        from upscale.batch import ray_engine
    except ImportError as error:
        raise UsageError("--engine ray needs an extra: pip install 'diffsr[ray]'") from error
    outcomes = ray_engine.run(
        job, items,
        settings=job.ledger.settings if job.ledger else "",
        workers=options["workers"], address=options["address"], gpus=options["worker_gpus"],
        timeout=options["timeout"],
    )  # fmt: skip
    drained = Event()

    def until_drained() -> Iterator[Outcome]:
        with closing(outcomes):
            for outcome in outcomes:
                yield outcome
                if drained.is_set():
                    return

    return Outcomes(until_drained(), drained.set)


def _planned(job: Job, items: list[Item]) -> Iterator[Outcome]:
    """Only what would be done."""
    for item in items:
        try:
            yield item, planned(job, item), None
        except Exception as error:
            yield item, None, error


def to_stdout(job: Job) -> Callable[[Ticket, Picture, dict[str, Any]], list[str]]:
    """What takes a picture that has no file to go to."""

    def deliver(ticket: Ticket, made: Picture | memoryview, report: dict[str, Any]) -> list[str]:
        from upscale.image.encode import write

        notes: list[str] = []
        if not isinstance(made, memoryview):
            whole = io.BytesIO()  # so that a failure leaves nothing in the pipe
            notes = write(made, whole, **writing_options(job, ticket.item, report)) or []
            made = whole.getbuffer()
        stream = sys.stdout.buffer
        stream.write(made)
        stream.flush()
        return notes

    return deliver
