"""One picture's way: planned, enlarged, written, once it is read (`reading`). Who calls this
decides in which threads."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscale.atomic import is_special
from upscale.batch import frames
from upscale.batch.files import Files
from upscale.batch.forecast import Forecast
from upscale.batch.ledger import Content, Ledger
from upscale.batch.names import Item
from upscale.batch.reading import existing
from upscale.batch.records import Spread, comment
from upscale.batch.remote import Remote
from upscale.diffusion.table import SAMPLERS
from upscale.errors import OutputError
from upscale.pipeline.request import Request, Setup

if TYPE_CHECKING:
    from upscale.batch.sheet import Sheet
    from upscale.image.frames_in import Film
    from upscale.image.picture import Picture
    from upscale.pipeline.plan import Plan
    from upscale.pipeline.sampling import Call, OnStep
    from upscale.pipeline.upscaler import Upscaler

# takes a picture that has no file to go to, or the bytes of a file of several frames, and what is
# known of it; returns notes
Deliver = Callable[["Ticket", "Picture | memoryview", dict[str, Any]], list[str]]
# told of each frame that is begun: name of the file, "frame" or "page", its number, how many
OnFrame = Callable[[str, str, int, int], None]


@dataclass
class Job:
    """What is the same for all pictures. make: the upscaler, once it is needed."""

    make: Callable[[], Upscaler]
    setup: Setup = field(default_factory=Setup)
    request: Request = field(default_factory=Request)
    files: Files = field(default_factory=Files)
    ledger: Ledger | None = None
    deliver: Deliver | None = None
    on_frame: OnFrame | None = None
    begun: float = field(default_factory=time.time)  # what is younger appeared meanwhile
    broken: bool = False  # the upscaler itself cannot be made, whatever the picture
    folders: set[Path] = field(default_factory=set)  # that results were written to
    forecast: Forecast = field(default_factory=Forecast)
    sheet: Sheet | None = None

    @cached_property
    def upscaler(self) -> Upscaler:
        self.broken = True
        made = self.make()
        self.broken = False
        return made

    def vanished(self) -> list[Path]:
        """The folders of results that are there no more, and the results with them."""
        return sorted(folder for folder in self.folders if not folder.is_dir())

    def check_folder(self, target: Path | Remote | None) -> None:
        """OutputError where a folder is gone that earlier results lay in: it is not made again."""
        folder = target.absolute().parent if isinstance(target, Path) else None
        if folder in self.folders and not folder.is_dir():
            raise OutputError(f"{folder}: removed while diffsr wrote into it")

    def written(self, ticket: Ticket, target: Path | Remote | None) -> None:
        """A result is in its place."""
        ticket.written += [target] if target else []
        if isinstance(target, Path) and not is_special(target):
            self.folders.add(target.absolute().parent)


def upscaler_of(setup: Setup) -> Upscaler:
    """A new upscaler; loads torch. Raises UsageError, WeightsError."""
    from upscale.pipeline.upscaler import Upscaler

    return Upscaler(**vars(setup))


@dataclass
class Ticket:
    """A picture on its way. film: all its frames or pages, where these are wanted; then picture is
    the first. record: how it went; error: why it went no further."""

    item: Item
    picture: Picture | None = None
    film: Film | None = None
    content: Content | None = None
    plan: Plan | None = None
    pixels: int = 0  # as far as known: of the input, then of a result
    seconds: float = 0.0  # of work, without waiting for its turn
    record: dict[str, Any] | None = None
    error: Exception | None = None
    replace: bool = False  # what is in its place is an older result, and ours
    check: Callable[[], None] | None = None  # raises where the work must end
    made: Any = None  # for Job.deliver
    kept: list[str] = field(default_factory=list)  # notes
    written: list[Path | Remote] = field(default_factory=list)  # files that are in their places
    tasks: list[Any] = field(default_factory=list)  # what is to be written, in order
    last: Any = None  # of these, set once all are submitted
    limit: float | None = None  # seconds that any of them may take


# --- enlarging ------------------------------------------------------------------------------------


def plan(job: Job, ticket: Ticket) -> None:
    """Sets `plan`. Raises UsageError, OutputError where the format cannot hold the result."""
    from upscale.image.formats import check_format

    picture, request = ticket.picture, job.request
    if ticket.film:
        ticket.kept += frames.checked(job, ticket.item.format, ticket.film)
        request = replace(request, same_noise=True)
    ticket.plan = job.upscaler.plan(picture, request)
    ticket.kept += doubts(job, picture)
    check_format(
        ticket.item.format, ticket.plan.size_out, picture.bits, alpha=picture.alpha is not None
    )


def doubts(job: Job, picture: Picture) -> list[str]:
    """Notes on what the picture shows."""
    from upscale.pipeline import faces

    return faces.doubts(picture) if job.setup.domain == faces.DOMAIN else []


def enlarge(
    job: Job,
    ticket: Ticket,
    submit: Callable[[Callable[[], Any]], Any],
    on_step: OnStep,
    call: Call | None = None,
) -> None:
    """Make all samples of a planned ticket and hand each to `submit` to be written; at last its
    `record` is submitted. submit returns what has a `result()`."""
    files, item = job.files, ticket.item
    samples, picture = files.samples, ticket.picture
    present = set(existing(item)) if files.skip_existing else set()
    spread = Spread() if item.deviation else None
    look = job.sheet.look(ticket) if job.sheet else None
    reports: list[dict[str, Any]] = []
    earlier: list[Any] = []  # tasks: all files but the last
    last: Callable[[], None] | None = None
    how: dict[str, Any] = {"call": call} if call else {}
    for sample in range(samples):
        started = time.perf_counter()
        target = item.outputs[sample] if item.outputs else None
        how["sample"] = sample
        take = look.taker() if look else None
        how["on_step"] = lambda i, n, first=sample: on_step(first * n + i, samples * n)
        have = target is not None and target in present
        if ticket.film and (not have or look is None):
            if not have:
                reports.append(frames.enlarge(job, ticket, target, how, take))
            ticket.seconds += time.perf_counter() - started
            continue
        if spread is None and not ticket.film and _streamed(job, ticket, target):
            reports.append(_stream(job, ticket, target, how, take))
            ticket.seconds += time.perf_counter() - started
            continue
        result = job.upscaler.run(ticket.plan, picture, **how)
        facts = frames.facts(ticket.film) if ticket.film else {}
        reports.append(result.report | facts)
        if take:
            take(result.picture)
        if spread:
            spread.add(result.picture.rgb)
        ticket.seconds += time.perf_counter() - started
        if have:  # of a film there was the first frame to be looked at
            continue
        last = _writing(job, ticket, result.picture, target, result.report)
        if sample < samples - 1 or spread or look:
            earlier.append(submit(last))
            if len(earlier) > 1:
                earlier[-2].result(ticket.limit)  # no more than two large pictures wait
            last = None
    if spread:
        from upscale.image.picture import Picture

        grey = Picture(spread.map(), grey=True)
        last = _writing(job, ticket, grey, item.deviation, reports[0])
    if look:
        ticket.kept += look.finish(reports, on_step)
    said = ticket.film.notes if ticket.film else picture.notes
    ticket.picture = ticket.film = None

    def finish() -> None:
        if last:
            last()
        for write in earlier:
            write.result(ticket.limit)
        if files.preserve_times:
            ticket.kept += _dated(item)
        record = _account(reports, [*said, *ticket.kept], ticket.seconds)
        if job.ledger:
            job.ledger.add(item.source.name, record, item, ticket.content)
        ticket.record = record

    ticket.last = submit(finish)


def _dated(item: Item) -> list[str]:
    """The results get the dates of the file that they were made from; returns notes."""
    try:
        of = os.stat(item.source.name)
        for path in item.files:
            os.utime(path, ns=(of.st_atime_ns, of.st_mtime_ns))
    except (OSError, TypeError, ValueError):  # standard input, or a store of objects
        return ["there are no dates to keep, or none can be set"]
    return []


def _streamed(job: Job, ticket: Ticket, target: Path | Remote | None) -> bool:
    """Whether a result is written while it is made: large ones, in formats that allow it."""
    from upscale.image.encode import STREAMED
    from upscale.image.formats import canonical

    if not ticket.plan.blocks or not isinstance(target, Path):
        return False
    return canonical(ticket.item.format) in STREAMED


def _stream(
    job: Job,
    ticket: Ticket,
    target: Path,
    how: dict[str, Any],
    take: Callable[[Picture], None] | None,
) -> dict[str, Any]:
    """Enlarge and write at the same time; returns the report. take: also gets the rows."""
    from upscale.image.encode import rows_to

    over = job.files.overwrite or ticket.replace
    job.check_folder(target)
    with rows_to(
        target, ticket.plan.size_out, format=ticket.item.format, strip=job.files.strip,
        overwrite=over, check=ticket.check, same=not over,
    ) as add:  # fmt: skip

        def on_rows(band: Picture, report: dict[str, Any]) -> None:
            if ticket.check:
                ticket.check()
            ticket.kept += add(band, comment(report))
            if take:
                take(band)

        report = job.upscaler.run(ticket.plan, ticket.picture, **how, on_rows=on_rows).report
    job.written(ticket, target)
    return report


def _account(reports: list[dict[str, Any]], said: list[str], seconds: float) -> dict[str, Any]:
    """The record of a picture whose samples are written."""
    notes = [*said, *(note for report in reports for note in report.get("notes", []))]
    if len(reports) > 1 and _noiseless(reports[0]):
        notes.append(f"{reports[0]['method']} used no noise: all samples are the same")
    record = {"status": "ok", **reports[0], "notes": list(dict.fromkeys(notes))}
    record["seconds"] = round(seconds, 3)
    if len(reports) > 1:
        record["samples"] = reports
    return record


def _noiseless(report: dict[str, Any]) -> bool:
    """Whether nothing in a result was drawn at random."""
    known = SAMPLERS.get(report["sampler"])
    return not known or known.single or (report["temperature"] == 0 and not known.stochastic)


def _writing(
    job: Job, ticket: Ticket, picture: Picture, target: Path | Remote | None, report: dict[str, Any]
) -> Callable[[], None]:
    def write() -> None:
        started = time.perf_counter()
        ticket.kept += _put(job, ticket, picture, target, report)
        job.written(ticket, target)
        ticket.seconds += time.perf_counter() - started

    return write


def _put(
    job: Job, ticket: Ticket, picture: Picture, target: Path | Remote | None, report: dict[str, Any]
) -> list[str]:
    """Write one file, or deliver the picture; returns notes."""
    from upscale.image.encode import write

    if ticket.check:
        ticket.check()
    if target is None:
        assert job.deliver is not None
        return job.deliver(ticket, picture, report)
    job.check_folder(target)
    keep = writing_options(job, ticket.item, report)
    if target == ticket.item.deviation:
        keep["format"] = "PNG"
    over = job.files.overwrite or ticket.replace
    if isinstance(target, Remote):
        whole = io.BytesIO()
        notes = write(picture, whole, **keep)
        target.put(whole.getbuffer(), over)
        return notes
    how = {"overwrite": over, "same": not over, "check": ticket.check}
    return write(picture, target, **how, **keep) or []


def writing_options(job: Job, item: Item, report: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `image.encode.write` besides the picture and its place."""
    made = {"format": item.format, "comment": comment(report)}
    return made | {"quality": job.files.quality, "strip": job.files.strip}
