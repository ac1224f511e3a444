"""--dry-run's record: all that is decided before a pixel is touched."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from upscale.batch import frames
from upscale.batch.job import Job, Ticket, doubts
from upscale.batch.names import Item
from upscale.batch.reading import existing, look
from upscale.diffusion.table import SAMPLERS
from upscale.errors import OutputError

if TYPE_CHECKING:
    from upscale.pipeline.plan import Plan


def planned(job: Job, item: Item) -> dict[str, Any]:
    """What would be made of a picture. Raises as `reading.prepare` and `job.plan`, but not where a
    result exists."""
    from upscale.image.formats import check_format

    ticket = Ticket(item)
    with suppress(OutputError):
        look(job, ticket)
    if ticket.record is not None:
        return ticket.record
    picture, film = frames.opened(item.source, job.files)
    notes = frames.checked(job, item.format, film) if film else []
    found: Plan = job.upscaler.plan(picture, job.request)
    alpha = picture.alpha is not None
    open_ended = SAMPLERS[found.sampler].adaptive  # steps and calls are known afterwards
    steps = [None if open_ended else stage.steps for stage in found.stages]
    notes += check_format(item.format, found.size_out, picture.bits, alpha=alpha)
    return {
        "status": "planned",
        "seconds": job.forecast.seconds(job.upscaler, found, picture),
        "exists": bool(existing(item)),
        "size_in": list(found.size_in),
        "size_out": list(found.size_out),
        "weights": found.weights,
        "taken_for": found.taken_for,
        "denoise": found.denoise,
        "degradation": found.degradation.report() if found.degradation else None,
        "scale": round(found.scale, 4),
        "stages": [[*stage.size_out, n] for stage, n in zip(found.stages, steps, strict=True)],
        "steps": None if open_ended else sum(steps),
        "sampler": found.sampler,
        "nfe": found.nfe,
        "tile": found.tile,
        "tiles": found.tiles,
        "blocks": sum(len(row) for stage in found.stages for row in stage.blocks),
        "memory": found.memory,
        **({"faces": [face.report() for face in found.faces]} if found.faces is not None else {}),
        **(frames.planned(job, found, film) if film else {}),
        **({"nfe": None} if open_ended else {}),
        "notes": [*(film or picture).notes, *found.notes, *notes, *doubts(job, picture)],
    }
