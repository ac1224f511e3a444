"""A folder of pictures times methods, samplers and steps: one row of measurements each.

The protocol: a picture is cut at the bottom and right so that the scale divides it, shrunk by
`image.resize`'s bicubic in float, rounded to 8 bits, enlarged, rounded to 8 bits, and measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from upscale.bench.memory import peak_memory, reset_peak
from upscale.bench.score import METRICS, Scorer
from upscale.errors import DiffsrError, InputError, UsageError, WeightsError
from upscale.image.io import SUFFIXES, read, write
from upscale.image.picture import Picture, quantised
from upscale.image.resize import resize_array

__all__ = ["METRICS", "Settings", "make_lr", "pictures_of", "run"]

KERNEL = "bicubic (a=-0.5, antialiased, float), rounded to 8 bits"
Row = dict[str, Any]  # JSON-able, but for numbers that are not finite
Upscale = Callable[..., Any]  # an Upscaler, or what behaves like one


@dataclass(frozen=True)
class Settings:
    """What is measured. A None in a tuple is the weights' own default."""

    methods: tuple[str, ...] = ("bicubic",)
    scale: float = 4.0
    steps: tuple[int | None, ...] = (None,)
    samplers: tuple[str | None, ...] = (None,)
    temperatures: tuple[float | None, ...] = (None,)
    parametrisations: tuple[str | None, ...] = (None,)
    metrics: tuple[str, ...] = ("psnr_y", "ssim_y", "lpips", "consistency")
    weights: str | None = None
    domain: str = "photo"
    spacing: str | None = None
    consistency: str | None = None
    one_stage: bool = False
    limit: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False


@dataclass(frozen=True)
class Trial:
    """A method with one choice of how it samples; None is the weights' own."""

    method: str
    sampler: str | None = None
    steps: int | None = None
    temperature: float | None = None
    parametrisation: str | None = None


