"""What moves the weights, and how far."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from upscale.train.config import TrainConfig


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """Linear warm-up, over a tenth of the run at most, then as the schedule says; each stage has
    its own."""
    start, end, peak = 0, config.iterations, config.learning_rate
    if config.in_quality(iteration):
        start, peak = config.quality_loss_from, config.quality_learning_rate
    else:
        end = config.quality_loss_from or end
        if config.progressive:  # each round (Salimans & Ho 2022, appendix on the set-up)
            start, end = config.round_bounds(iteration, end)
    done = (iteration - start) / max(1, end - start)
    rate = peak
    if config.schedule == "cosine":
        low = min(config.final_learning_rate, peak)
        rate = low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    elif config.schedule == "steps":
        rate = peak * config.decay ** sum(done >= share for share in config.milestone_shares())
    whole = end - start if config.progressive else config.iterations  # a round is a run
    return rate * min(1.0, (iteration - start + 1) / max(1, min(config.warmup, whole // 10)))


def make_optimiser(config: TrainConfig, net: nn.Module, device: torch.device) -> Any:
    """Adam, or Adam with its decay apart from the gradient (AdamW)."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimiser]
    return kind(
        net.parameters(),
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )
