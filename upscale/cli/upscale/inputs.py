"""Which pictures a command line names (files, folders, patterns, lists, standard input), and the
work that this run does of them."""

from __future__ import annotations

import codecs
import difflib
import glob
import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from upscale.atomic import is_special
from upscale.batch import names, remote
from upscale.batch.names import STDIN, Item, Naming, Source
from upscale.batch.shard import Shard
from upscale.cli.upscale.account import Account
from upscale.document import counted
from upscale.errors import InputError, UsageError
from upscale.image.formats import OTHER_SUFFIXES, SUFFIXES

_NAMED = 5  # of the files that are passed over
_PATIENCE = 1.0  # seconds in which a dry run lets a pipe be opened


@dataclass
class Found:
    """sources to do; failures (path, why) known already; many: an output folder is needed."""

    sources: list[Source] = field(default_factory=list)
    failures: list[tuple[str, InputError]] = field(default_factory=list)
    left_out: int = 0  # earlier results met in folders
    passed_over: list[str] = field(default_factory=list)  # of kinds that are not read
    links: list[str] = field(default_factory=list)  # to folders, met in folders: not followed
    many: bool = False


def items_of(
    paths: tuple[str, ...],
    naming: Naming,
    shard: Shard | None,
    account: Account,
    options: Mapping[str, Any],
) -> list[Item]:
    """The work: planned for all inputs, so that shards agree on names; then what is this run's."""
    found = _find(paths, options)
    many, output = found.many, options["output"]
    items = names.plan(found.sources, output, naming, many=many) if found.sources else []
    _check_stdout(items, options)
    if found.left_out:
        account.reporter.note(
            f"{counted(found.left_out, 'earlier result')} in these folders skipped"
        )
    if found.passed_over:
        kinds = "of kinds that diffsr does not look for in folders"
        account.reporter.note(_passed_over("file", found.passed_over, kinds))
    if found.links:
        unless = "which are not searched unless they are named"
        account.reporter.note(_passed_over("linked folder", found.links, unless))
    if items and not options["dry_run"]:
        names.prepare(output, many)
    wanted = shard.has if shard else lambda inside: True
    retry, ledger = options["retry_failed"], account.job.ledger
    for name, error in found.failures:
        if wanted(name) and not (retry and ledger and not ledger.failed(name)):
            account.failed(name, error)
    items = [item for item in items if wanted(item.source.part_of)]
    if retry and ledger:
        items = [item for item in items if ledger.failed(item.source.name)]
    account.before, account.reporter.total = account.bad, len(items)
    return items


def _passed_over(kind: str, paths: list[str], why: str) -> str:
    named = ", ".join(paths[:_NAMED])
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return f"{counted(len(paths), kind)} passed over, {why}: {named}{more}"


def _find(paths: tuple[str, ...], options: Mapping[str, Any]) -> Found:
    listed: list[str] = []
    if options["from_file"]:
        listed = read_list(options["from_file"], options["null"])
        if not listed and not paths:
            raise UsageError(f"--from-file {options['from_file']}: the list is empty")
    return find(paths, listed, but_not=options["output"], wait=not options["dry_run"])


def _check_stdout(items: list[Item], options: Mapping[str, Any]) -> None:
    if not items or items[0].outputs or options["dry_run"]:
        return
    if options["resume"]:
        raise UsageError("a ledger lists files; --resume needs -o FILE")
    if options["as_json"]:
        raise UsageError("standard output holds the picture; --json needs -o FILE")
    if options["uncertainty"]:
        raise UsageError("standard output holds one picture; --uncertainty needs -o FILE")
    if sys.__stdout__ is None:
        raise UsageError("a picture needs standard output, which is closed; use -o FILE")
    if sys.stdout.buffer.isatty():
        raise UsageError("a picture is not written to a terminal; use -o FILE, or pipe it: > out")


# --- looking --------------------------------------------------------------------------------------


