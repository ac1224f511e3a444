"""The training loop: one folder of pictures and one config in, one weights file out.

Run the same command again and training goes on where it stopped: every random number is a
function of (seed, iteration), so nothing but tensors has to be saved for an exact resume.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import methods
from ..diffusion.process import LogSNRLaw
from ..errors import NumericalError, UsageError
from . import checkpoint
from .config import SMALLEST, TrainConfig
from .data import Batch, Pairs
from .loss import QualityLoss, Spec, encode, flow, project, sample, score_loss, start_noise


@dataclass
class Progress:
    """What a caller may show after an iteration."""

    iteration: int
    iterations: int
    loss: float
    images_seen: int
    images_per_second: float


OnProgress = Callable[[Progress], None]


def _learning_rate(config: TrainConfig, iteration: int) -> float:
    """Linear warm-up, then a cosine to the final rate; each stage has its own."""
    start, end, peak = 0, config.iterations, config.learning_rate
    if config.quality_loss_from and iteration >= config.quality_loss_from:
        start, peak = config.quality_loss_from, config.quality_learning_rate
    elif config.quality_loss_from:
        end = config.quality_loss_from
    done = (iteration - start) / max(1, end - start)
    low = min(config.final_learning_rate, peak)
    cosine = low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return cosine * min(1.0, (iteration - start + 1) / max(1, config.warmup))


class Run:
    """A training run's state: network, moving average, optimiser, place in the data."""

    def __init__(
        self,
        net: nn.Module,
        spec: Spec,
        config: TrainConfig,
        pairs: Pairs,
        device: str = "cpu",
        autocast: bool = False,
        quality: QualityLoss | None = None,
    ) -> None:
        self.config, self.spec, self.pairs = config, spec, pairs
        self.device, self.autocast, self.quality = device, autocast, quality
        self.net = net.to(device).to(memory_format=torch.channels_last)
        self.ema = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )
        self.iteration = self.images_seen = 0
        self.law = LogSNRLaw() if config.noise_law == "logsnr" else spec.process

    def resume(self, folder: Path, say: Callable[[str], None]) -> None:
        """Go on from the newest whole checkpoint in `folder`, if there is one."""
        found = checkpoint.newest(folder, say)
        if found is None:
            return
        self.iteration, state, record = found
        old = record["config"]
        usual = TrainConfig().to_dict()  # for settings that did not exist when the run began
        changed = {k for k, v in self.config.to_dict().items() if old.get(k, usual[k]) != v}
        if changed - {"iterations"}:
            names = ", ".join(sorted(changed))
            raise UsageError(
                f"{folder} holds a run with other settings ({names}): "
                "give those again, or another --output"
            )
        self.images_seen = record["images_seen"]
        checkpoint.unpack(state, self.net, self.ema, self.optimiser)
        say(f"going on from iteration {self.iteration} in {folder}")

    def save(self, folder: Path) -> None:
        record = {"config": self.config.to_dict(), "images_seen": self.images_seen}
        state = checkpoint.pack(self.net, self.ema, self.optimiser)
        checkpoint.save(folder, self.iteration, state, record)

    def step(self) -> dict[str, float]:
        """One iteration; returns the parts of the loss. Raises NumericalError."""
        try:
            return self._step()
        except FloatingPointError as error:  # the flow, there or on the adjoint's way back
            raise NumericalError(f"{error}, at iteration {self.iteration}") from error

    def _step(self) -> dict[str, float]:
        config, iteration = self.config, self.iteration
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + iteration)
        in_quality = bool(config.quality_loss_from) and iteration >= config.quality_loss_from
        batch = self._batch(config.quality_batch if in_quality else config.batch)
        rate = _learning_rate(config, iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            cond = encode(self.net, batch)  # both losses learn through the same features
            parts = {"score": self._score(batch, generator, cond)}
            if in_quality and min(batch.hr.shape[-2:]) >= SMALLEST:
                parts["score"] = config.quality_score * parts["score"]
                parts |= self._quality(batch, generator, cond)
        loss = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            raise NumericalError(
                f"the loss became {float(loss)} at iteration {iteration} "
                f"({', '.join(f'{k} {float(v):.3g}' for k, v in parts.items())}): "
                "try a lower --learning-rate"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        if not torch.isfinite(norm):
            raise NumericalError(f"the gradient became {norm.item()} at iteration {iteration}")
        self.optimiser.step()
        self._average()
        self.iteration += 1
        self.images_seen += len(batch.hr)
        return {
            "loss": float(loss.detach()),
            **{k: float(v.detach()) for k, v in parts.items()},
            "gradient_norm": float(norm),
            "learning_rate": rate,
        }

    def _batch(self, count: int) -> Batch:
        batch = self.pairs.batch(self.iteration, count)
        layout = {"device": self.device, "memory_format": torch.channels_last}
        return Batch(
            batch.hr.to(**layout),
            batch.lr_up.to(**layout),
            batch.scale.to(self.device),
            [x.to(self.device) for x in batch.lr],
        )

    def _score(self, batch: Batch, generator: torch.Generator, cond: Any) -> Tensor:
        if methods.get(self.config.method).sampler == "once":  # regression: L1 on its one answer
            sigma = torch.full((len(batch.hr),), self.spec.process.sigma_max, dtype=torch.float64)
        else:
            sigma = self.law.sample_sigma(len(batch.hr), generator)
        sigma = sigma.to(self.device)
        return score_loss(self.net, self.spec, batch, sigma, generator, cond).mean()

    def _quality(self, batch: Batch, generator: torch.Generator, cond: Any) -> dict[str, Tensor]:
        config = self.config
        start = start_noise(batch, config.quality_cool, generator)
        calls = int(torch.randint(1, config.quality_calls + 1, (1,), generator=generator))
        if config.quality_gradient == "adjoint":
            sr = flow(self.net, self.spec, batch, start, config.quality_tolerance, cond)
        else:
            sr = sample(self.net, self.spec, batch, start, calls, config.quality_depth, cond)
        return self.quality(project(sr.float(), batch), batch.hr, generator)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.iteration) / (10 + self.iteration))
        for key, value in self.net.state_dict().items():
            self.ema[key].lerp_(value, 1 - decay)


