"""Where every result goes, decided for all pictures before the first is read."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from upscale.atomic import is_special, make_folder
from upscale.batch import remote
from upscale.batch.files import Files
from upscale.batch.remote import Remote
from upscale.errors import OutputError, UsageError
from upscale.image.formats import FORMATS, SUFFIXES, canonical, format_of, sniff
from upscale.pipeline.request import Request

STDIN = STDOUT = "-"
# Opened by name, a file that standard output goes to would be written from its start, twice
STDOUTS = (STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_NAME_BYTES = 255  # of one name, in every common file system
# what `_item` and `_tag_of` put behind a stem: _x4, _x3.7, _1000x333, _max2000; samples, deviation
_RESULT = re.compile(r"(.+)_(?:x\d+(?:\.\d+)?|\d+x\d+|max\d+)(?:_s\d+|_std)?", re.DOTALL)
_CUT = re.compile(r"(.*)~([0-9a-f]{6})", re.DOTALL)  # see `_shortened`
_TRIED = 9  # of the names of `_stems`, where only a hash is left of them


@dataclass(frozen=True, slots=True)
class Source:
    """A picture to read. inside: its path below the folder searched, or its bare name."""

    name: str
    inside: Path
    data: bytes | None = None  # of standard input or another pipe, which can be read only once
    alone: bool = False  # named itself, and no folder that it was found in

    @property
    def part_of(self) -> str:
        """What tells which shard does it. Bare names may be the same for all: d/cover.jpg ..."""
        return self.name if self.alone else self.inside.as_posix()

    def open(self) -> str | BinaryIO:
        """What `image.decode.read` takes."""
        if remote.is_url(self.name):
            return _Named(remote.Remote(self.name).read_bytes(), self.name)
        if self.data is None:
            return self.name
        return _Named(self.data, "standard input" if self.name == STDIN else self.name)


class _Named(io.BytesIO):
    """Bytes that can say in an error where they came from."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True)
