"""The pictures of the page: uploaded, enlarged one after the other in one thread, saved."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscale.atomic import placed
from upscale.batch.engine import BrokenOff, Engine, Pace
from upscale.batch.job import Job
from upscale.batch.names import Source, naming_of, plan
from upscale.document import duration
from upscale.errors import DiffsrError, OutputError, UsageError
from upscale.image.decode import orientation_of, size_of
from upscale.pipeline.request import Setup
from upscale.ui.entry import (
    CANCELLED,
    DONE,
    FAILED,
    WAITING,
    WORKING,
    Entry,
    check_size,
    named,
    told,
)
from upscale.ui.wishes import Wish

if TYPE_CHECKING:
    from upscale.pipeline.upscaler import Upscaler

_LAST_WORDS = 10.0  # seconds that the thread gets to end its step
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")
_NAME_BYTES = 200  # of an upload; results add to it
_ONE_BY_ONE = Pace(jobs=0)


class Pictures:
    """All that the page shows, for several tabs; safe to call from several threads.

    folder: for uploads and results until they are saved, of our own. output: where they are saved.
    make: an upscaler, of which there is one at a time. explain: any exception as one of ours.
    """

    def __init__(
        self,
        folder: Path,
        output: Path,
        make: Callable[[Setup], Upscaler],
        explain: Callable[[Exception], DiffsrError],
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.output, self.say = folder, output, say
        self._make, self._explain = make, explain
        self._entries: dict[int, Entry] = {}
        self._changed = threading.Condition(threading.RLock())
        self._saving = threading.Lock()
        self._change = self._last = 0
        self._engine: Engine | None = None
        self._upscaler: tuple[Setup, Upscaler] | None = None
        self._rates: dict[Any, float] = {}  # seconds per pixel of a result, by what it was made
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="diffsr-ui", daemon=True)
        self._thread.start()

    # --- what the page does ---------------------------------------------------------------------

    def place(self, name: str) -> Path:
        """Where an upload of that name is to be written, in a folder of its own."""
        with self._changed:
            self._last += 1
            number = self._last
        clean = _UNSAFE.sub("_", name.encode(errors="replace").decode()).strip() or "picture"
        if clean in (".", "..") or len(clean.encode()) > _NAME_BYTES:
            suffix = Path(clean).suffix  # it may tell the format
            clean = f"picture{suffix}" if len(suffix) < 8 else "picture"
        folder = self.folder / str(number)
        folder.mkdir()
        return folder / clean

    def add(self, path: Path, wish: Wish) -> Entry:
        """A picture that is uploaded: `path` is from `place`."""
        size = None
        with suppress(DiffsrError):  # why it cannot be read is said when it is its turn
            size = size_of(path)
            size = size[::-1] if orientation_of(path) > 4 else size
        with self._changed:
            entry = Entry(int(path.parent.name), path.name, path, size, wish)
            self._entries[entry.number] = entry
            self._touch(entry)
        return entry

    def start(self, numbers: Iterable[int], wish: Wish) -> list[int]:
        """Put pictures into the queue; one that has a result gets another line for the new one.
        Returns the numbers of the lines. Raises UsageError."""
        naming_of(wish.request, wish.files)  # a wrong format
        begun = []
        with self._changed:
            for entry in map(self._found, numbers):
                if entry.state in (WAITING, WORKING):
                    continue
                if entry.state == DONE:
                    self._last += 1
                    entry = Entry(self._last, entry.name, entry.source, entry.size, wish)
                    (self.folder / str(entry.number)).mkdir()
                    self._entries[entry.number] = entry
                entry.wish, entry.state, entry.error = wish, WAITING, None
                entry.done = entry.of = 0
                self._touch(entry)
                begun.append(entry.number)
            self._changed.notify_all()
        return begun

    def cancel(self, numbers: Iterable[int]) -> None:
        """Those that wait are not begun, and the one that is worked on ends within a step."""
        with self._changed:
            for entry in map(self._found, numbers):
                if entry.state == WAITING:
                    entry.state = CANCELLED
                    self._touch(entry)
                elif entry.state == WORKING and self._engine:
                    self._engine.break_off()

    def remove(self, numbers: Iterable[int]) -> None:
        """Take lines out of the list; what was saved stays. Raises UsageError."""
        with self._changed:
            found = [self._found(number) for number in dict.fromkeys(numbers)]
            gone = [entry for entry in found if entry.state != WORKING]
            for entry in gone:
                del self._entries[entry.number]
            kept = {one.source.parent for one in self._entries.values()}
            self._change += 1
        for entry in gone:
            for folder in {entry.source.parent, self._own(entry)} - kept:
                shutil.rmtree(folder, ignore_errors=True)
            if entry.result:
                shutil.rmtree(entry.result.parent, ignore_errors=True)

    def save(self, numbers: Iterable[int]) -> list[Path]:
        """Copy results into the output folder, each under the first name that is free. Returns
        where they are. Raises OutputError, DiskFull."""
        with self._saving:
            made = [entry for entry in map(self.found, numbers) if entry.state == DONE]
            for entry in made:
                if entry.saved is None or not entry.saved.exists():
                    saved = self._saved(entry)
                    self.say(f"saved {saved}")
                    with self._changed:
                        entry.saved = saved
                        self._touch(entry)
        return [entry.saved for entry in made if entry.saved]

    def found(self, number: int) -> Entry:
        """Raises UsageError where there is none."""
        with self._changed:
            return self._found(number)

    def state(self, since: int = 0) -> dict[str, Any]:
        """What the page shows; of the lines, those that were changed after the change `since`."""
        with self._changed:
            entries = list(self._entries.values())
            return {
                "change": self._change,
                "output": str(self.output),
                "numbers": [entry.number for entry in entries],
                "entries": [told(one, self.output) for one in entries if one.change > since],
                "left": self._left(entries),
            }

    def unsaved(self) -> int:
        """How many results would be lost with the folder."""
        with self._changed:
            return sum(one.state == DONE and one.saved is None for one in self._entries.values())

    def close(self) -> None:
        """End the thread, which breaks off what it does."""
        with self._changed:
            self._closed = True
            if self._engine:
                self._engine.break_off()
            self._changed.notify_all()
        self._thread.join(_LAST_WORDS)

    # --- within the lock ------------------------------------------------------------------------

    def _found(self, number: int) -> Entry:
        if number not in self._entries:
            raise UsageError("this picture is no longer in the list")
        return self._entries[number]

    def _own(self, entry: Entry) -> Path:
        return self.folder / str(entry.number)

    def _touch(self, entry: Entry) -> None:
        self._change += 1
        entry.change = self._change

    def _saved(self, entry: Entry) -> Path:
        """The result's copy in the output folder; one of the same bytes there counts as such."""
        assert entry.result is not None
        number = 1
        while True:
            target = self.output / named(entry, number)
            try:
                with (
                    open(entry.result, "rb") as result,
                    placed(target, overwrite=False, same=True) as file,
                ):
                    shutil.copyfileobj(result, file, 1 << 20)
                return target
            except OutputError:
                if not os.path.lexists(target):
                    raise
            number += 1

    def _left(self, entries: list[Entry]) -> str:
        """The time for all that waits, in words; empty where nobody knows it yet."""
        rate, seconds = next(reversed(self._rates.values()), None), 0.0
        for entry in entries:
            own = self._rates.get(entry.wish.kind, rate)
            if entry.state == WORKING:
                gone = time.monotonic() - entry.begun
                if own is None and entry.done:
                    rate = own = gone * entry.of / entry.done / entry.pixels
                seconds += max(0.0, entry.pixels * own - gone) if own else 0.0
            elif entry.state == WAITING:
                seconds += entry.pixels * own if own else 0.0
        return f"about {duration(seconds)} left" if seconds >= 0.5 else ""

    # --- the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            try:
                self._enlarge(entry)
                state, error = DONE, None
            except BrokenOff:
                state, error = CANCELLED, None
            except Exception as fault:
                state, error = FAILED, str(self._explain(fault))
                error = error.replace(str(entry.source), entry.name)
            with self._changed:
                entry.state, entry.error, self._engine = state, error, None
                self._touch(entry)
            self.say(error or f"{entry.name}: {state}")

    def _next(self) -> Entry | None:
        """The first that waits; None once all is closed."""
        with self._changed:
            while not self._closed:
                waiting = (one for one in self._entries.values() if one.state == WAITING)
                if entry := next(waiting, None):
                    entry.state, entry.begun = WORKING, time.monotonic()
                    self._engine = self._engine_of(entry)
                    self._touch(entry)
                    return entry
                self._changed.wait()
        return None

    def _engine_of(self, entry: Entry) -> Engine:
        wish = entry.wish
        job = Job(lambda: self._made(wish.setup), wish.setup, wish.request, wish.files)

        def step(name: str, done: int, of: int) -> None:
            with self._changed:
                entry.done, entry.of = done, of
                self._touch(entry)

        return Engine(job, _ONE_BY_ONE, step)

    def _enlarge(self, entry: Entry) -> None:
        """Raises what keeps a picture from being enlarged, or BrokenOff."""
        check_size(entry)
        folder = os.path.join(self._own(entry), "result", "")
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        naming = naming_of(entry.wish.request, entry.wish.files)
        (item,) = plan([Source(str(entry.source), Path(entry.name))], folder, naming, many=False)
        engine = self._engine
        assert engine is not None
        for ticket in engine.run([item]):
            if ticket.error:
                raise ticket.error
            with self._changed:
                entry.record, entry.result = ticket.record, Path(ticket.written[0])
                self._rates.pop(entry.wish.kind, None)  # the latest is last
                self._rates[entry.wish.kind] = entry.record["seconds"] / entry.pixels

    def _made(self, setup: Setup) -> Upscaler:
        """The one upscaler in memory; another takes its place."""
        if self._upscaler is None or self._upscaler[0] != setup:
            self._upscaler = None
            self._upscaler = setup, self._make(setup)
        return self._upscaler[1]
