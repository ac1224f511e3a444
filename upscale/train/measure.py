"""What a run will take on this machine, measured with its own network on made-up pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from upscale.machine import TRAINABLE, available_memory, pick_bf16, pick_device
from upscale.train.config import TrainConfig
from upscale.train.data import Batch, Pairs
from upscale.train.distill import teacher_of
from upscale.train.feed import feed
from upscale.train.networks import make_net
from upscale.train.run import spec_of
from upscale.train.state import Run

# bytes a parameter takes: itself, its gradient, Adam's two moments, the moving average
STATE_BYTES = 4 + 4 + 8 + 4
SECONDS = 1.0  # how long each speed is measured, at least
_MATRIX = {"cuda": 8192, "cpu": 1024}  # side of the matrices that the device's rate is measured by


@dataclass(frozen=True)
class Estimate:
    """parameters; bytes of state and of what an example keeps for the way back; examples per
    second of the network and of one process that makes them; floating-point operations of an
    example there and back; the device's rate at matrix products in the run's number format.
    network and operations are 0 where not even the examples that are measured fit into memory.
    teacher: what it is and takes, where there is one; the other numbers include it."""

    parameters: int
    state: int
    example: int
    at_once: int
    network: float
    data: float
    operations: int
    matrix_rate: float
    free: int
    teacher: str = ""

    @property
    def memory(self) -> int:
        """Bytes, all examples that are computed at once included."""
        return self.state + self.at_once * self.example

    @property
    def share(self) -> float:
        """The share of the device's matrix rate that the network reaches."""
        return self.operations * self.network / self.matrix_rate


def estimate(config: TrainConfig, device: str, dtype: str) -> Estimate:
    """What the score loss takes; the image quality loss takes longer. Raises UsageError."""
    place = pick_device(device, TRAINABLE)
    bf16 = pick_bf16(dtype, place)
    at_once = config.batch // config.accumulate
    few = 2 if place.type == "cpu" else max(2, at_once)
    teacher = teacher_of(config, spec_of(config)) if config.distill else None
    std = config.std or (teacher.model.std if teacher else None) or 0.24
    small = replace(config, batch=few, accumulate=1, quality_loss_from=0, std=std, warmup=1)
    pairs = Pairs(_made_up(config), small)
    torch.manual_seed(0)
    run = Run(make_net(small), spec_of(small), small, pairs, place, bf16, teacher=teacher)
    (batch,) = next(feed(pairs, run.shares, 0, 1, 0, place))
    one, two = (_kept(run, pairs, count) for count in (1, 2))
    held = sum(p.numel() for p in teacher.model.net.parameters()) if teacher else 0
    parameters = sum(p.numel() for p in run.net.parameters())
    once = max(0, 2 * one - two) if bf16 else 0  # the weights in another number format
    state, free = STATE_BYTES * parameters + 4 * held + once, available_memory(place)
    fits, operations = state + few * (two - one) < free, 0
    if fits:
        with FlopCounterMode(display=False) as counted:
            run.step([batch])
        operations = counted.get_total_flops() // few
    return Estimate(
        parameters=parameters,
        state=state,
        example=two - one,
        at_once=at_once,
        network=few * _rate(lambda index: run.step([batch]), place) if fits else 0.0,
        data=few * _rate(lambda index: pairs.batch(index), torch.device("cpu")),
        operations=operations,
        matrix_rate=matrix_rate(place, bf16),
        free=free,
        teacher=_taught(run, batch) if teacher and fits else "",
    )


def _taught(run: Run, batch: Batch) -> str:
    """The teacher, and what its calls for one example take."""
    teacher = run.teacher
    config, at_work = teacher.config, teacher
    if config.progressive:  # two steps somewhere on its way
        at_work = replace(teacher, config=replace(config, distill_steps=2))
    with FlopCounterMode(display=False) as counted:
        at_work.picture(run.spec, batch, torch.randn_like(batch.hr))
    each = counted.get_total_flops() / len(batch.hr)
    return (
        f"{teacher.name}, {config.distill_kind} from {teacher.sampler} in {config.distill_steps} "
        f"steps: {teacher.calls} calls, {each / 1e9:.1f} GFLOP per example"
    )


def _made_up(config: TrainConfig) -> list[np.ndarray]:
    """Pictures of noise, twice as large as an example."""
    rng, side = np.random.default_rng(0), 2 * config.patch
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(4)]


def _kept(run: Run, pairs: Pairs, count: int) -> int:
    """Bytes that `count` examples keep for the way back, with what is kept only once (the weights).
    On a CPU, where the system ends who takes too much, nothing is computed (but with a teacher,
    whose noise levels must be numbers)."""
    (batch,) = next(feed(pairs, lambda i: [range(count)], 0, 1, 0, run.device))
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x  # alive, so that no place is used twice
        return x

    sigma = torch.ones(count, dtype=torch.float64, device=run.device)
    autocast = torch.autocast(run.device.type, torch.bfloat16, enabled=run.autocast)
    computed = run.teacher or run.device.type != "cpu"
    shapes = nullcontext() if computed else FakeTensorMode(allow_non_fake_inputs=True)
    with saved_tensors_hooks(keep, lambda x: x), shapes, autocast:
        run.objective(batch, sigma)
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def _rate(work: Callable[[int], Any], device: torch.device) -> float:
    """How often a second `work` can be done, once warm."""
    work(0)
    _wait(device)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS or count < 2:
        count += 1
        work(count)
        _wait(device)
    return count / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, bf16: bool) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = _MATRIX[device.type]
    kind = torch.bfloat16 if bf16 else torch.float32
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    layer = nn.functional.linear
    return 2 * side**3 * _rate(lambda index: layer(a, b), device)