class Naming:
    """How names are made: tag ("_x4"), a format asked for, samples, their deviation."""

    tag: str
    format: str | None = None  # Pillow's name
    samples: int = 1
    uncertainty: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One picture's work: outputs has a path for every sample, and is empty for stdout or where
    the picture is wanted in memory."""

    source: Source
    format: str
    outputs: tuple[Path | Remote, ...] = ()
    deviation: Path | Remote | None = None

    @property
    def files(self) -> tuple[Path | Remote, ...]:
        return self.outputs + ((self.deviation,) if self.deviation else ())


def naming_of(request: Request, files: Files) -> Naming:
    """How the results of a request are named. Raises OutputError for an unknown format."""
    format = canonical(files.format) if files.format else None
    return Naming(_tag_of(request), format, files.samples, files.uncertainty)


def _tag_of(request: Request) -> str:
    """Scale 4.0 -> "_x4"; size (height, width) -> "_1000x333"; max_side 2000 -> "_max2000"."""
    if request.size:
        return f"_{request.size[1]}x{request.size[0]}"
    if request.max_side:
        return f"_max{request.max_side}"
    return f"_x{request.scale:g}"


def is_folder(output: str | None, many: bool) -> bool:
    """Whether -o means a folder. Raises UsageError where it cannot be what is needed."""
    if output in (None, STDOUT):
        return False
    assert output is not None
    if os.path.isdir(output) or output.endswith(("/", os.sep)):
        return True
    if not many:
        return False
    if os.path.exists(output) or Path(output).suffix.lower() in SUFFIXES:
        raise UsageError(
            f"-o {output} is one file, but there are several pictures; name a folder: -o results/"
        )
    return True


def plan(sources: list[Source], output: str | None, naming: Naming, *, many: bool) -> list[Item]:
    """An item for every source, in order; no two claim one file, and none claims an input."""
    if output == STDOUT or (output is None and [s.name for s in sources] == [STDIN]):
        return [_to_stdout(sources[0], naming, many)]
    folder = remote.place(output) if output and is_folder(output, many) else None
    if output and not folder:
        return [_to_file(sources[0], remote.place(output), naming)]
    taken = {_key(source.name) for source in sources}
    inputs = _Inputs(sources)
    # A picture that keeps its suffix goes first: a.png is a_x4.png whether a.jpg is there or not.
    order = sorted(sources, key=lambda s: _format(s, naming)[1] != Path(s.name).suffix)
    items: dict[str, Item] = {}
    for source in order:
        items[source.name] = _free(source, folder, naming, taken, inputs)
        taken.update(_key(path) for path in items[source.name].files)
    return [items[source.name] for source in sources]


def prepare(output: str | None, many: bool) -> None:
    """Make the output folder and see that it can be written to. Raises OutputError."""
    if not output or output == STDOUT or remote.is_url(output) or is_special(Path(output)):
        return
    folder = Path(output) if is_folder(output, many) else Path(output).absolute().parent
    make_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: no permission to write there; give another -o")


def _to_stdout(source: Source, naming: Naming, many: bool) -> Item:
    if many or naming.samples > 1:
        raise UsageError("standard output holds one picture; name a folder: -o results/")
    return Item(source, _format(source, naming)[0])


def _to_file(source: Source, path: Path | Remote, naming: Naming) -> Item:
    if naming.format:
        format = naming.format
    else:
        try:
            format = format_of(str(path))
        except OutputError as error:
            raise UsageError(f"-o {error}; a folder ends in /") from error
    item = _item(source, path.parent, path.stem, "", path.suffix, format, naming)
    if source.data is None and _key(source.name) in map(_key, item.files):
        raise UsageError(f"-o {path} is the input itself, and inputs are never replaced")
    check_apart(item)
    return item


def check_apart(item: Item) -> None:
    """UsageError where a result would replace its own input, which it may reach by another name: a
    link, another spelling, another mount."""
    inputs = _Inputs([item.source])
    if reached := next((path for path in item.files if path in inputs), None):
        raise UsageError(
            f"{reached} is the input itself by another name, and inputs are never replaced; give "
            "another -o"
        )


def check_other(path: Path, items: Sequence[Item]) -> None:
    """UsageError where one more file would be an input or a result by whatever name."""
    key = _key(path)
    if path in _Inputs([item.source for item in items]) or any(
        key in (_key(item.source.name), *map(_key, item.files)) for item in items
    ):
        raise UsageError(f"{path} is an input or a result of this run; give another name")


class _Inputs:
    """Whether a path leads to one of the inputs, whatever both are called. The inputs are looked
    at only once a path exists."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources
        self._known: set[tuple[int, int]] | None = None

    def __contains__(self, path: Path | Remote) -> bool:
        if isinstance(path, Remote) or (own := _identity(path)) is None:
            return False
        if self._known is None:
            local = (s for s in self._sources if s.data is None and not remote.is_url(s.name))
            self._known = {found for s in local if (found := _identity(s.name))}
        return own in self._known


