"""The state of a training run, and one iteration of it.

Every random number is a function of (seed, iteration, place in the batch), so nothing but tensors
has to be saved for an exact resume, and processes and parts of a batch may be as many as wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upscale import methods
from upscale.diffusion.noise import mix
from upscale.diffusion.process import CosineLaw, LogSNRLaw
from upscale.errors import NumericalError, UsageError
from upscale.train import checkpoint, dist
from upscale.train.chance import Chance, antithetic, shared
from upscale.train.config import SMALLEST, TrainConfig, flag
from upscale.train.data import Batch, Pairs, exact
from upscale.train.datasets import data_difference
from upscale.train.distill import Teacher
from upscale.train.log import LEVELS, Log, by_level
from upscale.train.loss import (
    QualityLoss,
    Spec,
    encode,
    flow,
    project,
    sample,
    score_loss,
    start_noise,
)
from upscale.train.networks import unlike
from upscale.train.optimiser import learning_rate, make_optimiser

# what a run may change between its parts: how long it is, and what changes no result (a teacher is
# compared by its content, not by its name)
_FREE = {"iterations", "accumulate", "distill"}
SCORED = 10  # iterations: how often a score loss without weight is taken, for the log


class Run:
    """A training run's state: network, moving average, optimiser, place in the data."""

    def __init__(
        self,
        net: nn.Module,
        spec: Spec,
        config: TrainConfig,
        pairs: Pairs,
        device: torch.device | str = "cpu",
        autocast: bool = False,
        quality: QualityLoss | None = None,
        *,
        world: dist.World | None = None,
        strategy: str = "ddp",
        compiled: str = "",
        teacher: Teacher | None = None,
    ) -> None:
        """compiled: a backend of torch.compile, "" for none. Raises UsageError."""
        self.config, self.spec, self.pairs = config, spec, pairs
        self.device, self.autocast, self.quality = torch.device(device), autocast, quality
        self.world = world or dist.World(device=self.device)
        self.shares(0)  # what cannot be shared is refused at once
        sharded = strategy == "fsdp" and self.world.size > 1
        if sharded and config.quality_loss_from and config.quality_gradient == "adjoint":
            raise UsageError(
                "--strategy fsdp does not go with --quality-gradient adjoint, which needs every "
                "weight at once: take --quality-gradient direct"
            )
        self.net, self.teacher = net, teacher
        self.adversary = quality.adversary if quality else None
        self.taught = teacher.record() if teacher else {}
        if teacher is not None:
            teacher.to(self.device, compiled)
        if not sharded:  # FSDP2 moves its shares itself, and wants them plainly laid out
            self.net = net.to(self.device).to(memory_format=torch.channels_last)
        if compiled:
            self.net.compile(backend=compiled)
        if sharded:
            self.net = dist.sharded(self.net, self.world)
        objective = dist.Objective(self.net, self._parts)
        self.objective = objective if sharded else dist.replicated(objective, self.world)
        self.ema = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.optimiser = make_optimiser(config, self.net, self.device)
        self.iteration = self.images_seen = 0
        self.averaged = 0  # iterations that the average knew before this run
        self.best: dict[str, float] = {}
        self.validated = -1  # the iteration of the last validation
        self.data = ""  # fingerprint of the pictures
        self.command: dict[str, Any] = {}  # what resumes the run beside its config
        self.paired = pairs.paired
        self.once = methods.get(config.method).single
        laws = {"logsnr": LogSNRLaw(), "cosine": CosineLaw(spec.process.sigma_max)}
        self.law = laws.get(config.noise_law, spec.process)
        self.last: tuple[Sequence[Batch], Tensor] | None = None

    def shares(self, iteration: int) -> list[range]:
        """Which places of an iteration's batch this process computes, for each part of it."""
        return dist.shares(self.world, self.config.count(iteration), self.config.accumulate)

    # --- checkpoints ---

    def resume(self, folder: Path, say: Callable[[str], None], log: Log | None = None) -> None:
        """Go on from the newest whole checkpoint in `folder`, if there is one."""
        found = checkpoint.newest(folder, say)
        record: dict[str, Any] = {}
        if found is not None:
            iteration, state, record = found
            before = {**TrainConfig().to_dict(), **record["config"]}
            free = _FREE - {"iterations"} if self.config.progressive else _FREE  # its rounds
            if changed := set(self.config.differences(before)) - free:
                names = ", ".join(sorted(changed))
                was = ", ".join(f"{flag(name)} {before[name]}" for name in sorted(changed))
                raise UsageError(
                    f"{folder} holds a run with other settings ({names}): it has {was}. Give those "
                    f"again, or go on from it elsewhere: --init {folder} --output ANOTHER"
                )
            for name in self.config.differences(before):
                now = getattr(self.config, name)
                say(f"{flag(name)} {now} from now on, was {before[name]}")
            own, given = (of.get("sha256") for of in (record.get("teacher", {}), self.taught))
            if own != given:
                raise UsageError(
                    f"{folder} holds a run with another teacher (sha256 {own or 'of none'}, not "
                    f"{given or 'of none'}): give --distill that one again, or another --output"
                )
            if difference := data_difference(record.get("data", self.data), self.data):
                say(f"the pictures are not those that the run began with ({difference}): "
                    "it continues with these")  # fmt: skip
            self.iteration, self.images_seen = iteration, record["images_seen"]
            self.best = record.get("best", {})
            self.validated = record.get("validated", -1)
            self.averaged = record.get("averaged", 0)
            checkpoint.unpack(state, self.net, self.ema, self.optimiser)
            if self.teacher:
                self.teacher.unpack(state, record["round"])
            if self.adversary:
                self.adversary.unpack(state)
            say(f"resuming from iteration {self.iteration} in {folder}")
            if self.iteration >= self.config.iterations:
                say(f"all {self.config.iterations} iterations are done: --iterations takes more")
        if log is not None:
            log.resume(record.get("log", {}), self.iteration)

    def branch(self, folder: Path, say: Callable[[str], None]) -> None:
        """Begin as the run in `folder` stands: its network, average, optimiser and, where both have
        one, discriminator. Raises UsageError."""
        found = checkpoint.newest(folder, say)
        if found is None:
            raise UsageError(f"--init {folder}: no checkpoint in it")
        iteration, state, record = found
        self.averaged = iteration + record.get("averaged", 0)
        try:
            checkpoint.unpack(state, self.net, self.ema, self.optimiser)
            if self.adversary and any(key.startswith("adversary.") for key in state):
                self.adversary.unpack(state)
        except (KeyError, RuntimeError) as error:
            why = unlike(self.net, checkpoint.under("net.", state)) or error
            raise UsageError(f"--init {folder} has another layout: {why}") from error
        say(f"starting as {folder} stands at iteration {iteration}")

    def save(self, folder: Path, log: Log | None = None) -> None:
        """A checkpoint; every process must call it."""
        record = {
            "config": self.config.to_dict(),
            "images_seen": self.images_seen,
            "best": self.best,
            "validated": self.validated,
            "averaged": self.averaged,
            "data": self.data,
            "paired": self.paired,
            "command": self.command,
            "log": log.state() if log else {},
        }
        state = checkpoint.pack(self.net, self.ema, self.optimiser, keep=self.world.first)
        if self.teacher:
            record |= {"teacher": self.taught, "round": self.teacher.round}
        if self.world.first:
            state |= self.teacher.pack() if self.teacher else {}
            state |= self.adversary.pack() if self.adversary else {}
            checkpoint.save(folder, self.iteration, state, record)
        self.world.wait()

    def weights(self) -> dict[str, Tensor]:
        """The moving average, whole, on the CPU; every process must call it."""
        return {key: dist.full(value).cpu() for key, value in self.ema.items()}

    def exported(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a file of these weights holds: them, and beside them the discriminator, from which
        another run can go on."""
        return weights | (self.adversary.weights() if self.adversary else {})

    def keep_failed(self, folder: Path) -> Path | None:
        """The examples of the last iteration and their noise levels, for inspection."""
        if self.last is None:
            return None
        batches, sigma = self.last
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"failed-{self.iteration:08d}-{self.world.rank}.safetensors"
        state = {"sigma": sigma.cpu()}
        for part, batch in enumerate(batches):
            for name in ("hr", "lr_up", "scale"):
                state[f"{part}.{name}"] = getattr(batch, name).cpu().contiguous()
        places = [list(batch.places) for batch in batches]
        checkpoint.write(path, state, {"iteration": self.iteration, "places": places})
        return path

    # --- one iteration ---

    def step(self, batches: Sequence[Batch]) -> tuple[dict[str, float], Tensor]:
        """One iteration over the parts of its batch; returns the parts of the loss and
        `log.by_level`'s sums, both of all processes. Raises NumericalError."""
        try:
            return self._step(batches)
        except FloatingPointError as error:  # the flow, there or on the adjoint's way back
            raise NumericalError(f"{error}, at iteration {self.iteration}") from error

    def _step(self, batches: Sequence[Batch]) -> tuple[dict[str, float], Tensor]:
        config, iteration = self.config, self.iteration
        if config.progressive and config.round_of(iteration) > self.teacher.round:
            self._turn()
        rate = learning_rate(config, iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        sigma = self._sigma(config.count(iteration))
        self.last = (batches, sigma)
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        seen: list[tuple[Tensor, Tensor]] = []
        for index, batch in enumerate(batches):
            # dropout's, apart from the noise of the examples (`Chance`)
            torch.manual_seed(mix(config.seed + 4, iteration, self.world.rank, index))
            own = sigma[list(batch.places)].to(self.device)
            last = index + 1 == len(batches)
            with nullcontext() if last else dist.unsynchronised(self.objective):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                    parts, scores = self.objective(batch, own)
                if self.device.type == "cpu":  # (a GPU would have to wait for the question)
                    self._check({name: float(value.detach()) for name, value in parts.items()})
                (torch.stack(list(parts.values())).sum() / len(batches)).backward()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0) + value.detach().double() / len(batches)
            seen.append((own[: len(scores)], scores))
        means = self.world.mean(torch.stack(list(sums.values()))).tolist()
        values = self._check(dict(zip(sums, means, strict=True)))
        if config.clip_value:
            nn.utils.clip_grad_value_(self.net.parameters(), config.clip_value)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), config.clip or math.inf)
        norm = float(dist.full(norm))
        if not math.isfinite(norm):
            raise self._broken("gradient", norm, values)
        self.optimiser.step()
        if self.adversary and config.in_quality(iteration):
            self.adversary.step(rate, len(batches))
        self._average()
        self.iteration += 1
        self.images_seen += config.count(iteration)
        return {**values, "gradient_norm": norm, "learning_rate": rate}, self._levels(seen)

    def _levels(self, seen: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """`by_level` over the parts and the processes; zeros where there is no noise."""
        if self.once:
            return torch.zeros(2, len(LEVELS), dtype=torch.float64)
        own = torch.stack([by_level(sigma, scores) for sigma, scores in seen]).sum(0)
        return self.world.sum(own.to(self.device)).cpu()

    def _check(self, parts: dict[str, float]) -> dict[str, float]:
        """The parts of a loss with their sum before them. Raises NumericalError."""
        total = sum(parts.values())
        if not math.isfinite(total):
            raise self._broken("loss", total, parts)
        return {"loss": total, **parts}

    def _broken(self, what: str, value: float, parts: dict[str, float]) -> NumericalError:
        """The error for a loss or a gradient that is no number."""
        sigma = self.last[1]
        return NumericalError(
            f"the {what} became {value} at iteration {self.iteration} "
            f"({', '.join(f'{k} {v:.3g}' for k, v in parts.items())}), at noise levels "
            f"{float(sigma.min()):.3g} to {float(sigma.max()):.3g}: try a lower --learning-rate"
        )

    def _sigma(self, count: int) -> Tensor:
        """Noise levels of an iteration's whole batch, float64 (count,)."""
        if self.once:  # a regression network: L1 on its one answer
            return torch.full((count,), self.spec.process.sigma_max, dtype=torch.float64)
        generator = shared(self.config.seed, self.iteration)
        if self.config.antithetic:
            return self.law.sigma_at(antithetic(count, generator))
        return self.law.sample_sigma(count, generator)

    def _parts(self, batch: Batch, sigma: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(the parts of the loss of some examples, their score losses (B,)). Where those have no
        weight there are none, but at every SCORED-th iteration."""
        config = self.config
        chance = Chance(config.seed, self.iteration, batch.places, self.device)
        judged = config.in_quality(self.iteration) and min(batch.hr.shape[-2:]) >= SMALLEST
        weight = config.quality_score if judged or self.teacher else 1.0
        cond = encode(self.net, batch)  # both losses learn through the same features
        parts, scores = {"score": batch.hr.new_zeros(())}, sigma[:0]
        if weight:
            scores = score_loss(self.net, self.spec, batch, sigma, chance, cond)
            parts["score"] = weight * scores.mean()
        elif self.iteration % SCORED == 0:  # for the log alone
            with torch.no_grad():
                scores = score_loss(self.net, self.spec, batch, sigma, chance, cond)
            torch.clear_autocast_cache()  # of weights that were converted without gradients
        if config.progressive:
            other = replace(chance, seed=config.seed + 2)  # each loss has its own noise
            parts["distill"] = self.teacher.halving_loss(self.net, self.spec, batch, cond, other)
        if judged or (self.teacher and not config.progressive):
            parts |= self._finished(batch, chance, cond, judged)
        return parts, scores

    def _finished(self, batch: Batch, chance: Chance, cond: Any, judged: bool) -> dict[str, Tensor]:
        """Losses on finished pictures: against the teacher's, and where `judged` the truth."""
        config, parts = self.config, {}
        other = config.seed + 1  # the score loss has its own noise
        start = start_noise(batch, config.quality_cool, replace(chance, seed=other))
        generator = shared(other, self.iteration)  # the same for all examples
        mapped = self.teacher is not None and not config.progressive
        known = [n for n in range(1, config.quality_calls + 1) if not mapped or n & (n - 1) == 0]
        calls = known[int(torch.randint(len(known), (1,), generator=generator))]
        if config.quality_gradient == "adjoint":
            sr = flow(self.net, self.spec, batch, start, config.quality_tolerance, cond)
        else:
            sr = sample(self.net, self.spec, batch, start, calls, config.quality_depth, cond)
        sr = sr.float()
        if mapped:
            parts["distill"] = self.teacher.map_loss(sr, self.spec, batch, start)
        if not judged:
            return parts
        if exact(config, self.paired) and config.quality_gradient == "direct":
            sr = project(sr, batch)  # (ECDP, eq. 19, judges what its flow itself has made)
        own = replace(chance, seed=config.seed + 3)
        return parts | self.quality(sr, batch.hr, generator, own)

    def _turn(self) -> None:
        """Into the next round: the average is the teacher, and where the student starts from."""
        self.teacher.turn(self.weights(), self.config.round_of(self.iteration))
        with torch.no_grad():
            for key, value in self.net.state_dict().items():
                dist.local(value).copy_(dist.local(self.ema[key]))

    @torch.no_grad()
    def _average(self) -> None:
        known = self.averaged + self.iteration
        decay = min(self.config.ema, (1 + known) / (10 + known))
        for key, value in self.net.state_dict().items():
            dist.local(self.ema[key]).lerp_(dist.local(value), 1 - decay)
