"""Picture in, larger picture out: the one place where weights, network and sampler meet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from os import PathLike
from typing import Any, BinaryIO, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from upscale.diffusion.table import SAMPLERS
from upscale.document import counted
from upscale.errors import UsageError
from upscale.image.estimate import Degradation
from upscale.image.faces import Face
from upscale.image.frames_in import Film
from upscale.image.picture import Picture
from upscale.image.pillow import PillowImage, picture_of, pillow_of
from upscale.machine import dtype_name, pick_device, pick_dtype
from upscale.methods import Method
from upscale.model import Model
from upscale.pipeline import consistency, faces
from upscale.pipeline.bands import Enlarging, joined
from upscale.pipeline.frames import plans
from upscale.pipeline.models import Models, read_as
from upscale.pipeline.plan import Plan, Stage, fitted, output_size, stages, warmed
from upscale.pipeline.request import Request, Setup
from upscale.pipeline.sampling import Call, OnStep, Sampling, directly
from upscale.pipeline.tensors import pictures_of, tensor_of
from upscale.weights.hub.files import OnBytes
from upscale.weights.registry import Entry

Source: TypeAlias = "str | PathLike[str] | BinaryIO | np.ndarray"
OnRows = Callable[[Picture, dict[str, Any]], None]
PERCENT = 100  # steps of samplers whose steps nobody knows beforehand: parts of the way


@dataclass(frozen=True, repr=False)
class Result:
    """The enlarged `picture` and a JSON-able account of how it was made."""

    made: Picture | None  # None where `on_rows` took it
    report: dict[str, Any]

    @property
    def picture(self) -> Picture:
        if self.made is None:
            raise ValueError("on_rows took the picture")
        return self.made

    def __repr__(self) -> str:
        told = ", ".join(f"{key}={self.report.get(key)!r}" for key in ("weights", "seconds"))
        return f"<Result {self.made}, {told}>"


class Upscaler:
    """A method with its weights on a device; call it with a picture.

    method and setup: the fields of `request.Setup`. on_bytes(done, all) while weights are
    downloaded. Raises UsageError, WeightsError, and TypeError for fields that are none.
    """

    def __init__(
        self, method: str | None = None, *, on_bytes: OnBytes | None = None, **setup: Any
    ) -> None:
        chosen = Setup(method, **setup)
        self.device = pick_device(chosen.device)
        self.dtype = pick_dtype(chosen.dtype, self.device)
        self.models = Models(chosen, self.device, on_bytes)
        self.method = self.models.method
        self._on_bytes = on_bytes
        self._setup = chosen

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes, which load the network themselves. `on_bytes` stays here."""
        return partial(type(self), **vars(self._setup)), ()

    def __repr__(self) -> str:
        given = {**vars(self._setup), "method": self.method}
        told = [f"{one.name}={given[one.name]!r}" for one in fields(Setup)
                if given[one.name] != one.default]  # fmt: skip
        return f"Upscaler({', '.join(told)}) on {self.device}"

    def plan(
        self, picture: Picture | tuple[int, int], request: Request | None = None, **fields: Any
    ) -> Plan:
        """All that is decided for a picture before it is enlarged: sizes, weights, stages, noise,
        tiles. Of a mere size (height, width) clean input is assumed unless the user said real.

        fields: of `Request`, in the place of the request's own. Raises UsageError, WeightsError,
        and TypeError for fields that are none.
        """
        request = replace(request, **fields) if request else Request(**fields)
        pixels = picture if isinstance(picture, Picture) else None
        size_in = pixels.size if pixels else picture
        denoise, taken_for, estimate = request.denoise, None, None
        if denoise is None:
            taken_for, estimate = self.models.taken_for(pixels)
        size = output_size(size_in, request.scale, request.size, request.max_side)
        factor = math.sqrt(size[0] * size[1] / (size_in[0] * size_in[1]))
        if estimate is not None:
            denoise = self.models.share(factor, estimate)
        entry, law = self.models.entry(factor, taken_for, denoise), self.models.law
        projection = 0.0
        if entry is None:
            model, way, notes = None, (Stage(size_in, size, 0),), []
            sampler, mode = request.sampler or law.sampler, "off"
        else:
            model = read_as(self.models.model(entry), request.parametrisation)
            law = model.law
            sampler, steps = _sampler_and_steps(law, request)
            way, notes = stages(
                size_in, size, factor, steps, entry,
                continuous=law.continuous, one_stage=request.one_stage,
                given=request.steps is not None or SAMPLERS[sampler].adaptive,
            )  # fmt: skip
            way = tuple(warmed(stage, law, sampler, request) for stage in way)
            mode = request.consistency or ("blend" if model.parts else model.consistency)
            projection = consistency.in_steps(model, request.consistency)
        small, said = self._faces(pixels) if request.faces else (None, [])
        plan = Plan(
            request, size_in, size, factor, way, sampler, request.spacing or law.spacing, mode,
            projection,
            nfe=sum(SAMPLERS[sampler].calls(stage.steps) for stage in way)
            * (model.networks if model else 0),
            notes=(*_choice(taken_for, estimate, entry), *notes, *said,
                   *_too_many(request, entry, law, sampler)),
            entry=entry, taken_for=taken_for, degradation=estimate, denoise=denoise,
            faces=small,
        )  # fmt: skip
        return fitted(plan, model.net if model else None, self.device)

    @torch.inference_mode()
    def run(
        self,
        plan: Plan,
        picture: Picture,
        *,
        sample: int = 0,
        on_step: OnStep | None = None,
        on_rows: OnRows | None = None,
        call: Call = directly,
    ) -> Result:
        """Enlarge a picture as planned for it. sample: number of the variant of one seed.

        on_step(done, all) after each sampler step; call: see `sampling.Call`. on_rows(band, report)
        gets the result in bands of whole rows, from the top, and the `Result` then holds none;
        `report` lacks what is only known at the end. Safe to call from several threads.
        Raises OutOfMemory, WeightsError, NumericalError.
        """
        started = time.perf_counter()
        request, entry, model, law = plan.request, plan.entry, None, self.models.law
        if entry is not None:
            model = read_as(self.models.model(entry), request.parametrisation)
            law = model.law
        able = model is None or self.dtype in model.net.dtypes
        dtype = self.dtype if able else torch.float32
        own = model is not None and bool(model.parts) and request.consistency is None
        sampling = Sampling(
            plan.sampler, plan.spacing, None if own else plan.projection,
            (request.seed, 0 if request.same_noise else picture.fingerprint(), sample),
            dtype, request.overlap,
            (request.rtol, request.atol),
        )  # fmt: skip
        adaptive, first = SAMPLERS[plan.sampler].adaptive, plan.stages[0]
        report = {
            "method": entry.method if entry else self.method,
            "weights": plan.weights,
            "weights_sha256": entry.sha256 if entry else None,
            "net": entry.net if entry else None,
            "taken_for": plan.taken_for,
            "denoise": plan.denoise,
            "degradation": plan.degradation.report() if plan.degradation else None,
            "sampler": plan.sampler if entry else None,
            "steps": None if adaptive else first.steps,
            "stages": [list(stage.size_out) for stage in plan.stages],
            "parametrisation": law.parametrisation if entry else None,
            **({"rtol": request.rtol, "atol": request.atol} if adaptive else {}),
            "seed": request.seed,
            "same_noise": request.same_noise,
            "scale": round(plan.scale, 4),
            "size_in": list(picture.size),
            "size_out": list(plan.size_out),
            "overlap": request.overlap,
            "consistency_mode": plan.consistency if entry else None,
            "device": str(self.device),
            "dtype": dtype_name(sampling.dtype),
        }
        if plan.faces is not None:
            report["faces"] = faces.report(plan.faces)
        work = Enlarging(plan, model, law.kernel, sampling, self.device, on_step, call)
        if plan.faces:
            work.artist = self._faces_model
        made = None
        if on_rows is None:
            made = joined(work.bands(picture), plan.size_out)
        else:
            for band in work.bands(picture):
                on_rows(band, report)
                del band  # a part of many rows, which are not needed while the next are made
        report |= {
            "spacing": ("tuned" if first.levels else plan.spacing) if entry else None,
            "temperature": first.temperature if entry else None,
            "tile": work.tile, "nfe": work.nfe, "notes": work.notes,
            **consistency.report(work.error),
            "dtype": dtype_name(work.sampling.dtype),  # what it ended with
            "seconds": round(time.perf_counter() - started, 3),
        }  # fmt: skip
        return Result(made, report)

    def _faces(self, picture: Picture | None) -> tuple[tuple[Face, ...] | None, list[str]]:
        """`faces.found`; of a mere size nobody knows. Raises UsageError, WeightsError."""
        if self._setup.domain == faces.DOMAIN:
            raise UsageError(
                "--faces finds the faces in a photograph, and --domain face takes each picture for "
                "one face: give one of the two"
            )
        return (None, []) if picture is None else faces.found(picture)

    @cached_property
    def _faces_model(self) -> Model:
        """The weights that draw the faces of photographs."""
        setup = Setup(domain=faces.DOMAIN, offline=self._setup.offline, compile=self._setup.compile)
        models = Models(setup, self.device, self._on_bytes)
        return models.model(models.entry(faces.SCALE))

    def frames(self, film: Film, **fields: Any) -> Iterator[Result]:
        """Enlarge each frame or page of what `image.frames_in.read_frames` gives. The noise of a
        place is the same in all. fields: of `Request`. Raises as for one picture."""
        for plan, picture in plans(self, film, Request(**fields)):
            yield self.run(plan, picture)

    @overload
    def __call__(self, picture: Picture, **settings: Any) -> Result: ...
    @overload
    def __call__(self, picture: Tensor, **settings: Any) -> Tensor: ...
    @overload
    def __call__(self, picture: Source | PillowImage, **settings: Any) -> PillowImage: ...

    def __call__(
        self,
        picture: Any,
        *,
        sample: int = 0,
        on_step: OnStep | None = None,
        on_rows: OnRows | None = None,
        call: Call = directly,
        **fields: Any,
    ) -> Result | Tensor | PillowImage:
        """Enlarge one picture: `plan` and `run` in one. fields: of `Request`; the others: of `run`.

        A `Picture` gives a `Result`; a tensor (C,H,W) or (B,C,H,W) of floats in [0,1] gives one of
        the same kind; a path, a Pillow image or an array (H,W), (H,W,3), (H,W,4) of uint8, uint16
        or floats in [0,1] gives a Pillow image (of 8 bits: Pillow has no deeper colour). Raises
        UsageError, InputError, OutOfMemory, WeightsError, NumericalError, and TypeError for fields
        that are none.
        """
        request, how = Request(**fields), {"on_step": on_step, "on_rows": on_rows, "call": call}

        def made(one: Picture) -> Result:
            started = time.perf_counter()
            result = self.run(self.plan(one, request), one, sample=sample, **how)
            result.report["seconds"] = round(time.perf_counter() - started, 3)
            return result

        if isinstance(picture, Picture):
            return made(picture)
        if isinstance(picture, Tensor):
            return tensor_of([made(one).picture for one in pictures_of(picture)], picture)
        return pillow_of(made(picture_of(picture)).picture)