def run(
    dataset: Path,
    settings: Settings,
    *,
    outputs: Path | None = None,
    save: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    on_row: Callable[[Row, int, int], None] = lambda row, done, total: None,
    make_upscaler: Callable[[str, Settings], Upscale] | None = None,
) -> list[Row]:
    """Rows for every picture and trial, in that order.

    outputs: a folder of another program's results, measured instead of methods; paired with the
    dataset by the name without suffix. save: a folder for what the methods made. say: notes for
    the user. on_row(row, done, total) after each. make_upscaler: instead of `pipeline.Upscaler`.

    A picture that fails has a row with only `picture`, its trial and `error`, and the rest goes
    on. Raises UsageError, WeightsError, and InputError for an empty folder, for results without
    partner, or if nothing could be measured.
    """
    paths = pictures_of(dataset)
    partners = _partners(paths, outputs) if outputs else {}
    paths = paths[: settings.limit]
    scorer = Scorer(settings.metrics, settings.scale, settings.device)
    trials = [Trial(outputs.name)] if outputs else list(_trials(settings))
    makers = {}
    if not outputs:
        make = make_upscaler or _upscaler
        makers = {method: make(method, settings) for method in settings.methods}
    rows: list[Row] = []
    total = len(paths) * len(trials)
    for path in paths:
        for row in _rows_of(path, trials, makers, partners, scorer, settings, save):
            rows.append(row)
            if "error" in row:
                say(f"{row['method']}: {row['error']}")
            on_row(row, len(rows), total)
    if rows and all("error" in row for row in rows):
        raise InputError(f"{dataset}: no picture could be measured; {rows[0]['error']}")
    return rows


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a dataset, by name: those in its subfolder HR if it has one.

    Raises InputError if there are none, or two that differ only in their suffix."""
    inner = folder / "HR" if (folder / "HR").is_dir() else folder
    try:
        found = sorted(p for p in inner.iterdir() if p.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise InputError(f"{inner}: {error.strerror}") from error
    found = [p for p in found if p.is_file() and not p.name.startswith(".")]
    if not found:
        raise InputError(f"{inner}: no pictures in this folder")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise InputError(f"{inner}: {stems[path.stem].name} and {path.name} have one name")
        stems[path.stem] = path
    return found


def make_lr(hr: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """float32 (H,W,3) in [0,1] -> (lr, hr cut to lr's size times scale, halves up)."""
    small = tuple(math.floor(side / scale) for side in hr.shape[:2])
    if min(small) < 1:
        raise InputError(f"{hr.shape[1]}x{hr.shape[0]} is too small for a scale of {scale:g}")
    height, width = (math.floor(side * scale + 0.5) for side in small)
    hr = np.ascontiguousarray(hr[:height, :width])
    return _in_8_bits(resize_array(hr, small)), hr


def _trials(settings: Settings) -> Iterator[Trial]:
    """Every combination; a method that samples nothing has one."""
    from upscale.diffusion.samplers import ADAPTIVE
    from upscale.methods import METHODS as TABLE

    for method in dict.fromkeys(settings.methods):
        law = TABLE.get(method)
        if law is not None and law.sampler == "once":
            yield Trial(method)
            continue
        ways = (settings.samplers, settings.steps, settings.temperatures, settings.parametrisations)
        trials = [Trial(method, *way) for way in product(*ways)]
        # a sampler that chooses its own steps has one trial, whatever the numbers for the others
        yield from dict.fromkeys(
            replace(trial, steps=None) if trial.sampler in ADAPTIVE else trial for trial in trials
        )


def _upscaler(method: str, settings: Settings) -> Upscale:
    from upscale.methods import METHODS as TABLE
    from upscale.pipeline import Upscaler

    law = TABLE.get(method)
    own = None if law is not None and law.kernel else settings.weights
    return Upscaler(
        method, weights=own, domain=settings.domain, device=settings.device,
        dtype=settings.dtype, offline=settings.offline,
    )  # fmt: skip


def _rows_of(
    path: Path,
    trials: list[Trial],
    upscalers: dict[str, Upscale],
    partners: dict[str, Path],
    scorer: Scorer,
    settings: Settings,
    save: Path | None,
) -> Iterator[Row]:
    """One picture's rows; a failure becomes a row, unless it would be every picture's."""
    pair: tuple[np.ndarray, np.ndarray] | DiffsrError
    try:
        pair = make_lr(read(path).rgb, settings.scale)
    except DiffsrError as error:
        pair = error
    for trial in trials:
        row: Row = {"picture": path.name, "method": trial.method}
        try:
            if isinstance(pair, DiffsrError):
                raise pair
            lr, hr = pair
            if path.stem in partners:
                made, sr = {}, _result_of_others(partners[path.stem], hr.shape[:2])
            else:
                made, sr = _enlarge(upscalers[trial.method], lr, trial, settings)
                if save is not None:
                    write(Picture(sr), save / _label(trial) / f"{path.stem}.png", overwrite=True)
            yield {**row, **made, "scale": settings.scale, "kernel": KERNEL,
                   "height": hr.shape[0], "width": hr.shape[1],
                   **scorer(sr, hr, lr)}  # fmt: skip
        except (UsageError, WeightsError):
            raise
        except DiffsrError as error:
            named = {"sampler": trial.sampler, "steps": trial.steps}
            told = str(error) if str(path) in str(error) else f"{path}: {error}"
            yield {**row, **named, "error": told}


def _enlarge(
    upscaler: Upscale, lr: np.ndarray, trial: Trial, settings: Settings
) -> tuple[Row, np.ndarray]:
    """(what the row says of how it was made, sr in 8 bits)."""
    planned: Row = {
        "scale": settings.scale, "steps": trial.steps, "sampler": trial.sampler,
        "spacing": settings.spacing,
    }  # fmt: skip
    if settings.one_stage:
        planned["one_stage"] = True
    upscaler.plan(lr.shape[:2], **planned)  # loads the weights, which is not what is timed
    reset_peak()
    started = time.perf_counter()
    asked = {"temperature": trial.temperature, "parametrisation": trial.parametrisation}
    result = upscaler(
        Picture(lr),
        **planned,
        **{name: value for name, value in asked.items() if value is not None},
        seed=settings.seed,
        consistency=settings.consistency,
    )
    seconds = time.perf_counter() - started
    told = ("weights", "weights_sha256", "sampler", "steps", "nfe", "spacing", "temperature",
            "parametrisation", "seed", "consistency_mode", "device", "dtype")  # fmt: skip
    row = {key: result.report.get(key) for key in told}
    row.update(seconds=round(seconds, 4), peak_memory=peak_memory())
    return row, _in_8_bits(result.picture.rgb)


def _result_of_others(path: Path, size: tuple[int, int]) -> np.ndarray:
    sr = read(path)
    if sr.size != size:
        raise InputError(
            f"{path}: {sr.size[1]}x{sr.size[0]} pixels, where {size[1]}x{size[0]} are compared: "
            "the picture cut to a multiple of the scale"
        )
    return _in_8_bits(sr.rgb)


def _partners(paths: list[Path], outputs: Path) -> dict[str, Path]:
    """Stem -> result. Raises InputError naming what has no partner on either side."""
    results = {path.stem: path for path in pictures_of(outputs)}
    stems = {path.stem for path in paths}
    for lonely, where in ((stems - set(results), outputs), (set(results) - stems, "the dataset")):
        if lonely:
            some = ", ".join(sorted(lonely)[:5]) + (", ..." if len(lonely) > 5 else "")
            raise InputError(f"{where}: nothing named as {some} (names without suffix must agree)")
    return results


def _label(trial: Trial) -> str:
    warmth = None if trial.temperature is None else f"t{trial.temperature:g}"
    parts = (trial.method, trial.sampler, trial.steps, warmth, trial.parametrisation)
    return "_".join(str(part).replace(":", "") for part in parts if part)


def _in_8_bits(rgb: np.ndarray) -> np.ndarray:
    return quantised(rgb, 8).astype(np.float32) / np.float32(255)
