"""Many pictures from Python: the batch of the command line, as a generator."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscale.batch import sheet
from upscale.batch.engine import Engine, Pace
from upscale.batch.files import Files
from upscale.batch.job import Job, Ticket, upscaler_of
from upscale.batch.ledger import Ledger, settings_of
from upscale.batch.names import Item, Source, naming_of, plan, prepare
from upscale.errors import DiffsrError, UsageError
from upscale.image.formats import FORMATS
from upscale.pipeline.request import Request, Setup

if TYPE_CHECKING:
    from upscale.image.picture import Picture
    from upscale.image.pillow import PillowImage


@dataclass(frozen=True, repr=False)
class Made:
    """How one picture went. image: where no folder was named, of several frames with frames="all"
    (an APNG, or a TIFF of pages); output: where one was. error: then
    there is neither. report: as with --json; its "status" is ok, skipped or failed."""

    input: str
    image: PillowImage | None
    output: Path | None
    error: Exception | None
    report: dict[str, Any]

    def __repr__(self) -> str:
        went = self.error or self.output or "an image"
        return f"<Made {self.input}: {self.report.get('status')}, {went}>"


def upscale_many(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    ledger: str | os.PathLike[str] | None = None,
    jobs: int = 2,
    batch: int = 1,
    timeout: float | None = None,
    **options: Any,
) -> Iterator[Made]:
    """Enlarge files one after the other; reading, enlarging and writing overlap.

    paths: a file named twice is enlarged once. output: a folder for the results, named as on the
    command line; without it they come as Pillow images and no file is written. A picture that
    fails is one of the results, and the next follows. ledger: with a folder, as --resume. timeout:
    seconds for one picture. options: those of `diffsr upscale` under their names, as scale=2,
    method="sr3", seed=7, overwrite=True; with sheet="compared.html" method may be several, as
    ("sr3", "ecdp"), and a sheet is written once all is done.
    Raises UsageError for an option there is none of, and whatever keeps all from being done.
    """
    parts = [[one.name for one in fields(kind)] for kind in (Setup, Request, Files)]
    if unknown := options.keys() - {name for names in parts for name in names}:
        have = ", ".join(name for names in parts for name in names)
        raise UsageError(f"no option {', '.join(sorted(unknown))}; choose from {have}")
    if ledger is not None and output is None:
        raise UsageError("a ledger lists files: give an output folder")
    given = [{name: options[name] for name in names if name in options} for names in parts]
    files, pace = Files(**given[2]), Pace(jobs, batch, timeout)
    method, beside = sheet.methods_of(given[0].get("method"), given[0].get("weights"), files)
    setup, request = Setup(**{**given[0], "method": method}), Request(**given[1])
    several = isinstance(paths, Iterable) and not isinstance(paths, (str, os.PathLike))
    unique: dict[str, str] = {}
    for path in paths if several else [paths]:
        if not isinstance(path, (str, os.PathLike)):
            raise UsageError(
                f"upscale_many takes paths of files, and no {type(path).__name__}; an Upscaler "
                "takes a picture in memory"
            )
        unique.setdefault(os.path.abspath(path), os.fspath(path))
    sources = [Source(path, Path(Path(path).name)) for path in unique.values()]
    naming = naming_of(request, files)
    if output is None:
        items = [Item(source, _in_memory(source, files)) for source in sources]
    else:
        folder = os.path.join(os.fspath(output), "")
        items = plan(sources, folder, naming, many=True)
        prepare(folder, many=True)
    job = Job(lambda: upscaler_of(setup), setup, request, files, deliver=_keep)
    if files.sheet:
        again = ledger is not None
        job.sheet = sheet.begin(job, items, beside, upscaler_of, resumed=again)
    return _made(job, items, pace, ledger)


def _in_memory(source: Source, files: Files) -> str:
    """The format of what is made in memory, for several frames or pages: it loses nothing."""
    pages = source.inside.suffix.lower() in FORMATS["TIFF"].suffixes
    return "TIFF" if pages and files.frames == "all" else "PNG"


def _made(
    job: Job, items: list[Item], pace: Pace, ledger: str | os.PathLike[str] | None
) -> Iterator[Made]:
    if ledger is not None:
        settings = settings_of(job.setup, job.request, job.files, pace.batch)
        job.ledger = Ledger(os.fspath(ledger), settings)
    try:
        with closing(Engine(job, pace).run(items)) as tickets:
            for ticket in tickets:
                if job.broken and ticket.error:
                    raise ticket.error
                yield _result(job, ticket)
        if job.sheet:
            job.sheet.write()
    finally:
        if job.ledger:
            job.ledger.close()


def _result(job: Job, ticket: Ticket) -> Made:
    name, error = ticket.item.source.name, ticket.error
    if error is None:
        place = ticket.item.outputs[0] if ticket.item.outputs else None
        return Made(name, ticket.made, place, None, ticket.record or {})
    code = error.exit_code if isinstance(error, DiffsrError) else 1
    kind = type(error).__name__
    report = {"status": "failed", "error": str(error), "kind": kind, "code": code}
    if job.ledger:
        job.ledger.add(name, report, None, None)
    return Made(name, None, None, error, report)


def _keep(ticket: Ticket, made: Picture | memoryview, report: dict[str, Any]) -> list[str]:
    from upscale.image.pillow import opened, pillow_of

    ticket.made = opened(made) if isinstance(made, memoryview) else pillow_of(made)
    return []
