"""Before a picture is enlarged: whether there is anything to do, and the picture read."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from upscale.atomic import is_special
from upscale.batch import frames
from upscale.batch.ledger import content_of
from upscale.batch.names import Item, check_apart
from upscale.batch.remote import Remote
from upscale.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from upscale.batch.job import Job, Ticket
    from upscale.image.picture import Picture


def prepare(job: Job, ticket: Ticket) -> None:
    """Look whether there is anything to do, and read the picture: sets `record` or `picture`."""
    from upscale.image.decode import size_of

    started = time.perf_counter()
    look(job, ticket)
    if ticket.record is not None:
        return
    if job.ledger:
        with suppress(OSError):  # reading has the better words
            ticket.content = content_of(ticket.item.source.open())
    source = ticket.item.source.open()
    if isinstance(source, str):
        with suppress(InputError):
            ticket.pixels = math.prod(size_of(source))

    def on_frame(picture: Picture) -> None:
        ticket.pixels += math.prod(picture.size)  # and the engine gives it more time

    ticket.picture, ticket.film = frames.opened(ticket.item.source, job.files, on_frame)
    ticket.seconds += time.perf_counter() - started


def look(job: Job, ticket: Ticket) -> None:
    """Whether there is anything to do: sets `record` if not. Raises OutputError where something
    stands in the way of a result."""
    item, files, ledger = ticket.item, job.files, job.ledger
    check_apart(item)
    _check_writable(item)
    if ledger and any(map(_is_special, item.files)):
        raise UsageError("a ledger lists files; --resume needs an -o that is no pipe or device")
    if ledger and ledger.done(item):
        ticket.record = {"status": "skipped", "why": "ledger"}
        return
    present = existing(item)
    if present and files.skip_existing:
        if len(present) == len(item.files):
            ticket.record = {"status": "skipped", "why": "exists"}
            return
    elif present and not files.overwrite:
        if ledger is None:
            if older := [path for path in present if not _appeared(path, job.begun)]:
                raise OutputError(
                    f"{older[0]}: exists; give --overwrite, --skip-existing or another -o"
                )
        else:
            ticket.replace = ledger.owns(item)
        # what is there is compared with what is made: a crash, or another process, left it


def existing(item: Item) -> list[Path | Remote]:
    """The results that exist; what a pipe or a device gets is no file."""
    there = (path for path in item.files if path.is_symlink() or path.exists())
    return [path for path in there if not _is_special(path)]


def _is_special(path: Path | Remote) -> bool:
    return isinstance(path, Path) and is_special(path)


def _appeared(path: Path | Remote, since: float) -> bool:
    """Whether a file was made, moved or changed after that."""
    try:
        return isinstance(path, Path) and path.lstat().st_ctime >= since
    except OSError:
        return False


def _check_writable(item: Item) -> None:
    """OutputError where the folder of a result, or what exists of it, takes no files."""
    for path in item.files:
        if isinstance(path, Remote) or is_special(path):
            continue  # a store or a pipe has no folder, and says no when it comes to it
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise OutputError(f"{folder}: is a file, and no folder; give another one: -o")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{folder}: no permission to write there; give another folder: -o")
