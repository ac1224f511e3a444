"""The signals that end the work in good order: Ctrl-C, `kill` and a terminal that is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_IMPORTER = "<frozen importlib._bootstrap>"
_LONGEST_IMPORT, _SOON = 20.0, 0.05  # seconds that an interruption waits in all, and at a time


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a shell knows by another exit code than Ctrl-C."""

    number = signal.SIGTERM


class HungUp(Terminated):
    """SIGHUP: the terminal was closed, or the connection to the machine is lost."""

    number = getattr(signal, "SIGHUP", 1)  # not on Windows


_ENDS = {end.number: end for end in (Terminated, HungUp)}
ENDING = {signal.SIGINT, *_ENDS} & signal.valid_signals()


def after(number: int) -> signal.Handlers:
    """What follows a first signal: a second one ends the program at once. Not SIGHUP: where a
    terminal is closed, both the shell and the system send it."""
    return signal.SIG_IGN if number == HungUp.number else signal.SIG_DFL


def handled(by: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Have them call `by`, but for those that nobody is to notice (nohup, a shell's background
    job); returns what they called before."""
    heard = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, by) for number in heard}


def catch() -> None:
    """Ctrl-C, `kill` and a lost terminal unwind the stack, so that temporary files are removed.
    Where a module is being imported they wait for its end: torch aborts the process if it is
    interrupted there."""
    waited = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal waited
        if waited < _LONGEST_IMPORT / _SOON and _importing(frame):
            waited += 1
            again = threading.Timer(_SOON, _send, (number,))
            again.daemon = True
            again.start()
            return
        signal.signal(number, after(number))
        raise _ENDS.get(number, KeyboardInterrupt)

    handled(interrupt)


def _send(number: int) -> None:
    if hasattr(signal, "pthread_kill"):  # not on Windows; it wakes the main thread
        signal.pthread_kill(threading.main_thread().ident, number)
    else:
        signal.raise_signal(number)


def _importing(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_filename != _IMPORTER:
        frame = frame.f_back
    return frame is not None