def find(
    inputs: Iterable[str],
    listed: Iterable[str] = (),
    *,
    but_not: str | None = None,
    wait: bool = True,
) -> Found:
    """Everything that `inputs` and the lines of a list name, in their order, each picture once.

    Folders are searched to the bottom, in alphabetical order; hidden files, other files than
    pictures (by suffix), pipes, links to folders, earlier results beside their picture, and the
    folder `but_not` (where the results go), by whatever name, are skipped. Patterns (`*.png`,
    `**/*.jpg`) are for quoted ones that the shell left alone; a line of a list is a plain path.
    wait: for who writes into a named pipe.
    """
    found, inputs, listed = Found(), list(inputs), list(listed)
    for text in inputs:
        if text == STDIN:
            found.sources.append(_standard_input())
        elif glob.has_magic(text) and not remote.is_url(text) and not os.path.lexists(text):
            _match(text, found, but_not)
        else:
            _add(text, found, but_not, wait)
    for text in listed:
        found.many = True
        _add(text, found, but_not, wait)
    unique: dict[str, Source] = {}
    for source in found.sources:
        unique.setdefault(STDIN if source.name == STDIN else os.path.abspath(source.name), source)
    found.sources = list(unique.values())
    found.passed_over = list({os.path.abspath(path): path for path in found.passed_over}.values())
    links = {os.path.abspath(path): path for path in found.links}
    named = set(map(os.path.abspath, [*inputs, *listed]))
    found.links = [path for whole, path in links.items() if whole not in named]
    found.many |= len(found.sources) + len(found.failures) > 1
    return found


def read_list(name: str, null: bool) -> list[str]:
    """The paths in a file (or, for "-", in standard input), one a line or ended by NUL."""
    try:
        data = stdin().read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: the list cannot be read: {error.strerror}") from error
    try:
        data = without_mark(data)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: begins as UTF-16, and is damaged or cut short") from error
    # some programs end lines by CR alone; between other ends it belongs to a name
    lines = data.replace(b"\r\n" if b"\n" in data else b"\r", b"\n").split(b"\n")
    parts = data.split(b"\0") if null else lines
    return [os.fsdecode(part) for part in parts if part.strip()]