def _identity(path: str | Path) -> tuple[int, int] | None:
    """What `os.path.samefile` compares, of a file; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _free(
    source: Source,
    folder: Path | Remote | None,
    naming: Naming,
    taken: set[str],
    inputs: _Inputs,
) -> Item:
    """The item under the first name that nothing else claims."""
    format, suffix = _format(source, naming)
    where = folder / source.inside.parent if folder else remote.place(source.name).parent
    for stem in _stems(source.inside.stem, source.inside.suffix):
        item = _item(source, where, stem, naming.tag, suffix, format, naming)
        if not taken.intersection(map(_key, item.files)) and not any(
            path in inputs for path in item.files
        ):
            return item
    raise AssertionError("the numbers ran out")


def _stems(stem: str, suffix: str) -> Iterator[str]:
    """in, in_jpg, in_jpg_2, in_jpg_3 ..."""
    yield stem
    longer = f"{stem}_{suffix[1:]}" if suffix else stem
    yield longer
    number = 2
    while True:
        yield f"{longer}_{number}"
        number += 1


def _item(
    source: Source,
    folder: Path | Remote,
    stem: str,
    tag: str,
    suffix: str,
    format: str,
    naming: Naming,
) -> Item:
    tails = [f"{tag}_s{n}{suffix}" for n in range(1, naming.samples + 1)]
    if naming.samples == 1:
        tails = [tag + suffix]
    room = _NAME_BYTES - max(len(tag + suffix), *map(len, tails), len(tag) + 8)
    stem = _shortened(stem, room)
    item = Item(source, format, tuple(folder / (stem + tail) for tail in tails))
    if naming.uncertainty:
        item = replace(item, deviation=folder / f"{stem}{tag}_std.png")
    return item


def _shortened(stem: str, room: int) -> str:
    """At most `room` bytes; what is cut off lives on as six digits of its hash."""
    raw = os.fsencode(stem)
    if len(raw) <= room:
        return stem
    cut = raw[: room - 7].decode(errors="ignore")
    return f"{cut}~{_digest(stem)}"


def _digest(stem: str) -> str:
    return hashlib.blake2b(os.fsencode(stem), digest_size=3).hexdigest()


def without_results(paths: Sequence[str]) -> list[str]:
    """The pictures of some folders without those that have a name which `plan` gives to the result
    of another one in the same folder."""
    stems = ((path, os.path.splitext(path)[0]) for path in paths)
    tagged = {path: match[1] for path, stem in stems if (match := _RESULT.fullmatch(stem))}
    folders: dict[str, _Folder] = {}
    for path in paths if tagged else ():
        folder, name = os.path.split(path)
        folders.setdefault(folder, _Folder()).names.append(name)
    made = {
        path
        for path, stem in tagged.items()
        if folders[os.path.dirname(path)].begin(os.path.basename(stem))
    }
    return [path for path in paths if path not in made]


class _Folder:
    """The pictures in a folder, and what the names of their results begin with."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def begin(self, given: str) -> bool:
        """Whether the name of a result of one of them may have that before its tag."""
        plain, longer = self._first_two
        if given in plain or given in longer:
            return True
        start, _, number = given.rpartition("_")
        if number.isdecimal() and start in longer:
            return True
        cut = _CUT.fullmatch(given)
        return bool(cut) and any(one.startswith(cut[1]) for one in self._hashed.get(cut[2], ()))

    @cached_property
    def _first_two(self) -> tuple[set[str], set[str]]:
        """Of the stems of each; the second ones are those that get numbers."""
        both = [tuple(islice(_stems(*os.path.splitext(name)), 2)) for name in self.names]
        return {plain for plain, _ in both}, {longer for _, longer in both}

    @cached_property
    def _hashed(self) -> dict[str, list[str]]:
        """What the hashes of shortened names stand for."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            for stem in islice(_stems(*os.path.splitext(name)), _TRIED):
                whole = os.fsencode(stem).decode(errors="ignore")  # as `_shortened` cuts it
                found.setdefault(_digest(stem), []).append(whole)
        return found


def _format(source: Source, naming: Naming) -> tuple[str, str]:
    """(format, suffix) of the result: as asked for, else the input's own, else PNG."""
    if naming.format:
        return naming.format, FORMATS[naming.format].suffixes[0]
    if source.data is not None:
        known = sniff(source.data[:64])
        if known and FORMATS[known].writable:
            return known, FORMATS[known].suffixes[0]
        return "PNG", ".png"
    try:
        return format_of(source.name), Path(source.name).suffix
    except OutputError:
        return "PNG", ".png"


def _key(path: Path | Remote | str) -> str:
    """Equal for two names that are one file on any file system, case-blind ones too, also where
    one of them goes through a link to the folder."""
    folder, name = os.path.split(os.path.abspath(str(path)))
    return unicodedata.normalize("NFC", os.path.join(_real(folder), name)).casefold()


@lru_cache(1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
