"""`diffsr bench`: from options to a table of methods, and to files for other programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from upscale.bench.columns import DEFAULT_METRICS, METRICS
from upscale.cli.bench.run import compare_runs, compare_sets, html, markdown, put, run_bench
from upscale.cli.help import Command
from upscale.cli.options import (
    ANY_PATH,
    CONSISTENCY,
    CONTEXT,
    DEBUG,
    DEGRADATIONS,
    DEVICE,
    DOMAINS,
    DTYPE,
    GENERATING,
    METHODS,
    OFFLINE,
    PRESETS,
    QUIET,
    REGISTERED,
    SAMPLERS,
    SHIPPED,
    SPACINGS,
    Finite,
    Named,
    Several,
    dataset_names,
    option,
    weights_names,
)
from upscale.cli.progress import Reporter
from upscale.errors import InputError, OutputError, UsageError


@click.command(name="bench", cls=Command, context_settings=CONTEXT)
@option(
    "--dataset",
    metavar="DIR|NAME",
    help="Folder of pictures at full size, or one with HR/ and LRx4/, or the name of a set in "
    f"--data: {', '.join(REGISTERED)}. Default: {SHIPPED}, eight pictures that come with diffsr.",
    shell_complete=dataset_names,
)
@option("--data", metavar="DIR", type=ANY_PATH, help="Where the sets are that have names.")
@option(
    "--method",
    type=Several(Named(("auto", *METHODS), GENERATING), "METHOD"),
    default="bicubic,auto",
    help="What to measure; auto is what upscale takes by itself for each picture.",
)
@option(
    "--weights",
    type=Several(click.STRING, "NAME|FILE|hf:..."),
    shell_complete=weights_names,
    help="Each measured, with the method it is for; --method may add some without a network. "
    "Default: what fits method and scale.",
)
@option(
    "--degradation",
    type=Named(DEGRADATIONS),
    default="none",
    help="What the small pictures have gone through besides bicubic. peers: blurred before, then "
    "noise of 4/255 and JPEG 60.",
)
@option("--domain", type=Named(DOMAINS), default="photo", help="For choosing weights.")
@option(
    "--scale",
    type=Several(Finite(1, 16), "FLOAT"),
    default="4",
    help="Magnifications, each measured.",
)
@option(
    "--steps",
    type=Several(click.IntRange(1), "N"),
    help="Sampler steps, each measured. Default: the weights'.",
)
@option(
    "--sampler",
    type=Several(Named(SAMPLERS), "SAMPLER"),
    help="Samplers, each measured. Default: the weights'.",
)
@option(
    "--preset",
    type=Several(Named(PRESETS), "PRESET"),
    help="Rungs of the ladder of speed and quality, each measured, as in upscale.",
)
@option(
    "--temperature",
    type=Several(Finite(0, 10), "FLOAT"),
    help="Strengths of the noise, each measured. Default: the weights'.",
)
@option(
    "--parametrisation",
    type=Several(click.STRING, "NAME"),
    help="How ecdp's two heads are read (hybrid, hybrid:POWER, hybrid-eps, hybrid-x0), each "
    "measured. Default: the weights'.",
)
@option("--spacing", type=Named(SPACINGS), help="Of the noise levels. Default: the weights'.")
@option(
    "--one-stage",
    is_flag=True,
    help="Use the weights at this very scale, also where they were not trained for it.",
)
@option(
    "--consistency",
    type=Named(CONSISTENCY),
    help="Whether the result, shrunk, must equal the input. Default: the weights'.",
)
@option(
    "--metrics",
    type=Several(Named(tuple(METRICS)), "METRIC"),
    help=f"Of {', '.join(METRICS)}. Default: {','.join(DEFAULT_METRICS)}, "
    "without lpips_vgg where its weights are not.",
)
@option(
    "--outputs",
    metavar="DIR",
    multiple=True,
    type=ANY_PATH,
    help="Measure the pictures in DIR, made by any program and named as in --dataset. Again for "
    "another program; with --method or --weights, beside those.",
)
@option(
    "--unpaired",
    is_flag=True,
    help="Measure each --outputs as a set against the set that --dataset is, by FID alone: for "
    "pictures that were made from nothing (diffsr generate).",
)
@option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N pictures.")
@option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N", help="Of the samples.")
@option(
    "--samples",
    type=click.IntRange(1, 100),
    default=1,
    metavar="N",
    help="Samples of each picture: metrics are their means, and there is a diversity.",
)
@DEVICE
@DTYPE
@option("--save", metavar="DIR", type=ANY_PATH, help="Also write the enlarged pictures.")
@option(
    "--json",
    "json_file",
    metavar="FILE|-",
    type=ANY_PATH,
    help="Write all rows as JSON.",
)
@option(
    "--csv",
    "csv_file",
    metavar="FILE|-",
    type=ANY_PATH,
    help="Write all rows as CSV.",
)
@option(
    "--markdown",
    "markdown_file",
    metavar="FILE|-",
    type=ANY_PATH,
    help="Write the table of means as Markdown.",
)
@option(
    "--brief",
    is_flag=True,
    help="A table of metrics and network calls alone, the best in bold.",
)
@option(
    "--html",
    "html_file",
    metavar="FILE",
    type=ANY_PATH,
    help="Write a report with plots and pictures: one file that needs no other.",
)
@option(
    "--crop",
    type=click.IntRange(32, 1024),
    default=128,
    metavar="PIXELS",
    help="Side of the cuts that --html shows.",
)
@option(
    "--published",
    default="auto",
    metavar="auto|none|NAME,...",
    help="Tables from papers to show beside, marked as such. auto: in --html, those of the "
    "dataset and scale.",
)
@option(
    "--cache",
    metavar="DIR",
    type=ANY_PATH,
    help="Where rows are kept, so that a run that was killed goes on. Default: in the user's "
    "cache folder.",
)
@option("--no-cache", is_flag=True, help="Measure everything anew and keep nothing.")
@option(
    "--compare",
    metavar="A.json B.json",
    nargs=2,
    type=ANY_PATH,
    help="Measure nothing: what differs significantly between two runs' --json.",
)
@option(
    "--tune-schedule",
    is_flag=True,
    help="Search the noise levels for --steps with --weights, and store the best in the file.",
)
@option(
    "--candidates",
    type=click.IntRange(4, 10000),
    default=40,
    metavar="N",
    help="How many schedules --tune-schedule tries.",
)
@option(
    "-o",
    "--output",
    metavar="FILE",
    type=ANY_PATH,
    help="Of --tune-schedule: the file to write. Default: the weights' own.",
)
@OFFLINE
@QUIET
@DEBUG
@click.pass_context
def command(ctx: click.Context, **options: Any) -> int:
    """Measure methods on a folder of pictures.

    Every picture is cut so that the scale divides it, shrunk by Pillow's bicubic (unless the set
    has its small pictures itself), enlarged by every combination of method, weights, scale, sampler
    and steps, and compared with what it was. The table of means goes to standard output, unless
    something else is sent there.
    """
    targets = _targets(options)
    if options["compare"]:
        return compare_runs(options, targets)
    _check(ctx, options)
    if options["unpaired"]:
        return compare_sets(options, targets)
    if options["tune_schedule"]:
        from upscale.cli.bench.tune import tune_schedule

        return tune_schedule(options)
    shown: dict[int, Any] = {}
    with Reporter(quiet=options["quiet"]) as reporter:
        rows = run_bench(options, reporter, shown if "html" in targets else None)
    from upscale.bench import report

    texts: dict[str, Callable[[], str]] = {
        "json": lambda: report.to_json(rows),
        "csv": lambda: report.to_csv(rows),
        "markdown": lambda: markdown(rows, options),
        "html": lambda: html(rows, shown, options),
    }
    for kind, target in targets.items():
        put(texts[kind](), target, reporter)
    if "-" not in targets.values() and not options["quiet"]:
        if sys.stdout.isatty():
            _table(report.brief(rows) if options["brief"] else report.summary(rows))
        else:  # a file or a pipe has no width to fit
            click.echo(markdown(rows, options), nl=False)
    return 1 if any("error" in row for row in rows) else 0


def _check(ctx: click.Context, options: dict[str, Any]) -> None:
    """What can be known to be wrong before torch is loaded; and the methods that are meant."""
    for folder in options["outputs"]:
        if not Path(folder).is_dir():
            raise InputError(f"--outputs {folder}: there is no such folder")
    if options["data"] and not Path(options["data"]).is_dir():
        raise InputError(f"--data {options['data']}: there is no such folder")
    asked = ctx.get_parameter_source("method") is not ParameterSource.DEFAULT
    if not asked and (options["weights"] or options["outputs"]):
        options["method"] = ()
    if options["unpaired"]:
        if not options["outputs"] or not options["dataset"]:
            raise UsageError("--unpaired compares two sets: --dataset REAL --outputs MADE")
        if options["method"] or options["weights"] or options["metrics"] not in (None, ("fid",)):
            raise UsageError("--unpaired measures FID of --outputs; no --method, --weights, and no "
                             "other --metrics")  # fmt: skip
    if options["outputs"] and len(options["scale"]) > 1:
        raise UsageError("--outputs are of one --scale")


def _targets(options: dict[str, Any]) -> dict[str, str]:
    """Kind of text -> file, or - for standard output, which holds one."""
    targets = {
        kind: options[f"{kind}_file"]
        for kind in ("json", "csv", "markdown", "html")
        if options[f"{kind}_file"]
    }
    if targets.get("html") == "-":
        raise UsageError("--html needs a file: it is no text to read in a terminal")
    if list(targets.values()).count("-") > 1:
        raise UsageError("standard output holds one of --json, --csv and --markdown")
    for target in targets.values():  # hours of work should not end at a folder that is not there
        folder = Path(target).absolute().parent
        if target != "-" and not folder.is_dir():
            raise OutputError(f"{target}: there is no folder {folder}; make it first")
    return targets


def _table(rows: list[dict[str, Any]]) -> None:
    """The means, one line for every combination, columns as the rows have them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*(rows[0] if rows else ()), box=None)
    for row in rows:
        cells = [_cell(value) for value in row.values()]
        table.add_row(*(Text(c.strip("*"), "bold" if c.startswith("**") else "") for c in cells))
    Console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
