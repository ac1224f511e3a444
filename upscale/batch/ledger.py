"""What is done: a JSON line for every picture that was written or failed.

A line is complete in itself and says which bytes (sha256) became which files with which settings.
So ledgers may be cut, concatenated and read in any order: a picture is done if the last line that
names its result says so and the files are there. A line that cannot be read, as one that a crash
tore in two, is skipped; a file of which none can is not ours, and nothing is written into it.

Every line goes to the system at once, in one write at the end of the file: nothing is lost if the
process is killed, and several may write. It is forced onto the disk once a second: after a power
cut what was lost is done again, and found to be there already.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from upscale import atomic
from upscale.batch.files import Files
from upscale.batch.names import Item
from upscale.batch.remote import Remote
from upscale.errors import DiskFull, InputError, OutputError
from upscale.pipeline.request import Request, Setup

_SYNC_SECONDS = 1.0
_LONGEST = 1 << 24  # bytes of a line that is read
_NAMED = 20  # lines that cannot be read and are known by their numbers
_START = b'{"input": '  # of every line that was ever written
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Content:
    """What is in an input: its bytes' sha256, and the signs that they have not changed."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class _Done:
    """A line that says ok, as little of it as is needed: there may be millions."""

    content: Content
    settings: str
    files: tuple[tuple[int, str], ...]  # (size, sha256) of the outputs


class Ledger:
    """The lines of a file, which need not exist, and more to come. settings: `settings_hash`. dry:
    nothing is written.

    Raises InputError for a file that is no ledger, OutputError where none can be written.
    """

    def __init__(self, path: str | Path, settings: str, dry: bool = False) -> None:
        self.path, self.settings, self.dry = Path(path), settings, dry
        self.torn = 0  # lines that could not be read
        self.torn_at: list[int] = []  # the numbers of the first of them
        self._done: dict[bytes, _Done] = {}
        self._failed: set[bytes] = set()
        self._lock = threading.Lock()
        self._synced, self._file = 0.0, -1
        self._whole = self._load()  # whether the last line is ended
        if dry:
            return
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: the ledger cannot be written: {error.strerror}") from error

    # --- what is known ----------------------------------------------------------------------

    def failed(self, name: str) -> bool:
        """Whether the last line about this input is a failure."""
        return _key(name) in self._failed

    def done(self, item: Item, settings: str | None = None) -> bool:
        """Whether the item's outputs are there, made of the bytes the input has now with the same
        settings. An input whose size and time are those of the line is not read again, and
        outputs are compared by their size."""
        line = self._line(item)
        if line is None or line.settings != (settings or self.settings):
            return False
        try:
            sizes = [path.stat().st_size for path in item.files]
            if sizes != [size for size, _ in line.files]:
                return False
            if line.content.mtime_ns and item.source.data is None:
                status = os.stat(item.source.name)
                now = Content(line.content.sha256, status.st_size, status.st_mtime_ns)
                if now == line.content:
                    return True
            return content_of(item.source.open()).sha256 == line.content.sha256
        except OSError:
            return False

    def owns(self, item: Item) -> bool:
        """Whether the outputs that are there are what a line says was written, byte for byte: then
        they may be replaced by newer ones."""
        line = self._line(item)
        if line is None or len(line.files) != len(item.files):
            return False
        for path, (size, digest) in zip(item.files, line.files, strict=True):
            try:
                if path.stat().st_size != size or content_of(path).sha256 != digest:
                    return False
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def _line(self, item: Item) -> _Done | None:
        return self._done.get(_key(str(item.files[0]))) if item.files else None

    # --- writing --------------------------------------------------------------------------------

    def add(
        self, item_name: str, record: Mapping[str, Any], item: Item | None, content: Content | None
    ) -> None:
        """A line about one input. record: as for --json. For several threads."""
        if not self.dry:
            self.append(line_of(self.settings, item_name, record, item, content))

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a whole line, as `add` makes them. Raises OutputError, DiskFull."""
        data = (json.dumps(line) + "\n").encode()
        with self._lock:
            self._note(line)
            if not self._whole:
                data = b"\n" + data  # a line of its own
            try:
                written = os.write(self._file, data)
                if time.monotonic() - self._synced > _SYNC_SECONDS:
                    os.fsync(self._file)
                    self._synced = time.monotonic()
            except OSError as error:
                if not atomic.full(error):
                    raise OutputError(f"{self.path}: the ledger: {error.strerror}") from error
                written = 0
            if written:
                self._whole = written == len(data)
        if written < len(data):
            raise DiskFull(f"{self.path}: no space left for the ledger; free some disk space")

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                with suppress(OSError):  # a full disk: the lines themselves are written
                    os.fsync(self._file)
                os.close(self._file)
                self._file = -1

    # --- reading --------------------------------------------------------------------------------

    def _load(self) -> bool:
        """Take in what is there; False if the last line is not ended."""
        last, number = b"\n", 0
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # a pipe or a device has no end
                raise InputError(f"{self.path} is not a file, and so no ledger: name another")
            with open(self.path, "rb") as file:
                for number, last in enumerate(_lines(file), 1):
                    if last.strip():
                        self._take(number, last)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise InputError(f"{self.path}: the ledger cannot be read: {error.strerror}") from error
        # one line alone may be the first, torn in two
        torn = number == 1 and (last.startswith(_START) or _START.startswith(last))
        if self.torn and not (self._done or self._failed or (torn and last[-1:] != b"\n")):
            raise InputError(
                f"{self.path} is not a ledger: no line is an object with an input and a "
                "status; --resume writes into the file that it names, so name another"
            )
        return last.endswith(b"\n")

    def _take(self, number: int, raw: bytes) -> None:
        try:
            line = json.loads(raw)
            if "settings" not in line:  # as in what --json says of pictures
                raise ValueError(raw)
            self._note(line)
        except _UNREADABLE:
            self.torn += 1
            if len(self.torn_at) < _NAMED:
                self.torn_at.append(number)

    def _note(self, line: Mapping[str, Any]) -> None:
        status, input_key = line["status"], _key(line["input"])
        if status == "ok":
            files = tuple((out["size"], out["sha256"]) for out in line["outputs"])
            content = Content(line["sha256"], line["size"], line["mtime_ns"])
            self._done[_key(line["outputs"][0]["path"])] = _Done(content, line["settings"], files)
            self._failed.discard(input_key)
        elif status == "failed":
            self._failed.add(input_key)
        else:
            raise ValueError(status)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Those of a file, with their ends; of longer ones than `_LONGEST` only the beginning."""
    while line := file.readline(_LONGEST):
        rest = line
        while len(rest) == _LONGEST and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST)
        yield line if rest is line else line[:-1] + rest[-1:]


