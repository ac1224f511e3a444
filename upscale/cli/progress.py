"""Progress, notes and errors on standard error, and results on standard output."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def on_terminal() -> bool:
    """Whether a bar can be drawn on stderr."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Reporter:
    """Shows a bar on a terminal, lines elsewhere, only errors if `quiet`. A context manager.

    total: the number of pieces of work, which have a bar of their own if several. unit: their name.
    """

    def __init__(
        self, total: int = 1, *, quiet: bool = False, verbose: bool = False, unit: str = "pictures"
    ) -> None:
        self.quiet, self.verbose, self.total, self.unit = quiet, verbose, total, unit
        self.live: Progress | None = None
        self._batch = self._work = self._fetch = None
        self._pictures: dict[str, TaskID] = {}  # those that are being enlarged

    def __enter__(self) -> Reporter:
        if not self.quiet and on_terminal():
            self.live = _bars()
            self.live.start()
            if self.total > 1:
                self._batch = self.live.add_task(self.unit, total=self.total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.stop()
            self.live = None

    def begin(self, name: str) -> None:
        """A piece of work starts."""
        if self.live:
            self._work = self.live.add_task(_short(name), total=None)

    def step(self, done: int, of: int, name: str = "") -> None:
        """`done` of `of` parts of the piece of work, now called `name`, are finished."""
        if self.live and self._work is not None:
            called = {"description": _short(name)} if name else {}
            self.live.update(self._work, completed=done, total=of, **called)

    def picture(self, name: str, done: int, of: int) -> None:
        """`done` of `of` steps of one of several pictures are finished; for several threads."""
        if self.live:
            if name not in self._pictures:
                self._pictures[name] = self.live.add_task(_short(name), total=of)
            self.live.update(self._pictures[name], completed=done, total=of)
            if done == of:
                self.live.remove_task(self._pictures.pop(name))

    def frame(self, name: str, kind: str, number: int, of: int) -> None:
        """A picture is at this one of its frames or pages."""
        if self.live:
            if name not in self._pictures:
                self._pictures[name] = self.live.add_task("", total=None)
            text = f"{_short(name)}: {kind} {number} of {of}"
            self.live.update(self._pictures[name], description=text)

    def end(self, name: str = "") -> None:
        """The piece of work is over, well or not."""
        if self.live and name in self._pictures:
            self.live.remove_task(self._pictures.pop(name))
        if self.live:
            if self._work is not None:
                self.live.remove_task(self._work)
                self._work = None
            if self._batch is not None:
                self.live.advance(self._batch)

    def remaining(self, text: str) -> None:
        """How long all pieces of work will take, where somebody knows it before the bar does."""
        if self.live and self._batch is not None:
            self.live.update(self._batch, left=text)

    def fetching(self, done: int, of: int | None) -> None:
        """`done` of `of` bytes of weights have come (None: the size is unknown)."""
        total = None if of is None else of >> 10
        if self._fetch is None:
            self._fetch = self.live.add_task("weights, KiB", total=total) if self.live else -1
            self.line(f"fetching weights{'' if total is None else f', {total} KiB'}")
        if self.live:
            self.live.update(self._fetch, completed=done >> 10, total=total)
        if done == of:
            if self.live:
                self.live.remove_task(self._fetch)
            self._fetch = None

    def line(self, text: str) -> None:
        """Print a line for a piece of work, where there is no bar."""
        if not self.quiet and (self.verbose or not self.live):
            self._stderr(text)

    def note(self, text: str) -> None:
        """Print what the user should know."""
        if not self.quiet:
            self._stderr(text)

    def detail(self, text: str) -> None:
        """Print what only --verbose shows."""
        if self.verbose:
            self._stderr(text)

    def error(self, text: str) -> None:
        self._stderr(f"Error: {text}", style="red")

    def plain(self, text: str) -> None:
        """Print a line that continues an error, even if quiet."""
        self._stderr(text)

    def result(self, text: str) -> None:
        """Print a line on standard output, in the file system's encoding."""
        if self.live and sys.stdout.isatty():
            self._stderr(text)  # the same terminal: this keeps the bar out of the line
            return
        if sys.stdout.isatty():
            text = printable(text)
        stream = sys.stdout.buffer
        stream.write(os.fsencode(text + "\n"))
        stream.flush()

    def _stderr(self, text: str, style: str | None = None) -> None:
        text = printable(text)
        if self.live:
            self.live.console.print(
                text, style=style, markup=False, highlight=False, soft_wrap=True
            )
        else:
            click.echo(text, err=True)


def stopped(done: int, of: int, again: str) -> str:
    """What is said where Ctrl-C or SIGTERM ends work on several pictures; again: how to go on."""
    if of < 2:
        return ""
    return f"Interrupted: {done} of {of} pictures are done, {of - done} left. {again}"


# What would command a terminal, or turn the direction of a line: names of files may hold it.
_COMMANDS = (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F),
             *range(0x2066, 0x206A))  # fmt: skip
_ESCAPED = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _COMMANDS}


def printable(text: str) -> str:
    """Text that a terminal only shows: anything but line ends, tabs and characters is escaped."""
    return text.encode(errors="backslashreplace").decode().translate(_ESCAPED)


_LONGEST_NAME = 40
_ROOM_FOR_TIMES = 50  # columns of a terminal; with fewer, times leave nothing of the names


def _bars() -> Progress:
    from rich.console import Console, RenderableType
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Name(ProgressColumn):  # what gives way in a narrow terminal
        def render(self, task: Task) -> RenderableType:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> RenderableType:
            return Text(task.fields["left"]) if "left" in task.fields else super().render(task)

    whole = Column(no_wrap=True)
    console = Console(stderr=True)
    times = (TimeElapsedColumn(whole), Left(table_column=whole))
    return Progress(
        Name(),
        BarColumn(bar_width=None),
        MofNCompleteColumn(table_column=whole),
        *(times if console.width >= _ROOM_FOR_TIMES else ()),
        console=console,
        transient=True,
        redirect_stdout=False,  # it would send the results to stderr
        redirect_stderr=False,
    )


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]
