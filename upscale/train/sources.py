"""Where training pictures lie: folders, tar shards and LMDB, behind one list of items.

Items are found once and read when they are wanted, so that millions cost no memory.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from torch.utils.data import ConcatDataset, Subset

from upscale.errors import InputError
from upscale.image.formats import SUFFIXES

Say = Callable[[str], None]


class Item(NamedTuple):
    """A picture that is still encoded: what it is called, and what gives its file. file: its name
    without what it lies in. small: of a pair, the file of its input, whose sides are `scale` times
    smaller."""

    name: str
    file: str
    open: Callable[[], Path | BinaryIO]
    small: Path | None = None
    scale: int = 1


class Items(Protocol):
    """Pictures in an order that does not change."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item: ...


@dataclass(frozen=True)
class Files:
    """Picture files. inputs: where they are pairs, each one's small version."""

    paths: Sequence[Path]
    inputs: Sequence[Path] = ()
    scale: int = 1

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        path = self.paths[index]
        small = self.inputs[index] if self.inputs else None
        return Item(str(path), path.name, lambda: path, small, self.scale)


@dataclass(frozen=True)
class Member:
    """A picture inside a tar shard."""

    shard: Path
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Shards:
    """Pictures in uncompressed tar files (webdataset's layout, or any other)."""

    members: Sequence[Member]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Item:
        member = self.members[index]
        name = f"{member.shard}:{member.name}"

        def content() -> BinaryIO:
            with open(member.shard, "rb") as file:
                file.seek(member.offset)
                return _named(file.read(member.size), name)

        return Item(name, Path(member.name).name, content)


@dataclass(frozen=True)
class Lmdb:
    """The values of an LMDB database (LSUN's layout: a key, an encoded picture)."""

    path: Path
    keys: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Item:
        key = self.keys[index].decode(errors="replace")
        name = f"{self.path}:{key}"

        def content() -> BinaryIO:
            with _environment(self.path).begin() as reading:
                return _named(bytes(reading.get(self.keys[index]) or b""), name)

        return Item(name, key, content)


class Mixed(ConcatDataset):
    """Sources one after the other, of which each has its own share of the examples."""


def chosen(items: Items, indices: Sequence[int]) -> Items:
    """Some items, in their order; of files, files again, and of a mix a mix."""
    if isinstance(items, Files):
        some = [items.inputs[i] for i in indices] if items.inputs else ()
        return replace(items, paths=[items.paths[i] for i in indices], inputs=some)
    if isinstance(items, Mixed):
        bounds = pairwise([0, *items.cumulative_sizes])
        own = [[i - first for i in indices if first <= i < after] for first, after in bounds]
        return Mixed(list(map(chosen, items.datasets, own)))
    return Subset(items, indices)


def called(items: Items, names: Collection[str]) -> Items:
    """The items of these file names, or of these keys of a database."""
    return chosen(items, [i for i in range(len(items)) if items[i].file in names])


def joined(parts: Sequence[Items]) -> Items:
    """Several lists of items as one; of files, files again."""
    if all(isinstance(part, Files) for part in parts):
        return Files([path for part in parts for path in part.paths])
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def find(folder: Path, names: Sequence[str] | None = None) -> Items:
    """Everything below a path, sorted by name: picture files, tar shards, LMDB databases.

    names: only pictures that are `called` so. Raises InputError.
    """
    items = _all(folder)
    return items if names is None else called(items, set(names))


def _all(folder: Path) -> Items:
    if (folder / "data.mdb").is_file():
        return lmdb_of(folder)
    if folder.is_file() and folder.suffix == ".tar":
        return shards_of([folder])
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of training pictures")
    paths = sorted(p for p in folder.rglob("*") if not p.name.startswith("."))
    pictures = [p for p in paths if p.suffix.lower() in SUFFIXES]
    parts: list[Items] = []
    if pictures:
        parts.append(Files(pictures))
    if shards := [p for p in paths if p.suffix == ".tar"]:
        parts.append(shards_of(shards))
    parts += [lmdb_of(p.parent) for p in paths if p.name == "data.mdb"]
    packed = [p for p in paths if p.name.endswith((".tar.gz", ".tgz", ".zip"))]
    if not parts and packed:
        raise InputError(f"{packed[0]} is an archive: unpack it in place (tar -xf, unzip)")
    return joined(parts)


def shards_of(paths: Sequence[Path]) -> Shards:
    """An index of the pictures in tar files; only their headers are read. Raises InputError."""
    members = []
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                for entry in tar:
                    if entry.isfile() and Path(entry.name.lower()).suffix in SUFFIXES:
                        members.append(Member(path, entry.name, entry.offset_data, entry.size))
        except (tarfile.TarError, OSError) as error:
            raise InputError(f"{path}: no readable tar file ({error}); get it again") from error
    return Shards(members)


def lmdb_of(path: Path) -> Lmdb:
    """An LMDB database's keys, in its own order. Raises InputError."""
    with _environment(path).begin() as reading:
        keys = list(reading.cursor().iternext(keys=True, values=False))
    return Lmdb(path, keys)


_open: dict[Path, tuple[int, Any]] = {}  # a database may be open only once in a process


def _environment(path: Path) -> Any:
    """The open database; after a fork another. Raises InputError."""
    process, environment = _open.get(path, (0, None))
    if process == os.getpid():
        return environment
    if environment is not None:  # carried over a fork, where it must not be used
        environment.close()
    try:
        import lmdb
    except ImportError as error:
        raise InputError(
            f"{path} is an LMDB database, which needs an extra: pip install 'diffsr[lmdb]'"
        ) from error
    try:
        opened = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise InputError(f"{path}: no readable LMDB database ({error}); get it again") from error
    _open[path] = (os.getpid(), opened)
    return opened


def _named(content: bytes, name: str) -> BinaryIO:
    file = io.BytesIO(content)
    file.name = name
    return file
