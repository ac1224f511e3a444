"""All stages of one picture, from the input to a sample of the wanted size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from upscale.errors import DiffsrError, NumericalError, OutOfMemory
from upscale.image.resize import resize
from upscale.machine import is_out_of_memory
from upscale.methods import Model
from upscale.pipeline.models import warmth
from upscale.pipeline.plan import Plan, Stage
from upscale.pipeline.sizing import SMALLEST_TILE, tile_side
from upscale.pipeline.stage import Call, OnStep, Settings, run_stage


def sampled(
    model: Model,
    plan: Plan,
    lr: Tensor,
    common: Settings,
    given: tuple[str | None, float | None],
    tile: str | int,
    on_step: OnStep | None,
    call: Call,
) -> tuple[Tensor, dict[str, Any]]:
    """All stages: lr (1,3,h,w) -> sample (1,3,*plan.size_out), and what to tell of how it was made.

    common: the settings without what is each stage's own. given: the user's spacing, temperature.
    """
    spacing, temperature = given
    warm, levels = warmth(model, plan.sampler, plan.stages[0].steps, spacing, temperature)
    told = {"temperature": warm, "spacing": "tuned" if levels else common.spacing}
    total = sum(stage.steps for stage in plan.stages)
    sr, side, notes, before, calls = lr, plan.tile, list(plan.notes), 0, 0
    for index, stage in enumerate(plan.stages):
        warm, levels = warmth(model, plan.sampler, stage.steps, spacing, temperature)
        settings = replace(common, temperature=warm, levels=levels, seed=(*common.seed, index))
        tell = _counter(on_step, before, total)
        if tuple(sr.shape[-2:]) != stage.size_in:
            sr = resize(sr, stage.size_in)
        sr, side, spent = _stage(model, sr, stage, settings, tile, notes, tell, call)
        before, calls = before + stage.steps, calls + spent
    sr = resize(sr, plan.size_out) if tuple(sr.shape[-2:]) != plan.size_out else sr
    return sr, told | {"tile": side, "nfe": calls, "notes": notes}


def _stage(
    model: Model,
    lr: Tensor,
    stage: Stage,
    settings: Settings,
    tile: str | int,
    notes: list[str],
    on_step: OnStep,
    call: Call,
) -> tuple[Tensor, int, int]:
    """`run_stage`: picture, tile, network calls. After an out-of-memory all of it again with a
    tile half as large, of which `notes` tells. Raises OutOfMemory, NumericalError."""
    side = tile_side(stage.size_out, tile, model.net, lr.device)
    while True:
        try:
            sr, calls = run_stage(model, lr, stage, settings, side, on_step, call)
            return sr, side, calls
        except FloatingPointError as error:
            raise NumericalError(f"{error}: no picture is written") from error
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, DiffsrError) or not is_out_of_memory(error):
                raise
            largest = side or max(stage.size_out)
            side = max(SMALLEST_TILE, largest // 2 // model.net.align * model.net.align)
            if largest <= SMALLEST_TILE:
                raise OutOfMemory(
                    f"{stage.size_out[1]}x{stage.size_out[0]} does not fit into memory even "
                    f"in tiles of {SMALLEST_TILE}: try a smaller --scale"
                ) from error
        if lr.device.type == "cuda":
            torch.cuda.empty_cache()
        notes.append(f"memory ran out: done again in tiles of {side}")


def _counter(on_step: OnStep | None, before: int, total: int) -> OnStep:
    """Progress of one stage told as progress of all."""
    return lambda done, _: on_step(before + done, total) if on_step else None
