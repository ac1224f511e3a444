"""What is the same for all frames of an animation, so that nothing flickers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from upscale.image.frames_in import Film
from upscale.image.picture import Picture
from upscale.pipeline.plan import Plan, output_size
from upscale.pipeline.request import Request

if TYPE_CHECKING:
    from upscale.pipeline.upscaler import Upscaler


def sizes_out(film: Film, request: Request) -> list[tuple[int, int]]:
    """(height, width) of what each frame or page becomes. Raises UsageError where one cannot be
    enlarged so."""
    how = (request.scale, request.size, request.max_side)
    known = {size: output_size(size, *how) for size in dict.fromkeys(film.sizes)}
    return [known[size] for size in film.sizes]


def plans(
    upscaler: Upscaler, film: Film, request: Request, first: Plan | None = None
) -> Iterator[tuple[Plan, Picture]]:
    """Each frame or page with its plan. What is decided for the first frame (weights, cleaning)
    holds for all, and the noise of a place is the same in all. Pages are planned each for itself,
    and share only the noise. A still picture has the noise that it has elsewhere. first: the plan
    of the first, where it was made. Raises as `Upscaler.plan`."""
    if len(film) > 1:
        request = replace(request, same_noise=True)
    plan = first
    for number, picture in enumerate(film):
        if plan is None or (film.kind == "pages" and number):
            plan = upscaler.plan(picture, request)
        elif number and request.faces:  # which move
            plan = replace(plan, faces=upscaler.plan(picture, request).faces)
        yield plan, picture