def without_mark(data: bytes) -> bytes:
    """A text without the byte order mark that some editors begin it with; UTF-16 becomes UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "surrogatepass").encode("utf-8", "surrogatepass")
    return data.removeprefix(codecs.BOM_UTF8)


def _add(text: str, found: Found, but_not: str | None, wait: bool) -> None:
    if remote.is_url(text):
        found.many = True
        stored = dict(remote.find(text, but_not))
        kept = names.without_results(list(stored))
        found.left_out += len(stored) - len(kept)
        found.sources += [Source(url, Path(stored[url])) for url in kept]
    elif os.path.isdir(text):
        found.many = True
        before = len(found.sources)
        _search(text, found, but_not)
        if len(found.sources) == before:
            why = f"{text}: no pictures in this folder (looked for {', '.join(sorted(SUFFIXES))})"
            found.failures.append((text, InputError(why)))
    elif os.path.exists(text):
        try:
            found.sources.append(source_of(text, wait))
        except InputError as error:
            found.failures.append((text, error))
    else:
        found.failures.append((text, InputError(f"{text}: {_why_missing(text)}")))


def source_of(path: str, wait: bool = True) -> Source:
    """A file, or what comes out of a pipe, which is read at once. Raises InputError, also for a
    pipe that nobody writes into, unless it is to `wait` for that."""
    source = Source(path, Path(Path(path).name), alone=True)
    if not is_special(Path(path)):
        return source
    try:
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            raise InputError(f"{path}: is a device or a socket, and no file or pipe")
        data = Path(path).read_bytes() if wait else _drained(path)
    except OSError as error:
        raise InputError(f"{path}: the pipe cannot be read: {error.strerror}") from error
    if not data:
        raise InputError(f"{path}: nothing came out of this pipe")
    return replace(source, data=data)


def _drained(pipe: str) -> bytes:
    """What comes out of a pipe, unless nobody opens it to write. Raises InputError, OSError."""
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb", 0) as file:
        ready, _, _ = select.select([file], [], [], _PATIENCE)
        first = b"" if ready else file.read(1)  # None: somebody is there, who has said nothing yet
        if not ready and first == b"":
            raise InputError(f"{pipe}: nobody writes into this pipe, and a dry run does not wait")
        os.set_blocking(file.fileno(), True)
        return (first or b"") + file.readall()


def _match(pattern: str, found: Found, but_not: str | None) -> None:
    """The pictures that a pattern matches, then those in the folders that it matches."""
    found.many = True
    before = len(found.sources)
    matches = sorted(glob.glob(pattern, recursive=True))
    paths = [path for path in matches if os.path.isfile(path)]
    files = [path for path in paths if Path(path).suffix.lower() in SUFFIXES]
    found.passed_over += [path for path in paths if Path(path).suffix.lower() in OTHER_SUFFIXES]
    kept = names.without_results(files)
    found.left_out += len(files) - len(kept)
    found.sources += [Source(path, Path(Path(path).name), alone=True) for path in kept]
    shut = os.path.realpath(but_not) if but_not else None
    for folder in matches:
        if os.path.isdir(folder) and os.path.realpath(folder) != shut:
            _search(folder, found, but_not)
    if len(found.sources) == before:
        why = InputError(f"{pattern}: no picture matches this pattern")
        found.failures.append((pattern, why))


def _search(folder: str, found: Found, but_not: str | None) -> None:
    for path in _walk(folder, found, but_not):
        found.sources.append(Source(path, Path(os.path.relpath(path, folder))))


def _walk(folder: str, found: Found, but_not: str | None) -> Iterator[str]:
    """Pictures below `folder`, by name; a subfolder that cannot be opened is a failure."""

    def refused(error: OSError) -> None:
        why = InputError(f"{error.filename}: {error.strerror}; this folder is left out")
        found.failures.append((str(error.filename), why))

    shut = os.path.realpath(but_not) if but_not else None
    if shut == os.path.realpath(folder):
        shut = None
    for here, folders, files in os.walk(folder, onerror=refused):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(here, name)) != shut
        )
        paths = (os.path.join(here, name) for name in folders)
        found.links += filter(os.path.islink, paths)
        pictures = sorted(
            os.path.join(here, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        )
        found.passed_over += sorted(
            os.path.join(here, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in OTHER_SUFFIXES
        )
        kept = names.without_results(pictures)
        found.left_out += len(pictures) - len(kept)
        yield from (path for path in kept if not is_special(Path(path)))


def _why_missing(text: str) -> str:
    from upscale.cli.main import COMMANDS

    if os.path.islink(os.path.realpath(text)):
        return "a link that leads in a circle; give the picture itself"
    if os.path.islink(text):
        return f"a link to {os.readlink(text)}, which does not exist"
    if near := difflib.get_close_matches(text, COMMANDS, n=1, cutoff=0.75):
        return f"no such file or folder, nor a command; did you mean `diffsr {near[0]}`?"
    folder, name = os.path.split(text)
    try:
        there = os.listdir(folder or ".")
    except (OSError, ValueError):
        return f"no such file: the folder {folder} does not exist or cannot be opened"
    if near := difflib.get_close_matches(name, there, n=1, cutoff=0.75):
        return f"no such file or folder; did you mean {os.path.join(folder, near[0])}?"
    return "no such file or folder"


def _standard_input() -> Source:
    data = stdin().read()
    if not data:
        raise InputError("standard input is empty; pipe a picture into it: diffsr - < in.png")
    return Source(STDIN, Path("stdin"), data)


def stdin() -> BinaryIO:
    """Raises UsageError where it is closed or the terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        what = "closed" if sys.stdin is None else "the terminal"
        raise UsageError(f"- reads standard input, which is {what}: diffsr - < in.png")
    return sys.stdin.buffer
