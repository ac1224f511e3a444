"""Batches in the order of their iterations, made ahead of time by worker processes."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from upscale.errors import DiffsrError, ResourceError
from upscale.signals import ENDING
from upscale.train.data import Batch, Pairs

Places = Callable[[int], list[range]]  # of an iteration: what each part of its batch holds

AHEAD = 3  # batches that a worker has ready


def default_workers(device: torch.device, processes: int = 1) -> int:
    """Enough to keep a GPU busy; on a CPU the network needs the cores itself."""
    cores = os.cpu_count() or 1
    return min(8, max(1, cores // processes)) if device.type == "cuda" else 0


def feed(
    pairs: Pairs, places: Places, start: int, end: int, workers: int, device: torch.device
) -> Iterator[list[Batch]]:
    """Iterations `start` to `end` of a run, each a list of the batch's parts on the device.

    What comes is the same for every number of workers. places: see `dist.shares`.
    """
    made = _Made(pairs, places)
    if not workers:
        for iteration in range(start, end):
            yield [_moved(part, device) for part in made.parts(iteration)]
        return
    others = multiprocessing.active_children()
    # a fork shares the pictures in memory; where there is none they are copied
    forks = "fork" in multiprocessing.get_all_start_methods()
    loader = DataLoader(
        made,
        batch_size=None,
        sampler=range(start, end),
        num_workers=workers,
        prefetch_factor=AHEAD,
        multiprocessing_context="fork" if forks else "spawn",
        worker_init_fn=_begin_worker,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
    )
    with warnings.catch_warnings():
        # of a fork beside threads: the workers never touch what those hold
        warnings.simplefilter("ignore", DeprecationWarning)
        batches = iter(loader)
    processes = [p for p in multiprocessing.active_children() if p not in others]
    # who leaves the iteration unfinished until Python ends would wait for ever: multiprocessing
    # ends its processes by the signal that these ignore
    ending = partial(_end, processes)
    atexit.register(ending)
    try:
        for packed in batches:
            if isinstance(packed, DiffsrError):
                raise packed
            yield [_moved(_unpacked(part), device) for part in packed]
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ResourceError(
            f"a worker process that prepares pictures was killed ({error}): memory may "
            f"have run out. Try fewer than --workers {workers}, or less --cache"
        ) from error
    finally:
        del batches  # which ends its workers in good order
        atexit.unregister(ending)
        ending()


def _moved(batch: Batch, device: torch.device) -> Batch:
    way = {"device": device, "non_blocking": True}
    hr, lr_up = (x.to(**way, memory_format=torch.channels_last) for x in (batch.hr, batch.lr_up))
    small = [x.to(**way) for x in batch.lr]
    return replace(batch, hr=hr, lr_up=lr_up, scale=batch.scale.to(**way), lr=small)


@dataclass
class _Made(Dataset):
    """iteration -> its packed parts, or the error for the user."""

    pairs: Pairs
    places: Places

    def parts(self, iteration: int) -> list[Batch]:
        shares = self.places(iteration)
        count = self.pairs.config.count(iteration)
        return [self.pairs.batch(iteration, count, share) for share in shares]

    def __getitem__(self, iteration: int) -> list[Any] | DiffsrError:
        try:
            return [_packed(part) for part in self.parts(iteration)]
        except DiffsrError as error:  # torch would wrap its message in a traceback
            return error


def _as_it_is(item: Any) -> Any:
    return item


def _packed(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, list, Sequence[int], tuple]:
    """The small inputs as one tensor: each that goes to another process takes a file handle."""
    sizes = [tuple(x.shape) for x in batch.lr]
    flat = torch.cat([x.reshape(-1) for x in batch.lr])
    return batch.hr, batch.lr_up, batch.scale, flat, sizes, batch.places, batch.skipped


def _unpacked(packed: Sequence[Any]) -> Batch:
    hr, lr_up, scale, flat, sizes, places, skipped = packed
    pieces = flat.split([c * h * w for c, h, w in sizes])
    small = [piece.view(*size) for piece, size in zip(pieces, sizes, strict=True)]
    return Batch(hr, lr_up, scale, small, tuple(places), tuple(skipped))


def _end(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _begin_worker(index: int) -> None:
    """One thread each; signals are the run's own business, which ends its workers itself."""
    torch.set_num_threads(1)
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
