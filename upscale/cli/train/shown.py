"""How a training run is shown while it reads pictures and learns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from upscale.cli.progress import Reporter
from upscale.document import duration
from upscale.train.config import TrainConfig

if TYPE_CHECKING:
    from upscale.train.loop import Progress

# where there is no bar, a line comes after so many iterations, and after so many seconds or, later,
# a share of the time that has passed
LINE_EVERY, SECONDS, SHARE = 100, 3.0, 0.2


class Shown:
    """Progress in pictures, as a bar with the time left or as a line now and then."""

    def __init__(self, reporter: Reporter, config: TrainConfig, stop: Callable[[], bool]) -> None:
        self.reporter, self.whole, self.stop = reporter, config.images, stop
        self.doing, self.began = "", time.monotonic()
        self.told = self.began

    def reading(self, what: str, done: int, of: int) -> None:
        """Before the training. Raises KeyboardInterrupt where a signal came."""
        if self.stop():
            raise KeyboardInterrupt
        self._show(what, done, of)
        self._line(f"{what}: {done:,} of {of:,} pictures")

    def __call__(self, progress: Progress) -> None:
        speed = progress.images_per_second
        left = duration(max(0, self.whole - progress.images_seen) / max(speed, 1e-9))
        self._show("training", progress.images_seen, self.whole, f", {speed:.3g} pictures/s")
        self._line(
            f"iteration {progress.iteration} of {progress.iterations}, loss {progress.loss:.4f}, "
            f"{progress.images_seen} pictures seen, {speed:.3g} pictures/s, {left} left",
            progress.iteration in (1, 10, progress.iterations)
            or progress.iteration % LINE_EVERY == 0,
        )

    def _show(self, what: str, done: int, of: int, more: str = "") -> None:
        if what != self.doing:
            self.reporter.end()
            self.reporter.begin(what)
            self.doing = what
        self.reporter.step(done, of, what + more)

    def _line(self, text: str, due: bool = False) -> None:
        now = time.monotonic()
        if due or now - self.told > max(SECONDS, SHARE * (self.told - self.began)):
            self.told = now
            self.reporter.line(text)
