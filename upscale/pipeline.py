"""Picture in, larger picture out: the one place where weights, network and sampler meet."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import methods, weights
from .consistency import MODES, measured, settle
from .device import available_memory, is_out_of_memory, pick_bf16, pick_device
from .diffusion.denoiser import parametrisation as check
from .diffusion.process import SPACINGS
from .diffusion.samplers import ADAPTIVE, SAMPLERS, STOCHASTIC, nfe
from .errors import DiffsrError, NumericalError, OutOfMemory, UsageError
from .image.picture import Picture, fill_transparent
from .image.resize import resize, resize_array
from .plan import Plan, Stage, output_size
from .plan import stages as stages_of
from .stage import OnStep, Settings, run_stage, windows_of

SMALLEST_TILE = 128
PERCENT = 100  # of the way, for samplers whose steps nobody knows beforehand
STATE_BYTES = 120  # per output pixel: state, noise, estimate, enlarged input, accumulator


@dataclass(frozen=True)
class Result:
    """The enlarged picture and a JSON-able account of how it was made."""

    picture: Picture
    report: dict[str, Any]


class Upscaler:
    """A method with its weights on a device; call it with a Picture.

    method: a name in `methods.METHODS`; None takes the first of `methods.PREFERRED` that has
    weights for the scale. weights: a name in weights.toml, a .safetensors file or
    hf:ORG/REPO[@REVISION]/FILE (whose own method then counts); None takes the bundled weights that
    fit method and scale. offline: never ask the network. on_bytes(done, all) while weights are
    downloaded.
    """

    def __init__(
        self,
        method: str | None = None,
        *,
        weights: str | None = None,
        domain: str = "photo",
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
        on_bytes: weights.OnBytes | None = None,
    ) -> None:
        self.entry_name, self.domain = weights, domain
        self.fetching = {"offline": offline, "on_bytes": on_bytes}
        self.method = method
        if weights is not None:
            self.method = self._method_of(weights, method)
        self.law = methods.get(self.method or methods.PREFERRED[0])
        self.device = pick_device(device)
        self.bf16 = pick_bf16(dtype, self.device)
        self._models: dict[str, methods.Model] = {}

    def _method_of(self, name: str, method: str | None) -> str:
        found = weights.find(name, **self.fetching).method
        if method is not None and method != found:
            raise UsageError(f"weights {name} are for --method {found}, not {method}")
        return found

    # --- choosing -------------------------------------------------------------------------------

    def _entry(self, scale: float) -> weights.Entry | None:
        if self.law.kernel is not None:
            return None
        if self.entry_name is not None:
            return weights.find(self.entry_name, **self.fetching)
        names = methods.PREFERRED if self.method is None else (self.method,)
        return weights.choose_first(names, scale, self.domain)

    def _model(self, entry: weights.Entry) -> methods.Model:
        """Loaded once per weights file."""
        if entry.name not in self._models:
            state, metadata = weights.load(entry, **self.fetching)
            model = methods.build(state, metadata)
            model.net.to(self.device).to(memory_format=torch.channels_last)
            self._models[entry.name] = model
        return self._models[entry.name]

    def use_schedule(self, schedule: methods.Schedule, scale: float) -> None:
        """Sample so from now on at this scale, whatever the weights say."""
        model = self._model(self._entry(scale))
        self._models[self._entry(scale).name] = replace(
            model, law=model.law.with_schedule(schedule)
        )

    def law_at(self, scale: float) -> methods.Method:
        """How the weights for this scale sample unless told otherwise."""
        entry = self._entry(scale)
        return self.law if entry is None else self._model(entry).law

    def plan(
        self,
        size_in: tuple[int, int],
        *,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
        max_side: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        spacing: str | None = None,
        tile: str | int = "auto",
        overlap: int = 64,
        one_stage: bool = False,
    ) -> Plan:
        """Sizes, stages, network calls, tiles and memory for a picture of `size_in`.

        one_stage: the weights are used at this very scale, whatever they were trained for.
        """
        target = output_size(size_in, scale, size, max_side)
        factor = math.sqrt(target[0] * target[1] / (size_in[0] * size_in[1]))
        entry, law = self._entry(factor), self.law
        if entry is None:
            stages, notes = (Stage(size_in, target, 0),), ()
        else:
            law = self._model(entry).law
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
        name = sampler or law.sampler
        _known(name, SAMPLERS, "sampler")
        _known(spacing or law.spacing, SPACINGS, "spacing")
        calls = sum(nfe(name, stage.steps) for stage in stages) if entry else 0
        pixels = stages[-1].size_out[0] * stages[-1].size_out[1]
        side, count, memory = 0, 1, pixels * 48
        if entry is not None:
            net = self._model(entry).net
            side = self._tile(stages[-1].size_out, tile, net)
            boxes = windows_of(stages[-1].size_out, side, overlap, net.align) if side else [None]
            area = min(pixels, side * side) if side else pixels
            count, memory = len(boxes), pixels * STATE_BYTES + area * net.bytes_per_pixel
        return Plan(size_in, target, factor, stages, name, calls, side, count, memory, tuple(notes))

    def _tile(self, size: tuple[int, int], tile: str | int, net: torch.nn.Module) -> int:
        """Side of the square windows for an output; 0 where it is done at once."""
        if tile != "auto":
            side = int(tile)
            if side and side < SMALLEST_TILE:
                raise UsageError(f"--tile must be 0, or at least {SMALLEST_TILE}, not {side}")
            return 0 if side == 0 or side >= max(size) else side // net.align * net.align
        budget = available_memory(self.device) // 2 - size[0] * size[1] * STATE_BYTES
        if size[0] * size[1] * net.bytes_per_pixel <= min(max(budget, 0), 4 << 30):
            return 0
        side = int(math.sqrt(max(budget, 0) / net.bytes_per_pixel))
        side = max(SMALLEST_TILE * 2, min(side, 1024)) // net.align * net.align
        return 0 if side >= max(size) else side

    # --- doing ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def __call__(
        self,
        picture: Picture,
        *,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
        max_side: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
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
    ) -> Result:
        """Enlarge one picture. The same seed gives the same pixels whatever the tile, the batch
        or the order of pictures; `sample` counts variants of one seed. one_stage: see `plan`.

        on_step(done, all) after each sampler step. Raises UsageError, OutOfMemory, WeightsError,
        NumericalError.
        """
        started = time.perf_counter()
        if temperature is not None and not (math.isfinite(temperature) and temperature >= 0):
            raise UsageError(f"--temperature must be 0 or more, not {temperature}")
        if not (rtol > 0 and atol > 0):
            raise UsageError(f"--rtol and --atol must be above 0, not {rtol:g} and {atol:g}")
        if overlap < 0:
            raise UsageError(f"--overlap must be 0 or more, not {overlap}")
        _known(consistency or "project", MODES, "consistency")
        plan = self.plan(
            picture.size, scale=scale, size=size, max_side=max_side, steps=steps, sampler=sampler,
            spacing=spacing, tile=tile, overlap=overlap, one_stage=one_stage,
        )  # fmt: skip
        entry = self._entry(plan.scale)
        stated = self._model(entry).metadata.get("consistency") if entry else None
        mode = consistency or stated or "project"
        _known(mode, MODES, "consistency")
        rgb = picture.rgb if picture.alpha is None else fill_transparent(picture.rgb, picture.alpha)
        lr = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
        lr = (lr * 2 - 1).to(self.device)
        sr, side, notes, warmth, calls = lr, plan.tile, list(plan.notes), None, 0
        if entry is None:
            sr = resize(lr, plan.size_out, self.law.kernel)
        else:
            model = _retold(self._model(entry), parametrisation)
            warmth, found = _warmth(model, plan, plan.stages[0], spacing, temperature)
            told = "tuned" if found else spacing or model.law.spacing
            total = sum(stage.steps for stage in plan.stages)
            before = 0
            for index, stage in enumerate(plan.stages):
                warm, levels = _warmth(model, plan, stage, spacing, temperature)
                settings = Settings(
                    sampler=plan.sampler,
                    spacing=spacing or model.law.spacing,
                    levels=levels,
                    temperature=warm,
                    consistency=mode,
                    overlap=overlap,
                    seed=(seed, picture.fingerprint(), sample, index),
                    rtol=rtol,
                    atol=atol,
                    bf16=self.bf16,
                )
                tell = _counter(on_step, before, total)
                if tuple(sr.shape[-2:]) != stage.size_in:
                    sr = resize(sr, stage.size_in)
                sr, side, spent = self._stage(model, sr, stage, settings, tile, notes, tell)
                before, calls = before + stage.steps, calls + spent
            sr = resize(sr, plan.size_out) if tuple(sr.shape[-2:]) != plan.size_out else sr
            if mode == "project":
                sr = settle(sr, lr)
        if not torch.isfinite(sr).all():
            raise NumericalError("the result is not finite: no picture is written (--dtype fp32)")
        sr = sr.clamp_(-1, 1)
        made = _picture(sr, picture, plan.size_out)
        report = {
            "method": entry.method if entry else self.method,
            "weights": entry.name if entry else None,
            "weights_sha256": entry.sha256 if entry else None,
            "sampler": plan.sampler if entry else None,
            "steps": None if plan.sampler in ADAPTIVE else plan.stages[0].steps,
            "stages": [list(stage.size_out) for stage in plan.stages],
            "nfe": calls,
            "spacing": told if entry else None,
            "parametrisation": model.law.parametrisation if entry else None,
            **({"rtol": rtol, "atol": atol} if plan.sampler in ADAPTIVE else {}),
            "temperature": warmth,
            "seed": seed,
            "scale": round(plan.scale, 4),
            "size_in": list(picture.size),
            "size_out": list(plan.size_out),
            "tile": side,
            "overlap": overlap,
            "consistency_mode": mode if entry else None,
            **measured(made.rgb, rgb),
            "seconds": round(time.perf_counter() - started, 3),
            "device": str(self.device),
            "dtype": "bf16" if self.bf16 else "fp32",
            "notes": notes,
        }
        return Result(made, report)

    def _stage(
        self,
        model: methods.Model,
        lr: Tensor,
        stage: Stage,
        settings: Settings,
        tile: str | int,
        notes: list[str],
        on_step: OnStep,
    ) -> tuple[Tensor, int, int]:
        """One network run: picture, tile, network calls. After an out-of-memory all of it again
        with a tile half as large."""
        side = self._tile(stage.size_out, tile, model.net)
        while True:
            try:
                sr, calls = run_stage(model, lr, stage, settings, side, on_step)
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
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            notes.append(f"memory ran out: done again in tiles of {side}")


def _known(name: str, table: Any, what: str) -> None:
    if name not in table:
        raise UsageError(f"no {what} {name!r}; have {', '.join(table)}")


def _retold(model: methods.Model, name: str | None) -> methods.Model:
    """The model with its answers read in another way: the hybrid's heads one by one."""
    if name is None or name == model.law.parametrisation:
        return model
    own = model.law.parametrisation
    if not (name.startswith("hybrid") and own.startswith("hybrid")):
        raise UsageError(
            f"--parametrisation {name}: these weights' network was trained for {own}"
            + (", and has one head" if not own.startswith("hybrid") else "; have hybrid...")
        )
    try:
        check(name)
    except ValueError as error:
        raise UsageError(f"--parametrisation: {error}") from error
    return replace(model, law=replace(model.law, parametrisation=name))