def line_of(
    settings: str,
    name: str,
    record: Mapping[str, Any],
    item: Item | None = None,
    content: Content | None = None,
) -> dict[str, Any]:
    """A line about the input of that name. record: as for --json."""
    line: dict[str, Any] = {"input": name, "status": record["status"]}
    line |= {"settings": settings, "time": round(time.time(), 3)}
    if content:
        line |= {"sha256": content.sha256, "size": content.size, "mtime_ns": content.mtime_ns}
    if record["status"] == "ok" and item:
        made = [(path, content_of(path)) for path in item.files]
        line["outputs"] = [
            {"path": str(path), "size": found.size, "sha256": found.sha256} for path, found in made
        ]
    kept = ("seconds", "weights", "weights_sha256", "error", "kind", "code")
    return line | {key: record[key] for key in kept if record.get(key) is not None}


# what no result depends on: where and when it is made, and which files are left alone
_APART = {
    "weights", "device", "offline", "compile", "overwrite", "skip_existing", "max_pixels",
    "preserve_times", "sheet",
}  # fmt: skip


def settings_of(setup: Setup, request: Request, files: Files, batch: int = 1) -> str:
    """The hash of everything that the results depend on; of the weights it is their bytes.

    Ledgers outlive versions of this program: a field that is added later must leave the hash as it
    is while it has its default. Raises UsageError, WeightsError.
    """
    from upscale.weights import choice

    made_by = choice.hashes(
        setup.method,
        setup.weights,
        request.scale,
        setup.domain,
        setup.input,
        setup.offline,
        request.denoise is not None,
    )
    if request.faces:
        made_by += choice.hashes(None, None, None, "face", "clean", setup.offline)
    values = asdict(setup) | asdict(request) | asdict(files) | {"batch": batch}
    known = {name: value for name, value in values.items() if name not in _APART}
    for name in ("denoise", "faces", "same_noise"):  # which came later
        if known[name] is None or known[name] is False:
            del known[name]
    return settings_hash(known | {"made by": made_by})


def settings_hash(settings: Mapping[str, Any]) -> str:
    """The same for the same settings, in whatever order; 16 hex digits."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_of(source: str | Path | Remote | BinaryIO) -> Content:
    """The content of a path, or of a stream, which is left where it stood. Raises OSError."""
    if isinstance(source, Remote):
        return content_of(io.BytesIO(source.read_bytes()))
    if isinstance(source, (str, Path)):
        with open(source, "rb") as file:
            return content_of(file)
    before, digest, size = source.tell(), hashlib.sha256(), 0
    while block := source.read(1 << 20):
        digest.update(block)
        size += len(block)
    source.seek(before)
    try:
        mtime_ns = os.fstat(source.fileno()).st_mtime_ns
    except (OSError, AttributeError):
        mtime_ns = 0  # not a file
    return Content(digest.hexdigest(), size, mtime_ns)


def _key(text: str) -> bytes:
    """Short, for a dictionary of millions. A name that no file can have may have failed, too."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=12).digest()
