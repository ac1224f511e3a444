"""`--sheet`: pictures before and after, beside each other, where the two differ most."""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscale import __version__, atomic, document
from upscale.batch import names
from upscale.batch.files import Files
from upscale.batch.names import Item
from upscale.batch.remote import is_url
from upscale.batch.shard import Shard
from upscale.batch.shown import HTML, Shown, drawn, page
from upscale.errors import DiffsrError, InputError, OutputError, TimedOut, UsageError
from upscale.methods import enlarging
from upscale.pipeline.request import Setup

if TYPE_CHECKING:
    import numpy as np

    from upscale.batch.job import Job, Ticket
    from upscale.image.crops import Cuts, Places
    from upscale.image.picture import Picture
    from upscale.pipeline.upscaler import Upscaler

Make = Callable[[Setup], "Upscaler"]

SIDE = 256  # pixels of a cut
ALONE = 4  # cuts of a picture that has the sheet for itself
MOST = 60  # pictures on a sheet
VARIANTS = 6  # of one picture
LARGEST = 50_000_000  # pixels of a result that is read again for the sheet
INPUT = ("nearest neighbour", "bicubic")


@dataclass
class Sheet:
    """Collects cuts while a batch goes on; of more than MOST pictures it keeps those whose results
    differ most from plain enlargement. beside: methods that are shown besides the first; make
    their upscalers. For several threads."""

    path: Path
    job: Job
    items: Sequence[Item]
    first: str
    beside: Sequence[str]
    make: Make
    _kept: list[tuple[float, int, Shown]] = field(default_factory=list)
    _upscalers: dict[str, Upscaler] = field(default_factory=dict)
    seen: int = 0  # pictures that were shown to it
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, ticket: Ticket) -> Look:
        """At a picture that is about to be enlarged."""
        assert ticket.picture is not None and ticket.plan is not None
        return Look(self, ticket.item, ticket.picture, ticket.plan.size_out, self.places)

    @property
    def places(self) -> int:
        """Of each picture."""
        return ALONE if len(self.items) == 1 else 1

    def again(self, ticket: Ticket) -> None:
        """Show a picture that was done before, from its files; `record` gets a note if not."""
        from upscale.image.decode import read, size_of

        item, files = ticket.item, self.job.files
        assert ticket.record is not None
        try:
            paths = [path for path in item.outputs if isinstance(path, Path)][:VARIANTS]
            if not paths:
                raise InputError("the result is no local file")
            size = size_of(paths[0])
            if size[0] * size[1] > LARGEST:
                raise InputError("the result is too large to be read again")
            look = Look(self, item, read(item.source.open(), **files.reading), size, self.places)
            for path in paths:
                look.taker()(read(path, frames="first", max_pixels=LARGEST))
            notes = look.finish([{}] * len(paths), lambda done, of: None)
        except (DiffsrError, OSError, ValueError) as error:
            notes = [f"not on {self.path}: {error}"]
        ticket.record["notes"] = [*ticket.record.get("notes", []), *notes]

    def keep(self, shown: Shown) -> None:
        with self._lock:
            self.seen += 1
            entry = (shown.difference, self.seen, shown)
            if len(self._kept) < MOST:
                heapq.heappush(self._kept, entry)
            else:
                heapq.heappushpop(self._kept, entry)

    def upscaler(self, method: str) -> Upscaler:
        """That of another method. Raises UsageError, WeightsError."""
        with self._lock:
            if method not in self._upscalers:
                setup = replace(self.job.setup, method=method)
                self._upscalers[method] = self.make(setup)
            return self._upscalers[method]

    def write(self) -> str:
        """Put the sheet in its place, once all is done; returns what is on it, in words. Without
        any picture there is no file. Raises OutputError, DiskFull."""
        shown = self._in_order()
        if not shown:
            return f"{self.path}: no picture was made, so there is no sheet"
        over = self.job.files.overwrite
        what = self._what(len(shown))
        if self.path.suffix.lower() in HTML:
            with atomic.placed(self.path, overwrite=over) as file:
                file.write(page(shown, what).encode())
        else:
            from upscale.image.encode import write

            text = f"diffsr {__version__}; before and after"
            write(drawn(shown), self.path, overwrite=over, comment=text)
        return f"{self.path}: {what}"

    def _in_order(self) -> list[Shown]:
        place = {item.source.name: number for number, item in enumerate(self.items)}
        return sorted((one for *_, one in self._kept), key=lambda one: place[one.name])

    def _what(self, count: int) -> str:
        if count == self.seen:
            return document.counted(count, "picture")
        return f"the {count} of {self.seen} pictures that differ most from plain enlargement"


