"""Which of N machines does a picture: each can tell alone, and all agree."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from upscale.errors import UsageError

AUTO = "auto"


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`."""

    index: int
    count: int

    def has(self, inside: str) -> bool:
        """Whether a picture is in this part; inside: its path below the folder searched, with /.

        sha256 modulo count: the same on every machine, whatever order its folders are listed in.
        """
        digest = hashlib.sha256(os.fsencode(inside)).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index


def parse(text: str, env: Mapping[str, str]) -> Shard:
    """The shard that "I/N" names, or a scheduler in `env` ("auto"). Raises UsageError."""
    if text == AUTO:
        return _of_scheduler(env)
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or not int(match[1]) < int(match[2]):
        raise UsageError(
            f"--shard {text}: write I/N with I from 0 to N-1, as 0/3, 1/3 and 2/3, or auto"
        )
    return Shard(int(match[1]), int(match[2]))


def _of_scheduler(env: Mapping[str, str]) -> Shard:
    """SLURM's job array (its first number and step need not be 0 and 1), times RANK of WORLD_SIZE
    (torchrun and its like) where both are there."""
    index, count, found = 0, 1, False
    if "SLURM_ARRAY_TASK_ID" in env:
        task, count = _number(env, "SLURM_ARRAY_TASK_ID"), _number(env, "SLURM_ARRAY_TASK_COUNT")
        first = _number(env, "SLURM_ARRAY_TASK_MIN", 0)
        step = _number(env, "SLURM_ARRAY_TASK_STEP", 1)
        last = _number(env, "SLURM_ARRAY_TASK_MAX", first + step * (count - 1))
        index = (task - first) // max(step, 1)
        if (task - first) % max(step, 1) or last != first + step * (count - 1) or index >= count:
            raise UsageError(
                f"--shard auto: task {task} of a SLURM array from {first} to {last} with {count} "
                "tasks: the array must be unbroken, as --array=0-7"
            )
        found = True
    if "WORLD_SIZE" in env:
        size, rank = _number(env, "WORLD_SIZE"), _number(env, "RANK")
        index, count, found = index * size + rank, count * size, True
    if not found or not 0 <= index < count:
        raise UsageError(
            "--shard auto reads SLURM_ARRAY_TASK_ID and _COUNT, or RANK and WORLD_SIZE, and they "
            "are not set or contradict each other; write --shard 0/3"
        )
    return Shard(index, count)


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "" if default is None else str(default))
    if not re.fullmatch(r"\d+", text):
        raise UsageError(f"--shard auto: {name} is {text!r}, not a number")
    return int(text)
