"""`diffsr bench --tune-schedule`: a search, its account, and the file it changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from upscale.bench.columns import COLUMNS
from upscale.cli.bench.run import put
from upscale.cli.options import path_of, some
from upscale.cli.progress import Reporter
from upscale.errors import UsageError

if TYPE_CHECKING:
    from upscale.bench.tune import Tuned


def tune_schedule(options: dict[str, Any]) -> int:
    """Search for the one step count and weights file given; 0 also where nothing better is."""
    weights, steps, scale, sampler = (
        _one(options, name) for name in ("weights", "steps", "scale", "sampler")
    )
    if weights is None or steps is None:
        raise UsageError("--tune-schedule needs --weights and --steps, one of each")
    from upscale.bench import testsets, tune
    from upscale.bench.score import default_metrics

    output = path_of(options["output"])
    tune.place_of(weights, output)  # before the work
    metrics = options["metrics"] or tuple(
        name for name in default_metrics() if name.startswith("lpips")
    )
    folder = testsets.find(options["dataset"], path_of(options["data"]))[1]
    with Reporter(quiet=options["quiet"]) as reporter:
        reporter.begin("searching")

        def show(done: int, of: int, best: float) -> None:
            reporter.step(done, of)
            reporter.line(f"{done}/{of} best so far: {best:.4f} of the present value")

        tuned = tune.tune(
            folder,
            weights,
            steps,
            metrics=metrics,
            scale=scale,
            sampler=sampler,
            on_step=show,
            **some(options, "candidates", "limit", "seed"),
            **some(options, "device", "dtype", "offline", "degradation"),
        )
        reporter.end()
        path = None
        if tuned.kept:
            path = tune.keep(tuned, weights, output)
        if options["json_file"]:
            told = {**asdict(tuned), "path": None if path is None else str(path)}
            put(json.dumps(told, indent=1), options["json_file"], reporter)
    if options["json_file"] != "-":
        click.echo("\n".join(_lines(tuned, path)))
    return 0


def _one(options: dict[str, Any], name: str) -> Any:
    """The value of an option that elsewhere takes several."""
    values = options[name] or (None,)
    if len(values) > 1:
        raise UsageError(f"--tune-schedule takes one --{name}")
    return values[0]


def _lines(tuned: Tuned, path: Path | None) -> list[str]:
    found = tuned.schedule
    levels = ", ".join(f"{sigma:.4g}" for sigma in found.sigmas)
    lines = [
        f"{found.steps} steps of {found.sampler}: sigma {levels}; temperature "
        f"{found.temperature:.3g}; the best of {tuned.tried}, on the pictures that did not "
        "choose it:"
    ]
    for name, change in tuned.change.items():
        digits = COLUMNS[name].digits
        lines.append(
            f"  {COLUMNS[name].title}: {tuned.before[name]:.{digits}f} -> "
            f"{tuned.after[name]:.{digits}f}, change {change.text(digits)}"
        )
    kept = f"stored in {path}" if path else "not better there: the weights are not changed"
    return [*lines, kept]
