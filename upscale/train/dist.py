"""Several processes as one run: PyTorch's own DDP and FSDP2, started by torchrun.

Every process computes its share of the same global batch; nothing but speed and memory depends on
how many there are. The only door to torch.distributed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from upscale.errors import UsageError
from upscale.machine import TRAINABLE, pick_device

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among the others. Alone: rank 0 of 1. here: processes on this machine."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Over the processes, detached."""
        return self.sum(values) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """Over the processes, detached."""
        total = values.detach().clone()
        if self.size > 1:
            td.all_reduce(total)
        return total

    def joint_mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, with the gradient that makes DDP's average right."""
        return value + (self.mean(value) - value.detach())

    def agreed(self, value: Any) -> Any:
        """What the first process says."""
        if self.size == 1:
            return value
        box = [value]
        td.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            td.barrier()


@contextmanager
def world(device: str) -> Iterator[World]:
    """The processes that torchrun started, or this one alone. Raises UsageError."""
    if not td.is_available() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(device=pick_device(device, TRAINABLE))
        return
    rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    place = pick_device(device, TRAINABLE)
    if place.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} of this machine has no GPU of its own: there are "
                f"{torch.cuda.device_count()} (torchrun --nproc-per-node)"
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if place.type == "cuda":
        td.init_process_group("nccl", device_id=place)
    else:
        td.init_process_group("gloo")
    try:
        yield World(rank, size, place, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    finally:
        td.destroy_process_group()


def shares(world: World, count: int, accumulate: int) -> list[range]:
    """Places in a batch of `count` that this process computes: a range for each part.

    The ranges of all processes and parts cover the batch once. Raises UsageError.
    """
    pieces = world.size * accumulate
    if count % pieces:
        raise UsageError(
            f"a batch of {count} cannot be shared evenly by {world.size} processes in "
            f"{accumulate} parts each: make --batch a multiple of {pieces}"
        )
    each = count // pieces
    starts = [(part * world.size + world.rank) * each for part in range(accumulate)]
    return [range(start, start + each) for start in starts]


class Objective(nn.Module):
    """A network and what is computed with it, as one forward call: the form that DDP wants."""

    def __init__(self, net: nn.Module, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.net, self.compute = net, compute

    def forward(self, *args: Any) -> Any:
        return self.compute(*args)


def sharded(net: nn.Module, world: World) -> nn.Module:
    """FSDP2: every process holds a share of each parameter; gathered when it is needed.

    The units are the modules of the network's lists (its blocks) and the network itself.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in net.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                if not isinstance(block, nn.ModuleList) and list(block.parameters()):
                    fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    register_fsdp_forward_method(net, "encode")
    return net


def replicated(objective: Objective, world: World) -> nn.Module:
    """DDP, where there is more than one process."""
    if world.size == 1:
        return objective
    ids = [world.device.index] if world.device.type == "cuda" else None
    # (every parameter of every network has a part in the score loss: none is looked for as unused)
    return DistributedDataParallel(objective, device_ids=ids, broadcast_buffers=False)


def unsynchronised(objective: nn.Module) -> Any:
    """A context in which gradients are only summed up, for all parts of a batch but the last."""
    if isinstance(objective, DistributedDataParallel):
        return objective.no_sync()
    return nullcontext()


# --- tensors of which a process holds a share ---------------------------------------------------


def local(value: Tensor) -> Tensor:
    """What this process holds of it."""
    return value.to_local() if isinstance(value, DTensor) else value


def full(value: Tensor) -> Tensor:
    """All of it; every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, example: Tensor) -> Tensor:
    """A whole tensor, held as `example` is."""
    if isinstance(example, DTensor) and value.shape == example.shape:
        value = value.to(example.device)
        return distribute_tensor(value, example.device_mesh, example.placements)
    return value
