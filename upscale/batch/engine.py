"""Reading, enlarging and writing of many pictures at the same time, in bounded memory."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from upscale.batch import job as work
from upscale.batch import reading
from upscale.batch.job import Job, Ticket
from upscale.batch.names import Item
from upscale.batch.workers import Task, Workers
from upscale.errors import TimedOut
from upscale.pipeline.request import asked, checked

BATCH = "Batches"  # the section of the help page
AHEAD_PIXELS = 20_000_000  # decoded and waiting: above it no further picture is read
LARGE_PIXELS = 20_000_000  # of an output: it is written before the next picture is begun
_LAST_WORDS = 30.0  # seconds that the writers get to clean up when all is broken off

# called as the network goes on: on_step(input's name, done, all)
OnStep = Callable[[str, int, int], None]


def patience(pixels: int) -> float:
    """Seconds that reading or writing so many pixels may take where no --timeout is given. It is
    for decoders and drives that never come back: the slowest that were measured take a tenth."""
    return 120 + pixels / 50_000


class BrokenOff(BaseException):
    """Ends the work in a thread; no fault of the picture's."""


@dataclass(frozen=True)
class Pace:
    """How many pictures are worked on, and how long. Raises UsageError for values out of bounds.

    timeout: of work; None leaves the network its time, and reading and writing `patience` each.
    """

    jobs: int = asked(
        2,
        "Threads that read pictures ahead, and as many that write them. 0: read, enlarge and write "
        "in turn.",
        group=BATCH, expert=True, least=0, most=256, metavar="N",
    )  # fmt: skip
    batch: int = asked(
        1,
        "Pictures per network call, which is faster for small ones. The last bits of a result may "
        "then depend on its neighbours.",
        group=BATCH, expert=True, least=1, most=256, metavar="N",
    )  # fmt: skip
    timeout: float | None = asked(
        None,
        "Give up a picture after this time.",
        group=BATCH, expert=True, above=0, metavar="SECONDS",
        shown="in batches 2 minutes and 20 s per million pixels to read or write it",
    )  # fmt: skip

    def __post_init__(self) -> None:
        checked(self)