def _warmth(
    model: methods.Model, plan: Plan, stage: Stage, spacing: str | None, temperature: float | None
) -> tuple[float, tuple[float, ...]]:
    """(temperature, noise levels) of a stage; the levels are empty where none were searched for,
    or the user names a spacing."""
    schedule = model.law.tuned(plan.sampler, stage.steps) if spacing is None else None
    # a weights file's temperature was chosen for samplers that add no noise of their own
    own = 1.0 if plan.sampler in STOCHASTIC else model.law.temperature
    if schedule is not None:
        own = schedule.temperature
    return own if temperature is None else temperature, schedule.sigmas if schedule else ()


def _picture(sr: Tensor, source: Picture, size: tuple[int, int]) -> Picture:
    """(1,3,H,W) in [-1,1] and what the source carried besides colour."""
    rgb = ((sr[0].float() + 1) / 2).permute(1, 2, 0).cpu().numpy()
    if source.grey:
        rgb = np.repeat(rgb.mean(2, keepdims=True), 3, 2)
    alpha = source.alpha
    if alpha is not None:
        alpha = np.clip(resize_array(alpha, size), 0, 1)
    return replace(source, rgb=np.ascontiguousarray(rgb), alpha=alpha)


def _counter(on_step: OnStep | None, before: int, total: int) -> OnStep:
    """Progress of one stage told as progress of all."""
    return lambda done, _: on_step(before + done, total) if on_step else None
