"""Bytes get their name on the disk at once and complete, or not at all."""

from __future__ import annotations

import errno
import filecmp
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from upscale.errors import DiskFull, OutputError

# What a hard link gives where there are none: FAT, some network drives, some containers
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def write_text(target: Path, text: str) -> None:
    """A text file in UTF-8, whole or not at all, in the place of what was there: see `placed`."""
    with placed(target, overwrite=True) as file:
        file.write(text.encode())


@contextmanager
def placed(
    target: Path,
    *,
    overwrite: bool,
    check: Callable[[], None] | None = None,
    same: bool = False,
) -> Iterator[BinaryIO]:
    """A file to write into that becomes `target` at the end, making its folder: see `replacing`.
    A pipe or a device is written into."""
    if is_special(target):
        with _explained(target), open(target, "wb") as stream:
            yield stream
        return
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(target, overwrite=overwrite, check=check, same=same) as temporary,
        open(temporary, "xb") as file,
    ):
        yield file


@contextmanager
def replacing(
    target: Path,
    *,
    overwrite: bool = True,
    check: Callable[[], None] | None = None,
    same: bool = False,
) -> Iterator[Path]:
    """The path of a file to make that becomes `target` at the end, for what writes by name. Its
    folder must be there. Raises OutputError or DiskFull; then, as after any other error, nothing
    is left.

    Without `overwrite`, a file that appeared meanwhile is not replaced either; with `same` it is
    taken for what was made if it has the same bytes. A link stays, and
    the file it leads to is replaced. check() is called when all is written and before it gets its
    name: what it raises leaves nothing either.
    """
    with _explained(target):
        target = Path(os.path.realpath(target)) if overwrite else target
        # a short name of its own: the target's may already be as long as names can be
        temporary = target.parent / f".diffsr-{secrets.token_hex(8)}.part"
        try:
            yield temporary
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            if check:
                check()
            if overwrite:
                os.replace(temporary, target)
            else:
                _move_to_free_name(temporary, target, same)
        except BaseException:  # an interruption too must leave nothing
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        with suppress(OSError, AttributeError):  # the name outlasts a power cut; not on Windows
            folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed left of files in a folder."""
    for part in folder.glob(".diffsr-*.part"):
        part.unlink(missing_ok=True)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """OSErrors become what a user is shown."""
    try:
        yield
    except OSError as error:
        raise _failure(target, error) from error


def send(data: memoryview, stream: BinaryIO) -> None:
    """Write all of `data` to an open stream. A BrokenPipeError passes: that the reader has had
    enough is the command line's business, and no fault."""
    try:
        while data:  # an unbuffered stream may take only a part
            data = data[stream.write(data) or len(data) :]
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _failure(getattr(stream, "name", "the stream"), error) from error


def check_free(target: Path) -> None:
    """OutputError if something would be overwritten; `placed` looks again at the end."""
    if os.path.lexists(target) and not is_special(target):
        raise _exists(target)


def _move_to_free_name(temporary: Path, target: Path, same: bool) -> None:
    """Rename; OutputError if the target exists by now, which `os.replace` would not say, unless it
    is a file of the same bytes and `same` allows that."""
    try:
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            open(target, "xb").close()  # claims the name
            os.replace(temporary, target)
        else:
            temporary.unlink()
    except FileExistsError as error:
        if same and _is_same(temporary, target):
            temporary.unlink()
            return
        raise _exists(target) from error


def _is_same(made: Path, found: Path) -> bool:
    """Whether a file has the bytes of another. A link has not: nobody here made where it leads."""
    return stat.S_ISREG(found.lstat().st_mode) and filecmp.cmp(made, found, shallow=False)


def is_special(target: Path) -> bool:
    """Whether it is something that is written into: a pipe, a device."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _exists(target: Path) -> OutputError:
    return OutputError(
        f"{target}: exists, and is left as it is; choose another name or pass --overwrite "
        "(overwrite=True)"
    )


def _failure(target: object, error: OSError) -> OutputError | DiskFull:
    if error.errno in _FULL:
        return DiskFull(
            f"{target}: the disk is full; nothing was left behind. Make room, or write elsewhere"
        )
    return OutputError(
        f"{target}: cannot be written ({error.strerror or error}); check the name and the "
        "permissions of the folder"
    )
