"""The batch on a Ray cluster: the only door to ray.

Ray Data hands pictures to a pool of actors, each with a model of its own. What an actor does with a
picture is what `diffsr` does with it on one machine, so that the same files come out. When an actor
dies, Ray starts another and gives it the same pictures again; a file that is there already with the
very bytes that come out again is left as it is.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import ray

from upscale import errors
from upscale.batch.engine import Engine, Pace
from upscale.batch.files import Files
from upscale.batch.job import Job, Ticket, upscaler_of
from upscale.batch.ledger import Content, line_of
from upscale.batch.names import Item
from upscale.batch.reading import look
from upscale.errors import DiffsrError
from upscale.pipeline.request import Request, Setup

PER_BLOCK = 16  # pictures that are done again at most when a worker dies, and reported together

Outcome = tuple[Item, dict[str, Any] | None, Exception | None]


class _Lines:
    """A worker's ledger: the line goes back to the driver, which has the file."""

    def __init__(self, settings: str, ours: bool) -> None:
        self.settings, self.ours = settings, ours
        self.line: dict[str, Any] | None = None

    def done(self, item: Item) -> bool:
        return False  # the driver has looked

    def owns(self, item: Item) -> bool:
        return self.ours

    def add(
        self, name: str, record: Mapping[str, Any], item: Item | None, content: Content | None
    ) -> None:
        self.line = line_of(self.settings, name, record, item, content)


class Worker:
    """An actor: makes its upscaler with the first picture, and keeps it."""

    def __init__(
        self,
        setup: Setup,
        request: Request,
        files: Files,
        settings: str,
        timeout: float | None,
        folder: str,
    ) -> None:
        if os.path.isdir(folder):  # where relative paths are relative to
            os.chdir(folder)
        errors.options = True  # they are the command line's
        self.job = Job(lambda: upscaler_of(setup), setup, request, files)
        self.settings = settings
        self.pace = Pace(1 if timeout else 0, 1, timeout)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        return {"outcome": [self._one(bytes(row)) for row in rows["work"]]}

    def _one(self, packed: bytes) -> str:
        number, item, ours = pickle.loads(packed)
        lines = _Lines(self.settings, ours)
        self.job.ledger = lines  # type: ignore[assignment]
        (ticket,) = Engine(self.job, self.pace).run([item])
        outcome: dict[str, Any] = {"number": number, "record": ticket.record, "line": lines.line}
        if ticket.error is not None:
            kind = type(ticket.error).__name__
            outcome |= {"kind": kind, "error": str(ticket.error), "broken": self.job.broken}
        return json.dumps(outcome)


def run(
    job: Job,
    items: list[Item],
    *,
    settings: str,
    workers: int | None,
    address: str | None,
    gpus: float | None,
    timeout: float | None,
) -> Iterator[Outcome]:
    """Outcomes as they come, in no order. job's own ledger gets the lines, and says what is done.

    gpus: of each worker, a part of one allowed; None: see `_gpus`. Raises UsageError where no
    cluster answers.
    """
    packed = []
    for number, item in enumerate(items):
        ticket = Ticket(item)
        try:
            look(job, ticket)
        except DiffsrError as error:
            yield item, None, error
            continue
        if ticket.record is not None:
            yield item, ticket.record, None
        else:
            packed.append({"work": pickle.dumps((number, item, ticket.replace))})
    if not packed:
        return
    _connect(address)
    try:
        gpus = _gpus(job.setup.device) if gpus is None else gpus
        size = workers or _room(gpus)
        blocks = max(size, -(-len(packed) // PER_BLOCK))
        rows = ray.data.from_items(packed, override_num_blocks=min(len(packed), blocks))
        done = rows.map_batches(
            Worker,
            fn_constructor_args=(job.setup, job.request, job.files, settings, timeout, os.getcwd()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(size, len(packed))),
            num_cpus=_share(size),
            num_gpus=gpus,
        )
        for row in done.iter_rows():
            yield _outcome(job, items, json.loads(row["outcome"]))
    finally:
        if address is None:
            ray.shutdown()


def _outcome(job: Job, items: list[Item], row: dict[str, Any]) -> Outcome:
    item = items[row["number"]]
    if job.ledger and row["line"]:
        job.ledger.append(row["line"])
    if "error" not in row:
        return item, row["record"], None
    job.broken |= row["broken"]
    kind = getattr(errors, row["kind"], None)
    if isinstance(kind, type) and issubclass(kind, DiffsrError):
        return item, None, kind(row["error"])
    return item, None, DiffsrError(f"{row['kind']}: {row['error']}")


def _connect(address: str | None) -> None:
    """To a cluster, or to one made for this run. Its processes listen on all interfaces: Ray takes
    the machine's address even where it is given the loopback one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as urgent as this process, not 15 less
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises plain ones too
        if address is not None:
            raise errors.UsageError(f"--engine ray: no cluster at {address}: {error}") from error
        raise DiffsrError(f"--engine ray: Ray did not start on this machine: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _gpus(device: str) -> float:
    """Of each worker: Ray hides all of them from one that claims none."""
    if device == "auto":
        return float(bool(ray.cluster_resources().get("GPU")))
    return float(device.startswith("cuda"))


def _share(workers: int) -> float:
    """CPUs that each worker claims: one, or less where the handing out would be left with none, and
    all would wait for ever."""
    have = float(ray.cluster_resources().get("CPU", 1))
    return min(1.0, round((have - min(1.0, have / 2)) / workers, 3))


def _room(gpus: float) -> int:
    """Workers that the cluster has room for."""
    have = ray.cluster_resources()
    by_gpu = int(have.get("GPU", 0) / gpus) if gpus else int(have.get("CPU", 1))
    return max(1, min(by_gpu, int(have.get("CPU", 1))))