@dataclass
class Look:
    """A picture on its way to the sheet: `taker` for each variant, then `finish`."""

    sheet: Sheet
    item: Item
    picture: Picture
    size: tuple[int, int]
    count: int
    _takers: list[Any] = field(default_factory=list)

    def taker(self) -> Callable[[Picture], None]:
        """What takes the next variant of the result, in bands of rows from the top."""
        from upscale.image.crops import Cuts, Places

        made: Places | Cuts
        if not self._takers:
            made = Places(self.picture, self.size, SIDE, self.count)
        elif len(self._takers) < VARIANTS:
            made = Cuts(self._windows)
        else:
            return lambda band: None
        self._takers.append(made)
        return made.add

    @property
    def _windows(self) -> list[tuple[slice, slice]]:
        return [place.window for place in self._takers[0].found]

    def finish(
        self, reports: Sequence[dict[str, Any]], on_step: Callable[[int, int], None]
    ) -> list[str]:
        """Enlarge by the other methods, and put all on the sheet; returns notes. reports: of each
        variant. Raises TimedOut."""
        from upscale.image.crops import enlarged

        places, windows, notes = self._takers[0].found, self._windows, []
        columns: list[Sequence[np.ndarray | None]]
        columns = [[enlarged(self.picture, self.size, window, nearest=nearest)
                    for window in windows] for nearest in (True, False)]  # fmt: skip
        heads = [(name, "the input") for name in INPUT]
        columns.append([place.cut for place in places])
        columns += [other.found for other in self._takers[1:]]
        many = len(self._takers) > 1
        for number, report in enumerate(reports[: len(self._takers)], 1):
            title = self.sheet.first + (f", variant {number}" if many else "")
            heads.append((title, _remark(report)))
        for method in self.sheet.beside:
            try:
                cuts, report = self._by(method, on_step)
            except TimedOut:
                raise
            except DiffsrError as error:
                notes.append(f"{method} is not on {self.sheet.path}: {error}")
                cuts, report = [], {"weights": "not made"}
            columns.append(cuts or [None] * len(windows))
            heads.append((method, _remark(report)))
        cells = list(zip(*columns, strict=True))
        self.sheet.keep(self._shown(heads, cells))
        return notes

    def _by(
        self, method: str, on_step: Callable[[int, int], None]
    ) -> tuple[list[np.ndarray], dict[str, Any]]:
        """What another method has at the places, and its report."""
        from upscale.image.crops import Cuts

        upscaler, cuts = self.sheet.upscaler(method), Cuts(self._windows)
        plan = upscaler.plan(self.picture, self.sheet.job.request)
        if plan.size_out != self.size:
            raise UsageError("it would be of another size")
        made = upscaler.run(
            plan, self.picture, on_step=on_step, on_rows=lambda band, report: cuts.add(band)
        )
        return cuts.found, made.report

    def _shown(
        self, heads: list[tuple[str, str]], cells: list[tuple[np.ndarray | None, ...]]
    ) -> Shown:
        places = self._takers[0].found
        (h, w), (height, width) = self.picture.size, self.size
        where = [f"at {p.window[1].start}, {p.window[0].start}" for p in places]
        return Shown(
            self.item.source.name, f"{w}x{h} to {width}x{height}", heads,
            list(zip(where, cells, strict=True)), places[0].difference,
        )  # fmt: skip


def methods_of(
    method: str | Sequence[str] | None, weights: str | None, files: Files
) -> tuple[str | None, tuple[str, ...]]:
    """The method that makes the files, then those that are only shown on the sheet. Raises
    UsageError for several where there is no sheet, or where weights are named, and for names of
    which there is no method."""
    several = tuple(method.replace(" ", "").split(",") if isinstance(method, str) else method or ())
    if len(several) < 2:
        return (several[0] if several else None), ()
    for name in several:
        enlarging(name)
    named = ",".join(several)
    if not files.sheet:
        raise UsageError(
            f"--method {named}: the files are made by one method; several are compared on a sheet: "
            "add --sheet compared.html"
        )
    if weights:
        raise UsageError(f"--method {named} compares methods: leave --weights out")
    return several[0], several[1:]


def begin(
    job: Job, items: Sequence[Item], beside: Sequence[str], make: Make,
    *, shard: Shard | None = None, resumed: bool = False, dry: bool = False,
) -> Sheet | None:  # fmt: skip
    """The sheet of a batch; None where one is there already that is not to be made again. Looks
    whether it can be written. Raises UsageError, OutputError."""
    assert job.files.sheet is not None
    path = Path(job.files.sheet)
    if is_url(job.files.sheet):
        raise UsageError(f"--sheet {path}: a sheet is written to a local file")
    if shard:
        path = path.with_stem(f"{path.stem}_{shard.index}of{shard.count}")
    names.check_other(path, items)
    if path.is_dir():
        raise OutputError(f"{path}: a folder; name a file for the sheet")
    if os.path.lexists(path) and not job.files.overwrite:
        if job.files.skip_existing or resumed:
            return None
        raise OutputError(f"{path}: exists; give --overwrite or another --sheet")
    if not dry:
        names.prepare(str(path), many=False)
    first = job.setup.method or "diffsr"
    return Sheet(path, job, items, first, beside, make)


def _remark(report: dict[str, Any]) -> str:
    """What made a picture, and how long it took."""
    if not report:
        return "done before"
    took = document.duration(report["seconds"]) if "seconds" in report else ""
    return ", ".join(part for part in (report.get("weights"), took) if part)
