"""Picture in, larger picture out: the one place where weights, network and sampler meet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from upscale.diffusion.process import SPACINGS
from upscale.diffusion.samplers import ADAPTIVE, SAMPLERS, nfe
from upscale.errors import UsageError
from upscale.image.estimate import Degradation
from upscale.image.picture import Picture
from upscale.image.pillow import picture_of, pillow_of
from upscale.machine import pick_bf16, pick_device
from upscale.methods import PRESETS, Method, Schedule
from upscale.pipeline.bands import Enlarging, joined
from upscale.pipeline.consistency import MODES
from upscale.pipeline.consistency import told as consistency_of
from upscale.pipeline.models import Models, read_as
from upscale.pipeline.plan import Plan, Stage, output_size
from upscale.pipeline.plan import stages as stages_of
from upscale.pipeline.sizing import with_memory
from upscale.pipeline.stage import Call, OnStep, Settings, directly
from upscale.weights.store import Entry, OnBytes

OnRows = Callable[[Picture, dict[str, Any]], None]
PERCENT = 100  # of the way, for samplers whose steps nobody knows beforehand


@dataclass(frozen=True)
class Result:
    """The enlarged picture and a JSON-able account of how it was made."""

    picture: Picture | None  # None where `on_rows` took it
    report: dict[str, Any]


class Upscaler:
    """A method with its weights on a device; call it with a picture.

    method: a name in `methods.METHODS`; None takes the first of `methods.PREFERRED` that has
    weights for domain and scale. weights: a name in weights.toml, a .safetensors file or
    hf:ORG/REPO[@REVISION]/FILE (whose own method then counts); None takes the bundled weights that
    fit method and scale. input: real has pictures that are blurred, noisy or compressed done by
    weights for such, clean by the others; auto looks at each picture, where neither a method nor
    weights are named. offline: never ask the network. compile: by torch.compile, which
    takes a minute or more at the first picture. on_bytes(done, all) while weights are downloaded.
    """

    def __init__(
        self,
        method: str | None = None,
        *,
        weights: str | None = None,
        domain: str = "photo",
        input: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
        compile: bool = False,
        on_bytes: OnBytes | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.bf16 = pick_bf16(dtype, self.device)
        self.models = Models(
            method, weights, domain, self.device, offline, on_bytes, compile, input
        )
        self.method = self.models.method

    def use_schedule(self, schedule: Schedule, scale: float) -> None:
        """Sample so from now on at this scale, whatever the weights say."""
        self.models.use_schedule(schedule, scale)

    def law_at(self, scale: float) -> Method:
        """How the weights for this scale sample unless told otherwise."""
        return self.models.law_at(scale)

    def plan(
        self,
        picture: Picture | tuple[int, int],
        *,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
        max_side: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        preset: str | None = None,
        spacing: str | None = None,
        tile: str | int = "auto",
        overlap: int = 64,
        one_stage: bool = False,
    ) -> Plan:
        """Sizes, weights, stages, network calls, tiles and memory for a picture; of one of which
        only the size (height, width) is given, clean input is assumed unless the user said real.

        one_stage: the weights are used at this very scale, whatever they were trained for.
        preset: fast, balanced or best, the sampler and steps that are not given (`Method.preset`).
        """
        known = picture if isinstance(picture, Picture) else None
        size_in = known.size if known else picture
        taken_for, estimate = self.models.taken_for(known)
        target = output_size(size_in, scale, size, max_side)
        factor = math.sqrt(target[0] * target[1] / (size_in[0] * size_in[1]))
        entry, law = self.models.entry(factor, taken_for), self.models.law
        _known(preset or PRESETS[0], PRESETS, "preset")
        if entry is None:
            stages, notes = (Stage(size_in, target, 0),), ()
        else:
            law = self.models.model(entry).law
            if preset is not None:
                own = law.preset(preset)
                sampler, steps = sampler or own[0], own[1] if steps is None else steps
            count = law.steps if steps is None else steps
            if (sampler or law.sampler) in ADAPTIVE:
                if steps is not None:
                    raise UsageError("rk45 chooses its own steps: give --rtol and --atol instead")
                count = PERCENT
            if count < 1:
                raise UsageError("--steps must be at least 1")
            stages, notes = stages_of(
                size_in,
                target,
                factor,
                count,
                entry,
                continuous=law.continuous,
                one_stage=one_stage,
            )
            notes = [*_choice(taken_for, estimate, entry), *notes]
        name = sampler or law.sampler
        _known(name, SAMPLERS, "sampler")
        _known(spacing or law.spacing, SPACINGS, "spacing")
        calls = sum(nfe(name, stage.steps) for stage in stages) if entry else 0
        net = self.models.model(entry).net if entry else None
        return with_memory(
            Plan(
                size_in, target, factor, stages, name, calls, 0, 1, 0, tuple(notes),
                weights=entry.name if entry else None, taken_for=taken_for, degradation=estimate,
            ),
            net, tile, overlap, self.device,
        )  # fmt: skip

    # --- doing ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def __call__(
        self,
        picture: Picture | Any,
        *,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
        max_side: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        preset: str | None = None,
        spacing: str | None = None,
        seed: int = 0,
        sample: int = 0,
        temperature: float | None = None,
        parametrisation: str | None = None,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        tile: str | int = "auto",
        overlap: int = 64,
        one_stage: bool = False,
        consistency: str | None = None,
        on_step: OnStep | None = None,
        on_rows: OnRows | None = None,
        call: Call = directly,
    ) -> Result | Any:
        """Enlarge one picture, scale 4 unless told otherwise. A `Picture` gives a `Result`; a path,
        a Pillow image or an array (H,W), (H,W,3), (H,W,4) of uint8, uint16 or floats in [0,1] gives
        a Pillow image (of 8 bits: Pillow has no deeper colour).

        The same seed gives the same pixels whatever the tile or the order of pictures; `sample`
        counts variants of one seed. one_stage: see `plan`. on_step(done, all) after each sampler
        step; call: see `stage.Call`. on_rows(band, report) gets the result in bands of whole rows,
        from the top, and the `Result` of a `Picture` then holds none; `report` lacks what is only
        known at the end. Safe to call from several threads.
        Raises UsageError, InputError, OutOfMemory, WeightsError, NumericalError.
        """
        started = time.perf_counter()
        source, picture = picture, picture_of(picture)
        _check(temperature, rtol, atol, overlap, consistency)
        plan = self.plan(
            picture, scale=scale, size=size, max_side=max_side, steps=steps, sampler=sampler,
            preset=preset, spacing=spacing, tile=tile, overlap=overlap, one_stage=one_stage,
        )  # fmt: skip
        entry = self.models.entry(plan.scale, plan.taken_for)
        model = read_as(self.models.model(entry), parametrisation) if entry else None
        law = model.law if model else self.models.law
        stated = model.metadata.get("consistency") if model else None
        mode = consistency or stated or "project"
        _known(mode, MODES, "consistency")
        common = Settings(
            plan.sampler, spacing or law.spacing, 1.0, mode, overlap,
            (seed, picture.fingerprint(), sample), rtol, atol, self.bf16,
        )  # fmt: skip
        adaptive = plan.sampler in ADAPTIVE
        report = {
            "method": entry.method if entry else self.method,
            "weights": entry.name if entry else None,
            "weights_sha256": entry.sha256 if entry else None,
            "taken_for": plan.taken_for,
            "degradation": plan.degradation.told() if plan.degradation else None,
            "sampler": plan.sampler if entry else None,
            "steps": None if adaptive else plan.stages[0].steps,
            "stages": [list(stage.size_out) for stage in plan.stages],
            "parametrisation": law.parametrisation if entry else None,
            **({"rtol": rtol, "atol": atol} if adaptive else {}),
            "seed": seed,
            "scale": round(plan.scale, 4),
            "size_in": list(picture.size),
            "size_out": list(plan.size_out),
            "overlap": overlap,
            "consistency_mode": mode if entry else None,
            "device": str(self.device),
            "dtype": "bf16" if self.bf16 else "fp32",
        }
        work = Enlarging(
            plan, model, self.models.law.kernel, common, (spacing, temperature), tile, self.device,
            on_step, call,
        )  # fmt: skip
        made = None
        if on_rows is None:
            made = joined(work.bands(picture), plan.size_out)
        else:
            for band in work.bands(picture):
                on_rows(band, report)
        report |= {"spacing": None, "temperature": None, **work.told, **consistency_of(work.error)}
        report["dtype"] = "bf16" if work.common.bf16 else "fp32"  # what it ended with
        report["seconds"] = round(time.perf_counter() - started, 3)
        return Result(made, report) if picture is source else pillow_of(made)


def _choice(taken_for: str | None, found: Degradation | None, entry: Entry) -> list[str]:
    """What a user is told of weights that were chosen by what the picture is taken for."""
    if taken_for != "real":
        return []
    if entry.input != "real":
        return [] if found else [f"there are no weights for real input: {entry.name} is used"]
    if found is None:
        return []
    return [f"taken for real input (noise {found.noise:g}, blocking {found.blocking:g}, blur "
            f"{found.blur:g}), so {entry.name} is used; if not: --input clean"]  # fmt: skip


def _check(
    temperature: float | None, rtol: float, atol: float, overlap: int, mode: str | None
) -> None:
    if temperature is not None and not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"--temperature must be 0 or more, not {temperature}")
    if not (rtol > 0 and atol > 0):
        raise UsageError(f"--rtol and --atol must be above 0, not {rtol:g} and {atol:g}")
    if overlap < 0:
        raise UsageError(f"--overlap must be 0 or more, not {overlap}")
    _known(mode or "project", MODES, "consistency")


def _known(name: str, table: Any, what: str) -> None:
    if name not in table:
        raise UsageError(f"no {what} {name!r}; have {', '.join(table)}")
