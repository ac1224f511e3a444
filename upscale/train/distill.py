"""Few-step students: a network learns from a teacher's deterministic trajectories.

Two ways. "map" (SinSR, Wang et al. 2024: its deterministic mapping): the student's picture in a few
calls is the teacher's in many, from the same start noise. "progressive" (Salimans & Ho 2022,
Algorithm 2): rounds in which one step of the student is two of its teacher, which from the second
round on is the student of the round before. The teacher is never trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from upscale import methods
from upscale.diffusion.denoiser import bind, per_example
from upscale.diffusion.process import sigmas
from upscale.errors import UsageError
from upscale.model import Model, build
from upscale.nets.compact import CompactConfig
from upscale.train.chance import Chance, shared
from upscale.train.checkpoint import under
from upscale.train.config import TrainConfig
from upscale.train.data import Batch
from upscale.train.loss import Spec, encode, start_noise
from upscale.train.networks import make_net
from upscale.weights import store

KEPT = 0.5  # share of a round's examples at levels of the rounds before, which are kept as they are


@dataclass
class Teacher:
    """A frozen network and what the student owes it.

    sha256: of the file that it was read from. round: of progressive distillation; from the second
    one on `model.net` holds the average of the student at the end of the round before.
    """

    name: str
    sha256: str
    model: Model
    config: TrainConfig
    round: int = 0

    @property
    def sampler(self) -> str:
        """The teacher's own deterministic one of fixed steps, else the nearest to it."""
        law = self.model.law
        if self.config.progressive:
            return methods.TRAINED
        row = methods.sampler_of(law.sampler)
        return law.deterministic if row.stochastic or row.adaptive else law.sampler

    @property
    def calls(self) -> int:
        """Network calls of the teacher for one example of an iteration."""
        if self.config.progressive:
            return 2
        return methods.sampler_of(self.sampler).calls(self.config.distill_steps)

    def to(self, device: torch.device, compiled: str = "") -> None:
        """Onto the student's device, laid out as the student is."""
        self.model.net.to(device).to(memory_format=torch.channels_last)
        if compiled:
            self.model.net.compile(backend=compiled)

    def record(self) -> dict[str, Any]:
        """For the records of the run and its weights; the temperature is its own file's."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "kind": self.config.distill_kind,
            "sampler": self.sampler,
            "steps": self.config.distill_steps,
            "temperature": self.model.law.temperature,
        }

    # --- the whole map ---

    @torch.no_grad()
    def picture(self, spec: Spec, batch: Batch, start: Tensor) -> Tensor:
        """What the teacher makes (B,3,H,W) of start noise of variance one."""
        levels = sigmas(spec.process, self.config.distill_steps, "phi")
        denoise = bind(self.model.net, encode(self.model.net, batch), spec.parametrisation)
        target = methods.sampler_of(self.sampler)(denoise, start * float(levels[0]), levels)
        return spec.decode(target.float(), batch.lr_up)

    def map_loss(self, sr: Tensor, spec: Spec, batch: Batch, start: Tensor) -> Tensor:
        """L1 between the student's pictures and the teacher's, in units of the target. Scalar."""
        error = (sr - self.picture(spec, batch, start)).abs().mean()
        return self.config.distill_weight * error / (spec.std or 1)

    # --- progressive ---

    def halving_loss(
        self, net: nn.Module, spec: Spec, batch: Batch, cond: Any, chance: Chance
    ) -> Tensor:
        """The student's clean target against the one whose single DDIM step ends where two of the
        teacher's do. Scalar.

        The noise is cooled as that of pictures is, so that the student may be sampled cooler too
        (--quality-cool 0: never, as in the paper). The error is weighed as one of v (the paper's
        SNR + 1), L1 or L2 as in the score loss.
        """
        picked = self._levels(spec, chance.iteration)[:, list(batch.places)]
        now, between, after = picked.to(batch.hr.device)
        target = spec.encode(batch.hr, batch.lr_up)
        s = per_example(now, target)
        x = target + s * start_noise(batch, self.config.quality_cool, chance)
        with torch.no_grad():
            teacher = bind(self.model.net, encode(self.model.net, batch), spec.parametrisation)
            half = torch.lerp(teacher(x, now), x, per_example(between / now, x))
            end = torch.lerp(teacher(half, between), half, per_example(after / between, x))
            ratio = per_example(after / now, x)
            wanted = (end - ratio * x) / (1 - ratio)
        predicted = bind(net, cond, spec.parametrisation)(x, now)
        error = (predicted - wanted) * (1 + s.square().reciprocal()).sqrt()
        return self.config.distill_weight * (error.square() if spec.squared else error.abs()).mean()

    def _levels(self, spec: Spec, iteration: int) -> Tensor:
        """Where the examples of an iteration are, half of the student's step on, and at its end:
        float64 (3, count), on the grid that is uniform in the angle atan(sigma).

        From the second round on some are at levels that only the grids of the rounds before have.
        There one call of the teacher is the target (the second step is none), so that the student
        still takes 2 and 4 steps when it has learnt to take one.
        """
        steps = self.config.distill_steps >> (self.round + 1)
        finest = self.config.distill_steps // 2
        count, every = self.config.count(iteration), finest // steps
        generator = shared(self.config.seed + 2, iteration)  # the other losses have their own
        own = torch.randint(1, steps + 1, (count,), generator=generator) * every
        earlier = torch.randint(1, finest + 1, (count,), generator=generator)
        place = torch.where(torch.rand(count, generator=generator) < KEPT, earlier, own)
        top = torch.tensor(spec.process.sigma_max, dtype=torch.float64).atan()
        now = top * place / finest
        step = top / steps
        of_grid = place % every == 0
        between = torch.where(of_grid, now - step / 2, now / 2)
        after = torch.where(of_grid, now - step, now / 2)
        after = torch.where(place == every, 0.0, after)  # exactly
        return torch.stack([now.tan(), between.tan(), after.tan()])

    def turn(self, state: dict[str, Tensor], round_: int) -> None:
        """The next round's teacher: the student's average."""
        self.model.net.load_state_dict(state)
        self.round = round_

    # --- checkpoints ---

    def pack(self) -> dict[str, Tensor]:
        """What a checkpoint needs of it: nothing in the first round, where the file has it all."""
        if not self.round:
            return {}
        state = self.model.net.state_dict()
        return {f"teacher.{k}": v.to("cpu", copy=True).contiguous() for k, v in state.items()}

    def unpack(self, state: dict[str, Tensor], round_: int) -> None:
        """Inverse of `pack`."""
        if round_:
            self.turn(under("teacher.", state), round_)


def teacher_of(config: TrainConfig, spec: Spec, sizes: CompactConfig | None = None) -> Teacher:
    """The teacher that a run names. WeightsError; UsageError where it is not as its student is.

    A `std` of 0 in the config, "measured", fits every teacher: the student takes over its std.
    """
    if methods.get(config.method).single:
        rows = methods.METHODS.items()
        *most, last = (n for n, r in rows if r.nets and not (r.single or r.unconditional))
        raise UsageError(
            f"--method {config.method} takes one call anyway: --distill is for "
            f"{', '.join(most)} and {last}"
        )
    entry = store.find(config.distill)
    model = build(*store.load(entry))
    with torch.device("meta"):
        student = make_net(config, sizes).architecture()
    law = model.law
    pairs = {
        "method": (model.method, config.method),
        "--parametrisation": (law.parametrisation, spec.parametrisation),
        "process": (law.process, spec.process),
        "--std": (model.std, model.std if spec.std == 0 and model.std else spec.std),
        "kernel": (model.kernel, "bicubic"),
    }
    theirs = model.net.architecture()
    if model.method == config.method:
        pairs |= {f"network's {k}": (theirs.get(k), v) for k, v in student.items()}
    unlike = [f"{name} {a!r}, not {b!r}" for name, (a, b) in pairs.items() if a != b]
    if unlike:
        raise UsageError(
            f"--distill {config.distill}: the teacher must match the student, but it has "
            f"{'; '.join(unlike)}"
        )
    return Teacher(entry.name, entry.sha256, model, config)
