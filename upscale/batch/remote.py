"""Object stores and the like (s3://, gs://, memory://): the only door to fsspec."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from types import SimpleNamespace
from typing import Any

from upscale.errors import InputError, OutputError, UsageError
from upscale.image.formats import SUFFIXES

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Two letters at least before ://, so that no drive of Windows is taken for one."""
    return _URL.match(text) is not None


def place(text: str) -> Path | Remote:
    """Where a text leads: a path of this machine, or a URL."""
    return Remote(text) if is_url(text) else Path(text)


@dataclass(frozen=True)
class Remote:
    """A URL that can do what of a Path is needed here. An object appears whole or not at all:
    stores show it when the last byte has come."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | PurePath) -> Remote:
        tail = PurePath(name).as_posix()
        return self if tail == "." else Remote(f"{self.url.rstrip('/')}/{tail}")

    @property
    def _inner(self) -> PurePosixPath:
        return PurePosixPath(self.url.split("://", 1)[1])

    @property
    def parent(self) -> Remote:
        return Remote(f"{self.url.split('://', 1)[0]}://{self._inner.parent}")

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def stem(self) -> str:
        return self._inner.stem

    @property
    def suffix(self) -> str:
        return self._inner.suffix

    def is_symlink(self) -> bool:
        return False

    def exists(self) -> bool:
        system, path = _system(self.url)
        return _asked(self.url, lambda: system.exists(path))

    is_file = exists

    def stat(self) -> SimpleNamespace:
        """FileNotFoundError where there is nothing."""
        system, path = _system(self.url)
        return SimpleNamespace(st_size=int(_asked(self.url, lambda: system.size(path))))

    def read_bytes(self) -> bytes:
        system, path = _system(self.url)
        try:
            return _asked(self.url, lambda: system.cat_file(path))
        except FileNotFoundError as error:
            raise InputError(f"{self.url}: no such object") from error

    def write_bytes(self, data: bytes) -> None:
        system, path = _system(self.url)
        try:
            system.makedirs(system._parent(path), exist_ok=True)
            system.pipe_file(path, data)
        except Exception as error:  # as in `_asked`
            raise OutputError(f"{self.url}: cannot be written: {error}") from error

    def put(self, data: memoryview, overwrite: bool) -> None:
        """OutputError where there is something else already that is not to be overwritten."""
        if overwrite or not self.exists():
            self.write_bytes(bytes(data))
        elif self.read_bytes() != data:
            raise OutputError(f"{self}: exists; give --overwrite, --skip-existing or another -o")


def find(url: str, but_not: str | None = None) -> Iterator[tuple[str, str]]:
    """(URL, path below `url`) of every picture there, by name; `url` itself if it is one. but_not:
    where the results go, which is skipped if it is a URL below this one.

    Raises InputError where there is none.
    """
    system, path = _system(url)
    names = sorted(_asked(url, lambda: system.find(path)))
    pictures = [name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]
    if but_not and is_url(but_not):
        other, shut = _system(but_not)
        if other == system and shut.rstrip("/") != path.rstrip("/"):
            pictures = [name for name in pictures if not name.startswith(f"{shut.rstrip('/')}/")]
    if not pictures:
        raise InputError(f"{url}: no pictures there")
    for name in pictures:
        inside = os.path.relpath(name, path) if name != path else os.path.basename(name)
        yield system.unstrip_protocol(name), inside


def _system(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it. Raises UsageError."""
    try:
        import fsspec
    except ImportError as error:
        raise UsageError(f"{url}: needs an extra package: pip install 'diffsr[ray]'") from error
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # no s3fs, no such protocol
        raise UsageError(f"{url}: {error}") from error


def _asked(url: str, question: Any) -> Any:
    """An answer, or an InputError; that there is no such object passes."""
    try:
        return question()
    except FileNotFoundError:
        raise
    except Exception as error:  # each store's client has exceptions of its own
        raise InputError(f"{url}: cannot be reached: {error}") from error
