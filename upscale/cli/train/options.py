"""`diffsr train`'s options for what a run computes: one for every field of TrainConfig."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from upscale.cli.options import DOMAINS, Finite, Named, option, weights_names
from upscale.train.config import CHOICES, TrainConfig

_CHOICES = {
    "method": ("sr3", "ecdp", "idm", "regression", "liif", "edsr", "ddpm"),
    "domain": DOMAINS,
    **CHOICES,
}
_HELP = {
    "method": "What to train.",
    "domain": "What is on the pictures.",
    "patch": "Side of the training examples, a multiple of 16.",
    "batch": "Examples an iteration.",
    "iterations": "Length of the run.",
    "learning_rate": "The optimiser's step size at its highest.",
    "warmup": "Iterations over which it rises.",
    "final_learning_rate": "Where it ends.",
    "weight_decay": "Of AdamW.",
    "clip": "Largest norm of the gradient; 0: any.",
    "clip_value": "Largest value in the gradient; 0: any.",
    "crop": "How a picture becomes an example: ours, or a paper's (docs/training.md).",
    "degradation": "How the small picture is made: as the papers do, or as the world does.",
    "second_order": "Share of the real ones that are degraded twice over; the rest once, milder.",
    "drawings": "Share of the examples that are lettering and line art, drawn.",
    "holdout": "Pictures of the dataset that are validated on and not trained on.",
    "loss": "Between what the network tells and what it should.",
    "antithetic": "Draw noise levels in pairs, u and 1 - u.",
    "accumulate": "Parts that a batch is computed in, for less memory.",
    "optimiser": "What moves the weights.",
    "beta2": "Its second decay.",
    "schedule": "Of the step size after the warm-up.",
    "milestones": "Shares of the run at which --schedule steps goes down.",
    "decay": "By which factor it does.",
    "ema": "Decay of the moving average of the weights, which is what is exported.",
    "seed": "Of all random numbers of the run.",
    "scale_min": "Smallest magnification learnt.",
    "scale_max": "Largest.",
    "scale_focus": "The one that half of the examples have.",
    "scale_law": "Half of them at the focus, the rest log-uniformly; all log-uniformly; or all "
    "uniformly, as IDM.",
    "lr_side": "Side of the inputs, whose targets are then as large as the magnification makes "
    "them, one a batch; 0: targets of --patch.",
    "lr_side_share": "Share of the batches that --lr-side is for.",
    "whole": "Examples are whole pictures made small (aligned faces), not parts of them.",
    "net": "Network: compact, compact-tiny, or a paper's: ecdp-df2k, sr3-16-128, ... (a wrong name "
    "lists them).",
    "net_options": "Other values in its configuration, NAME=VALUE,..., several numbers with + "
    "between (encoder=6,inject=1+3+5: ECDP's sizes for a regression); idm's ablations: "
    "conditioning=encoder or input, upsampler=nearest or bilinear, fixed_scale=8.",
    "parametrisation": "What the network tells: eps, x0, v; ecdp: hybrid, hybrid:POWER, "
    "hybrid-eps, hybrid-x0. Default: the method's.",
    "target": "What is diffused: the picture, or what the enlarged input lacks of it. auto: the "
    "picture for SR3's and IDM's own networks, else the residual.",
    "std": "Standard deviation of the residual, for normalising it; 0: measured at the start.",
    "noise_law": "How noise levels are drawn.",
    "quality_loss_from": "Iteration from which a loss on finished pictures is added; 0: never.",
    "quality_batch": "Examples an iteration in that stage.",
    "quality_learning_rate": "Step size in that stage.",
    "quality_calls": "Most network calls that a finished picture takes in that stage.",
    "quality_cool": "Their start noise has temperature u^FLOAT, u uniform in [0, 1]; 0: always 1.",
    "quality_gradient": "How it reaches the network: through the last calls, or by the adjoint of "
    "the whole flow.",
    "quality_depth": "Calls that the direct gradient goes through.",
    "quality_tolerance": "Of the flow that the adjoint solves.",
    "quality_score": "Weight of the score loss in that stage.",
    "quality_l1": "Weight of the pixels' distance.",
    "quality_vgg": "Weight of LPIPS (vgg).",
    "quality_alex": "Weight of LPIPS (alex).",
    "quality_features": "Weight of the paper's own distance: L1 of VGG's last features.",
    "quality_phase": "Weight of what keeps a grid away that is the same all over a picture.",
    "quality_grid": "Weight of what keeps lines from ringing at the grid's period.",
    "quality_mesh": "Weight of what keeps single waves from standing out: fine hatching, meshes.",
    "quality_adversarial": "Weight of a discriminator that learns, from LPIPS's features (vgg's, "
    "else alex's), to tell the pictures from true ones.",
    "distill": "Weights (name, file or hf:...) of a teacher that a few-step student learns from; "
    "it starts from them too, unless --init is given.",
    "distill_kind": "Learn the teacher's pictures in 1, 2 and 4 calls, or halve its steps in "
    "rounds.",
    "distill_steps": "Of the teacher; for progressive a power of two.",
    "distill_weight": "Weight of what the teacher says.",
}


def config_options(function: Callable) -> Callable:
    """An option for every field of TrainConfig, with its default."""
    for known in reversed(fields(TrainConfig)):
        name, default = "--" + known.name.replace("_", "-"), known.default
        settings: dict[str, Any] = {"help": _HELP[known.name], "default": default}
        if known.name in _CHOICES:
            settings["type"] = Named(_CHOICES[known.name])
        elif isinstance(default, bool):
            settings["is_flag"] = True
        elif name == "--distill":
            settings |= {"metavar": "WEIGHTS", "shell_complete": weights_names}
        elif isinstance(default, str):
            settings["metavar"] = "NAME"
        elif isinstance(default, int):
            settings |= {"type": click.IntRange(0), "metavar": "N"}
        else:
            settings |= {"type": Finite(0), "metavar": "FLOAT"}
        function = option(name, known.name, **settings)(function)
    return function
