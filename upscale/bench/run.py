"""Pictures times trials: one row of measurements each, by the rules of `protocol`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from upscale.atomic import make_folder
from upscale.bench.cache import Cache, Measured, Row
from upscale.bench.crops import cuts
from upscale.bench.protocol import in_8_bits, kernel_of, open_pair, result_of_others
from upscale.bench.score import Case, Scorer
from upscale.bench.testsets import Pair, pairs_of
from upscale.bench.trials import AUTO, BenchSettings, Trial, trials_of
from upscale.errors import DiffsrError, InputError, UsageError, WeightsError
from upscale.image.encode import write
from upscale.image.folders import partners_of
from upscale.image.picture import Picture
from upscale.machine import peak_memory, pick_device, processor, reset_peak, versions
from upscale.pipeline.request import Request
from upscale.weights import choice, store

Upscale = Callable[..., Any]  # an Upscaler, or what behaves like one
Arrays = dict[str, np.ndarray]
# what a row takes over from the report of a picture
_ACCOUNT = (
    "weights", "weights_sha256", "denoise", "sampler", "steps", "nfe", "spacing", "temperature",
    "parametrisation", "seed", "consistency_mode", "device", "dtype", "tile",
)  # fmt: skip


def run(
    dataset: Path,
    settings: BenchSettings,
    *,
    name: str | None = None,
    save: Path | None = None,
    cache: Cache | None = None,
    shown: dict[int, Arrays] | None = None,
    say: Callable[[str], None] = lambda text: None,
    on_row: Callable[[Row, int, int], None] = lambda row, done, total: None,
    make_upscaler: Callable[[Trial, BenchSettings], Upscale] | None = None,
) -> list[Row]:
    """Rows for every picture and trial, in that order.

    name: of the dataset in the rows. save: a folder for what the methods made. cache: rows that
    are there are not measured again. shown: filled with what a report shows, by the row's place in
    the list. say: notes for the user. on_row(row, done, total) after each. make_upscaler: instead
    of `pipeline.Upscaler`.

    A picture that fails has a row with only `picture`, its trial and `error`, and the rest goes
    on. Raises UsageError, WeightsError, and InputError for an empty folder, for results without
    partner, or if nothing could be measured.
    """
    trials = trials_of(settings)
    pairs = {scale: pairs_of(dataset, scale) for scale in dict.fromkeys(settings.scales)}
    stems = [pair.hr.stem for pair in pairs[settings.scales[0]]]
    needed = stems[: settings.limit]
    partners = {folder: partners_of(stems, folder, needed) for _, folder in settings.outputs}
    bench = _Bench(
        settings, trials, partners, save, cache or Cache(None), make_upscaler or _upscaler
    )
    read = [path for found in pairs.values() for one in found for path in (one.hr, one.lr) if path]
    read += [path for found in partners.values() for path in found.values()]
    bench.check_save({path.parent.resolve() for path in read})
    count = len(needed)
    rows: list[Row] = []
    total, features = count * len(bench.trials), {}
    for index in range(count):
        here = {scale: pairs[scale][index] for scale in pairs}
        for trial, measured in bench.measure(here):
            row = {"dataset": name or dataset.name, **measured.row}
            if shown is not None:
                shown[len(rows)] = {k: v for k, v in measured.arrays.items() if "fid" not in k}
            if "fid" in settings.metrics:
                features.setdefault(trial, []).append((row, measured.arrays))
            rows.append(row)
            if "error" in row:
                say(f"{row['method']}: {row['error']}")
            on_row(row, len(rows), total)
    if rows and all("error" in row for row in rows):
        raise InputError(f"{dataset}: no picture could be measured; {rows[0]['error']}")
    _add_fid(features)
    return rows


@dataclass
class _Bench:
    """All that stays the same from picture to picture."""

    settings: BenchSettings
    trials: list[Trial]
    partners: dict[Path, dict[str, Path]]
    save: Path | None
    cache: Cache
    make_upscaler: Callable[[Trial, BenchSettings], Upscale]

    def __post_init__(self) -> None:
        settings = self.settings
        self.scorers = {
            scale: Scorer(settings.metrics, scale, settings.device, settings.samples)
            for scale in dict.fromkeys(settings.scales)
        }
        self.upscalers = {
            (trial.method, trial.weights): self.make_upscaler(trial, settings)
            for trial in dict.fromkeys(self.trials)
            if trial.outputs is None
        }
        self.device = str(pick_device(settings.device))

    def measure(self, here: dict[float, Pair]) -> Iterator[tuple[Trial, Measured]]:
        """One picture's rows; a failure becomes a row, unless it would be every picture's."""
        opened: dict[float, tuple[Picture, np.ndarray]] = {}
        for trial in self.trials:
            pair = here[trial.scale]
            made = self.partners[trial.outputs][pair.hr.stem] if trial.outputs else None
            row: Row = {"picture": pair.hr.name, "method": trial.method}
            try:
                key = self._key(trial, pair, made)
                known = None if self.save else self.cache.get(key)
                if known is not None:
                    yield trial, known
                    continue
                if trial.scale not in opened:
                    opened[trial.scale] = open_pair(pair, trial.scale, self.settings.degradation)
                measured = self._measure(trial, pair, *opened[trial.scale], made)
                self.cache.put(key, measured)
                yield trial, measured
            except (UsageError, WeightsError):
                raise
            except DiffsrError as error:
                named = {"scale": trial.scale, "sampler": trial.sampler, "steps": trial.steps}
                path = made if made is not None and str(made) in str(error) else pair.hr
                text = str(error) if str(path) in str(error) else f"{path}: {error}"
                yield trial, Measured({**row, **named, "error": text})

    def _measure(
        self, trial: Trial, pair: Pair, lr: Picture, hr: np.ndarray, made: Path | None
    ) -> Measured:
        scorer = self.scorers[trial.scale]
        if made is not None:
            account, results = {}, [result_of_others(made, hr.shape[:2])]
        else:
            upscaler = self.upscalers[trial.method, trial.weights]
            account, results = _enlarge(upscaler, lr, trial, self.settings)
            for sample, sr in enumerate(results):
                self._write(Picture(sr, icc=lr.icc), trial, pair, sample)
        cases = [Case(sr, hr, lr.rgb, pair.label) for sr in results]
        row: Row = {
            "picture": pair.hr.name, "picture_sha256": store.sha256_of(pair.hr),
            "method": trial.method, **account, "scale": trial.scale,
            "degradation": self.settings.degradation,
            "kernel": kernel_of(pair, self.settings.degradation),
            "treatment": list(lr.notes), "border": scorer.border, "samples": len(results),
            "height": hr.shape[0], "width": hr.shape[1], **scorer.of_all(cases),
            "versions": versions(), "machine": processor(self.device),
        }  # fmt: skip
        shown = cuts(cases[0].sr, hr, lr.rgb, trial.scale, self.settings.crop)
        return Measured(row, {**shown, **scorer.features(cases)})

    def check_save(self, inputs: set[Path]) -> None:
        """Before the work: UsageError where what is saved could replace what is measured. inputs:
        the folders of that."""
        own = [trial for trial in self.trials if trial.outputs is None] if self.save else []
        folders = [self._folder(trial) for trial in own]
        for folder in folders:
            if folder.resolve() in inputs:
                raise UsageError(
                    f"--save {self.save}: {folder} holds pictures that are measured, and inputs "
                    "are never replaced; name another folder"
                )
            if folders.count(folder) > 1:
                raise UsageError(
                    f"--save {self.save}: {folder} would hold the pictures of two trials, the "
                    "later instead of the earlier; give weights names that differ"
                )
            make_folder(folder)

    def _folder(self, trial: Trial) -> Path:
        """Where what a trial makes is saved."""
        assert self.save is not None
        several = len(self.scorers) > 1
        return self.save / (f"{trial.label}_x{trial.scale:g}" if several else trial.label)

    def _write(self, sr: Picture, trial: Trial, pair: Pair, sample: int) -> None:
        if self.save is None:
            return
        ending = f"_{sample}" if self.settings.samples > 1 else ""
        target = self._folder(trial) / f"{pair.hr.stem}{ending}.png"
        write(sr, target, overwrite=True)

    def _key(self, trial: Trial, pair: Pair, made: Path | None) -> str:
        """The cache's name for a row: all that its numbers depend on."""
        if self.cache.folder is None:
            return ""
        settings, scorer = self.settings, self.scorers[trial.scale]
        try:
            files = [store.sha256_of(path) for path in (pair.hr, pair.lr, made) if path is not None]
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}") from error
        named = (
            "metrics", "degradation", "spacing", "consistency", "one_stage", "seed", "samples",
            "dtype", "crop",
        )  # fmt: skip
        return self.cache.key(
            files=files,
            name=pair.hr.name,
            label=pair.label,
            trial=repr(trial),
            weights=_hashes(trial, settings),
            sources=scorer.sources,
            device=self.device,
            on=[versions(), processor(self.device)],
            **{name: getattr(settings, name) for name in named},
        )


