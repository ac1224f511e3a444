"""Bytes get their name on the disk at once and complete, or not at all."""

from __future__ import annotations

import atexit
import ctypes
import errno
import filecmp
import hashlib
import os
import platform
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from upscale.errors import DiskFull, OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What a hard link gives where there are none: FAT, some network drives, some containers
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}
_FULL = {errno.ENOSPC, errno.EDQUOT}
# in the names of unfinished files: a lock may not be seen from another machine
_HERE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_unfinished: dict[Path, int] = {}  # those of this process, and its number: forks have others
_swept: set[str] = set()  # folders that were looked through for those of others


def write_text(target: Path, text: str) -> None:
    """A text file in UTF-8, whole or not at all, in the place of what was there: see `placed`.
    Bytes of a file's name that are no characters are escaped, as JSON does it, too."""
    with placed(target, overwrite=True) as file:
        file.write(text.encode(errors="backslashreplace"))


def make_folder(folder: Path) -> None:
    """A folder that may be there, and those above it. Raises OutputError, DiskFull."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(
            f"{folder}: the folder cannot be made, because a file is in its way; name another "
            "folder, or move the file away"
        ) from error
    except OSError as error:
        if full(error):
            raise _failure(folder, error) from error
        raise OutputError(
            f"{folder}: the folder cannot be made ({error.strerror}); check its name, and the "
            "permissions of the folder above it"
        ) from error


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
    make_folder(target.parent)
    with (
        replacing(target, overwrite=overwrite, check=check, same=same) as temporary,
        open(temporary, "wb") as file,
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
        _sweep(target.parent)
        temporary, lock = _begun(target.parent)
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
        finally:
            _unfinished.pop(temporary, None)
            if lock is not None:
                os.close(lock)
        with suppress(OSError, AttributeError):  # the name outlasts a power cut; not on Windows
            folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _begun(folder: Path) -> tuple[Path, int | None]:
    """A new empty file under a name that nobody can foresee, and what holds its lock: while that
    is open, `remove_unfinished` of other processes leaves the file alone. None without locks."""
    while True:
        # a short name of its own: the target's may already be as long as names can be
        path = folder / f".diffsr-{_HERE}-{secrets.token_hex(8)}.part"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _unfinished[path] = os.getpid()
        locked = _locked(handle)
        if locked and _is(path, handle):
            return path, handle
        os.close(handle)
        if locked is None:
            return path, None
        _unfinished.pop(path, None)  # between the two calls another process removed it


def _locked(handle: int) -> bool | None:
    """Take the lock of an open file; False if another has it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(path: Path, handle: int) -> bool:
    """Whether an open file still has that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def remove_unfinished(folder: Path) -> None:
    """Remove what processes of this machine that were killed left of files in a folder."""
    for part in folder.glob(".diffsr-*.part"):
        host = part.name.split("-")[1] if part.name.count("-") > 1 else _HERE
        if host != _HERE:
            continue
        with suppress(OSError):
            handle = os.open(part, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _locked(handle):  # its owner is dead
                    part.unlink()
            finally:
                os.close(handle)


def _sweep(folder: Path) -> None:
    """`remove_unfinished`, once for every folder that this process writes to."""
    if str(folder) not in _swept:
        _swept.add(str(folder))
        with suppress(OSError):
            remove_unfinished(folder)


@atexit.register
def _remove_own() -> None:
    """What threads that were not waited for have not finished."""
    for path, process in list(_unfinished.items()):
        if process == os.getpid():
            with suppress(OSError):
                path.unlink()


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
            _rename_to_free_name(temporary, target)
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


def _rename_to_free_name(temporary: Path, target: Path) -> None:
    """Rename where there are no hard links; FileExistsError if the target exists. No empty file
    holds the name meanwhile: a kill would leave it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if fcntl else None
    if rename is not None:  # Linux
        here, no_replace = -100, 1
        names = os.fsencode(temporary), os.fsencode(target)
        if rename(here, names[0], here, names[1], no_replace) == 0:
            return
        if ctypes.get_errno() == errno.EEXIST:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.rename(temporary, target)


def is_special(target: Path) -> bool:
    """Whether it is something that is written into: a pipe, a device."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _exists(target: Path) -> OutputError:
    return OutputError(
        f"{target}: exists, and is left as it is; choose another name or pass --overwrite"
    )


def full(error: BaseException) -> bool:
    """Whether it says that a disk, or somebody's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def _failure(target: object, error: OSError) -> OutputError | DiskFull:
    if full(error):
        return DiskFull(
            f"{target}: the disk is full; nothing was left behind. Make room, or write elsewhere"
        )
    return OutputError(
        f"{target}: cannot be written ({error.strerror or error}); check the name and the "
        "permissions of the folder"
    )
