"""`diffsr train`'s options for what a run computes: one for every field of TrainConfig."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from upscale.cli.options import DOMAINS, TRAINABLE, Finite, Named, option, weights_names
from upscale.train.config import CHOICES, TrainConfig

_CHOICES = {
    "method": TRAINABLE,
    "domain": DOMAINS,
    **CHOICES,
}
_COMMON = {"method", "domain", "iterations", "batch"}
_HELP = {  # group -> field -> help
    "Run": {
        "method": "What to train.",
        "domain": "What the pictures show.",
        "iterations": "Length of the run.",
        "batch": "Examples per iteration.",
        "accumulate": "Compute each batch in this many parts, which takes less memory. The result "
        "is that of the whole batch.",
        "seed": "Seed of all random numbers in the run.",
    },
    "Pictures": {
        "patch": "Side of the training examples in pixels, a multiple of 16.",
        "crop": "How an example is cut from a picture: our way (augmented) or a paper's "
        "(docs/training.md).",
        "whole": "Shrink whole pictures (aligned faces) to examples instead of cutting parts.",
        "scale_min": "Smallest magnification that is learnt.",
        "scale_max": "Largest magnification that is learnt.",
        "scale_focus": "The magnification of half of the examples.",
        "scale_law": "How magnifications are drawn: half of them at the focus and the rest "
        "log-uniformly (focus), all log-uniformly (log), or all uniformly as in IDM (uniform).",
        "lr_side": "Give all inputs this side, so that targets are as large as the magnification "
        "makes them; each batch has one magnification. 0: targets of --patch.",
        "lr_side_share": "Share of the batches that use --lr-side.",
        "degradation": "How the low-resolution picture is made: bicubic as in the papers, or "
        "with blur, noise and JPEG (real).",
        "second_order": "With --degradation real: share of the examples that are degraded twice. "
        "The others are degraded once, and less.",
        "drawings": "Share of the examples that show drawn lettering and line art.",
        "holdout": "Number of pictures that are kept for validation and not trained on.",
    },
    "Network": {
        "net": "Network: compact, compact-tiny, or a paper's such as ecdp-df2k or sr3-16-128. "
        "The error for an unknown name lists them all.",
        "net_options": "Other values for the network's configuration: NAME=VALUE,... with + "
        "between several numbers, as in encoder=6,inject=1+3+5. IDM's ablations are "
        "conditioning=encoder or input, upsampler=nearest or bilinear, and fixed_scale=8.",
        "parametrisation": "What the network predicts: eps, x0 or v; for ecdp hybrid, "
        "hybrid:POWER, hybrid-eps or hybrid-x0. Default: the method's own.",
        "target": "What is diffused: the picture, or its residual to the enlarged input. auto: "
        "the picture for SR3's and IDM's own networks, otherwise the residual.",
        "std": "Standard deviation by which the residual is divided. 0: measured at the start.",
    },
    "Loss": {
        "loss": "Distance between the network's prediction and its target.",
        "noise_law": "How noise levels are drawn.",
        "antithetic": "Draw noise levels in pairs, u and 1 - u.",
    },
    "Optimiser": {
        "learning_rate": "Highest step size of the optimiser.",
        "warmup": "Iterations over which the step size rises.",
        "final_learning_rate": "Step size at the end of the run.",
        "schedule": "Course of the step size after the warm-up.",
        "milestones": "Shares of the run at which --schedule steps lowers the step size.",
        "decay": "Factor by which it is then multiplied.",
        "optimiser": "Optimisation method.",
        "beta2": "Decay rate of the optimiser's second moment.",
        "weight_decay": "Weight decay of AdamW.",
        "clip": "Largest norm of the gradient. 0: no limit.",
        "clip_value": "Largest absolute value in the gradient. 0: no limit.",
        "ema": "Decay of the moving average of the weights. The average is what is exported.",
    },
    "Image quality loss": {
        "quality_loss_from": "Iteration from which a loss on finished pictures is added. 0: never.",
        "quality_batch": "Examples per iteration in that stage.",
        "quality_learning_rate": "Step size in that stage.",
        "quality_calls": "Largest number of network calls for a finished picture.",
        "quality_cool": "Start noise has temperature u^FLOAT, with u uniform in [0, 1]. 0: "
        "temperature 1 always.",
        "quality_gradient": "How the gradient reaches the network: through the last calls "
        "(direct), or by the adjoint of the whole flow.",
        "quality_depth": "Number of calls that the direct gradient goes through.",
        "quality_tolerance": "Tolerance of the flow that the adjoint solves.",
        "quality_score": "Weight of the score loss in that stage.",
        "quality_l1": "Weight of the L1 distance between pixels.",
        "quality_vgg": "Weight of LPIPS (vgg).",
        "quality_alex": "Weight of LPIPS (alex).",
        "quality_features": "Weight of the paper's own distance, L1 between the last features of "
        "VGG.",
        "quality_phase": "Weight of the penalty on a grid that is the same all over a picture.",
        "quality_grid": "Weight of the penalty on lines that ring at the grid's period.",
        "quality_mesh": "Weight of the penalty on single waves that stand out, such as fine "
        "hatching.",
        "quality_adversarial": "Weight of a discriminator that learns to distinguish the pictures "
        "from true ones by LPIPS features (of vgg where it is there, otherwise of alex).",
    },
    "Distillation": {
        "distill": "Weights (a name, a file or hf:...) of the teacher of a few-step student. The "
        "student also starts from them, unless --init is given.",
        "distill_kind": "Learn the teacher's pictures in 1, 2 and 4 calls (map), or halve its "
        "steps in rounds (progressive).",
        "distill_steps": "Steps of the teacher; a power of two for --distill-kind progressive.",
        "distill_weight": "Weight of the distance to the teacher.",
    },
}


def config_options() -> list[Callable]:
    """An option for every field of TrainConfig, with its default."""
    defaults = {known.name: known.default for known in fields(TrainConfig)}
    made = [
        option(
            "--" + name.replace("_", "-"), name, help=text, group=group,
            expert=name not in _COMMON, **_kind(name, defaults.pop(name)),
        )
        for group, texts in _HELP.items()
        for name, text in texts.items()
    ]  # fmt: skip
    assert not defaults, f"no help for {defaults}"
    return made


def _kind(name: str, default: Any) -> dict[str, Any]:
    """The settings of `option` that follow from a field's name and default."""
    kind: dict[str, Any] = {"default": default}
    if name in _CHOICES:
        kind["type"] = Named(_CHOICES[name])
    elif isinstance(default, bool):
        kind["is_flag"] = True
    elif name == "distill":
        kind |= {"metavar": "WEIGHTS", "shell_complete": weights_names}
    elif isinstance(default, str):
        kind["metavar"] = "NAME"
    elif isinstance(default, int):
        kind |= {"type": click.IntRange(0), "metavar": "N"}
    else:
        kind |= {"type": Finite(0), "metavar": "FLOAT"}
    return kind