def _hashes(trial: Trial, settings: BenchSettings) -> list[str]:
    """The sha256 of all weights that a trial may use."""
    if trial.outputs is not None:
        return []
    method = None if trial.method == AUTO else trial.method
    mixing = trial.denoise is not None
    return choice.hashes(method, trial.weights, trial.scale, settings.domain, mixing=mixing)


def _upscaler(trial: Trial, settings: BenchSettings) -> Upscale:
    from upscale.pipeline.upscaler import Upscaler

    method = None if trial.method == AUTO else trial.method
    named = ("domain", "device", "dtype", "offline")
    return Upscaler(
        method, weights=trial.weights, **{name: getattr(settings, name) for name in named}
    )


def _enlarge(
    upscaler: Upscale, lr: Picture, trial: Trial, settings: BenchSettings
) -> tuple[Row, list[np.ndarray]]:
    """(what the row says of how it was made, samples of sr in 8 bits)."""
    request = Request(
        scale=trial.scale, preset=trial.preset, steps=trial.steps, sampler=trial.sampler,
        temperature=trial.temperature, denoise=trial.denoise,
        parametrisation=trial.parametrisation,
        spacing=settings.spacing, one_stage=settings.one_stage, seed=settings.seed,
        consistency=settings.consistency,
    )  # fmt: skip
    plan = upscaler.plan(lr, request)  # loads the weights, which is not what is timed
    made, seconds = [], 0.0
    reset_peak()
    for sample in range(settings.samples):
        started = time.perf_counter()
        result = upscaler.run(plan, lr, sample=sample)
        seconds += (time.perf_counter() - started) / settings.samples
        made.append(in_8_bits(result.picture.rgb))
    row = {key: result.report.get(key) for key in _ACCOUNT} | {"preset": trial.preset}
    if trial.method == AUTO:  # then pictures differ in these, and are one trial
        named = ("preset", "sampler", "steps", "temperature", "denoise", "parametrisation")
        row["asked"] = {name: getattr(trial, name) for name in named}
        row["taken_for"] = result.report.get("taken_for")
        row["estimate"] = result.report.get("degradation")
    peak, pixels = peak_memory(), made[0].shape[0] * made[0].shape[1]
    row["seconds"] = round(seconds, 4)
    row["megapixels_per_s"] = round(pixels / 1e6 / max(seconds, 1e-9), 4)
    row |= {"peak_memory": peak, "peak_mib": None if peak is None else round(peak / 2**20, 1)}
    return row, made


def _add_fid(features: dict[Trial, list[tuple[Row, Arrays]]]) -> None:
    """One number for all pictures of a trial, written into each of its rows: the mean over the
    samples, each of which is a set as large as the real pictures'."""
    from upscale.metrics.fid import fid

    for measured in features.values():
        arrays = [a for row, a in measured if "error" not in row]
        real = [a["fid_real"] for a in arrays]
        each = [fid(made, real) for made in zip(*(a["fid_made"] for a in arrays), strict=True)]
        value = sum(each) / len(each) if each else math.nan
        for row, _ in measured:
            if "error" not in row:
                row["fid"] = value
