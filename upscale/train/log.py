"""metrics.jsonl: what a run measured, one line per 20 iterations, and TensorBoard where wanted.

The sums of an unfinished line are part of the checkpoint, and lines after it are dropped on
resuming: the file of a run that was killed is that of one that was not, but for the speeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upscale import atomic
from upscale.errors import DiskFull, OutputError, UsageError
from upscale.machine import peak_memory

EVERY = 20  # iterations
# Upper ends of the noise levels that losses are kept apart by; sigma is noise over signal.
LEVELS = (0.02, 0.1, 0.5, 2.0, 10.0, math.inf)
METRICS = {  # of a validation
    "loss": "loss on fixed noise",
    "lpips": "LPIPS (alex)",
    "psnr": "PSNR in dB",
    "consistency": "Consistency (x1e-5)",
}
LEVEL_NAMES = tuple(f"sigma<{level:g}" for level in LEVELS)


def by_level(sigma: Tensor, loss: Tensor) -> Tensor:
    """Sums and counts of losses (B,) by noise level, float64 (2, len(LEVELS))."""
    edges = torch.tensor(LEVELS[:-1], dtype=torch.float64)
    level = torch.bucketize(sigma.detach().double().cpu(), edges, right=True)
    losses = loss.detach().double().cpu(), torch.ones(len(level), dtype=torch.float64)
    return torch.stack([torch.bincount(level, values, len(LEVELS)) for values in losses])


class Log:
    """The run's file of measurements, and the sums of the line that is not yet written."""

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        self.sums: dict[str, float] = {}
        self.count = 0
        self.levels = torch.zeros(2, len(LEVELS), dtype=torch.float64)
        self.board = _board(folder) if tensorboard else None

    # --- resuming ---

    def state(self) -> dict[str, Any]:
        """For the checkpoint's record."""
        return {"sums": self.sums, "count": self.count, "levels": self.levels.tolist()}

    def resume(self, state: dict[str, Any], iteration: int) -> None:
        """Go on from a checkpoint: what was logged after it is dropped."""
        self.sums, self.count = dict(state.get("sums", {})), state.get("count", 0)
        if "levels" in state:
            self.levels = torch.tensor(state["levels"], dtype=torch.float64)
        if self.path.is_file():
            kept = [line for line in self.path.read_text().splitlines() if _until(line, iteration)]
            with atomic.replacing(self.path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))

    # --- measuring ---

    def add(self, parts: dict[str, float], levels: Tensor | None = None) -> None:
        """One iteration's numbers."""
        self.count += 1
        for key, value in parts.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        if levels is not None:
            self.levels += levels

    def due(self, iteration: int, last: int) -> bool:
        return iteration % EVERY == 0 or iteration == last

    def write(self, iteration: int, images_seen: int, speed: float) -> None:
        """The means since the last line."""
        line: dict[str, Any] = {"iteration": iteration, "images_seen": images_seen}
        line |= {key: round(value / self.count, 6) for key, value in self.sums.items()}
        sums, counts = self.levels.tolist()
        by_noise = {
            name: round(total / n, 6)
            for name, total, n in zip(LEVEL_NAMES, sums, counts, strict=True)
            if n
        }
        if by_noise:
            line["by_noise"] = by_noise
        line |= {"images_per_second": round(speed, 2), "memory": peak_memory() or 0}
        self._append(line)
        self.sums, self.count = {}, 0
        self.levels.zero_()

    def validation(self, iteration: int, images_seen: int, values: dict[str, float]) -> None:
        line = {"iteration": iteration, "images_seen": images_seen, "validation": values}
        self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        with explained(self.path), open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None:
            for name, value in _scalars(line):
                self.board.add_scalar(name, value, line["images_seen"])
            self.board.flush()

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """A file that cannot be written, as what a user can do about it: DiskFull or OutputError."""
    try:
        yield
    except OSError as error:
        kind = DiskFull if atomic.full(error) else OutputError
        raise kind(
            f"{path} cannot be written ({error.strerror}). Fix this, and run the same command "
            "again: it resumes from the last checkpoint"
        ) from error


def _until(line: str, iteration: int) -> bool:
    """Whether a line is whole and of this iteration or before."""
    try:
        return json.loads(line)["iteration"] <= iteration
    except (ValueError, KeyError, TypeError):
        return False


def _scalars(line: dict[str, Any]) -> Iterable[tuple[str, float]]:
    for key, value in line.items():
        if isinstance(value, dict):
            yield from ((f"{key}/{name}", v) for name, v in value.items())
        elif key not in ("iteration", "images_seen"):
            yield f"train/{key}", value


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs an extra: pip install 'diffsr[tensorboard]'") from (
            error
        )
    return SummaryWriter(str(folder / "tensorboard"))