class Engine:
    """Does items in their order. `drain` lets it begin no more; closing the iterator breaks off,
    and so does `break_off` from another thread."""

    def __init__(self, job: Job, pace: Pace, on_step: OnStep | None = None) -> None:
        self.job, self.pace = job, pace
        self.on_step = on_step or (lambda name, done, of: None)
        self._draining = self._broken = False
        self._readers = Workers(pace.jobs, "diffsr-read")
        self._writers = Workers(pace.jobs, "diffsr-write")
        self._gang = Workers(pace.batch if pace.batch > 1 else 0, "diffsr-network")
        self._members: list[Task] = []  # pictures in the network together
        self._reading: deque[tuple[Ticket, Task]] = deque()  # not yet enlarged
        self._enlarging: list[Ticket] = []
        self._writing: deque[Ticket] = deque()  # enlarged, not yet yielded

    def drain(self) -> None:
        """Finish what is begun, and begin nothing more."""
        self._draining = True

    def break_off(self) -> None:
        """End at the next call of the network, or before a file gets its name: `run` then raises
        BrokenOff in its thread."""
        self._broken = True

    def untold(self) -> list[Ticket]:
        """Once `run` was broken off: the tickets that have or may have files, in order; of the
        last that was yielded nobody knows whether it was taken."""
        return [*self._writing, *self._enlarging]

    def run(self, items: Iterable[Item]) -> Iterator[Ticket]:
        """Tickets with `record` or `error`, in the order of the items."""
        coming = iter(items)
        try:
            while True:
                self._read_ahead(coming)
                if not self._reading:
                    break
                group = [
                    self._reading.popleft() for _ in range(min(self.pace.batch, len(self._reading)))
                ]
                for ticket, task in group:
                    self._finish_reading(ticket, task)
                self._enlarging = [ticket for ticket, _ in group]
                self._enlarge(self._enlarging)
                self._writing.extend(self._enlarging)
                self._enlarging = []
                del group, ticket, task  # a yield may last
                yield from self._written()
            yield from self._written(every=True)
        finally:
            self._broken = True
            self._end()

    # --- phases ---------------------------------------------------------------------------------

    def _read_ahead(self, coming: Iterator[Item]) -> None:
        ahead = self.pace.batch + (self.pace.jobs if self.pace.jobs else 0)
        while len(self._reading) < ahead and not self._draining:
            pictures = (ticket.picture for ticket, _ in self._reading)
            waiting = sum(p.size[0] * p.size[1] for p in pictures if p is not None)
            if self._reading and waiting > AHEAD_PIXELS:
                return
            item = next(coming, None)
            if item is None:
                return
            ticket = Ticket(item)
            ticket.check = self._guard(ticket)
            task = self._readers.submit(lambda ticket=ticket: reading.prepare(self.job, ticket))
            self._reading.append((ticket, task))
            del ticket

    def _finish_reading(self, ticket: Ticket, task: Task) -> None:
        with _account(ticket):
            self._wait(task, ticket, self._readers, "reading")
            if ticket.picture is not None:
                work.plan(self.job, ticket)
                ticket.pixels = math.prod(ticket.plan.size_out)
                ticket.limit = self.pace.timeout or patience(ticket.pixels)
            elif self.job.sheet:
                self.job.sheet.again(ticket)

    def _enlarge(self, tickets: list[Ticket]) -> None:
        """Those that are to be enlarged, as many at a time as memory is planned for."""
        ready = [t for t in tickets if t.picture is not None and t.error is None]
        while ready:
            fitting = ready[: self._fitting(ready) if len(ready) > 1 else 1]
            ready = ready[len(fitting) :]
            if len(fitting) == 1:
                self._enlarge_one(fitting[0])
            else:
                self._enlarge_together(fitting)
            for ticket in fitting:
                if ticket.last and ticket.plan.size_out[0] * ticket.plan.size_out[1] > LARGE_PIXELS:
                    self._finish_writing(ticket)

    def _enlarge_one(self, ticket: Ticket, call: Callable[..., Any] | None = None) -> None:
        name = ticket.item.source.name
        begun = time.monotonic()
        left = None if self.pace.timeout is None else self.pace.timeout - ticket.seconds
        guard = self._guard(ticket)

        def check() -> None:
            guard()
            if left is not None and time.monotonic() - begun > left:
                raise self._late(ticket, "enlarging")

        def step(done: int, of: int) -> None:
            check()
            self.on_step(name, done, of)

        def watched(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
            check()
            return call(function, *args, **named) if call else function(*args, **named)

        def submit(function: Callable[[], Any]) -> Task:
            ticket.tasks.append(self._writers.submit(function))
            return ticket.tasks[-1]

        ticket.check = check  # between rows as well, for a resize has neither steps nor calls
        with _account(ticket):
            try:
                work.enlarge(self.job, ticket, submit, step, watched)
            except TimeoutError:
                raise self._late(ticket, "writing") from None
            finally:
                ticket.check = guard  # a writer may wait for others

    def _enlarge_together(self, tickets: list[Ticket]) -> None:
        from upscale.batch.lockstep import Lockstep

        together = Lockstep(len(tickets))

        def member(number: int, ticket: Ticket) -> None:
            try:
                self._enlarge_one(ticket, together.caller(number))
            except BrokenOff:
                pass
            finally:
                together.leave()

        self._members = [
            self._gang.submit(lambda n=n, ticket=ticket: member(n, ticket))
            for n, ticket in enumerate(tickets)
        ]
        for task in self._members:
            task.result()

    def _fitting(self, tickets: list[Ticket]) -> int:
        """How many of the first can be enlarged at the same time, by what is planned for each."""
        from upscale.machine import available_memory, pick_device

        budget = available_memory(pick_device(self.job.setup.device)) // 2
        sums = itertools.accumulate(ticket.plan.memory for ticket in tickets)
        return max(1, sum(total <= budget for total in sums))

    def _written(self, every: bool = False) -> Iterator[Ticket]:
        """The oldest pictures, as far as they are written; or until few are waiting, or none."""
        most = 0 if every or not self.pace.jobs else self.pace.batch + self.pace.jobs
        while self._writing:
            oldest = self._writing[0]
            if len(self._writing) <= most and oldest.last and not oldest.last.over:
                return
            self._finish_writing(oldest)
            yield oldest
            self._writing.popleft()

    def _finish_writing(self, ticket: Ticket) -> None:
        if ticket.last is not None and ticket.record is None and ticket.error is None:
            with _account(ticket):
                for task in ticket.tasks:
                    self._wait(task, ticket, self._writers, "writing")

    # --- time -----------------------------------------------------------------------------------

    def _wait(self, task: Task, ticket: Ticket, workers: Workers, doing: str) -> None:
        waited = -1.0
        while (limit := self._limit(ticket)) > waited:  # it grows once a header is read
            try:
                task.result(limit)
                return
            except TimeoutError:
                if task.over:  # an error of the work itself
                    raise
                waited = limit
        workers.replace_one()
        raise self._late(ticket, doing) from None

    def _limit(self, ticket: Ticket) -> float:
        """Seconds that what is done of a ticket now may take."""
        if self.pace.timeout is not None:
            return max(0.0, self.pace.timeout - ticket.seconds)
        return patience(ticket.pixels)

    def _late(self, ticket: Ticket, doing: str) -> TimedOut:
        ticket.error = TimedOut(
            f"{ticket.item.source.name}: not done within "
            f"{self.pace.timeout or patience(ticket.pixels):g} s ({doing}); "
            "give it more with --timeout, or take it out"
        )
        return ticket.error

    def _guard(self, ticket: Ticket) -> Callable[[], None]:
        """What the writer asks before it gives a file its name."""

        def check() -> None:
            if self._broken:
                raise BrokenOff
            if ticket.error is not None:  # it took too long, and has its error already
                raise ticket.error

        return check

    def _end(self) -> None:
        """No thread is left with a half-written file: what is being written sees `_broken`."""
        for workers in (self._readers, self._writers, self._gang):
            workers.end()
        until = time.monotonic() + _LAST_WORDS
        tickets = [*self._enlarging, *self._writing]
        begun = [task for ticket in tickets for task in ticket.tasks if task.begun]
        for task in self._members + begun:
            while not task.over and time.monotonic() < until:
                time.sleep(0.01)


@contextmanager
def _account(ticket: Ticket) -> Iterator[None]:
    """What goes wrong within is the ticket's. Interruptions pass."""
    try:
        yield
    except Exception as error:
        ticket.error = error
        ticket.picture = None
