"""A file of several frames or pages: enlarged one after the other, written as one file."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from upscale.batch.files import Files
from upscale.batch.names import Source
from upscale.batch.records import comment
from upscale.errors import OutputError, UsageError

if TYPE_CHECKING:
    from upscale.batch.job import Job, Ticket
    from upscale.image.frames_in import Film
    from upscale.image.frames_out import Add
    from upscale.image.picture import Picture
    from upscale.pipeline.plan import Plan


def opened(
    source: Source, files: Files, on_frame: Callable[[Picture], None] = lambda picture: None
) -> tuple[Picture, Film | None]:
    """The picture in a file; of several frames or pages that are all wanted, the first, and all.
    on_frame: as for `read_frames`."""
    from upscale.image.decode import read
    from upscale.image.frames_in import read_frames

    if files.frames != "all":
        return read(source.open(), **files.reading), None
    how = {"allow_truncated": files.allow_truncated, "max_pixels": files.max_pixels}
    film = read_frames(source.open(), **how, on_frame=on_frame)
    if len(film) > 1:
        return film.first, film
    return replace(film.first, notes=film.notes), None


def checked(job: Job, format: str, film: Film) -> list[str]:
    """Notes on what the format can hold of a film only in part. Raises OutputError where it cannot
    hold it, UsageError where a page cannot be enlarged as it is asked."""
    from upscale.image.formats import FORMATS, check_several
    from upscale.pipeline.frames import sizes_out

    if job.files.uncertainty:
        raise UsageError("--uncertainty is for still pictures; leave it out, or --frames all")
    notes = check_several(format, film.kind)
    sizes = sizes_out(film, job.request)
    samples = 4 * film.first.bits // 8
    if format == "TIFF" and sum(map(math.prod, sizes)) * samples > FORMATS["TIFF"].max_bytes:
        raise OutputError(
            f"a TIFF ends at 4 GiB of pixels, and all {film.kind} together have more; write a "
            "smaller size, or each into a file of its own"
        )
    return notes


def planned(job: Job, first: Plan, film: Film) -> dict[str, Any]:
    """What of --dry-run's record is a sum over all of them."""
    from upscale.pipeline.frames import plans

    if film.kind == "frames":
        seconds = job.forecast.seconds(job.upscaler, first, film.first)
        total = None if seconds is None else round(seconds * len(film), 2)
        return {**facts(film), "seconds": total, "nfe": first.nfe * len(film)}
    total, calls, pages = 0.0, 0, []
    for plan, picture in plans(job.upscaler, film, job.request, first):
        total += job.forecast.seconds(job.upscaler, plan, picture) or 0.0
        calls += plan.nfe
        pages.append(_page(plan))
    return {**facts(film), "seconds": round(total, 2), "nfe": calls, "pages": pages}


def facts(film: Film) -> dict[str, Any]:
    """What a record says of all frames or pages."""
    said: dict[str, Any] = {"frames": len(film)}
    if film.kind == "frames":
        said |= {"milliseconds": [round(time, 3) for time in film.milliseconds]}
        said |= {"plays": film.plays}
    return said


def _page(plan: Plan) -> dict[str, Any]:
    fixed = {"size_in": list(plan.size_in), "size_out": list(plan.size_out)}
    return fixed | {"weights": plan.weights, "taken_for": plan.taken_for, "denoise": plan.denoise}


def enlarge(
    job: Job,
    ticket: Ticket,
    target: Any,
    how: dict[str, Any],
    take: Callable[[Picture], None] | None = None,
) -> dict[str, Any]:
    """Make all frames or pages of one sample, and write each when it is made; returns the report.

    how: the arguments of `Upscaler.run`. take: also gets the rows of the first. `ticket.kept` gets
    what was noted on the way.
    """
    from upscale.pipeline.frames import plans

    film, on_step, count = ticket.film, how["on_step"], len(ticket.film)
    work = plans(job.upscaler, film, job.request, ticket.plan)
    reports: list[dict[str, Any]] = []
    pages: list[dict[str, Any]] = []
    with _written(job, ticket, target, reports) as add:
        for number, (plan, picture) in enumerate(work):
            if job.on_frame:
                job.on_frame(ticket.item.source.name, film.kind[:-1], number + 1, count)

            def step(done: int, of: int, before: int = number) -> None:
                on_step(before * of + done, count * of)

            def on_rows(
                band: Picture, report: dict[str, Any], plan: Plan = plan, first: bool = not number
            ) -> None:
                if ticket.check:
                    ticket.check()
                ticket.kept += add(band, plan.size_out, comment(report))
                if take and first:
                    take(band)

            given = {**how, "on_step": step, "on_rows": on_rows}
            reports.append(job.upscaler.run(plan, picture, **given).report)
            if film.kind == "pages":
                pages.append(_page(plan) | {"lr_psnr": reports[-1].get("lr_psnr")})
        whole = _whole(reports, film)
        reports[:] = [whole]  # for what delivers it
    return whole | ({"pages": pages} if pages else {})


def _whole(reports: list[dict[str, Any]], film: Film) -> dict[str, Any]:
    """The report of all: as of the first, with the calls of all and the consistency of the worst;
    the notes say which of them they are about, unless they are about all."""
    first = reports[0]
    notes: dict[str, list[int]] = {}
    for number, report in enumerate(reports, 1):
        for note in report.get("notes", []):
            notes.setdefault(note, []).append(number)
    said = [
        note if len(which) == len(reports) else f"{film.kind[:-1]} {which[0]}: {note}"
        for note, which in notes.items()
    ]
    whole = {**first, **facts(film), "notes": said}
    if "nfe" in first:
        whole["nfe"] = sum(report["nfe"] for report in reports)
    if "consistency" in first:
        worst = max(reports, key=lambda report: report["consistency"])
        whole |= {key: worst[key] for key in ("consistency", "lr_psnr")}
    return whole


@contextmanager
def _written(job: Job, ticket: Ticket, target: Any, reports: list[dict[str, Any]]) -> Iterator[Add]:
    """What takes the bands of all. reports: of which the first is to be delivered in the end."""
    from upscale.image.frames_out import write_frames

    files, over = job.files, job.files.overwrite or ticket.replace
    how = {"format": ticket.item.format, "quality": files.quality, "strip": files.strip}
    if isinstance(target, Path):
        job.check_folder(target)
        also = {"overwrite": over, "check": ticket.check, "same": not over}
        with write_frames(target, ticket.film, **how, **also) as add:
            yield add
    else:
        data: BinaryIO = io.BytesIO()
        with write_frames(data, ticket.film, **how) as add:
            yield add
        if ticket.check:
            ticket.check()
        if target is None:
            ticket.kept += job.deliver(ticket, data.getbuffer(), reports[0])
        else:
            target.put(data.getbuffer(), over)
    job.written(ticket, target)