def train(
    run: Run,
    folder: Path,
    *,
    max_minutes: float | None = None,
    save_minutes: float = 5.0,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = lambda progress: None,
) -> bool:
    """Run until the last iteration, `max_minutes` or `should_stop`; True when all is done.

    A checkpoint is written every `save_minutes` and at the end, one line per 20 iterations to
    metrics.jsonl.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = saved = time.monotonic()
    first_image, sums, count = run.images_seen, {}, 0
    with open(folder / "metrics.jsonl", "a") as log:
        while run.iteration < run.config.iterations and not should_stop():
            if max_minutes is not None and time.monotonic() - started > 60 * max_minutes:
                break
            parts = run.step()
            count += 1
            for key, value in parts.items():
                sums[key] = sums.get(key, 0.0) + value
            speed = (run.images_seen - first_image) / (time.monotonic() - started)
            on_progress(
                Progress(
                    run.iteration, run.config.iterations, parts["loss"], run.images_seen, speed
                )
            )
            if count == 20 or run.iteration == run.config.iterations:
                means = {k: round(v / count, 6) for k, v in sums.items()}
                line = {"iteration": run.iteration, "images_seen": run.images_seen, **means}
                log.write(json.dumps({**line, "images_per_second": round(speed, 2)}) + "\n")
                log.flush()
                sums, count = {}, 0
            if time.monotonic() - saved > 60 * save_minutes:
                run.save(folder)
                saved = time.monotonic()
    run.save(folder)
    return run.iteration >= run.config.iterations
