"""Functions in processes of their own, forked: torch needs not be imported again."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

FORKS = "fork" in multiprocessing.get_all_start_methods()


class Forked:
    """`work()` in another process, with one thread; what it says is in `out` and `err`."""

    def __init__(self, work: Callable[[], object], folder: Path, env: dict | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = (folder / "out.txt", folder / "err.txt")
        self.process = multiprocessing.get_context("fork").Process(
            target=self._work, args=(work, env or {})
        )
        with warnings.catch_warnings():  # of the threads that are not carried over
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        self.pid = self.process.pid

    def _work(self, work: Callable[[], object], env: dict) -> None:
        for number, path in zip((1, 2), self.paths, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False, buffering=1) for n in (1, 2))  # noqa: SIM115
        os.environ.update(env)
        torch.set_num_threads(1)
        code = 1
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def running(self) -> bool:
        return self.process.is_alive()

    def finished(self, code: int = 0, seconds: float = 500) -> tuple[str, str]:
        """(stdout, stderr) at its end."""
        self.process.join(seconds)
        out, err = (path.read_text() for path in self.paths)
        assert self.process.exitcode == code, f"ended with {self.process.exitcode}\n{out}\n{err}"
        return out, err
