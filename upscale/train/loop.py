"""The training loop: iterations, checkpoints, validation, and stopping in good order.

Run the same command again and training resumes where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from upscale.document import counted
from upscale.errors import NumericalError, OutOfMemory
from upscale.machine import is_out_of_memory
from upscale.train import dist, plot
from upscale.train.data import Batch
from upscale.train.feed import feed
from upscale.train.log import Log
from upscale.train.state import Run

FIRST_LOOK = 50  # the iteration of the first validation, if not before


@dataclass
class Progress:
    """What a caller may show after an iteration."""

    iteration: int
    iterations: int
    loss: float
    images_seen: int
    images_per_second: float


OnProgress = Callable[[Progress], None]


@dataclass
class Clock:
    """When to stop and when to save, agreed by all processes."""

    world: dist.World
    should_stop: Callable[[], bool]
    max_minutes: float | None
    save_minutes: float
    stop: bool = False
    save: bool = False

    def __post_init__(self) -> None:
        self.started = self.saved = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        late = self.max_minutes is not None and now - self.started > 60 * self.max_minutes
        self.stop = self.should_stop() or late
        self.save = self.world.first and now - self.saved > 60 * self.save_minutes
        if self.world.size > 1:
            wishes = torch.tensor([float(self.stop), float(self.save)], device=self.world.device)
            self.stop, self.save = (value > 0 for value in self.world.sum(wishes).tolist())
        if self.save:
            self.saved = now


def train(
    run: Run,
    folder: Path,
    *,
    max_minutes: float | None = None,
    save_minutes: float = 5.0,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = lambda progress: None,
    log: Log | None = None,
    workers: int = 0,
    say: Callable[[str], None] = lambda line: None,
    validate: Callable[[Run, Log], None] | None = None,
    validate_every: int = 0,
) -> bool:
    """Run until the last iteration, `max_minutes` or `should_stop`; True when all is done.

    A checkpoint is written every `save_minutes` and at the end, if anything was learnt. validate:
    called every `validate_every` iterations, at FIRST_LOOK and at the end. Raises NumericalError,
    OutOfMemory, DiskFull.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = log or Log(folder)
    clock = Clock(run.world, should_stop, max_minutes, save_minutes)
    last, first_image, skipped = run.config.iterations, run.images_seen, set()
    coming = feed(run.pairs, run.shares, run.iteration, last, workers, run.device)
    while run.iteration < last:
        clock.tick()
        if clock.save and run.iteration:
            run.save(folder, log)
        if clock.stop:
            break
        batches = next(coming)
        for line in (line for batch in batches for line in batch.skipped if line not in skipped):
            skipped.add(line)
            say(f"skipped ({len(skipped)}): {line}")
        parts, levels = _stepped(run, batches, folder)
        speed = (run.images_seen - first_image) / (time.monotonic() - clock.started)
        if run.world.first:
            log.add(parts, levels)
            if log.due(run.iteration, last):
                log.write(run.iteration, run.images_seen, speed)
            on_progress(Progress(run.iteration, last, parts["loss"], run.images_seen, speed))
        early = run.iteration == min(FIRST_LOOK, validate_every)
        if validate and validate_every and (early or run.iteration % validate_every == 0):
            run.validated = run.iteration
            validate(run, log)
            _drawn(run, log)
    if validate and run.iteration >= last and run.validated != run.iteration:
        run.validated = run.iteration
        validate(run, log)
    if run.iteration:
        run.save(folder, log)
        _drawn(run, log)
    return run.iteration >= last


def _drawn(run: Run, log: Log) -> None:
    if run.world.first:
        plot.draw(log.path)


def _stepped(run: Run, batches: Sequence[Batch], folder: Path) -> tuple[dict[str, float], Tensor]:
    """`Run.step`, with what a user can do about its failures."""
    try:
        return run.step(batches)
    except NumericalError as error:
        raise NumericalError(f"{error}. The batch is kept in {run.keep_failed(folder)}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        batch, parts = run.config.count(run.iteration), run.config.accumulate
        each = batch // parts // run.world.size
        advice = "try a smaller --patch or --net"
        if each > 1:
            advice = f"try --accumulate {parts * 2}: the same batch in smaller parts"
            if batch % (parts * 2 * run.world.size):
                advice = f"try --batch {batch // 2}"
        raise OutOfMemory(
            f"memory ran out at iteration {run.iteration}, with "
            f"{counted(each, 'example')} at once: {advice}"
        ) from error
