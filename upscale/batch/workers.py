"""Threads that take work in turn; one that hangs is replaced, and none keeps the process alive.

`concurrent.futures` joins its threads when the process ends: a file on a dead network drive would
hold it for ever.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

# Seconds of one wait. A signal that comes just before a wait does not end it, so waits are short.
_POLL = 0.05


class Task:
    """A piece of work: `result` waits for it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._over = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self.begun: float | None = None  # on time.monotonic's clock

    def run(self) -> None:
        self.begun = time.monotonic()
        try:
            self._value = self._function()
        except BaseException as error:  # raised where it is waited for
            self._error = error
        self._function = None  # and what it held
        self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def result(self, seconds: float | None = None) -> Any:
        """What the function returned or raised. TimeoutError `seconds` after it began."""
        while not self._over.wait(_POLL):
            if seconds is None or self.begun is None:
                continue
            if time.monotonic() >= self.begun + seconds:
                raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._value


class Workers:
    """`count` threads; with 0 the work is done where it is submitted."""

    def __init__(self, count: int, name: str) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._count, self._name = count, name
        for _ in range(count):
            self._start()

    def submit(self, function: Callable[[], Any]) -> Task:
        task = Task(function)
        if self._count:
            self._tasks.put(task)
        else:
            task.run()
        return task

    def replace_one(self) -> None:
        """A thread hangs: another takes its place."""
        self._count += 1
        self._start()

    def end(self) -> None:
        """Each thread ends after the work it has; nothing is waited for."""
        for _ in range(self._count):
            self._tasks.put(None)

    def _start(self) -> None:
        threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
            del task  # or its picture is kept until the next one comes
