"""One line of the page's list: a picture, how it is to be enlarged, and how that went."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscale.batch.names import Source, naming_of, plan
from upscale.document import duration
from upscale.errors import InputError
from upscale.ui.facts import facts
from upscale.ui.wishes import Wish

READY, WAITING, WORKING = "ready", "waiting", "working"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"


@dataclass(eq=False)
class Entry:
    """One line of the list. size: of the upload by its header, upright, or None. change: the number
    of the list's last change to it."""

    number: int
    name: str
    source: Path
    size: tuple[int, int] | None
    wish: Wish
    state: str = READY
    change: int = 0
    done: int = 0
    of: int = 0
    begun: float = 0.0  # on time.monotonic's clock
    record: dict[str, Any] | None = None
    error: str | None = None
    result: Path | None = None
    saved: Path | None = None

    @property
    def pixels(self) -> float:
        """Of the result, nearly; to foretell its time."""
        request = self.wish.request
        if request.size:
            return request.size[0] * request.size[1]
        height, width = self.size or (1000, 1000)
        return height * width * request.scale**2


def check_size(entry: Entry) -> None:
    """InputError where the result is larger than a browser should be given."""
    limit = entry.wish.files.max_pixels
    if entry.size is None or entry.size[0] * entry.size[1] > limit:
        return  # reading it says why
    if entry.pixels > limit:
        raise InputError(
            f"{entry.name}: the result would have {entry.pixels / 1e6:.4g} million pixels, more "
            f"than the limit of {limit / 1e6:.4g}; choose a smaller size, or raise it with "
            "--max-pixels"
        )


def named(entry: Entry, number: int) -> str:
    """in_x4.png, in_2_x4.png, in_3_x4.png: as `diffsr upscale` names a result."""
    name = Path(entry.name)
    if number > 1:
        name = name.with_stem(f"{name.stem}_{number}")
    naming = naming_of(entry.wish.request, entry.wish.files)
    source = Source(str(entry.source.with_name(name.name)), name)
    (item,) = plan([source], os.path.join(entry.source.parent, ""), naming, many=False)
    return Path(item.outputs[0]).name


def told(entry: Entry, output: Path) -> dict[str, Any]:
    """A line of the list, for the page."""
    line = {
        "number": entry.number, "name": entry.name, "state": entry.state, "size": entry.size,
        "done": entry.done, "of": entry.of, "error": entry.error,
        "saved": entry.saved and entry.saved.name,
    }  # fmt: skip
    if entry.state == DONE and entry.record:
        target = entry.saved or output / named(entry, 1)
        line |= {
            "size_out": entry.record["size_out"],
            "seconds": duration(entry.record["seconds"]),
            "facts": facts(entry.record),
            "command": entry.wish.command(entry.name, str(target)),
        }
    return line