def _sampler_and_steps(law: Method, request: Request) -> tuple[str, int]:
    """As asked for, else the preset's, else the weights' own. Raises UsageError."""
    sampler, steps = request.sampler, request.steps
    if request.preset is not None:
        own = law.preset(request.preset)
        sampler, steps = sampler or own[0], own[1] if steps is None else steps
    sampler = sampler or law.sampler
    if SAMPLERS[sampler].adaptive:
        if steps is not None:
            raise UsageError("rk45 chooses its own steps: give --rtol and --atol instead")
        return sampler, PERCENT
    steps = law.steps if steps is None else steps
    if steps < 1:  # of the weights: a request's are checked
        raise UsageError(f"these weights name {steps} steps: give --steps")
    return sampler, steps


def _too_many(request: Request, entry: Entry | None, law: Method, sampler: str) -> list[str]:
    """A note about more steps than are taken, or than the weights gain by."""
    if entry and SAMPLERS[sampler].single and (request.steps or 0) > 1:
        return [f"--steps {request.steps} changes nothing: {entry.name} makes one network call"]
    if entry is None or not entry.steps_to or (request.steps or 0) <= entry.steps_to:
        return []
    own = counted(law.steps, "step")
    return [f"{entry.name} is best in {own}: in more than {entry.steps_to} it measured worse"]


def _choice(taken_for: str | None, found: Degradation | None, entry: Entry | None) -> list[str]:
    """Notes about weights that were chosen by what the picture is taken for."""
    if entry is None or (found and entry.input != "real"):
        return []
    if found is None:
        missing = taken_for == "real" and entry.input != "real"
        return [f"there are no weights for real input: {entry.name} is used"] if missing else []
    lossy = "" if found.quality is None else f"quality {found.quality:.0f}, "
    noisy = "" if found.noise is None else f"noise {found.noise:g}, "
    seen = "" if found.gain is None else f", gain {found.gain:g}"
    return [f"taken for real input of strength {found.strength:g} ({lossy}{noisy}"
            f"blur {found.blur:g}{seen}), so {entry.name} is used; if not: --input clean, or "
            "--denoise"]  # fmt: skip
