"""What is compared: every combination of method, weights, scale and way of sampling, once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from upscale.errors import UsageError
from upscale.methods import METHODS, sampler_of
from upscale.weights import store

AUTO = "auto"  # the method that stands for what `upscale` takes for each picture by itself


@dataclass(frozen=True)
class BenchSettings:
    """What is measured. A None in a tuple is the weights' own default."""

    methods: tuple[str, ...] = ("bicubic",)
    scales: tuple[float, ...] = (4.0,)
    steps: tuple[int | None, ...] = (None,)
    samplers: tuple[str | None, ...] = (None,)
    presets: tuple[str | None, ...] = (None,)
    denoises: tuple[float | None, ...] = (None,)
    temperatures: tuple[float | None, ...] = (None,)
    parametrisations: tuple[str | None, ...] = (None,)
    metrics: tuple[str, ...] = ("psnr_y", "ssim_y", "lpips", "consistency")
    weights: tuple[str, ...] = ()
    outputs: tuple[tuple[str, Path], ...] = ()  # what they are called, and where they are
    degradation: str = "none"  # of the small pictures: a name of `columns.DEGRADATIONS`
    domain: str = "photo"
    spacing: str | None = None
    consistency: str | None = None
    one_stage: bool = False
    limit: int | None = None
    seed: int = 0
    samples: int = 1
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    crop: int = 128


@dataclass(frozen=True)
class Trial:
    """A method with one choice of how it samples; None is the weights' own.

    outputs: a folder of another program's results, which are measured in the method's place.
    """

    method: str
    sampler: str | None = None
    steps: int | None = None
    temperature: float | None = None
    denoise: float | None = None
    parametrisation: str | None = None
    weights: str | None = None
    scale: float = 4.0
    outputs: Path | None = None
    preset: str | None = None

    @property
    def label(self) -> str:
        """A folder name that tells one trial of a scale from the others."""
        warmth = None if self.temperature is None else f"t{self.temperature:g}"
        own = None if self.weights is None else Path(self.weights).stem
        cleaned = None if self.denoise is None else f"d{self.denoise:g}"
        parts = [self.method, own, cleaned, self.preset, self.sampler, self.steps, warmth]
        parts.append(self.parametrisation)
        return "_".join(str(part).replace(":", "") for part in parts if part)


def trials_of(settings: BenchSettings) -> list[Trial]:
    """Every combination. A method that samples nothing has one, and so has a sampler that chooses
    its own steps. Raises UsageError and WeightsError for weights that fit no method, and UsageError
    for results that are called like others."""
    found = []
    for scale in dict.fromkeys(settings.scales):
        found += [Trial(name, scale=scale, outputs=o) for name, o in settings.outputs]
        for method, weights in _armed(settings):
            found += _ways(settings, Trial(method, weights=weights, scale=scale))
    names = [name for name, _ in settings.outputs]
    for name in names:
        if names.count(name) > 1 or any(t.method == name and not t.outputs for t in found):
            raise UsageError(f"{name} is named twice; call one of them: --outputs OTHER=DIR")
    return found


def _armed(settings: BenchSettings) -> Iterator[tuple[str, str | None]]:
    """Each method with each of the weights that are its own; with weights but no methods, theirs.

    A method that none of the weights is for takes what fits it, if it is a resize or `AUTO`; others
    would be measured with weights that were not requested."""
    owners = {name: store.find(name).method for name in dict.fromkeys(settings.weights)}
    methods = tuple(dict.fromkeys(settings.methods or owners.values()))
    free = {AUTO, *(name for name, law in METHODS.items() if law.kernel)}
    if free.issuperset(methods):
        methods = tuple(dict.fromkeys((*methods, *owners.values())))  # beside the weights
    for name, owner in owners.items():
        if owner not in methods:
            raise UsageError(f"weights {name} are for --method {owner}, not {', '.join(methods)}")
    for method in methods:
        own = [name for name, owner in owners.items() if owner == method]
        if owners and not own and method not in free:
            raise UsageError(
                f"--weights has none for --method {method}; name some, or leave --weights out"
            )
        yield from ((method, name) for name in own or [None])


def _ways(settings: BenchSettings, trial: Trial) -> Iterator[Trial]:
    law = METHODS.get(trial.method)
    if law is not None and law.single:
        yield trial
        return
    ways = {
        "denoise": settings.denoises,
        "sampler": settings.samplers,
        "steps": settings.steps,
        "temperature": settings.temperatures,
        "parametrisation": settings.parametrisations,
        "preset": settings.presets,
    }
    named = [replace(trial, **dict(zip(ways, way, strict=True))) for way in product(*ways.values())]
    yield from dict.fromkeys(
        replace(one, steps=None) if one.sampler and sampler_of(one.sampler).adaptive else one
        for one in named
    )
