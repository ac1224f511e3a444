"""Pictures from noise alone: a network without a condition, then a cascade of super-resolution.

SR3 section 4.7: a DDPM at 64x64, and SR3 models of 4x each; more steps at the low resolution, fewer
at the high one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from upscale import methods
from upscale.diffusion.denoiser import bind
from upscale.diffusion.noise import noise_at
from upscale.diffusion.run import run_sampler
from upscale.diffusion.table import SAMPLERS
from upscale.document import counted
from upscale.errors import NumericalError, OutOfMemory, UsageError, WeightsError
from upscale.image.picture import Picture
from upscale.machine import autocast, dtype_name, is_out_of_memory, pick_device, pick_dtype
from upscale.model import build
from upscale.pipeline.request import Request
from upscale.pipeline.tensors import leaving
from upscale.pipeline.upscaler import Upscaler
from upscale.weights import store

# its stages' weights by domain (docs/faces.md), where listed; the first that serve a magnification
CASCADE = {"face": ("ecdp-photo-x2", "ecdp-photo")}
STEP = 4.0  # magnification of a stage
MOST = 16.0  # magnification of what is made without --size, as SR3's 64 -> 1024
NAME = "ddpm-face-16"  # taken where no weights are named
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Made:
    """A picture and a JSON-able account of how it was made."""

    picture: Picture
    report: dict[str, Any]


@dataclass(frozen=True)
class Level:
    """A stage of the cascade: an upscaler, the size that it makes, and its steps (None: its sampler
    chooses them)."""

    upscaler: Upscaler
    name: str
    size: tuple[int, int]
    steps: int | None


class Generator:
    """Weights of an unconditional network on a device.

    name: of weights in weights.toml, a .safetensors file or hf:ORG/REPO[@REVISION]/FILE; None for
    the `usual` ones. Raises UsageError, WeightsError.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
        on_bytes: store.OnBytes | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.common = {"device": device, "dtype": dtype, "offline": offline, "on_bytes": on_bytes}
        fetching = {"offline": offline, "on_bytes": on_bytes}
        self.entry = store.find(name or usual(), **fetching)
        if not methods.get(self.entry.method).unconditional:
            raise UsageError(
                f"weights {self.entry.name} are for {self.entry.method}, which enlarges a picture: "
                f"diffsr upscale in.png --weights {name}"
            )
        self.model = build(*store.load(self.entry, **fetching))
        self.model.net.to(self.device).to(memory_format=torch.channels_last)
        self.size = _size_of(self.model.metadata, self.entry.name)
        self.side = self.entry.enlarged_to or max(self.size)  # of the result, unless asked for

    def resolved(self, request: Request) -> Request:
        """The same with the weights' own sampler, steps, spacing and temperature where none were
        asked for; steps stay None for samplers that choose them. Raises UsageError."""
        law = self.model.law
        name, warm = request.sampler or law.sampler, request.temperature
        sampler = methods.sampler_of(name)
        if sampler.adaptive and request.steps is not None:
            raise UsageError(f"{name} chooses its own steps: leave --steps out")
        steps = request.steps or law.steps if sampler.stepped else 1 if sampler.single else None
        if warm is None:  # the weights' was chosen for samplers that add no noise of their own
            warm = 1.0 if sampler.stochastic else law.temperature
        spacing = request.spacing or law.spacing
        return replace(request, sampler=name, steps=steps, spacing=spacing, temperature=warm)

    def cascade(
        self,
        side: int | None = None,
        names: Sequence[str] = (),
        counts: Sequence[int] = (),
        first: int | None = None,
    ) -> list[Level]:
        """The stages to a size whose longer side is `side` (None: the weights' own choice).

        names: weights of each stage, the last for all that follow; without them `CASCADE`'s where
        they are listed and the stage before is no smaller than the weights' usual result, else
        those that `diffsr upscale` takes for the domain. counts: steps of
        each stage; the others take the weights' own, but at most half as many as the stage before
        (SR3 section 4.7: more at the low resolution, fewer at the high one). first: steps of the
        network before them. Raises UsageError, WeightsError.
        """
        stages, here, found = sizes(self.size, side or self.side, self.side), self.size, []
        domain, before = self.entry.domain, first or self.model.law.steps
        for given, flag in ((names, "--upscale-weights"), (counts, "--upscale-steps")):
            if len(given) > len(stages):
                count = counted(len(given), "stage")
                raise UsageError(
                    f"{flag} is given for {count}, and there are {len(stages)}: see --size"
                )
        for index, size in enumerate(stages):
            scale = math.sqrt(size[0] * size[1] / (here[0] * here[1]))
            if names:
                name = names[min(index, len(names) - 1)]
            else:  # what is drawn small is enlarged as `diffsr upscale` does it
                name = _usual_after(domain, scale) if max(here) >= self.side else None
            upscaler = Upscaler(weights=name, domain=domain, input="clean", **self.common)
            law = upscaler.models.law_at(scale)
            steps = counts[index] if index < len(counts) else None
            if not SAMPLERS[law.sampler].adaptive:
                before = steps = steps or max(1, min(law.steps, before // 2))
            found.append(Level(upscaler, upscaler.models.entry(scale).name, size, steps))
            here = size
        return found

    @torch.inference_mode()
    def __call__(
        self,
        indices: Sequence[int],
        request: Request | None = None,
        *,
        cascade: Sequence[Level] = (),
        on_step: OnStep = lambda done, of: None,
        **fields: Any,
    ) -> list[Made]:
        """The pictures of these numbers: each a function of seed and number. On a GPU all go
        through the network at once; on a CPU one by one, so that they are equal to the last bit
        whatever the others are. on_step(done, all) counts the pictures' sampler steps. fields: of
        `Request`, of which seed, sampler, steps, spacing, temperature and tolerances count.

        Raises NumericalError, OutOfMemory, UsageError, WeightsError.
        """
        started = time.perf_counter()
        way = self.resolved(replace(request or Request(), **fields))
        alone = self.device.type == "cpu" or SAMPLERS[way.sampler].adaptive
        groups = [[index] for index in indices] if alone else [list(indices)]
        own = way.steps or 1
        each = own + sum(level.steps or 1 for level in cascade)
        total, before, made = each * len(indices), 0, []
        for group in groups:
            steps = _part(on_step, before, len(group), total)
            drawn, calls = self._drawn(group, way, steps)
            before += own * len(group)
            for index, tensor in zip(group, drawn, strict=True):
                picture = Picture(leaving(tensor).numpy())
                report = self._report(index, way, calls)
                for level in cascade:
                    tell = _part(on_step, before, 1, total)
                    picture, account = _enlarged(level, picture, way.seed, tell)
                    report["stages"].append(account)
                    report["nfe"] += account["nfe"]
                    before += level.steps or 1
                report["size"] = list(picture.size)
                made.append(Made(picture, report))
        for one in made:
            one.report["seconds"] = round((time.perf_counter() - started) / len(made), 3)
        return made

    def _drawn(self, group: list[int], way: Request, on_step: OnStep) -> tuple[list[Tensor], int]:
        """(pictures (3,H,W) in [-1,1], network calls)."""
        law, calls = self.model.law, 0

        def noise(step: int) -> Tensor:  # warm already: a product in this order, as ever
            parts = [noise_at((way.seed, index, step), (0, 0), self.size) for index in group]
            return torch.cat(parts).to(self.device) * way.temperature

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            with autocast(self.device, self.dtype):
                return inner(x, sigma).clamp(-1, 1)  # as DDPM's published code: colours end there

        inner = bind(self.model.net, None, law.parametrisation)
        try:
            x = run_sampler(
                way.sampler, denoise, noise, law.process, way.steps or 1, way.spacing,
                tolerances=(way.rtol, way.atol), on_step=on_step,
            )  # fmt: skip
        except FloatingPointError as error:
            raise NumericalError(f"{error}: no picture is made") from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"memory ran out with {counted(len(group), 'picture')} at once: "
                              "try a smaller --batch") from error  # fmt: skip
        if not torch.isfinite(x).all():
            raise NumericalError("the output of the network is not finite: no picture is made "
                                 "(--dtype fp32)")  # fmt: skip
        return list(x.float().cpu()), calls

    def _report(self, index: int, way: Request, calls: int) -> dict[str, Any]:
        first = {
            "weights": self.entry.name, "weights_sha256": self.entry.sha256,
            "size": list(self.size), "sampler": way.sampler,
            "steps": way.steps, "nfe": calls, "spacing": way.spacing,
            "temperature": way.temperature,
        }  # fmt: skip
        return {
            "index": index, "seed": way.seed, "size": None, "nfe": calls,
            "device": str(self.device), "dtype": dtype_name(self.dtype), "stages": [first],
        }  # fmt: skip


def _part(on_step: OnStep, before: int, times: int, total: int) -> OnStep:
    """`on_step` of one part of the work, reported as that of all."""
    return lambda done, steps: on_step(min(total, before + times * done), total)


def usual() -> str:
    """The weights that are taken where none are named. Raises WeightsError where there are none."""
    known = store.entries()
    made = [name for name, e in known.items() if e.method in methods.METHODS
            and methods.METHODS[e.method].unconditional]  # fmt: skip
    for name in (NAME, *made):
        if name in known:
            return name
    raise WeightsError(
        "no weights for generate (method ddpm); give a file with --weights, or train some: "
        f"diffsr train --recipe {NAME} --dataset DIR --output RUN"
    )


def _usual_after(domain: str, scale: float) -> str | None:
    """Weights that were made for just this, if there are some."""
    listed = store.entries()
    able = (n for n in CASCADE.get(domain, ()) if n in listed and listed[n].serves(scale))
    return next(able, None)


def sizes(base: tuple[int, int], side: int, usual: int) -> list[tuple[int, int]]:
    """What each stage makes until the longer side is `side`: up to `usual` in one stage, then by
    4 while that fits, then the rest. UsageError."""
    longest = max(base)
    if not longest <= side <= MOST * usual:
        raise UsageError(f"--size {side}: these weights make {base[1]}x{base[0]}, and the cascade "
                         f"goes up to {round(MOST * usual)}")  # fmt: skip
    sides: list[float] = [usual] if longest < usual < side else []
    sides += [STEP * usual] if side > STEP * usual else []
    sides += [side] if side > longest else []
    return [tuple(round(one * each / longest) for one in base) for each in sides]


def _enlarged(
    level: Level, picture: Picture, seed: int, on_step: Callable[[int, int], None]
) -> tuple[Picture, dict[str, Any]]:
    """A stage's picture, and its account. The noise depends on the picture too, as in upscale."""
    result = level.upscaler(picture, size=level.size, steps=level.steps, seed=seed, on_step=on_step)
    kept = ("weights", "weights_sha256", "sampler", "steps", "nfe", "spacing", "temperature")
    account = {key: result.report.get(key) for key in kept}
    return result.picture, {"size": list(level.size), **account}


def _size_of(metadata: dict[str, Any], name: str) -> tuple[int, int]:
    """(height, width) that a network was trained for. Raises WeightsError."""
    size = metadata.get("size")
    sides = size if isinstance(size, list) and len(size) == 2 else (None, None)
    if not all(type(side) is int and 0 < side <= 4096 for side in sides):
        raise WeightsError(f"{name} does not say the size of its pictures (size {size!r}): "
                           "train it again with this version")  # fmt: skip
    return sides[0], sides[1]
