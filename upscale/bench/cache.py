"""Rows kept on disk, so that an interrupted benchmark resumes where it stopped.

One entry a picture and trial, written at once or not at all. Its name is a hash of all that the
result depends on: the picture's bytes, the trial, the weights' sha256, the libraries' versions and
diffsr's own source. Whatever changes, the entry is simply not found.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from upscale import atomic
from upscale.errors import DiskFull, OutputError

Row = dict[str, Any]
_IDLE = {"cli", "train", "humaneval"}  # rooms whose source changes no number
_BENCH = {"crops", "protocol", "run", "score"}  # of this room, what does


@dataclass
class Measured:
    """A row, and what a row cannot hold: arrays by name (the cut shown in the report, features)."""

    row: Row
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Cache:
    """Entries in `folder`; None keeps nothing."""

    folder: Path | None

    def key(self, **parts: Any) -> str:
        """The name of what depends on `parts` (JSON-able) and on this installation."""
        text = json.dumps({**parts, "code": _code()}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str) -> Measured | None:
        """None if there is no whole entry of that name."""
        if self.folder is None:
            return None
        try:
            content = io.BytesIO(self._path(key).read_bytes())  # numpy leaves a bad file open
            with np.load(content, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return Measured(json.loads(arrays.pop("row").tobytes()), arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None  # a damaged entry is measured again

    def put(self, key: str, measured: Measured) -> None:
        """A cache that cannot be written (a full disk, a read-only home) is no reason to stop."""
        if self.folder is None:
            return
        row = np.frombuffer(json.dumps(measured.row).encode(), np.uint8)
        with (
            suppress(OutputError, DiskFull),
            atomic.placed(self._path(key), overwrite=True) as file,
        ):
            np.savez_compressed(file, row=row, **measured.arrays)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.npz"


@functools.cache
def _code() -> str:
    """A hash of the source that decides what a number is, and of the numbers beside it."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for kind in ("*.py", "*.npz") for path in package.rglob(kind)):
        parts = path.relative_to(package).parts
        if parts[0] in _IDLE or (parts[0] == "bench" and path.stem not in _BENCH):
            continue
        digest.update("/".join(parts).encode() + path.read_bytes())
    return digest.hexdigest()
